"""What searches share that let go of rows once these are broken."""

import torch
from jaxtyping import Bool
from torch import nn

from holdfast.attacks.base import Goal, Scored, score
from holdfast.losses import Labels, Outputs
from holdfast.threats.base import Points, Threat

Mask = Bool[torch.Tensor, " batch"]


def broken(
    model: nn.Module, points: Points, outputs: Outputs, x: Points, y: Labels, threat: Threat, goal: Goal
) -> Mask:
    """Which points reach the goal and still do so when moved strictly inside the threat set, where they are
    returned.

    One more forward pass, of the rows that seem broken; waits for the device.
    """
    reached = goal.reached(outputs, y)
    seem = reached.nonzero().squeeze(1)
    if len(seem) == 0:
        return reached
    inside = threat.project_inside(points[seem], x[seem])
    return reached.index_copy(0, seem, score(model, inside, y[seem], goal).reached)


def finite(gradient: Points) -> Points:
    """A point whose gradient overflows stays where it is: NaN would spread over the whole row for good."""
    return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def taken(of: Scored, rows: torch.Tensor) -> Scored:
    """Some rows, by their numbers."""
    return Scored(x=of.x[rows], value=of.value[rows], reached=of.reached[rows])


def put(into: Scored, rows: torch.Tensor, held: Scored) -> Scored:
    """``into`` with ``held`` in the rows of these numbers."""
    return Scored(
        x=into.x.index_copy(0, rows, held.x),
        value=into.value.index_copy(0, rows, held.value),
        reached=into.reached.index_copy(0, rows, held.reached),
    )
