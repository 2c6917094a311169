"""What the networks for images share: initial weights from a seed, and examples brought into the shape of images."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._memory import require_memory
from holdfast._rules import whole
from holdfast._tensors import generator
from holdfast.errors import InputError

CLASSES = whole(least=2, most=2**20)
CHANNELS = whole(least=1, most=2**14)
SIZE = whole(least=1, most=2**12)
DEPTH = whole(least=1, most=1000)
"""Of larger networks than these torch could not even count the weights."""


def draw_weights(network: nn.Module, seed: int, *, he: bool = False) -> None:
    """Give a network that was built on the meta device its memory and its initial weights, from ``seed``
    alone.

    Weights and biases start uniform in ``+-1 / sqrt(fan_in)``, torch's own default; with ``he`` those of
    convolutions are Gaussian of variance ``2 / fan_out`` (He et al. 2015). Normalisations start as the
    identity.

    Raises:
        InputError: the memory does not reach.
    """
    require_memory(
        sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers())),
        torch.device("cpu"),
        f"a {type(network).__name__}",
        "make it narrower",
    )
    network.to_empty(device="cpu")
    draw = generator(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and he:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=draw)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            reach = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -reach, reach, generator=draw)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            layer.reset_parameters()


def as_images(
    network: str, x: Float[Tensor, "batch ..."], channels: int, size: int | None = None
) -> Float[Tensor, "batch channels height width"]:
    """Examples as images of so many channels; flattened ones as squares.

    Args:
        network: its name, for the message.
        x: images or rows.
        channels: of one image.
        size: height and width of one image; ``None`` for any.

    Raises:
        InputError: they are no such images.
    """
    shape = tuple(x.shape[1:])
    if len(shape) == 1 and shape[0] % channels == 0:
        side = size or math.isqrt(shape[0] // channels)
        if channels * side * side == shape[0]:
            return x.reshape(x.shape[0], channels, side, side)
    if len(shape) != 3 or shape[0] != channels or (size is not None and shape[1:] != (size, size)):
        wanted = f"({channels}, {size or 'height'}, {size or 'width'})"
        raise InputError(
            f"{network} must be given images of shape {wanted}, got examples of shape {shape}; build it for "
            "these images, or reshape them."
        )
    return x
