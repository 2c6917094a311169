"""The two ways APGD moves and sets its step sizes, and what it knows of each row."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeGuard

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast import _tensors
from holdfast.losses import Labels, PerExample
from holdfast.threats.base import Points, Threat
from holdfast.threats.lp import LpBall


def is_l1(threat: Threat) -> TypeGuard[LpBall]:
    """Whether the threat is an l1 ball, where steps are sparse."""
    return isinstance(threat, LpBall) and threat.norm == "1"


def _pick(mask: Bool[Tensor, " batch"], first: Tensor, second: Tensor) -> Tensor:
    """``first`` in the rows of the mask. By `lerp`, exact at 0 and 1: on a CPU ``torch.where`` over
    features takes ten times as long.
    """
    if first.ndim == 1:
        return torch.where(mask, first, second)
    weight = _tensors.per_example(mask, first).to(first.dtype)
    picked: Tensor = torch.lerp(second, first, weight)
    return picked


@dataclass(kw_only=True)
class AscentRows:
    """All that a climb knows of the rows still in it; the rows of every tensor belong together."""

    x: Float[Tensor, "batch ..."]
    y: Int[Tensor, " batch"]
    target: Int[Tensor, " batch"]
    points: Float[Tensor, "batch ..."]
    elsewhere: Float[Tensor, "batch ..."]  # where to look next from a point without a gradient
    before: Float[Tensor, "batch ..."]
    gradient: Float[Tensor, "batch ..."]
    value: Float[Tensor, " batch"]
    best: Float[Tensor, "batch ..."]
    best_gradient: Float[Tensor, "batch ..."]
    best_value: Float[Tensor, " batch"]
    rises: Float[Tensor, " batch"]  # steps since the last checkpoint that raised the value
    size: Float[Tensor, " batch"]
    checked_value: Float[Tensor, " batch"]  # best value at the last checkpoint
    halved: Bool[Tensor, " batch"]  # whether that checkpoint halved the step
    changed: Float[Tensor, " batch"]  # features the best point had changed by then

    @classmethod
    def at(
        cls,
        start: Points,
        elsewhere: Points,
        x: Points,
        y: Labels,
        target: Labels,
        size: PerExample,
        changed: PerExample,
    ) -> "AscentRows":
        """Before the first gradient: nothing is known of the start, so that whatever arrives is better."""
        nothing = torch.full_like(size, -torch.inf)
        return cls(
            x=x,
            y=y,
            target=target,
            points=start,
            elsewhere=elsewhere,
            before=start,
            gradient=torch.zeros_like(start),
            value=torch.full_like(size, torch.inf),
            best=start,
            best_gradient=torch.zeros_like(start),
            best_value=nothing,
            rises=torch.zeros_like(size),
            size=size,
            checked_value=nothing,
            halved=torch.ones_like(size, dtype=torch.bool),
            changed=changed,
        )

    def arrive(self, points: Points, gradient: Points, value: PerExample) -> None:
        better = (value > self.best_value) & value.isfinite()
        self.rises = self.rises + (value > self.value)
        self.before, self.points, self.gradient, self.value = self.points, points, gradient, value
        self.best = _pick(better, points, self.best)
        self.best_gradient = _pick(better, gradient, self.best_gradient)
        self.best_value = torch.where(better, value, self.best_value)

    def back(self, which: Bool[Tensor, " batch"]) -> None:
        """Return to the best point."""
        self.points = _pick(which, self.best, self.points)
        self.gradient = _pick(which, self.best_gradient, self.gradient)

    def off_flat(self, moved: Points) -> Points:
        """``moved``; rows without a gradient, from where no step leads anywhere, go ``elsewhere`` and keep
        the point halfway back to the example for the next time: in turn along the rays through two starts,
        ever closer to the example.
        """
        flat = torch.linalg.vector_norm(_tensors.flatten(self.gradient), ord=torch.inf, dim=1) == 0
        if flat.device.type == "cpu" and not bool(flat.any()):
            return moved
        moved = _pick(flat, self.elsewhere, moved)
        self.elsewhere = _pick(flat, torch.lerp(self.x, self.points, 0.5), self.elsewhere)
        return moved

    def kept(self, stay: Bool[Tensor, " batch"]) -> "AscentRows":
        return AscentRows(**{field.name: getattr(self, field.name)[stay] for field in fields(self)})


@dataclass(frozen=True)
class Halving:
    """Steps of the threat's own shape with momentum; arXiv 2003.01690, algorithm 1."""

    threat: Threat
    rho: float

    def first_size(self, start: Points) -> PerExample:
        return start.new_full((len(start),), 2 * self.threat.step_scale)

    def changed(self, points: Points, x: Points) -> PerExample:
        """Not needed here."""
        return points.new_zeros(len(points))

    def checkpoints(self, steps: int) -> dict[int, int]:
        """The number of steps done at each checkpoint, with how many of them since the one before."""
        gap, least, less = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
        found, done = {}, gap
        while done < steps:
            found[done] = gap
            gap = max(gap - less, least)
            done += gap
        return found

    def move(self, rows: AscentRows, into_set: Callable[[Points], Points], *, first: bool) -> Points:
        step = self.threat.step(rows.gradient, 1.0).mul_(_tensors.per_example(rows.size, rows.x))
        ahead = into_set(step.add_(rows.points))
        if first:
            return ahead
        moved: Tensor = torch.lerp(rows.points, ahead, 0.75)
        return moved.add_(rows.points, alpha=0.25).sub_(rows.before, alpha=0.25)

    def check(self, rows: AscentRows, gap: int) -> None:
        idle = ~rows.halved & (rows.best_value <= rows.checked_value)
        halve = (rows.rises <= self.rho * gap) | idle
        rows.size = torch.where(halve, rows.size / 2, rows.size)
        rows.back(halve)
        rows.halved, rows.checked_value, rows.rises = halve, rows.best_value, torch.zeros_like(rows.rises)


