"""The seven-layer convolutional network of certified training."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._rules import FLAG, SEED, takes
from holdfast.networks._images import CHANNELS, CLASSES, SIZE, as_images, draw_weights


@takes(classes=CLASSES, channels=CHANNELS, size=SIZE, width=CHANNELS, batch_norm=FLAG, seed=SEED)
class CNN7(nn.Module):
    """Five 3x3 convolutions and two dense layers (Shi et al. 2021, arXiv 2103.17268).

    The convolutions have ``w, w, 2w, 2w, 2w`` channels, the third has stride 2; then come ``8 w`` ReLU units. Without
    batch norm it is the large network of Gowal et al. 2018, arXiv 1810.12715, and of CROWN-IBP.

    Args:
        classes: 2 classes have one signed output, more have one output a class.
        channels: channels of one image.
        size: height and width of one image.
        width: ``w``; 64 in the papers, 4 to 8 on a CPU.
        batch_norm: whether batch norm stands between each layer and its ReLU, as in Shi et al. 2021.
        seed: seed of the initial weights; the global random state is left alone.

    Shapes: input (batch, channels, size, size), or flattened; output (batch, outputs).

    >>> CNN7(10, channels=1, size=28, width=4)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        size: int = 32,
        width: int = 64,
        *,
        batch_norm: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.classes, self.channels, self.size = classes, channels, size
        self.width, self.batch_norm = width, batch_norm
        self.outputs = 1 if classes == 2 else classes
        layers: list[nn.Module] = []
        with torch.device("meta"):
            now = channels
            for wide, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1), (2 * width, 1)):
                layers.append(nn.Conv2d(now, wide, 3, stride, padding=1))
                layers += [nn.BatchNorm2d(wide), nn.ReLU()] if batch_norm else [nn.ReLU()]
                now = wide
            layers += [nn.Flatten(), nn.Linear(now * ((size + 1) // 2) ** 2, 8 * width)]
            layers += [nn.BatchNorm1d(8 * width), nn.ReLU()] if batch_norm else [nn.ReLU()]
            self.body = nn.Sequential(*layers, nn.Linear(8 * width, self.outputs))
        draw_weights(self, seed)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        logits: Tensor = self.body(as_images("CNN7", x, self.channels, self.size))
        return logits
