"""Exact Euclidean projections onto balls, alone and within limits for each feature, and linear maximisers
over the same sets.

Every function takes displacements ``delta`` (batch, features) from the centre of the ball, and works on the
set

    S = {z : ||z|| <= radius, low <= z <= high},    low <= 0 <= high,

where ``low`` and ``high`` (``None``: no limits) broadcast against ``delta`` and may be infinite. Clipping one
after the other does not project onto ``S`` for l1 and l2: cutting a coordinate to its limit frees length that
the others may use. Both projections come from the one multiplier of the ball's constraint instead (Boyd and
Vandenberghe, *Convex Optimization*, 5.5).

Multipliers are found in float64 and the answer is returned in the dtype of ``delta`` (`roughly_project_l2`
apart); a row inside ``S`` comes back unchanged, bit for bit. Nothing here waits for an accelerator. Masks are
kept in floating point where they can be: on a CPU ``torch.where`` over single features costs as much as 30
other passes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "batch features"]
Column = Float[Tensor, "batch 1"]
Limit = Float[Tensor, "#batch #features"] | None
Radius = float | Float[Tensor, " batch"]

_LARGEST = 1e150  # in place of an infinite multiplier: its square and its product with 0 are finite
_ROUGH_ROUNDS = 8
_ROUGH_ROUNDS_L1 = 30  # bisection included; Newton takes about eight
_ROUNDS = 64  # the multiplier's gap times slope falls by 4 a round (at least): exact well before


def lengths(rows: Rows, norm: str) -> Float[Tensor, " batch"]:
    """The norm (``"inf"``, ``"2"`` or ``"1"``) of each row, in float64.

    Args:
        rows: (batch, features).
        norm: ``"inf"``, ``"2"`` or ``"1"``.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.lengths(torch.tensor([[3.0, -4.0]]), "2")
    tensor([5.], dtype=torch.float64)
    """
    if norm == "inf":  # a largest magnitude is exact in any dtype
        return rows.abs().amax(1).double()
    result: Tensor = torch.linalg.vector_norm(rows, ord=float(norm), dim=1, dtype=torch.float64)
    return result


def project_linf(delta: Rows, radius: Radius, low: Limit = None, high: Limit = None) -> Rows:
    """Nearest point of ``S`` for the l-inf norm.

    Each feature is clipped to ``[max(low, -radius), min(high, radius)]``.

    Args:
        delta: steps from the examples, (batch, features).
        radius: one number, or one per row.
        low: lower limits of the steps; ``None`` for none.
        high: upper limits of the steps; ``None`` for none.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.project_linf(torch.tensor([[3.0, -4.0]]), 1.0)
    tensor([[ 1., -1.]])
    """
    return torch.minimum(torch.maximum(delta, _lower(delta, radius, low)), _upper(delta, radius, high))


def project_l2(delta: Rows, radius: Radius, low: Limit = None, high: Limit = None) -> Rows:
    """Nearest point of ``S`` for the l2 norm.

    ``clip(s delta, low, high)`` with the largest ``s <= 1`` of norm at most ``radius``.

    Args:
        delta: steps from the examples, (batch, features).
        radius: one number, or one per row.
        low: lower limits of the steps; ``None`` for none.
        high: upper limits of the steps; ``None`` for none.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.project_l2(torch.tensor([[3.0, -4.0]]), 1.0)
    tensor([[ 0.6000, -0.8000]])
    """
    kept = (delta.double() * factor_l2(delta, radius, low, high)).to(delta.dtype)
    return kept if low is None and high is None else kept.clamp(low, high)


def factor_l2(delta: Rows, radius: Radius, low: Limit = None, high: Limit = None) -> Column:
    """The largest ``s <= 1`` with ``||clip(s delta, low, high)||_2 <= radius``, per row, in float64.

    It is exactly 1 for rows in the ball.

    Where there are limits, radii whose square vanishes in float64 count as 0.

    Args:
        delta: steps from the examples, (batch, features).
        radius: one number, or one per row.
        low: lower limits of the steps; ``None`` for none.
        high: upper limits of the steps; ``None`` for none.

    Returns:
        Factors (batch, 1).

    >>> import torch
    >>> from holdfast import projections
    >>> projections.factor_l2(torch.tensor([[3.0, -4.0], [0.1, 0.0]]), 2.5).flatten()
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    limit = _column(delta, radius)
    if low is None and high is None:
        length = _length(delta)
        return torch.where(length > limit, limit / length, 1.0)
    size, largest = _unit(delta)
    room = _room(delta, limit, low, high)
    scale = _scale(size.square_(), room.square_(), limit, largest)
    share = torch.where(scale < largest, scale / largest, 1.0)
    # Rooms cut at twice the radius would hide that a ball of radius 0 ends at all.
    return torch.where(limit.square() > 0, share, 0.0)


