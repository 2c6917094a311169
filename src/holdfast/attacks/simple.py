"""Attacks that need no gradient of their own: none at all, chance, and one search a class."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, nn

from holdfast._rules import COUNT, maybe, takes
from holdfast._tensors import answers
from holdfast.attacks.base import Attack, Goal, score, stronger
from holdfast.attacks.by_name import ATTACK
from holdfast.attacks.margins import wrong_classes
from holdfast.losses import Labels
from holdfast.threats.base import Points, Threat


@dataclass(frozen=True, kw_only=True)
class CleanAttack(Attack):
    """No attack: the examples themselves.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.CleanAttack()(torch.nn.Identity(), x, y, "linf:0.25")
    tensor([[0.6000, 0.4000]])
    """

    @property
    def name(self) -> str:
        return "clean"

    @property
    def passes(self) -> int:
        return 0

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        return x


@takes(samples=COUNT)
@dataclass(frozen=True, kw_only=True)
class RandomAttack(Attack):
    """The strongest of several random points of each threat set: what chance finds, without a search.

    Attributes:
        samples: random points per example; with 1 it is plain noise.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.RandomAttack(samples=20).run(torch.nn.Identity(), x, y, hf.LpBall("inf", 0.05)).success
    tensor([False])
    """

    samples: int = 10

    @property
    def name(self) -> str:
        return f"random-{self.samples}"

    @property
    def passes(self) -> int:
        return self.samples

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        points = threat.sample(x, generator=generator)
        if self.samples == 1:
            return points
        best = score(model, threat.project_inside(points, x), y, goal)
        for _ in range(self.samples - 1):
            points = threat.project_inside(threat.sample(x, generator=generator), x)
            best = stronger(best, score(model, points, y, goal))
        return best.x


@takes(attack=ATTACK, classes=maybe(COUNT))
@dataclass(frozen=True, kw_only=True)
class MultiTarget(Attack):
    """A targeted search for each of the likeliest wrong classes; the strongest point wins.

    Likeliness is the model's own, on the example.

    With one output, or a target already given, it is ``attack`` itself.

    Attributes:
        attack: the search.
        classes: how many wrong classes; default: every one.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4, 0.5]]), torch.tensor([0])
    >>> attack = hf.MultiTarget(attack=hf.FGSM(), classes=2)
    >>> attack.run(torch.nn.Identity(), x, y, hf.LpBall("inf", 0.1)).success
    tensor([True])
    """

    attack: Attack
    classes: int | None = None

    @property
    def name(self) -> str:
        return f"{self.attack.name}-targets" + ("" if self.classes is None else f"-{self.classes}")

    @property
    def passes(self) -> int:
        return self.attack.passes * (self.classes or 9)  # as many as targets; nine where the model decides

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        with torch.no_grad():
            outputs = answers(model, x)
        wrong = outputs.shape[1] - 1
        if wrong == 0 or goal.targeted:
            return self.attack.search(model, x, y, threat, goal=goal, generator=generator)
        best = score(model, x, y, goal)
        towards = replace(goal, targeted=True)
        for target in wrong_classes(outputs, y)[:, : self.classes].unbind(1):
            points = self.attack.search(model, x, target, threat, goal=towards, generator=generator).detach()
            best = stronger(best, score(model, threat.project_inside(points, x), y, goal))
        return best.x
