"""A quadratic that lies below the robust loss of every network in the ball, and its smallest value there.

Legend: R radius of a ball, U = W - W0 the move, V the linear coefficient, M a curvature matrix, lam its
eigenvalues, mu the multiplier of the ball. Derivation: `docs/explanations/certificate.md`.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from holdfast._values import Shown


def by_group(
    values: Float[Tensor, "units inputs"], matrices: Float[Tensor, "groups inputs _"]
) -> Float[Tensor, "groups members inputs"]:
    """The rows of each group of units, as a view."""
    return values.reshape(len(matrices), -1, values.shape[1])


def curved(
    values: Float[Tensor, "units inputs"],
    matrices: Float[Tensor, "groups coordinates coordinates"],
    basis: Float[Tensor, "inputs coordinates"] | None = None,
) -> Float[Tensor, "units inputs"]:
    """``M_g(r) values_r`` for every unit, ``Q M Q' values_r`` where the matrices are given in a basis."""
    if basis is not None:
        return curved(values @ basis, matrices) @ basis.T
    return (by_group(values, matrices) @ matrices).reshape(values.shape)


@dataclass(frozen=True, kw_only=True, repr=False)
class Block(Shown):
    """The part of a lower model that one weight matrix carries: ``<V, U> - sum_r U_r' M_g(r) U_r``.

    Attributes:
        linear: ``V``, one row per unit.
        matrices: ``M_g``, one symmetric matrix per group; groups are equally large and their rows adjacent,
            so that ``V`` reshaped to (groups, units / groups, inputs) lines up with them. ``None`` means 0.
        eigenvalue: a number added to every eigenvalue of every ``M_g``: the curvature
            ``eigenvalue * ||U||^2``.
        basis: orthonormal columns ``Q`` in which the matrices are given, ``Q M_g Q'``; ``None`` means the
            inputs themselves.

    >>> import torch
    >>> from holdfast import trace
    >>> block = trace.Block(linear=torch.ones(1, 2), eigenvalue=1.0)
    >>> trace.LowerModel(constant=3.0, balls=((block,),)).value(((torch.ones(1, 2),),))  # 3 + 2 - 1 * 2
    3.0
    """

    linear: Float[Tensor, "units inputs"]
    matrices: Float[Tensor, "groups coordinates coordinates"] | None = None
    eigenvalue: float = 0.0
    basis: Float[Tensor, "inputs coordinates"] | None = None

    def plus(self, other: "Block", weight: float) -> "Block":
        """``self + weight * other``; both have the same groups and basis."""
        matrices = self.matrices
        if other.matrices is not None:
            matrices = weight * other.matrices if matrices is None else matrices + weight * other.matrices
        return replace(
            self,
            linear=self.linear + weight * other.linear,
            matrices=matrices,
            eigenvalue=self.eigenvalue + weight * other.eigenvalue,
        )

    @cached_property
    def finite(self) -> bool:
        """Whether all its numbers, and the squares that the trust region adds up, are finite."""
        tensors = [t.double() for t in (self.linear, self.matrices) if t is not None]
        return math.isfinite(self.eigenvalue) and all(bool(t.square().sum().isfinite()) for t in tensors)

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor] | None:
        """Eigenvalues (groups, inputs) and eigenvectors of every ``M_g``, in float64."""
        if self.matrices is None:
            return None
        values, vectors = torch.linalg.eigh(self.matrices.double())
        return values + self.eigenvalue, vectors

    @cached_property
    def spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pairs (lam_j, ||V'_j||^2): all the trust region needs to know of this block."""
        if self.eigen is None:
            return np.array([self.eigenvalue]), np.array([self.linear.double().square().sum().item()])
        values, vectors = self.eigen
        inside, outside = self._split()
        squares = (by_group(inside, vectors) @ vectors).square().sum(1)
        lam, sizes = values.flatten().cpu().numpy(), squares.flatten().cpu().numpy()
        if outside is None:
            return lam, sizes
        rest = outside.square().sum().item()
        return np.append(lam, self.eigenvalue), np.append(sizes, rest)

    def _split(self) -> tuple[Tensor, Tensor | None]:
        """``V`` in the coordinates of the basis, and the part of it that the basis does not reach."""
        linear = self.linear.double()
        if self.basis is None:
            return linear, None
        basis = self.basis.double()
        inside = linear @ basis
        return inside, linear - inside @ basis.T

    def minimiser(self, multiplier: float) -> Float[Tensor, "units inputs"]:
        """``U_r = -(2 (mu I - M_r))^-1 V_r``, in float64."""
        if self.eigen is None:
            return self.linear.double() / (-2 * (multiplier - self.eigenvalue))
        values, vectors = self.eigen
        inside, outside = self._split()
        rotated = by_group(inside, vectors) @ vectors
        moved = ((rotated / (-2 * (multiplier - values[:, None]))) @ vectors.mT).reshape(inside.shape)
        if self.basis is None or outside is None:
            return moved
        return moved @ self.basis.double().T + outside / (-2 * (multiplier - self.eigenvalue))


Ball = tuple[Block, ...]
Radius = float | tuple[float, ...]
"""One radius for every ball, or one a ball."""


def largest(radius: Radius) -> float:
    """The largest radius of any ball."""
    return max(radius) if isinstance(radius, tuple) else radius


def scaled(radius: Radius, share: float) -> Radius:
    """``share`` of every radius."""
    return tuple(share * r for r in radius) if isinstance(radius, tuple) else share * radius


def per_ball(radius: Radius, balls: int) -> tuple[float, ...]:
    """The radius of each ball."""
    return radius if isinstance(radius, tuple) else (radius,) * balls


@dataclass(frozen=True, kw_only=True)
class BallMinimum:
    """A lower bound of ``min over ||U||_F <= R of <V, U> - sum_r U_r' M_r U_r``."""

    value: float
    multiplier: float
    max_eigenvalue: float
    slope: float  # ||V||_F
    radius: float

    @property
    def width_factor(self) -> float:
        """``(2 R max lam / ||V||)^2``, at least 1: beyond 1 curvature costs something."""
        return max(1.0, (2 * self.radius * self.max_eigenvalue / self.slope) ** 2) if self.slope > 0 else 1.0


def ball_minimum(ball: Ball, radius: float, *, decay: float = 0.0) -> BallMinimum:
    """The weak-dual bound of the trust region:
    ``max over mu of -sum_j ||V'_j||^2 / (4 (mu - lam_j)) - mu R^2``.

    Any ``mu > max(0, max lam)`` gives a valid bound (weak duality), so the root search below decides only how
    tight it is. The best ``mu`` solves ``sum_j ||V'_j||^2 / (4 (mu - lam_j)^2) = R^2``; where that has no
    root (the hard case) ``mu`` just above ``max lam`` is exact. ``decay`` is a convex term
    ``decay / 2 ||U||^2`` of the objective: it lowers every eigenvalue by half of it.
    """
    if not all(block.finite for block in ball):
        nan = math.nan
        return BallMinimum(value=nan, multiplier=nan, max_eigenvalue=nan, slope=nan, radius=radius)
    spectra = [block.spectrum for block in ball]
    lam = np.concatenate([values for values, _ in spectra]) - decay / 2
    squares = np.concatenate([s for _, s in spectra])
    top = float(lam.max())
    slope = math.sqrt(float(squares.sum()))
    # Never below the largest eigenvalue as computed: the relative margin covers the eigensolver's rounding of
    # the top one.
    floor = max(0.0, top) * (1 + 1e-9) + 1e-300
    if radius == 0.0:
        return BallMinimum(value=0.0, multiplier=math.inf, max_eigenvalue=top, slope=slope, radius=radius)

    def excess(log_gap: float) -> float:
        return float(
            np.log((squares / (4 * (floor + math.exp(log_gap) - lam) ** 2)).sum()) - 2 * math.log(radius)
        )

    if slope == 0.0:
        multiplier = floor
    else:
        from scipy.optimize import (
            brentq,  # which takes as long to import as torch, and attacks need none of it
        )

        # Largest useful mu: with every lam at the top, the root is top + ||V|| / (2 R).
        high = math.log(slope / (2 * radius)) + 1.0
        low = high - 60.0
        multiplier = floor
        if excess(low) > 0:
            # Where rounding leaves no change of sign, the upper end serves: any multiplier gives a valid
            # bound.
            root = brentq(excess, low, high, xtol=1e-12) if excess(high) < 0 else high
            multiplier = floor + math.exp(root)
    gaps = multiplier - lam
    with np.errstate(divide="ignore", invalid="ignore"):
        cost = float(np.where(squares > 0, squares / (4 * gaps), 0.0).sum())
    return BallMinimum(
        value=-cost - multiplier * radius**2,
        multiplier=multiplier,
        max_eigenvalue=top,
        slope=slope,
        radius=radius,
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class LowerModel(Shown):
    """``L*(W0 + U) >= constant + sum_h [<V_h, U_h> - sum_r U_hr' M_hr U_hr]`` for every ``U`` in the balls.

    There is one ball per trained layer ``h``: ``||U_h||_F <= radii_h``.

    Attributes:
        constant: the value at ``W0``.
        balls: the blocks of each ball.
        radii: of the balls in which it holds; empty for every ``U``.

    >>> import torch
    >>> from holdfast import trace
    >>> block = trace.Block(linear=torch.tensor([[3.0, 4.0]]))
    >>> trace.LowerModel(constant=6.0, balls=((block,),)).bound(1.0).value  # 6 - 1 * |(3, 4)|
    1.0
    """

    constant: float
    balls: tuple[Ball, ...]
    radii: tuple[float, ...] = ()

    def bound(
        self, radius: Radius, *, decay: float = 0.0, initial: tuple[tuple[Tensor, ...], ...] = ()
    ) -> "Bound":
        """Smallest value over ``||U_h||_F <= R_h`` for every ``h``, hence below the optimal robust loss of
        the ball(s).

        With ``decay`` the objective has ``decay / 2 ||W||^2`` added, ``initial`` being the weights ``W0``
        block by block: the constant grows by ``decay / 2 ||W0||^2``, ``V`` by ``decay W0`` and every
        eigenvalue falls by ``decay / 2``.
        """
        constant, balls = self.constant, self.balls
        if decay:
            balls = tuple(
                tuple(
                    replace(b, linear=b.linear.double() + decay * w.double())
                    for b, w in zip(ball, ws, strict=True)
                )
                for ball, ws in zip(balls, initial, strict=True)
            )
            constant += decay / 2 * sum(w.double().square().sum().item() for ws in initial for w in ws)
        radii = per_ball(radius, len(balls))
        minima = tuple(ball_minimum(ball, r, decay=decay) for ball, r in zip(balls, radii, strict=True))
        value = constant + sum(m.value for m in minima)
        # Beyond the balls for which it was made a lower model says nothing.
        within = not self.radii or all(r <= most for r, most in zip(radii, self.radii, strict=True))
        return Bound(value=value if within else -math.inf, minima=minima)

    def value(self, moves: tuple[tuple[Tensor, ...], ...]) -> float:
        """The lower model itself at ``U`` (block by block): what tests hold against the loss of sampled
        networks.
        """
        total = self.constant
        for ball, us in zip(self.balls, moves, strict=True):
            for block, u in zip(ball, us, strict=True):
                u = u.double()
                total += (block.linear.double() * u).sum().item() - block.eigenvalue * u.square().sum().item()
                if block.matrices is not None:
                    basis = None if block.basis is None else block.basis.double()
                    total -= (u * curved(u, block.matrices.double(), basis)).sum().item()
        return total


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A lower bound of the optimal robust loss over a ball, before the rounding allowance.

    Attributes:
        value: the bound.
        minima: the minimum of the lower model over each ball.

    >>> import torch
    >>> from holdfast import trace
    >>> block = trace.Block(linear=torch.tensor([[3.0, 4.0]]))
    >>> trace.LowerModel(constant=6.0, balls=((block,),)).bound(1.0).value  # 6 - 1 * |(3, 4)|
    1.0
    """

    value: float
    minima: tuple[BallMinimum, ...]

    @property
    def width_factor(self) -> float:
        """About the factor of width at which curvature stops costing anything:
        ``max_h (2 R_h max lam / ||V||)^2``, at least 1.
        """
        return max((minimum.width_factor for minimum in self.minima), default=1.0)
