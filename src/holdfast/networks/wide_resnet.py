"""Wide residual networks, the large networks of the robustness leaderboards."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._rules import SEED, takes, whole
from holdfast.errors import InputError
from holdfast.networks._images import CHANNELS, CLASSES, as_images, draw_weights
from holdfast.networks._residual import stage


@takes(
    classes=CLASSES,
    channels=CHANNELS,
    depth=whole(least=10, most=1000),
    widen=whole(least=1, most=1000),
    seed=SEED,
)
class WideResNet(nn.Module):
    """Residual network of three stages, wide rather than deep (Zagoruyko and Komodakis 2016, arXiv 1605.07146).

    The stages have ``16 widen``, ``32 widen`` and ``64 widen`` channels and ``(depth - 4) / 6`` blocks each. The parameters have the names of published checkpoints (TRADES, RobustBench), which
    `holdfast.external.load_model` reads.

    Args:
        classes: 2 classes have one signed output, more have one output a class.
        channels: channels of one image.
        depth: layers, ``6 n + 4``: 34 is usual in robust training, 10 the smallest.
        widen: factor on the channels: 10 is usual, 1 trains on a CPU.
        seed: seed of the initial weights; the global random state is left alone.

    Shapes: input (batch, channels, height, width), or flattened squares; output (batch, outputs).

    Raises:
        InputError: a depth that is not ``6 n + 4``.

    >>> WideResNet(10, depth=10, widen=1)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, classes: int, channels: int = 3, depth: int = 34, widen: int = 10, *, seed: int = 0
    ) -> None:
        super().__init__()
        if (depth - 4) % 6:
            near = max(10, 6 * round((depth - 4) / 6) + 4)
            raise InputError(
                f"depth must be 6 n + 4 (three stages of n blocks of two layers), got {depth}; ask for {near}."
            )
        self.classes, self.channels, self.depth, self.widen = classes, channels, depth, widen
        self.outputs = 1 if classes == 2 else classes
        with torch.device("meta"):
            self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
            now = 16
            for number in range(3):
                wide = 16 * widen * 2**number
                blocks = stage(now, wide, (depth - 4) // 6, 2 if number else 1, shortcut="convShortcut")
                self.add_module(f"block{number + 1}", nn.ModuleDict({"layer": blocks}))
                now = wide
            self.bn1 = nn.BatchNorm2d(now)
            self.fc = nn.Linear(now, self.outputs)
        draw_weights(self, seed, he=True)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        x = self.conv1(as_images("WideResNet", x, self.channels))
        for number in range(3):
            x = self.get_submodule(f"block{number + 1}.layer")(x)
        logits: Tensor = self.fc(torch.relu(self.bn1(x)).mean((2, 3)))
        return logits
