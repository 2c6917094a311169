"""Optimised slopes (alpha-CROWN: Xu et al. 2021, arXiv 2011.13824).

Any slope between a kink's two, and any tangent of a convex function, is a line below it. Those that raise the
final bound are found by gradient ascent, separately for every example and every row; lines of intermediate
bounds stay as CROWN chose them. Each iterate is itself a sound bound, so the best is kept.
"""

from contextlib import suppress
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast._deadline import OutOfTime
from holdfast.verification import relaxations
from holdfast.verification.crown import BackwardState, back_substitute
from holdfast.verification.graph import Unit
from holdfast.verification.pooling import PoolLines
from holdfast.verification.region import BoxRegion, dot
from holdfast.verification.relaxations import Lines

RATE = 0.1  # of Adam, for parameters in [0, 1]
DECAY = 0.95


def optimised_margins(
    state: BackwardState,
    rows: Float[Tensor, "batch rows outputs"],
    steps: int,
    signs: dict[int, Tensor] | None = None,
) -> Float[Tensor, "batch rows"]:
    """Lower bounds of linear functions of the outputs, with the lines below convex functions optimised over
    ``steps`` steps, fewer where the state's deadline comes first.

    Where ``signs`` says on which side of 0 values are, the multipliers of these constraints are optimised
    too.
    """
    shares = {
        number: _start(state, number, rows.shape[1])
        for number, step in enumerate(state.graph.steps)
        if isinstance(step, Unit) and _free(step)
    }
    weights = {
        value: torch.zeros((len(side), rows.shape[1], *side.shape[1:]), dtype=rows.dtype, device=rows.device)
        for value, side in (signs or {}).items()
    }
    best = torch.full(rows.shape[:2], -torch.inf, dtype=rows.dtype, device=rows.device)
    free = [*shares.values(), *weights.values()]
    with torch.enable_grad(), suppress(OutOfTime):  # the best so far is sound
        for one in free:
            one.requires_grad_(True)
        if not free:
            steps = 1
        optimiser = torch.optim.Adam(free, lr=RATE) if free else None
        for _ in range(steps):
            value, sound = _margins(state, rows, shares, constraints(weights, signs))
            best = torch.maximum(best, sound)
            if optimiser is None or not value.requires_grad:
                break
            optimiser.zero_grad()
            torch.autograd.backward(-value.sum())
            optimiser.step()
            optimiser.param_groups[0]["lr"] *= DECAY
            with torch.no_grad():
                for share in shares.values():
                    share.clamp_(0.0, 1.0)
                for weight in weights.values():
                    weight.clamp_(min=0.0)
        else:
            with torch.no_grad():
                best = torch.maximum(best, _margins(state, rows, shares, constraints(weights, signs))[1])
    return best


def constraints(weights: dict[int, Tensor], signs: dict[int, Tensor] | None) -> dict[int, Tensor] | None:
    """Coefficients of ``sum weight sign v >= 0``, to be subtracted (beta-CROWN: Wang et al. 2021, arXiv
    2103.06624).
    """
    if not signs:
        return None
    return {value: weight * signs[value][:, None] for value, weight in weights.items()}


def _free(step: Unit) -> bool:
    scalar = step.scalar
    return scalar.convex if scalar.kinked is None else scalar.kinked[0] < scalar.kinked[1]


def _start(state: BackwardState, number: int, rows: int) -> Tensor:
    """Parameters in [0, 1] that give CROWN's own lines, for each example and row."""
    step = state.graph.steps[number]
    lines = state.lines[number]
    given = state.bounds[step.inputs[0]]
    if isinstance(step, Unit) and isinstance(lines, Lines) and step.scalar.kinked is not None:
        below, above = step.scalar.kinked
        share = (lines.lower_slope - below) / (above - below)
    else:
        share = torch.full_like(given.lower, 0.5)
    return share[:, None].expand(-1, rows, *([-1] * (share.ndim - 1))).clone()


def _margins(
    state: BackwardState,
    rows: Float[Tensor, "batch rows outputs"],
    shares: dict[int, Tensor],
    multipliers: dict[int, Tensor] | None,
) -> tuple[Float[Tensor, "batch rows"], Float[Tensor, "batch rows"]]:
    """The bound as a differentiable function of the shares, and the same number with its rounding taken
    off.
    """
    lines: dict[int, Lines | PoolLines] = dict(state.lines)
    for number, share in shares.items():
        lines[number] = _lines(state, number, share)
    last = state.graph.last
    size = dot(rows.abs(), state.bounds[last].size)
    found, constant, size = back_substitute(
        state, {last: rows}, torch.zeros_like(size), size, lines=lines, multipliers=multipliers
    )
    flat = found.flatten(2)
    if isinstance(state.region, BoxRegion):
        value = state.region.minimum(flat)
        least = value.detach()
    else:
        least = state.region.minimum(flat.detach())
        value = (flat * state.region.minimiser(flat.detach())).sum(2)
    sound = least + constant.detach() - state.graph.rounding * size.detach()
    return value + constant, sound


def _lines(state: BackwardState, number: int, share: Tensor) -> Lines:
    step, lines = state.graph.steps[number], state.lines[number]
    if not isinstance(step, Unit) or not isinstance(lines, Lines):
        raise TypeError(f"value {number} has no slope to choose")
    given = state.bounds[step.inputs[0]]
    lower, upper = given.lower[:, None], given.upper[:, None]
    if step.scalar.kinked is not None:
        below, above = step.scalar.kinked
        crossing = (lower < 0) & (upper > 0)
        slope = torch.where(crossing, below + (above - below) * share, lines.lower_slope[:, None])
        return replace(lines, lower_slope=slope, lower_height=torch.zeros_like(slope))
    point = lower + (upper - lower) * share
    slope, height = relaxations.tangent(step.scalar, point.clamp(lower, upper), lower, upper)
    return replace(lines, lower_slope=slope, lower_height=height - step.scalar.slack)
