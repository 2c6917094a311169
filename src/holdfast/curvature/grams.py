"""Curvature matrices ``sum_i w_gi x_i x_i'``, kept as their rows while these are fewer than the inputs."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

LARGE = 2**26
"""Numbers of the rows that are weighted at once."""


def weighted_grams(
    z: Float[Tensor, "batch inputs"], weights: Float[Tensor, "groups batch"]
) -> Float[Tensor, "groups inputs inputs"]:
    """``sum_i weights_gi z_i z_i'`` for every group, by matrix products that need no (groups, batch, inputs)
    copy.

    Convex activations leave a group only the examples whose slope has one sign. On a CPU their rows are
    picked first, which halves the work; elsewhere picking would wait for the device.
    """
    if z.is_cuda:
        return torch.stack([(z * w[:, None]).T @ z for w in weights])
    grams = []
    for w in weights:
        rows = w.nonzero().squeeze(1)
        parts = [_gram(z[some], w[some]) for some in rows.split(max(1, LARGE // z.shape[1]))]
        grams.append(parts[0] if len(parts) == 1 else torch.stack(parts).sum(0))
    return torch.stack(grams)


def _gram(z: Tensor, w: Tensor) -> Tensor:
    return (z * w[:, None]).T @ z


@dataclass(frozen=True, kw_only=True)
class WeightedRows:
    """``M_g = sum_i weights_gi rows_i rows_i'``, one matrix a group of units."""

    rows: Float[Tensor, "batch inputs"]
    weights: Float[Tensor, "groups batch"]

    def times(self, values: Float[Tensor, "units inputs"]) -> Float[Tensor, "units inputs"]:
        """``M_g(r) values_r`` for every unit, without the matrices."""
        parts = values.chunk(len(self.weights))
        return torch.cat(
            [((v @ self.rows.T) * w) @ self.rows for v, w in zip(parts, self.weights, strict=True)]
        )


@dataclass
class RowSums:
    """A sum of `WeightedRows` over rounds: as rows while they are fewer than the inputs, then as matrices."""

    rows: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    matrices: Tensor | None = None

    def add(self, some: WeightedRows, share: float) -> None:
        """``self + share * some``."""
        self.rows.append(some.rows)
        self.weights.append(share * some.weights)
        if sum(len(rows) for rows in self.rows) >= some.rows.shape[1]:
            self._fold()

    def _fold(self) -> None:
        if not self.rows:
            return
        grams = weighted_grams(torch.cat(self.rows), torch.cat(self.weights, 1))
        self.matrices = grams if self.matrices is None else self.matrices.add_(grams)
        self.rows, self.weights = [], []

    def reduced(self, *, whole: bool = False) -> tuple[Tensor | None, Tensor | None]:
        """The matrices, and the orthonormal basis of the rows in which they are given; no basis where
        ``whole`` or as large.
        """
        if whole or self.matrices is not None:
            self._fold()
            return self.matrices, None
        if not self.rows:
            return None, None
        rows = torch.cat(self.rows)
        basis = torch.linalg.qr(rows.T).Q.contiguous()
        return weighted_grams(rows @ basis, torch.cat(self.weights, 1)), basis
