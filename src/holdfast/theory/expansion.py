"""Duals of any activation: by Hermite expansion where it converges, else by quadrature in polar
coordinates.
"""

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.errors import InputError
from holdfast.networks.activations import QUADRATURE_NODES, QUADRATURE_REACH, Activation
from holdfast.theory.duals import Dual, DualRows, Pair, floored, inverse_sine, root

DEGREES = 256
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-7}
"""Relative tail, of the values and of the slopes, at which the expansion ends."""
ANGLES = 20  # nodes in each of the four sectors between kinks
RADII = 64


class HermiteDual(Dual):
    """``V = sum_k a_k(p) a_k(q) u^k`` with ``a_k(p) = E[act(sqrt(p) z - b) h_k(z)]``, ``h_k`` the normalised
    Hermite polynomials.

    By Parseval what a truncation leaves out is known exactly on the diagonal and, by Cauchy-Schwarz, bounded
    by it elsewhere; the expansion ends once that is under `TOLERANCE`. Activations for which 256 terms do not
    reach it (a jump in ``act'`` or ``act''``, or large variances) are integrated in polar coordinates, where
    a kink at 0 lies on four rays between which all is smooth: about 5,000 evaluations an entry.
    """

    def __init__(self, activation: Activation, shift: float = 0.0) -> None:
        self.activation, self.shift = activation, shift

    def rows(self, p: Float[Tensor, " n"]) -> DualRows:
        kind, p = p.dtype, p.double()  # in float32 rounding would hide the tail
        z, mass, hermite = (part.to(p.device) for part in _basis())
        deviation = root(p)
        at = deviation[:, None] * z - self.shift
        values, slopes = self.activation(at), self.activation.slope(at)
        square, slope = (values.square() @ mass), (slopes.square() @ mass)
        coefficients = values @ (mass[:, None] * hermite) / floored(square).sqrt()[:, None]
        degree = _enough(
            coefficients.detach(), (slope * p / floored(square)).detach(), TOLERANCE.get(kind, 1e-6)
        )
        # all of them: the other set of points may need more terms than this one
        kept = (coefficients.to(kind),) if degree else ()
        return DualRows(
            input=p.to(kind), value=square.to(kind), slope=slope.to(kind), factors=kept, degree=degree
        )

    def pair(self, u: Float[Tensor, "n m"], left: DualRows, right: DualRows) -> Pair:
        if not (left.factors and right.factors):
            return self._polar(u, left, right)
        a, b = left.factors[0], right.factors[0]
        value, slope = torch.zeros_like(u), torch.zeros_like(u)
        for k in range(
            max(left.degree, right.degree), -1, -1
        ):  # Horner, for the sum and its derivative together
            slope = torch.addcmul(value, slope, u)
            value = torch.addcmul(a[:, k, None] * b[None, :, k], value, u)
        return value, slope

    def _polar(self, u: Tensor, left: DualRows, right: DualRows) -> Pair:
        """``s = sqrt(p) r cos phi``, ``t = sqrt(q) r cos(phi - theta)``; kinks where either cosine is 0."""
        if self.shift:
            raise InputError(
                f"a shift must be 0 for {self.activation.name} at these norms, got {self.shift}; only "
                "relu's kink is followed."
            )
        theta = _Angle.apply(u)  # type: ignore[no-untyped-call]
        p, q = root(left.input)[:, None, None], root(right.input)[None, :, None]
        nodes, weights = np.polynomial.legendre.leggauss(RADII)
        r = torch.as_tensor((nodes + 1) * (QUADRATURE_REACH / 2), dtype=u.dtype, device=u.device)
        mass = torch.as_tensor(weights * (QUADRATURE_REACH / 2), dtype=u.dtype, device=u.device)
        mass = mass * r * torch.exp(-r.square() / 2) / (2 * math.pi)
        value, slope = torch.zeros_like(u), torch.zeros_like(u)
        half = math.pi / 2
        # both positive, only s, both negative, only t: [theta - half, half], [half, theta + half], and their
        # opposites
        sectors = ((theta - half, math.pi - theta), (torch.full_like(theta, half), theta))
        nodes, weights = np.polynomial.legendre.leggauss(ANGLES)
        for start, width in sectors:
            for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
                phi = (start + float(node) * width)[..., None]
                first, second = p * r * torch.cos(phi), q * r * torch.cos(phi - theta[..., None])
                for sign in (1.0, -1.0):
                    s, t = sign * first - self.shift, sign * second - self.shift
                    part = float(weight) * width
                    value = value + part * ((self.activation(s) * self.activation(t)) @ mass)
                    slope = slope + part * ((self.activation.slope(s) * self.activation.slope(t)) @ mass)
        scale = floored(left.value).rsqrt()[:, None] * floored(right.value).rsqrt()[None, :]
        return value * scale, slope * scale * p[..., 0] * q[..., 0]


class _Angle(torch.autograd.Function):
    """``arccos``, whose infinite derivative counts as 0 at -1 and 1."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return torch.acos(u)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        return -gradients[0] * inverse_sine(ctx.saved_tensors[0])  # type: ignore[attr-defined]


def _enough(coefficients: Tensor, slope: Tensor, tolerance: float) -> int:
    """The first degree from 1 whose tails are small for every point (1 for no points); 0 where none is."""
    powers = torch.arange(coefficients.shape[1], device=slope.device, dtype=slope.dtype)
    square = coefficients.square()
    left_values = 1 - square.cumsum(1)
    left_slopes = slope[:, None] - (powers * square).cumsum(1)
    worst = torch.maximum(left_values.abs(), left_slopes.abs() / slope[:, None].clamp_min(1))
    small = (worst <= tolerance).all(0).nonzero()
    return max(1, int(small[0])) if len(small) else 0


@cache
def _basis() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, Gaussian masses and normalised Hermite polynomials at the nodes; Gauss-Legendre on each side
    of 0, for kinks there.
    """
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    half = (nodes + 1) * (QUADRATURE_REACH / 2)
    z = np.concatenate([-half[::-1], half])
    mass = np.concatenate([weights[::-1], weights]) * (QUADRATURE_REACH / 2)
    mass *= np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    polynomials = [np.ones_like(z), z]
    for k in range(1, DEGREES):
        polynomials.append((z * polynomials[k] - math.sqrt(k) * polynomials[k - 1]) / math.sqrt(k + 1))
    return tuple(torch.from_numpy(part) for part in (z, mass, np.stack(polynomials, 1)))  # type: ignore[return-value]
