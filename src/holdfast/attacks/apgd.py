"""APGD: projected gradient ascent that sets its own step sizes (Croce and Hein 2020 and 2021)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Generator, nn

from holdfast._rules import COUNT, FLAG, either, kind, maybe, real, takes, word
from holdfast._tensors import answers
from holdfast.attacks._ascent import AscentRows, Halving, Sparse, is_l1
from holdfast.attacks._search import broken, finite, put, taken
from holdfast.attacks.base import Attack, Goal, Scored, score, scored, stronger
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.attacks.margins import DLR, Margin, TargetedDLR, difference, targeted_dlr, wrong_classes
from holdfast.losses import LOSSES, Labels, Loss, Outputs, PerExample, loss_named
from holdfast.threats.base import Points, Threat

Start = Literal["random", "example", "between"]
DEPTHS = (0.5, 1.0, 0.25)
"""Of the way from the example to a random point: where searches from `between` start, restart by restart. The
point is one of the set, at depth 1 one of the whole box of valid examples."""
Height = Callable[[Outputs, Labels, Labels], PerExample]
"""What a climb maximises, from outputs, labels and target classes."""

L1_RADII = (3.0, 2.0, 1.0)  # of the l1 attack, in turn, in multiples of the radius
L1_STEPS = (0.3, 0.3, 0.4)  # and the share of the steps spent at each

_BRIEF = {"cross-entropy": "ce"}


@takes(
    steps=COUNT,
    restarts=COUNT,
    loss=maybe(either(word(*LOSSES), kind(Loss, what="a holdfast Loss"))),
    targets=maybe(COUNT),
    rho=real(above=0, below=1),
    start=word(*get_args(Start)),
    wide=FLAG,
    drop_broken=FLAG,
)
@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD: ascent with momentum and a step that halves itself (Croce and Hein 2020, arXiv 2003.01690).

    The step starts at the set's diameter and is halved where it no longer pays: ``z = P(x' + s step(g))``,
    ``x' <- P(x' + 0.75 (z - x') + 0.25 (x' - x'_before))``. At checkpoints, ever closer together, a row's
    step ``s`` is halved, and the row goes back to its best point, if fewer than ``rho`` of its last steps
    raised the loss, or if neither step nor best loss changed since the checkpoint before. ``P`` and ``step``
    are the threat's own, so that any threat will do.

    Where the gradient is 0 a row goes elsewhere instead: to ``P`` of the point halfway between its example
    and a random point of the box of valid examples, which lies towards the middle of the box as hardly a
    random point of the set does, then along the rays through either start, halfway back to the example each
    time.

    In an l1 ball (arXiv 2103.01208) a step moves only the features of largest gradient, 2/3 as many as the
    best point has changed; ``s`` grows back while that number falls, and the search starts in balls of 3 and
    2 times the radius.

    Attributes:
        steps: gradient steps per restart.
        restarts: searches per example (and target); the strongest point is kept.
        loss: leads the search: ``cross-entropy``, ``dlr``, ``margin`` or any other name of a loss, or a
            `Loss`; default: whatever scores the attack (with ``targets``: ``dlr``).
        targets: one search for each of this many likeliest wrong classes; with ``dlr`` the targeted DLR, with
            ``margin`` ``z_target - z_y``, else a low loss at the target. ``None``: no targets; away from the
            label. Ignored where targets are given to `run`.
        rho: share of the steps between checkpoints that must raise the loss.
        start: ``random``: a random point of the set; ``example``: the example itself, restarts after the
            first at random; ``between``: halfway to a random point, restarts at a random point of the box of
            valid examples, projected, and a quarter of the way to a point of the set, in
            turn: some networks are flat far from the example.
        wide: whether an l1 search begins in larger balls; elsewhere it never does.
        drop_broken: when only success matters: examples leave the search as soon as they are broken.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.APGD(steps=5).run(torch.nn.Identity(), x, y, hf.LpBall("inf", 0.2)).success
    tensor([True])
    """

    steps: int = 100
    restarts: int = 1
    loss: Loss | str | None = None
    targets: int | None = None
    rho: float = 0.75
    start: Start = "random"
    wide: bool = True
    drop_broken: bool = False

    def _named_loss(self) -> Loss | None:
        return loss_named(self.loss) if isinstance(self.loss, str) else self.loss

    @property
    def name(self) -> str:
        loss = self._named_loss()
        middle = "" if loss is None else f"-{_BRIEF.get(loss.name, loss.name)}"
        restarts = f"x{self.restarts}" if self.restarts > 1 else ""
        targets = "" if self.targets is None else f"-targets-{self.targets}"
        return f"apgd{middle}-{self.steps}{restarts}{targets}"

    @property
    def passes(self) -> int:
        return (self.steps + 1) * self.restarts * (self.targets or 1)

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        best = score(model, x, y, goal)
        stages = self._stages(threat)
        # A stream of its own: searches that meet no flat point are those they would be without it.
        apart = Generator(device=generator.device).set_state(generator.get_state())
        for height, target in self._heights(model, x, y, goal):
            for restart in range(self.restarts):
                # Drawn for all, so that what one example meets does not depend on which others are left.
                start = self._start(stages[0][0], x, restart, generator)
                elsewhere = torch.lerp(x, threat.sample_box(x, generator=apart), 0.5)
                rows = torch.arange(len(x), device=x.device)
                if self.drop_broken:
                    rows = rows[~best.reached]
                    if len(rows) == 0:
                        return best.x
                climb = partial(
                    self._climb,
                    model,
                    height=height,
                    goal=goal,
                    y=y[rows],
                    target=target[rows],
                    elsewhere=elsewhere[rows],
                )
                points = start[rows]
                for wider, steps in stages[:-1]:
                    points = climb(points, x[rows], wider, steps, watch=False)
                points = climb(points, x[rows], *stages[-1], watch=True)
                found = score(model, threat.project_inside(points, x[rows]), y[rows], goal)
                best = put(best, rows, stronger(taken(best, rows), found))
        return best.x

    def _start(self, threat: Threat, x: Points, restart: int, generator: Generator) -> Points:
        if self.start == "example" and restart == 0:
            return x
        depth = DEPTHS[restart % len(DEPTHS)] if self.start == "between" else 1.0
        draw = threat.sample_box if self.start == "between" and depth == 1 else threat.sample
        return torch.lerp(x, draw(x, generator=generator), depth)

    def _stages(self, threat: Threat) -> list[tuple[Threat, int]]:
        """The sets to search in turn, with the steps spent in each."""
        if not (self.wide and is_l1(threat) and self.steps >= 10):
            return [(threat, self.steps)]
        early = [
            (threat.with_radius(factor * threat.radius), round(share * self.steps))
            for factor, share in zip(L1_RADII[:-1], L1_STEPS, strict=False)
        ]
        return [*early, (threat, self.steps - sum(steps for _, steps in early))]

    def _heights(self, model: nn.Module, x: Points, y: Labels, goal: Goal) -> Iterator[tuple[Height, Labels]]:
        """What to climb on, in turn, with the target class of each row."""
        loss = self._named_loss()
        if self.targets is None or goal.targeted:
            if loss is None:
                loss = goal.loss if self.targets is None else DLR()
            if goal.targeted and isinstance(loss, DLR):
                loss = TargetedDLR()
            own = replace(goal, loss=loss)
            yield lambda outputs, y, target: own.value(outputs, y), y
            return
        with torch.no_grad():
            outputs = answers(model, x)
        for target in wrong_classes(outputs, y)[:, : self.targets].unbind(1):
            yield _towards(loss), target

    def _climb(
        self,
        model: nn.Module,
        start: Points,
        x: Points,
        threat: Threat,
        steps: int,
        *,
        height: Height,
        goal: Goal,
        y: Labels,
        target: Labels,
        elsewhere: Points,
        watch: bool,
    ) -> Points:
        """The points of highest height; if ``watch``, those that reach the goal where any does."""
        drop = watch and self.drop_broken
        rule: Halving | Sparse = Sparse(threat) if is_l1(threat) else Halving(threat, self.rho)
        checkpoints = rule.checkpoints(steps)
        into_set = threat.projector(x)
        points = start = into_set(start)
        rows = AscentRows.at(start, elsewhere, x, y, target, rule.first_size(start), rule.changed(start, x))
        result, left = start, torch.arange(len(x), device=x.device)
        strongest: Scored | None = None
        for step in range(steps + 1):
            if step < steps:
                value = partial(_value, height=height, y=rows.y, target=rows.target)
                outputs, gradient = outputs_and_gradient(model, points, value)
            else:
                with torch.no_grad():
                    outputs, gradient = answers(model, points), rows.gradient
            rows.arrive(points, finite(gradient), height(outputs, rows.y, rows.target))
            if drop:
                stay = ~broken(model, points, outputs, rows.x, rows.y, threat, goal)
                if not bool(stay.all()):
                    result = result.index_copy(0, left[~stay], points[~stay])
                    left, rows = left[stay], rows.kept(stay)
                    into_set = threat.projector(rows.x)
                if len(left) == 0:
                    break
            elif watch:
                here = scored(points, outputs, rows.y, goal)
                strongest = here if strongest is None else stronger(strongest, here)
            if step in checkpoints:
                rule.check(rows, checkpoints[step])
            if step < steps:
                points = into_set(rows.off_flat(rule.move(rows, into_set, first=step == 0)))
        return result.index_copy(0, left, rows.best) if strongest is None else strongest.x


def _towards(loss: Loss | None) -> Height:
    """The height that takes a row from its label to a target."""
    if loss is None or isinstance(loss, DLR):
        return targeted_dlr
    if isinstance(loss, Margin):
        return difference
    return lambda outputs, y, target: -loss(outputs, target)


def _value(outputs: Outputs, height: Height, y: Labels, target: Labels) -> PerExample:
    return height(outputs, y, target)
