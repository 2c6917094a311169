"""Closed forms of single layers: outputs, and the gradient pushed back from them to the inputs.

``forward`` returns the output and what ``backward`` needs. Every tensor after the first input belongs to the
stack that runs the layers, so ``backward`` may overwrite the gradient it is given. Backward formulas are
torch's own operators: at kinks and in ties the gradient is autograd's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from holdfast._products import product

ops = torch.ops.aten
Pair = tuple[int, int]

# Up to here oneDNN's input gradient of a convolution takes 3 to 13 times as long as torch's own.
NATIVE_CHANNELS = 4

# Images a thread handles at a time: their activations stay cached, and small buffers are not given back to
# the system.
IMAGES = 32


class Layer(ABC):
    """A map of a batch with its transposed derivative."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The output, and what `backward` needs of this pass."""

    def output(self, x: Tensor) -> Tensor:
        """The output alone, where no gradient is wanted."""
        return self.forward(x)[0]

    @abstractmethod
    def backward(self, gradient: Tensor, kept: Any) -> Tensor:
        """The gradient in the input, given the gradient in the output."""


def run_forward(layers: Sequence[Layer], x: Tensor) -> tuple[Tensor, list[Any]]:
    """The output of the last layer, and what each kept."""
    kept = []
    for layer in layers:
        x, own = layer.forward(x)
        kept.append(own)
    return x, kept


def run_values(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """The output of the last layer, with nothing kept."""
    for layer in layers:
        x = layer.output(x)
    return x


def run_backward(layers: Sequence[Layer], gradient: Tensor, kept: Sequence[Any]) -> Tensor:
    """The gradient in the first layer's input."""
    for layer, own in zip(reversed(layers), reversed(kept), strict=True):
        gradient = layer.backward(gradient, own)
    return gradient


@dataclass(frozen=True, kw_only=True)
class AffineLayer(Layer):
    """``x W^T + b``."""

    weight: Tensor
    bias: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return product(x, self.weight, self.bias), None

    def backward(self, gradient: Tensor, kept: None) -> Tensor:
        return product(gradient, self.weight.T)


@dataclass(frozen=True, kw_only=True)
class Rectifier(Layer):
    """``max(x, 0)``, slope 0 at 0; ``in_place`` where nobody else needs ``x``."""

    in_place: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu_(x) if self.in_place else torch.relu(x)
        return y, y

    def backward(self, gradient: Tensor, kept: Tensor) -> Tensor:
        result: Tensor = ops.threshold_backward.grad_input(gradient, kept, 0, grad_input=gradient)
        return result


@dataclass(frozen=True, kw_only=True)
class Pointwise(Layer):
    """``value(x)`` entry by entry; ``back(gradient, x, y)`` multiplies by the slope."""

    value: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor, Tensor], Tensor]

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.value(x)
        return y, (x, y)

    def backward(self, gradient: Tensor, kept: tuple[Tensor, Tensor]) -> Tensor:
        return self.back(gradient, *kept)


@dataclass(frozen=True, kw_only=True)
class Reshape(Layer):
    """Each example in another shape."""

    shape: tuple[int, ...]

    def forward(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        return x.reshape(len(x), *self.shape), x.shape

    def backward(self, gradient: Tensor, kept: torch.Size) -> Tensor:
        return gradient.reshape(kept)


@dataclass(frozen=True, kw_only=True)
class Flat(Layer):
    """Each example as a row."""

    def forward(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        return x.flatten(1), x.shape

    def backward(self, gradient: Tensor, kept: torch.Size) -> Tensor:
        return gradient.reshape(kept)


@dataclass(frozen=True, kw_only=True)
class Convolution(Layer):
    """A two-dimensional convolution with zero padding; in float32 channels come last in memory, as oneDNN
    likes them.
    """

    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def native_backward(self) -> bool:
        """Whether the input gradient is torch's own operator, which wants channels first in memory and
        reads only the input's shape.
        """
        channels, grouped = self.weight.shape[1], self.groups > 1
        return channels <= NATIVE_CHANNELS and not grouped and self.dilation == (1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = channels_last(x)
        y = functional.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        return y, x

    def backward(self, gradient: Tensor, kept: Tensor) -> Tensor:
        result: Tensor
        if self.native_backward:
            result, _, _ = ops._slow_conv2d_backward.output_mask(
                gradient.contiguous(),
                gradient.new_empty(kept.shape),
                self.weight,
                self.weight.shape[2:],
                self.stride,
                self.padding,
                (True, False, False),
            )
        else:
            result, _, _ = ops.convolution_backward(
                channels_last(gradient),
                kept,
                self.weight,
                None,
                self.stride,
                self.padding,
                self.dilation,
                False,
                (0, 0),
                self.groups,
                (True, False, False),
            )
        return result


@dataclass(frozen=True, kw_only=True)
class Portions(Layer):
    """Layers run on a few images at a time."""

    layers: tuple[Layer, ...]

    def forward(self, x: Tensor) -> tuple[Tensor, list[list[Any]]]:
        runs = [run_forward(self.layers, part) for part in _portions(x)]
        return torch.cat([y for y, _ in runs]), [kept for _, kept in runs]

    def output(self, x: Tensor) -> Tensor:
        return torch.cat([run_values(self.layers, part) for part in _portions(x)])

    def backward(self, gradient: Tensor, kept: list[list[Any]]) -> Tensor:
        parts = zip(_portions(gradient), kept, strict=True)
        return torch.cat([run_backward(self.layers, part, own) for part, own in parts])


def _portions(x: Tensor) -> Sequence[Tensor]:
    return torch.split(x, IMAGES * torch.get_num_threads())


@dataclass(frozen=True, kw_only=True)
class MaxPooling(Layer):
    """The largest entry of each window; in ties the first has the slope, as in torch.

    ``channels_first``: the gradient is handed on with its channels first in memory, while it is still small.
    """

    size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool
    channels_first: bool = False

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = channels_last(x)
        y, where = ops.max_pool2d_with_indices(
            x, self.size, self.stride, self.padding, self.dilation, self.ceil_mode
        )
        return y, (x, where)

    def output(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(
            channels_last(x), self.size, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def backward(self, gradient: Tensor, kept: tuple[Tensor, Tensor]) -> Tensor:
        x, where = kept
        if self.channels_first:
            gradient, where = gradient.contiguous(), where.contiguous()
            x = x.new_empty(1).expand(x.shape)  # only its shape is read
        else:
            gradient = channels_last(gradient)
        result: Tensor = ops.max_pool2d_with_indices_backward(
            gradient, x, self.size, self.stride, self.padding, self.dilation, self.ceil_mode, where
        )
        return result


def channels_last(x: Tensor) -> Tensor:
    """Images with channels last in memory; those of one channel only say so, which is what picks the
    faster kernel.
    """
    if x.dtype != torch.float32:  # torch's own kernels, to which the order makes no difference
        return x.contiguous()
    if x.shape[1] == 1:
        x = x.contiguous()
        height, width = x.shape[2:]
        return x.as_strided(x.shape, (height * width, 1, width, 1))
    return x.contiguous(memory_format=torch.channels_last)
