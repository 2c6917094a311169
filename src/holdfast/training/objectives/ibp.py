"""Certified training by interval and linear bounds: IBP, CROWN-IBP, SABR and MTL-IBP."""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from holdfast._rules import real, takes, word
from holdfast.attacks._ball import box_around
from holdfast.errors import InputError
from holdfast.losses import CrossEntropy, PerExample
from holdfast.threats import LpBall, Threat
from holdfast.threats.base import Points
from holdfast.training.intervals import Interval, bounded, worst_outputs
from holdfast.training.objectives.base import AttackMode, Batch, Objective
from holdfast.training.relaxation import least_margins, worst_of

TOLERANCE = 0.5
"""Below this ratio an imbalance is penalised (``tau`` in Shi et al. 2021)."""
TINY = 1e-12


def box(threat: Threat, x: Points) -> tuple[Tensor, Tensor]:
    """The box around each threat set.

    Raises:
        InputError: the threat is no ball.
    """
    threat = ball(threat)
    lower, upper = x - threat.radius, x + threat.radius
    low, high = box_around(x, threat)
    if low is None or high is None:
        return lower, upper
    return torch.maximum(lower, low.reshape(x.shape)), torch.minimum(upper, high.reshape(x.shape))


def imbalance(found: Interval, first: Tensor) -> Tensor:
    """The regulariser of Shi et al. 2021 (arXiv 2103.15501, equations 8 to 10): bounds that grow from layer to layer,
    and units that are all active or all inactive.

    Args:
        first: radii of the boxes, whose mean the radii before the units are held against.
    """
    before = found.seen.before_units
    if not before:
        return first.new_zeros(())
    start, total = first.mean(), first.new_zeros(())
    for values in before:
        centre, active, inactive = values.centre, values.lower > 0, values.upper < 0
        total = total + _short_of(start / values.radius.mean().clamp_min(TINY))
        spread = (centre - centre.mean()).square()
        for positive, negative in (
            ((centre * active).mean(), -(centre * inactive).mean()),
            ((spread * active).mean(), (spread * inactive).mean()),
        ):
            if positive > 0 and negative > 0:
                ratio = positive / negative
                total = total + _short_of(torch.minimum(ratio, 1 / ratio))
    return total / len(before)


def _short_of(ratio: Tensor) -> Tensor:
    return torch.relu(TOLERANCE - ratio) / TOLERANCE


@takes(clean=real(least=0, most=1), regularisation=real(least=0))
@dataclass(frozen=True)
class IBP(Objective):
    """Interval bound propagation (Gowal et al. 2018, arXiv 1810.12715).

    ``kappa CE(f(x), y) + (1 - kappa) (CE(worst outputs over the box, y) + r)``, with the regulariser ``r`` of Shi et
    al. 2021 (arXiv 2103.15501) while the radius rises. The paper has no ``kappa``; to weigh ``r`` by ``1 - kappa`` too
    proved more examples in our measurements (benchmarks/RESULTS.md).

    ``kappa`` falls from 1 to ``clean`` as the radius rises to its own (`ScheduleSettings.radius_ramp`).

    Attributes:
        clean: ``kappa`` at the end.
        regularisation: weight of the regulariser at radius 0; it falls to 0 as the radius rises.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.objectives.IBP()(torch.nn.Identity(), x, y, "linf:0.1")
    tensor([0.6931])
    """

    certified = True
    searches = False
    clean: float = 0.0
    regularisation: float = 0.5

    @property
    def name(self) -> str:
        return "ibp"

    def losses(self, batch: Batch) -> PerExample:
        lower, upper = box(batch.threat, batch.clean)
        found = bounded(batch.model, batch.clean, lower, upper)
        bound = CrossEntropy()(worst_outputs(found, batch.y), batch.y)
        kappa = 1 - batch.ramp * (1 - self.clean)
        bound = bound + regularised(batch, found, lower, upper, self.regularisation)
        return kappa * CrossEntropy()(found.value, batch.y) + (1 - kappa) * bound


