"""Lines below and above a scalar function on an interval.

A line is sound whatever its slope, as its height is the minimum of ``act(x) - slope x``, found piece by
piece: on a convex piece from a bracket of the stationary point, on a concave one at its ends. Slopes are
chosen for the least area between line and function, that is, the greatest height over the middle of the
interval.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast.verification.scalars import Scalar, either

Values = Float[Tensor, "..."]

HALVINGS = 30  # the height found is low by the square of what is left of the bracket: under a unit of float64 rounding
UNIT = 2.0**-53


@dataclass(frozen=True, kw_only=True)
class Lines:
    """``lower_slope z + lower_height <= act(z) <= upper_slope z + upper_height`` on ``[lower, upper]`` of
    each entry.
    """

    lower_slope: Values
    lower_height: Values
    upper_slope: Values
    upper_height: Values


def lines(scalar: Scalar, lower: Values, upper: Values) -> Lines:
    """Lines around ``act`` on each interval ``[lower, upper]``, in float64.

    Piecewise linear functions with one kink: the chord, and on the other side the slope that leaves less area
    (Zhang et al. 2018, arXiv 1811.00866, "adaptive"). Convex ones: the chord and the tangent in the middle.
    Others: the best of the chord, the tangent in the middle and the tangents through the ends of the
    interval.
    """
    if scalar.kinked is not None:
        return _kinked_lines(scalar.kinked, lower, upper)
    below = _line_below(scalar, lower, upper)
    slope, height = _line_below(scalar.negated(), lower, upper)
    return Lines(
        lower_slope=below[0],
        lower_height=below[1] - scalar.slack,
        upper_slope=-slope,
        upper_height=scalar.slack - height,
    )


def _kinked_lines(slopes: tuple[float, float], lower: Values, upper: Values) -> Lines:
    below, above = slopes
    crossing = (lower < 0) & (upper > 0)
    chord, height = kinked_chord(slopes, lower, upper)
    uncrossed = either(lower >= 0, above, below, lower)
    zero = torch.zeros_like(lower)
    other = torch.where(crossing, either(upper >= -lower, above, below, lower), uncrossed)
    if below <= above:
        return Lines(lower_slope=other, lower_height=zero, upper_slope=chord, upper_height=height)
    return Lines(lower_slope=chord, lower_height=height, upper_slope=other, upper_height=zero)


def kinked_chord(slopes: tuple[float, float], lower: Values, upper: Values) -> tuple[Values, Values]:
    """Slope and height of the chord of a function with a kink at 0, rounded away from the function; exact
    off the kink.
    """
    below, above = slopes
    crossing = (lower < 0) & (upper > 0)
    width = torch.where(crossing, upper - lower, 1.0)
    slope = torch.where(
        crossing, below + (above - below) * (upper / width), either(lower >= 0, above, below, lower)
    )
    ends = torch.stack([(below - slope) * lower, (above - slope) * upper])
    allowance = 8 * UNIT * (upper - lower) * (abs(below) + abs(above))
    height = ends.amax(0) + allowance if below <= above else ends.amin(0) - allowance
    return slope, torch.where(crossing, height, 0.0)


def _line_below(scalar: Scalar, lower: Values, upper: Values) -> tuple[Values, Values]:
    """Slope and height of a line below the function."""
    middle = (lower + upper) / 2
    if scalar.convex:
        return tangent(scalar, middle, lower, upper)
    chord = _chord_slope(scalar, lower, upper)
    if not scalar.bends:  # concave
        return chord, _ends(scalar, chord, lower, upper)
    slopes = [chord, scalar.slope(middle)]
    for piece in scalar.pieces:
        start, stop = (torch.clamp(edge, lower, upper) for edge in _edges(piece, lower))
        slopes += [scalar.slope(_touching(scalar, end, start, stop)) for end in (lower, upper)]
    best_slope, best_height = chord, torch.full_like(chord, -torch.inf)
    for slope in slopes:
        height = _height(scalar, slope, lower, upper)
        better = slope * middle + height > best_slope * middle + best_height
        best_slope = torch.where(better, slope, best_slope)
        best_height = torch.where(better, height, best_height)
    return best_slope, best_height


def tangent(scalar: Scalar, point: Values, lower: Values, upper: Values) -> tuple[Values, Values]:
    """Slope and height of the tangent of a convex function at a point of the interval."""
    slope = scalar.slope(point)
    height = scalar.value(point) - slope * point
    return slope, height - _allowance(slope, lower, upper, scalar.value(point).abs())


def _height(scalar: Scalar, slope: Values, lower: Values, upper: Values) -> Values:
    """A lower bound of ``act(x) - slope x`` over the interval."""
    least = _ends(scalar, slope, lower, upper)
    for piece in scalar.pieces:
        start, stop = (torch.clamp(edge, lower, upper) for edge in _edges(piece, lower))
        left, right = start, stop
        for _ in range(HALVINGS):
            middle = (left + right) / 2
            falling = scalar.slope(middle) <= slope
            left, right = torch.where(falling, middle, left), torch.where(falling, right, middle)
        # A convex function lies above its tangent at the left end of the bracket, up to the right end.
        drop = (scalar.slope(left) - slope).clamp(max=0.0) * (right - left)
        lowest = scalar.value(left) - slope * left + drop
        least = torch.minimum(least, lowest)
    largest = torch.maximum(scalar.value(lower).abs(), scalar.value(upper).abs())
    return least - _allowance(slope, lower, upper, largest)


def _ends(scalar: Scalar, slope: Values, lower: Values, upper: Values) -> Values:
    at_lower, at_upper = scalar.value(lower), scalar.value(upper)
    least = torch.minimum(at_lower - slope * lower, at_upper - slope * upper)
    return least - _allowance(slope, lower, upper, torch.maximum(at_lower.abs(), at_upper.abs()))


def _allowance(slope: Values, lower: Values, upper: Values, largest: Values) -> Values:
    """For the rounding of ``act``, its slope and the height, each taken to be right to 8 units of a number
    of its size; ``largest`` is that of ``act``.
    """
    size = 1 + lower.abs() + upper.abs()
    return 32 * UNIT * ((1 + slope.abs()) * size + largest)


def _chord_slope(scalar: Scalar, lower: Values, upper: Values) -> Values:
    width = upper - lower
    narrow: Bool[Tensor, ...] = width <= 1e-9 * (1 + lower.abs() + upper.abs())
    rise = scalar.value(upper) - scalar.value(lower)
    return torch.where(narrow, scalar.slope(lower), rise / torch.where(narrow, 1.0, width))


def _edges(piece: tuple[float, float], like: Values) -> tuple[Values, Values]:
    return like.new_tensor(piece[0]), like.new_tensor(piece[1])


def _touching(scalar: Scalar, end: Values, start: Values, stop: Values) -> Values:
    """The point of a convex piece ``[start, stop]`` whose tangent passes nearest below ``(end, act(end))``.

    The tangent's value at ``end`` rises as its point moves towards ``end``; found by halving.
    """
    target = scalar.value(end)
    leftwards = end < start
    near, far = torch.where(leftwards, start, stop), torch.where(leftwards, stop, start)
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        below = scalar.value(middle) + scalar.slope(middle) * (end - middle) <= target
        near, far = torch.where(below, near, middle), torch.where(below, middle, far)
    return far


def interval(scalar: Scalar, lower: Values, upper: Values) -> tuple[Values, Values]:
    """Least and largest value of the function on each interval, rounded outwards."""
    at_lower, at_upper = scalar.value(lower), scalar.value(upper)
    if scalar.kinked is not None:
        least, most = torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper)
        crossing = (lower < 0) & (upper > 0)
        least = torch.where(crossing, least.clamp(max=0.0), least)
        most = torch.where(crossing, most.clamp(min=0.0), most)
        spare = 2 * UNIT * torch.maximum(least.abs(), most.abs())
        return least - spare, most + spare
    flat = torch.zeros_like(lower)
    least = _level(scalar, flat, lower, upper) - scalar.slack
    most = -_level(scalar.negated(), flat, lower, upper) + scalar.slack
    return least, most


def _level(scalar: Scalar, flat: Values, lower: Values, upper: Values) -> Values:
    if scalar.name in MONOTONE:
        return _ends(scalar, flat, lower, upper)
    return _height(scalar, flat, lower, upper)


MONOTONE = {"softplus", "sigmoid", "tanh", "erf", "exp", "elu", "relu2"}
