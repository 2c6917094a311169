"""Linear bounds by back-substitution (CROWN: Zhang et al. 2018, arXiv 1811.00866; Xu et al. 2020, arXiv 2002.12920).

A lower bound ``<a, v> >= <a', v'> + c`` of a linear function of one value is carried back to earlier values: exactly through
affine steps, by the line below where a coefficient is positive and the line above where it is negative through scalar functions,
until it is one of the input, whose least value over the threat set is a number. Upper bounds are those of ``-a``.

Everything is in float64 and sound including its rounding: with ``|v|`` bounded by its intervals, each stage of a row is off by at most ``gamma <|a|, size>``
(`Graph.rounding`), which is subtracted; the lines and the sets are rounded outwards where they are made.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast._tensors import chunks
from holdfast.verification import relaxations
from holdfast.verification.graph import Affine, Graph, Maximum, Source, Step, Unit
from holdfast.verification.intervals import Bounds, box_exact, interval
from holdfast.verification.linear_maps import MatrixMap
from holdfast.verification.pooling import PoolLines, pool_lines
from holdfast.verification.region import BoxRegion, Region, dot
from holdfast.verification.relaxations import Lines

Coefficients = Float[Tensor, "#batch rows ..."]

LEAST_COLUMNS = 64  # below, leaving out columns costs more than it saves
WORTHWHILE = 0.8
NUMBERS = 2**19  # of coefficients in one piece of work: 4 MiB, so that a piece stays in the cache


@dataclass(kw_only=True)
class State:
    """What is known of a network over the threat sets of a batch.

    Attributes:
        graph: the network.
        region: the threat sets.
        bounds: of the values so far.
        lines: around each scalar function and each maximum so far.
    """

    graph: Graph
    region: Region
    bounds: list[Bounds]
    lines: dict[int, Lines | PoolLines]


Refines = Callable[[Graph, Region, int], bool]


def only_linear(graph: Graph, region: Region, value: int) -> bool:
    """Refine values that are affine in the input: intervals from there on."""
    return graph.linear[value] and not (isinstance(region, BoxRegion) and box_exact(graph)[value])


def every_value(graph: Graph, region: Region, value: int) -> bool:
    """Refine every value that enters a scalar function: CROWN throughout."""
    return not (isinstance(region, BoxRegion) and box_exact(graph)[value])


def analyse(graph: Graph, region: Region, refines: Refines = every_value) -> State:
    """Bounds of every value, those chosen by ``refines`` by back-substitution, and lines around every scalar function."""
    state = State(graph=graph, region=region, bounds=[], lines={})
    for number, step in enumerate(graph.steps):
        if isinstance(step, Unit | Maximum):
            [value] = step.inputs
            if refines(graph, region, value) and not any(
                value in other.inputs for other in graph.steps[:number] if isinstance(other, Unit | Maximum)
            ):
                _refine(state, value, step, everywhere=refines is only_linear)
            known = state.bounds[value]
            state.lines[number] = (
                relaxations.lines(step.scalar, known.lower, known.upper)
                if isinstance(step, Unit)
                else pool_lines(step, known.lower, known.upper)
            )
        state.bounds.append(interval(step, state.bounds, region, graph.rounding))
    return state


def _refine(state: State, value: int, step: Unit | Maximum, *, everywhere: bool) -> None:
    """Tighten the bounds of one value where that can change the lines around ``step``; all where intervals follow."""
    known = state.bounds[value]
    lower, upper = known.lower.flatten(1), known.upper.flatten(1)
    if isinstance(step, Unit) and step.scalar.kinked is not None and not everywhere:
        # The likelier side first: a row found to stay on one side of the kink needs no other bound.
        positive = lower + upper > 0
        for first in (True, False):
            for above in (True, False):
                open_ = (lower < 0) & (upper > 0) & (positive == (above == first))
                _tighten(state, value, open_, lower if above else upper, above=above)
    else:
        everything = torch.ones_like(lower, dtype=torch.bool)
        _tighten(state, value, everything, lower, above=True)
        _tighten(state, value, everything, upper, above=False)
    shape = known.lower.shape
    known.lower = torch.minimum(lower, upper).reshape(shape)  # two sound bounds may cross by their allowances
    known.upper = torch.maximum(lower, upper).reshape(shape)


def _tighten(state: State, value: int, wanted: Tensor, edge: Tensor, *, above: bool) -> None:
    """Improve ``edge``, in place, in the entries wanted for any example: lower bounds where ``above``, else upper ones."""
    index = wanted.any(0).nonzero().squeeze(1)
    for part in chunks(len(index), rows_at_once(state.graph, len(state.region))):
        found = rows_minimum(state, value, index[part], sign=1.0 if above else -1.0)
        edge[:, index[part]] = (
            torch.maximum(edge[:, index[part]], found)
            if above
            else torch.minimum(edge[:, index[part]], -found)
        )


def rows_at_once(graph: Graph, examples: int) -> int:
    """Rows of coefficients in a piece of work."""
    widest = max(torch.Size(step.shape).numel() for step in graph.steps)
    return max(1, NUMBERS // (examples * widest))


def rows_minimum(
    state: State, value: int, index: Int[Tensor, " rows"], sign: float
) -> Float[Tensor, "batch rows"]:
    """Lower bounds of ``sign v_i`` for entries ``i`` of a value."""
    step = state.graph.steps[value]
    size = state.bounds[value].size.flatten(1)[:, index]
    if not isinstance(step, Affine):
        unit = size.new_zeros((1, len(index), torch.Size(step.shape).numel()))
        unit.scatter_(2, index[None, :, None], sign)
        return lower_bound(state, {value: unit.reshape(1, len(index), *step.shape)}, size * 0, size)
    constant = torch.zeros_like(size)
    if step.offset is not None:
        constant = constant + sign * step.offset.flatten()[index]
    pending: dict[int, Tensor] = {}
    for source, linear in step.terms:
        _add(pending, source, (sign * linear.rows(index, size))[None])
    return lower_bound(state, pending, constant, size)


def lower_bound(
    state: State,
    pending: dict[int, Tensor],
    constant: Float[Tensor, "batch rows"],
    size: Float[Tensor, "batch rows"],
    *,
    lines: dict[int, Lines | PoolLines] | None = None,
) -> Float[Tensor, "batch rows"]:
    """A lower bound of ``sum_k <pending_k, v_k> + constant`` over the threat sets.

    ``size`` bounds the sizes of the terms summed so far; ``lines`` replace the state's own.
    """
    rows, constant, size = back_substitute(state, pending, constant, size, lines=lines)
    return state.region.minimum(rows.flatten(2)) + constant - state.graph.rounding * size


def back_substitute(
    state: State,
    pending: dict[int, Tensor],
    constant: Float[Tensor, "batch rows"],
    size: Float[Tensor, "batch rows"],
    *,
    lines: dict[int, Lines | PoolLines] | None = None,
) -> tuple[Coefficients, Float[Tensor, "batch rows"], Float[Tensor, "batch rows"]]:
    """Coefficients of the input, the constant and the size of all terms, for a lower bound of ``sum_k <pending_k, v_k>``."""
    lines = state.lines if lines is None else lines
    pending = dict(pending)
    for number in range(max(pending), 0, -1):
        if number not in pending:
            continue
        rows, step = pending.pop(number), state.graph.steps[number]
        if isinstance(step, Affine):
            constant = constant + _passed_offset(rows, step, pending)
            continue
        [source] = step.inputs
        given = state.bounds[source].size
        around = lines[number]
        live = None
        if isinstance(around, PoolLines):
            found = around.substitute(rows, given)
        else:
            live = _live(state.graph, source, around)
            if live is not None:
                rows, given = rows[..., live], given[..., live]
                around = Lines(**{name: edge[..., live] for name, edge in vars(around).items()})
            found = substitute(rows, around, given)
        constant, size = constant + found[1], size + found[2]
        if live is None:
            _add(pending, source, found[0])
        else:
            constant = constant + _passed_columns(found[0], state.graph.steps[source], live, pending)
    if 0 not in pending:
        first = state.graph.steps[0]
        pending[0] = constant.new_zeros((1, constant.shape[1], *first.shape))
    return pending[0], constant, size


def _live(graph: Graph, value: int, around: Lines) -> Int[Tensor, " columns"] | None:
    """The entries of a dense layer's value that matter: most rectifiers of a trained network may be off in the whole set.

    ``None`` where that saves nothing, or the value also goes elsewhere.
    """
    step = graph.steps[value]
    dense = isinstance(step, Affine) and all(isinstance(linear, MatrixMap) for _, linear in step.terms)
    if not dense or len(step.shape) != 1 or around.lower_slope.ndim != 2 or step.shape[0] < LEAST_COLUMNS:
        return None
    if sum(other.inputs.count(value) for other in graph.steps) != 1:
        return None
    used = torch.stack([(edge != 0).any(0) for edge in vars(around).values()]).any(0)
    live = used.nonzero().squeeze(1)
    return live if len(live) < WORTHWHILE * len(used) else None


def _passed_columns(
    rows: Coefficients, step: Step, live: Int[Tensor, " columns"], pending: dict[int, Tensor]
) -> Tensor | float:
    """As `_passed_offset`, for rows that hold the entries ``live`` of a dense layer's value only."""
    if not isinstance(step, Affine):
        raise TypeError("only a dense layer's columns can be left out")
    for source, linear in step.terms:
        _add(pending, source, rows @ linear.rows(live, rows))
    return 0.0 if step.offset is None else dot(rows, step.offset[None, live])


