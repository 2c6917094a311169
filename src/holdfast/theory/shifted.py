"""The dual of a shifted ReLU, ``act(z) = max(z - b, 0)``, through the bivariate normal distribution."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.theory.duals import Dual, DualRows, Pair, floored, inverse_sine, outer, root

OWEN_NODES = 32  # the integrand is entire on [0, 1] and bounded by 1: rounding in float64
FARTHEST = 37.0  # beyond it the normal tail is 0 in float64


class ShiftedReLU(Dual):
    """``E[max(s - b, 0) max(t - b, 0)]`` and ``P(s > b, t > b)``.

    With thresholds ``h = b / sqrt(p)``, ``k = b / sqrt(q)`` and ``L = P(X > h, Y > k)`` at correlation ``u``
    (Owen 1956): ``E[(X - h)+ (Y - k)+] = (u + h k) L - h phi(k) Phi((u k - h) / r) - k phi(h) Phi((u h - k) /
    r) + r^2 phi2``, ``r^2 = 1 - u^2``. For equal variances ``L = Phi(-h) - 2 T(h, sqrt((1 - u) / (1 + u)))``.
    """

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def rows(self, p: Float[Tensor, " n"]) -> DualRows:
        h = (self.shift / floored(p).sqrt()).clamp(-FARTHEST, FARTHEST)
        tail = torch.special.ndtr(-h)
        value = p * ((1 + h.square()) * tail - h * _density(h)).clamp_min(0)
        return DualRows(input=p, value=value, slope=tail, factors=(h, root(p / floored(value))))

    def pair(self, u: Float[Tensor, "n m"], left: DualRows, right: DualRows) -> Pair:
        h, k = left.factors[0][:, None], right.factors[0][None, :]
        value, slope = _Orthant.apply(u, h, k)  # type: ignore[no-untyped-call]
        scale = outer(left.factors[1], right.factors[1])
        return value * scale, slope * scale


class _Orthant(torch.autograd.Function):
    """``E[(X - h)+ (Y - k)+]`` and ``P(X > h, Y > k)``; their derivatives have the same closed forms."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, h: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        sine = ((1 - u) * (1 + u)).clamp_min(0).sqrt()
        given_h, given_k = _conditional(u, h, k, sine), _conditional(u, k, h, sine)
        both = _upper_orthant(u, h, k, sine)
        ctx.save_for_backward(u, h, k, given_h, given_k, both)
        value = (
            (u + h * k) * both
            - h * given_k
            - k * given_h
            + sine * torch.exp(_exponent(u, h, k)) / (2 * math.pi)
        )
        return value.clamp_min_(0), both

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, h, k, given_h, given_k, both = ctx.saved_tensors
        of_value, of_both = gradients
        density = torch.exp(_exponent(u, h, k)) * inverse_sine(u) / (2 * math.pi)
        in_u = of_value * both + of_both * density
        in_h = of_value * (k * both - given_k - u * given_h) - of_both * given_h
        in_k = of_value * (h * both - given_h - u * given_k) - of_both * given_k
        return in_u, in_h.sum(1, keepdim=True), in_k.sum(0, keepdim=True)


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _excess(u: Tensor, h: Tensor, k: Tensor) -> Tensor:
    """``k - u h`` without loss of digits near ``u = 1``."""
    return (k - h) + h * (1 - u)


def _conditional(u: Tensor, h: Tensor, k: Tensor, sine: Tensor) -> Tensor:
    """``phi(h) P(Y > k | X = h)``."""
    below: Tensor = torch.special.ndtr(-_excess(u, h, k) / floored(sine))
    return _density(h) * below


def _exponent(u: Tensor, h: Tensor, k: Tensor) -> Tensor:
    """``-(h^2 + k^2 - 2 u h k) / 2 (1 - u^2)``, split so that equal thresholds stay finite at ``u = 1``."""
    apart = (h - k).square() / floored(2 * (1 - u) * (1 + u))
    return -apart - h * k / floored(1 + u)


def _upper_orthant(u: Tensor, h: Tensor, k: Tensor, sine: Tensor) -> Tensor:
    """``P(X > h, Y > k)`` for thresholds of one sign, neither 0."""
    halves = (torch.special.ndtr(-h) + torch.special.ndtr(-k)) / 2
    wedge = _owen(h, _excess(u, h, k) / (h * floored(sine))) + _owen(
        k, _excess(u, k, h) / (k * floored(sine))
    )
    both: Tensor = halves - wedge
    return both.clamp_min_(0)


def _owen(h: Tensor, a: Tensor) -> Tensor:
    """Owen's ``T(h, a) = (1 / 2 pi) int_0^a exp(-h^2 (1 + x^2) / 2) / (1 + x^2) dx`` by Gauss-Legendre on [0,
    1].

    ``|a| > 1``: ``T(h, a) = (Phi(h) + Phi(a h)) / 2 - Phi(h) Phi(a h) - T(a h, 1 / a)`` for ``h, a > 0``.
    """
    h, size = h.abs().expand_as(a), a.abs()
    steep = size > 1
    other = (h * size).clamp_max(FARTHEST * 4)
    start, end = torch.where(steep, other, h), torch.where(steep, 1 / floored(size), size)
    total = torch.zeros_like(end)
    nodes, weights = np.polynomial.legendre.leggauss(OWEN_NODES)
    half = -start.square() / 2
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        square = 1 + (end * float(node)).square()
        total += float(weight) * torch.exp(half * square) / square
    total *= end / (2 * math.pi)
    # tails, not the distribution: (1 - t)(1 - s) would cancel where both are near 1
    tail, tail_other = torch.special.ndtr(-h), torch.special.ndtr(-other)
    swapped = (tail + tail_other) / 2 - tail * tail_other - total
    return torch.where(steep, swapped, total) * torch.sign(a)
