"""The tangent kernel of a finite network at its present weights, ``K = J(x1) J(x2)^T`` over its trainable
parameters.

A weight that maps inputs ``h`` to preactivations with output gradients ``g`` contributes ``<h, h'> <g, g'>``:
no Jacobian of it is formed. `holdfast.theory.factors` says what each kind of layer gives.
"""

import warnings
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from holdfast._arguments import MODEL, POINTS, TENSOR, Array, as_inputs, as_tensor
from holdfast._memory import require_memory
from holdfast._products import product
from holdfast._rules import COUNT, maybe, takes, word
from holdfast._tensors import chunks
from holdfast.attacks.base import answered
from holdfast.attacks.modes import in_mode
from holdfast.errors import InputError
from holdfast.families.registry import tangent_model
from holdfast.theory.factors import Factor, factors_of, numbers_held

Outputs = Literal["trace", "mean", "full"]
BLOCK = 512  # points whose layer inputs and gradients are held at once


COLUMNS = 64  # of a block of points with itself, of which only the lower half is multiplied


@takes(model=MODEL, x1=POINTS, x2=maybe(POINTS), outputs=word(*get_args(Outputs)), block=COUNT)
def empirical_ntk(
    model: nn.Module,
    x1: Array,
    x2: Array | None = None,
    *,
    outputs: str = "trace",
    block: int = BLOCK,
) -> Float[Tensor, "n m ..."]:
    """``sum_p df_c(x)/dp df_c'(x')/dp`` over the parameters that require a gradient, in evaluation mode.

    Args:
        model: maps (batch, ...) to (batch, outputs).
        x1, x2: points; without ``x2`` (or with the same tensor) only half of the blocks are computed.
        outputs: ``trace`` sums ``c = c'`` over the outputs and ``mean`` divides that by their number (the
            scale of the analytic kernel); both give (n, m). ``full`` gives (n, m, C, C).
        block: points whose layer inputs and gradients are held at once.

    Returns:
        The kernel (n, m), or (n, m, C, C).

    Raises:
        InputError: no trainable parameters, outputs that are not (batch, outputs), an unknown word, or too
            little memory.

    >>> import torch
    >>> import holdfast as hf
    >>> net = torch.nn.Linear(2, 1)
    >>> hf.theory.empirical_ntk(net, torch.eye(2))  # <x, x'> + 1, with the bias
    tensor([[2., 1.],
            [1., 2.]])
    """
    x1 = as_inputs(model, as_tensor("x1", x1))
    x2 = None if x2 is None else as_inputs(model, as_tensor("x2", x2))
    if x2 is not None and x2.shape[1:] != x1.shape[1:]:
        raise InputError(
            f"x1 and x2 must hold examples of one shape, got {tuple(x1.shape[1:])} and "
            f"{tuple(x2.shape[1:])}; take both from the same data."
        )
    model = tangent_model(model)
    symmetric = x2 is None or x2 is x1
    other = x1 if x2 is None else x2
    with in_mode(model, "eval"), torch.inference_mode(False):
        classes = _classes(model, x1)
        shape = (len(x1), len(other)) + ((classes, classes) if outputs == "full" else ())
        points = 2 * min(block, max(len(x1), len(other)))  # a block of rows, one of columns
        require_memory(
            x1.element_size() * (torch.Size(shape).numel() + points * numbers_held(model, classes, x1)),
            x1.device,
            f"an empirical kernel of {len(x1):,} x {len(other):,} points",
            "take fewer points, a smaller block, or outputs='trace'",
        )
        factors = partial(factors_of, model, classes)
        result = x1.new_empty(shape)
        for rows in chunks(len(x1), block):
            left = factors(x1[rows])
            for columns in chunks(len(other), block):
                if symmetric and columns.stop <= rows.start:
                    continue
                same = symmetric and rows == columns
                part = _contract(left, left if same else factors(other[columns]), full=outputs == "full")
                result[rows, columns] = part
                if symmetric and not same:
                    result[columns, rows] = (
                        part.transpose(0, 1).transpose(-1, -2) if part.ndim == 4 else part.T
                    )
        return result.div_(classes) if outputs == "mean" else result


