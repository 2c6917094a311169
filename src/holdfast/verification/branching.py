"""Branch and bound on the sides of kinks (Bunel et al. 2020, arXiv 1909.06588; beta-CROWN: Wang et al. 2021,
arXiv 2103.06624).

A threat set is cut by the sign of one unit's argument into two parts that cover it, where bounds are tighter,
until every part is proved or a point is found that refutes the claim. Where all signs are known the network
is affine and a linear programme decides (for boxes) or the dual problem does (for other sets): the
multipliers give a bound that is worked out here again, with its rounding, so the solver is not trusted.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast._deadline import NEVER, Deadline, OutOfTime
from holdfast.threats.base import Threat
from holdfast.verification import crown
from holdfast.verification.alpha import constraints, optimised_margins
from holdfast.verification.crown import BackwardState, back_substitute
from holdfast.verification.graph import Graph, Maximum, Unit
from holdfast.verification.leaves import best_multipliers
from holdfast.verification.region import BoxRegion, Region, dot

STEPS = 8  # of slopes and multipliers, for each part
AT_ONCE = 64  # parts bounded together
PENALTIES = (1e2, 1e5)  # of a broken constraint, in units of the function's own range


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A lower bound of one function over one set, and a point of the set where it is not above 0, if one was
    found.

    Attributes:
        out_of_time: whether more time might have told more.
    """

    bound: float
    point: Tensor | None
    out_of_time: bool = False


def can_branch(graph: Graph) -> bool:
    """Whether every unit is linear on either side of a kink, so that branching decides in the end."""
    units = [step for step in graph.steps if isinstance(step, Unit)]
    no_pools = not any(isinstance(step, Maximum) for step in graph.steps)
    return bool(units) and no_pools and all(step.scalar.kinked is not None for step in units)


def kinks(graph: Graph) -> dict[int, int]:
    """The values on whose sign units depend, and their sizes."""
    return {
        step.inputs[0]: torch.Size(step.shape).numel()
        for step in graph.steps
        if isinstance(step, Unit) and step.scalar.kinked is not None
    }