def substitute(
    rows: Coefficients, around: Lines, given: Float[Tensor, "batch ..."]
) -> tuple[Coefficients, Float[Tensor, "batch rows"], Float[Tensor, "batch rows"]]:
    """Rows carried through a scalar function: coefficients of its argument, what to add to the constant, and the terms' size."""
    positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
    below, above = _per_row(around.lower_slope, rows), _per_row(around.upper_slope, rows)
    passed = positive * below
    passed = passed + negative * above if passed.requires_grad else passed.addcmul_(negative, above)
    constant = _paired(positive, around.lower_height) + _paired(negative, around.upper_height)
    lower = around.lower_slope.detach().abs() * _like(given, around.lower_slope)
    upper = around.upper_slope.detach().abs() * _like(given, around.upper_slope)
    size = _paired(positive.detach(), lower + around.lower_height.detach().abs()) - _paired(
        negative.detach(), upper + around.upper_height.detach().abs()
    )
    return passed, constant, size


def _per_row(values: Tensor, rows: Tensor) -> Tensor:
    """Values (batch, ...) or (batch, rows, ...) to broadcast against coefficients."""
    return values if values.ndim == rows.ndim else values[:, None]


def _like(given: Tensor, values: Tensor) -> Tensor:
    return given if given.ndim == values.ndim else given[:, None]


