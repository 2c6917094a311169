"""Interval bounds of every value of a network, step by step (Gowal et al. 2018, arXiv 1810.12715)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.verification import relaxations
from holdfast.verification.graph import Affine, Graph, Maximum, Source, Step, Unit, total
from holdfast.verification.region import Region

Values = Float[Tensor, "batch ..."]


@dataclass(kw_only=True)
class Bounds:
    """Of one value, for a batch of examples.

    Attributes:
        lower: no value is less.
        upper: no value is more.
        size: a bound of the sum of the sizes of the terms it is computed from; rounding is a small share of
            that.
    """

    lower: Values
    upper: Values
    size: Values


def interval(step: Step, known: list[Bounds], region: Region, rounding: float) -> Bounds:
    """Bounds of one step's value from those of earlier ones."""
    match step:
        case Source():
            shape = (len(region), *step.shape)
            return _plain(region.lower.reshape(shape), region.upper.reshape(shape))
        case Affine():
            return _affine(step, known, rounding)
        case Unit():
            given = known[step.inputs[0]]
            return _plain(*relaxations.interval(step.scalar, given.lower, given.upper))
        case Maximum():
            given = known[step.inputs[0]]
            shape = (len(region), *step.shape)
            lower, upper = (
                step.windows(edge, -torch.inf).amax(2).reshape(shape) for edge in (given.lower, given.upper)
            )
            return _plain(lower, upper)


def _plain(lower: Values, upper: Values) -> Bounds:
    return Bounds(lower=lower, upper=upper, size=torch.maximum(lower.abs(), upper.abs()))


def _affine(step: Affine, known: list[Bounds], rounding: float) -> Bounds:
    terms = [(known[index], linear) for index, linear in step.terms]
    centre = step.shifted(total([linear.apply((given.lower + given.upper) / 2) for given, linear in terms]))
    radius = total([linear.apply_abs((given.upper - given.lower) / 2) for given, linear in terms])
    size = total([linear.apply_abs(given.size) for given, linear in terms])
    if step.offset is not None:
        size = size + step.offset.abs()
    spare = rounding * size
    return Bounds(lower=centre - radius - spare, upper=centre + radius + spare, size=size)


def box_exact(graph: Graph) -> tuple[bool, ...]:
    """Whether interval arithmetic is exact on a box for each value: affine in the input with at most one
    map that mixes features.
    """
    mixing: list[float] = []
    for step in graph.steps:
        if isinstance(step, Source):
            mixing.append(0)
        elif isinstance(step, Affine) and len(step.terms) == 1:
            [(index, linear)] = step.terms
            mixing.append(mixing[index] + (linear.terms > 1))
        else:
            mixing.append(float("inf"))
    return tuple(count <= 1 for count in mixing)