@dataclass(frozen=True)
class Sparse:
    """Steps along few features; arXiv 2103.01208, algorithm 1, but for features that the box stops.

    The paper's steps move the features of largest gradient, and spend most of their length on those already
    at their edge. Here such features are not counted, neither among those to move nor among those changed;
    they are pushed all the same, less where their gradient is less, so that the projection takes from them
    last. On a linear model this is what lets the climb end at the optimum, where all changed features but one
    are at an edge.
    """

    threat: LpBall

    def first_size(self, start: Points) -> PerExample:
        return start.new_full((len(start),), self.threat.step_scale)

    def checkpoints(self, steps: int) -> dict[int, int]:
        gap = max(int(0.04 * steps), 1)
        return dict.fromkeys(range(gap, steps, gap), gap)

    def changed(self, points: Points, x: Points) -> PerExample:
        """How many features differ from the example's and are not at an edge of the box."""
        low, high = self._edges(points)
        return _tensors.flatten((points != x) & (points > low) & (points < high)).sum(1).to(x.dtype)

    def move(self, rows: AscentRows, into_set: Callable[[Points], Points], *, first: bool) -> Points:
        low, high = self._edges(rows.x)
        stopped = torch.where(rows.gradient > 0, rows.points >= high, rows.points <= low)
        free = _tensors.flatten(~stopped).to(rows.x.dtype)
        gradient = _tensors.flatten(self._masked(rows.gradient))
        size = gradient.abs()
        count = (rows.changed / 1.5).clamp(min=1.0, max=size.shape[1]).long()
        level = _largest(size * free, count).clamp_min(torch.finfo(size.dtype).tiny)
        push = torch.where(free > 0, (size >= level).to(size.dtype), (size / level).clamp(max=1.0))
        step = push * gradient.sign() * (rows.size / count)[:, None]
        return step.reshape(rows.x.shape).add_(rows.points)

    def check(self, rows: AscentRows, gap: int) -> None:
        largest = self.threat.step_scale
        changed = self.changed(rows.best, rows.x)
        fewer = changed < 0.95 * rows.changed
        rows.size = torch.where(fewer, largest, rows.size / 1.5).clamp(min=largest / 10)
        rows.back(fewer)
        rows.changed = changed

    def _masked(self, gradient: Points) -> Points:
        fixed = self.threat.fixed
        return gradient if fixed is None else gradient.masked_fill(fixed.to(gradient.device), 0.0)

    def _edges(self, points: Points) -> tuple[float | Tensor, float | Tensor]:
        """The box, drawn in by a little, as rounding may keep points from its edges."""
        margin = 1e-6 * self.threat.radius
        low, high = self.threat.bounds or (-math.inf, math.inf)
        return _like(low, points) + margin, _like(high, points) - margin


def _like(edge: float | Tensor, points: Points) -> float | Tensor:
    return edge.to(points) if isinstance(edge, Tensor) else edge


def _largest(rows: Float[Tensor, "batch features"], rank: Int[Tensor, " batch"]) -> Float[Tensor, "batch 1"]:
    """The number of this rank (1 is the largest) in each row; where waiting for the device is free, no
    more is sorted than needed.
    """
    most = int(rank.max()) if rows.device.type == "cpu" and len(rows) else rows.shape[1]
    return rows.topk(most, dim=1).values.gather(1, rank[:, None] - 1)
