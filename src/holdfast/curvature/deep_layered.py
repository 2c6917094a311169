"""The bound of deep remainders by matrices (`docs/deep_certificate.md`, "Bound 2"); legend in `holdfast.curvature.deep_expansion`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.curvature.deep_expansion import Constants, Expansion, Start, reaches
from holdfast.curvature.spectral import norm_bound
from holdfast.curvature.two_layer import one_sided

CHUNK_NUMBERS = 2**24
TINY = 1e-300


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """Free positive numbers of bound 2, one a layer, as factors on their natural scales (layer 1 has none).

    ``theta`` splits ``du = Delta x + W' dx``, ``theta2`` splits ``dx`` into its tangent and the rest, ``tau`` and ``tau2`` split products.
    """

    theta: tuple[float, ...]
    theta2: tuple[float, ...]
    tau: tuple[float, ...]
    tau2: float = 1.0


def first_knobs(depth: int) -> Knobs:
    """A start for the search: every choice is valid."""
    return Knobs(theta=(1.0,) * depth, theta2=(0.5,) * depth, tau=(1.0,) * depth)


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Norms of ``W0_G diag(d)`` by layer: with ``d`` the root mean square of ``D^(h-1)`` over examples."""

    d: tuple[Tensor | None, ...]
    parts: tuple[tuple[float, ...], ...]
    whole: tuple[float, ...]
    unscaled: tuple[tuple[float, ...], ...]
    columns: tuple[tuple[float, ...], ...]


def scaled_norms(at: Expansion, start: Start) -> Scaled:
    """The norms that bound 2 needs at this centre; the costly part of it besides the eigenproblems."""
    d: list[Tensor | None] = [None]
    parts: list[tuple[float, ...]] = [()]
    unscaled: list[tuple[float, ...]] = [()]
    columns: list[tuple[float, ...]] = [()]
    whole = [math.inf]
    total = at.sizes.sum().clamp_min(TINY)
    for h in range(1, len(at.inputs)):
        mean = ((at.sizes[:, None] * at.derivatives[h - 1].square()).sum(0) / total).sqrt()
        mean = mean.clamp_min(1e-6 * float(mean.max()) + TINY)
        rows = start.parts(h)
        d.append(mean)
        parts.append(tuple(norm_bound(w * mean) for w in rows))
        columns.append(tuple(float(w.norm(dim=0).max()) * (1 + 1e-12) for w in rows))
        whole.append(parts[-1][0] if len(rows) == 1 else norm_bound(start.weights[h] * mean))
        unscaled.append((start.norms[h],) if len(rows) == 1 else tuple(norm_bound(w) for w in rows))
    return Scaled(
        d=tuple(d), parts=tuple(parts), whole=tuple(whole), unscaled=tuple(unscaled), columns=tuple(columns)
    )


@dataclass(frozen=True, kw_only=True)
class Layered:
    """Bound 2 before its matrices are formed.

    Attributes:
        weights: for layer 1 ``om^1`` (units, batch); for the others ``(1 + th) w_G`` (groups, batch):
            ``M = sum_i weights_i x_i x_i'``.
        eigenvalues: ``kap_h``, added to every eigenvalue of the layer.
        cancel: ``k / (2 tau2)`` in front of ``T_j' T_j``; 0 where layer 1 has no such term.
    """

    weights: tuple[Float[Tensor, "_ batch"], ...]
    eigenvalues: tuple[Float[Tensor, ""], ...]
    cancel: Float[Tensor, ""]


