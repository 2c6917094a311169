"""Margins between classes as linear functions of a network's outputs, and their least values."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.verification import crown
from holdfast.verification.crown import BackwardState
from holdfast.verification.region import dot


def margin_rows(y: Int[Tensor, " batch"], outputs: int) -> Float[Tensor, "batch rows outputs"]:
    """Rows ``e_y - e_j`` for every ``j != y``, in order of ``j``; ``sign`` for one output."""
    if outputs == 1:
        return (2.0 * y - 1).double()[:, None, None]
    identity = torch.eye(outputs, dtype=torch.float64, device=y.device)
    others = torch.arange(outputs - 1, device=y.device) + (
        torch.arange(outputs - 1, device=y.device) >= y[:, None]
    )
    return identity[y][:, None] - identity[others]


def spread(
    margins: Float[Tensor, "batch rows"], y: Int[Tensor, " batch"], outputs: int
) -> Float[Tensor, "batch outputs"]:
    """Margins of the other classes put in their places, 0 at the label."""
    if outputs == 1:
        return margins
    classes = torch.arange(outputs, device=y.device)
    place = torch.where(classes < y[:, None], classes, classes - 1).clamp(min=0)
    return margins.gather(1, place).masked_fill(classes == y[:, None], 0.0)


def specified_minimum(
    state: BackwardState, rows: Float[Tensor, "batch rows outputs"]
) -> Float[Tensor, "batch rows"]:
    """Lower bounds of linear functions of the outputs by back-substitution."""
    last = state.graph.last
    size = dot(rows.abs(), state.bounds[last].size)
    return crown.lower_bound(state, {last: rows}, torch.zeros_like(size), size)


def interval_margins(
    state: BackwardState, rows: Float[Tensor, "batch rows outputs"]
) -> Float[Tensor, "batch rows"]:
    """Lower bounds of linear functions of the outputs from intervals of what enters the last affine steps."""
    last = state.graph.last
    size = dot(rows.abs(), state.bounds[last].size)
    return crown.lower_bound_by_interval(state, {last: rows}, torch.zeros_like(size), size)


def least(margins: Float[Tensor, "batch outputs"], y: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The least margin over the other classes; of ``sign f`` for one output."""
    return margins[:, 0] if margins.shape[1] == 1 else margins.scatter(1, y[:, None], torch.inf).amin(1)
