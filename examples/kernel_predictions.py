"""What the kernel limit predicts for infinitely wide networks, and how close finite ones come."""

import matplotlib.pyplot as plt

import holdfast as hf

data = hf.data.digits(classes=(3, 8))
threat = hf.LpBall("2", 0.3, bounds=data.bounds, fixed=data.fixed)
x, y = data.train.x[:40], data.train.y[:40]


def network(width: int, seed: int = 0) -> hf.networks.TwoLayer:
    return hf.networks.TwoLayer(
        data.features,
        data.classes,
        width=width,
        scale=0.4,
        center=data.train.x.mean(0),
        constant=0.5,
        seed=seed,
    )


kernel = hf.theory.ntk(network(2))  # the same limit for every width
curve = hf.theory.optimal_robust_loss(kernel, x, y, threat, radii=[4, 8, 16])
low, high = float(curve.lower[1]), float(curve.upper[1])
print(f"best robust loss at radius 8: between {low:.4f} and {high:.4f}")

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.axhspan(low, high, alpha=0.5, label="best possible in the limit")
for width in (30, 100, 300, 1000, 3000):
    losses = []
    for seed in range(4):
        written = hf.theory.into_network(curve.solutions[1], network(width, seed))
        losses.append(float(hf.PGD(steps=20).run(written, x, y, threat).loss.mean()))
    print(
        f"written into {width:4} units: {min(losses):.4f} to {max(losses):.4f} under attack"
    )
    axes.semilogx([width] * len(losses), losses, "o", color="0.2")
axes.set(xlabel="width", ylabel="robust loss")
axes.legend(frameon=False)
figure.savefig("kernel_predictions.svg")
