"""Ask the theory for a radius and a width before training, then train with them."""

import matplotlib.pyplot as plt

import holdfast as hf

data = hf.data.digits(classes=(3, 8))
threat = hf.LpBall("2", 0.3, bounds=data.bounds, fixed=data.fixed)

plan = hf.plan(data, threat, radii=[1, 4, 16], examples=20, seed=0, progress=False)
for radius, low, high in zip(
    plan.robust.radii, plan.robust.lower, plan.robust.upper, strict=True
):
    print(
        f"radius {radius:4.0f}: the best robust loss lies between {low:.3f} and {high:.3f}"
    )
print(f"radius to ask for: {plan.radius:.1f}; width to ask for: {plan.width}")

model = hf.networks.TwoLayer(
    data.features,
    data.classes,
    width=plan.width or 500,
    scale=0.4,
    center=data.train.x.mean(0),
    constant=0.5,
)
run = hf.train(
    model,
    data,
    threat,
    attack=hf.PGD(steps=5),
    parameter_radius=plan.radius,
    epochs=6,
    seed=0,
    progress=False,
)
print(
    f"trained: loss {run.certificate.surrogate_loss:.3f}, gap {run.certificate.gap:.4f}, {run.certificate.status}"
)

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.fill_between(
    plan.robust.radii,
    plan.robust.lower,
    plan.robust.upper,
    alpha=0.4,
    label="best robust loss",
)
axes.plot(plan.robust.radii, plan.robust.upper, "o-")
axes.axvline(plan.radius, color="0.5", linestyle=":", label="radius to ask for")
axes.set(
    xlabel="radius of the ball of weights",
    ylabel="robust loss",
    xscale="log",
    ylim=(0, None),
)
axes.legend(frameon=False)
figure.savefig("plan_then_train.svg")