def roughly_project_l2(
    delta: Rows,
    radius: float | Column,
    low: Float[Tensor, "#batch #features"],
    high: Float[Tensor, "#batch #features"],
) -> Rows:
    """`project_l2` for the inner steps of attacks: in the dtype of ``delta``, to 1e-5 of the radius.

    Newton's method on ``||clip(s delta, low, high)||^2``, which is concave in ``s^2``, from ``s = 1``: every
    later ``s`` is at or below the projection's, so that the result does not leave ``S`` by more than that.

    Args:
        delta: steps from the examples, (batch, features).
        radius: one number, or one per row, (batch, 1).
        low: lower limits of the steps.
        high: upper limits of the steps.

    >>> import torch
    >>> from holdfast import projections
    >>> delta, ones = torch.tensor([[3.0, -4.0]]), torch.ones(1, 2)
    >>> projections.roughly_project_l2(delta, 1.0, -ones, ones).norm().round(decimals=3)
    tensor(1.)
    """
    target = radius**2
    square = torch.ones_like(delta[:, :1])
    outside = None
    grown = delta
    for _ in range(_ROUGH_ROUNDS):
        kept = torch.clamp(grown, low, high)
        over = torch.linalg.vector_norm(kept, dim=1, keepdim=True).square() - target
        outside = over > 0 if outside is None else outside
        if delta.device.type == "cpu" and not bool((outside & (over.abs() > 2e-5 * target)).any()):
            break
        # A mask in the dtype itself: the features short of their limits, along which the norm still grows.
        slope = torch.linalg.vector_norm(kept.eq_(grown).mul_(delta), dim=1, keepdim=True).square()
        moved = torch.where(slope > 0, square - over / slope, 0.0).clamp_(min=0.0)
        square = torch.where(outside, moved, square)
        grown = delta * square.sqrt()
    else:
        kept = torch.clamp(grown, low, high)
    return kept


def project_l1(delta: Rows, radius: Radius, low: Limit = None, high: Limit = None) -> Rows:
    """Nearest point of ``S`` for the l1 norm.

    Magnitudes are ``clip(|delta| - t, 0, limit)`` with the least ``t >= 0`` of sum at most ``radius``.

    The sum is piecewise linear in ``t``, so one sort of its breakpoints finds ``t`` (without limits: Duchi et
    al., ICML 2008).

    Args:
        delta: steps from the examples, (batch, features).
        radius: one number, or one per row.
        low: lower limits of the steps; ``None`` for none.
        high: upper limits of the steps; ``None`` for none.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.project_l1(torch.tensor([[3.0, -4.0]]), 1.0)
    tensor([[ 0., -1.]])
    """
    limit = _column(delta, radius)
    size = delta.abs().double()
    if low is None and high is None:
        whole, room = size, None
    else:
        room = _bounds_along(delta, low, high).double()
        whole = torch.minimum(size, room)
    inside = lengths(whole, "1")[:, None] <= limit
    if delta.device.type == "cpu" and bool(inside.all()):
        return torch.copysign(whole.to(delta.dtype), delta)
    # Counted down from the largest magnitude, so that nothing cancels where the ball is small beside delta.
    largest = size.amax(1, keepdim=True)
    depth = largest - size
    if room is None:
        cut = (_level(depth, limit) - depth).clamp(min=0.0)
    else:
        # No level lies above the largest magnitude: where rounding keeps the sum from reaching the radius,
        # delta stays as it is.
        level = torch.minimum(_level_within(depth, torch.minimum(depth + room, largest), limit), largest)
        cut = torch.minimum((level - depth).clamp(min=0.0), room)
    # Rooms that vanish beside the depths (delta above 10^10 times the radius) escape the level: keep to the
    # ball all the same.
    total = lengths(cut, "1")[:, None]
    cut = cut * torch.where(total > limit, limit / total, 1.0)
    kept = torch.where(inside, whole, cut)
    return torch.copysign(kept.to(delta.dtype), delta)


