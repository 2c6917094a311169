"""Dual activations in closed form: Gaussian expectations of an activation and of its slope, entry by entry.

For jointly Gaussian ``(s, t)`` with variances ``p, q`` and correlation ``u``, write ``V = E[act(s) act(t)]``.
Everything here is scaled by what each point does alone, since then homogeneous activations need no more than
``u``:

    v(u) = V / sqrt(V_p V_q),   V_p = E[act(s)^2],        and        v'(u) = E[act'(s) act'(t)] sqrt(p q) / sqrt(V_p V_q),

the second because ``dV / dcov = E[act'(s) act'(t)]``. Sources: Cho and Saul 2009 (arc-cosine kernels),
Williams 1997 (erf).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Pair = tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]


@dataclass(frozen=True, kw_only=True)
class DualRows:
    """What a layer does to each point alone.

    Attributes:
        input: ``p``, the variance of the preactivation.
        value: ``V_p = E[act(s)^2]``.
        slope: ``E[act'(s)^2]``.
        factors: what the dual itself needs of each point, a row per point.
        degree: where an expansion may end for all of these points; 0 without one.
    """

    input: Float[Tensor, " n"]
    value: Float[Tensor, " n"]
    slope: Float[Tensor, " n"]
    factors: tuple[Tensor, ...] = ()
    degree: int = 0

    def __getitem__(self, part: slice) -> "DualRows":
        return DualRows(
            input=self.input[part],
            value=self.value[part],
            slope=self.slope[part],
            factors=tuple(factor[part] for factor in self.factors),
            degree=self.degree,
        )

    @property
    def scaled_slope(self) -> Float[Tensor, " n"]:
        """``v'(1) = E[act'(s)^2] p / V_p``: the derivative where a point meets itself."""
        return self.slope * self.input / floored(self.value)


class Dual(ABC):
    """Both expectations for one activation.

    Attributes:
        homogeneous: whether ``v`` and ``v'`` depend on the correlation alone, whatever the variances (and are
            some work).
    """

    homogeneous: bool = False

    @abstractmethod
    def rows(self, p: Float[Tensor, " n"]) -> DualRows:
        """Each point alone, from the variances ``p >= 0`` of its preactivations."""

    @abstractmethod
    def pair(self, u: Float[Tensor, "n m"], left: DualRows, right: DualRows) -> Pair:
        """``v(u)`` and ``v'(u)`` for correlations in [-1, 1]; differentiable, with finite derivatives also
        at -1 and 1.
        """

    def moments(
        self, covariance: Float[Tensor, "n m"], p: Float[Tensor, " n"], q: Float[Tensor, " m"]
    ) -> Pair:
        """``E[act(s) act(t)]`` and ``E[act'(s) act'(t)]`` for variances ``p`` and ``q`` and these
        covariances.
        """
        left, right = self.rows(p), self.rows(q)
        spread = outer(floored(p).sqrt(), floored(q).sqrt())
        value, slope = self.pair((covariance / spread).clamp(-1, 1), left, right)
        scale = outer(left.value.sqrt(), right.value.sqrt())
        return value * scale, slope * scale / spread


class PiecewiseLinear(Dual):
    """``act(z) = z`` for ``z > 0`` and ``leak z`` below: ReLU (0), leaky ReLU, the identity (1).

    With ``theta = arccos u`` and ``J1 = sin theta + (pi - theta) cos theta``:
    ``E[act act'] = sqrt(p q) (leak u + (1 - leak)^2 J1 / 2 pi)``.
    """

    def __init__(self, leak: float) -> None:
        self.leak = leak
        self.homogeneous = leak != 1  # the identity is, too, but takes no time in any case
        self.mean_square = (1 + leak**2) / 2
        self.linear = leak / self.mean_square
        self.curved = (1 - leak) ** 2 / (2 * math.pi) / self.mean_square

    def rows(self, p: Float[Tensor, " n"]) -> DualRows:
        return DualRows(input=p, value=self.mean_square * p, slope=torch.full_like(p, self.mean_square))

    def pair(self, u: Float[Tensor, "n m"], left: DualRows, right: DualRows) -> Pair:
        if self.leak == 1:
            return u, torch.ones_like(u)
        value, slope = arc_cosine(u)
        if self.leak == 0:
            return value * self.curved, slope * self.curved
        return torch.add(value * self.curved, u, alpha=self.linear), slope * self.curved + self.linear


class SquaredReLU(Dual):
    """``act(z) = max(z, 0)^2``: ``E[act act] = p q J2 / 2 pi``,
    ``J2 = 3 sin theta cos theta + (pi - theta)(1 + 2 cos^2 theta)``.
    """

    homogeneous = True

    def rows(self, p: Float[Tensor, " n"]) -> DualRows:
        return DualRows(input=p, value=1.5 * p.square(), slope=2 * p)

    def pair(self, u: Float[Tensor, "n m"], left: DualRows, right: DualRows) -> Pair:
        second, first = _ArcCosine.apply(u, 2)  # type: ignore[no-untyped-call]
        return second / (3 * math.pi), first * (4 / (3 * math.pi))


class Erf(Dual):
    """``E[erf(s) erf(t)] = (2 / pi) asin(2 cov / sqrt((1 + 2 p)(1 + 2 q)))``."""

    def rows(self, p: Float[Tensor, " n"]) -> DualRows:
        shrink = root(2 * p / (1 + 2 * p))  # of one point's own correlation; sqrt for a factor a side
        value = (2 / math.pi) * torch.asin(shrink.square())
        return DualRows(
            input=p,
            value=value,
            slope=(4 / math.pi) / (1 + 4 * p).sqrt(),
            factors=(shrink, value.clamp_min(torch.finfo(p.dtype).tiny).rsqrt()),
        )

    def pair(self, u: Float[Tensor, "n m"], left: DualRows, right: DualRows) -> Pair:
        shrink, scale = (outer(a, b) for a, b in zip(left.factors, right.factors, strict=True))
        inner = u * shrink
        slope = shrink * scale * (1 - inner.square()).rsqrt()
        return torch.asin(inner) * scale * (2 / math.pi), slope * (2 / math.pi)


def arc_cosine(u: Float[Tensor, "n m"]) -> Pair:
    """``J1 = sin theta + (pi - theta) cos theta`` and its derivative in ``u``, ``J0 = pi - theta``.

    The derivative of ``J0`` is infinite at ``u = 1`` and -1, where the kernel has a cusp in the points; there
    it counts as 0, the middle of the slopes on both sides.
    """
    value, slope = _ArcCosine.apply(u, 1)  # type: ignore[no-untyped-call]
    return value, slope


class _ArcCosine(torch.autograd.Function):
    """``(J_order, J_(order - 1))``. Autograd's own derivatives would be differences of infinite terms at
    ``u = 1``.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, order: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(u)
        ctx.order = order
        sine = u.square().neg_().add_(1).sqrt_()
        angle = torch.acos(u).neg_().add_(math.pi)
        if order == 1:
            return sine.addcmul_(angle, u), angle
        first = torch.addcmul(sine, angle, u)
        return sine.mul_(u).mul_(3).addcmul_(angle, u.square().mul_(2).add_(1)), first

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        upper, lower = gradients
        first, angle = _ArcCosine.apply(u, 1)  # type: ignore[no-untyped-call]
        if ctx.order == 2:
            return upper * 4 * first + lower * angle, None
        return upper * angle + lower * inverse_sine(u), None


def inverse_sine(u: Tensor) -> Tensor:
    """``1 / sqrt(1 - u^2)``, and 0 where that is infinite."""
    square = (1 - u.square()).clamp_min(0)
    inside = square > 0
    return torch.where(inside, square.where(inside, 1).rsqrt(), 0)


def floored(values: Tensor) -> Tensor:
    """At least the smallest normal number, so that a zero point divides to 0."""
    return values.clamp_min(torch.finfo(values.dtype).tiny)


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a[:, None] * b[None, :]


def root(p: Tensor) -> Tensor:
    """Square root with a finite derivative at 0."""
    return torch.where(p > 0, floored(p).sqrt(), 0)