def _paired(rows: Coefficients, values: Tensor) -> Float[Tensor, "batch rows"]:
    if values.ndim == rows.ndim:
        return (rows * values).flatten(2).sum(2)
    return dot(rows, values)


def _add(pending: dict[int, Tensor], number: int, rows: Tensor) -> None:
    pending[number] = pending[number] + rows if number in pending else rows


def lower_bound_by_interval(
    state: State,
    pending: dict[int, Tensor],
    constant: Float[Tensor, "batch rows"],
    size: Float[Tensor, "batch rows"],
) -> Float[Tensor, "batch rows"]:
    """As `lower_bound`, but carried back through affine steps only, and bounded by intervals from there."""
    pending = dict(pending)
    for number in range(max(pending), -1, -1):
        if number not in pending:
            continue
        rows, step = pending.pop(number), state.graph.steps[number]
        if isinstance(step, Affine):
            constant = constant + _passed_offset(rows, step, pending)
        elif isinstance(step, Source):
            constant = constant + state.region.minimum(rows.flatten(2))
        else:
            known = state.bounds[number]
            constant = (
                constant + dot(rows.clamp(min=0.0), known.lower) + dot(rows.clamp(max=0.0), known.upper)
            )
    return constant - state.graph.rounding * size


def _passed_offset(rows: Coefficients, step: Affine, pending: dict[int, Tensor]) -> Tensor | float:
    """Carry rows through an affine step into ``pending``; what its offset adds to the constant."""
    for source, linear in step.terms:
        flat = linear.transpose(rows.flatten(0, 1))
        _add(pending, source, flat.reshape(*rows.shape[:2], *linear.source))
    return 0.0 if step.offset is None else dot(rows, step.offset[None])
