"""Linear bounds by back-substitution (CROWN: Zhang et al. 2018, arXiv 1811.00866; Xu et al. 2020, arXiv
2002.12920).

A lower bound ``<a, v> >= <a', v'> + c`` of a linear function of one value is carried back to earlier values:
exactly through affine steps, by the line below where a coefficient is positive and the line above where it is
negative through scalar functions, until it is one of the input, whose least value over the threat set is a
number. Upper bounds are those of ``-a``.

Everything is in float64 and sound including its rounding: with ``|v|`` bounded by its intervals, each stage
of a row is off by at most ``gamma <|a|, size>`` (`Graph.rounding`), which is subtracted; the lines and the
sets are rounded outwards where they are made.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast._deadline import NEVER, Deadline
from holdfast._tensors import chunks
from holdfast.verification import relaxations, single
from holdfast.verification.graph import Affine, Graph, Maximum, Source, Step, Unit
from holdfast.verification.intervals import Bounds, box_exact, interval
from holdfast.verification.linear_maps import MatrixMap
from holdfast.verification.patches import Chain, chain_to, cut
from holdfast.verification.pooling import PoolLines, pool_lines
from holdfast.verification.region import BoxRegion, Region, dot
from holdfast.verification.relaxations import Lines

Coefficients = Float[Tensor, "#batch rows ..."]

LEAST_COLUMNS = 64  # below, leaving out columns costs more than it saves
WORTHWHILE = 0.8
NUMBERS = 2**19  # of coefficients in one piece of work: 4 MiB, so that a piece stays in the cache


@dataclass(kw_only=True)
class BackwardState:
    """What is known of a network over the threat sets of a batch.

    Attributes:
        graph: the network.
        region: the threat sets.
        bounds: of the values so far.
        lines: around each scalar function and each maximum so far.
        centred: the first layer at the centres of boxes, once it is needed.
        deadline: when to raise `OutOfTime`.
    """

    graph: Graph
    region: Region
    bounds: list[Bounds]
    lines: dict[int, Lines | PoolLines]
    centred: single.Centred | None = None
    deadline: Deadline = NEVER


Refines = Callable[[Graph, Region, int], bool]


def only_linear(graph: Graph, region: Region, value: int) -> bool:
    """Refine values that are affine in the input: intervals from there on."""
    return graph.linear[value] and not (isinstance(region, BoxRegion) and box_exact(graph)[value])


def every_value(graph: Graph, region: Region, value: int) -> bool:
    """Refine every value that enters a scalar function: CROWN throughout."""
    return not (isinstance(region, BoxRegion) and box_exact(graph)[value])


def analyse(
    graph: Graph,
    region: Region,
    refines: Refines = every_value,
    signs: dict[int, Tensor] | None = None,
    deadline: Deadline = NEVER,
) -> BackwardState:
    """Bounds of every value, those chosen by ``refines`` by back-substitution, and lines around every scalar
    function.

    ``signs`` keeps entries of the arguments of scalar functions on one side of 0: bounds then hold for those
    points of the sets only that keep to them, and a lower bound above its upper one says that there is none.
    Raises `OutOfTime` at the deadline.
    """
    state = BackwardState(graph=graph, region=region, bounds=[], lines={}, deadline=deadline)
    for number, step in enumerate(graph.steps):
        deadline.check()
        if isinstance(step, Unit | Maximum):
            [value] = step.inputs
            # A function's value has no bounds better than those its argument's give: its own lines stay
            # within them.
            if (
                refines(graph, region, value)
                and not isinstance(graph.steps[value], Unit)
                and not any(
                    value in other.inputs
                    for other in graph.steps[:number]
                    if isinstance(other, Unit | Maximum)
                )
            ):
                _refine(state, value, number, everywhere=refines is only_linear)
            known = state.bounds[value]
            if signs is not None and value in signs:
                known.lower = torch.where(signs[value] > 0, known.lower.clamp(min=0.0), known.lower)
                known.upper = torch.where(signs[value] < 0, known.upper.clamp(max=0.0), known.upper)
            state.lines[number] = (
                relaxations.lines(step.scalar, known.lower, known.upper)
                if isinstance(step, Unit)
                else pool_lines(step, known.lower, known.upper)
            )
        state.bounds.append(interval(step, state.bounds, region, graph.rounding))
    return state


def _refine(state: BackwardState, value: int, number: int, *, everywhere: bool) -> None:
    """Tighten the bounds of one value where that can change the lines around a step; all where intervals
    follow.
    """
    known, step = state.bounds[value], state.graph.steps[number]
    lower, upper = known.lower.flatten(1), known.upper.flatten(1)
    if isinstance(step, Unit) and step.scalar.kinked is not None and not everywhere:
        # The likelier side first: a row found to stay on one side of the kink needs no other bound.
        positive = lower + upper > 0
        for first in (True, False):
            for above in (True, False):
                open_ = (lower < 0) & (upper > 0) & (positive == (above == first))
                _tighten(state, value, open_, lower if above else upper, above=above)
        if any(isinstance(other, Maximum) and number in other.inputs for other in state.graph.steps):
            # Which entry is largest is told by those on one side of the kink too, unless they are all 0
            # there.
            decided = (lower >= 0) | ((upper <= 0) & (step.scalar.kinked[0] != 0))
            _tighten(state, value, decided, lower, above=True)
            _tighten(state, value, decided, upper, above=False)
    else:
        everything = torch.ones_like(lower, dtype=torch.bool)
        _tighten(state, value, everything, lower, above=True)
        _tighten(state, value, everything, upper, above=False)
    shape = known.lower.shape
    known.lower = torch.minimum(lower, upper).reshape(shape)  # two sound bounds may cross by their allowances
    known.upper = torch.maximum(lower, upper).reshape(shape)


def _tighten(state: BackwardState, value: int, wanted: Tensor, edge: Tensor, *, above: bool) -> None:
    """Improve ``edge``, in place, in the entries wanted for any example: lower bounds where ``above``,
    else upper ones.
    """
    chain = chain_to(state.graph, value)
    if chain is not None and chain.saves < WORTHWHILE:
        for example in range(len(wanted)):
            _tighten_patches(state, chain, wanted[example], edge, example, above=above)
        return
    index = wanted.any(0).nonzero().squeeze(1)
    copies = 1 if single.shared(state.graph, state.region, value) else len(state.region)
    for part in chunks(len(index), rows_at_once(state.graph, copies)):
        found = rows_minimum(
            state, value, index[part], sign=1.0 if above else -1.0, wanted=wanted[:, index[part]]
        )
        edge[:, index[part]] = (
            torch.maximum(edge[:, index[part]], found)
            if above
            else torch.minimum(edge[:, index[part]], -found)
        )


def _tighten_patches(
    state: BackwardState, chain: Chain, wanted: Tensor, edge: Tensor, example: int, *, above: bool
) -> None:
    """As `_tighten`, for the entries of a convolution wanted for one example, place by place."""
    channels, _, width = chain.steps[-1].shape
    counts = wanted.reshape(channels, -1).sum(0)
    ordered, order = counts.sort(descending=True)
    order = order[: int((ordered > 0).sum())]
    numbers = max(torch.Size(step.shape).numel() for step in chain.graph.steps)
    begin, sign = 0, 1.0 if above else -1.0
    while begin < len(order):
        rows = int(ordered[begin])  # the most wanted of any place that follows
        part = order[begin : begin + max(1, NUMBERS // (rows * numbers))]
        begin += len(part)
        places = torch.stack([part // width, part % width])
        region, bounds, lines = cut(chain, state.region, state.bounds, state.lines, example, places)
        small = BackwardState(
            graph=chain.graph, region=region, bounds=bounds, lines=lines, deadline=state.deadline
        )
        chosen = wanted.reshape(channels, -1)[:, part].T.to(torch.uint8).topk(rows, 1).indices
        last = bounds[-1].size.flatten(1)
        size = last.gather(1, chosen)
        unit = last.new_zeros((len(part), rows, channels)).scatter_(2, chosen[..., None], sign)
        found = lower_bound(small, {chain.graph.last: unit[..., None, None]}, size * 0, size)
        index = (chosen * len(counts) + part[:, None]).flatten()
        if above:
            edge[example, index] = torch.maximum(edge[example, index], found.flatten())
        else:
            edge[example, index] = torch.minimum(edge[example, index], -found.flatten())


def rows_at_once(graph: Graph, examples: int) -> int:
    """Rows of coefficients in a piece of work."""
    widest = max(torch.Size(step.shape).numel() for step in graph.steps)
    return max(1, NUMBERS // (examples * widest))


def rows_minimum(
    state: BackwardState,
    value: int,
    index: Int[Tensor, " rows"],
    sign: float,
    wanted: Bool[Tensor, "batch rows"],
) -> Float[Tensor, "batch rows"]:
    """Lower bounds of ``sign v_i`` for entries ``i`` of a value; those not wanted may come out as low as
    there are numbers.
    """
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
    first = single.closing(state.graph, state.region)
    if first is not None and value > first[0]:
        return _lower_bound_by_single(state, pending, constant, size, wanted, *first)
    return lower_bound(state, pending, constant, size)


def _lower_bound_by_single(
    state: BackwardState,
    pending: dict[int, Tensor],
    constant: Float[Tensor, "batch rows"],
    size: Float[Tensor, "batch rows"],
    wanted: Bool[Tensor, "batch rows"],
    unit: int,
    linear: MatrixMap,
) -> Float[Tensor, "batch rows"]:
    """As `lower_bound`, with the product of the network's first layer in float32."""
    rows, constant, size = back_substitute(state, pending, constant, size, until=unit)
    [source] = state.graph.steps[unit].inputs
    step, around = state.graph.steps[source], state.lines[unit]
    if not isinstance(step, Affine) or not isinstance(around, Lines):
        raise TypeError("a unit on a dense layer is needed")
    if state.centred is None:
        state.centred = single.centred(linear, step.offset, state.region)
    least, more = single.minimum(rows, around, linear, state.bounds[source].size, state.centred, wanted)
    return least + constant - state.graph.rounding * (size + more)


