"""A network as a short list of steps: affine maps of earlier values, scalar functions of one, largest of a
window.

Values are numbered; value 0 is the input, the last one the output. Shapes are those of one example.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.verification.linear_maps import LinearMap, Shape, Values
from holdfast.verification.scalars import Scalar


@dataclass(frozen=True, kw_only=True)
class Source:
    """The input itself."""

    shape: Shape
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Affine:
    """``sum_k L_k v_(j_k) + offset``."""

    shape: Shape
    terms: tuple[tuple[int, LinearMap], ...]
    offset: Tensor | None

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(index for index, _ in self.terms)

    def shifted(self, values: Values) -> Values:
        """Values with the offset added."""
        return values if self.offset is None else values + self.offset


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A scalar function of every entry."""

    shape: Shape
    inputs: tuple[int, ...]
    scalar: Scalar


@dataclass(frozen=True, kw_only=True)
class Maximum:
    """The largest entry of each window: max-pooling over two dimensions."""

    shape: Shape
    inputs: tuple[int, ...]
    source: Shape
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def windows(self, values: Values, padded: float) -> Float[Tensor, "batch channels window places"]:
        """The entries of each window, with ``padded`` beyond the edges."""
        vertical, horizontal = self.padding
        wide = torch.nn.functional.pad(values, (horizontal, horizontal, vertical, vertical), value=padded)
        columns = torch.nn.functional.unfold(
            wide, self.kernel, dilation=self.dilation, padding=0, stride=self.stride
        )
        places = self.shape[1] * self.shape[2]
        size = math.prod(self.kernel)
        # Rounding the output size up adds windows that unfold lacks: `tracing` refuses those.
        return columns.reshape(len(values), self.shape[0], size, places)

    def gathered(self, columns: Float[Tensor, "batch channels window places"]) -> Values:
        """The transpose of `windows`: entries of windows added where they came from."""
        vertical, horizontal = self.padding
        height, width = self.source[1] + 2 * vertical, self.source[2] + 2 * horizontal
        flat = columns.reshape(len(columns), -1, columns.shape[-1])
        wide = torch.nn.functional.fold(
            flat, (height, width), self.kernel, dilation=self.dilation, stride=self.stride
        )
        return wide[..., vertical : height - vertical, horizontal : width - horizontal]


Step = Source | Affine | Unit | Maximum


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Steps in order of evaluation; the value of step ``k`` depends on earlier ones only."""

    steps: tuple[Step, ...]

    @property
    def outputs(self) -> int:
        """Numbers in one output."""
        return math.prod(self.steps[-1].shape)

    @property
    def last(self) -> int:
        return len(self.steps) - 1

    def __call__(self, x: Values) -> Values:
        """The network's outputs, by the steps."""
        values: list[Tensor] = []
        for step in self.steps:
            values.append(evaluate(step, [values[index] for index in step.inputs], x))
        return values[-1]

    @cached_property
    def linear(self) -> tuple[bool, ...]:
        """Whether each value is an affine function of the input."""
        known: list[bool] = []
        for step in self.steps:
            known.append(isinstance(step, Source | Affine) and all(known[index] for index in step.inputs))
        return tuple(known)

    @cached_property
    def rounding(self) -> float:
        """``gamma``: relative rounding of a sum of products along the longest way, in float64, with a factor
        4 to spare.

        A computed inner product of ``n`` terms, in any order and with or without fused operations, is off by
        at most ``n u / (1 - n u)`` times the sum of the terms' sizes, ``u = 2^-53`` (Higham 2002, section
        3.1).
        """
        terms = sum(
            max((linear.terms for _, linear in step.terms), default=1) + len(step.terms) + 1
            if isinstance(step, Affine)
            else 8
            for step in self.steps
        )
        return 4 * (terms + math.prod(self.steps[0].shape)) * 2.0**-53


def evaluate(step: Step, inputs: list[Tensor], x: Tensor) -> Tensor:
    """The value of one step."""
    match step:
        case Source():
            return x
        case Affine():
            parts = [linear.apply(value) for (_, linear), value in zip(step.terms, inputs, strict=True)]
            return step.shifted(total(parts))
        case Unit():
            return (step.scalar.computed or step.scalar.value)(inputs[0])
        case Maximum():
            return step.windows(inputs[0], -math.inf).amax(2).reshape(len(x), *step.shape)


def total(parts: list[Tensor]) -> Tensor:
    """The sum of tensors, at least one."""
    first, *rest = parts
    for part in rest:
        first = first + part
    return first
