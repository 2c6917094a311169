"""Train at several widths and watch the certified gap close."""

import matplotlib.pyplot as plt

import holdfast as hf

data = hf.data.digits(classes=(3, 8))
threat = hf.LpBall("2", 0.3, bounds=data.bounds, fixed=data.fixed)
widths = (20, 100, 400)
gaps = []

for width in widths:
    model = hf.networks.TwoLayer(
        data.features,
        data.classes,
        width=width,
        scale=0.4,
        center=data.train.x.mean(0),
        constant=0.5,
    )
    run = hf.train(
        model,
        data,
        threat,
        attack=hf.PGD(steps=2),
        parameter_radius=10.0,
        epochs=5,
        seed=0,
        progress=False,
    )
    gaps.append(run.certificate.gap)
    print(
        f"width {width:4}: loss {run.certificate.surrogate_loss:.4f}, gap {gaps[-1]:.4f}, {run.certificate.status}"
    )

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.loglog(widths, gaps, "o-")
axes.set(xlabel="width", ylabel="certified gap")
figure.savefig("widths.svg")
