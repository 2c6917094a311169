"""The block that residual networks with pre-activation are made of."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """``s(x) + conv2(relu(bn2(conv1(relu(bn1(x))))))``; where the shape changes, ``s`` is a 1x1 convolution of
    ``relu(bn1(x))``, else the identity (He et al. 2016, arXiv 1603.05027).

    Args:
        inputs, outputs: channels.
        stride: of ``conv1`` and of ``s``.
        shortcut: name of that convolution, which published checkpoints do not agree on.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, shortcut: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut_name = shortcut if stride > 1 or inputs != outputs else ""
        if self.shortcut_name:
            name, _, inner = shortcut.partition(".")
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.add_module(name, nn.ModuleDict({inner: projection}) if inner else projection)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        active = torch.relu(self.bn1(x))
        kept = self.get_submodule(self.shortcut_name)(active) if self.shortcut_name else x
        changed: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return kept + changed


def stage(inputs: int, outputs: int, blocks: int, stride: int, *, shortcut: str) -> nn.Sequential:
    """Blocks in sequence, the first of which changes the shape."""
    first = PreActBlock(inputs, outputs, stride, shortcut=shortcut)
    return nn.Sequential(
        first, *(PreActBlock(outputs, outputs, 1, shortcut=shortcut) for _ in range(blocks - 1))
    )
