"""Half precision: its numbers lie so far apart that those beside a point of a threat set need not lie in
the set.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from holdfast._tensors import COARSE, flatten, per_example

Points = Float[Tensor, "batch ..."]
Contains = Callable[[Points, Points], Bool[Tensor, " batch"]]

SHARES = (0.999, 0.99, 0.95, 0.8)
"""Of the way from the example to a point, tried where the numbers next to the point itself lie outside its
set.
"""


def representable(contains: Contains, points: Points, x: Points, dtype: torch.dtype) -> Points:
    """Points of the sets that are numbers of ``dtype``, near ``points``, which lie in the sets; in the dtype
    of ``points``.

    The nearest numbers where they lie in the set. Else, of numbers next to the point on the example's side
    (in a ball and a box always) and those nearest to points a little nearer to the example, what lies in the
    set and goes farthest the same way.

    Args:
        contains: membership, as `Threat.contains`.
        x: the examples, numbers of ``dtype``.
    """
    way = flatten(points - x).double()
    best = _nearest(points, dtype)
    inside = contains(best, x)
    if bool(inside.all()):
        return best
    best = torch.where(per_example(inside, x), best, x)
    reach = torch.where(inside, torch.inf, 0.0).to(way)
    for tried in (
        _inwards(points, x, dtype),
        *(_nearest(torch.lerp(x, points, share), dtype) for share in SHARES),
    ):
        ahead = (flatten(tried - x).double() * way).sum(1)
        better = contains(tried, x) & (ahead > reach)
        best = torch.where(per_example(better, x), tried, best)
        reach = torch.where(better, ahead, reach)
    return best


def _nearest(points: Points, dtype: torch.dtype) -> Points:
    return points.to(dtype).to(points.dtype)


def _inwards(points: Points, x: Points, dtype: torch.dtype) -> Points:
    """The numbers of ``dtype`` next to each entry of ``points`` on the side of ``x``, or the entry itself
    where it is one.
    """
    near = points.to(dtype)
    beyond = (near.to(points.dtype) - x).abs() > (points - x).abs()
    return torch.where(beyond, neighbour(near, x.to(dtype)), near).to(points.dtype)


def neighbour(values: Tensor, towards: Tensor) -> Tensor:
    """The next number of a half-precision dtype in the direction of another, by its bits:
    `torch.nextafter` knows only some dtypes.
    """
    if values.dtype not in COARSE:
        return torch.nextafter(values, towards)
    ahead = towards.float() - values.float()
    bits = values.contiguous().view(torch.int16)
    grows = (ahead > 0) == (values > 0)  # away from 0
    moved = torch.where(grows, bits + 1, bits - 1)
    least = torch.where(ahead > 0, 1, 1 - 2**15).to(torch.int16)  # the smallest number of either sign
    moved = torch.where(values == 0, least, moved)
    return torch.where(ahead == 0, bits, moved).view(values.dtype)


def in_float32(method: Callable[..., Tensor], *, into_set: bool) -> Callable[..., Tensor]:
    """A threat's method that works in float32 on points in half precision, and rounds its answer to these:
    ``into_set``, within the sets.
    """

    @wraps(method)
    def widened(self: Any, *values: Any, **named: Any) -> Tensor:
        x = named.get("x", values[-1] if values else None)
        if not isinstance(x, Tensor) or x.dtype not in COARSE:
            return method(self, *values, **named)
        dtype, x = x.dtype, x.float()
        found = method(self, *(_wide(v) for v in values), **{name: _wide(v) for name, v in named.items()})
        return (representable(self.contains, found, x, dtype) if into_set else found).to(dtype)

    return widened


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in COARSE else value
