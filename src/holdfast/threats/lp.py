"""Balls of the l-inf, l2 and l1 norm, within a valid box and with features that may not change."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from typing_extensions import TypeIs

from holdfast import _tensors, projections
from holdfast._arguments import BOUNDS, MASK
from holdfast._overrides import is_value_of
from holdfast._rules import Rule, maybe, real, takes
from holdfast.errors import InputError
from holdfast.projections import Rows
from holdfast.threats import _geometry as geometry
from holdfast.threats._geometry import Limits
from holdfast.threats.base import SHRINK, UNITS, Points, Threat

_MAXIMISE = {"inf": projections.maximise_linf, "2": projections.maximise_l2, "1": projections.maximise_l1}
_SPARE = 1.5e-5  # share of the radius by which a rough projection may be off
_DUAL = {"inf": "1", "2": "2", "1": "inf"}
SPARSITY = 0.05
TRIED = 8
"""Examples at which a subclass is held against its own linear maximiser."""


def _read_norm(norm: Any) -> str:
    text = norm.strip().lower() if isinstance(norm, str) else f"{float(norm):g}"
    text = text.removeprefix("l")
    if text not in _DUAL or isinstance(norm, bool):
        raise ValueError
    return text


NORM = Rule(
    what="'inf', '2' or '1'",
    read=_read_norm,
    hint=lambda value: "'inf' bounds the change of every feature alike",
)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class LpBall(Threat):
    """``B(x) = {x' : ||x' - x|| <= radius, low <= x' <= high, x' = x in the fixed features}``.

    Where ``x`` itself lies beyond an edge of the box (by the rounding of its dtype, else `check` refuses it)
    the edge is moved to ``x``, so that ``B(x)`` always contains ``x``.

    Args:
        norm: ``"inf"``, ``"2"`` or ``"1"``; ``"linf"``, ``2`` and ``math.inf`` are understood too.
        radius: in the data's units; 0 is the set ``{x}``.
        bounds: valid box (low, high), numbers or tensors of one example's shape (or that broadcast to it);
            ``None`` for no box.
        fixed: true where a feature may not change; of one example's shape. ``None`` for nowhere.
        sparsity: for l1, the share of the features that may change which one `step` moves.

    Raises:
        InputError: an unknown norm, a radius that is negative or not finite, an empty box, a mask that is not
            boolean.

    >>> import torch
    >>> import holdfast as hf
    >>> threat = hf.LpBall("inf", 8 / 255, bounds=(0, 1))
    >>> threat.spec, threat.contains(torch.tensor([[0.02]]), torch.tensor([[0.0]]))
    ('linf:8/255', tensor([True]))
    """

    norm: str
    radius: float
    bounds: tuple[float | Tensor, float | Tensor] | None
    fixed: Tensor | None
    sparsity: float
    _limits: dict[tuple[object, ...], Limits] = field(init=False, repr=False, compare=False)

    @takes(
        norm=NORM,
        radius=real(least=0, most=1e300),
        bounds=maybe(BOUNDS),
        fixed=maybe(MASK),
        sparsity=real(above=0, most=1),
    )
    def __init__(
        self,
        norm: str | float | int,
        radius: float | int,
        *,
        bounds: tuple[float | int | Tensor, float | int | Tensor] | None = None,
        fixed: Tensor | None = None,
        sparsity: float = SPARSITY,
    ) -> None:
        geometry.checked_mask(fixed)
        if sparsity != SPARSITY and norm != "1":
            raise InputError(
                f"sparsity is for the l1 norm, got it with norm {norm!r}; leave it out, or use norm '1'."
            )
        values: dict[str, Any] = {
            "norm": norm,
            "radius": geometry.checked_radius(radius),
            "bounds": _checked_bounds(bounds),
            "fixed": _own(fixed),
            "sparsity": sparsity,
            "_limits": {},
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LpBall):
            return NotImplemented
        mine, theirs = ((t.norm, t.radius, t.sparsity, t.bounds is None) for t in (self, other))
        pairs = zip((*(self.bounds or ()), self.fixed), (*(other.bounds or ()), other.fixed), strict=False)
        return mine == theirs and all(_same(a, b) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((self.norm, self.radius))

    @property
    def spec(self) -> str:
        """``l`` norm ``:`` radius, which `parse_threat` reads back to the same ball; n/255 is written so."""
        levels = round(self.radius * 255)
        plain = f"{self.radius!r}".removesuffix(".0")
        return f"l{self.norm}:" + (
            f"{levels}/255" if len(plain) > 8 and levels / 255 == self.radius else plain
        )

    @property
    def dual_norm(self) -> str:
        """Name of the norm ``max <g, z>`` over the unit ball: l1 for l-inf, l2 for l2, l-inf for l1."""
        return _DUAL[self.norm]

    @property
    def reach(self) -> float:
        """``2 radius``. Two sets meet exactly where `distance` is at most that, box or not: for examples in
        the box the midpoint of two that agree in the fixed features lies in the box and half their distance
        from either.
        """
        return 2 * self.radius

    @property
    def step_scale(self) -> float:
        return self.radius

    def with_radius(self, radius: float | int) -> "LpBall":
        """The same threat with another radius."""
        return replace(self, radius=radius)

    def by_radius(self, radii: Tensor) -> "list[tuple[Tensor, LpBall]]":
        """For examples with radii of their own: the rows of each distinct radius, with the ball of that
        radius.

        Raises:
            InputError: a radius that is negative or not finite.
        """
        values, groups = torch.unique(radii.detach().cpu().double().flatten(), return_inverse=True)
        balls = [self.with_radius(float(value)) for value in values]
        return [((groups == k).nonzero().squeeze(1), ball) for k, ball in enumerate(balls)]

    def check(self, x: Tensor) -> None:
        """Refuse examples that are not finite floating-point numbers, or lie outside the box by more than
        float32 rounding.

        Raises:
            InputError: how many rows, by how much, and the remedy.
        """
        geometry.check_points(x)
        bound = self._limits_for(x)
        if len(x) and not is_value_of(type(self), LpBall):
            self._check_maximiser(x[:TRIED])
        if bound.exact is None:
            return
        unit = max(UNITS, 2 * torch.finfo(x.dtype).eps)  # half precision rounds more
        outside, farthest = 0, -math.inf
        for part in _tensors.portions(x):
            rows = x[part].flatten(1).double()
            over = torch.maximum(bound.exact[0] - rows, rows - bound.exact[1])
            outside += int((over > unit * rows.abs()).any(1).sum())
            farthest = max(farthest, float(over.max()))
        if outside:
            raise InputError(
                f"x must lie in the threat's bounds, got {outside} of {len(x)} examples outside, "
                f"by up to {farthest:.3g}; clip the data or widen bounds."
            )

    def _check_maximiser(self, x: Points) -> None:
        """Refuse a subclass whose sets reach farther than its linear maximiser says, on which every bound of
        such a set rests.

        Tried at points near and far, and at their projections: those that the subclass takes for members.
        """
        draw = _tensors.generator(0, x.device)
        for reach in (0.5, 2.0, 30.0, 1e4):
            noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=draw)
            points = x + reach * max(self.radius, 1e-6) * noise
            for member in (points, self.project(points, x)):
                away = (member - x).flatten(1).double()
                said = (away * (self.maximise(member - x, x) - x).flatten(1).double()).sum(1)
                beyond = away.square().sum(1) > said * (1 + 1e-3) + 1e-6 * (
                    1 + x.flatten(1).double().square().sum(1)
                )
                if bool((beyond & self.contains(member, x)).any()):
                    raise InputError(
                        f"{type(self).__name__} must hold no points beyond its linear maximiser, got some "
                        "that its project or contains lets in; override maximise and sample as well, or "
                        "describe the set with hf.CustomThreat."
                    )

    def norm_of(self, delta: Points) -> Float[Tensor, " batch"]:
        """The threat's norm of each row."""
        return projections.lengths(delta.flatten(1), self.norm).to(delta.dtype)

    def project(self, points: Points, x: Points) -> Points:
        return self._project(points, x, self.radius)

    def projector(self, x: Points) -> Callable[[Points], Points]:
        centre, bound = x.flatten(1), self._limits_for(x)
        if self.norm == "inf":
            lower, upper = (edge.reshape(x.shape) for edge in self._edges(centre, self.radius, bound))
            return lambda points: torch.clamp(points, lower, upper)
        low, high = bound.around(centre)
        # As far in as rounding may push a point out: the later projection then finds it inside, and need not
        # search.
        spare = _SPARE * self.radius + UNITS * projections.lengths(bound.masked(centre), self.norm)
        reach = (self._inner_radius(centre, bound) - spare).clamp(min=0.0)[:, None].to(x.dtype)

        def project(points: Points) -> Points:
            p = bound.restored(points.flatten(1), centre)
            if self.norm == "1":
                kept = projections.roughly_project_l1(p - centre, reach, low, high)
                return kept.add_(centre).reshape(points.shape)
            if low is None or high is None:
                share = projections.factor_l2(p - centre, self.radius)
                return _between(centre, p, share).reshape(points.shape)
            kept = projections.roughly_project_l2(p - centre, reach, low, high)
            return kept.add_(centre).reshape(points.shape)

        return project

    def project_inside(self, points: Points, x: Points) -> Points:
        return self._project(points, x, self._inner_radius(x.flatten(1), self._limits_for(x)))

    def contains(self, points: Points, x: Points) -> Bool[Tensor, " batch"]:
        p, centre = points.flatten(1).double(), x.flatten(1).double()
        near = projections.lengths(p - centre, self.norm) <= self.radius  # false for NaN and for infinity
        return near & self._limits_for(x).hold(p, centre)

    def sample(self, x: Points, *, generator: Generator) -> Points:
        """l-inf: uniform in ``B(x)``. l2 and l1: uniform in the ball of the free features, then projected
        onto ``B(x)``, so that faces of the box may carry mass. The points lie strictly inside: they pass `contains`.
        """
        rows, bound = x.flatten(1), self._limits_for(x)
        if self.norm == "inf":
            lower, upper = self._edges(rows, self._inner_radius(rows, bound)[:, None], bound)
            drawn = torch.lerp(lower, upper, geometry.uniform(rows, generator))
            return torch.clamp(drawn, lower, upper).reshape(x.shape)
        if self.norm == "2":
            delta = self.radius * geometry.uniform_in_l2_ball(rows, bound, generator)
        else:
            delta = self.radius * _uniform_in_l1_ball(rows, bound, generator)
        return self.project_inside(x + delta.reshape(x.shape), x)

    def sample_box(self, x: Points, *, generator: Generator) -> Points:
        """Uniform between the bounds in the features that may change; features without two finite bounds
        as in `sample`.
        """
        rows, bound = x.flatten(1), self._limits_for(x)
        if bound.inner is None:
            return self.sample(x, generator=generator)
        low, high = bound.box(rows)
        drawn = torch.lerp(low, high, geometry.uniform(rows, generator))
        between = (high - low).isfinite()
        if not bool(between.all()):
            drawn = torch.where(between, drawn, self.sample(x, generator=generator).flatten(1))
        return bound.restored(drawn, rows).reshape(x.shape)

    def maximise(self, direction: Points, x: Points) -> Points:
        rows, bound = x.flatten(1), self._limits_for(x)
        delta = _MAXIMISE[self.norm](bound.masked(direction.flatten(1)), self.radius, *bound.around(rows))
        return bound.clamp(rows + delta, rows).reshape(x.shape)

    def step(self, gradient: Points, size: float) -> Points:
        """l-inf: ``size sign(g)``. l2: ``size g / ||g||``. l1: ``size sign(g) / k`` on the ``k`` largest
        ``|g|``, where ``k`` is the share ``sparsity`` of the features that may change (Tramer and Boneh,
        NeurIPS 2019): ``k = 1`` is steepest, but a box would let it add little a step. Features that may not
        change never move.
        """
        bound = self._limits_for(gradient)
        rows = bound.masked(gradient.flatten(1))
        if self.norm == "inf":
            move = rows.sign()
        elif self.norm == "2":
            return geometry.unit_l2(rows, size).reshape(gradient.shape)
        else:
            top = rows.abs().topk(max(1, round(self.sparsity * bound.count)), dim=1).indices
            signs = torch.zeros_like(rows).scatter_(1, top, rows.gather(1, top).sign())
            move = signs / signs.abs().sum(1, keepdim=True).clamp(min=1.0)
        return (size * move).reshape(gradient.shape)

    def distance(self, first: Points, second: Points) -> Float[Tensor, " batch"]:
        a, b = first.flatten(1).double(), second.flatten(1).double()
        bound = self._limits_for(first)
        apart = projections.lengths(bound.masked(a - b), self.norm)
        return apart if bound.free is None else apart.masked_fill(((a != b) & ~bound.free).any(1), math.inf)

    def _project(self, points: Points, x: Points, radius: projections.Radius) -> Points:
        centre, bound = x.flatten(1), self._limits_for(x)
        p = bound.restored(points.flatten(1), centre)
        if self.norm == "inf":
            column = radius[:, None] if isinstance(radius, Tensor) else radius
            return torch.clamp(p, *self._edges(centre, column, bound)).reshape(points.shape)
        if self.norm == "2":
            share = projections.factor_l2(p - centre, radius, *bound.around(centre))
            moved = _between(centre, p, share)
        else:
            delta = p - centre
            kept = projections.project_l1(delta, radius, *bound.around(centre))
            moved = torch.where(kept == delta, p, centre + kept)  # x + (p - x) would round
        return bound.clamp(moved, centre).reshape(points.shape)

    def _inner_radius(self, x: Rows, bound: Limits) -> Float[Tensor, " batch"]:
        size = projections.lengths(bound.masked(x), self.norm)
        return ((1 - SHRINK) * self.radius - UNITS * size).clamp(min=0.0)

    def _edges(self, x: Rows, radius: float | Float[Tensor, "batch 1"], bound: Limits) -> tuple[Rows, Rows]:
        """Least and largest value of each feature in the l-inf ball within the box."""
        reach = radius.to(x.dtype) if isinstance(radius, Tensor) else radius
        lower, upper = bound.clamp(x - reach, x), bound.clamp(x + reach, x)
        return bound.restored(lower, x), bound.restored(upper, x)

    def _versions(self) -> tuple[int, ...]:
        return tuple(part._version for part in (*(self.bounds or ()), self.fixed) if isinstance(part, Tensor))

    def _limits_for(self, x: Tensor) -> Limits:
        # Tensors count with their versions: what is written into them later is another box.
        key = (x.shape[1:], x.dtype, x.device, *self._versions())
        if key not in self._limits:
            self._limits[key] = geometry.limits(self.bounds, self.fixed, x)
        return self._limits[key]


