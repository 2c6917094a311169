"""Attacks that look for the nearest misclassified point: Carlini-Wagner and DeepFool.

Here a point inside the threat set is all that is wanted, so a row is done as soon as it has one.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor, nn

from holdfast import _tensors
from holdfast._rules import COUNT, real, takes
from holdfast.attacks._search import broken, finite, put, taken
from holdfast.attacks.base import Attack, Goal, score, stronger
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.attacks.margins import difference, margin, rivals, wrong_classes
from holdfast.losses import Labels, Outputs, PerExample
from holdfast.threats.base import Points, Threat
from holdfast.threats.lp import LpBall

WIDER = 4.0  # the ball, in multiples of the radius, in which Carlini-Wagner looks
DECAYS = (0.9, 0.999)  # of Adam


@takes(steps=COUNT, searches=COUNT, constant=real(above=0), rate=real(above=0), confidence=real(least=0))
@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """Carlini and Wagner's attack: distance and margin minimised together by Adam (2017, arXiv 1608.04644).

    It minimises ``||x' - x||_2^2 + c max(margin(x') + confidence, 0)`` and searches for ``c``. In a ball the
    points may go as far as four times its radius, and the valid box and the fixed features are kept by
    projection: ``c`` is bisected, down where the row was broken outside the threat set, up where it was not.
    For any other threat the points stay in the set, and ``c`` only grows. The method is made for l2: in other
    sets the distance is Euclidean too.

    Attributes:
        steps: gradient steps for each ``c``.
        searches: values of ``c`` tried.
        constant: the first ``c``; the distance is measured in multiples of the l2 length of the threat's
            longest step.
        rate: Adam's, in multiples of that length over the root of the number of features.
        confidence: how far the margin must be passed before it stops to count, in the outputs' units.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.CarliniWagner(steps=20, searches=2).run(torch.nn.Identity(), x, y, hf.LpBall("2", 0.3)).success
    tensor([True])
    """

    steps: int = 100
    searches: int = 5
    constant: float = 1.0
    rate: float = 0.3
    confidence: float = 0.0

    @property
    def name(self) -> str:
        return f"carlini-wagner-{self.steps}x{self.searches}"

    @property
    def passes(self) -> int:
        return self.steps * self.searches

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        best = score(model, x, y, goal)
        if threat.step_scale == 0:
            return x
        wide = threat.with_radius(WIDER * threat.radius) if isinstance(threat, LpBall) else threat
        left = torch.arange(len(x), device=x.device)
        constant = x.new_full((len(x),), self.constant)
        low, high = torch.zeros_like(constant), torch.full_like(constant, math.inf)
        for _ in range(self.searches):
            left = left[~best.reached[left]]
            if len(left) == 0:
                break
            near, passed = self._descend(model, x[left], y[left], threat, wide, goal, constant[left])
            found = score(model, threat.project_inside(near, x[left]), y[left], goal)
            best = put(best, left, stronger(taken(best, left), found))
            low[left] = torch.where(passed, low[left], constant[left])
            high[left] = torch.where(passed, constant[left], high[left])
            constant = torch.where(high.isfinite(), (low + high) / 2, 10 * constant)
        return best.x

    def _descend(
        self,
        model: nn.Module,
        x: Points,
        y: Labels,
        threat: Threat,
        wide: Threat,
        goal: Goal,
        constant: PerExample,
    ) -> tuple[Points, Bool[Tensor, " batch"]]:
        """For each row the nearest misclassified point met, or the last one, and whether it is
        misclassified.
        """
        unit = _reach(threat, x)
        rate = self.rate * unit / math.sqrt(max(1, x[0].numel()))
        points, mean, square = x, torch.zeros_like(x), torch.zeros_like(x)
        nearest, distance = x, x.new_full((len(x),), math.inf)
        left = torch.arange(len(x), device=x.device)
        here, labels, weight = x, y, constant
        into_set = wide.projector(x)
        for step in range(1, self.steps + 2):
            value = partial(self._penalty, y=labels, targeted=goal.targeted)
            outputs, gradient = outputs_and_gradient(model, points, value)
            reached = goal.reached(outputs, labels)
            length = torch.linalg.vector_norm(_tensors.flatten(points - here), dim=1)
            nearer = reached & (length < distance[left])
            distance[left] = torch.where(nearer, length, distance[left])
            nearest = nearest.index_copy(
                0, left, _where(nearer | distance[left].isinf(), points, nearest[left])
            )
            stay = ~broken(model, points, outputs, here, labels, threat, goal)
            if not bool(stay.all()):
                nearest[left[~stay]] = points[~stay]
                left, points, mean, square, gradient = (
                    rest[stay] for rest in (left, points, mean, square, gradient)
                )
                here, labels, weight = (rest[stay] for rest in (here, labels, weight))
                into_set = wide.projector(here)
            if len(left) == 0 or step > self.steps:
                break
            gradient = finite(gradient)
            gradient = gradient * _tensors.per_example(weight, here) + 2 * (points - here) / unit**2
            mean = torch.lerp(gradient, mean, DECAYS[0])
            square = torch.lerp(gradient.square(), square, DECAYS[1])
            root = (square / (1 - DECAYS[1] ** step)).sqrt().add_(torch.finfo(x.dtype).tiny)
            points = into_set(points - rate / (1 - DECAYS[0] ** step) * mean / root)
        return nearest, distance.isfinite()

    def _penalty(self, outputs: Outputs, y: Labels, targeted: bool) -> PerExample:
        gap = -margin(outputs, y) if targeted else margin(outputs, y)
        return (gap + self.confidence).clamp_min(0)


@takes(steps=COUNT, classes=COUNT, overshoot=real(least=0))
@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Step to the nearest boundary of the linearised classes, again and again (arXiv 1511.04599).

    For each other class ``j``: ``gap = z_y - z_j`` and ``w = grad(z_j - z_y)``; the step of the threat's
    shape, ``s = step(w, 1)``, crosses that boundary after the length ``gap / <w, s>``; the shortest is taken,
    ``1 + overshoot`` times, and projected into the set. In l2 and l-inf balls this is the paper's step; other
    threats use their own.

    Attributes:
        steps: at most this many.
        classes: the likeliest wrong classes considered; a gradient each. In a targeted attack the target
            alone is.
        overshoot: by which share to cross the boundary.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.DeepFool(steps=5).run(torch.nn.Identity(), x, y, hf.LpBall("2", 0.3)).success
    tensor([True])
    """

    steps: int = 50
    classes: int = 9
    overshoot: float = 0.02

    @property
    def name(self) -> str:
        return f"deepfool-{self.steps}"

    @property
    def passes(self) -> int:
        return self.steps * self.classes

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        with torch.no_grad():
            outputs = _tensors.answers(model, x)
        others = wrong_classes(outputs, y)[:, : 1 if goal.targeted else self.classes]
        result, points = x.clone(), x
        left, centre, labels = torch.arange(len(x), device=x.device), x, y
        into_set = threat.projector(x)
        for step in range(self.steps + 1):
            stay = ~broken(model, points, outputs, centre, labels, threat, goal)
            result[left] = points
            if not bool(stay.all()):
                left, points, centre, labels, others, outputs = (
                    rest[stay] for rest in (left, points, centre, labels, others, outputs)
                )
                into_set = threat.projector(centre)
            if len(left) == 0 or step == self.steps:
                break
            move = self._move(model, points, labels, others, outputs, threat, goal)
            points = into_set(points + move)
            with torch.no_grad():
                outputs = _tensors.answers(model, points)
        return result

    def _move(
        self,
        model: nn.Module,
        points: Points,
        y: Labels,
        others: Int[Tensor, "batch others"],
        outputs: Outputs,
        threat: Threat,
        goal: Goal,
    ) -> Points:
        shortest = points.new_full((len(points),), math.inf)
        move = torch.zeros_like(points)
        for column in others.unbind(1):
            source, target = (rivals(outputs, y), y) if goal.targeted else (y, column)
            _, slope = outputs_and_gradient(model, points, partial(difference, y=source, target=target))
            slope = finite(slope)
            unit = threat.step(slope, 1.0)
            rate = (_tensors.flatten(slope) * _tensors.flatten(unit)).sum(1)
            gap = -difference(outputs, source, target)
            length = torch.where(rate > 0, gap.clamp_min(0) / rate, math.inf)
            move = _where(length < shortest, unit, move)
            shortest = torch.minimum(shortest, length)
        # A tie needs a step too, and no step is longer than the set is wide.
        least = 1e-5 * threat.step_scale
        length = ((1 + self.overshoot) * shortest).clamp(least, 2 * threat.step_scale)
        return move * _tensors.per_example(length, move)


def _reach(threat: Threat, x: Points) -> float:
    """The l2 length of a step of the threat's own shape across its radius."""
    longest = threat.step(torch.ones_like(x[:1]), threat.step_scale)
    return float(torch.linalg.vector_norm(longest))


def _where(mask: Bool[Tensor, " batch"], first: Points, second: Points) -> Points:
    return torch.where(_tensors.per_example(mask, first), first, second)
