"""Outputs after a change of one window of the images, from what the layers put out before it: for searches
that change little at a time.

A window reaches a part of each convolution's output, a little larger from layer to layer, and adds to the
first dense layer what its own inputs changed by: the rest is known. The same numbers as a whole pass up to
rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from holdfast._products import product
from holdfast.acceleration.layers import (
    AffineLayer,
    Convolution,
    Flat,
    Layer,
    MaxPooling,
    Pointwise,
    Portions,
    Rectifier,
    Reshape,
    channels_last,
    run_values,
)
from holdfast.acceleration.recognise import Stack, closed_form

Images = Float[Tensor, "batch _ _ _"]
Span = tuple[int, int]
Area = tuple[Span, Span]
"""First row and the one after the last, first column and the one after the last."""

REFRESH = (
    100  # changes after which all is worked out anew, so that the dense layer's sums do not gather rounding
)


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """A layer that mixes pixels, and those that follow entry by entry."""

    mixing: Convolution | MaxPooling
    bends: tuple[Layer, ...]

    def whole(self, x: Images) -> Images:
        return run_values((self.mixing, *self.bends), x)

    def reached(self, area: Area, shape: torch.Size) -> Area:
        """The entries of the output, of this shape, that an area of the input has a say in."""
        height, width = (
            (
                max(0, -(-(first + padding - dilation * (size - 1)) // stride)),
                min(length, (end - 1 + padding) // stride + 1),
            )
            for (first, end), size, stride, padding, dilation, length in zip(
                area, *self._geometry(), shape[2:], strict=True
            )
        )
        return height, width

    def part(self, x: Images, area: Area, new: Images | None, within: Area) -> Images:
        """The output in ``area``, with ``new`` in place of the input in ``within``."""
        wanted, inside = [], []
        for (first, end), size, stride, padding, dilation, length in zip(
            area, *self._geometry(), x.shape[2:], strict=True
        ):
            low, high = first * stride - padding, (end - 1) * stride - padding + dilation * (size - 1) + 1
            wanted.append((low, high))
            inside.append((max(low, 0), min(high, length)))
        (top, bottom), (left, right) = inside
        crop = x[:, :, top:bottom, left:right]
        beyond = [
            step
            for (low, high), (a, b) in zip(wanted[::-1], inside[::-1], strict=True)
            for step in (a - low, high - b)
        ]
        crop = functional.pad(crop, beyond) if any(beyond) else crop.clone()
        if new is not None:
            # Of what changed, the part that this area looks at: all of it, as a rule.
            to, of = zip(
                *(_overlap(mine, span) for mine, span in zip(wanted, within, strict=True)), strict=True
            )
            crop[:, :, slice(*to[0]), slice(*to[1])] = new[:, :, slice(*of[0]), slice(*of[1])]
        mixing = replace(self.mixing, padding=(0, 0))
        return run_values((mixing, *self.bends), crop)

    def _geometry(self) -> tuple[Sequence[int], ...]:
        layer = self.mixing
        size = layer.size if isinstance(layer, MaxPooling) else (layer.weight.shape[2], layer.weight.shape[3])
        return size, layer.stride, layer.padding, layer.dilation


def _overlap(wanted: Span, changed: Span) -> tuple[Span, Span]:
    """What two spans share, counted from the start of either."""
    first, end = max(wanted[0], changed[0]), min(wanted[1], changed[1])
    return (first - wanted[0], end - wanted[0]), (first - changed[0], end - changed[0])


class Incremental:
    """The values of all layers at images that are changed window by window; made by `incremental`.

    Args:
        stages: layers that mix pixels, each with those that follow entry by entry.
        first: the first dense layer.
        rest: the layers after it.
        images: (batch, channels, height, width); the caller changes them in place.

    >>> import torch
    >>> import holdfast as hf
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 64))
    >>> images = torch.zeros(1000, 1, 8, 8)
    >>> values = hf.acceleration.incremental(net, images, images.shape[1:])
    >>> images[:, :, :2, :2] = 1.0
    >>> torch.allclose(values.propose(((0, 2), (0, 2))), net(images), atol=1e-5)
    True
    """

    _values: list[Images]
    _last: Images
    _sums: Float[Tensor, "batch units"]
    _proposed: Float[Tensor, "batch units"]

    def __init__(
        self, stages: Sequence[_Stage], first: AffineLayer, rest: Sequence[Layer], images: Images
    ) -> None:
        self._stages, self._first, self._rest = tuple(stages), first, tuple(rest)
        self._images = images
        self._refresh()

    @property
    def outputs(self) -> Float[Tensor, "batch outputs"]:
        """The outputs at the images as they are kept."""
        return run_values(self._rest, self._sums)

    def propose(self, area: Area) -> Float[Tensor, "batch outputs"]:
        """The outputs once the images, which are held by reference, were changed within ``area``."""
        self._changes += 1
        new: Images | None = None
        self._news: list[tuple[Area, Images]] = []
        before = self._images
        for stage, value in zip(self._stages, self._values, strict=True):
            within, area = area, stage.reached(area, value.shape)
            if any(first >= end for first, end in area):  # what no stride looks at
                self._proposed = self._sums
                return run_values(self._rest, self._proposed)
            new = stage.part(before, area, new, within)
            self._news.append((area, new))
            before = value
        rows, columns = (slice(*span) for span in area)
        if new is None:
            new = self._images[:, :, rows, columns]
        old = self._last[:, :, rows, columns]
        weight = self._first.weight.view(-1, *self._last.shape[1:])[:, :, rows, columns].reshape(
            len(self._first.weight), -1
        )
        self._proposed = self._sums + product((new - old).reshape(len(new), -1), weight)
        return run_values(self._rest, self._proposed)

    def keep(self, better: Bool[Tensor, " batch"]) -> None:
        """Go on from the last proposal in these rows, whose images stay changed; the others were put back."""
        if self._changes >= REFRESH:
            self._refresh()
            return
        index = better.nonzero().squeeze(1)
        if len(index) == 0:
            return
        self._sums[index] = self._proposed[index]
        for value, (area, new) in zip(self._values, self._news, strict=False):
            value[index, :, slice(*area[0]), slice(*area[1])] = new[index]
        if not self._stages:
            self._last[index] = self._images[index]

    def take(self, rows: Int[Tensor, " rows"], images: Images) -> None:
        """Go on with these rows alone; ``images`` are theirs."""
        self._images, self._sums = images, self._sums[rows]
        self._values = [channels_last(value[rows]) for value in self._values]
        self._last = self._values[-1] if self._stages else images.clone()

    def _refresh(self) -> None:
        self._changes, self._values = 0, []
        value = self._images
        for stage in self._stages:
            value = stage.whole(value)
            self._values.append(value)
        # Without convolutions the images themselves, of which those held may have changed since.
        self._last = value if self._stages else value.clone()
        self._sums = self._first.output(self._last.flatten(1))


def incremental(model: nn.Module, images: Images, shape: torch.Size) -> Incremental | None:
    """The layers' values at images, for changes of windows to come.

    ``None`` where there is no closed form or nothing to gain.

    Known are stacks (see `closed_form`) of convolutions and unpadded max-pooling, if any, then dense layers.
    The images are the points of `closed_form`, in the shape of images.

    Args:
        model: the network.
        images: (batch, channels, height, width); the caller changes them in place.
        shape: of one example as the model takes it.

    >>> import torch
    >>> import holdfast as hf
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 64))
    >>> images = torch.zeros(1000, 1, 8, 8)
    >>> values = hf.acceleration.incremental(net, images, images.shape[1:])
    >>> torch.allclose(values.outputs, net(images), atol=1e-5)
    True
    """
    points = images.reshape(-1, *shape)
    closed = closed_form(model, points)
    if not isinstance(closed, Stack):
        return None
    layers = [
        part
        for layer in closed.layers
        for part in (layer.layers if isinstance(layer, Portions) else (layer,))
    ]
    stages: list[_Stage] = []
    while layers:
        layer = layers.pop(0)
        match layer:
            case Reshape(shape=within) if not stages and within == images.shape[1:]:
                continue
            case Convolution() | MaxPooling():
                if isinstance(layer, MaxPooling) and (layer.ceil_mode or layer.padding != (0, 0)):
                    return None
                if not stages and shape != images.shape[1:] and not _reshaped(closed, images):
                    return None
                bends = []
                while layers and isinstance(layers[0], Rectifier | Pointwise):
                    bends.append(layers.pop(0))
                stages.append(_Stage(mixing=layer, bends=tuple(bends)))
            case Flat():
                continue
            case AffineLayer():
                return Incremental(stages, layer, [*map(_afresh, layers[:1]), *layers[1:]], images)
            case _:
                return None
    return None


def _reshaped(closed: Stack, images: Images) -> bool:
    """Whether the model itself begins by turning examples into these images."""
    first = closed.layers[0]
    first = first.layers[0] if isinstance(first, Portions) else first
    return isinstance(first, Reshape) and first.shape == images.shape[1:]


def _afresh(layer: Layer) -> Layer:
    """The layer, which leaves alone what it is given: that is kept here."""
    return replace(layer, in_place=False) if isinstance(layer, Rectifier) else layer
