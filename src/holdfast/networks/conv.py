"""The convolutional network of the MNIST challenge, for comparison with the adversarial-training
literature.
"""

from jaxtyping import Float
from torch import Tensor, nn

from holdfast._rules import COUNT, SEED, takes, whole
from holdfast._tensors import generator
from holdfast.errors import InputError


@takes(classes=whole(least=2), channels=COUNT, size=whole(least=4), seed=SEED)
class MNISTConv(nn.Module):
    """Two 5x5 convolutions, each with ReLU and 2x2 max-pooling, then 1024 ReLU units (Madry et al. 2018).

    The convolutions have 32 and 64 channels.

    Weights and biases start uniform in ``+-1 / sqrt(fan_in)``, torch's own default, but drawn from ``seed``
    alone.

    Args:
        classes: 2 classes have one signed output, more have one output per class.
        channels: channels of one image.
        size: height and width of one image; a multiple of 4, since it is halved twice.
        seed: seed of the initial weights; the global random state is left alone.

    Shapes: input (batch, channels, size, size), or flattened; output (batch, outputs).

    >>> import torch
    >>> import holdfast as hf
    >>> net = hf.networks.MNISTConv(classes=3, size=8)
    >>> net(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(self, classes: int = 10, channels: int = 1, size: int = 28, *, seed: int = 0) -> None:
        super().__init__()
        if size % 4:
            raise InputError(
                f"size must be a multiple of 4 (it is halved twice), got {size}; pad the images."
            )
        self.classes, self.channels, self.size = classes, channels, size
        self.features = channels * size * size
        self.outputs = 1 if classes == 2 else classes
        # meta: torch's own initialisation would draw from the global random state
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2, device="meta"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2, device="meta"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (size // 4) ** 2, 1024, device="meta"),
            nn.ReLU(),
            nn.Linear(1024, self.outputs, device="meta"),
        ).to_empty(device="cpu")
        draw = generator(seed)
        for layer in self.body:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                reach = layer.weight[0].numel() ** -0.5
                for parameter in layer.parameters():
                    nn.init.uniform_(parameter, -reach, reach, generator=draw)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        logits: Tensor = self.body(x.reshape(x.shape[0], self.channels, self.size, self.size))
        return logits
