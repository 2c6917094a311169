"""One frozen pass of a deep network, expanded at the best centre on the way from the initial weights.

For ANY centre ``W_c`` and the outputs ``h_i`` of the pass, convexity of the loss gives a lower model of the robust loss
(`docs/explanations/deep_certificate.md`, "The centre is free").
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._tensors import chunks
from holdfast.curvature.deep import DeepCurvature, dense
from holdfast.curvature.deep_expansion import expand, outputs_at
from holdfast.losses import Loss
from holdfast.networks.dense import Dense
from holdfast.networks.exact import exact_core
from holdfast.trace import FrozenPoints
from holdfast.trace.lower_model import LowerModel, Radius
from holdfast.trace.sums import Sums

CENTRES = (1.0, 0.5, 0.25, 0.0)
CHUNK_NUMBERS = 2**24


@torch.no_grad()
def deep_lower_model(
    model: nn.Module,
    curvature: DeepCurvature,
    initial: Mapping[str, Tensor],
    points: FrozenPoints,
    outputs: Float[Tensor, "examples outputs"],
    weights: Float[Tensor, " examples"],
    loss: Loss,
    radius: Radius,
    *,
    centres: tuple[float, ...] = CENTRES,
    progress: Callable[[float], None] | None = None,
) -> LowerModel:
    """The lower model with the highest bound at ``radius`` among those expanded at ``W0 + al (W - W0)``."""
    net = dense(model)
    bound = curvature.within(model, initial, radius)
    core = exact_core(model)
    own = dict(initial) if core is None else core.own(initial)
    best: tuple[float, LowerModel] | None = None
    for k, centre in enumerate(centres):
        lower = _expanded(net, bound, own, points, outputs, weights, loss, centre)
        value = lower.bound(radius).value
        if best is None or value > best[0]:
            best = value, lower
        if progress is not None:
            progress((k + 1) / len(centres))
    if best is None:
        raise ValueError("centres must not be empty")
    return best[1]


def _expanded(
    net: Dense, curvature: DeepCurvature, initial: Mapping[str, Tensor], points: FrozenPoints, outputs: Tensor,
    weights: Tensor, loss: Loss, centre: float,
) -> LowerModel:  # fmt: skip
    """``phi(W) >= sum_i p_i [loss(h_i) + <s_i, f(W_c) - h_i>] + <g_c, W - W_c> - q_c(W - W_c)``, in terms of ``W - W0``."""
    start = tuple(initial[f"weights.{h}"].double() for h in range(net.depth))
    moves = tuple(centre * (w.detach() - s) for w, s in zip(net.weights, start, strict=True))
    at_centre = tuple(s + d for s, d in zip(start, moves, strict=True))
    slopes = loss.slope(outputs, points.y) * weights[:, None]
    constant, sums = 0.0, Sums.start([move] for move in moves)
    for part in chunks(len(weights), max(64, CHUNK_NUMBERS // net.width)):
        rows = points.points[part]
        at = expand(net, at_centre, start, rows, slopes[part])
        constant += float((weights[part] * loss(outputs[part], points.y[part])).sum())
        constant += float((slopes[part] * (outputs_at(net, at, rows) - outputs[part])).sum())
        gradients = [[at.gradient(h)] for h in range(net.depth)]
        sums.add(gradients, curvature.at(net, at), [[move] for move in moves], 1.0)
    return LowerModel(constant=constant + float(sums.constant), balls=sums.settled(), radii=curvature.radii)
