"""How far a wrong class leads, and the gradient of that: what attacks on the decision boundary linearise."""

import torch
from torch import nn

from holdfast import _tensors, projections
from holdfast.attacks.base import Goal
from holdfast.errors import InputError
from holdfast.losses import Labels, Outputs, PerExample, signs
from holdfast.threats.base import Points

_NEAREST = 1e-12  # keeps a distance to a hyperplane without normal finite


def lead(outputs: Outputs, y: Labels, towards: Labels | None, goal: Goal) -> PerExample:
    """How far the class sought is ahead of the one it must beat: above 0 the goal is reached."""
    if outputs.shape[1] == 1:
        ahead = (signs(y, outputs) * outputs).squeeze(1)
        return ahead if goal.targeted else -ahead
    at_label = outputs.gather(1, y[:, None]).squeeze(1)
    if towards is None:
        return at_label - outputs.scatter(1, y[:, None], -torch.inf).amax(1)
    return outputs.gather(1, towards[:, None]).squeeze(1) - at_label


def nearest_boundary(
    model: nn.Module, points: Points, y: Labels, dual_norm: str
) -> tuple[Outputs, PerExample, Points]:
    """Outputs, and lead and gradient of the wrong class whose linearised boundary is nearest; a backward pass
    a class.

    ``dual_norm``: of gradients, dual to that in which distances count.
    """
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        outputs = _tensors.answers(model, points)
        if not outputs.requires_grad:
            raise InputError(
                "model must be differentiable in its input for FAB, but its outputs carry no gradient; "
                "remove no_grad or detach from its forward, or use Square, which needs none."
            )
        leads = outputs - outputs.gather(1, y[:, None])
        led, slope = torch.zeros_like(leads[:, 0]).detach(), torch.zeros_like(points).detach()
        closest = torch.full_like(led, torch.inf, dtype=torch.float64)
        for wrong, of_class in enumerate(leads.unbind(1)):
            (gradient,) = torch.autograd.grad(of_class.sum(), points, retain_graph=True)
            size = projections.lengths(_tensors.flatten(gradient), dual_norm)
            distance = (of_class.detach().abs() / (size + _NEAREST)).masked_fill(y == wrong, torch.inf)
            nearer = distance < closest
            closest = torch.where(nearer, distance, closest)
            led = torch.where(nearer, of_class.detach(), led)
            slope = torch.where(_tensors.per_example(nearer, slope), gradient, slope)
    return outputs.detach(), led, slope
