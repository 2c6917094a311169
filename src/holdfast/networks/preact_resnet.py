"""The residual network of robust training on small images: ResNet-18 with pre-activation."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._rules import SEED, several, takes
from holdfast.errors import InputError
from holdfast.networks._images import CHANNELS, CLASSES, DEPTH, as_images, draw_weights
from holdfast.networks._residual import stage

STAGES = 8


@takes(classes=CLASSES, channels=CHANNELS, width=CHANNELS, blocks=several(DEPTH), seed=SEED)
class PreActResNet(nn.Module):
    """Residual network with batch norm and ReLU before each convolution (He et al. 2016, arXiv 1603.05027).

    The default is ResNet-18 for 32x32 images, as robust training uses it (Rice et al. 2020). Stage ``s = 0, 1, ..`` has ``2^s width`` channels and, but for the first, half the height and width of the
    one before. The parameters have the names of published checkpoints (RobustBench), which
    `holdfast.external.load_model` reads.

    Args:
        classes: 2 classes have one signed output, more have one output a class.
        channels: channels of one image.
        width: channels of the first stage; 64 in the paper, 16 trains on a CPU.
        blocks: residual blocks of each stage.
        seed: seed of the initial weights; the global random state is left alone.

    Shapes: input (batch, channels, height, width), or flattened squares; output (batch, outputs).

    Raises:
        InputError: more than 8 stages.

    >>> PreActResNet(10, width=4)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(blocks) > STAGES:
            raise InputError(
                f"blocks must name at most {STAGES} stages, since each doubles the channels, got {len(blocks)}; "
                "put more blocks into fewer stages."
            )
        self.classes, self.channels, self.width, self.blocks = classes, channels, width, tuple(blocks)
        self.outputs = 1 if classes == 2 else classes
        with torch.device("meta"):
            self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            now = width
            for number, count in enumerate(self.blocks):
                wide = width * 2**number
                self.add_module(
                    f"layer{number + 1}", stage(now, wide, count, 2 if number else 1, shortcut="shortcut.0")
                )
                now = wide
            self.bn = nn.BatchNorm2d(now)
            self.linear = nn.Linear(now, self.outputs)
        draw_weights(self, seed, he=True)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        x = self.conv1(as_images("PreActResNet", x, self.channels))
        for number in range(len(self.blocks)):
            x = self.get_submodule(f"layer{number + 1}")(x)
        logits: Tensor = self.linear(torch.relu(self.bn(x)).mean((2, 3)))
        return logits
