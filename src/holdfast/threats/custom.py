"""A user's own threat, given by its projection."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from holdfast._rules import FUNCTION, RADIUS, TEXT, maybe, takes
from holdfast._tensors import generator, per_example
from holdfast.errors import InputError
from holdfast.projections import lengths
from holdfast.threats import _geometry as geometry
from holdfast.threats.base import SHRINK, Points, Threat

Projection = Callable[[Tensor, Tensor], Tensor]
Membership = Callable[[Tensor, Tensor], Tensor]

_FAR = 1e6  # how many radii away the point is whose projection stands for a linear maximiser


@takes(project=FUNCTION, radius_hint=RADIUS, contains=maybe(FUNCTION), name=TEXT)
class CustomThreat(Threat):
    """Closed convex sets ``B(x)`` given by a projection of your own.

    ``project(points, x)`` is the nearest point of ``B(x_i)`` in the Euclidean norm.

    Args:
        project: maps points and examples (batch, ...) to the nearest points; must work in float64 and return
            points of the set unchanged, bit for bit (clamp, or torch.where: ``x + (points - x)`` rounds).
        radius_hint: a bound on ``||x' - x||_2`` over all ``x'`` in ``B(x)``, in the data's units.
        contains: maps points and examples in float64 to one boolean per row, without tolerance. By default a
            point is in the set when ``project`` leaves it unchanged.
        name: for terminals and run folders.

    Raises:
        InputError: ``radius_hint`` is not a finite positive number.

    >>> import torch
    >>> import holdfast as hf
    >>> up = lambda points, x: torch.minimum(torch.maximum(points, x), x + 0.1)  # features may only rise
    >>> threat = hf.CustomThreat(up, radius_hint=0.2, name="rise")
    >>> threat.project(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]]))
    tensor([[0.6000, 0.5000]])
    """

    def __init__(
        self,
        project: Projection,
        *,
        radius_hint: float | int,
        contains: Membership | None = None,
        name: str = "custom",
    ) -> None:
        self._project, self._contains, self._name, self._radius = project, contains, name, float(radius_hint)

    @property
    def spec(self) -> str:
        return self._name

    @property
    def reach(self) -> float:
        """Twice ``radius_hint``: an upper bound."""
        return 2 * self._radius

    @property
    def step_scale(self) -> float:
        return self._radius

    def check(self, x: Tensor) -> None:
        """Try the projection on random points: shape, examples inside their sets, points of the set left
        unchanged, the bound.

        Raises:
            InputError: what failed, for how many examples, and the remedy.
        """
        geometry.check_points(x)
        rows = x.detach().double()
        draw = generator(0)
        far = rows + 2 * self._radius * geometry.gaussian(rows.flatten(1), draw).reshape(x.shape)
        near = self._nearest(far, rows)
        if near.shape != x.shape:
            raise InputError(
                f"project must keep the shape {tuple(x.shape)}, got {tuple(near.shape)}; return one "
                "point for each row."
            )
        share = per_example(geometry.uniform(rows.flatten(1)[:, :1], draw), x)
        between = torch.lerp(rows, near, share)
        for what, points in (("the examples", rows), ("points between example and edge", between)):
            missed = ~self.contains(points, rows)
            if bool(missed.any()):
                raise InputError(
                    f"project must return {what} unchanged, bit for bit, got {int(missed.sum())} of {len(x)} "
                    "moved; pick unchanged points with torch.where, or pass contains=."
                )
        if bool((self.distance(near, rows) > self._radius * (1 + 1e-9)).any()):
            raise InputError(
                "radius_hint must bound the distance of every point of the set from its example, got "
                f"{self._radius:g} and a point at {float(self.distance(near, rows).max()):g}; raise it."
            )

    def _nearest(self, points: Points, x: Points) -> Points:
        """The user's projection, of copies: one that works in place changes nothing of the caller's."""
        return self._project(points.clone(), x.clone())

    def project(self, points: Points, x: Points) -> Points:
        return self._nearest(points, x)

    def project_inside(self, points: Points, x: Points) -> Points:
        """Projection, drawn towards ``x`` (convexity keeps it inside) by the first of the shares 1e-5,
        1e-4 ... 1/2, 1 that passes.
        """
        near = self._nearest(points, x)
        result = x
        for share in (0.5, 1e-1, 1e-2, 1e-3, 1e-4, SHRINK):
            drawn = torch.lerp(near, x, share)
            result = torch.where(per_example(self.contains(drawn, x), x), drawn, result)
        return result

    def contains(self, points: Points, x: Points) -> Bool[Tensor, " batch"]:
        p, centre = points.double(), x.double()
        finite = p.flatten(1).isfinite().all(1)
        if self._contains is not None:
            return self._contains(p.clone(), centre.clone()) & finite
        return (self._nearest(p, centre) == p).flatten(1).all(1) & finite

    def sample(self, x: Points, *, generator: Generator) -> Points:
        """Uniform in the l2 ball of radius ``radius_hint``, then projected strictly inside."""
        rows = x.flatten(1)
        everywhere = geometry.limits(None, None, x)
        delta = self._radius * geometry.uniform_in_l2_ball(rows, everywhere, generator)
        return self.project_inside((rows + delta).reshape(x.shape), x)

    @property
    def maximise_error(self) -> float:
        """``2e-6 radius_hint``, as `maximise` says."""
        return 2e-6 * self._radius

    def maximise(self, direction: Points, x: Points) -> Points:
        """Projection (in float64) of a point a million radii along ``direction``.

        It misses the maximum by at most ``2e-6 radius_hint ||direction||_2``: nearness of ``p = P(x + t g)``
        gives ``t <g, z - p> <= <p - x, z - p> <= 2 radius_hint^2`` for every ``z`` of the set.
        """
        rows = x.flatten(1).double()
        far = rows + _FAR * self._radius * geometry.unit_l2(direction.flatten(1).double())
        return self._nearest(far.reshape(x.shape), x.double()).to(x.dtype)

    def step(self, gradient: Points, size: float) -> Points:
        """``size g / ||g||_2``."""
        return (size * geometry.unit_l2(gradient.flatten(1))).reshape(gradient.shape)

    def distance(self, first: Points, second: Points) -> Float[Tensor, " batch"]:
        gap = first.flatten(1).double() - second.flatten(1).double()
        return lengths(gap, "2")