def layered(
    at: Expansion, start: Start, scaled: Scaled, constants: Constants, knobs: Knobs, *, cancelling: bool
) -> Layered:
    """Bound 2: weights ``om^h_ij`` on ``(du^h_ij)^2`` handed down from the top.

    ``cancelling`` sums the product term of layer 2 over examples before taking norms (``T_j``), else example by example.
    """
    k, depth, sizes = at.scale, len(at.inputs), at.sizes.clamp_min(TINY)
    bounds = (constants.above, constants.below)
    e = reaches(at, start, constants)
    away = e[0].new_tensor([r + m for r, m in zip(start.radii, at.moved, strict=True)])
    om = k / 2 * one_sided(at.backward[-1], bounds)
    weights: list[Tensor] = []
    eigenvalues: list[Tensor] = []
    cancel = om.new_zeros(())
    for h in range(depth - 1, 0, -1):
        radius, theta, theta2 = start.radii[h], knobs.theta[h], knobs.theta2[h]
        w = torch.stack([part.amax(1) for part in om.chunk(len(start.parts(h)), 1)])
        weights.append((1 + theta) * w)
        below, rho = at.derivatives[h - 1], e[h - 1] @ away
        d = scaled.d[h]
        if d is None:
            raise RuntimeError("layer 1 hands nothing down")
        relative = (below / d).square()
        bent = constants.curvature / 2 * rho
        handed = _handed(w, relative, bent, scaled, h, radius, d, theta2, constants.lipschitz, start)
        pulls = at.pull(h).square().sum(1) / sizes
        if h == 1 and cancelling:
            # Only what is left of dx^1 beside its tangent: |xi| <= min(beta/2 |du|, largest change of slope) |du|.
            change = torch.maximum(below - constants.low, constants.lipschitz - below)
            lip2 = torch.minimum(bent[:, None], change).square()
        else:
            lip2 = torch.full_like(below, constants.lipschitz**2)
        seen = at.inputs[h - 1].square().sum(1)
        natural = (lip2.amax(1) * sizes * seen).sum() / pulls.sum().clamp_min(TINY)
        tau = knobs.tau[h] * natural.sqrt().clamp_min(1e-30)
        eigenvalue = tau / 2 * k * pulls.sum()
        if h == 1 and cancelling:
            # At most sum_i ||D_ij g_i|| ||x_i||: the scale of T_j.
            scale = (at.pull(h).norm(dim=1) * below.square().mean(1).sqrt() * seen.sqrt()).sum()
            tau2 = knobs.tau2 * (0.3 * scale).clamp_min(1e-30)
            eigenvalue = eigenvalue + tau2 / 2 * k
            cancel = k / (2 * tau2)
        eigenvalues.append(eigenvalue)
        own = k / 2 * one_sided(at.backward[h - 1], bounds)
        om = own + k * lip2 * (sizes / (2 * tau))[:, None] + (1 + 1 / theta) * k**2 * handed
    weights.append(om.T)
    eigenvalues.append(om.new_zeros(()))
    return Layered(weights=tuple(reversed(weights)), eigenvalues=tuple(reversed(eigenvalues)), cancel=cancel)


def _handed(
    w: Tensor, relative: Tensor, bent: Tensor, scaled: Scaled, h: int, radius: float, d: Tensor, theta2: float,
    lipschitz: float, start: Start,
) -> Tensor:  # fmt: skip
    """A bound of ``sum_G w_iG ||W'_G dx_i||^2 / k^2`` as weights of ``du_ij^2``: for each example the smallest of four."""
    reach = radius * float(d.max())

    def tangent_and_rest(weight: Tensor, norm: float, column: float) -> Tensor:
        rest = (1 + 1 / theta2) * ((column + radius) * bent).square()
        return weight[:, None] * ((1 + theta2) * (norm + reach) ** 2 * relative + rest[:, None])

    def lipschitz_only(weight: Tensor, norm: float) -> Tensor:
        return (weight * (lipschitz * (norm + radius)) ** 2)[:, None].expand_as(relative)

    largest, several = w.amax(0), len(w) > 1
    choices = [
        tangent_and_rest(largest, scaled.whole[h], start.columns[h]),
        lipschitz_only(largest, start.norms[h]),
    ]
    if several:
        choices.append(
            torch.stack(
                [tangent_and_rest(*row) for row in zip(w, scaled.parts[h], scaled.columns[h], strict=True)]
            ).sum(0)
        )
        choices.append(
            torch.stack([lipschitz_only(*row) for row in zip(w, scaled.unscaled[h], strict=True)]).sum(0)
        )
    best = choices[0]
    for other in choices[1:]:
        # Each choice is a bound for the whole example, so one is taken for all its units.
        best = torch.where((other.sum(1) < best.sum(1))[:, None], other, best)
    return best


