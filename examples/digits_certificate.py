"""Train a robust network on handwritten digits, and read how far from the best possible it is."""

import matplotlib.pyplot as plt

import holdfast as hf

data = hf.data.digits(classes=(3, 8))
threat = hf.LpBall("2", 0.3, bounds=data.bounds, fixed=data.fixed)
model = hf.networks.TwoLayer(
    data.features,
    data.classes,
    width=500,
    scale=0.4,
    center=data.train.x.mean(0),
    constant=0.5,
)

run = hf.train(
    model,
    data,
    threat,
    attack=hf.PGD(steps=5),
    parameter_radius=20.0,
    epochs=20,
    seed=0,
    progress=False,
)

certificate = run.certificate
print(f"status             {certificate.status}")
print(f"loss under attack  {certificate.surrogate_loss:.4f}  (this network)")
print(f"lower bound        {certificate.lower_bound:.4f}  (any network of the ball)")
print(f"gap                {certificate.gap:.4f}")
print(
    f"robust accuracy    {run.summary['robust_accuracy']:.3f}   (test part, not broken)"
)

radii, bounds = zip(*certificate.at_radii, strict=True)
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.plot(radii, bounds, "o-", label="lower bound: no network of the ball is below")
axes.axhline(certificate.surrogate_loss, color="0.3", label="this network")
axes.set(xlabel="radius of the ball of weights", ylabel="robust loss", ylim=(0, None))
axes.legend(frameon=False)
figure.savefig("digits_certificate.svg")
