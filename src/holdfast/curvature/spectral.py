"""Upper bounds of spectral norms that are proofs, not estimates."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

DENSE = 256
"""Gram matrices up to this size are diagonalised; larger ones get their top eigenvalue by Lanczos
iteration.
"""
UNIT = 2.0**-53


@torch.no_grad()
def norm_bound(matrix: Float[Tensor, "rows columns"]) -> float:
    """A number >= ``||matrix||_2``, and above it by 1e-3 of it at most.

    With ``G`` the Gram matrix of the shorter side, a Cholesky factorisation of ``tau I - G`` that runs to its
    end proves ``||matrix||^2 <= tau`` up to rounding (Rump 2006): the factorisation may err by
    ``(n + 2) u tr(tau I)`` and the products in ``G`` by ``k u ||matrix||_F^2``; twice both is added. ``tau``
    starts just above an estimate, which decides only how tight it is.
    """
    wide = matrix.detach().double()
    if not bool(wide.isfinite().all()):
        return math.inf
    short = wide if wide.shape[0] <= wide.shape[1] else wide.T
    n, k = short.shape
    square = float(wide.square().sum())
    if square == 0.0:
        return 0.0
    gram = short @ short.T
    tau = _top(gram) * (1 + 2e-4) + 1e-12 * square
    eye = torch.eye(n, dtype=gram.dtype, device=gram.device)
    while int(torch.linalg.cholesky_ex(tau * eye - gram).info):
        tau *= 1.001
    return math.sqrt((tau + 2 * UNIT * ((n + 2) * n * tau + (k + 2) * square)) * (1 + 8 * UNIT))


def _top(gram: Tensor) -> float:
    """About the largest eigenvalue, from below."""
    if len(gram) <= DENSE:
        return float(torch.linalg.eigvalsh(gram)[-1])
    from scipy.sparse.linalg import (  # which takes as long to import as torch, and attacks need none of it
        ArpackError,
        eigsh,
    )

    numbers = gram.cpu().numpy()
    start = np.random.default_rng(0).standard_normal(len(gram))
    try:
        return float(eigsh(numbers, k=1, which="LA", v0=start, tol=1e-5, return_eigenvectors=False)[0])
    except ArpackError:  # not converged: a longer way up by Cholesky, from a lower start
        vector = torch.from_numpy(start).to(gram)
        for _ in range(100):
            vector = gram @ (vector / vector.norm())
        return float(vector.norm())