@takes(model=MODEL, x1=POINTS, x2=POINTS, vector=TENSOR, block=COUNT)
def empirical_ntk_product(
    model: nn.Module,
    x1: Float[Tensor, "n ..."],
    x2: Float[Tensor, "m ..."],
    vector: Float[Tensor, "m outputs"],
    *,
    block: int = BLOCK,
) -> Float[Tensor, "n outputs"]:
    """``J(x1) (J(x2)^T vector)`` without the kernel.

    It takes a backward pass over ``x2`` and a forward derivative over ``x1``.

    Args:
        model: maps (batch, ...) to (batch, outputs).
        x1: points (n, ...).
        x2: points (m, ...).
        vector: (m, outputs).
        block: points taken at once.

    Raises:
        InputError: no trainable parameters, or a vector that is not a number for each point of ``x2`` and
            output.

    >>> import torch
    >>> import holdfast as hf
    >>> net = torch.nn.Linear(2, 1)
    >>> hf.theory.empirical_ntk_product(net, torch.eye(2), torch.eye(2), torch.ones(2, 1))
    tensor([[3.],
            [3.]])
    """
    model = tangent_model(model)  # a linearised network's own derivative would be one within another
    with in_mode(model, "eval"):
        classes = _classes(model, x2)
        if vector.shape != (len(x2), classes):
            raise InputError(
                f"vector must be (points of x2, outputs) = ({len(x2)}, {classes}), got "
                f"{tuple(vector.shape)}; reshape it."
            )
        trained = _trained(model)
        total = {name: torch.zeros_like(value) for name, value in trained.items()}
        for part in chunks(len(x2), block):
            pull = vjp(partial(_call, model, x2[part]), trained)[1]
            for name, gradient in pull(vector[part])[0].items():
                total[name] += gradient
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # torch's own, when it first imports its rules for jvp
            parts = [
                jvp(partial(_call, model, x1[part]), (trained,), (total,))[1]
                for part in chunks(len(x1), block)
            ]
        return torch.cat(parts).detach() if parts else vector.new_zeros(0, classes)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _call(model: nn.Module, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    outputs: Tensor = functional_call(model, parameters, (x,))
    return outputs


def _classes(model: nn.Module, x: Tensor) -> int:
    if not _trained(model):
        raise InputError("model must have parameters that require a gradient, got none; unfreeze some.")
    outputs = answered(model, x[:1])
    if outputs.ndim != 2:
        raise InputError(
            f"model must give (batch, outputs), got {tuple(outputs.shape)}; flatten its outputs."
        )
    return int(outputs.shape[1])


def _contract(left: list[Factor], right: list[Factor], *, full: bool) -> Tensor:
    total: Tensor | None = None
    for a, b in zip(left, right, strict=True):
        if full:
            classes, n, m = *a.gradients.shape[:2], b.gradients.shape[1]
            part = product(a.gradients.flatten(0, 1), b.gradients.flatten(0, 1))
            part = part.reshape(classes, n, classes, m).permute(1, 3, 0, 2)
        else:
            part = _inner(a.gradients, b.gradients, same=a is b)
        if a.inputs is not None and b.inputs is not None:
            near = _inner(a.inputs[None], b.inputs[None], same=a is b)
            near = near.add_(1) if a.constant else near
            part = part.mul_(near[:, :, None, None] if full else near)
        total = part if total is None else total.add_(part)
    assert total is not None  # there are trainable parameters
    return total


def _inner(
    a: Float[Tensor, "outputs n units"], b: Float[Tensor, "outputs m units"], *, same: bool
) -> Float[Tensor, "n m"]:
    """``sum_c a_c b_c^T``; half of it, and its mirror image, for the same tensor twice."""
    result = a.new_empty(a.shape[1], b.shape[1])
    for columns in chunks(b.shape[1], COLUMNS if same else b.shape[1]):
        rows = slice(columns.start if same else 0, None)
        part = product(a[0, rows], b[0, columns])
        for mine, theirs in zip(a[1:], b[1:], strict=True):
            part += product(mine[rows], theirs[columns])
        result[rows, columns] = part
        if same:
            result[columns, rows] = part.T
    return result
