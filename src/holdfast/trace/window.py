"""A window: rounds that together cover the data, summed into one lower model of the robust loss."""

import math
from dataclasses import dataclass

import torch

from holdfast.networks import TwoLayer
from holdfast.trace.lower_model import LowerModel, Radius


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """What the rounding allowance of a lower model is computed from; see `allowance`. Norms are Euclidean, of all entries for matrices.

    Attributes:
        unit: unit roundoff of the arithmetic, 2^-53 (float64); 0 where no allowance is known (an estimate).
        width: hidden units ``m``.
        inputs: numbers ``d`` that the first layer sees.
        examples: ``n``, terms in the sums over examples.
        slope: mean of ``||s_i||``, the loss slopes.
        loss: mean of ``|loss(h_i)| + ||s_i|| ||h_i||`` at the outputs where the loss is expanded.
        input_norm: largest ``||z||`` of the attacked points.
        start_norm: ``||W0||``.
        distance: largest ``||W_t - W0||`` of the rounds.
        output_norm: largest ``|a_rc|``.
        lipschitz: ``L >= |act'|``; ``None`` for squared ReLU, whose slope is at most ``2 ||w|| ||z||``.
        curvature: ``b >= |act''|``; 0 where the slope jumps (a wrong side of the kink costs no more than the preactivation's error).
        offset: ``|act(0)|``.
        amplitude: for deep networks, how far an output can be off for inputs of norm 1, in units of roundoff; 0 elsewhere.
    """

    unit: float
    width: int = 0
    inputs: int = 0
    examples: int = 0
    slope: float = 0.0
    loss: float = 0.0
    input_norm: float = 0.0
    start_norm: float = 0.0
    distance: float = 0.0
    output_norm: float = 1.0
    lipschitz: float | None = 1.0
    curvature: float = 0.0
    offset: float = 0.0
    amplitude: float = 0.0

    def allowance(self, radius: float, max_eigenvalue: float) -> float:
        """How far the computed bound can lie above the exact one: taken from lower bounds, added to surrogate losses.

        A sum of ``k`` terms in any order errs by at most ``k u`` (to first order; the factors cover the rest) of the sum of their sizes
        (Higham 2002, section 4.2). With ``N = n + m + d + 32`` steps, ``w = ||W0|| + D``, ``z = max ||z||``,
        ``s``, ``a``, and ``lam = max(0, max lam)``:

        1. outputs and kinks: ``8 N a s (L w z + sqrt(m) |act(0)|)``, since ``sum_r ||w_r|| <= sqrt(m) w``;
        2. gradient, against a step of ``R + D``: ``N a s (L z + b w z^2 / sqrt m) + 4 m d G``, ``G = a s L z + 2 lam D >= ||V||``;
        3. curvature, against its square: ``(n d + 16 d + 32) lam``, the error of a Gram matrix and of its eigenvalues;
        4. losses: ``N`` times their size.

        Squared ReLU: ``L w z`` becomes ``w^2 z^2 / sqrt m`` and ``L z`` becomes ``2 w z^2 / sqrt m``.
        """
        if self.unit == 0.0:
            return 0.0
        reach, lam = radius + self.distance, max(0.0, max_eigenvalue)
        steps = self.examples + self.width + self.inputs + 32
        losses = steps * self.loss
        if self.amplitude:
            outputs = self.amplitude * self.slope * max(1.0, self.input_norm) * (1 + reach)
            return self.unit * (outputs + 16 * self.width * reach**2 * lam + losses)
        root = math.sqrt(max(1, self.width))
        size, weights, z = self.output_norm * self.slope, self.start_norm + self.distance, self.input_norm
        if self.lipschitz is None:
            values, slopes = weights**2 * z**2 / root, 2 * weights * z**2 / root
        else:
            values, slopes = self.lipschitz * weights * z + root * self.offset, self.lipschitz * z
        outputs = 8 * steps * size * values
        linear = size * slopes + 2 * lam * self.distance
        gradient = steps * size * (slopes + self.curvature * weights * z**2 / root)
        gradient += 4 * self.width * self.inputs * linear
        curved = (self.examples * self.inputs + 16 * self.inputs + 32) * lam
        return self.unit * (outputs + reach * gradient + reach**2 * curved + losses)


def two_layer_rounding(
    net: TwoLayer,
    *,
    examples: int,
    slope: float,
    loss: float,
    input_norm: float,
    start_norm: float,
    distance: float,
) -> Rounding:
    """The figures of a two-layer network whose rounds are computed in float64."""
    act = net.activation
    bent = 0.0 if act.kink else max(act.curvature_above, act.curvature_below)
    return Rounding(
        unit=2.0**-53, width=net.width, inputs=net.input_size, examples=examples, slope=slope, loss=loss,
        input_norm=input_norm, start_norm=start_norm, distance=distance,
        output_norm=float(net.output_weight.detach().abs().max()), lipschitz=act.lipschitz, curvature=bent,
        offset=abs(float(act(torch.zeros((), dtype=torch.float64)))),
    )  # fmt: skip


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
