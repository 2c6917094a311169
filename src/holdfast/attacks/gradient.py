"""One place where attacks differentiate a model in its input: outputs and the gradient of a value of them."""

from collections.abc import Callable

import torch
from torch import nn

from holdfast import _tensors
from holdfast.acceleration import closed_form
from holdfast.errors import InputError
from holdfast.losses import Outputs, PerExample
from holdfast.threats.base import Points

Value = Callable[[Outputs], PerExample]
"""A number per example, computed from the model's outputs row by row, e.g. its loss."""


def outputs_and_gradient(model: nn.Module, points: Points, value: Value) -> tuple[Outputs, Points]:
    """``f(x')`` and the gradient of ``value(f(x'))_i`` in ``x'_i`` for each row, both without history; one
    forward and one backward pass.

    Numbers that are not finite are left in the gradient. The model's parameters must be frozen
    (`modes.attacking`). Models that have a closed form (`holdfast.acceleration`) take it: the same numbers up
    to rounding.

    Raises:
        InputError: the outputs carry no gradient.
    """
    closed = closed_form(model, points)
    if closed is not None:
        with torch.no_grad():
            return closed(points, lambda outputs: _slopes(outputs, value))
    points = points.detach().requires_grad_(True)
    outputs = _tensors.answers(model, points)
    worth = _differentiable(value(outputs))
    (gradient,) = torch.autograd.grad(worth.sum(), points)
    return outputs.detach(), gradient


def _slopes(outputs: Outputs, value: Value) -> Outputs:
    """The gradient of ``value`` in the outputs alone."""
    with torch.enable_grad():
        outputs = outputs.detach().requires_grad_(True)
        (slopes,) = torch.autograd.grad(_differentiable(value(outputs)).sum(), outputs)
    return slopes


def _differentiable(worth: PerExample) -> PerExample:
    if not worth.requires_grad:
        raise InputError(
            "model must be differentiable in its input for a gradient attack, but its outputs carry no "
            "gradient; remove no_grad or detach from its forward, or use RandomAttack."
        )
    return worth
