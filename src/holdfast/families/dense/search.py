"""The search for the free numbers of bound 2: decides only how tight it is."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.families.dense.expansion import TINY, Constants, Expansion, Start
from holdfast.families.dense.free_parameters import FreeParameters
from holdfast.families.dense.layered import first_matrices, layered, upper_rows
from holdfast.families.dense.norms import Scaled
from holdfast.families.dense.products import cross_terms, pairs_of, third_of


def tuned(
    at: Expansion,
    start: Start,
    scaled: Scaled,
    constants: Constants,
    free: FreeParameters,
    *,
    cancelling: bool,
    x: Float[Tensor, "batch coordinates"],
    slopes: tuple[float, ...],
    sampled: int = 24,
) -> FreeParameters:
    """Coordinate search over the free on a few units: decides only how tight the bound is.

    Its objective is about what curvature costs: ``sum_h R_h^2 lam_h^2 / (lam_h + ||g_h|| / (2 R_h))``,
    nothing where ``lam`` is small.
    """
    width = at.derivatives[0].shape[1]
    units = torch.arange(0, width, max(1, width // sampled), device=x.device)

    pairs, third = pairs_of(at, 1), third_of(at, x)
    cross = cross_terms(at, pairs, x, units)
    grams: dict[int, Tensor] = {}

    def cost(candidate: FreeParameters) -> float:
        bound, total = (
            layered(at, start, scaled, constants, candidate, third=third, cancelling=cancelling),
            0.0,
        )
        for h, kappa in enumerate(bound.eigenvalues):
            if h == 0:
                top = _about_largest(first_matrices(bound, at, pairs, x, units, cross, third))
            else:
                upper = upper_rows(bound, at, third, h)
                if h not in grams:
                    grams[h] = upper.rows @ upper.rows.T
                roots = upper.weights.sqrt()
                top = _about_largest(roots[:, :, None] * grams[h] * roots[:, None, :])
            lam, radius = top + float(kappa), start.radii[h]
            total += radius**2 * lam**2 / (lam + slopes[h] / (2 * radius) + TINY)
        return total

    best, value = free, cost(free)
    for factor in (3.0, 3.0, 1.7, 1.7, 1.3):
        for change in _changes(best, factor):
            candidate = change
            found = cost(candidate)
            if found < value:
                best, value = candidate, found
    return best


def _about_largest(matrices: Float[Tensor, "some size size"], *, steps: int = 16) -> float:
    """About the largest eigenvalue of any of these, from below, by power iteration: good enough to choose
    between bounds.
    """
    v = matrices.abs().sum(2, keepdim=True)
    for _ in range(steps):
        v = matrices @ (v / v.norm(dim=1, keepdim=True).clamp_min(TINY))
    return float(v.norm(dim=1).amax())


def _changes(free: FreeParameters, factor: float) -> Iterator[FreeParameters]:
    def scaled(values: Any, h: int, f: float) -> Any:
        return (*values[:h], values[h] * f, *values[h + 1 :])

    if len(free.theta) > 2:
        yield replace(free, crossing=not free.crossing)
    for f in (factor, 1 / factor):
        for h in range(1, len(free.theta)):
            yield replace(free, theta=scaled(free.theta, h, f))
            yield replace(free, theta2=scaled(free.theta2, h, f))
            yield replace(free, tau=scaled(free.tau, h, f))
            if h == 2 and free.crossing:
                for which in range(3):
                    yield replace(free, third=scaled(free.third, which, f))
        yield replace(free, tau2=free.tau2 * f)
