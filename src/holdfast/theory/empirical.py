"""The tangent kernel of a finite network at its present weights, ``K = J(x1) J(x2)^T`` over its trainable parameters.

``nn.Linear`` layers, `Dense` and `TwoLayer` never form their Jacobians: a weight that maps inputs ``h`` to preactivations with output
gradients ``g`` contributes ``<h, h'> <g, g'>``. Parameters of anything else go through `torch.func`, a Jacobian a block of points.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from holdfast._tensors import chunks
from holdfast.attacks.modes import in_mode
from holdfast.errors import InputError
from holdfast.networks import Dense, TwoLayer
from holdfast.theory.memory import require_memory

Outputs = Literal["trace", "mean", "full"]
BLOCK = 512  # points whose layer inputs and gradients are held at once


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One weight's Jacobian as an outer product: row ``(i, c)`` is ``gradients[i, c] (x) inputs[i]``; no inputs stand for 1."""

    gradients: Float[Tensor, "n outputs units"]
    inputs: Float[Tensor, "n inputs"] | None = None


def empirical_ntk(
    model: nn.Module,
    x1: Float[Tensor, "n ..."],
    x2: Float[Tensor, "m ..."] | None = None,
    *,
    outputs: str = "trace",
    block: int = BLOCK,
) -> Float[Tensor, "n m ..."]:
    """``sum_p df_c(x)/dp df_c'(x')/dp`` over the parameters that require a gradient, the network in evaluation mode.

    Args:
        x1, x2: points; without ``x2`` (or with the same tensor) only half of the blocks are computed.
        outputs: ``trace`` sums ``c = c'`` over the outputs and ``mean`` divides that by their number (the scale of the analytic
            kernel); both give (n, m). ``full`` gives (n, m, C, C).
        block: points whose layer inputs and gradients are held at once.

    Raises:
        InputError: no trainable parameters, outputs that are not (batch, outputs), an unknown word, or too little memory.
    """
    if outputs not in get_args(Outputs):
        raise InputError(
            f"outputs must be one of {', '.join(get_args(Outputs))}, got {outputs!r}; 'trace' gives (n, m)."
        )
    if block < 1:
        raise InputError(f"block must be >= 1, got {block}; leave it out for {BLOCK}.")
    symmetric = x2 is None or x2 is x1
    other = x1 if x2 is None else x2
    with in_mode(model, "eval"), torch.inference_mode(False):
        classes = _classes(model, x1)
        shape = (len(x1), len(other)) + ((classes, classes) if outputs == "full" else ())
        kept = sum(parameter.shape[0] for parameter in model.parameters() if parameter.ndim) * (classes + 1)
        points = min(block, max(len(x1), len(other)))
        require_memory(
            x1.element_size() * (torch.Size(shape).numel() + 3 * points * kept),
            x1.device,
            f"an empirical kernel of {len(x1):,} x {len(other):,} points",
            "take fewer points, a smaller block, or outputs='trace'",
        )
        factors = partial(_factors, model, classes)
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


