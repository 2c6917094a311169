"""How far a network can depart from its tangent: the curvature of one round, whatever the weights it is
compared with.

For a round with attacked points ``x'_i``, weights ``p_i`` and loss slopes ``s_i`` (subgradients at the
outputs), every step ``Delta`` from the anchor ``W`` satisfies

    sum_i p_i <s_i, f(W + Delta, x'_i) - f(W, x'_i) - Df(W, x'_i) Delta>  >=  - q(Delta) - slack,   q(Delta) =
    sum_r Delta_r' M_r Delta_r.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from holdfast._values import Shown
from holdfast.curvature.grams import WeightedRows
from holdfast.networks.activations import Activation


@dataclass(frozen=True, kw_only=True, repr=False)
class BlockCurvature(Shown):
    """The quadratic that one weight matrix carries, as in `holdfast.trace.Block`.

    Instead of ``matrices`` it may be given by the ``rows`` whose products they would be.

    Attributes:
        matrices: ``M_g``, one symmetric matrix per group; ``None`` means 0.
        eigenvalue: a number added to every eigenvalue.
        basis: orthonormal columns in which the matrices are given; ``None`` means the inputs themselves.
        rows: whose weighted products the matrices are.

    >>> import torch
    >>> from holdfast import curvature
    >>> curvature.BlockCurvature(eigenvalue=torch.tensor(0.5)).eigenvalue
    tensor(0.5000)
    """

    matrices: Float[Tensor, "groups coordinates coordinates"] | None = None
    eigenvalue: Float[Tensor, ""] | None = None
    basis: Float[Tensor, "inputs coordinates"] | None = None
    rows: WeightedRows | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Tangent(Shown):
    """The network's own tangent at the centre of the expansion.

    In float64, whatever the arithmetic of training, where it is part of a proof.

    Attributes:
        outputs: ``f(W_c, x'_i)``.
        gradients: of ``sum_i p_i <s_i, f(W_c, x'_i)>``, ball by ball.
        moves: ``W_c - W0``; ``None`` at the network's present weights.

    >>> import torch
    >>> from holdfast import curvature
    >>> net = torch.nn.Linear(2, 1)
    >>> found = curvature.LocalLinearity().round(net, torch.eye(2), torch.ones(2, 1), reach=1.0)
    >>> found.tangent.outputs.shape
    torch.Size([2, 1])
    """

    outputs: Float[Tensor, "batch outputs"]
    gradients: tuple[tuple[Float[Tensor, "_ _"], ...], ...]
    moves: tuple[tuple[Float[Tensor, "_ _"], ...], ...] | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class RoundCurvature(Shown):
    """The curvature of one round: ``q`` block by block, and the slack ``k >= 0``.

    ``q`` belongs to the centre of the ``tangent``, which every recorded round carries: it is computed here,
    so that nothing that happens to training's own gradients (clipping, scaling, accumulation, hooks) can
    enter a bound. Expansions with gradients of their own leave it out.

    Attributes:
        balls: one tuple per ball, in the order of the ball's parameters.
        slack: ``k``; ``None`` means 0.
        tangent: the network's own at the centre; ``None`` where the expansion brings its own gradients.

    >>> import torch
    >>> from holdfast import curvature
    >>> block = curvature.BlockCurvature(eigenvalue=torch.tensor(0.5))
    >>> curvature.RoundCurvature(balls=((block,),)).slack is None
    True
    """

    balls: tuple[tuple[BlockCurvature, ...], ...]
    slack: Float[Tensor, ""] | None = None
    tangent: Tangent | None = None


class Curvature(ABC):
    """Which bound holds for which network, and whether it is a proof.

    >>> import holdfast as hf
    >>> from holdfast import curvature
    >>> curvature.LocalLinearity().rigorous, hf.families.TwoLayerCurvature().rigorous
    (False, True)
    """

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether the bound is a proof for the networks it was made for; otherwise certificates built on
        it are estimates.
        """

    def unproved(self, model: nn.Module) -> str:
        """Why the bound is no proof for this network; empty where it is one. Asked anew wherever a proof
        is about to rest on it.
        """
        return "the curvature bound is the caller's own, and its proof is not known"

    @abstractmethod
    def parameters(self, model: nn.Module) -> tuple[tuple[str, ...], ...]:
        """Names of the trained parameters, one tuple a ball."""

    @abstractmethod
    def round(
        self,
        model: nn.Module,
        points: Float[Tensor, "batch ..."],
        weighted_slopes: Float[Tensor, "batch outputs"],
        *,
        reach: float,
    ) -> RoundCurvature:
        """Curvature at the model's present weights. ``weighted_slopes`` are ``p_i s_i``; ``reach`` is the
        distance from these weights at which the bound should be tightest (the parameter radius): it never
        affects validity.
        """

    def within(
        self, model: nn.Module, initial: Mapping[str, Tensor], radius: float | tuple[float, ...]
    ) -> "Curvature":
        """The bound for networks in the ball(s) of this radius about these weights, for curvatures that need
        to know the ball.

        One radius serves every ball; several are given one per ball.
        """
        return self

    def prepared(
        self,
        model: nn.Module,
        initial: Mapping[str, Tensor],
        points: Float[Tensor, "batch ..."],
        slopes: Callable[[Float[Tensor, "batch outputs"]], Float[Tensor, "batch outputs"]],
    ) -> "Curvature":
        """With what serves a whole run worked out once, as suits the initial weights at these points;
        ``slopes(outputs)`` are the loss's there.
        """
        return self

    def recentred(self, width_factor: float) -> "Curvature":
        """The bound for the window after one of this width factor (beyond 1 curvature costs something)."""
        return self

    @property
    def radii(self) -> tuple[float, ...]:
        """The largest ball(s) in which the bound holds; empty where it holds everywhere."""
        return ()

    def uses_reach(self, model: nn.Module) -> bool:
        """Whether ``reach`` matters for this model, so that a good one is worth finding."""
        return False


def curvature_bounds(activation: Activation) -> tuple[float, float]:
    """``(b_plus, b_minus)`` with ``-b_minus <= act'' <= b_plus``; for a kinked activation its jump of
    slope, and 0.
    """
    if activation.kink:
        return activation.kink, 0.0
    return activation.curvature_above, activation.curvature_below


def one_sided(inner: Tensor, bounds: tuple[float, float]) -> Tensor:
    """``c = b_plus max(0, -<s, a>) + b_minus max(0, <s, a>)``: how fast ``<s, a> act(u)`` can fall below
    its tangent.
    """
    above, below = bounds
    costs = above * (-inner).clamp_min(0)
    return costs + below * inner.clamp_min(0) if below else costs
