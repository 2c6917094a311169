"""One frozen attacked pass of a two-layer network, expanded at any anchor on the way from the initial
weights.

For ANY anchor ``W_c = W0 + theta D`` and ANY outputs ``h_i``, convexity of the loss gives a lower model of
the robust loss (`docs/explanations/certificate.md`, "Lower model of one round"). This module evaluates it in
float64, and how it answers to ``h`` and ``tau``.

Legend: i example (n), r unit (m), g group of units (G), c output (o), z input to the first layer (d), k = m /
G units a group.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast._tensors import chunks
from holdfast.curvature.grams import weighted_grams
from holdfast.curvature.lower_model import Block, LowerModel, curved
from holdfast.families.two_layer.curvature import TwoLayerCurvature, kink_widths
from holdfast.losses import Loss
from holdfast.networks import TwoLayer

CHUNK_NUMBERS = 2**25
"""Numbers of an (examples, units) array held at once: 256 MiB in float64."""


@dataclass(frozen=True, kw_only=True)
class Duals:
    """What is free in the lower model: the outputs ``h`` at which the loss is linearised, and the kink
    half-widths.
    """

    h: Float[Tensor, "examples outputs"]
    tau: Float[Tensor, "groups examples"] | None = None


@dataclass(frozen=True, kw_only=True)
class Response:
    """What the lower model at a fixed step ``Delta`` is made of, as far as ``h`` and ``tau`` matter.

    Attributes:
        tangent: ``f(W_c, x'_i) + Df(W_c, x'_i) Delta``.
        square: ``sum_{r in g} kappa_ri (z_i . Delta_r)^2``: the curvature ``c_gi`` multiplies.
        near: for kinks, ``sum_{r in g, |u| < tau} (z_i . Delta_r)^2``, to be divided by ``tau_gi``.
    """

    tangent: Float[Tensor, "examples outputs"]
    square: Float[Tensor, "groups examples"]
    near: Float[Tensor, "groups examples"] | None = None


class Anchor:
    """A two-layer network frozen at ``W_c``, with the attacked points of one full pass.

    Args:
        network: a float64 `TwoLayer` holding the anchor's weights.
        move: ``D_c = W_c - W0``.
        z: attacked points as the first layer sees them.
        weights: ``pi_i`` of the examples (they add up to 1).
        reach: distance at which the kink half-widths start tightest, the parameter radius.
        per_unit: give each unit its own curvature matrix: tighter, and ``k`` times the eigenproblems.
    """

    def __init__(
        self,
        network: TwoLayer,
        move: Float[Tensor, "units inputs"],
        z: Float[Tensor, "examples inputs"],
        labels: Int[Tensor, " examples"],
        weights: Float[Tensor, " examples"],
        loss: Loss,
        *,
        reach: float,
        per_unit: bool = False,
    ) -> None:
        self.network, self.move, self.z, self.labels, self.weights = network, move, z, labels, weights
        self.loss, self.reach = loss, reach
        self.kinked = network.activation.kink > 0
        # Only the two curvatures that are known unit by unit gain from matrices of their own.
        self.per_unit = per_unit and (self.kinked or network.activation.name == "softplus")
        self.root = math.sqrt(network.width)
        parts = [self._values(u) for _, u in self._preactivations()]
        self.outputs = torch.cat([part[0] for part in parts])
        self._sorted = torch.cat([part[1] for part in parts], 1) if self.kinked else None
        self._sums = None
        if self._sorted is not None:
            self._sums = torch.nn.functional.pad(self._sorted.cumsum(2), (1, 0))

    def _preactivations(self) -> Iterator[tuple[slice, Float[Tensor, "chunk units"]]]:
        weight = self.network.weight.detach()
        for rows in chunks(len(self.z), CHUNK_NUMBERS // self.network.width):
            yield rows, self.z[rows] @ weight.T

    def _values(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and the sorted ``|u|`` a group: (G, chunk, k)."""
        outputs = self.network.activation.value(u) @ self.network.output_weight.detach() / self.root
        magnitudes = (
            u.abs().reshape(len(u), self.network.groups, -1).transpose(0, 1)
            if self.kinked
            else u[None, :, :0]
        )
        return outputs, magnitudes.sort(2).values

    def start(self, h: Float[Tensor, "examples outputs"]) -> Duals:
        """Duals to begin with: the given outputs, and half-widths from the density of units near the kink."""
        if self._sorted is None:
            return Duals(h=h)
        norms = self.z.norm(dim=1)
        return Duals(h=h, tau=torch.stack([kink_widths(group, norms, self.reach) for group in self._sorted]))

    def costs(self, h: Float[Tensor, "examples outputs"]) -> Float[Tensor, "groups examples"]:
        """``p_i c_gi``; differentiable in ``h``."""
        slopes = self.loss.slope(h, self.labels) * self.weights[:, None]
        return TwoLayerCurvature().costs(self.network, slopes)

    def slack(self, costs: Tensor, tau: Tensor) -> Tensor:
        """``k = m^(-1/2) sum_gi c_gi sum_{r in g} max(0, tau_gi - |u_ri|)``; its derivative in tau is
        right almost everywhere.
        """
        if self._sorted is None or self._sums is None:
            return costs.new_zeros(())
        below = torch.searchsorted(self._sorted, tau.detach()[..., None].contiguous())
        total = tau * below.squeeze(-1) - self._sums.gather(2, below).squeeze(-1)
        return (costs * total).sum() / self.root

    def lower_model(self, duals: Duals) -> LowerModel:
        """``sum_i pi_i sup loss(f(W0 + U, x'_i)) >= constant + <V, U> - sum_r U_r' M_r U_r`` for every
        ``U``.
        """
        net, duals_h = self.network, duals.h
        slopes = self.loss.slope(duals_h, self.labels) * self.weights[:, None]
        costs = self.costs(duals_h)
        gradient = torch.zeros_like(self.move)
        matrices = self._matrices(costs, duals.tau)
        for rows, u in self._preactivations():
            back = net.activation.slope(u) * (slopes[rows] @ net.output_weight.detach().T)
            gradient += back.T @ self.z[rows]
        gradient /= self.root
        bent = curved(self.move, matrices)
        base = (self.weights * self.loss(duals_h, self.labels)).sum() + (
            slopes * (self.outputs - duals_h)
        ).sum()
        if duals.tau is not None:
            base = base - self.slack(costs, duals.tau)
        constant = base - (gradient * self.move).sum() - (bent * self.move).sum()
        return LowerModel(
            constant=float(constant), balls=((Block(linear=gradient + 2 * bent, matrices=matrices),),)
        )

    def _matrices(self, costs: Tensor, tau: Tensor | None) -> Tensor:
        scale = 1 / ((4 if self.kinked else 2) * self.root)
        if not self.per_unit:
            return scale * weighted_grams(self.z, costs if tau is None else costs / tau)
        width, inputs = self.move.shape
        matrices = self.move.new_zeros(width, inputs, inputs)
        for rows, u in self._preactivations():
            of_unit = costs[:, rows].repeat_interleave(width // len(costs), 0).T * self._relative(
                u, tau, rows
            )
            for units in chunks(width, CHUNK_NUMBERS // max(1, u.shape[0] * inputs)):
                z = self.z[rows]
                matrices[units] += (of_unit[:, units].T[:, None, :] * z.T[None]) @ z
        return scale * matrices

    def _relative(self, u: Tensor, tau: Tensor | None, rows: slice) -> Float[Tensor, "chunk units"]:
        """Curvature of each unit at its own preactivation, over the constant that `costs` carries.

        Softplus: ``tanh(u/2) / (2u)`` over 1/4 (Jaakkola and Jordan 2000). Kinks: ``1 / max(|u|, tau)``.
        """
        if tau is None:
            half = 0.5 * u
            # tanh(h) / h = 1 - h^2 / 3 + ..: below 1e-4 it is 1 to 4e-9, and 1 is the upper end.
            return torch.where(half.abs() < 1e-4, torch.ones_like(u), half.tanh() / half)
        widths = tau[:, rows].repeat_interleave(u.shape[1] // len(tau), 0).T
        return 1 / torch.maximum(u.abs(), widths)

    def response(self, step: Float[Tensor, "units inputs"], tau: Tensor | None) -> Response:
        """How the lower model at ``Delta = step`` depends on ``h`` and ``tau`` (two products of examples,
        inputs and units).
        """
        net, groups = self.network, self.network.groups
        tangents, squares, nears = [], [], []
        for rows, u in self._preactivations():
            moved = self.z[rows] @ step.T
            tangents.append((net.activation.slope(u) * moved) @ net.output_weight.detach() / self.root)
            moved = moved.square_()
            if tau is not None:
                widths = tau[:, rows].repeat_interleave(u.shape[1] // groups, 0).T
                inside = (u.abs() < widths) if self.per_unit else torch.ones_like(u, dtype=torch.bool)
                nears.append(torch.where(inside, moved, 0.0).reshape(len(u), groups, -1).sum(2).T)
                moved = torch.where(inside, 0.0, moved / u.abs().clamp_min(1e-300))
            elif self.per_unit:
                moved = moved * self._relative(u, None, rows)
            squares.append(moved.reshape(len(u), groups, -1).sum(2).T)
        return Response(
            tangent=self.outputs + torch.cat(tangents),
            square=torch.cat(squares, 1),
            near=torch.cat(nears, 1) if nears else None,
        )

    def value(self, duals: Duals, response: Response) -> Tensor:
        """The lower model at the step of ``response``; differentiable in ``h`` and ``tau``."""
        slopes = self.loss.slope(duals.h, self.labels) * self.weights[:, None]
        costs = self.costs(duals.h)
        base = (self.weights * self.loss(duals.h, self.labels)).sum()
        base = base + (slopes * (response.tangent - duals.h)).sum()
        if duals.tau is None:
            return base - (costs * response.square).sum() / (2 * self.root)
        near = 0.0 if response.near is None else response.near / duals.tau
        return (
            base - (costs * (response.square + near)).sum() / (4 * self.root) - self.slack(costs, duals.tau)
        )
