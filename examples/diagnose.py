"""Find out why a network is not robust: train too little, then ask for a diagnosis."""

import torch

import holdfast as hf

data = hf.data.digits(classes=(3, 8))
threat = hf.LpBall("2", 0.3, bounds=data.bounds, fixed=data.fixed)
model = hf.networks.TwoLayer(
    data.features,
    data.classes,
    width=300,
    scale=0.4,
    center=data.train.x.mean(0),
    constant=0.5,
)
initial = {name: value.clone() for name, value in model.state_dict().items()}

optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
for _ in range(10):  # far too few steps, and without an attack
    optimizer.zero_grad()
    hf.CrossEntropy()(model(data.train.x), data.train.y).mean().backward()
    optimizer.step()

# Of all networks within distance 10 of the initial weights, how far is this one from the best?
found = hf.diagnose(
    model,
    data.train.x,
    data.train.y,
    threat,
    initial=initial,
    radius=10.0,
    test=(data.test.x, data.test.y),
)
print(found)
