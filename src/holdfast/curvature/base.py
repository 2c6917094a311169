"""How far a network can depart from its tangent: the curvature of one round, whatever the weights it is compared with.

For a round with attacked points ``x'_i``, weights ``p_i`` and loss slopes ``s_i`` (subgradients at the outputs), every step
``Delta`` from the anchor ``W`` satisfies

    sum_i p_i <s_i, f(W + Delta, x'_i) - f(W, x'_i) - Df(W, x'_i) Delta>  >=  - q(Delta) - slack,   q(Delta) = sum_r Delta_r' M_r Delta_r.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BlockCurvature:
    """The quadratic that one weight matrix carries; see `holdfast.trace.lower_model.Block` for the fields."""

    matrices: Float[Tensor, "groups coordinates coordinates"] | None = None
    eigenvalue: Float[Tensor, ""] | None = None
    basis: Float[Tensor, "inputs coordinates"] | None = None


@dataclass(frozen=True, kw_only=True)
class RoundCurvature:
    """``q`` block by block (one tuple a ball, in the order of the ball's parameters), and the slack ``k >= 0``."""

    balls: tuple[tuple[BlockCurvature, ...], ...]
    slack: Float[Tensor, ""] | None = None


class Curvature(ABC):
    """Which bound holds for which network, and whether it is a proof."""

    @property
    @abstractmethod
    def rigorous(self) -> bool:
        """Whether the bound is proved; otherwise certificates built on it are estimates."""

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
        """Curvature at the model's present weights. ``weighted_slopes`` are ``p_i s_i``; ``reach`` is the distance from these
        weights at which the bound should be tightest (the parameter radius): it never affects validity."""

    def within(self, model: nn.Module, initial: Mapping[str, Tensor], radius: float) -> "Curvature":
        """The bound for networks in the ball of this radius about these weights, for curvatures that need to know the ball."""
        return self

    @property
    def valid_radius(self) -> float:
        """Largest ball in which the bound holds."""
        return math.inf

    def uses_reach(self, model: nn.Module) -> bool:
        """Whether ``reach`` matters for this model, so that a good one is worth finding."""
        return False
