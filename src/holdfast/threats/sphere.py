"""Data on a sphere: perturbations that keep the norm of the features from growing (unit vectors with a
constant feature).
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from holdfast import projections
from holdfast._arguments import MASK
from holdfast._rules import maybe, real, takes
from holdfast.projections import Rows, lengths
from holdfast.threats import _geometry as geometry
from holdfast.threats._geometry import Limits
from holdfast.threats.base import SHRINK, UNITS, Points, Threat


@takes(radius=real(least=0, most=1e300), fixed=maybe(MASK))
@dataclass(frozen=True, eq=False, repr=False)
class SphereSlice(Threat):
    """``B(x) = {x' : ||x' - x||_2 <= radius, ||x'_free||_2 <= ||x_free||_2, x' = x in the fixed features}``.

    The domain of Gao et al. (NeurIPS 2019) is unit vectors whose last coordinate is 1/2: a sphere in the
    other features. Its threat sets are caps of that sphere. This is the solid cap instead: a cap of the
    surface is not convex, and equality of norms cannot be tested without a tolerance. It contains the surface
    cap, so a robust loss over it bounds that one from above; where a linear maximiser over it leaves the
    sphere, shortening ``x`` hurts more than turning it.

    Args:
        radius: l2, in the data's units; 0 is the set ``{x}``.
        fixed: true where a feature may not change (the constant coordinate); of one example's shape.

    Raises:
        InputError: a radius that is negative or not finite, a mask that is not boolean.

    >>> import holdfast as hf
    >>> threat = hf.SphereSlice(0.1)
    >>> threat.spec
    'sphere:0.1'
    """

    radius: float | int
    fixed: Tensor | None = None
    _limits: dict[tuple[object, ...], Limits] = field(
        init=False, repr=False, default_factory=dict, compare=False
    )

    def __post_init__(self) -> None:
        geometry.checked_mask(self.fixed)
        object.__setattr__(self, "radius", geometry.checked_radius(self.radius))

    @property
    def spec(self) -> str:
        return f"sphere:{self.radius!r}"

    @property
    def reach(self) -> float:
        """``2 radius``: exact for examples of one norm (the midpoint of two is no longer than they), else
        an upper bound.
        """
        return 2 * self.radius

    @property
    def step_scale(self) -> float:
        return self.radius

    def check(self, x: Tensor) -> None:
        geometry.check_points(x)
        self._limits_for(x)

    def project(self, points: Points, x: Points) -> Points:
        rows = self._free(points, x)
        centre = self._free(x, x)
        result = projections.project_two_balls(rows, centre, float(self.radius), lengths(centre, "2"))
        return self._whole(result, x)

    def project_inside(self, points: Points, x: Points) -> Points:
        rows, centre = self._free(points, x), self._free(x, x)
        size = lengths(centre, "2")
        margin = UNITS * size
        radius = (1 - SHRINK) * self.radius - margin
        # x lies on the sphere, so outside the shrunk one: a radius that does not reach that leaves nothing
        # but x.
        result = projections.project_two_balls(rows, centre, radius.clamp(min=0.0), size - margin)
        stay = (radius <= 2 * margin) | (rows == centre).all(1)
        return self._whole(torch.where(stay[:, None], centre, result), x)

    def contains(self, points: Points, x: Points) -> Bool[Tensor, " batch"]:
        p, centre = points.flatten(1).double(), x.flatten(1).double()
        bound = self._limits_for(x)
        inside = (lengths(bound.masked(p), "2") <= lengths(bound.masked(centre), "2")) & bound.hold(p, centre)
        return ((lengths(p - centre, "2") <= self.radius) & inside) | (
            (p == centre).all(1) & p.isfinite().all(1)
        )

    def sample(self, x: Points, *, generator: Generator) -> Points:
        """Uniform in the l2 ball of the free features, then projected, so that the sphere carries mass;
        strictly inside.
        """
        rows = x.flatten(1)
        delta = self.radius * geometry.uniform_in_l2_ball(rows, self._limits_for(x), generator)
        return self.project_inside((rows + delta).reshape(x.shape), x)

    def maximise(self, direction: Points, x: Points) -> Points:
        centre = self._free(x, x)
        towards = self._limits_for(x).masked(direction.flatten(1))
        result = projections.maximise_two_balls(towards, centre, float(self.radius), lengths(centre, "2"))
        return self._whole(result, x)

    def step(self, gradient: Points, size: float) -> Points:
        """``size g / ||g||`` over the free features."""
        return (size * geometry.unit_l2(self._limits_for(gradient).masked(gradient.flatten(1)))).reshape(
            gradient.shape
        )

    def distance(self, first: Points, second: Points) -> Float[Tensor, " batch"]:
        a, b = first.flatten(1).double(), second.flatten(1).double()
        bound = self._limits_for(first)
        apart = lengths(bound.masked(a - b), "2")
        return apart if bound.free is None else apart.masked_fill(((a != b) & ~bound.free).any(1), math.inf)

    def _free(self, points: Points, x: Points) -> Rows:
        return self._limits_for(x).masked(points.flatten(1))

    def _whole(self, rows: Rows, x: Points) -> Points:
        """Rows with the fixed features put back."""
        free = self._limits_for(x).free
        return (rows if free is None else torch.where(free, rows, x.flatten(1))).reshape(x.shape)

    def _limits_for(self, x: Tensor) -> Limits:
        key = (x.shape[1:], x.dtype, x.device)
        if key not in self._limits:
            self._limits[key] = geometry.limits(None, self.fixed, x)
        return self._limits[key]
