"""Tabular data: every feature has its own range, and some may not change."""

import torch
from sklearn.datasets import load_breast_cancer

import holdfast as hf

table = load_breast_cancer()
x = torch.tensor(table.data, dtype=torch.float32)
x = (x - x.mean(0)) / x.std(
    0
)  # in standard deviations, so that one radius means the same for every feature

# Suppose that the ten mean values are measured twice and cannot be tampered with; the other twenty can.
fixed = torch.tensor([str(name).startswith("mean") for name in table.feature_names])
low, high = x.min(0).values, x.max(0).values

data = hf.data.from_tensors(
    x, table.target, bounds=(low, high), fixed=fixed, name="breast cancer"
)
threat = hf.LpBall("inf", 0.2, bounds=data.bounds, fixed=data.fixed)
model = hf.networks.TwoLayer(
    data.features, data.classes, width=200, scale=0.2, constant=0.5
)
run = hf.train(
    model,
    data,
    threat,
    attack=hf.PGD(steps=5),
    parameter_radius=5.0,
    epochs=20,
    seed=0,
    progress=False,
)

result = hf.evaluate(
    model, data.test.x, data.test.y, threat, attacks="fast", verify="auto"
)
print(f"clean accuracy    {result.clean_accuracy:.3f}")
print(
    f"robust accuracy   between {result.verified_accuracy:.3f} and {result.robust_accuracy:.3f}"
)
print(
    f"certificate       {run.certificate.status}, robust loss at least {run.certificate.lower_bound:.4f}, gap {run.certificate.gap:.4f}"
)

change = (result.x - data.test.x).abs()
print(
    f"largest change    {change[:, ~fixed].max():.2f} where features may change, {change[:, fixed].max():.2f} where not"
)
