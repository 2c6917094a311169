"""A window: rounds that together cover the data, summed into one lower model of the robust loss."""

from dataclasses import dataclass

from holdfast._values import Shown
from holdfast.curvature.lower_model import LowerModel, Radius
from holdfast.curvature.rounding import Rounding


@dataclass(frozen=True, kw_only=True, repr=False)
class Window(Shown):
    """Rounds ``first`` to ``last``, weighted so that every example counts as often as in the data.

    Attributes:
        first: the first round, counted from 1.
        last: the last round.
        epoch: in which they were taken.
        rounding: what the allowance is computed from.
        online_loss: weighted mean of the batch losses. It belongs to no single ``W``: not a surrogate loss.
        drift: ``||W_t - W0||_F`` of each ball at the window's last round.
        lower: the lower model ``sum_t w_t phi_t(W) >= lower(W - W0)``; ``None`` when only the figures below
            were kept.
        lower_bound: the bound at the radius the run was asked for, rounding allowance taken off.
        void: why these rounds prove nothing; empty when they do.
        frozen: whether all rounds were taken at one ``W``.
        reach: distance from the weights at which the curvature was asked to be tightest.

    >>> import torch
    >>> from holdfast import trace
    >>> lower = trace.LowerModel(constant=6.0, balls=((trace.Block(linear=torch.tensor([[3.0, 4.0]])),),))
    >>> figures = {"first": 1, "last": 1, "epoch": 0, "online_loss": 6.0, "drift": (0.0,), "lower_bound": 1.0}
    >>> trace.Window(**figures, rounding=trace.Rounding(unit=0.0), lower=lower).bound_at(1.0)
    1.0
    """

    first: int
    last: int
    epoch: int
    rounding: Rounding
    online_loss: float
    drift: tuple[float, ...]
    lower: LowerModel | None
    lower_bound: float
    void: str = ""
    frozen: bool = False
    reach: float = 0.0

    def bound_at(self, radius: Radius) -> float:
        """Lower bound of the optimal robust loss over the ball(s) of this radius, rounding allowance taken
        off.
        """
        if self.lower is None:
            raise ValueError("this window kept no lower model")
        bound = self.lower.bound(radius)
        top = max(m.max_eigenvalue for m in bound.minima)
        return bound.value - self.rounding.allowance(max(m.radius for m in bound.minima), top)