def lower_bound(
    state: BackwardState,
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
    state: BackwardState,
    pending: dict[int, Tensor],
    constant: Float[Tensor, "batch rows"],
    size: Float[Tensor, "batch rows"],
    *,
    lines: dict[int, Lines | PoolLines] | None = None,
    multipliers: dict[int, Tensor] | None = None,
    seen: dict[int, Tensor] | None = None,
    until: int = 0,
) -> tuple[Coefficients, Float[Tensor, "batch rows"], Float[Tensor, "batch rows"]]:
    """Coefficients of the input, the constant and the size of all terms, for a lower bound of
    ``sum_k <pending_k, v_k>``.

    ``multipliers`` are subtracted from the coefficients of values whose products with them are known to be >=
    0. The coefficients of each scalar function's value are put into ``seen``. With ``until`` the coefficients
       are those of that value, which every way to the input must pass.
    """
    lines = state.lines if lines is None else lines
    pending = dict(pending)
    for number in range(max(pending), until, -1):
        if number not in pending:
            continue
        state.deadline.check()
        rows, step = pending.pop(number), state.graph.steps[number]
        if multipliers is not None and number in multipliers:
            rows = rows - multipliers[number]
            size = size + dot(multipliers[number].detach().abs(), state.bounds[number].size)
        if seen is not None and isinstance(step, Unit):
            seen[number] = rows.detach()
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
            live = _live(state.graph, source, around) if multipliers is None else None
            if live is not None:
                rows, given = rows[..., live], given[..., live]
                around = Lines(**{name: edge[..., live] for name, edge in vars(around).items()})
            found = substitute(rows, around, given)
        constant, size = constant + found[1], size + found[2]
        if live is None:
            _add(pending, source, found[0])
        else:
            constant = constant + _passed_columns(found[0], state.graph.steps[source], live, pending)
    if until not in pending:
        last = state.graph.steps[until]
        pending[until] = constant.new_zeros((1, constant.shape[1], *last.shape))
    return pending[until], constant, size


def _live(graph: Graph, value: int, around: Lines) -> Int[Tensor, " columns"] | None:
    """The entries of a dense layer's value that matter: most rectifiers of a trained network may be off in
    the whole set.

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
    """Rows carried through a scalar function: coefficients of its argument, what to add to the constant,
    and the terms' size.
    """
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
    state: BackwardState,
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