def _own(value: Any) -> Any:
    """A tensor of the threat's own, so that the caller's later changes of theirs do not reach it."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _between(x: Rows, points: Rows, share: Float[Tensor, "batch 1"]) -> Rows:
    """``x + share (points - x)``; a share of 1 keeps the bits of the points. Shares too small for their
    dtype count as 0.
    """
    share = share.to(x.dtype)
    tiny = torch.finfo(x.dtype).tiny
    moved: Tensor = torch.lerp(x, points, torch.where(share < tiny, 0.0, share))
    return moved


def _checked_bounds(
    bounds: tuple[float | int | Tensor, float | int | Tensor] | None,
) -> tuple[float | Tensor, float | Tensor] | None:
    if bounds is None:
        return None
    low, high = (edge if isinstance(edge, Tensor) else float(edge) for edge in bounds)
    for edge in (low, high):
        if isinstance(edge, Tensor) and (edge.is_complex() or edge.dtype == torch.bool):
            raise InputError(
                f"bounds must be numbers or tensors of numbers, got {edge.dtype}; pixels have (0.0, 1.0)."
            )
    if not bool(torch.all(torch.as_tensor(low).cpu() <= torch.as_tensor(high).cpu())):
        raise InputError(
            f"bounds must be (low, high) with low <= high everywhere and no NaN, got {_short(low)} and "
            f"{_short(high)}; swap them or use -inf and inf for no limit."
        )
    return _own(low), _own(high)


def _short(edge: float | Tensor) -> str:
    return f"a tensor of shape {tuple(edge.shape)}" if isinstance(edge, Tensor) else f"{edge:g}"


def _same(a: float | Tensor | None, b: float | Tensor | None) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a.cpu(), b.cpu())
    return type(a) is type(b) and a == b


def _uniform_in_l1_ball(x: Rows, bound: Limits, generator: Generator) -> Rows:
    """Uniform in the unit l1 ball of the free features: signed exponentials over their sum with one more
    exponential.
    """
    size = bound.masked(-torch.log1p(-geometry.uniform(x, generator)))
    rest = -torch.log1p(-geometry.uniform(x[:, :1], generator))
    signs = torch.where(geometry.uniform(x, generator) < 0.5, -1.0, 1.0)
    return signs * size / (size.sum(1, keepdim=True) + rest)


def is_ball(threat: Threat) -> TypeIs[LpBall]:
    """Whether it is a ball with its geometry as written: proofs read its norm, radius, box and mask alone.

    Args:
        threat: any threat.

    >>> import holdfast as hf
    >>> hf.threats.is_ball(hf.LpBall("2", 0.5)), hf.threats.is_ball(hf.SphereSlice(0.1))
    (True, False)
    """
    return is_value_of(type(threat), LpBall)
