"""The bound of deep remainders by matrices (`docs/explanations/deep_certificate.md`, "Bound 2"); legend in
`holdfast.families.dense.expansion`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast._tensors import chunks
from holdfast.curvature.grams import WeightedRows
from holdfast.families.dense.expansion import TINY, Constants, Expansion, Start, reaches
from holdfast.families.dense.free_parameters import FreeParameters
from holdfast.families.dense.norms import Scaled, own_weights, sides
from holdfast.families.dense.products import CHUNK_NUMBERS, LayerPairs, Third


@dataclass(frozen=True, kw_only=True)
class Layered:
    """Bound 2 before its matrices are formed.

    Attributes:
        weights: for layer 1 ``om^1`` (units, batch); for the others ``(1 + th) w_G`` (groups, batch):
            ``M = sum_i weights_i x_i x_i'``.
        eigenvalues: ``kap_h``, added to every eigenvalue of the layer.
        cancel: ``k / (2 tau2)`` in front of ``T_j' T_j``; 0 where layer 1 has no such term.
        third: factors of `Third`'s matrices in layers 1 and 2; 0 where they have none.
    """

    weights: tuple[Float[Tensor, "_ batch"], ...]
    eigenvalues: tuple[Float[Tensor, ""], ...]
    cancel: Float[Tensor, ""]
    third: tuple[Float[Tensor, ""], Float[Tensor, ""]]


def layered(
    at: Expansion,
    start: Start,
    scaled: Scaled,
    constants: Constants,
    free: FreeParameters,
    *,
    third: Third | None,
    cancelling: bool,
) -> Layered:
    """Bound 2: weights ``om^h_ij`` on ``(du^h_ij)^2`` handed down from the top.

    ``cancelling`` sums the product term of layer 2 over examples before taking norms (``T_j``), else example
    by example.
    """
    k, depth, sizes = at.scale, len(at.inputs), at.sizes.clamp_min(TINY)
    e = reaches(at, start, constants, layers=depth - 1)
    away = sizes.new_tensor([r + m for r, m in zip(start.radii, at.moved, strict=True)])
    om = own_weights(at, depth - 1, constants)
    own_most, rest = om.amax(1), torch.zeros_like(om[:, 0])
    weights: list[Tensor] = []
    eigenvalues: list[Tensor] = []
    cancel = later = om.new_zeros(())
    factors = (cancel, cancel)
    for h in range(depth - 1, 0, -1):
        radius, theta, theta2 = start.radii[h], free.theta[h], free.theta2[h]
        w = torch.stack([part.amax(1) for part in om.chunk(len(start.parts(h)), 1)])
        weights.append((1 + theta) * w)
        below, rho = at.derivatives[h - 1], e[h - 1] @ away
        d = scaled.d[h]
        if d is None:
            raise RuntimeError("layer 1 hands nothing down")
        relative = (below / d).square()
        bent = constants.curvature / 2 * rho
        handed = _handed(
            at, w, own_most, rest, relative, bent, scaled, h, radius, d, theta2, constants.lipschitz, start
        )
        pulls = at.pull(h).square().sum(1) / sizes
        # |xi| <= min(beta/2 |du|, largest change of slope) |du|, so |dx| <= k (|D| + that) |du|.
        change = torch.maximum(below - constants.low, constants.lipschitz - below)
        lip2 = torch.minimum(bent[:, None], change)
        crossing = h == 2 and third is not None and cancelling and free.crossing
        if crossing:  # what is left of dx^2 beside d^2 du^2
            lip2 = (below - scaled.references[1]).abs() + lip2
        elif h > 1 or not cancelling:  # otherwise only what is left of dx^1 beside its tangent
            lip2 = (below.abs() + lip2).clamp_max(constants.lipschitz)
        lip2 = lip2.square()
        seen = at.inputs[h - 1].square().sum(1)
        natural = (lip2.amax(1) * sizes * seen).sum() / pulls.sum().clamp_min(TINY)
        tau = free.tau[h] * natural.sqrt().clamp_min(1e-30)
        eigenvalue = tau / 2 * k * pulls.sum()
        if h == 1 and cancelling:
            # At most sum_i ||D_ij g_i|| ||x_i||: the scale of T_j.
            scale = (at.pull(h).norm(dim=1) * below.square().mean(1).sqrt() * seen.sqrt()).sum()
            tau2 = free.tau2 * (0.3 * scale).clamp_min(1e-30)
            eigenvalue = eigenvalue + tau2 / 2 * k
            cancel = k / (2 * tau2)
        if crossing and third is not None:
            found = _third(at, start, scaled, constants, free, third, e[0] @ away, pulls)
            eigenvalue, factors, later = eigenvalue + found[0], found[1], found[2]
        eigenvalues.append(eigenvalue)
        beside = k * lip2 * (sizes / (2 * tau))[:, None] + (1 + 1 / theta) * k**2 * handed
        own = own_weights(at, h - 1, constants)
        own_most, rest = own.amax(1), beside.amax(1)
        om = own + beside
    weights.append((om + later).T)
    eigenvalues.append(om.new_zeros(()))
    return Layered(
        weights=tuple(reversed(weights)),
        eigenvalues=tuple(reversed(eigenvalues)),
        cancel=cancel,
        third=factors,
    )


def _third(
    at: Expansion,
    start: Start,
    scaled: Scaled,
    constants: Constants,
    free: FreeParameters,
    third: Third,
    rho: Tensor,
    pulls: Tensor,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """``k sum_i g_i . Delta^3 (d^2 du_i^2)`` at reference slopes ``d``, with
    ``du^2 = Delta^2 x^1 + W'^2 dx^1``: what it adds to layer 3's eigenvalue, the factors of `Third`'s
    matrices, and weights of ``(du^1)^2``.
    """
    k, radius, (d1, d2) = at.scale, start.radii[1], scaled.references
    most = float(d2.abs().max())
    chain = scaled.chain + radius * most * float(d1.abs().max())
    below = at.derivatives[0]
    change = torch.maximum(below - constants.low, constants.lipschitz - below)
    # dx^1 = k (d^1 du^1 + what is left)
    left = (below - d1).abs() + torch.minimum((constants.curvature / 2 * rho)[:, None], change)
    left = (k * most * (start.norm(1) + radius) * left).square()
    sizes, seen = at.sizes.clamp_min(TINY), at.inputs[0].square().sum(1)
    natural = (
        most * third.sizes[0].clamp_min(0).sqrt(),
        k * chain * third.sizes[1].clamp_min(0).sqrt(),
        ((left.amax(1) * sizes * seen).sum() / pulls.sum().clamp_min(TINY)).sqrt(),
    )
    a, b, c = (t * n.clamp_min(1e-30) for t, n in zip(free.third, natural, strict=True))
    eigenvalue = k / 2 * (a + b + c * pulls.sum())
    return (
        eigenvalue,
        (k * (k * chain) ** 2 / (2 * b), k * most**2 / (2 * a)),
        k * left * (sizes / (2 * c))[:, None],
    )


def _handed(
    at: Expansion,
    w: Tensor,
    own_most: Tensor,
    rest: Tensor,
    relative: Tensor,
    bent: Tensor,
    scaled: Scaled,
    h: int,
    radius: float,
    d: Tensor,
    theta2: float,
    lipschitz: float,
    start: Start,
) -> Tensor:
    """A bound of ``sum_G w_iG ||W'_G dx_i||^2 / k^2`` as weights of ``du_ij^2``: for each example the
    smallest of several.

    ``own_most`` is the largest of the units' own weights in each example, ``rest`` the largest of what was
    handed down to them.
    """
    reach = radius * float(d.max())

    def tangent_and_rest(weight: Tensor, norm: float, column: float) -> Tensor:
        bend = (1 + 1 / theta2) * ((column + radius) * bent).square()
        return weight[:, None] * ((1 + theta2) * (norm + reach) ** 2 * relative + bend[:, None])

    def lipschitz_only(weight: Tensor, norm: float) -> Tensor:
        return (weight * (lipschitz * (norm + radius)) ** 2)[:, None].expand_as(relative)

    choices = []
    largest = w.amax(0)
    if scaled.whole[h] < math.inf:
        choices.append(tangent_and_rest(largest, scaled.whole[h], start.columns[h]))
    if scaled.unscaled_whole[h] < math.inf:
        choices.append(lipschitz_only(largest, scaled.unscaled_whole[h]))
    if len(w) > 1:
        each = zip(w, scaled.parts[h], scaled.columns[h], strict=True)
        choices.append(torch.stack([tangent_and_rest(*row) for row in each]).sum(0))
        if max(scaled.unscaled[h]) < math.inf:
            rows = zip(w, scaled.unscaled[h], strict=True)
            choices.append(torch.stack([lipschitz_only(*row) for row in rows]).sum(0))
    if scaled.envelopes[h]:
        # ||diag(sqrt om) W z||^2 <= rest ||W z||^2 + max own ||diag(sqrt v) W z||^2.
        squares = rest * scaled.whole[h] ** 2
        for side, (_, norm) in zip(sides(at), scaled.envelopes[h], strict=True):
            squares = squares + torch.where(side, own_most * norm**2, 0.0)
        main = (squares.sqrt() + largest.sqrt() * reach).square()
        bend = (1 + 1 / theta2) * largest * ((start.columns[h] + radius) * bent).square()
        choices.append((1 + theta2) * main[:, None] * relative + bend[:, None])
    best = choices[0] if choices else torch.full_like(relative, math.inf)
    for other in choices[1:]:
        # Each choice is a bound for the whole example, so one is taken for all its units.
        best = torch.where((other.sum(1) < best.sum(1))[:, None], other, best)
    return best


def first_matrices(
    bound: Layered,
    at: Expansion,
    pairs: LayerPairs | None,
    x: Float[Tensor, "batch coordinates"],
    units: Tensor,
    cross: Float[Tensor, "chosen coordinates coordinates"] | None,
    third: Third | None,
) -> Float[Tensor, "chosen coordinates coordinates"]:
    """``M_j = sum_i om^1_ij x_i x_i' + k / (2 tau2) T_j' T_j`` of these units of layer 1; ``cross`` is
    theirs.
    """
    weights, size = bound.weights[0][units], x.shape[1]
    if pairs is not None:  # what pairs leave out is a multiple of the identity: sum_i D_ij^2 x_i x_i'
        weights = weights + bound.cancel * pairs.rest * at.derivatives[0][:, units].T.square()
    matrices = x.new_zeros(len(units), size * size)
    for part in chunks(len(x), max(1, CHUNK_NUMBERS // size**2)):
        rows = x[part]
        matrices.addmm_(weights[:, part], (rows[:, :, None] * rows[:, None, :]).flatten(1))
    matrices = matrices.reshape(len(units), size, size)
    if cross is not None:
        matrices.add_(bound.cancel * cross)
    if third is not None:
        matrices.add_(bound.third[0] * third.gram)
    return (matrices + matrices.mT) / 2


def upper_rows(bound: Layered, at: Expansion, third: Third | None, h: int) -> WeightedRows:
    """The matrices of a layer above the first, as rows."""
    rows, weights = at.inputs[h], bound.weights[h]
    if h == 1 and third is not None:
        rows = torch.cat([rows, third.rows])
        factor = bound.third[1].expand(len(weights), len(third.rows))
        weights = torch.cat([weights + bound.third[1] * third.rest, factor], 1)
    return WeightedRows(rows=rows, weights=weights)
