"""The convergence certificate: what it claims, with which status, and why."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from holdfast._formats import number, setting
from holdfast._values import Drawn, Fact
from holdfast.diagnosis import NOTHING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Status = Literal["certified", "estimate", "void"]


REACHED = 1e-9
"""A loss this close to its infimum has reached it."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Certificate(Drawn):
    """How far a network is from the best one of its parameter ball, on the robust loss (Gao et al. 2019, Theorem 4.1).

    ``gap >= surrogate_loss - min over ||W - W0|| <= radius of L*(W)``, where ``L*`` is the robust loss of the
    examples it was computed from.

    Attributes:
        status: ``certified`` (proved, rounding included), ``estimate`` (the network was treated as linear in
            its weights) or ``void`` (nothing is claimed; figures are NaN).
        reason: one sentence.
        radius: parameter radius ``R`` of the ball(s); the largest where they differ.
        radii: one per ball where they differ; else empty.
        surrogate_loss: smallest ``L_A(W)`` over the frozen full passes at weights in the ball, rounding
            allowance added.
        lower_bound: at most the best robust loss in the ball, rounding allowance taken off.
        gap: ``max(0, surrogate_loss - lower_bound)``; NaN where the bound says nothing (`informative`).
        source: which rounds gave the lower bound.
        width_factor: about how many times wider the network must be before curvature costs nothing.
        max_eigenvalue, slope: the largest curvature ``max lam`` and ``||V||`` of the lower model that gave
            the bound.
        weights: whose surrogate loss it is, e.g. ``the last weights``.
        drift: ``||W - W0||`` of each ball at those weights.
        linearisation_error: mean ``|f(W, x') - f(W0, x') - Df(W0, x')(W - W0)|`` at the frozen pass;
            measured, not part of the proof.
        at_radii: (radius, lower bound) by radius, from all lower models of the run. Models are tightened for
            ``radius``, so that certifying at another one can only find better.
        floor: ``sum_i pi_i inf_f loss(f, y_i)``, below which no robust loss lies, whatever the network: 0 for
            cross-entropy, the entropy of the target under label smoothing. ``lower_bound`` is never below it.
        attack_missed: by how much ``lower_bound`` lies above the loss that the attack found at ``weights``:
            at least so much more loss is there to be found.

    >>> import torch
    >>> import holdfast as hf
    >>> net, x, y = hf.networks.TwoLayer(2, 2, width=8), torch.eye(2), torch.tensor([0, 1])
    >>> found = hf.certify(net, net, x, y, "l2:0.1", "fgsm", radius=0.5)
    >>> found.status, found.lower_bound <= found.surrogate_loss
    ('certified', True)
    """

    status: Status
    reason: str
    radius: float
    surrogate_loss: float = math.nan
    lower_bound: float = math.nan
    gap: float = math.nan
    source: str = ""
    width_factor: float = math.nan
    max_eigenvalue: float = math.nan
    slope: float = math.nan
    weights: str = ""
    drift: tuple[float, ...] = ()
    linearisation_error: float = math.nan
    at_radii: tuple[tuple[float, float], ...] = ()
    radii: tuple[float, ...] = ()
    floor: float = math.nan
    attack_missed: float = 0.0

    @property
    def kind(self) -> str:
        """How its bounds are known: ``proved``, ``estimated``, or empty where it is void."""
        return {"certified": "proved", "estimate": "estimated"}.get(self.status, "")

    def _facts(self) -> list[Fact]:
        if self.status == "void":
            return [Fact("status", "void"), Fact("reason", self.reason)]
        return [
            Fact("status", self.status),
            Fact("radius", setting(self.radius)),
            Fact("surrogate loss", number(self.surrogate_loss), "observed"),
            *self.bound_facts(),
            Fact("width factor", setting(self.width_factor)),
        ]

    def bound_facts(self) -> list[Fact]:
        """Lower bound and gap, as far as they say anything; none where it is void."""
        if self.status == "void":
            return []
        if not self.informative:
            return [Fact("lower bound", NOTHING)]
        return [
            Fact("lower bound", number(self.lower_bound), self.kind),
            Fact("gap", number(self.gap), self.kind),
        ]

    def _columns(self) -> dict[str, list[Any]]:
        radii, bounds = zip(*self.at_radii, strict=True) if self.at_radii else ((), ())
        return {"radius": list(radii), "lower_bound": list(bounds), "status": [self.status] * len(radii)}

    def _draw(self, axes: "Axes") -> None:
        table = self._columns()
        axes.plot(
            table["radius"], table["lower_bound"], marker=".", label=f"lower bound ({self.kind or 'void'})"
        )
        if math.isfinite(self.surrogate_loss):
            axes.plot([self.radius], [self.surrogate_loss], "o", label="surrogate loss (observed)")
        axes.set(xlabel="parameter radius", ylabel="robust loss")

    @property
    def informative(self) -> bool:
        """Whether the bound says more than that no loss is below its infimum, or that infimum has been
        reached.
        """
        if self.status == "void" or not math.isfinite(self.lower_bound):
            return False
        return self.lower_bound > self.floor or self.surrogate_loss <= self.floor + REACHED

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for run folders."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """A candidate: a valid lower bound of the best robust loss in the ball, rounding allowance taken off,
    and its origin.
    """

    value: float
    source: str
    width_factor: float
    max_eigenvalue: float
    slope: float


def void(reason: str, radius: float) -> Certificate:
    """A certificate that claims nothing."""
    return Certificate(status="void", reason=reason, radius=radius)