def branch(
    graph: Graph,
    region: Region,
    row: Float[Tensor, " outputs"],
    x: Float[Tensor, "1 ..."],
    known: float,
    deadline: Deadline = NEVER,
) -> Outcome:
    """Raise a lower bound ``known`` of ``<row, outputs>`` over one set until it is above 0, a point refutes
    that, or the time is over.

    Without a kink there is nothing to cut: the bound stays, and the point where its linear function is least
    is tried.

    Args:
        x: the example; points are of its dtype and checked in it.
    """
    sizes = kinks(graph)
    signs = torch.zeros((1, sum(sizes.values())), dtype=torch.int8, device=row.device)
    bounds = torch.full((1,), known, dtype=torch.float64, device=row.device)
    done = torch.inf
    try:
        while len(bounds):
            order = bounds.argsort()  # the least proved first: there a refuting point is likeliest
            first, rest = order[:AT_ONCE], order[AT_ONCE:]
            part = _Part.of(graph, region, row, signs[first], sizes, deadline)
            point = refuting(graph, region.threat, x, row, part.points)
            found = torch.maximum(bounds[first], part.bounds)
            if point is not None or not sizes:
                return Outcome(bound=min(done, float(torch.cat([found, bounds[rest]]).min())), point=point)
            ended = found <= 0
            which = part.scores.argmax(1)
            leaf = ended & (part.scores.gather(1, which[:, None]).squeeze(1) <= 0)
            for number in leaf.nonzero().flatten().tolist():
                better, candidate = part.decide(number)
                point = None if candidate is None else refuting(graph, region.threat, x, row, candidate[None])
                found[number] = max(float(found[number]), better)
                if point is not None:
                    return Outcome(
                        bound=min(done, float(torch.cat([found, bounds[rest]]).min())), point=point
                    )
            closed = found[~ended | leaf]
            done = min([done, *closed.tolist()])
            if done <= 0:  # a part that cannot be cut is left unproved
                return Outcome(bound=min(done, float(torch.cat([found, bounds[rest]]).min())), point=None)
            split = ended & ~leaf
            children = signs[first][split].repeat(2, 1)
            sides = torch.ones(len(children), 1, dtype=torch.int8, device=row.device)
            sides[len(children) // 2 :] = -1
            children.scatter_(1, which[split].repeat(2)[:, None], sides)
            signs = torch.cat([signs[rest], children])
            bounds = torch.cat([bounds[rest], found[split].repeat(2)])
    except OutOfTime:  # bounds of parts that were not reached stand
        return Outcome(bound=min([done, *bounds.tolist()]), point=None, out_of_time=True)
    return Outcome(bound=done, point=None)


def refuting(
    graph: Graph,
    threat: Threat,
    x: Float[Tensor, "1 ..."],
    row: Float[Tensor, " outputs"],
    points: Float[Tensor, "points ..."],
) -> Float[Tensor, "..."] | None:
    """One of the points, brought into the set in the dtype of ``x``, where ``<row, outputs>`` is not above
    0 in float64.
    """
    around = x.expand(len(points), *x.shape[1:])
    points = points.reshape(around.shape).to(x.dtype)
    points = torch.where(
        threat.contains(points, around).reshape(-1, *([1] * (x.ndim - 1))),
        points,
        threat.project_inside(points, around),
    )
    low = (graph(points.double()) @ row <= 0) & threat.contains(points, around)
    return points[low.to(torch.uint8).argmax()] if bool(low.any()) else None


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Parts of one set, cut by signs, with what is known of one function there."""

    state: BackwardState
    rows: Float[Tensor, "parts 1 outputs"]
    signs: dict[int, Tensor]
    bounds: Float[Tensor, " parts"]
    scores: Float[Tensor, "parts units"]
    points: Float[Tensor, "parts features"]

    @staticmethod
    def of(
        graph: Graph,
        region: Region,
        row: Float[Tensor, " outputs"],
        signs: Int[Tensor, "parts units"],
        sizes: dict[int, int],
        deadline: Deadline = NEVER,
    ) -> "_Part":
        count = len(signs)
        pieces = dict(zip(sizes, torch.split(signs, list(sizes.values()), 1), strict=True))
        sides = {
            value: side.double().reshape(count, *graph.steps[value].shape) for value, side in pieces.items()
        }
        parts = region.part(torch.zeros(count, dtype=torch.long, device=row.device))
        state = crown.analyse(graph, parts, signs=sides, deadline=deadline)
        rows = row.expand(count, 1, -1)
        size = dot(rows.abs(), state.bounds[graph.last].size)
        seen: dict[int, Tensor] = {}
        slopes, constant, size = back_substitute(
            state, {graph.last: rows}, torch.zeros_like(size), size, seen=seen
        )
        least = parts.minimum(slopes.flatten(2)) + constant - graph.rounding * size
        points = parts.minimiser(slopes.flatten(2)).squeeze(1)
        bounds = torch.maximum(least, optimised_margins(state, rows, STEPS, sides)).squeeze(1)
        empty = torch.zeros_like(bounds, dtype=torch.bool)
        for value in sizes:
            empty |= (state.bounds[value].lower > state.bounds[value].upper).flatten(1).any(1)
        return _Part(
            state=state,
            rows=rows,
            signs=sides,
            bounds=bounds.masked_fill(empty, torch.inf),
            scores=_scores(state, seen, sizes) if sizes else bounds[:, None][:, :0],
            points=points,
        )

    def decide(self, number: int) -> tuple[float, Tensor | None]:
        """A bound of a part where every sign is known, as tight as can be, and the point where a solver
        sees the least value.
        """
        from scipy.optimize import linprog  # when first needed: scipy takes its time to import

        graph, everything = self.state.graph, self.state.region
        if not can_branch(graph):
            return -torch.inf, None
        one = slice(number, number + 1)
        signs = {value: side[one] for value, side in self.signs.items()}
        deadline = self.state.deadline
        state = crown.analyse(graph, everything.part(one), signs=signs, deadline=deadline)
        sides = torch.cat([side.flatten() for side in signs.values()])
        cut = sides.nonzero().flatten()
        slopes, heights = _affine(state, {graph.last: self.rows[one]})
        parts = [_affine(state, {value: _units(side)}) for value, side in signs.items()]
        matrix = torch.cat([slope for slope, _ in parts])[cut] * sides[cut, None]
        offset = torch.cat([height for _, height in parts])[cut] * sides[cut]
        if not isinstance(everything, BoxRegion):
            weights = torch.zeros_like(sides)
            weights[cut], lowest = best_multipliers(
                everything.part(one), slopes[0], float(heights[0]), matrix, offset, deadline
            )
            return self._with_multipliers(state, number, signs, weights), lowest
        lower, upper = everything.lower[number], everything.upper[number]
        scale = float(1 + (slopes.abs() * (upper - lower)).sum())
        best, point = -torch.inf, None
        for penalty in PENALTIES:
            solved = linprog(
                torch.cat([slopes[0], torch.full_like(offset, penalty * scale)]).numpy(force=True),
                A_ub=-torch.cat(
                    [matrix, torch.eye(len(cut), dtype=matrix.dtype, device=matrix.device)], 1
                ).numpy(force=True),
                b_ub=offset.numpy(force=True),
                bounds=[*zip(lower.tolist(), upper.tolist(), strict=True), *[(0, None)] * len(cut)],
                method="highs",
                options={} if deadline.left is None else {"time_limit": deadline.left},
            )
            deadline.check()
            if solved.x is None:
                continue
            weights = torch.zeros_like(sides)
            weights[cut] = torch.as_tensor(-solved.ineqlin.marginals).to(sides).clamp(min=0.0)
            best = max(best, self._with_multipliers(state, number, signs, weights))
            point = torch.as_tensor(solved.x[: len(lower)]).to(lower)
            if best > 0:
                break
        return best, point

    def _with_multipliers(
        self, state: BackwardState, number: int, signs: dict[int, Tensor], weights: Float[Tensor, " units"]
    ) -> float:
        """The bound that multipliers of the signs' constraints give."""
        graph, rows = state.graph, self.rows[number : number + 1]
        split = torch.split(weights, [side.numel() for side in signs.values()])
        each = {
            value: piece.reshape(1, 1, *side.shape[1:])
            for piece, (value, side) in zip(split, signs.items(), strict=True)
        }
        size = dot(rows.abs(), state.bounds[graph.last].size)
        slopes, constant, size = back_substitute(
            state, {graph.last: rows}, torch.zeros_like(size), size, multipliers=constraints(each, signs)
        )
        least = state.region.minimum(slopes.flatten(2)) + constant - graph.rounding * size
        return float(least)


def _units(side: Float[Tensor, "1 ..."]) -> Float[Tensor, "1 units ..."]:
    count = side.numel()
    return torch.eye(count, dtype=side.dtype, device=side.device).reshape(1, count, *side.shape[1:])


def _affine(
    state: BackwardState, pending: dict[int, Tensor]
) -> tuple[Float[Tensor, "rows features"], Float[Tensor, " rows"]]:
    """Slopes and heights of values that are affine in the input, the signs being known."""
    [rows] = pending.values()
    zero = rows.new_zeros((1, rows.shape[1]))
    slopes, constant, _ = back_substitute(state, pending, zero, zero)
    return slopes.flatten(2)[0], constant.expand(1, -1)[0]


def _scores(
    state: BackwardState, seen: dict[int, Tensor], sizes: dict[int, int]
) -> Float[Tensor, "parts units"]:
    """How much of the bound each undecided unit may cost: its coefficient times the height of its chord
    above its kink.
    """
    count = len(state.region)
    scores = {
        value: torch.zeros(count, size, dtype=torch.float64, device=state.region.x.device)
        for value, size in sizes.items()
    }
    for number, step in enumerate(state.graph.steps):
        if not isinstance(step, Unit) or step.inputs[0] not in sizes or step.scalar.kinked is None:
            continue
        known = state.bounds[step.inputs[0]]
        crossing = (known.lower < 0) & (known.upper > 0)
        width = torch.where(crossing, known.upper - known.lower, 1.0)
        height = torch.where(crossing, -known.lower * known.upper / width, 0.0)
        rows = seen.get(number)
        slope = 0.0 if rows is None else rows.squeeze(1).abs()
        # A unit that takes no part is cut last, but can be cut.
        scores[step.inputs[0]] += (height * (slope + 1e-9)).flatten(1)
    return torch.cat(list(scores.values()), 1)
