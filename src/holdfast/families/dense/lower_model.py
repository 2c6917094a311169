"""One frozen pass of a deep network, expanded at the best centre on the way from the initial weights.

For ANY centre ``W_c`` and the outputs ``h_i`` of the pass, convexity of the loss gives a lower model of the
robust loss (`docs/explanations/deep_certificate.md`, "The centre is free").
"""

from collections.abc import Callable

import torch
from torch import Tensor

from holdfast._tensors import chunks
from holdfast.curvature.lower_model import LowerModel, Radius
from holdfast.curvature.sums import Sums
from holdfast.families.base import Pass
from holdfast.families.dense.curvature import DeepCurvature
from holdfast.families.dense.expansion import expand, outputs_at
from holdfast.networks.dense import Dense

CENTRES = (1.0, 0.5, 0.25, 0.0)
CHUNK_NUMBERS = 2**24


@torch.no_grad()
def deep_lower_model(
    net: Dense,
    curvature: DeepCurvature,
    passed: Pass,
    radius: Radius,
    *,
    centres: tuple[float, ...] = CENTRES,
    progress: Callable[[float], None] | None = None,
) -> LowerModel:
    """The lower model with the highest bound at ``radius`` among those expanded at ``W0 + al (W - W0)``."""
    bound = curvature.within(net, passed.initial, radius)
    best: tuple[float, LowerModel] | None = None
    for k, centre in enumerate(centres):
        lower = _expanded(net, bound, passed, centre)
        value = lower.bound(radius).value
        if best is None or value > best[0]:
            best = value, lower
        if progress is not None:
            progress((k + 1) / len(centres))
    if best is None:
        raise ValueError("centres must not be empty")
    return best[1]


def _expanded(net: Dense, curvature: DeepCurvature, passed: Pass, centre: float) -> LowerModel:
    """``phi(W) >= sum_i p_i [loss(h_i) + <s_i, f(W_c) - h_i>] + <g_c, W - W_c> - q_c(W - W_c)``, in terms
    of ``W - W0``.
    """
    outputs, labels, weights, loss = passed.outputs, passed.labels, passed.weights, passed.loss
    start: tuple[Tensor, ...] = tuple(passed.initial[f"weights.{h}"].double() for h in range(net.depth))
    moves = tuple(centre * (w.detach() - s) for w, s in zip(net.weights, start, strict=True))
    at_centre = tuple(s + d for s, d in zip(start, moves, strict=True))
    slopes = loss.slope(outputs, labels) * weights[:, None]
    constant, sums = 0.0, Sums.start([move] for move in moves)
    for part in chunks(len(weights), max(64, CHUNK_NUMBERS // net.width)):
        rows = passed.points[part].double()
        at = expand(net, at_centre, start, rows, slopes[part])
        constant += float((weights[part] * loss(outputs[part], labels[part])).sum())
        constant += float((slopes[part] * (outputs_at(net, at, rows) - outputs[part])).sum())
        gradients = [[at.gradient(h)] for h in range(net.depth)]
        sums.add(gradients, curvature.at(net, at), [[move] for move in moves], 1.0)
    return LowerModel(constant=constant + float(sums.constant), balls=sums.reduced(), radii=curvature.radii)
