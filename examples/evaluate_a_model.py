"""Evaluate a network that somebody else trained, and notice when the attacks cannot be trusted."""

import torch
from torch import nn

import holdfast as hf

data = hf.data.digits()
threat = hf.LpBall("inf", 0.05, bounds=data.bounds)
x, y = data.test.x[:100], data.test.y[:100]


def trained() -> nn.Module:
    """Stands for the network from elsewhere: trained without an attack, so hardly robust."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(data.features, 64), nn.ReLU(), nn.Linear(64, data.classes)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data.train.x), data.train.y).backward()
        optimizer.step()
    return net.eval()


class Rounded(nn.Module):
    """The same network behind a rounding of its inputs: gradients vanish, robustness does not appear."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x * 16).round() / 16)


net = trained()
for name, model, verify in (
    ("as it is", net, "auto"),
    ("behind rounding", Rounded(net), None),
):
    attacks = hf.PGD(steps=20) if name == "behind rounding" else "fast"
    result = hf.evaluate(model, x, y, threat, attacks=attacks, verify=verify)
    print(
        f"{name}: clean accuracy {result.clean_accuracy:.2f}, not broken {result.robust_accuracy:.2f}, ",
        end="",
    )
    print(f"proved {result.verified_accuracy:.2f}, verdict: {result.verdict}")
    for warning in result.warnings or ():
        print(f"  {warning.name}: {warning.sentence}")
