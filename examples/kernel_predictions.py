"""What the kernel limit predicts for infinitely wide networks, and how close finite ones come."""

import matplotlib.pyplot as plt

import holdfast as hf

data = hf.data.digits(classes=(3, 8))
threat = hf.LpBall("2", 0.3, bounds=data.bounds, fixed=data.fixed)
x, y = data.train.x[:40], data.train.y[:40]


def network(width: int) -> hf.networks.TwoLayer:
    return hf.networks.TwoLayer(
        data.features,
        data.classes,
        width=width,
        scale=0.4,
        center=data.train.x.mean(0),
        constant=0.5,
    )


kernel = hf.theory.ntk(network(2))  # the same limit for every width
curve = hf.theory.optimal_robust_loss(kernel, x, y, threat, radii=[4, 8, 16])
print(
    f"best robust loss at radius 8: between {curve.lower[1]:.4f} and {curve.upper[1]:.4f}"
)

widths, losses = (30, 100, 300, 1000), []
for width in widths:
    written = hf.theory.into_network(curve.solutions[1], network(width))
    losses.append(float(hf.PGD(steps=20).run(written, x, y, threat).loss.mean()))
    print(f"that solution, written into {width:4} units: {losses[-1]:.4f} under attack")

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.semilogx(widths, losses, "o-", label="networks of finite width, under attack")
axes.axhspan(
    float(curve.lower[1]),
    float(curve.upper[1]),
    alpha=0.5,
    label="best possible in the limit",
)
axes.set(xlabel="width", ylabel="robust loss")
axes.legend(frameon=False)
figure.savefig("kernel_predictions.svg")
