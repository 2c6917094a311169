"""Single steps for fast adversarial training: lengths are given as multiples of the threat's radius."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, nn

from holdfast._rules import real, takes
from holdfast.attacks._search import finite
from holdfast.attacks.base import Attack, Goal
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.attacks.pgd import FGSM
from holdfast.losses import Labels
from holdfast.threats.base import Points, Threat


@takes(step=real(above=0))
@dataclass(frozen=True, kw_only=True)
class RandomStartFGSM(Attack):
    """One step of ``step`` radii from a uniformly drawn point (Wong et al. 2020, arXiv 2001.03994).

    Attributes:
        step: its length in radii of the threat.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.attacks.RandomStartFGSM().run(torch.nn.Identity(), x, y, hf.LpBall("inf", 0.25)).success
    tensor([True])
    """

    step: float = 1.25

    @property
    def name(self) -> str:
        return "fgsm-rs"

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        if threat.step_scale == 0:
            return x  # a set of one point
        attack = FGSM(step_size=self.step * threat.step_scale, start="random")
        return attack.search(model, x, y, threat, goal=goal, generator=generator)


@takes(noise=real(least=0), step=real(above=0))
@dataclass(frozen=True, kw_only=True)
class NoiseFGSM(Attack):
    """N-FGSM: one step from ``x + U(-noise, noise)`` radii, *without* projection (de Jorge et al. 2022, arXiv 2202.01181).

    The step is ``step`` radii long. In training the points may leave the threat set, by design: such a step
    is no round of the robust loss. What `run` returns for figures is projected like that of any attack.

    Attributes:
        noise: half the width of the uniform noise in each feature, in radii; 2 in the paper.
        step: length of the step, in radii.

    >>> import holdfast as hf
    >>> hf.attacks.NoiseFGSM().leaves
    True
    """

    leaves = True
    noise: float = 2.0
    step: float = 1.0

    @property
    def name(self) -> str:
        return "n-fgsm"

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        radius = threat.step_scale
        if radius == 0:
            return x  # a set of one point
        drawn = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        start = _allowed(x + self.noise * radius * (2 * drawn - 1), x, threat)
        _, gradient = outputs_and_gradient(model, start, partial(goal.value, y=y))
        return _allowed(start + threat.step(finite(gradient), self.step * radius), x, threat)


def _allowed(points: Points, x: Points, threat: Threat) -> Points:
    """The points within the data's box, their fixed features those of ``x``; the radius does not bind."""
    bounds, fixed = getattr(threat, "bounds", None), getattr(threat, "fixed", None)
    if bounds is not None:
        low, high = (torch.as_tensor(edge, dtype=x.dtype, device=x.device) for edge in bounds)
        points = torch.minimum(torch.maximum(points, low), high)
    return points if fixed is None else torch.where(fixed.to(x.device), x, points)
