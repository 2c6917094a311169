"""Scalar functions that bounds can be drawn for: value, slope, and where they bend which way."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, "..."]

GRID = torch.linspace(-30, 30, 1201, dtype=torch.float64)
"""Points at which a function is compared with what it claims of itself."""
GELU_BEND = math.sqrt(2.0)  # act'' = phi(x) (2 - x^2)
SILU_BEND = 2.399357280520547  # x tanh(x / 2) = 2


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """``act``, with its convex and concave pieces.

    Attributes:
        name: for messages.
        value: ``act(x)``.
        slope: ``act'(x)``; at a kink any subgradient.
        bends: where convex and concave pieces meet, in order.
        convex_first: whether the leftmost piece is convex.
        kinked: slopes below and above 0 of a function that is linear on either side of it; then
            ``act(0) = 0``.
        slack: how far ``value`` may lie below and above the function bounded (torch cuts softplus at a
            threshold).
        computed: that function, where it is not ``value``.
    """

    name: str
    value: Callable[[Values], Values]
    slope: Callable[[Values], Values]
    bends: tuple[float, ...] = ()
    convex_first: bool = True
    kinked: tuple[float, float] | None = None
    slack: float = 0.0
    computed: Callable[[Values], Values] | None = None

    @property
    def convex(self) -> bool:
        return self.convex_first and not self.bends

    @property
    def pieces(self) -> tuple[tuple[float, float], ...]:
        """The intervals on which the function is convex."""
        edges = (-math.inf, *self.bends, math.inf)
        start = 0 if self.convex_first else 1
        return tuple(zip(edges[start::2], edges[start + 1 :: 2], strict=False))

    @cached_property  # the library's own functions are tried once, not at every use in every trace
    def misdescribed(self) -> bool:
        """Whether value, slope and bends contradict each other on a grid: no bound may be drawn for such a
        function.

        Parameters of an activation can turn its shape around: softplus with ``beta < 0`` is concave.
        """
        a, b = GRID[:-1], GRID[1:]
        value = self.value(GRID)
        secants = value.diff() / (b - a)
        first, last = self.slope(a), self.slope(b)
        allowed = 1e-9 * (1 + first.abs() + last.abs())
        convex = torch.zeros_like(a, dtype=torch.bool)
        for low, high in self.pieces:
            convex |= (a >= low) & (b <= high)
        bent = torch.zeros_like(convex)
        for bend in self.bends:
            bent |= (a < bend) & (b > bend)
        rising = (first <= secants + allowed) & (secants <= last + allowed)
        falling = (first >= secants - allowed) & (secants >= last - allowed)
        fits = torch.where(convex, rising, falling) | bent
        computed = value if self.computed is None else self.computed(GRID)
        close = (computed - value).abs() <= self.slack + 1e-9 * (1 + value.abs())
        return not bool(fits.all() & close.all())

    def negated(self) -> "Scalar":
        """``-act``."""
        value, slope, computed = self.value, self.slope, self.computed
        return replace(
            self,
            computed=None if computed is None else lambda x: -computed(x),
            value=lambda x: -value(x),
            slope=lambda x: -slope(x),
            convex_first=not self.convex_first,
            kinked=None if self.kinked is None else (-self.kinked[0], -self.kinked[1]),
        )


def either(first: Tensor, one: float, other: float, like: Tensor) -> Tensor:
    """``one`` where ``first`` holds, else ``other``, in full: `torch.where` makes float32 of two plain
    numbers.
    """
    return torch.where(first, like.new_tensor(one), like.new_tensor(other))


def kinked(name: str, below: float, above: float) -> Scalar:
    """``below x`` for ``x < 0`` and ``above x`` from 0 on."""
    return Scalar(
        name=name,
        value=lambda x: torch.where(x < 0, below * x, above * x),
        slope=lambda x: either(x < 0, below, above, x),
        convex_first=below <= above,
        kinked=(below, above),
    )


RELU = kinked("relu", 0.0, 1.0)
ABS = kinked("abs", -1.0, 1.0)
SQUARE = Scalar(name="square", value=torch.square, slope=lambda x: 2 * x)
SQUARED_RELU = Scalar(
    name="relu2", value=lambda x: x.clamp_min(0).square(), slope=lambda x: 2 * x.clamp_min(0)
)
EXP = Scalar(name="exp", value=torch.exp, slope=torch.exp)


def _sigmoid_slope(x: Values) -> Values:
    return torch.sigmoid(x) * torch.sigmoid(-x)


SIGMOID = Scalar(name="sigmoid", value=torch.sigmoid, slope=_sigmoid_slope, bends=(0.0,))
TANH = Scalar(name="tanh", value=torch.tanh, slope=lambda x: 4 * _sigmoid_slope(2 * x), bends=(0.0,))
ERF = Scalar(
    name="erf",
    value=torch.erf,
    slope=lambda x: torch.exp(-x.square()) * (2 / math.sqrt(math.pi)),
    bends=(0.0,),
)


def _gelu_slope(x: Values) -> Values:
    below: Tensor = torch.special.ndtr(x)
    return below + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


GELU = Scalar(
    name="gelu",
    value=torch.nn.functional.gelu,
    slope=_gelu_slope,
    bends=(-GELU_BEND, GELU_BEND),
    convex_first=False,
)
SILU = Scalar(
    name="silu",
    value=torch.nn.functional.silu,
    slope=lambda x: torch.sigmoid(x) * (1 + x * torch.sigmoid(-x)),
    bends=(-SILU_BEND, SILU_BEND),
    convex_first=False,
)


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Scalar:
    """``log(1 + exp(beta x)) / beta``, replaced by ``x`` where ``beta x > threshold``: lower there by at
    most ``exp(-threshold) / beta``.
    """
    cut = math.exp(-threshold) / beta
    return Scalar(
        name="softplus",
        value=lambda x: torch.logaddexp(beta * x, torch.zeros_like(x)) / beta,
        slope=lambda x: torch.sigmoid(beta * x),
        slack=0.0 if cut < 1e-17 else cut,
        computed=lambda x: torch.nn.functional.softplus(x, beta, threshold),
    )


def elu(alpha: float) -> Scalar:
    """``x`` for ``x > 0``, else ``alpha (exp(x) - 1)``; convex for ``0 <= alpha <= 1``."""
    return Scalar(
        name="elu",
        value=lambda x: torch.where(x > 0, x, alpha * torch.expm1(x.clamp_max(0))),
        slope=lambda x: torch.where(x > 0, 1.0, alpha * x.clamp_max(0).exp()),
    )