def empirical_ntk_product(
    model: nn.Module,
    x1: Float[Tensor, "n ..."],
    x2: Float[Tensor, "m ..."],
    vector: Float[Tensor, "m outputs"],
    *,
    block: int = BLOCK,
) -> Float[Tensor, "n outputs"]:
    """``J(x1) (J(x2)^T vector)`` without the kernel: a backward pass over ``x2`` and a forward derivative over ``x1``.

    Raises:
        InputError: no trainable parameters, or a vector that is not a number for each point of ``x2`` and output.
    """
    with in_mode(model, "eval"):
        classes = _classes(model, x2)
        if vector.shape != (len(x2), classes):
            raise InputError(
                f"vector must be (points of x2, outputs) = ({len(x2)}, {classes}), got {tuple(vector.shape)}; reshape it."
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
    with torch.no_grad():
        outputs = model(x[:1])
    if outputs.ndim != 2:
        raise InputError(
            f"model must give (batch, outputs), got {tuple(outputs.shape)}; flatten its outputs."
        )
    return int(outputs.shape[1])


def _factors(model: nn.Module, classes: int, x: Tensor) -> list[Factor]:
    if isinstance(model, TwoLayer):
        return list(_two_layer(model, x))
    if isinstance(model, Dense):
        return list(_dense(model, x))
    return _any(model, classes, x)


def _two_layer(model: TwoLayer, x: Tensor) -> Iterator[Factor]:
    with torch.no_grad():
        before = model.preactivations(x)
        scale = model.width**-0.5
        if model.weight.requires_grad:
            slopes = model.activation.slope(before) * scale
            yield Factor(gradients=slopes[:, None, :] * model.output_weight.T, inputs=model.inputs(x))
        if model.output_weight.requires_grad:
            eye = torch.eye(model.outputs, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
            yield Factor(gradients=eye, inputs=model.activation(before) * scale)


def _dense(model: Dense, x: Tensor) -> Iterator[Factor]:
    with torch.no_grad():
        below, scale = model.inputs(x), model.layer_scale
        inputs, slopes = [], []
        for weight in model.weights:
            before = below @ weight.T
            inputs.append(below)
            slopes.append(scale * model.activation.slope(before))
            below = scale * model.activation(before)
        gradients = model.output_weight.expand(len(x), -1, -1)
        for layer in range(model.depth - 1, -1, -1):
            gradients = gradients * slopes[layer][:, None, :]
            if model.weights[layer].requires_grad:
                yield Factor(gradients=gradients, inputs=inputs[layer])
            if layer:
                gradients = gradients @ model.weights[layer]


def _any(model: nn.Module, classes: int, x: Tensor) -> list[Factor]:
    """Linear layers that see each example as one row once; Jacobians for all other parameters."""
    with torch.enable_grad(), _watching(model) as seen:
        outputs = model(x.detach().requires_grad_(True))
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    layers = [
        (layer, *calls[0])
        for layer, calls in seen.items()
        if len(calls) == 1 and calls[0][0].ndim == 2 and len(calls[0][0]) == len(x)
        and all(owners[id(parameter)] == 1 for parameter in layer.parameters())
    ]  # fmt: skip
    factors = []
    if layers:
        seeds = torch.eye(classes, dtype=outputs.dtype, device=outputs.device)[:, None, :].expand(
            -1, len(x), -1
        )
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            outputs, [after for _, _, after in layers], seeds, is_grads_batched=True, allow_unused=True
        )
        for (layer, inputs, _), gradient in zip(layers, found, strict=True):
            if gradient is None:
                continue
            per_point = gradient.detach().transpose(0, 1)
            if layer.weight.requires_grad:
                factors.append(Factor(gradients=per_point, inputs=inputs.detach()))
            bias = layer._parameters["bias"]
            if bias is not None and bias.requires_grad:
                factors.append(Factor(gradients=per_point))
    done = {id(parameter) for layer, _, _ in layers for parameter in layer.parameters()}
    rest = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad and id(p) not in done}
    if rest:
        numbers = sum(value.numel() for value in rest.values())
        require_memory(
            2 * x.element_size() * len(x) * classes * numbers,
            x.device,
            f"the Jacobian of {numbers:,} parameters at {len(x):,} points",
            "pass a smaller block, or use empirical_ntk_product",
        )

        def one(parameters: dict[str, Tensor], point: Tensor) -> Tensor:
            return _call(model, point[None], parameters)[0]

        jacobian = vmap(jacrev(one), (None, 0))(rest, x.detach())
        rows = torch.cat([part.reshape(len(x), classes, -1) for part in jacobian.values()], 2)
        factors.append(Factor(gradients=rows.detach()))
    return factors


@contextmanager
def _watching(model: nn.Module) -> Iterator[dict[nn.Linear, list[tuple[Tensor, Tensor]]]]:
    """Inputs and outputs of every call of a plain ``nn.Linear`` with something to train."""
    seen: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {}

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # copies: what comes after may work in place (`nn.ReLU(inplace=True)`, `x += ...`)
        seen.setdefault(layer, []).append((inputs[0].detach().clone(), output))
        return output.clone()

    removers: list[Callable[[], None]] = [
        module.register_forward_hook(note).remove
        for module in model.modules()
        if type(module) is nn.Linear and any(p.requires_grad for p in module.parameters())
    ]
    try:
        yield seen
    finally:
        for remove in removers:
            remove()


def _contract(left: list[Factor], right: list[Factor], *, full: bool) -> Tensor:
    total: Tensor | None = None
    for a, b in zip(left, right, strict=True):
        (n, classes, _), m = a.gradients.shape, len(b.gradients)
        if full:
            part = a.gradients.flatten(0, 1) @ b.gradients.flatten(0, 1).T
            part = part.reshape(n, classes, m, classes).transpose(1, 2)
        else:
            part = a.gradients.flatten(1) @ b.gradients.flatten(1).T
        if a.inputs is not None and b.inputs is not None:
            near = a.inputs @ b.inputs.T
            part = part.mul_(near[:, :, None, None] if full else near)
        total = part if total is None else total.add_(part)
    assert total is not None  # there are trainable parameters
    return total
