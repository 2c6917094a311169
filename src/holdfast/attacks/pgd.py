"""Projected gradient ascent on the loss, and its one-step form."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from holdfast import _tensors
from holdfast._rules import COUNT, FLAG, maybe, real, takes, word
from holdfast.attacks._search import finite, put, taken
from holdfast.attacks.base import Attack, Goal, Scored, score, scored, stronger
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.losses import LOSS, Labels, Loss, Outputs
from holdfast.threats.base import Points, Threat

Start = Literal["random", "example", "near", "gaussian"]
StepRule = Literal["steepest", "gradient"]

NEAR = 0.01  # how far towards a random point of its set an example moves for a "near" start
NOISE = 0.001  # standard deviation of a "gaussian" start, in input units


@takes(
    steps=COUNT,
    step_size=maybe(real(above=0)),
    restarts=COUNT,
    start=word(*get_args(Start)),
    loss=maybe(LOSS),
    momentum=real(least=0),
    step_rule=word(*get_args(StepRule)),
    keep_best=FLAG,
    drop_broken=FLAG,
)
@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent: ``x' <- projection(x' + step)``, ``steps`` times (Madry et al. 2018, arXiv 1706.06083).

    Attributes:
        steps: gradient steps per restart.
        step_size: length of a step in the threat's norm, in input units; default ``2.5 radius / steps``, so
            that every point of the set can be reached from every other.
        restarts: searches per example; the stronger end is kept: one that reaches the goal first, then the
            higher loss.
        start: ``random``: a random point of the set; ``example``: the example; ``near``: a hundredth of the
            way from the example to a random point, for losses whose gradient vanishes at the example; ``gaussian``:
            the example and noise of standard deviation 0.001, as in Zhang et al. 2019 (arXiv 1901.08573).
            Restarts after the first are ``random``.
        loss: leads the search; default: whatever scores the attack (cross-entropy, or the training loss).
        momentum: ``v <- momentum v + gradient / mean |gradient|`` replaces the gradient where > 0 (Dong et
            al. 2018, arXiv 1710.06081).
        step_rule: ``steepest``: the threat's own step (`Threat.step`), of length ``step_size``; ``gradient``:
            ``step_size`` times the gradient (or ``v``) itself.
        keep_best: return the strongest iterate, not the last one; costs one forward pass per restart.
        drop_broken: when only success matters: examples broken by one restart are left out of the next.
            The successes are the same (up to rounding, for models that treat rows apart), the losses of
            broken examples not the highest to be had.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> found = hf.PGD(steps=5).run(torch.nn.Identity(), x, y, hf.LpBall("inf", 0.25), seed=0)
    >>> found.success, bool(((found.x - x).abs() <= 0.25).all())
    (tensor([True]), True)
    """

    steps: int = 10
    step_size: float | None = None
    restarts: int = 1
    start: Start = "random"
    loss: Loss | None = None
    momentum: float = 0.0
    step_rule: StepRule = "steepest"
    keep_best: bool = False
    drop_broken: bool = False

    @property
    def name(self) -> str:
        return f"pgd-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> int:
        return self.steps * self.restarts

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        if self.loss is not None:
            goal = replace(goal, loss=self.loss)
        if self.restarts == 1 and not self.keep_best:
            start = self._start(x, threat, generator, 0)
            [(last, _)] = deque(self._climb(model, start, y, threat, goal, threat.projector(x)), maxlen=1)
            return last
        best = score(model, x, y, goal)
        for restart in range(self.restarts):
            # Drawn for all, so that what one example meets does not depend on which others are left.
            start = self._start(x, threat, generator, restart)
            if not self.drop_broken:
                best = self._best(model, start, x, y, threat, goal, best)
                continue
            rows = (~best.reached).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            held = self._best(model, start[rows], x[rows], y[rows], threat, goal, taken(best, rows))
            best = put(best, rows, held)
        return best.x

    def _start(self, x: Points, threat: Threat, generator: Generator, restart: int) -> Points:
        if restart == 0 and self.start == "example":
            return x
        if restart == 0 and self.start == "gaussian":
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            return threat.project(x + NOISE * noise, x)
        drawn = threat.sample(x, generator=generator)
        if restart == 0 and self.start == "near":
            drawn = torch.lerp(x, drawn, NEAR)
        return drawn

    def _best(
        self, model: nn.Module, start: Points, x: Points, y: Labels, threat: Threat, goal: Goal, best: Scored
    ) -> Scored:
        """The stronger of ``best`` and one restart: its last iterate, with ``keep_best`` any of them.

        Iterates are projected strictly inside, so that each may be returned as it was scored.
        """
        start = threat.project_inside(start, x)
        inside = partial(threat.project_inside, x=x)
        for points, outputs in self._climb(model, start, y, threat, goal, inside):
            if outputs is None:
                best = stronger(best, score(model, points, y, goal))
            elif self.keep_best:
                best = stronger(best, scored(points, outputs, y, goal))
        return best

    def _climb(
        self,
        model: nn.Module,
        points: Points,
        y: Labels,
        threat: Threat,
        goal: Goal,
        into_set: Callable[[Points], Points],
    ) -> Iterator[tuple[Points, Outputs | None]]:
        """Each iterate with the model's outputs there; the last one without, as only some callers need
        them.
        """
        size = 2.5 * threat.step_scale / self.steps if self.step_size is None else self.step_size
        velocity: Tensor | None = None
        for _ in range(self.steps):
            points = points.detach()
            outputs, gradient = outputs_and_gradient(model, points, partial(goal.value, y=y))
            yield points, outputs
            gradient = finite(gradient)
            if self.momentum > 0:
                velocity = _with_momentum(velocity, gradient, self.momentum)
                gradient = velocity
            step = threat.step(gradient, size) if self.step_rule == "steepest" else size * gradient
            points = into_set(points + step)
        yield points, None


def _with_momentum(velocity: Tensor | None, gradient: Tensor, momentum: float) -> Tensor:
    scale = _tensors.flatten(gradient).abs().mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    scaled = gradient / _tensors.per_example(scale, gradient)
    return scaled if velocity is None else momentum * velocity + scaled


@takes(step_size=maybe(real(above=0)), start=word(*get_args(Start)), loss=maybe(LOSS))
@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step of steepest ascent (Goodfellow et al. 2015, arXiv 1412.6572), in the threat's norm.

    Attributes:
        step_size: its length, in input units; default the threat's radius.
        start: as in `PGD`; ``random`` with ``step_size = 1.25 radius`` is the attack of Wong et al. 2020
            (arXiv 2001.03994).
        loss: as in `PGD`.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.FGSM()(torch.nn.Identity(), x, y, "linf:0.25")
    tensor([[0.3500, 0.6500]])
    """

    step_size: float | None = None
    start: Start = "example"
    loss: Loss | None = None

    def _as_pgd(self, radius: float) -> PGD:
        size = radius if self.step_size is None else self.step_size
        return PGD(steps=1, step_size=size, start=self.start, loss=self.loss)

    @property
    def name(self) -> str:
        return "fgsm"

    @property
    def passes(self) -> int:
        return 1

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        if threat.step_scale == 0 and self.step_size is None:
            return x  # a set of one point
        return self._as_pgd(threat.step_scale).search(model, x, y, threat, goal=goal, generator=generator)
