"""The fast adaptive boundary attack: the nearest misclassified point, by projections onto the linearised
decision boundary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from holdfast import _tensors, projections
from holdfast._rules import COUNT, maybe, real, takes
from holdfast.attacks._ball import box_around, checked_ball, not_a_ball, safe_radius
from holdfast.attacks._boundary import lead, nearest_boundary
from holdfast.attacks._hyperplane import shortest_step
from holdfast.attacks._search import broken, finite
from holdfast.attacks.base import Attack, Goal
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.attacks.margins import wrong_classes
from holdfast.losses import Labels, Outputs, PerExample
from holdfast.projections import Rows
from holdfast.threats.base import Points, Threat
from holdfast.threats.lp import LpBall

_LOOK = 10  # steps between looks at which rows are done, where looking waits for an accelerator


@takes(
    steps=COUNT,
    restarts=COUNT,
    targets=maybe(COUNT),
    overshoot=real(least=1, most=2),
    backward=real(least=0, most=1),
    pull=real(least=0, most=1),
    patience=maybe(COUNT),
)
@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Fast adaptive boundary: steps to the linearised boundary ``f = 0`` (Croce and Hein 2020, arXiv 1907.02044).

    The search is drawn towards the example. With ``f`` the lead of a wrong class over the label and ``P(z)``
    the shortest step from ``z`` onto ``{z : f(x') + <grad f(x'), z - x'> = 0}`` within the box, each step is

        x' <- (1 - a) (x' + overshoot P(x')) + a (x + overshoot P(x)),    a = min(||P(x')|| / (||P(x')|| + ||P(x)||), pull).

    A misclassified ``x'`` outside the radius first goes back to ``x + backward (x' - x)``, where its own
    linearisation is used on, so that a step costs one forward and one backward pass. Only success within the
    radius matters: a row is left alone from the first misclassified point there, or once ``patience`` runs
    out. Before a row is given up, the point of its set where the last linearisation is highest is tried. For
    what is not broken, the misclassified point nearest to the example comes back.

    Attributes:
        steps: gradient steps per restart (and target).
        restarts: searches per example (and target): the first from the example, others halfway to a random
            point of its set.
        targets: towards how many wrong classes to search one by one, the likeliest on the example first, each
            with one gradient per step; ``None``: towards whichever boundary is nearest, with a gradient per
            class and step. The standard suite uses 9.
        overshoot: how far beyond the boundary a step goes, as a factor of at least 1.
        backward: share of the way from the example that a misclassified point keeps, in (0, 1).
        pull: largest weight of the step from the example itself, in [0, 1].
        patience: a search is given up when, at the pace of its last ``patience`` steps, its nearest
            misclassified point would not come within the radius by the last step. The pace only falls, as a
            rule, so this costs next to no success and spares most steps of robust examples; ``None``: never.

    With one or two outputs, or a target class given to `run`, there is one boundary and ``targets`` is
    ignored. Threats other than `LpBall` are refused.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> found = hf.FAB(steps=5).run(torch.nn.Identity(), x, y, hf.LpBall("2", 0.3))
    >>> found.success, bool((found.x - x).norm() < 0.15)
    (tensor([True]), True)
    """

    steps: int = 100
    restarts: int = 1
    targets: int | None = None
    overshoot: float = 1.05
    backward: float = 0.9
    pull: float = 0.1
    patience: int | None = 20

    @property
    def name(self) -> str:
        return (
            f"fab-{self.steps}"
            + (f"x{self.restarts}" if self.restarts > 1 else "")
            + ("" if self.targets is None else f"-targets-{self.targets}")
        )

    @property
    def passes(self) -> int:
        return (
            self.steps * self.restarts * (self.targets or 9)
        )  # a gradient a target or class; nine of these, about

    def refuses(self, threat: Threat) -> str:
        return not_a_ball(threat)

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        ball = checked_ball(threat, "FAB", "PGD")
        with torch.no_grad():
            outputs = _tensors.answers(model, x)
            nothing = _nothing_found(x, y, ball, self.patience or 0)
            nearest = replace(nothing, found=nothing.x.clone(), distance=nothing.distance.clone())
            left = ~goal.reached(outputs, y)
            for towards in self._targets(outputs, y, goal):
                for restart in range(self.restarts):
                    # Drawn for all, so that what one example meets does not depend on which others are left.
                    start = x if restart == 0 else torch.lerp(x, threat.sample(x, generator=generator), 0.5)
                    rows = left.nonzero().squeeze(1)
                    if len(rows) == 0:
                        break
                    front = replace(nothing, now=_tensors.flatten(start), towards=towards).take(rows)
                    several = towards is None and outputs.shape[1] > 2 and not goal.targeted
                    for part in self._walk(model, front, x.shape[1:], ball, goal, several):
                        nearest.put(part)
                        left[part.index] = ~part.done
        return nearest.found.reshape(x.shape)

    def _targets(self, outputs: Outputs, y: Labels, goal: Goal) -> Iterator[Labels | None]:
        """The wrong classes to search towards, one of each row at a time; ``None`` where the outputs are
        to say.
        """
        wrong = outputs.shape[1] - 1
        if wrong == 0 or goal.targeted or (self.targets is None and wrong > 1):
            yield None
        else:
            yield from wrong_classes(outputs, y)[:, : self.targets].unbind(1)

    def _walk(
        self, model: nn.Module, front: "_Front", shape: torch.Size, ball: LpBall, goal: Goal, several: bool
    ) -> Iterator["_Front"]:
        """All steps of one restart; yields rows as they are done, and at last the others."""
        every = 1 if front.now.device.type == "cpu" else _LOOK
        for step in range(self.steps):
            points = front.now.reshape(-1, *shape)
            if several:
                outputs, led, gradient = nearest_boundary(model, points, front.y, ball.dual_norm)
            else:
                value = partial(lead, y=front.y, towards=front.towards, goal=goal)
                with torch.enable_grad():
                    outputs, gradient = outputs_and_gradient(model, points, value)
                led = value(outputs)
            reached = _reached(model, front, outputs, shape, ball, goal)
            led = led.nan_to_num(
                nan=0.0, posinf=0.0, neginf=0.0
            )  # no boundary is known there: the way back alone
            front = front.with_found(reached, ball.norm)
            slope = _tensors.flatten(finite(gradient))
            leaves = front.done | front.hopeless(self.steps - step)
            if step % every == 0 and bool(leaves.any()):
                gone, kept = leaves.nonzero().squeeze(1), (~leaves).nonzero().squeeze(1)
                yield _with_last_try(model, front.take(gone), slope[gone], shape, ball, goal)
                if len(kept) == 0:
                    return
                front, led, slope, reached = front.take(kept), led[kept], slope[kept], reached[kept]
            front = replace(front, now=self._step(front, led, slope, reached, ball.norm))
        outputs = _tensors.answers(model, front.now.reshape(-1, *shape))
        reached = _reached(model, front, outputs, shape, ball, goal)
        yield _with_last_try(model, front.with_found(reached, ball.norm), slope, shape, ball, goal)

    def _step(
        self,
        front: "_Front",
        led: PerExample,
        slope: Rows,
        reached: Bool[Tensor, " batch"],
        norm: str,
    ) -> Rows:
        away = front.now - front.x
        rise = torch.linalg.vecdot(slope, away)
        back = torch.where(reached, 1 - self.backward, 0.0)
        now = torch.addcmul(front.now, away, back[:, None], value=-1.0)
        from_now = shortest_step(slope, back * rise - led, norm, *front.room(now))
        from_x = shortest_step(slope, rise - led, norm, *front.room(front.x))
        near, far = (projections.lengths(move, norm).to(now.dtype) for move in (from_now, from_x))
        share = (near / (near + far).clamp(min=torch.finfo(now.dtype).tiny)).clamp(max=self.pull)[:, None]
        moved = torch.lerp(
            now.add_(from_now, alpha=self.overshoot), front.x.add(from_x, alpha=self.overshoot), share
        )
        return moved if front.low is None else torch.clamp(moved, front.low, front.high)


