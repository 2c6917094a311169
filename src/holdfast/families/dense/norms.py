"""Spectral norms that bound 2 rests on (`docs/explanations/deep_certificate.md`); legend in
`holdfast.families.dense.expansion`.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from holdfast.curvature.base import one_sided
from holdfast.curvature.spectral import norm_bound
from holdfast.families.dense.expansion import TINY, Constants, Expansion, Start


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Norms of ``W0_G diag(d)`` by layer: any ``d > 0`` is valid; infinite where one was left out.

    Attributes:
        d: about the root mean square of ``D^(h-1)`` over examples.
        parts, whole: of ``W0_G diag(d)`` for each group, and of ``W0 diag(d)``.
        unscaled, unscaled_whole: the same with ``d = 1``.
        envelopes: for middle layers, vectors ``v >= own^h_i / max_j own^h_ij`` of the examples on each side,
            with bounds of ``||diag(sqrt v) W0 diag(d)||``.
        columns: largest column norms of ``W0_G``.
        references: about the mean of ``D^1`` and ``D^2``, of either sign, with a bound ``chain`` of
            ``||diag(D^2) W0^2 diag(D^1)||``; none in networks of fewer than three layers.
    """

    d: tuple[Tensor | None, ...]
    parts: tuple[tuple[float, ...], ...]
    whole: tuple[float, ...]
    unscaled: tuple[tuple[float, ...], ...]
    unscaled_whole: tuple[float, ...]
    columns: tuple[tuple[float, ...], ...]
    envelopes: tuple[tuple[tuple[Tensor, float], ...], ...]
    references: tuple[Tensor, ...]
    chain: float


def sides(at: Expansion) -> tuple[Tensor, Tensor]:
    """The examples on which the first top unit pulls up, and the others: with one output, the two classes.

    Within a side the derivatives ``b^h`` have much the same signs, so that the units which can lose by
    curvature are the same.
    """
    up = at.backward[-1][:, 0] > 0
    return up, ~up


def own_weights(at: Expansion, h: int, constants: Constants) -> Float[Tensor, "batch units"]:
    """``own^h = k/2 (above max(0, -b^h) + below max(0, b^h))``: what the units' own bending costs."""
    return at.scale / 2 * one_sided(at.backward[h], (constants.above, constants.below))


def _envelopes(
    at: Expansion, start: Start, constants: Constants, h: int, d: Tensor
) -> tuple[tuple[Tensor, float], ...]:
    own = own_weights(at, h, constants)
    found = []
    for side in sides(at):
        some = own[side]
        v = (
            (some / some.amax(1, keepdim=True).clamp_min(TINY)).amax(0)
            if len(some)
            else own.new_zeros(own.shape[1])
        )
        found.append((v, norm_bound(v.sqrt()[:, None] * start.weights[h] * d)))
    return tuple(found)


def scaled_norms(
    at: Expansion, start: Start, constants: Constants, *, lean: bool = False, least: float = 1e-6
) -> Scaled:
    """The norms that bound 2 needs at this centre; the costly part of it besides the eigenproblems.

    ``lean`` leaves out those that are seldom the smallest. ``d`` is at least ``least`` of the largest.
    """
    d: list[Tensor | None] = [None]
    parts: list[tuple[float, ...]] = [()]
    unscaled: list[tuple[float, ...]] = [()]
    columns: list[tuple[float, ...]] = [()]
    whole, unscaled_whole = [math.inf], [math.inf]
    envelopes: list[tuple[tuple[Tensor, float], ...]] = [()]
    total = at.sizes.sum().clamp_min(TINY)
    for h in range(1, len(at.inputs)):
        mean = ((at.sizes[:, None] * at.derivatives[h - 1].square()).sum(0) / total).sqrt()
        mean = mean.clamp_min(least * float(mean.max()) + TINY)
        rows = start.parts(h)
        # Of two groups a convex activation lets each example see one alone: then the sum over groups is
        # smallest.
        apart = lean and len(rows) == 2 and constants.below == 0
        d.append(mean)
        parts.append(tuple(norm_bound(w * mean) for w in rows))
        columns.append(tuple(float(w.norm(dim=0).max()) * (1 + 1e-12) for w in rows))
        if len(rows) == 1:
            whole.append(parts[-1][0])
        else:
            whole.append(math.inf if apart else norm_bound(start.weights[h] * mean))
        unscaled.append((math.inf,) * len(rows) if lean else start.part_norms(h))
        unscaled_whole.append(math.inf if lean else start.norm(h))
        middle = h < len(at.inputs) - 1 and not lean
        envelopes.append(_envelopes(at, start, constants, h, mean) if middle else ())
    references: tuple[Tensor, ...] = ()
    chain = math.inf
    if len(at.inputs) > 2:
        references = tuple((at.sizes[:, None] * D).sum(0) / total for D in at.derivatives[:2])
        chain = norm_bound(references[1][:, None] * start.weights[1] * references[0])
    return Scaled(
        d=tuple(d),
        parts=tuple(parts),
        whole=tuple(whole),
        unscaled=tuple(unscaled),
        unscaled_whole=tuple(unscaled_whole),
        columns=tuple(columns),
        envelopes=tuple(envelopes),
        references=references,
        chain=chain,
    )
