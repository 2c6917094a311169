"""Kernels that depend on the angle between two points alone, as one polynomial in that angle.

For homogeneous activations a kernel divided by what each point does alone is a function ``kappa(theta)`` of
the angle ``theta`` between the network's inputs, whatever its depth. In the correlation it has a cusp at 1;
in the angle it is analytic on ``[0, pi]`` (each layer maps ``theta`` to ``theta'`` with
``cos theta' = v(cos theta) = 1 - theta^2 / 2 + O(theta^3)``, so that ``theta'`` is an analytic multiple of
``theta``). Its Chebyshev series therefore ends after a dozen terms in float32: an arcsine and a short
polynomial for an entry, where each layer takes an arcsine, a square root and half a dozen more passes. In
float64 the layers' own formulas stay: the values that a series is fitted to would be no better than these.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

NODES = 65
TOLERANCE = 3e-8
"""What the terms left out add up to, at most, relative to the largest value: half a unit in the last
place.
"""
GROWTH = 16.0
"""How much larger than the values the coefficients may be in all: so much is rounding amplified."""
TERMS_A_LAYER = 8
"""Terms that take about as long as a layer does."""

Angular = Callable[[Float[Tensor, "n m"]], Float[Tensor, "n m"]]


def power_series(kernel: Angular, depth: int) -> list[float] | None:
    """The coefficients of ``kappa`` in the powers of ``2 arcsin(u) / pi``, the lowest first; enough of them
    for float32.

    Args:
        kernel: from correlations ``u`` in float64 to ``kappa``.
        depth: layers that ``kernel`` goes through.

    Returns:
        None where the series is no shorter work than the layers, or its coefficients are so large that digits
        would be lost.
    """
    nodes = np.cos((2 * np.arange(NODES) + 1) * np.pi / (2 * NODES))
    values = kernel(torch.from_numpy(np.sin(nodes * np.pi / 2))[:, None])[:, 0].numpy()
    series = (2 / NODES) * np.cos(np.outer(np.arange(NODES), np.arccos(nodes))) @ values
    series[0] /= 2
    largest = np.abs(values).max()
    left_out = np.append(np.abs(series)[::-1].cumsum()[::-1][1:], 0.0)
    degree = int(np.flatnonzero(left_out <= TOLERANCE * largest)[0])
    powers = np.polynomial.chebyshev.cheb2poly(series[: degree + 1])
    if degree > min(TERMS_A_LAYER * depth, NODES // 2) or np.abs(powers).sum() > GROWTH * largest:
        return None
    return [float(power) for power in powers]


def polynomial(powers: Sequence[Tensor], u: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """``kappa`` at correlations in [-1, 1], which are overwritten; ``powers`` are numbers of their dtype
    and device. No history.
    """
    angle = torch.asin(u).mul_(2 / math.pi)
    total = u.copy_(powers[-1])
    for power in reversed(powers[:-1]):
        torch.addcmul(power, total, angle, out=total)
    return total
