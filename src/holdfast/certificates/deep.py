"""One frozen pass of a deep network, expanded at the best centre on the way from the initial weights.

For ANY centre ``W_c`` and the outputs ``h_i`` of the pass, convexity of the loss gives a lower model of the robust loss
(`docs/deep_certificate.md`, "The centre is free").
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._tensors import chunks
from holdfast.curvature.deep import DeepCurvature, dense
from holdfast.curvature.deep_expansion import expand
from holdfast.losses import Loss
from holdfast.networks.dense import Dense
from holdfast.trace import FrozenPoints
from holdfast.trace.lower_model import Block, LowerModel, curved

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
    radius: float,
    *,
    centres: tuple[float, ...] = CENTRES,
    progress: Callable[[float], None] | None = None,
) -> LowerModel:
    """The lower model with the highest bound at ``radius`` among those expanded at ``W0 + al (W - W0)``."""
    net = dense(model)
    bound = replace(curvature.within(net, initial, radius), low_rank=True)
    best: tuple[float, LowerModel] | None = None
    for k, centre in enumerate(centres):
        lower = _expanded(net, bound, initial, points, outputs, weights, loss, centre)
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
    constant, total = 0.0, None
    parts = tuple(chunks(len(weights), max(64, CHUNK_NUMBERS // net.width)))
    # A basis of one part's own inputs does not serve another's.
    bound = replace(curvature, low_rank=len(parts) == 1)
    slopes = loss.slope(outputs, points.y) * weights[:, None]
    named = {f"weights.{h}": w for h, w in enumerate(at_centre)}
    for part in parts:
        rows = points.points[part]
        there = torch.func.functional_call(net, named, (rows,))
        constant += float((weights[part] * loss(outputs[part], points.y[part])).sum())
        constant += float((slopes[part] * (there - outputs[part])).sum())
        at = expand(net, at_centre, start, rows, slopes[part])
        balls = []
        for h, ((block,), move) in enumerate(zip(bound.at(net, at).balls, moves, strict=True)):
            gradient = at.gradient(h)
            eigenvalue = 0.0 if block.eigenvalue is None else float(block.eigenvalue)
            bent = eigenvalue * move
            if block.matrices is not None:
                bent = bent + curved(move, block.matrices, block.basis)
            constant -= float((gradient * move).sum()) + float((bent * move).sum())
            balls.append(
                Block(
                    linear=gradient + 2 * bent,
                    matrices=block.matrices,
                    eigenvalue=eigenvalue,
                    basis=block.basis,
                )
            )
        total = (
            balls if total is None else [one.plus(two, 1.0) for one, two in zip(total, balls, strict=True)]
        )
    return LowerModel(
        constant=constant, balls=tuple((block,) for block in total or ()),
        radius=math.inf if bound.start is None else min(bound.start.radii),
    )  # fmt: skip
