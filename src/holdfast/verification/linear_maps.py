"""Linear maps of one example's numbers, applied to a batch: forwards, with absolute entries, and transposed.

Bounds need these three: interval arithmetic applies ``|L|`` to radii, back-substitution applies ``L^T`` to
coefficients.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

Values = Float[Tensor, "batch ..."]
Shape = tuple[int, ...]

TERMS = 512  # summed in float32 before they are added to the rest: rounding grows with them


@dataclass(frozen=True, kw_only=True)
class LinearMap(ABC):
    """``L`` from numbers of shape ``source`` to numbers of shape ``target``.

    Attributes:
        source: shape of one example before.
        target: shape of one example after.
        terms: the most products summed for one entry of ``L v`` or of ``L^T a``: rounding grows with it.
    """

    source: Shape
    target: Shape
    terms: int

    @abstractmethod
    def apply(self, values: Values) -> Values:
        """``L v`` for each row."""

    @abstractmethod
    def apply_abs(self, values: Values) -> Values:
        """``|L| v`` for each row, entries of ``L`` replaced by their absolute values."""

    @abstractmethod
    def transpose(self, coefficients: Values) -> Values:
        """``L^T a`` for each row."""

    def rows(self, index: Int[Tensor, " rows"], like: Tensor) -> Values:
        """Rows ``L_i`` for flat indices ``i`` into the target, in the dtype and device of ``like``."""
        unit = like.new_zeros((len(index), math.prod(self.target)))
        unit.scatter_(1, index[:, None], 1.0)
        return self.transpose(unit.reshape(len(index), *self.target))


@dataclass(frozen=True, kw_only=True)
class MatrixMap(LinearMap):
    """``W v`` along the last dimension; ``weight`` is (outputs, inputs)."""

    weight: Float[Tensor, "outputs inputs"]

    @cached_property
    def single(self) -> list[Float[Tensor, "inputs terms"]]:
        """The transposed matrix in float32, in pieces of `TERMS` outputs: what products of that many terms
        read.
        """
        return [piece.T.float().contiguous() for piece in torch.split(self.weight, TERMS)]

    @cached_property
    def absolute(self) -> Float[Tensor, "outputs inputs"]:
        """``|W|``."""
        return self.weight.abs()

    def apply(self, values: Values) -> Values:
        return values @ self.weight.T

    def apply_abs(self, values: Values) -> Values:
        return values @ self.absolute.T

    def transpose(self, coefficients: Values) -> Values:
        return coefficients @ self.weight

    def rows(self, index: Int[Tensor, " rows"], like: Tensor) -> Values:
        return self.weight[index].to(like.dtype) if len(self.target) == 1 else super().rows(index, like)


@dataclass(frozen=True, kw_only=True)
class ConvolutionMap(LinearMap):
    """A convolution over one to three dimensions, without its bias."""

    weight: Tensor
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int

    def apply(self, values: Values) -> Values:
        return self._convolve(values, self.weight)

    def apply_abs(self, values: Values) -> Values:
        return self._convolve(values, self.weight.abs())

    def transpose(self, coefficients: Values) -> Values:
        # What a stride skips at the far edge takes no part in the output, so its coefficients are 0.
        left_over = [
            size - ((out - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
            for size, out, stride, padding, dilation, kernel in zip(
                self.source[1:],
                self.target[1:],
                self.stride,
                self.padding,
                self.dilation,
                self.weight.shape[2:],
                strict=True,
            )
        ]
        result: Tensor = torch.convolution(
            coefficients,
            self.weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            True,
            left_over,
            self.groups,
        )
        return result

    def _convolve(self, values: Values, weight: Tensor) -> Values:
        result: Tensor = torch.convolution(
            values,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
        )
        return result


@dataclass(frozen=True, kw_only=True)
class ScaleMap(LinearMap):
    """``c * v`` entry by entry; ``factor`` has the shape of one example or is one number."""

    factor: Tensor

    def apply(self, values: Values) -> Values:
        return values * self.factor

    def apply_abs(self, values: Values) -> Values:
        return values * self.factor.abs()

    def transpose(self, coefficients: Values) -> Values:
        return coefficients * self.factor


@dataclass(frozen=True, kw_only=True)
class MonotoneMap(LinearMap):
    """Anything linear with entries >= 0, given as a function of a batch: reshaping, slices, sums, means,
    padding.

    The transposed map is the function's own gradient, which does not depend on where it is taken.
    """

    function: Callable[[Tensor], Tensor]

    def apply(self, values: Values) -> Values:
        return self.function(values)

    def apply_abs(self, values: Values) -> Values:
        return self.function(values)

    def transpose(self, coefficients: Values) -> Values:
        start = coefficients.new_zeros((len(coefficients), *self.source))
        if not coefficients.requires_grad:
            with torch.enable_grad():
                start.requires_grad_(True)
                (result,) = torch.autograd.grad(self.function(start), start, coefficients)
            return result
        start.requires_grad_(True)
        (kept,) = torch.autograd.grad(self.function(start), start, coefficients, create_graph=True)
        return kept


@dataclass(frozen=True, kw_only=True)
class ReshapeMap(LinearMap):
    """The same numbers in the same order in another shape; also the identity."""

    def apply(self, values: Values) -> Values:
        return values.reshape(len(values), *self.target)

    def apply_abs(self, values: Values) -> Values:
        return self.apply(values)

    def transpose(self, coefficients: Values) -> Values:
        return coefficients.reshape(len(coefficients), *self.source)


def reshape(source: Shape, target: Shape) -> ReshapeMap:
    """A map that only changes the shape."""
    return ReshapeMap(source=source, target=target, terms=1)


def scale(factor: Tensor, shape: Shape) -> ScaleMap:
    """Multiplication of every entry by a constant of its own."""
    return ScaleMap(source=shape, target=shape, terms=1, factor=factor)
