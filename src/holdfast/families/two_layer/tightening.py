"""Raise the lower bound after training: choose the anchor, then the outputs ``h`` and half-widths ``tau`` by
L-BFGS.

No attack is run: the attacked points stay those of the frozen pass. Every value found on the way is a valid
bound, so the optimiser decides only how tight the result is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.curvature.lower_model import Bound, LowerModel
from holdfast.families.two_layer.anchors import Anchor, Duals

SCAN = (0.85, 0.7, 0.55, 0.4, 0.25, 0.1)


@dataclass(frozen=True, kw_only=True)
class Tightened:
    """The best lower model found at one anchor."""

    lower: LowerModel
    bound: Bound
    duals: Duals
    theta: float = 1.0


def evaluate(anchor: Anchor, duals: Duals, radius: float) -> Tightened:
    """The bound at these duals."""
    lower = anchor.lower_model(duals)
    return Tightened(lower=lower, bound=lower.bound(radius), duals=duals)


def tighten(
    anchor: Anchor,
    start: Duals,
    radius: float,
    *,
    evaluations: int = 40,
    progress: Callable[[float], None] | None = None,
) -> Tightened:
    """Maximise the bound over ``h`` (and ``log tau``) by L-BFGS, keeping the best value seen.

    The gradient is that of the lower model at its own minimiser ``U_r = -(2 (mu I - M_r))^-1 V_r`` held fixed
    (Danskin).
    """
    best = evaluate(anchor, start, radius)
    if evaluations <= 1 or not math.isfinite(best.bound.value):
        return best
    sizes = start.h.numel()
    scale = float(len(start.h))  # slopes of single examples are of order 1 / n
    done = 0

    def unpack(flat: NDArray[np.float64]) -> tuple[Tensor, Tensor | None]:
        values = torch.from_numpy(np.array(flat)).to(start.h)
        h = values[:sizes].reshape(start.h.shape).requires_grad_()
        if start.tau is None:
            return h, None
        return h, values[sizes:].reshape(start.tau.shape).requires_grad_()

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal best, done
        h, log_tau = unpack(flat)
        fixed = Duals(h=h.detach(), tau=None if log_tau is None else log_tau.detach().exp())
        found = evaluate(anchor, fixed, radius)
        if found.bound.value > best.bound.value:
            best = found
        if not math.isfinite(found.bound.value):  # a step of the search that overflows
            return math.inf, np.zeros_like(flat)
        (minimum,) = found.bound.minima
        move = found.lower.balls[0][0].minimiser(minimum.multiplier)
        response = anchor.response(move - anchor.move, fixed.tau)
        value = anchor.value(Duals(h=h, tau=None if log_tau is None else log_tau.exp()), response)
        leaves = [h] if log_tau is None else [h, log_tau]
        gradients = torch.autograd.grad(value, leaves)
        done += 1
        if progress is not None:
            progress(min(1.0, done / evaluations))
        flat_gradient = torch.cat([g.flatten() for g in gradients]).cpu().numpy()
        return -scale * found.bound.value, -scale * flat_gradient

    from scipy.optimize import minimize  # which takes as long to import as torch, and attacks need none of it

    first = [start.h.flatten()] if start.tau is None else [start.h.flatten(), start.tau.log().flatten()]
    minimize(
        objective,
        torch.cat(first).cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxfun": evaluations, "maxiter": evaluations, "ftol": 1e-12, "gtol": 1e-12},
    )
    return best


def best_anchor(
    anchor_at: Callable[[float], Anchor],
    outputs: Tensor,
    radius: float,
    evaluations: int,
    progress: Callable[[float], None] | None = None,
) -> Tightened:
    """Anchors ``W0 + theta D``: a scan at the pass's own outputs, then a climb in ``theta`` with the duals
    carried along.

    The best ``theta`` after tightening lies above the best before it, and duals tightened at one anchor are a
    good start at the next, so the climb costs few evaluations a step. With one evaluation the pass is taken
    as it stands.
    """

    def at(theta: float, duals: Duals | None, budget: int) -> Tightened:
        anchor = anchor_at(theta)
        found = tighten(anchor, anchor.start(outputs) if duals is None else duals, radius, evaluations=budget)
        return replace(found, theta=theta)

    best, spent = at(1.0, None, 1), 1

    def report() -> None:
        if progress is not None:
            progress(min(1.0, spent / max(1, evaluations)))

    for theta in SCAN:  # as a function of theta the bound rises, then falls
        if spent >= evaluations:
            break
        found, spent = at(theta, None, 1), spent + 1
        report()
        if found.bound.value <= best.bound.value:
            break
        best = found
    share = max(5, evaluations // 5)
    if spent < evaluations:
        best, spent = at(best.theta, None, share), spent + share
        report()
    step = 0.1
    while spent < evaluations and step > 0.02:
        improved = False
        for direction in (step, -step):
            theta = best.theta + direction
            if not 0.0 <= theta <= 1.0 or spent >= evaluations:
                continue
            found = at(theta, best.duals, share)
            spent += share
            report()
            if found.bound.value > best.bound.value:
                best, improved = found, True
                break
        if not improved:
            step /= 2
    return best
