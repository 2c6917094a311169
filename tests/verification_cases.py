"""Networks of many shapes for the tests of verified bounds, and an independent way to their margins."""

import torch
from torch import nn

import holdfast as hf


class Residual(nn.Module):
    """Tensor code with a skip connection, constants and a concatenation."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(33, 3)
        self.register_buffer("shift", torch.full((16,), 0.3))

    def forward(self, x):
        x = (x.flatten(1) - self.shift) / 0.5
        hidden = torch.relu(self.first(x)) + x
        other = torch.tanh(self.second(hidden)) - 0.5 * hidden
        return self.last(torch.cat([hidden, other, torch.full_like(hidden[:, :1], 0.7)], 1))


def _dense(*activations, widths=(16, 14, 12, 10, 3)):
    layers = [nn.Flatten()]
    for before, after, activation in zip(widths, widths[1:], (*activations, None), strict=False):
        layers += [nn.Linear(before, after)] + ([activation] if activation is not None else [])
    return nn.Sequential(*layers)


def _conv(pool):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        pool,
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Dropout(0.5),
        nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


NETWORKS = {
    "relu": lambda: _dense(nn.ReLU(), nn.ReLU(), nn.ReLU()),
    "leaky": lambda: _dense(nn.LeakyReLU(0.1), nn.ELU(), nn.Hardtanh()),
    "smooth": lambda: _dense(nn.GELU(), nn.Tanh(), nn.SiLU()),
    "softplus": lambda: _dense(nn.Softplus(), nn.Sigmoid(), nn.Softplus(beta=2.0)),
    "max pool": lambda: _conv(nn.MaxPool2d(2)),
    "overlapping max pool": lambda: _conv(nn.MaxPool2d(3, stride=1, padding=1)),
    "average pool": lambda: _conv(nn.AvgPool2d(2)),
    "residual": Residual,
    "two-layer": lambda: hf.networks.TwoLayer(
        16, 3, width=60, constant=0.5, scale=0.7, center=torch.full((16,), 0.5)
    ),
    "two-layer erf": lambda: hf.networks.TwoLayer(16, 2, width=40, activation="erf"),
    "two-layer relu2": lambda: hf.networks.TwoLayer(16, 3, width=60, activation="relu2"),
    "dense": lambda: hf.networks.Dense(16, 3, width=16, depth=2, activation="relu"),
    "mnist conv": lambda: hf.networks.MNISTConv(3, channels=1, size=4),
}

BALLS = [
    hf.LpBall("inf", 0.05, bounds=(0.0, 1.0)),
    hf.LpBall("2", 0.2, bounds=(0.0, 1.0)),
    hf.LpBall("1", 0.5, bounds=(0.0, 1.0)),
    hf.LpBall("2", 0.2),
]


def network(name, seed=0):
    """One of `NETWORKS` in float64 and evaluation mode, its weights away from their start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = NETWORKS[name]().double().eval()
        with torch.no_grad():
            for value in (*net.parameters(), *net.buffers()):
                if value.is_floating_point() and value.ndim > 0 and not isinstance(net, Residual):
                    value.add_(0.05 * torch.rand_like(value))
    return net


def examples(count=4, seed=1):
    """Images of 4 x 4 pixels in [0, 1], a few pixels on the edge."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 4, 4, dtype=torch.float64, generator=generator)
    x[:, 0, 0, :2] = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return x


def margins(outputs, y):
    """``z_y - z_j``, 0 at the label; ``sign f`` for one output."""
    if outputs.shape[1] == 1:
        return outputs * (2 * y - 1)[:, None]
    return outputs.gather(1, y[:, None]) - outputs


def predictions(net, x):
    outputs = net(x).detach()
    return outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()