@dataclass(frozen=True, kw_only=True)
class _Front:
    """The rows still searched, and the nearest misclassified point known of each.

    Attributes:
        index: row of each in the batch.
        towards: the wrong class sought; ``None`` where the outputs say which.
        low, high: the box, widened to ``x``, and closed to ``x`` in fixed features; ``None`` for none.
        within: distance up to which a point is safely inside the threat set.
        now: the iterate.
        found: the nearest misclassified point so far; the last iterate (at first the example) where there is
            none.
        distance: how far it is; infinite where there is none.
        past: that distance in the last steps, the oldest first; no columns where nothing is to be given up.
    """

    index: Int[Tensor, " batch"]
    x: Rows
    y: Labels
    towards: Labels | None
    low: Rows | None
    high: Rows | None
    within: Float[Tensor, " batch"]
    now: Rows
    found: Rows
    distance: Float[Tensor, " batch"]
    past: Float[Tensor, "batch steps"]

    @property
    def done(self) -> Bool[Tensor, " batch"]:
        """Whether the point found is in the threat set."""
        return self.distance <= self.within

    def hopeless(self, steps: int) -> Bool[Tensor, " batch"]:
        """Whether ``steps`` more, at the pace of the past ones, would not come within the radius; not
        where nothing was found by then.
        """
        count = self.past.shape[1]
        if count == 0:
            return torch.zeros_like(self.done)
        pace = (self.past[:, 0] - self.distance) / count
        return self.past[:, 0].isfinite() & (self.distance - steps * pace > self.within)

    def take(self, rows: Int[Tensor, " rows"]) -> "_Front":
        """These rows alone."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        taken: dict[str, Any] = {name: None if value is None else value[rows] for name, value in values}
        return _Front(**taken)

    def room(self, points: Rows) -> tuple[Rows, Rows] | tuple[None, None]:
        """How far each feature of ``points``, which lie in the box, may go down and up."""
        if self.low is None or self.high is None:
            return None, None
        return self.low - points, self.high - points

    def with_found(self, reached: Bool[Tensor, " batch"], norm: str) -> "_Front":
        """With the iterates that are misclassified and nearer than what was found before."""
        distance = torch.where(reached, projections.lengths(self.now - self.x, norm), torch.inf)
        nearer = _nearer(distance, self.distance)
        return replace(
            self,
            found=torch.where(nearer[:, None], self.now, self.found),
            distance=torch.minimum(distance, self.distance),
            past=torch.cat([self.past, self.distance[:, None]], 1)[:, 1:]
            if self.past.shape[1]
            else self.past,
        )

    def put(self, part: "_Front") -> None:
        """Write back what was found for some of these rows, where it is nearer than what was known."""
        known = self.distance[part.index]
        nearer = _nearer(part.distance, known)
        self.found[part.index] = torch.where(nearer[:, None], part.found, self.found[part.index])
        self.distance[part.index] = torch.minimum(part.distance, known)


def _nearer(distance: Float[Tensor, " batch"], known: Float[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """Whether to prefer a new point; where neither is misclassified, the new one."""
    return (distance < known) | (distance.isinf() & known.isinf())


def _nothing_found(x: Points, y: Labels, threat: LpBall, memory: int) -> _Front:
    """Every row, with nothing found yet."""
    rows, within = _tensors.flatten(x), safe_radius(x, threat)
    low, high = box_around(x, threat)
    return _Front(
        index=torch.arange(len(rows), device=rows.device),
        x=rows,
        y=y,
        towards=None,
        low=low,
        high=high,
        within=within,
        now=rows,
        found=rows,
        distance=torch.full_like(within, torch.inf),
        past=within.new_full((len(rows), memory), torch.inf),
    )


def _reached(
    model: nn.Module, front: _Front, outputs: Outputs, shape: torch.Size, ball: LpBall, goal: Goal
) -> Bool[Tensor, " batch"]:
    """Which iterates are misclassified; in half precision those in the threat set only if they are so
    where they will be projected.
    """
    reached = goal.reached(outputs, front.y)
    if ball.coarse is None:
        return reached
    inside = projections.lengths(front.now - front.x, ball.norm) <= front.within
    points, x = (rows.reshape(-1, *shape) for rows in (front.now, front.x))
    return torch.where(inside, broken(model, points, outputs, x, front.y, ball, goal), reached)


def _with_last_try(
    model: nn.Module, front: _Front, slope: Rows, shape: torch.Size, ball: LpBall, goal: Goal
) -> _Front:
    """With the maximiser of the last linearisation over the threat set, where that is misclassified and
    nothing in the set was.
    """
    x = front.x.reshape(-1, *shape)
    points = ball.project_inside(ball.maximise(slope.reshape(x.shape), x), x)
    outputs = _tensors.answers(model, points)
    broken = goal.reached(outputs, front.y) & ~front.done
    return replace(
        front,
        found=torch.where(broken[:, None], _tensors.flatten(points), front.found),
        distance=torch.where(broken, front.within, front.distance),
    )