@takes(clean=real(least=0, most=1), linear=real(least=0, most=1), regularisation=real(least=0))
@dataclass(frozen=True)
class CROWNIBP(Objective):
    """CROWN-IBP (Zhang et al. 2020, arXiv 1906.06316).

    ``kappa CE(f(x), y) + (1 - kappa) (CE(worst outputs, y) + r)``, with ``r`` as in `IBP`, whose margins are ``beta`` times the linear bounds of
    CROWN over intervals and ``1 - beta`` times those of intervals alone.

    ``kappa`` falls from 1 to ``clean`` and ``beta`` from 1 to ``linear`` as the radius rises to its own. Linear bounds
    take a pass back for each class; where ``beta`` is 0 they are not worked out.

    Attributes:
        clean: ``kappa`` at the end.
        linear: ``beta`` at the end.
        regularisation: as in `IBP`.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.objectives.CROWNIBP()(torch.nn.Identity(), x, y, "linf:0.1")
    tensor([0.6931])
    """

    certified = True
    searches = False
    clean: float = 0.0
    linear: float = 0.0
    regularisation: float = 0.5

    @property
    def name(self) -> str:
        return "crown-ibp"

    def losses(self, batch: Batch) -> PerExample:
        lower, upper = box(batch.threat, batch.clean)
        found = bounded(batch.model, batch.clean, lower, upper)
        worst = worst_outputs(found, batch.y)
        kappa, beta = 1 - batch.ramp * (1 - self.clean), 1 - batch.ramp * (1 - self.linear)
        if beta > 0:
            margins = least_margins(batch.model, batch.clean, lower, upper, batch.y, found)
            worst = beta * worst_of(margins, batch.y) + (1 - beta) * worst
        bound = CrossEntropy()(worst, batch.y)
        bound = bound + regularised(batch, found, lower, upper, self.regularisation)
        return kappa * CrossEntropy()(found.value, batch.y) + (1 - kappa) * bound


@takes(share=real(above=0, most=1), regularisation=real(least=0), mode=word(*get_args(AttackMode)))
@dataclass(frozen=True)
class SABR(Objective):
    """Interval loss over a small box around an attacked point (Mueller et al. 2023, arXiv 2210.04871).

    The box has ``share`` radii; the point is attacked in the ball of the other ``1 - share``.

    Attributes:
        share: ``lambda`` in the paper: 0.4 for MNIST at 0.1, 0.6 at 0.3.
        regularisation: as in `IBP`.
        mode: of the network while it is attacked, ``keep`` or ``eval``.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.objectives.SABR(share=0.4)(torch.nn.Identity(), x, y, "linf:0.1")
    tensor([0.6931])
    """

    certified = True
    share: float = 0.4
    regularisation: float = 0.5
    mode: AttackMode = "eval"

    @property
    def name(self) -> str:
        return "sabr"

    def searched(self, threat: Threat) -> Threat:
        return ball(threat).with_radius((1 - self.share) * ball(threat).radius)

    def losses(self, batch: Batch) -> PerExample:
        lower, upper = box(batch.threat, batch.clean)
        near = box(ball(batch.threat).with_radius(self.share * ball(batch.threat).radius), batch.attacked)
        lower, upper = torch.maximum(lower, near[0]), torch.minimum(upper, near[1])
        return worst_loss(batch, batch.attacked, lower, upper, self.regularisation)


@takes(share=real(least=0, most=1), regularisation=real(least=0), mode=word(*get_args(AttackMode)))
@dataclass(frozen=True)
class MTLIBP(Objective):
    """Attacked and interval loss together (De Palma et al. 2024, arXiv 2305.13991).

    ``share CE(worst outputs over the box, y) + (1 - share) CE(f(x'), y)``, ``x'`` attacked.

    Attributes:
        share: ``alpha`` in the paper, of the interval loss: about 0.01 for MNIST at 0.1, 0.5 at 0.3.
        regularisation: as in `IBP`.
        mode: of the network while it is attacked, ``keep`` or ``eval``.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.objectives.MTLIBP(share=0.5)(torch.nn.Identity(), x, y, "linf:0.1")
    tensor([0.6931])
    """

    certified = True
    share: float = 0.01
    regularisation: float = 0.5
    mode: AttackMode = "eval"

    @property
    def name(self) -> str:
        return "mtl-ibp"

    def losses(self, batch: Batch) -> PerExample:
        lower, upper = box(batch.threat, batch.clean)
        worst = worst_loss(batch, batch.clean, lower, upper, self.regularisation)
        return self.share * worst + (1 - self.share) * CrossEntropy()(batch.outputs, batch.y)


def worst_loss(batch: Batch, x: Points, lower: Points, upper: Points, regularisation: float) -> PerExample:
    """The loss of the worst outputs over the boxes, with the regulariser while the radius rises."""
    found = bounded(batch.model, x, lower, upper)
    worst = CrossEntropy()(worst_outputs(found, batch.y), batch.y)
    return worst + regularised(batch, found, lower, upper, regularisation)


def regularised(
    batch: Batch, found: Interval, lower: Points, upper: Points, regularisation: float
) -> Tensor | float:
    """The regulariser while the radius rises, 0 afterwards."""
    if not regularisation or batch.ramp >= 1:
        return 0.0
    return regularisation * (1 - batch.ramp) * imbalance(found, (upper - lower) / 2)


def ball(threat: Threat) -> LpBall:
    """The threat, which must be a ball.

    Raises:
        InputError: it is none.
    """
    if not isinstance(threat, LpBall):
        raise InputError(
            f"certified training needs a threat of boxes, an LpBall, got {type(threat).__name__}; train by attacks."
        )
    return threat
