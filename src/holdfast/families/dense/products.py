"""Product terms summed over examples before norms are taken, so that opposite classes cancel
(`docs/explanations/deep_certificate.md`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.families.dense.expansion import Expansion

CHUNK_NUMBERS = 2**24
KEPT = 16
"""Eigenvalues of ``G G'`` that count as they are."""


@dataclass(frozen=True, kw_only=True)
class LayerPairs:
    """``G G' <= vectors diag(values) vectors' + rest``, as symmetric matrices: ``G`` holds the rows
    ``g_i``.
    """

    vectors: Float[Tensor, "batch kept"]
    values: Float[Tensor, " kept"]
    rest: Float[Tensor, ""]


def pairs_of(at: Expansion, layer: int) -> LayerPairs | None:
    """With the pulls ``g_i`` of this layer. The largest eigenvalues of ``G G'``; what is left counts as a
    multiple of the identity. Nothing where there is no such layer."""
    if len(at.inputs) <= layer:
        return None
    pulls = at.pull(layer)
    gram = pulls @ pulls.T
    if not bool(gram.isfinite().all()):  # eigh would raise; the window is found to be void when it closes
        return LayerPairs(vectors=gram[:, :1], values=gram[0, :1], rest=gram.sum())
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    kept = min(KEPT, len(values))
    rest = values[-kept - 1] if kept < len(values) else values.new_zeros(())
    return LayerPairs(vectors=vectors[:, -kept:], values=values[-kept:] - rest, rest=rest)


def cross_terms(
    at: Expansion, pairs: LayerPairs | None, x: Float[Tensor, "batch coordinates"], units: Tensor
) -> Float[Tensor, "chosen coordinates coordinates"] | None:
    """The part of ``T_j' T_j`` that `LayerPairs` keeps, for these units of layer 1, ``x`` being ``x^0`` in some
    orthonormal basis.

    ``T_j = sum_i D_ij g_i^2 x_i'``, so ``T_j' T_j = X' E_j (G G') E_j X``, ``E_j = diag(D_j)``; nothing in a
    network of one layer.
    """
    if pairs is None:
        return None
    # Row (k, c): vectors_ik x_ic sqrt(values_k), whose sums over i with D_ij are the rows of T_j turned.
    spread = (pairs.vectors * pairs.values.sqrt())[:, :, None] * x[:, None, :]
    found = []
    for chosen in torch.split(units, max(1, CHUNK_NUMBERS // max(1, spread[0].numel()))):
        turned = (at.derivatives[0][:, chosen].T @ spread.flatten(1)).reshape(-1, *spread.shape[1:])
        found.append(turned.mT @ turned)
    return torch.cat(found)


@dataclass(frozen=True, kw_only=True)
class Third:
    """What the product term of layer 3 becomes at reference slopes: ``sum_i x_i g_i'`` of layers 1 and 2,
    squared.

    Attributes:
        rows, rest: ``X^1' G G' X^1 <= rows' rows + rest X^1' X^1``.
        gram: ``X^0' (V Lam V' + rest) X^0``, above ``X^0' G G' X^0``; ``x^0`` in some orthonormal basis.
        sizes: about their largest eigenvalues.
    """

    rows: Float[Tensor, "kept inputs"]
    rest: Float[Tensor, ""]
    gram: Float[Tensor, "coordinates coordinates"]
    sizes: tuple[Float[Tensor, ""], Float[Tensor, ""]]


def third_of(at: Expansion, x: Float[Tensor, "batch coordinates"]) -> Third | None:
    """Of the pulls of layer 3; nothing in shallower networks."""
    pairs = pairs_of(at, 2)
    if pairs is None:
        return None
    turned = (pairs.vectors * pairs.values.sqrt()).T
    rows, below = turned @ at.inputs[1], turned @ x
    gram = below.T @ below + pairs.rest * (x.T @ x)
    sizes = ((rows @ rows.T).norm(), (below @ below.T).norm())
    return Third(rows=rows, rest=pairs.rest, gram=(gram + gram.T) / 2, sizes=sizes)
