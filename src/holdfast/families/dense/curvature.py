"""Rigorous curvature of deep networks with a smooth activation (`docs/explanations/deep_certificate.md`)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.curvature.base import BlockCurvature, RoundCurvature, Tangent
from holdfast.curvature.grams import weighted_grams
from holdfast.families.curvature import FamilyCurvature
from holdfast.families.dense.expansion import (
    Expansion,
    Start,
    constants_of,
    expand,
    outputs_at,
    start_of,
)
from holdfast.families.dense.free_parameters import first_parameters
from holdfast.families.dense.layered import first_matrices, layered, upper_rows
from holdfast.families.dense.norms import Scaled, scaled_norms
from holdfast.families.dense.products import cross_terms, pairs_of, third_of
from holdfast.families.dense.search import tuned
from holdfast.networks.dense import Dense

MATRIX_NUMBERS = 2**27
"""Numbers in the matrices of one layer: above it units share matrices."""
LEAST_SLOPE = 0.1
"""Of the largest mean slope at the start: what the units with the smallest count as in norms that serve a
whole run.
"""
CENTRE = 0.25
"""Where rounds are expanded when curvature costs something, as a share of the way."""


@dataclass(frozen=True, kw_only=True)
class DeepCurvature(FamilyCurvature[Dense]):
    """Curvature of a `Dense` network with a smooth activation, one ball per trained layer.

    It bounds steps that end in the ball, and nothing outside: `within` says which ball.

    Attributes:
        start: the initial weights and their norms, once `within` has been called.
        scaled: norms that serve every round, once `prepared` has been called; otherwise each round has its
            own.
        centre: where rounds are expanded, as a share of the way from the initial weights to the present ones.
        tune: whether the free numbers of the bound are searched in each round, where norms are; otherwise
            they have their usual values.
        safety: factor on the bound. 1 is the proof; tests set it below 1 to see the proof fail.

    >>> import holdfast as hf
    >>> hf.families.DeepCurvature().rigorous, hf.families.DeepCurvature(safety=0.5).rigorous
    (True, False)
    """

    network: ClassVar[type[nn.Module]] = Dense
    word: ClassVar[str] = "deep"

    start: Start | None = None
    scaled: Scaled | None = None
    centre: float = 1.0
    tune: bool = True
    safety: float = 1.0

    @property
    def rigorous(self) -> bool:
        return self.safety >= 1.0

    @property
    def radii(self) -> tuple[float, ...]:
        """The ball of each layer for which the bound holds."""
        return self._started.radii

    @property
    def _started(self) -> Start:
        if self.start is None:
            raise RuntimeError("a deep bound holds within a ball: call within() first")
        return self.start

    def unsuited(self, network: Dense) -> str:
        act = network.activation
        bounded = act.curvature_above < math.inf and act.curvature_below < math.inf
        if act.kink or act.lipschitz is None or not bounded:
            return f"a deep network needs bounded first and second derivatives, which {act.name} has not"
        if not all(weight.requires_grad for weight in network.weights):
            return "some layers are not trained, so the deep bound does not apply"
        return ""

    def parameters(self, model: nn.Module) -> tuple[tuple[str, ...], ...]:
        core = self.core(model)
        return tuple(core.named(f"weights.{h}") for h in range(self.inside(model).depth))

    @torch.no_grad()
    def within(
        self, model: nn.Module, initial: Mapping[str, Tensor], radius: float | tuple[float, ...]
    ) -> "DeepCurvature":
        net, own = self.inside(model), self.core(model).own(initial)
        weights = tuple(own[f"weights.{h}"] for h in range(net.depth))
        groups = net.groups if net.groups * net.width**2 <= MATRIX_NUMBERS else 1
        return replace(self, start=start_of(weights, per_ball(radius, net.depth), groups))

    @torch.no_grad()
    def prepared(
        self,
        model: nn.Module,
        initial: Mapping[str, Tensor],
        points: Float[Tensor, "batch ..."],
        slopes: Callable[[Float[Tensor, "batch outputs"]], Float[Tensor, "batch outputs"]],
    ) -> "DeepCurvature":
        """Norms computed once for all rounds."""
        net, start = self.inside(model), self._started
        outputs = torch.func.functional_call(model, dict(initial), (points,))
        at = expand(net, start.weights, start.weights, points, slopes(outputs))
        scaled = scaled_norms(at, start, constants_of(net.activation), lean=True, least=LEAST_SLOPE)
        return replace(self, scaled=scaled)

    def recentred(self, width_factor: float) -> "DeepCurvature":
        """Rounds are expanded where they are while curvature costs nothing there, else nearer to the
        start: no step is then as long.
        """
        return replace(self, centre=1.0 if width_factor <= 1.0 else CENTRE)

    @torch.no_grad()
    def round(
        self,
        model: nn.Module,
        points: Float[Tensor, "batch ..."],
        weighted_slopes: Float[Tensor, "batch outputs"],
        *,
        reach: float,
    ) -> RoundCurvature:
        net, start = self.inside(model), self._started
        moves = tuple(
            self.centre * (w.detach().double() - s) for w, s in zip(net.weights, start.weights, strict=True)
        )
        weights = tuple(s + d for s, d in zip(start.weights, moves, strict=True))
        at = expand(net, weights, start.weights, points, weighted_slopes)
        tangent = Tangent(
            outputs=outputs_at(net, at, points),
            gradients=tuple((at.gradient(h),) for h in range(net.depth)),
            moves=tuple((move,) for move in moves),
        )
        return replace(self.at(net, at), tangent=tangent)

    @torch.no_grad()
    def at(self, net: Dense, at: Expansion) -> RoundCurvature:
        """The bound at an expansion."""
        start, constants = self._started, constants_of(net.activation)
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
        scaled = self.scaled or scaled_norms(at, start, constants)
        free = first_parameters(net.depth)
        if self.tune and self.scaled is None and largest > 0 and net.depth > 1 and cancelling:
            slopes = tuple(float(at.gradient(h).norm()) for h in range(net.depth))
            free = tuned(at, start, scaled, constants, free, cancelling=cancelling, x=x, slopes=slopes)
        third = third_of(at, x) if cancelling else None
        bound = layered(at, start, scaled, constants, free, third=third, cancelling=cancelling)
        if cancelling:
            units, pairs = torch.arange(net.width, device=x.device), pairs_of(at, 1)
            first = first_matrices(bound, at, pairs, x, units, cross_terms(at, pairs, x, units), third)
        else:
            first = weighted_grams(x, bound.weights[0].reshape(shared, net.width // shared, -1).amax(1))
        blocks = [BlockCurvature(matrices=factor * first, basis=basis)]
        for h in range(1, net.depth):
            rows = upper_rows(bound, at, third, h)
            rows = replace(rows, weights=factor * rows.weights)
            blocks.append(BlockCurvature(rows=rows, eigenvalue=factor * bound.eigenvalues[h]))
        return RoundCurvature(balls=tuple((block,) for block in blocks))

    @torch.no_grad()
    def amplitude(self, model: nn.Module, initial: Mapping[str, Tensor], distance: float) -> float:
        """How far an output can be off for inputs of norm 1, in units of roundoff: what the rounding
        allowance is made of.

        A product of ``n`` terms errs by ``(n + 4) u`` of its absolute terms. Layer by layer, ``dx^h <= k L
        ((n + 4) ||W^h||_F X + ||W^h|| dx^(h-1)) + 16 (X + sqrt c)`` with ``||W|| <= sqrt(||W0||_1 ||W0||_inf)
        + distance``, then ``||a||`` and a factor 4 for backward passes, the frozen copy and the matrices.
        Holds for all weights at most ``distance`` from the initial ones in every layer.
        """
        net, own = self.inside(model), self.core(model).own(initial)
        act, k, error, size = net.activation, net.layer_scale, 0.0, 1.0
        lipschitz = act.lipschitz or 0.0
        if net.input_weight is not None:
            a = net.input_weight.double()
            size = _norm_at_most(a)
            error = (a.shape[1] + 4) * float(a.norm())
        offset = math.sqrt(act.normaliser) * abs(float(act(torch.zeros((), dtype=torch.float64))))
        for h in range(net.depth):
            w = own[f"weights.{h}"].detach().double()
            norm = _norm_at_most(w) + distance
            error = k * lipschitz * ((w.shape[1] + 4) * (float(w.norm()) + distance) * size + norm * error)
            size = k * lipschitz * norm * size + offset
            error += 16 * (size + math.sqrt(act.normaliser))
        out = net.output_weight.double()
        return 4 * float(out.norm()) * (error + (net.width + 4) * size)


def _norm_at_most(matrix: Tensor) -> float:
    sizes = matrix.abs()
    return math.sqrt(float(sizes.sum(0).max()) * float(sizes.sum(1).max()))


def per_ball(radius: float | tuple[float, ...], balls: int) -> tuple[float, ...]:
    """The radius of each ball: the same for all, or one a ball."""
    return radius if isinstance(radius, tuple) else (float(radius),) * balls


def input_basis(net: Dense) -> Float[Tensor, "inputs coordinates"] | None:
    """An orthonormal basis of what ``x^0 = A x`` can be; nothing where that is everything."""
    if net.input_weight is None or net.features >= net.width:
        return None
    basis: Tensor = torch.linalg.qr(net.input_weight.detach().double()).Q
    return basis


def shared_groups(units: int, coordinates: int) -> int:
    """Into how many groups layer 1's units are cut so that their matrices fit: all units apart where
    possible.
    """
    return max(
        g for g in range(1, units + 1) if units % g == 0 and (g == 1 or g * coordinates**2 <= MATRIX_NUMBERS)
    )
