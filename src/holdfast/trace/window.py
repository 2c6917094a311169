"""A window: rounds that together cover the data, summed into one lower model of the robust loss."""

import math
from dataclasses import dataclass

from torch import nn

from holdfast.networks import TwoLayer
from holdfast.trace.lower_model import LowerModel, Radius


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """What the rounding allowance of a two-layer lower model is computed from.

    Attributes:
        unit: unit roundoff of the coarsest arithmetic used: 2^-24 (float32) or 2^-53 (float64).
        width: hidden units ``m``; 0 means that no allowance is known (an estimate).
        slope: mean of ``||s_i||``, the loss slopes.
        input_norm: largest ``||z||`` of the attacked points.
        distance: largest ``||W_t - W0||`` of the rounds.
        output_norm: largest ``|a_rc|`` (1 while the outputs are fixed).
        growth: power of the inputs' norm by which errors grow: 1 for activations of bounded slope, 3 for squared ReLU.
        amplitude: for deep networks, how far an output can be off for inputs of norm 1, in units of roundoff; 0 elsewhere.
    """

    unit: float
    width: int
    slope: float
    input_norm: float
    distance: float
    output_norm: float = 1.0
    growth: int = 1
    amplitude: float = 0.0

    def allowance(self, radius: float, max_eigenvalue: float) -> float:
        """``u [(2 sqrt m + m / 5) s + 16 (R + D) s max||z|| + 16 (R + D)^2 max lam]``, with ``|a|`` in front of the slopes,
        all times ``max(1, max||z||)`` (to the power ``growth``): preactivations are wrong by ``u ||w_r|| ||z||``.

        Taken from lower bounds and added to surrogate losses. Covers rounding in the products, the sums over units and the
        eigenvalues; errors measured in float32 stayed below a tenth of it at ``||z|| <= 1`` (m to 1e5, R to 300), and below four
        tenths up to ``||z|| = 500`` (m to 2,400).
        """
        reach = radius + self.distance
        if self.amplitude:
            # Deep: u [amplitude s max(1, max||x||) (1 + R + D) + 16 width (R + D)^2 max lam].
            outputs = self.amplitude * self.slope * max(1.0, self.input_norm) * (1 + reach)
            return self.unit * (outputs + 16 * self.width * reach**2 * max(0.0, max_eigenvalue))
        if self.width == 0:
            return 0.0
        slope = self.slope * max(1.0, self.output_norm)
        outputs = (2 * math.sqrt(self.width) + self.width / 5) * slope
        products = 16 * reach * slope * self.input_norm
        size = max(1.0, self.input_norm) ** self.growth
        return self.unit * size * (outputs + products + 16 * reach**2 * max(0.0, max_eigenvalue))


def growth(model: nn.Module) -> int:
    """Power of the inputs' norm by which a network's rounding errors grow."""
    return 3 if isinstance(model, TwoLayer) and model.activation.lipschitz is None else 1


@dataclass(frozen=True, kw_only=True)
class Window:
    """Rounds ``first`` to ``last`` (both counted from 1), weighted so that every example counts as often as in the data.

    Attributes:
        lower: the lower model ``sum_t w_t phi_t(W) >= lower(W - W0)``; ``None`` when only the figures below were kept.
        online_loss: weighted mean of the batch losses. It belongs to no single ``W``: not a surrogate loss.
        drift: ``||W_t - W0||_F`` of each ball at the window's last round.
        void: why these rounds prove nothing; empty when they do.
        lower_bound: the bound at the radius the run was asked for, rounding allowance taken off.
        frozen: whether all rounds were taken at one ``W``.
        reach: distance from the weights at which the curvature was asked to be tightest.
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
        """Lower bound of the optimal robust loss over the ball(s) of this radius, rounding allowance taken off."""
        if self.lower is None:
            raise ValueError("this window kept no lower model")
        bound = self.lower.bound(radius)
        top = max(m.max_eigenvalue for m in bound.minima)
        return bound.value - self.rounding.allowance(max(m.radius for m in bound.minima), top)
