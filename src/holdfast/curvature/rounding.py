"""The rounding allowance of a lower model: how far the computed bound can lie above the exact one."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """What the rounding allowance of a lower model is computed from; see `allowance`.

    Norms are Euclidean, of all entries for matrices.

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
        curvature: ``b >= |act''|``; 0 where the slope jumps (a wrong side of the kink costs no more than the
            preactivation's error).
        offset: ``|act(0)|``.
        amplitude: how far an output can be off for inputs of norm 1, in units of roundoff; 0 where the
            figures of a two-layer network bound it.

    >>> from holdfast import trace
    >>> trace.Rounding(unit=0.0).allowance(1.0, 1.0)  # of an estimate
    0.0
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
        """How far the computed bound can lie above the exact one: taken from lower bounds, added to surrogate
        losses.

        A sum of ``k`` terms in any order errs by at most ``k u`` (to first order; the factors cover the rest)
        of the sum of their sizes (Higham 2002, section 4.2). With ``N = n + m + d + 32`` steps,
        ``w = ||W0|| + D``, ``z = max ||z||``, ``s``, ``a``, and ``lam = max(0, max lam)``:

        1. outputs and kinks: ``8 N a s (L w z + sqrt(m) |act(0)|)``, since ``sum_r ||w_r|| <= sqrt(m) w``;
        2. gradient, against a step of ``R + D``: ``N a s (L z + b w z^2 / sqrt m) + 4 m d G``,
           ``G = a s L z + 2 lam D >= ||V||``;
        3. curvature, against its square: ``(n d + 16 d + 32) lam``, the error of a Gram matrix and of its
           eigenvalues;
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
