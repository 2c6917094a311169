"""Rigorous curvature of deep networks with a smooth activation (`docs/deep_certificate.md`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.curvature.base import BlockCurvature, Curvature, RoundCurvature
from holdfast.curvature.deep_expansion import Expansion, Start, constants_of, expand, start_of
from holdfast.curvature.deep_layered import (
    cross_terms,
    first_knobs,
    first_matrices,
    layered,
    scaled_norms,
    tuned,
)
from holdfast.curvature.two_layer import weighted_grams
from holdfast.networks.dense import Dense

MATRIX_NUMBERS = 2**27
"""Numbers in the matrices of one layer: above it units share matrices."""


@dataclass(frozen=True, kw_only=True)
class DeepCurvature(Curvature):
    """Curvature of a `Dense` network with a smooth activation, one ball a trained layer.

    It bounds steps that end in the ball, and nothing outside: `within` says which ball.

    Attributes:
        start: norms of ``W0``, once `within` has been called.
        tune: whether the free numbers of the bound are searched each round, or left at their natural scales.
        low_rank: give the layers above the first matrices in a basis of the round's own inputs: smaller eigenproblems, and
            matrices that cannot be added up over rounds.
        safety: factor on the bound. 1 is the proof; tests set it below 1 to see the proof fail.
    """

    start: Start | None = None
    tune: bool = True
    low_rank: bool = False
    safety: float = 1.0

    @property
    def rigorous(self) -> bool:
        return self.safety >= 1.0

    @property
    def valid_radius(self) -> float:
        return math.inf if self.start is None else self.start.radii[0]

    def parameters(self, model: nn.Module) -> tuple[tuple[str, ...], ...]:
        return tuple((f"weights.{h}",) for h in range(dense(model).depth))

    @torch.no_grad()
    def within(self, model: nn.Module, initial: Mapping[str, Tensor], radius: float) -> "DeepCurvature":
        net = dense(model)
        weights = tuple(initial[f"weights.{h}"] for h in range(net.depth))
        groups = net.groups if net.groups * net.width**2 <= MATRIX_NUMBERS else 1
        return replace(self, start=start_of(weights, (float(radius),) * net.depth, groups))

    def round(
        self,
        model: nn.Module,
        points: Float[Tensor, "batch ..."],
        weighted_slopes: Float[Tensor, "batch outputs"],
        *,
        reach: float,
    ) -> RoundCurvature:
        net, start = dense(model), self.start
        if start is None:
            raise RuntimeError("a deep bound holds within a ball: call within() first")
        weights = tuple(w.detach().double() for w in net.weights)
        return self.at(net, expand(net, weights, start.weights, points, weighted_slopes))

    @torch.no_grad()
    def at(self, net: Dense, at: Expansion) -> RoundCurvature:
        """The bound at an expansion, as matrices."""
        start, constants = self.start, constants_of(net.activation)
        if start is None:
            raise RuntimeError("a deep bound holds within a ball: call within() first")
        # The bound is proportional to the slopes, which may be too small to be squared.
        largest = float(at.sizes.max()) if len(at.sizes) else 0.0
        if largest > 0:
            backward = tuple(b / largest for b in at.backward)
            at = replace(at, backward=backward, sizes=at.sizes / largest)
        else:  # nothing bends, and any sizes serve
            at = replace(at, sizes=torch.ones_like(at.sizes))
        factor = self.safety * largest
        basis = input_basis(net)
        x = at.inputs[0] if basis is None else at.inputs[0] @ basis
        shared = shared_groups(net.width, x.shape[1])
        cancelling = shared == net.width
        scaled = scaled_norms(at, start)
        knobs = first_knobs(net.depth)
        if self.tune and largest > 0 and net.depth > 1 and cancelling:
            slopes = tuple(float(at.gradient(h).norm()) for h in range(net.depth))
            knobs = tuned(at, start, scaled, constants, knobs, cancelling=cancelling, x=x, slopes=slopes)
        bound = layered(at, start, scaled, constants, knobs, cancelling=cancelling)
        if cancelling:
            units = torch.arange(net.width, device=x.device)
            first = first_matrices(bound, x, units, cross_terms(at, x, units))
        else:
            first = weighted_grams(x, bound.weights[0].reshape(shared, net.width // shared, -1).amax(1))
        blocks = [BlockCurvature(matrices=factor * first, basis=basis)]
        for h in range(1, net.depth):
            inputs, own = at.inputs[h], None
            if self.low_rank and len(inputs) < inputs.shape[1]:
                own = torch.linalg.qr(inputs.T).Q
                inputs = inputs @ own
            matrices = factor * weighted_grams(inputs, bound.weights[h])
            blocks.append(
                BlockCurvature(matrices=matrices, basis=own, eigenvalue=factor * bound.eigenvalues[h])
            )
        return RoundCurvature(balls=tuple((block,) for block in blocks))

    def amplitude(self, model: nn.Module) -> float:
        """How far an output can be off for inputs of norm 1, in units of roundoff: what the rounding allowance is made of.

        A product of ``n`` terms errs by ``(n + 4) u`` of its absolute terms. Layer by layer, ``dx^h <= k L ((n + 4) ||W^h||_F X + ||W^h||
        dx^(h-1)) + 16 (X + sqrt c)`` with ``||W|| <= sqrt(||W||_1 ||W||_inf)``, then ``||a||`` and a factor 4 for backward
        passes, the frozen copy and the matrices.
        """
        net = dense(model)
        act, k, error, size = net.activation, net.layer_scale, 0.0, 1.0
        lipschitz = act.lipschitz or 0.0
        if net.input_weight is not None:
            a = net.input_weight.detach().double()
            size = _norm_at_most(a)
            error = (a.shape[1] + 4) * float(a.norm())
        offset = math.sqrt(act.normaliser) * abs(float(act(torch.zeros((), dtype=torch.float64))))
        for weight in net.weights:
            w = weight.detach().double()
            norm = _norm_at_most(w)
            error = k * lipschitz * ((w.shape[1] + 4) * float(w.norm()) * size + norm * error)
            size = k * lipschitz * norm * size + offset
            error += 16 * (size + math.sqrt(act.normaliser))
        out = net.output_weight.detach().double()
        return 4 * float(out.norm()) * (error + (net.width + 4) * size)


def _norm_at_most(matrix: Tensor) -> float:
    sizes = matrix.abs()
    return math.sqrt(float(sizes.sum(0).max()) * float(sizes.sum(1).max()))


def input_basis(net: Dense) -> Float[Tensor, "inputs coordinates"] | None:
    """An orthonormal basis of what ``x^0 = A x`` can be; nothing where that is everything."""
    if net.input_weight is None or net.features >= net.width:
        return None
    basis: Tensor = torch.linalg.qr(net.input_weight.detach().double()).Q
    return basis


def shared_groups(units: int, coordinates: int) -> int:
    """Into how many groups layer 1's units are cut so that their matrices fit: all units apart where possible."""
    return max(
        g for g in range(1, units + 1) if units % g == 0 and (g == 1 or g * coordinates**2 <= MATRIX_NUMBERS)
    )


def dense(model: nn.Module) -> Dense:
    """The model as a `Dense` network; `curvature_for` gives this curvature to no other."""
    if not isinstance(model, Dense):
        raise TypeError(f"this curvature is proved for Dense networks, not {type(model).__name__}")
    return model
