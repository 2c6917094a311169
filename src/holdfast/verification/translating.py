"""What translations of operations share: recording affine steps, constants, broadcasting."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.verification.graph import Affine
from holdfast.verification.linear_maps import LinearMap, MonotoneMap, Shape, reshape, scale
from holdfast.verification.recording import Tracer, shape_of

Arguments = Sequence[Any]
Options = dict[str, Any]


def affine(
    tracer: Tracer, out: Tensor, terms: Sequence[tuple[int, LinearMap]], offset: Tensor | None = None
) -> int:
    """Record a step shaped like ``out``; returns the number of its value."""
    return tracer.record(Affine(shape=shape_of(out), terms=tuple(terms), offset=offset))


def value(tracer: Tracer, tensor: object) -> int:
    """The number of a tensor's value, which must depend on the input."""
    number = tracer.number(tensor)
    if number is None:
        raise tracer.refuse("an operation whose first argument is a constant")
    return number


def constant(tracer: Tracer, value: object, out: Tensor) -> Tensor:
    """A constant for one example in the shape of the result; the same in every row, or refused."""
    wide = torch.as_tensor(value, dtype=out.dtype, device=out.device).expand(out.shape)
    if not torch.equal(wide[:1].expand_as(wide), wide):
        raise tracer.refuse("a constant that differs from row to row")
    return wide[0].clone()


def _widened(source: Shape, target: Shape) -> LinearMap:
    if source == target:
        return reshape(source, target)
    return MonotoneMap(
        source=source,
        target=target,
        terms=max(1, math.prod(target) // max(1, math.prod(source))),
        function=lambda v: v.expand(len(v), *target),
    )


def widen(tracer: Tracer, tensor: Tensor, out: Tensor) -> int:
    """The value broadcast to the shape of a result."""
    if tensor.ndim != out.ndim:
        raise tracer.refuse("broadcasting to more dimensions")
    number = value(tracer, tensor)
    if tensor.shape == out.shape:
        return number
    return affine(tracer, out, [(number, _widened(shape_of(tensor), shape_of(out)))])


def scaled(tracer: Tracer, out: Tensor, tensor: Tensor, factor: object) -> int:
    """The value times a constant, broadcast to the result."""
    wide = widen(tracer, tensor, out)
    return affine(tracer, out, [(wide, scale(constant(tracer, factor, out), shape_of(out)))])


def spread(values: Sequence[int], dims: int) -> Shape:
    """One number a dimension."""
    return tuple(values) if len(values) == dims else tuple(values) * dims
