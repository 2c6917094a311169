"""Inputs shifted and scaled channel by channel, as a layer, so that threats keep the units of the data."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._rules import real, several, takes
from holdfast.errors import InputError


@takes(mean=several(real()), std=several(real(above=0)))
class Normalize(nn.Module):
    """``(x - mean) / std`` for each channel, to be put in front of a network.

    Data that were normalised beforehand have no common box and another radius in every channel; behind this
    layer they are pixels, and a threat of ``linf:8/255`` is what it says.

    Args:
        mean: of each channel.
        std: standard deviation of each channel, > 0.

    Shapes: input and output (batch, channels, ...).

    Raises:
        InputError: unequal numbers of means and deviations; at a call, other channels than these.

    >>> net = nn.Sequential(Normalize((0.5,), (0.25,)), nn.Flatten(), nn.Linear(4, 3))
    >>> net[0](torch.ones(1, 1, 2, 2)).unique()
    tensor([2.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise InputError(
                f"mean and std must have one number a channel each, got {len(mean)} and {len(std)}; give "
                "both for every channel."
            )
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch channels ..."]:
        if x.ndim < 2 or x.shape[1] != len(self.mean):
            raise InputError(
                f"Normalize must be given {len(self.mean)} channels, got examples of shape "
                f"{tuple(x.shape[1:])}; give one mean and one std for each channel."
            )
        shape = (-1, *[1] * (x.ndim - 2))
        return (x - self.mean.reshape(shape)) / self.std.reshape(shape)