def roughly_project_l1(delta: Rows, radius: float | Column, low: Limit = None, high: Limit = None) -> Rows:
    """`project_l1` for the inner steps of attacks: to 3e-5 of the radius, without a sort.

    It works in the dtype of ``delta``.

    Newton's method on the sum of ``clip(|delta| - t, 0, limit)``, which falls with ``t``, held between the
    ``t`` known to be too small and too large; at last scaled by at most 3e-5, so that the result does not
    leave ``S`` by more than rounding.

    Args:
        delta: steps from the examples, (batch, features).
        radius: one number, or one per row, (batch, 1).
        low: lower limits of the steps; ``None`` for none.
        high: upper limits of the steps; ``None`` for none.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.roughly_project_l1(torch.tensor([[3.0, -4.0]]), 1.0).round(decimals=3).abs()
    tensor([[0., 1.]])
    """
    size = delta.abs()
    most = size if low is None or high is None else torch.minimum(size, torch.where(delta > 0, high, -low))
    over = most.sum(1, keepdim=True) - radius
    outside = over > 0
    small, large = torch.zeros_like(over), size.amax(1, keepdim=True)
    raw, kept, level = size.clone(), most, small
    for _ in range(_ROUGH_ROUNDS_L1):
        if delta.device.type == "cpu" and not bool((outside & (over.abs() > 3e-5 * radius)).any()):
            break
        # A mask in the dtype itself: the features strictly between 0 and their limits.
        falling = raw.eq_(kept).sum(1, keepdim=True)
        small, large = torch.where(over > 0, level, small), torch.where(over > 0, large, level)
        newton = level + over / falling
        held = (newton > small) & (newton < large)
        level = torch.where(outside, torch.where(held, newton, (small + large) / 2), level)
        torch.sub(size, level, out=raw)
        kept = torch.minimum(raw.clamp(min=0.0), most) if kept is most else _within(raw, most, kept)
        over = kept.sum(1, keepdim=True) - radius
    share = torch.where(outside, radius / kept.sum(1, keepdim=True).clamp(min=1e-30), 1.0).clamp(max=1.0)
    return torch.copysign(kept * share, delta)


def _within(raw: Rows, most: Rows, into: Rows) -> Rows:
    """``clip(raw, 0, most)``, written into a tensor that is there."""
    return torch.minimum(torch.clamp(raw, min=0.0, out=into), most, out=into)


def project_two_balls(points: Rows, centre: Rows, radius: Radius, outer: Radius) -> Rows:
    """Nearest point of ``{z : ||z - centre|| <= radius, ||z|| <= outer}`` (l2), which must not be empty.

    If the nearest point of one ball lies in the other it is the answer; else the answer lies on both spheres,
    and in the plane through ``points``, ``centre`` and the origin.

    Args:
        points: (batch, features).
        centre: of the first ball, (batch, features).
        radius: of the first ball; one number, or one per row.
        outer: radius of the ball around the origin; one number, or one per row.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.project_two_balls(torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0]]), 1.0, 1.5)
    tensor([[1.5000, 0.0000]])
    """
    p, x = points.double(), centre.double()
    near, far = _column(points, radius), _column(points, outer)
    around_origin = project_l2(p, far[:, 0])
    around_centre = x + project_l2(p - x, near[:, 0])
    edge = _edge(p, x, near, far)
    best = torch.where(_length(around_centre) <= far, around_centre, edge)
    best = torch.where(_length(around_origin - x) <= near, around_origin, best)
    inside = (_length(p) <= far) & (_length(p - x) <= near)
    return torch.where(inside, points, best.to(points.dtype))


def maximise_linf(direction: Rows, radius: Radius, low: Limit = None, high: Limit = None) -> Rows:
    """``argmax <direction, z>`` over ``S`` for the l-inf norm; features of direction 0 stay at 0.

    Args:
        direction: (batch, features).
        radius: one number, or one per row.
        low: lower limits of the steps; ``None`` for none.
        high: upper limits of the steps; ``None`` for none.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.maximise_linf(torch.tensor([[3.0, -4.0]]), 1.0)
    tensor([[ 1., -1.]])
    """
    up, down = _upper(direction, radius, high), _lower(direction, radius, low)
    zero = torch.zeros_like(direction)
    return torch.where(direction > 0, up, torch.where(direction < 0, down, zero))


def maximise_l2(direction: Rows, radius: Radius, low: Limit = None, high: Limit = None) -> Rows:
    """``argmax <direction, z>`` over ``S`` for the l2 norm.

    ``clip(s direction, low, high)`` with the largest useful ``s``.

    Args:
        direction: (batch, features).
        radius: one number, or one per row.
        low: lower limits of the steps; ``None`` for none.
        high: upper limits of the steps; ``None`` for none.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.maximise_l2(torch.tensor([[3.0, -4.0]]), 1.0)
    tensor([[ 0.6000, -0.8000]])
    """
    limit = _column(direction, radius)
    size, _ = _unit(direction)
    room = _room(direction, limit, low, high)
    scale = _scale(size.square(), room.square(), limit, torch.full_like(limit, _LARGEST))
    length = torch.minimum(scale * size, room)
    return torch.copysign(length.to(direction.dtype), direction)


