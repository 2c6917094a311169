"""A convolutional network of your own in a training loop of your own, with Holdfast's attacks."""

import torch
from torch import nn

import holdfast as hf

data = hf.data.digits()
images, labels = data.train.x.reshape(-1, 1, 8, 8), data.train.y
threat = hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(128, 10),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
attack = hf.PGD(steps=3)
generator = torch.Generator().manual_seed(
    0
)  # one stream of random starts for the whole run

for epoch in range(8):
    total = 0.0
    for rows in torch.randperm(len(labels), generator=generator).split(128):
        x, y = images[rows], labels[rows]
        x = attack.run(model, x, y, threat, mode="train", generator=generator).x
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    print(f"epoch {epoch + 1}: loss under attack {total / len(labels):.3f}")

result = hf.evaluate(
    model,
    data.test.x.reshape(-1, 1, 8, 8)[:64],
    data.test.y[:64],
    threat,
    attacks="fast",
    verify="crown",
)
print(f"clean accuracy   {result.clean_accuracy:.3f}")
print(
    f"robust accuracy  between {result.verified_accuracy:.3f} (proved) and {result.robust_accuracy:.3f} (not broken)"
)
print(f"verdict          {result.verdict}")