def cross_terms(
    at: Expansion, x: Float[Tensor, "batch coordinates"], units: Tensor
) -> Float[Tensor, "chosen coordinates coordinates"]:
    """``T_j' T_j`` of these units of layer 1, ``x`` being ``x^0`` in some orthonormal basis.

    ``T_j = sum_i D_ij g_i^2 x_i'``, so ``T_j' T_j = X' E_j (G G') E_j X``, ``E_j = diag(D_j)``; 0 in a network of one layer.
    """
    if len(at.inputs) == 1:
        return x.new_zeros(len(units), x.shape[1], x.shape[1])
    pairs = at.pull(1) @ at.pull(1).T
    found = []
    for chosen in torch.split(units, max(1, CHUNK_NUMBERS // max(1, x.numel()))):
        tilted = at.derivatives[0][:, chosen].T[:, :, None] * x
        flat = tilted.transpose(0, 1).reshape(len(x), -1)
        turned = (pairs @ flat).reshape(len(x), len(chosen), -1).transpose(0, 1)
        found.append(tilted.mT @ turned)
    return torch.cat(found)


def first_matrices(
    bound: Layered,
    x: Float[Tensor, "batch coordinates"],
    units: Tensor,
    cross: Float[Tensor, "chosen coordinates coordinates"],
) -> Float[Tensor, "chosen coordinates coordinates"]:
    """``M_j = sum_i om^1_ij x_i x_i' + k / (2 tau2) T_j' T_j`` of these units of layer 1."""
    found = []
    for part in torch.split(bound.weights[0][units], max(1, CHUNK_NUMBERS // max(1, x.numel()))):
        found.append((part[:, :, None] * x).mT @ x)
    matrices = torch.cat(found) + bound.cancel * cross
    return (matrices + matrices.mT) / 2


def tuned(
    at: Expansion, start: Start, scaled: Scaled, constants: Constants, knobs: Knobs, *, cancelling: bool,
    x: Float[Tensor, "batch coordinates"], slopes: tuple[float, ...], sampled: int = 24,
) -> Knobs:  # fmt: skip
    """Coordinate search over the knobs on a few units: decides only how tight the bound is.

    Its objective is about what curvature costs: ``sum_h R_h^2 lam_h^2 / (lam_h + ||g_h|| / (2 R_h))``, nothing where ``lam`` is small.
    """
    width = at.derivatives[0].shape[1]
    units = torch.arange(0, width, max(1, width // sampled), device=x.device)

    cross = cross_terms(at, x, units)
    grams = [z @ z.T for z in at.inputs]

    def cost(candidate: Knobs) -> float:
        bound, total = layered(at, start, scaled, constants, candidate, cancelling=cancelling), 0.0
        for h, (w, kappa) in enumerate(zip(bound.weights, bound.eigenvalues, strict=True)):
            if h == 0:
                top = float(torch.linalg.eigvalsh(first_matrices(bound, x, units, cross)).amax())
            else:
                gram = grams[h]
                roots = w.sqrt()
                top = float(torch.linalg.eigvalsh(roots[:, :, None] * gram * roots[:, None, :]).amax())
            lam, radius = top + float(kappa), start.radii[h]
            total += radius**2 * lam**2 / (lam + slopes[h] / (2 * radius) + TINY)
        return total

    best, value = knobs, cost(knobs)
    for factor in (3.0, 3.0, 1.7, 1.7, 1.3):
        for change in _changes(best, factor):
            candidate = change
            found = cost(candidate)
            if found < value:
                best, value = candidate, found
    return best


def _changes(knobs: Knobs, factor: float) -> Iterator[Knobs]:
    def scaled(values: tuple[float, ...], h: int, f: float) -> tuple[float, ...]:
        return (*values[:h], values[h] * f, *values[h + 1 :])

    for f in (factor, 1 / factor):
        for h in range(1, len(knobs.theta)):
            yield replace(knobs, theta=scaled(knobs.theta, h, f))
            yield replace(knobs, theta2=scaled(knobs.theta2, h, f))
            yield replace(knobs, tau=scaled(knobs.tau, h, f))
        yield replace(knobs, tau2=knobs.tau2 * f)