def maximise_l1(direction: Rows, radius: Radius, low: Limit = None, high: Limit = None) -> Rows:
    """``argmax <direction, z>`` over ``S`` for the l1 norm.

    The radius is spent on the largest ``|direction|`` first.

    Args:
        direction: (batch, features).
        radius: one number, or one per row.
        low: lower limits of the steps; ``None`` for none.
        high: upper limits of the steps; ``None`` for none.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.maximise_l1(torch.tensor([[3.0, -4.0]]), 1.0)
    tensor([[ 0., -1.]])
    """
    limit = _column(direction, radius)
    size = direction.abs()
    room = torch.where(size > 0, _room(direction, limit, low, high), 0.0)
    order = size.argsort(dim=1, descending=True, stable=True)
    ordered = room.gather(1, order)
    left = (limit - (ordered.cumsum(1) - ordered)).clamp(min=0.0)
    length = torch.zeros_like(room).scatter_(1, order, torch.minimum(ordered, left))
    return torch.copysign(length.to(direction.dtype), direction)


def maximise_two_balls(direction: Rows, centre: Rows, radius: Radius, outer: Radius) -> Rows:
    """``argmax <direction, z>`` over ``{z : ||z - centre|| <= radius, ||z|| <= outer}`` (l2).

    It is ``centre`` where the direction is 0.

    Args:
        direction: (batch, features).
        centre: of the first ball, (batch, features).
        radius: of the first ball; one number, or one per row.
        outer: radius of the ball around the origin; one number, or one per row.

    >>> import torch
    >>> from holdfast import projections
    >>> projections.maximise_two_balls(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), 1.0, 1.5)
    tensor([[1.5000, 0.0000]])
    """
    x = centre.double()
    near, far = _column(direction, radius), _column(direction, outer)
    size, _ = _unit(direction)
    unit = torch.copysign(size, direction) / _length(size).clamp(min=1.0)
    around_origin, around_centre = far * unit, x + near * unit
    best = torch.where(_length(around_centre) <= far, around_centre, _edge(unit, x, near, far))
    best = torch.where(_length(around_origin - x) <= near, around_origin, best)
    return torch.where(_length(unit) > 0, best.to(direction.dtype), centre)


def _column(like: Rows, radius: Radius) -> Column:
    """The radius of each row, in float64."""
    if isinstance(radius, Tensor):
        return radius.double()[:, None]
    return torch.full((len(like), 1), radius, dtype=torch.float64, device=like.device)


def _lower(delta: Rows, radius: Radius, low: Limit) -> Tensor:
    edge = -_column(delta, radius).to(delta.dtype)
    return edge if low is None else torch.maximum(edge, low)


def _upper(delta: Rows, radius: Radius, high: Limit) -> Tensor:
    edge = _column(delta, radius).to(delta.dtype)
    return edge if high is None else torch.minimum(edge, high)


def _bounds_along(delta: Rows, low: Limit, high: Limit) -> Rows:
    """How far each feature may go in the direction of ``delta``."""
    up = delta.new_full((1, 1), torch.inf) if high is None else high
    down = delta.new_full((1, 1), -torch.inf) if low is None else low
    sign = torch.copysign(delta.new_ones(()), delta)
    return (sign * up).clamp_(min=sign * down)  # limits lie on either side of 0


def _room(delta: Rows, limit: Column, low: Limit, high: Limit) -> Rows:
    """`_bounds_along` in float64, made finite by a cut at twice the radius, which no feature of the ball
    reaches.
    """
    return _bounds_along(delta, low, high).double().clamp_(max=2 * limit)


def _unit(delta: Rows) -> tuple[Rows, Column]:
    """Magnitudes divided by the row's largest in float64, and that (0 for a row of zeros): squares then
    neither overflow nor vanish.
    """
    size = delta.abs()
    largest = size.amax(1, keepdim=True).double()
    return size.double().div_(torch.where(largest > 0, largest, 1.0)), largest


def _length(rows: Rows) -> Column:
    return lengths(rows, "2")[:, None]


