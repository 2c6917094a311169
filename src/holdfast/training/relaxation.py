"""Linear bounds of margins that carry gradients: CROWN-IBP (Zhang et al. 2020, arXiv 1906.06316).

Intervals bound what goes into each rectifier. Between these bounds a rectifier lies above one line and below another,
so that a margin lies above a linear function of the input: its coefficients come from one pass back through the network, in
which a rectifier passes a positive coefficient on by its lower line and a negative one by its upper line. That pass
is autograd's own, with the rectifiers' derivatives replaced.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from holdfast.attacks.modes import still
from holdfast.errors import InputError
from holdfast.losses import Labels, Outputs
from holdfast.training.intervals import Interval, Seen, bounded

LINEAR = {
    *("linear", "matmul", "conv1d", "conv2d", "conv3d", "batch_norm", "dropout", "relu", "leaky_relu"),
    *("flatten", "unflatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "getitem"),
    *("expand", "narrow", "select", "pad", "to", "float", "double", "mean", "sum", "clone", "contiguous"),
    *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
    *("add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "div", "truediv", "true_divide"),
    *("neg", "cat", "concat", "stack"),
}
"""Operations that are linear in their inputs, and the rectifiers."""


class _Relaxed(torch.autograd.Function):
    """A rectifier, whose backward pass goes by its lines.

    ``zero`` is a zero for each example. What comes back to it is how far the lines are from the rectifier at the
    values themselves, weighted by the coefficients. ``known`` are the same values as ``x``, with the history of a
    plain pass: what is differentiated for training is that, and not the lines' own slopes.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, zero: Tensor, known: Tensor, lower: Tensor, upper: Tensor, slope: float
    ) -> Tensor:
        ctx.save_for_backward(known, lower, upper)
        ctx.slope = slope
        return functional.leaky_relu(x, slope)

    @staticmethod
    def backward(ctx: Any, coefficients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        known, lower, upper = ctx.saved_tensors
        slope = ctx.slope
        crossing = (lower < 0) & (upper > 0)
        straight = torch.where(upper > 0, 1.0, slope)  # where the rectifier is a line itself
        width = torch.where(crossing, upper - lower, 1.0)
        # The upper line joins the ends; the lower one has the slope of the longer side (adaptive, as in CROWN).
        steep = torch.where(crossing, (upper - slope * lower) / width, straight)
        offset = torch.where(crossing, upper * (1 - steep), 0.0)
        flat = torch.where(crossing, torch.where(upper >= -lower, 1.0, slope), straight)
        positive = coefficients >= 0
        line = torch.where(positive, flat * known, steep * known + offset)
        apart = coefficients * (functional.leaky_relu(known, slope) - line)
        return (
            coefficients * torch.where(positive, flat, steep),
            apart.flatten(1).sum(1),
            None,
            None,
            None,
            None,
        )


def least_margins(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    lower: Float[Tensor, "batch ..."],
    upper: Float[Tensor, "batch ..."],
    y: Labels,
    found: Interval,
) -> Outputs:
    """A lower bound of ``f_y - f_k`` over the boxes for each class ``k``, 0 for the label; of one signed output,
    of its product with the label's sign.

    One pass forward, and for each class but the label's one back; differentiable in the weights.

    Args:
        model: of linear operations and rectifiers.
        x: the examples, within their boxes.
        lower, upper: the boxes.
        y: labels (batch,).
        found: what `bounded` gave for them.

    Raises:
        InputError: another operation.
    """
    if others := sorted(found.seen.operations - LINEAR):
        raise InputError(
            f"CROWN-IBP needs a network of linear operations, ReLU and leaky ReLU, got {', '.join(others)}; use IBP, "
            "or replace it."
        )
    # The pass back is needed where no gradient is, and averages have moved in the pass before.
    with torch.enable_grad(), still(model):
        start = x.detach().requires_grad_()
        zero = x.new_zeros(len(x), requires_grad=True)
        before = iter(found.seen.before_units)

        def rectified(values: Interval, slope: float) -> Tensor:
            known = next(before)
            result: Tensor = _Relaxed.apply(  # type: ignore[no-untyped-call]
                values.value, zero, known.value, known.lower, known.upper, slope
            )
            return result

        # The statistics of batch norm are those of the pass before, as constants: each example's bound is its own.
        seen = Seen(rectify=rectified, given=iter(found.seen.statistics))
        outputs = bounded(model, start, lower, upper, seen).value

        def least(relaxed: Tensor, plain: Tensor) -> Tensor:
            slopes, apart = torch.autograd.grad(
                relaxed.sum(), (start, zero), create_graph=True, materialize_grads=True
            )
            change = torch.minimum(slopes * (lower - x), slopes * (upper - x))
            return plain + change.flatten(1).sum(1) - apart

        if outputs.shape[1] == 1:
            sign = (2 * y - 1).to(outputs.dtype)
            return least(sign * outputs[:, 0], sign * found.value[:, 0])[:, None]
        classes, each = outputs.shape[1], torch.arange(len(y), device=y.device)
        bounds = torch.zeros_like(outputs)
        for ahead in range(1, classes):
            other = (y + ahead) % classes
            relaxed, plain = (values[each, y] - values[each, other] for values in (outputs, found.value))
            bounds = bounds.index_put((each, other), least(relaxed, plain))
        return bounds


def worst_of(least: Outputs, y: Labels) -> Outputs:
    """Outputs with these margins: 0 for the label and ``-margin`` for the others; one signed output at its worst end."""
    if least.shape[1] == 1:
        return least * (2 * y - 1).to(least.dtype)[:, None]
    return -least
