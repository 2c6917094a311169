"""The shortest step from a point onto a hyperplane, within limits for each feature, in the l-inf, l2 and l1
norm.

For each row the problem is ``min ||d||`` over ``<weight, d> = gap``, ``low <= d <= high`` with
``low <= 0 <= high``. Let ``a = |weight|`` and ``room`` the limit in the direction that closes the gap; then
``d`` has magnitude ``min(s, room)`` (l-inf) or ``min(s a, room)`` (l2), for the one ``s`` that closes the
gap, and l1 spends the rooms of the largest ``a`` first (Croce and Hein 2020, arXiv 1907.02044).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.projections import Rows

Column = Float[Tensor, "batch 1"]
Limit = Float[Tensor, "#batch #features"] | None

_FAR = 1e30  # in place of no limit: its products with weights of at most 1 are finite in float32
_ROUNDS = 64  # the multiplier's gap times slope falls by 4 a round (at least): exact well before
_LOOK = 4  # rounds between looks at an accelerator's result
_FIRST = 64  # features of largest weight tried before all are sorted


def shortest_step(
    weight: Rows, gap: Float[Tensor, " batch"], norm: str, low: Limit = None, high: Limit = None
) -> Rows:
    """The step of least norm with ``<weight, step> = gap`` and ``low <= step <= high``, up to the rounding of
    the dtype.

    Where the limits keep the hyperplane out of reach, the step that comes nearest to it; where the weight is
    0, no step. A feature whose limits are both 0 never moves. Rows are independent; ties in l1 go to either
    feature.

    Args:
        weight: normal of each hyperplane, finite.
        gap: how much ``<weight, step>`` must come to.
        norm: ``"inf"``, ``"2"`` or ``"1"``.
        low, high: limits of each feature's step, on either side of 0; infinite or ``None`` for no limit.
    """
    largest = weight.abs().amax(1, keepdim=True)
    # Scaled so that nothing overflows, and turned so that every gap is to be closed upwards.
    scale = torch.copysign(torch.where(largest > 0, largest, 1.0), gap[:, None])
    along, target = weight / scale, gap[:, None] / scale
    down = weight.new_full((1, 1), -_FAR) if low is None else low.clamp(-_FAR, 0.0)
    up = weight.new_full((1, 1), _FAR) if high is None else high.clamp(0.0, _FAR)
    if norm == "1":
        return _greedy(along, target, down, up)
    limited = low is not None or high is not None
    full = torch.maximum(along * down, along * up) if limited else None  # a room's worth: 0 <= a * room
    if norm == "inf":
        return torch.clamp(along.sign() * _multiplier(along.abs(), full, target), down, up)
    return torch.clamp(along * _multiplier(along.square(), full, target), down, up)


def _multiplier(rise: Rows, full: Rows | None, target: Column) -> Column:
    """The ``s >= 0`` with ``sum min(s rise, full) = target``; very large where the sum never gets there.

    The sum is concave, increasing and piecewise linear, so Newton's method from 0 climbs through the pieces,
    never passes the root, and stands exactly when the set of full features does.
    """
    s = _quotient(target, rise.sum(1, keepdim=True))
    if full is None:
        return s
    always = rise.device.type == "cpu"
    enough = 1 + 4 * torch.finfo(rise.dtype).eps
    for turn in range(_ROUNDS):
        # A mask in the dtype itself: two of its products cost less than one choice by truth values.
        filled = (rise * s).ge_(full)
        used = torch.linalg.vecdot(full, filled)[:, None]
        slope = torch.linalg.vecdot(rise, filled.neg_().add_(1))[:, None]
        climbed = torch.maximum(_quotient(target - used, slope), s)
        if (always or turn % _LOOK == _LOOK - 1) and bool((climbed <= enough * s).all()):
            return climbed
        s = climbed
    return s


def _quotient(rest: Column, slope: Column) -> Column:
    """``rest / slope``, and as good as infinite where nothing rises."""
    return torch.where(slope > 0, rest / slope, _FAR).clamp(max=_FAR)


def _greedy(along: Rows, target: Column, down: Tensor, up: Tensor) -> Rows:
    """The l1 step: features in falling order of weight, each up to its limit, until the gap is closed."""
    size, features = along.abs(), along.shape[1]
    count = min(_FIRST, features)
    # A feature without room is no use however large its weight.
    room = torch.where(along > 0, up, -down).expand_as(along)
    size = torch.where(room > 0, size, 0.0)
    while True:
        first, order = size.topk(count, dim=1)
        worth = first * room.gather(1, order)
        total = worth.cumsum(1)
        if count == features or (along.device.type == "cpu" and bool((total[:, -1:] >= target).all())):
            break
        count = features
    before = torch.cat([torch.zeros_like(target), total[:, :-1]], 1)
    length = torch.where(first > 0, torch.minimum((target - before).clamp(min=0.0), worth) / first, 0.0)
    return torch.zeros_like(along).scatter_(1, order, length) * along.sign()