def _scale(rise: Rows, full: Rows, radius: Column, most: Column) -> Column:
    """The largest ``s <= most`` with ``sum min(s^2 rise, full) <= radius^2``.

    That sum is concave, increasing and piecewise linear in ``s^2``. Newton's method steps from ``most``, near
    the root as a rule, to the root's left, then climbs through the pieces and never passes it; where looking
    at the result is free it stops as soon as it stands. Elsewhere one sort of the breakpoints costs less than
    the rounds.
    """
    find = _square_by_rounds if rise.device.type == "cpu" else _square_by_sorting
    return find(rise, full, radius.square(), most.square()).sqrt()


def _square_by_rounds(rise: Rows, full: Rows, target: Column, most: Column) -> Column:
    inside = (rise * most).clamp_(max=full).sum(1, keepdim=True) <= target
    if bool(inside.all()):
        return most
    square = torch.where(inside, most, _tangent(rise, full, target, most, 0.0 * most).clamp(min=0.0))
    square = torch.minimum(square, most)
    enough = 1 + 4 * torch.finfo(rise.dtype).eps
    for _ in range(_ROUNDS):
        climbed = _tangent(rise, full, target, square, square)
        climbed = torch.minimum(torch.maximum(climbed, square), most)
        if bool((climbed <= enough * square).all()):
            break
        square = climbed
    return climbed


def _tangent(rise: Rows, full: Rows, target: Column, square: Column, flat: Column) -> Column:
    """Where the tangent at ``square`` of ``sum min(rise square, full)`` meets the target; ``flat`` where
    it is level.
    """
    filled = (rise * square).ge_(full)
    used = torch.linalg.vecdot(full, filled)[:, None]
    slope = torch.linalg.vecdot(rise, filled.neg_().add_(1))[:, None]
    return torch.where(slope > 0, (target - used) / slope, flat)


def _square_by_sorting(rise: Rows, full: Rows, target: Column, most: Column) -> Column:
    breaks = torch.where(rise > 0, full / rise, torch.inf).clamp(max=_LARGEST**2)
    breaks, order = breaks.sort(dim=1)
    rise, full = rise.gather(1, order), torch.where(rise > 0, full, 0.0).gather(1, order)
    none = torch.zeros_like(target)
    used = torch.cat([none, full.cumsum(1)], 1)
    slope = torch.cat([rise.flip(1).cumsum(1).flip(1), none], 1)
    filled = (used[:, 1:] + breaks * slope[:, 1:] < target).sum(1, keepdim=True)
    rest = slope.gather(1, filled)
    square = torch.where(rest > 0, (target - used.gather(1, filled)) / rest, most)
    return torch.minimum(square.clamp(min=0.0), most)


def _level(depth: Rows, radius: Column) -> Column:
    """The ``level >= 0`` with ``sum max(level - depth, 0) = radius``; each row of ``depth >= 0`` has a 0."""
    ordered = depth.sort(dim=1).values
    count = torch.arange(1, depth.shape[1] + 1, device=depth.device)
    level = (ordered.cumsum(1) + radius) / count
    active = (ordered < level).sum(1, keepdim=True).clamp(min=1)
    return level.gather(1, active - 1)


def _level_within(depth: Rows, brim: Rows, radius: Column) -> Column:
    """The least ``level`` with ``sum clip(level - depth, 0, brim - depth) = radius``; infinite where the sum
    never gets there.

    As the level rises, a feature starts to count at its depth and is full at its brim.
    """
    breaks, order = torch.cat([depth, brim], 1).sort(dim=1, stable=True)
    turns = torch.cat([torch.ones_like(depth), -torch.ones_like(brim)], 1)
    growing = turns.gather(1, order).cumsum(1)
    gained = growing[:, :-1] * (breaks[:, 1:] - breaks[:, :-1])
    total = torch.cat([torch.zeros_like(radius), gained.cumsum(1)], 1)
    passed = (total < radius).sum(1, keepdim=True)
    piece = (passed - 1).clamp(min=0)
    rest = radius - total.gather(1, piece)
    level = breaks.gather(1, piece) + torch.where(rest > 0, rest / growing.gather(1, piece), 0.0)
    return torch.where(passed == breaks.shape[1], torch.inf, level)


def _edge(towards: Rows, centre: Rows, radius: Column, outer: Column) -> Rows:
    """The point on both spheres (around ``centre``, around the origin) farthest ``towards`` the given
    vector.
    """
    away = _length(centre)
    axis = torch.where(away > 0, centre / away, 0.0)
    height = (outer.square() + away.square() - radius.square()) / (2 * away)
    across = towards - (towards * axis).sum(1, keepdim=True) * axis
    span = _length(across)
    width = (outer.square() - height.square()).clamp(min=0.0).sqrt()
    return height * axis + torch.where(span > 0, width / span, 0.0) * across
