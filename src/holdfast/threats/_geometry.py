"""What the threats share: limits of features in the points' own dtype, and random directions."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from holdfast import projections
from holdfast._tensors import all_finite
from holdfast.errors import InputError
from holdfast.projections import Rows
from holdfast.threats._half import neighbour

Limit = Float[Tensor, "#batch #features"]
Edge = float | Tensor
Box = tuple[Edge, Edge]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The box and the fixed features of one example, as rows that broadcast against a batch.

    Attributes:
        exact: the box as given, in float64: what membership is judged by.
        inner: the box rounded inwards to the points' dtype: what points are clamped to.
        free: which features may change; ``None`` for all.
        count: how many may change.
    """

    exact: tuple[Tensor, Tensor] | None
    inner: tuple[Tensor, Tensor] | None
    free: Bool[Tensor, " features"] | None
    count: int

    def masked(self, rows: Rows) -> Rows:
        """The rows with 0 in every fixed feature."""
        return rows if self.free is None else torch.where(self.free, rows, 0.0)

    def restored(self, points: Rows, x: Rows) -> Rows:
        """The points with ``x`` in every fixed feature."""
        return points if self.free is None else torch.where(self.free, points, x)

    def around(self, x: Rows) -> tuple[Rows, Rows] | tuple[None, None]:
        """How far below and above ``x`` the box reaches; 0 where ``x`` lies beyond its edge."""
        if self.inner is None:
            return None, None
        return (self.inner[0] - x).clamp(max=0.0), (self.inner[1] - x).clamp(min=0.0)

    def clamp(self, points: Rows, x: Rows) -> Rows:
        """Points clamped to the box, widened to ``x`` where that lies on the rounded side of an edge."""
        if self.inner is None:
            return points
        return torch.clamp(points, *self.box(x))

    def box(self, x: Rows) -> tuple[Limit, Limit]:
        """The box around each ``x``, widened to it; infinite where there is none."""
        if self.inner is None:
            edge = x.new_full((1, 1), torch.inf)
            return -edge, edge
        return torch.minimum(self.inner[0], x), torch.maximum(self.inner[1], x)

    def hold(self, points: Rows, x: Rows) -> Bool[Tensor, " batch"]:
        """Whether each point lies in the box (widened to ``x``) and agrees with ``x`` in the fixed
        features; in float64.
        """
        p, x = points.double(), x.double()
        held = torch.ones(len(p), dtype=torch.bool, device=p.device)
        if self.exact is not None:
            # The sign of a difference is exact, and a row's largest number costs a fraction of its truth
            # values.
            below, above = torch.minimum(self.exact[0], x) - p, p - torch.maximum(self.exact[1], x)
            held = torch.maximum(below, above).amax(1) <= 0
        if self.free is not None:
            held &= (self.free | (p == x)).all(1)
        return held


def limits(bounds: Box | None, fixed: Tensor | None, x: Tensor) -> Limits:
    """The limits for examples of the shape, dtype and device of ``x``.

    Raises:
        InputError: bounds or mask do not fit the shape of one example.
    """
    shape = x.shape[1:]
    exact = inner = free = None
    count = math.prod(shape)
    if bounds is not None:
        low, high = (_row("bounds", torch.as_tensor(edge, dtype=torch.float64), shape) for edge in bounds)
        exact = (low.to(x.device), high.to(x.device))
        inner = (_rounded(low, x.dtype, up=True).to(x.device), _rounded(high, x.dtype, up=False).to(x.device))
    if fixed is not None:
        mask = ~_row("fixed", fixed, shape)
        count, free = int(mask.sum()), mask.to(x.device)
    return Limits(exact=exact, inner=inner, free=free, count=count)


def _row(name: str, value: Tensor, shape: torch.Size) -> Tensor:
    try:
        return value.detach().cpu().expand(shape).reshape(-1)
    except RuntimeError:
        raise InputError(
            f"{name} must have the shape of one example, {tuple(shape)}, or broadcast to it, got "
            f"{tuple(value.shape)}; give one entry for each feature."
        ) from None


def _rounded(edge: Tensor, dtype: torch.dtype, *, up: bool) -> Tensor:
    """The number of ``dtype`` next to ``edge`` on the inner side of the box (itself where it is one)."""
    near = edge.to(dtype)
    wrong = near.double() < edge if up else near.double() > edge
    inward = torch.full_like(near, math.inf if up else -math.inf)
    return torch.where(wrong, neighbour(near, inward), near)


def checked_radius(radius: float | int) -> float:
    """A radius as a float, if it is a finite number of at least 0."""
    if not (math.isfinite(radius) and radius >= 0):
        raise InputError(
            f"radius must be a finite number >= 0, got {radius}; use 0 for a threat that changes nothing."
        )
    return float(radius)


def checked_mask(fixed: Tensor | None) -> None:
    """Refuse a mask that is not boolean or leaves nothing to change."""
    if fixed is None:
        return
    if fixed.dtype != torch.bool:
        raise InputError(
            f"fixed must be a boolean mask (true where a feature may not change), got {fixed.dtype}; "
            "convert with fixed.bool()."
        )
    if bool(fixed.all()):
        raise InputError(
            "fixed must leave at least one feature to change, got a mask that is true everywhere; clear one."
        )


def check_points(x: Tensor) -> None:
    """Refuse examples that are not a floating-point batch of finite numbers."""
    if not x.is_floating_point() or x.ndim < 2:
        raise InputError(
            f"x must be a floating-point batch (examples, ...), got {x.dtype} of shape {tuple(x.shape)}; "
            "convert with x.float() and give a single example as x[None]."
        )
    if not all_finite(x):
        rows = int((~x.isfinite().reshape(len(x), -1).all(1)).sum())
        raise InputError(
            f"x must be finite, got NaN or infinity in {rows} of {len(x)} examples; remove or fill these "
            "rows."
        )


def gaussian(x: Rows, generator: Generator) -> Rows:
    """Standard Gaussian numbers shaped like ``x``, drawn on the generator's device."""
    drawn = torch.randn(x.shape, dtype=x.dtype, device=generator.device, generator=generator)
    return drawn.to(x.device)


def uniform(x: Rows, generator: Generator) -> Rows:
    """Numbers uniform in [0, 1) shaped like ``x``, drawn on the generator's device."""
    drawn = torch.rand(x.shape, dtype=x.dtype, device=generator.device, generator=generator)
    return drawn.to(x.device)


def unit_l2(rows: Rows, size: float = 1.0) -> Rows:
    """Rows scaled to the l2 norm ``size``, without overflow or underflow; a row of zeros stays."""
    if rows.dtype == torch.float64:  # others are squared in float64, which is wide enough for them
        largest = rows.abs().amax(1, keepdim=True)
        rows = rows / torch.where(largest > 0, largest, 1.0)
    length = projections.lengths(rows, "2")[:, None]
    return rows / (torch.where(length > 0, length, 1.0) / size).to(rows.dtype)


def uniform_in_l2_ball(x: Rows, bound: Limits, generator: Generator) -> Rows:
    """Uniform in the unit l2 ball of the free features: a Gaussian direction and a length ``u^(1/k)`` for
    ``k`` features.
    """
    direction = unit_l2(bound.masked(gaussian(x, generator)))
    return direction * uniform(x[:, :1], generator) ** (1.0 / bound.count)
