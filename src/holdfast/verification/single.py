"""The largest products in float32: rows carried through the first dense layer onto a box, with the rounding
of it all taken off.

With ``a`` the coefficients of ``u = W x + b`` and a box of centre ``c`` and half widths ``h``, the least
value is ``<a, W c + b> - sum_j |(a W)_j| h_j``. Only ``a W`` is worked out in float32. Its error there, for
sums of ``n`` products in any order, is at most ``gamma |a| |W|`` with ``gamma = n u / (1 - n u)``,
``u = 2^-24`` (Higham 2002, section 3.1), which costs ``gamma <|a|, |W| h>``: of the size of the box, not of
the values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast._products import product
from holdfast.verification.graph import Affine, Graph, Source, Unit
from holdfast.verification.linear_maps import TERMS, MatrixMap, ReshapeMap
from holdfast.verification.region import ROUNDING, BoxRegion, Region, dot
from holdfast.verification.relaxations import Lines

LEAST_WORK = 2**16  # entries of the layer below which float64 is as fast
UNIT = 2.0**-24
TINY = 1e-30  # more than what numbers too small for float32 can add up to

UnitRows = Float[Tensor, "#batch rows units"]


def closing(graph: Graph, region: Region) -> tuple[int, MatrixMap] | None:
    """The first unit and the dense layer before it, if every way from the box to later values goes through
    these two.
    """
    units = [number for number, step in enumerate(graph.steps) if isinstance(step, Unit)]
    if not units or not isinstance(region, BoxRegion) or not exact_products():
        return None
    unit = units[0]
    step = graph.steps[graph.steps[unit].inputs[0]]
    if not isinstance(step, Affine) or len(step.terms) != 1 or len(step.shape) != 1:
        return None
    [(source, linear)] = step.terms
    if not isinstance(linear, MatrixMap) or linear.weight.numel() < LEAST_WORK:
        return None
    while not isinstance(before := graph.steps[source], Source):
        plain = isinstance(before, Affine) and before.offset is None and len(before.terms) == 1
        if not plain or not isinstance(before, Affine) or not isinstance(before.terms[0][1], ReshapeMap):
            return None
        source = before.inputs[0]
    later = graph.steps[unit + 1 :]
    return (unit, linear) if all(index >= unit for one in later for index in one.inputs) else None


def shared(graph: Graph, region: Region, value: int) -> bool:
    """Whether the coefficients of a value that reach `closing` are the layer's own, the same for all
    examples.
    """
    first, step = closing(graph, region), graph.steps[value]
    return first is not None and isinstance(step, Affine) and set(step.inputs) == {first[0]}


def exact_products() -> bool:
    """Whether float32 products are ones of float32 numbers, not of shortened ones."""
    lowered = torch.get_float32_matmul_precision() != "highest"
    precision = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    return not lowered and precision in ("none", "ieee")


@dataclass(frozen=True, kw_only=True)
class Centred:
    """Boxes and the first layer there: ``W c + b``, ``|W| h`` and ``h``."""

    middle: Float[Tensor, "batch units"]
    reach: Float[Tensor, "batch units"]
    half: Float[Tensor, "batch features"]


def centred(linear: MatrixMap, offset: Float[Tensor, " units"] | None, region: Region) -> Centred:
    """The first layer at the centres of boxes, in float64."""
    centre = (region.lower + region.upper) / 2
    half = torch.maximum(region.upper - centre, centre - region.lower) * (1 + ROUNDING)
    middle = linear.apply(centre)
    return Centred(
        middle=middle if offset is None else middle + offset, reach=linear.apply_abs(half), half=half
    )


def minimum(
    rows: UnitRows,
    around: Lines,
    linear: MatrixMap,
    given: Float[Tensor, "batch units"],
    box: "Centred",
    wanted: Bool[Tensor, "batch rows"],
) -> tuple[Float[Tensor, "batch rows"], Float[Tensor, "batch rows"]]:
    """Lower bounds of ``<row, act(W x + b)>`` over boxes by lines around ``act``, before float64's rounding;
    and the terms' sizes.

    Args:
        given: sizes of the terms of ``W x + b``.
        wanted: which bounds are needed; the others come out as low as there are numbers.
    """
    middle, reach, half = box.middle, box.reach, box.half
    positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
    batch = len(given)
    up, down = (
        dot(
            part,
            torch.cat([slope * middle + height, slope.abs() * given + height.abs(), slope.abs() * reach]),
        )
        if len(rows) == 1
        else torch.cat(
            [
                dot(part, values)
                for values in (
                    slope * middle + height,
                    slope.abs() * given + height.abs(),
                    slope.abs() * reach,
                )
            ]
        )
        for part, slope, height in (
            (positive, around.lower_slope, around.lower_height),
            (negative, around.upper_slope, around.upper_height),
        )
    )
    value = up[:batch] + down[:batch]
    size, wide = torch.split((up - down)[batch:], batch)
    spread = _spread(positive.float(), negative.float(), around, linear, half, wanted)
    # 3 for the coefficients, 1 each for the matrix, the half widths and the last product, and sums of sums.
    terms = min(TERMS, given.shape[1]) + -(-given.shape[1] // TERMS) + 8
    gamma = terms * UNIT / (1 - terms * UNIT)
    least = (
        value
        - spread * (1 + 4 * UNIT)
        - gamma * (1 + 8 * UNIT) * wide
        - TINY * (1 + half.sum(1, keepdim=True))
    )
    return least.nan_to_num(nan=-torch.inf), size


def _spread(
    positive: Float[Tensor, "#batch rows units"],
    negative: Float[Tensor, "#batch rows units"],
    around: Lines,
    linear: MatrixMap,
    half: Float[Tensor, "batch features"],
    wanted: Bool[Tensor, "batch rows"],
) -> Float[Tensor, "batch rows"]:
    """``sum_j |(a W)_j| h_j``; infinite where it is not wanted.

    UnitRows that serve all examples are the same numbers every time: those wanted for an example are multiplied
    example by example, without more copies of coefficients than the product reads.
    """
    below, above, sides = around.lower_slope.float(), around.upper_slope.float(), half.float()
    if len(positive) > 1:
        return _reached(_pieces(positive), _pieces(negative), below, above, linear, sides)
    found = torch.full(wanted.shape, torch.inf, dtype=torch.float64, device=half.device)
    # Pieces of their own, as products of strided ones would copy them for every example.
    up, down = ([piece.contiguous() for piece in _pieces(part)] for part in (positive, negative))
    for example in range(len(half)):
        own = slice(example, example + 1)
        chosen = wanted[example].nonzero().squeeze(1)
        if len(chosen) == 0:
            continue
        few = len(chosen) < wanted.shape[1]
        ups, downs = (
            [piece.index_select(1, chosen) for piece in part] if few else part for part in (up, down)
        )
        found[example, chosen] = _reached(ups, downs, below[own], above[own], linear, sides[own])[0]
    return found


def _pieces(values: Float[Tensor, "*rest units"]) -> Sequence[Tensor]:
    """In pieces of `TERMS` units."""
    return torch.split(values, TERMS, dim=-1)


def _reached(
    positive: Sequence[Float[Tensor, "#batch rows _"]],
    negative: Sequence[Float[Tensor, "#batch rows _"]],
    below: Float[Tensor, "batch units"],
    above: Float[Tensor, "batch units"],
    linear: MatrixMap,
    half: Float[Tensor, "batch features"],
) -> Float[Tensor, "batch rows"]:
    """`_spread` of coefficients in pieces of `TERMS`: the products of pieces are added up."""
    batch, count = len(half), positive[0].shape[1]
    total: Tensor | None = None
    for up, down, low, high, weight in zip(
        positive, negative, _pieces(below), _pieces(above), linear.single, strict=True
    ):
        passed = (up * low[:, None]).addcmul_(down, high[:, None])
        part = product(passed.reshape(batch * count, -1), weight)
        total = part if total is None else total.add_(part)
    if total is None:
        raise ValueError("a layer without inputs")
    wide = total.reshape(batch, count, -1).mul_(half[:, None])
    return wide.abs_().sum(2, dtype=torch.float64)
