"""Jacobians of networks in their weights, layer by layer, as factors that are cheap to multiply.

Families of networks write theirs down. In any other module one backward pass finds the gradients in the
outputs ``g`` of all layers that are known here, and each layer turns them into its own: a linear layer that
saw an example as one row ``h`` has ``g (x) h``, which is never formed; convolutions, batch norms in
evaluation mode and layers that saw several rows or were called several times sum over positions and calls.
Parameters of anything else go through `torch.func`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from holdfast._memory import require_memory
from holdfast._tensors import applied
from holdfast.errors import InputError
from holdfast.families.base import Factor as Factor
from holdfast.families.exact import exact_core

Call = tuple[Tensor, Tensor]
"""What a layer was given and what it gave."""


def factors_of(model: nn.Module, classes: int, x: Float[Tensor, "n ..."]) -> list[Factor]:
    """The Jacobian of every output at every point in all trainable weights.

    Raises:
        InputError: too little memory, or a layer that neither is known here nor can be differentiated by
            `torch.func`; it is named.
    """
    core = exact_core(model)
    known = None if core is None else core.family.factors(core.network, x)
    return _any(model, classes, x) if known is None else list(known)


def numbers_held(model: nn.Module, classes: int, x: Float[Tensor, "n ..."]) -> int:
    """About how many numbers `factors_of` holds for one point: what each layer is given, and the gradients
    in what it gives.
    """
    with torch.no_grad(), _watching(model, 1) as seen:
        applied(model, x[:1])
    units = sum(parameter.shape[0] for parameter in model.parameters() if parameter.ndim > 1)
    held = units * (classes + 2)
    for layer, calls in seen.items():
        repeats = math.prod(getattr(layer, "kernel_size", ()))  # of a convolution's inputs, in its patches
        held += sum(repeats * before.numel() + (classes + 1) * after.numel() for before, after in calls)
    return held


def _any(model: nn.Module, classes: int, x: Tensor) -> list[Factor]:
    outputs, seen = _watched(model, x)
    calls = [(layer, call) for layer, found in seen.items() for call in found]
    gradients: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
    if calls:
        seeds = torch.eye(classes, dtype=outputs.dtype, device=outputs.device)[:, None, :]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            outputs,
            [after for _, (_, after) in calls],
            seeds.expand(-1, len(x), -1),
            is_grads_batched=True,
            allow_unused=True,
        )
        for (layer, (before, _)), gradient in zip(calls, found, strict=True):
            if gradient is not None:
                gradients.setdefault(layer, []).append((before.detach(), gradient.detach()))
    factors = [factor for layer, pairs in gradients.items() for factor in _of_layer(layer, pairs)]
    done = {id(parameter) for layer in seen for parameter in layer.parameters()}
    rest = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad and id(p) not in done}
    return [*factors, *_by_torch_func(model, classes, x, rest)] if rest else factors


def _watched(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[nn.Module, list[Call]]]:
    """The outputs, and the calls of the layers known here as they were: of copies, where something works
    in place on them.
    """
    for copies in (False, True):
        with torch.enable_grad(), _watching(model, len(x), copies=copies) as seen:
            outputs = applied(model, x.detach().requires_grad_(True))
        values = [value for calls in seen.values() for call in calls for value in call]
        if copies or all(value._version == 0 for value in values):
            break
    return outputs, seen


@contextmanager
def _watching(
    model: nn.Module, points: int, *, copies: bool = False
) -> Iterator[dict[nn.Module, list[Call]]]:
    """Every call of the layers known here that have something to train and share it with no other layer."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    seen: dict[nn.Module, list[Call]] = {}

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        before = inputs[0]
        # what comes after may work in place (`nn.ReLU(inplace=True)`, `x += ...`)
        seen.setdefault(layer, []).append((before.detach().clone() if copies else before, output))
        return output.clone() if copies else output

    removers: list[Callable[[], None]] = [
        module.register_forward_hook(note).remove
        for module in model.modules()
        if _known(module)
        and any(p.requires_grad for p in module.parameters())
        and all(owners[id(p)] == 1 for p in module.parameters())
    ]
    try:
        yield seen
    finally:
        for remove in removers:
            remove()
    for layer, calls in list(seen.items()):
        # rows that are not the points: which is whose is the module's affair
        least = 2 + (layer.weight.ndim - 2 if isinstance(layer, nn.Conv1d | nn.Conv2d) else 0)
        if any(before.ndim < least or len(before) != points for before, _ in calls):
            del seen[layer]


def _known(layer: nn.Module) -> bool:
    if type(layer) is nn.Linear:
        return True
    if type(layer) in (nn.Conv1d, nn.Conv2d):
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return bool(plain and layer.groups == 1)
    return isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None


def _of_layer(layer: Any, calls: list[tuple[Tensor, Tensor]]) -> list[Factor]:
    """The Jacobian of one layer from what it was given and the gradients in what it gave, (C, n, ...),
    call by call.
    """
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    trained = weight is not None and weight.requires_grad
    biased = bias is not None and bias.requires_grad
    if isinstance(layer, nn.Linear) and len(calls) == 1 and calls[0][0].ndim == 2 and trained:
        return [Factor(gradients=calls[0][1], inputs=calls[0][0], constant=biased)]
    classes, points = calls[0][1].shape[:2]
    if trained:
        device = weight.device
        require_memory(
            3 * weight.element_size() * classes * points * weight.numel(),
            device,
            f"the Jacobian of {weight.numel():,} weights of a {type(layer).__name__} at {points:,} points",
            "pass a smaller block, or use empirical_ntk_product",
        )
    weights, biases = [], []
    for before, gradient in calls:
        rows, slopes = _rows(layer, before, gradient)
        if trained and isinstance(layer, _BatchNorm):
            weights.append(torch.einsum("cnpu,npu->cnu", slopes, rows))
        elif trained:
            weights.append(torch.einsum("cnpu,npk->cnuk", slopes, rows).flatten(2))
        biases.append(slopes.sum(2))
    made = [sum(weights[1:], weights[0])] if trained else []
    made += [sum(biases[1:], biases[0])] if biased else []
    return [Factor(gradients=jacobian) for jacobian in made]


def _rows(layer: Any, before: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What multiplies the weights at each position, (n, positions, inputs), and the gradients there, (C,
    n, positions, units).
    """
    single = before.ndim == 2
    if isinstance(layer, nn.Linear):
        if single:
            return before[:, None], gradient[:, :, None]
        return before.flatten(1, -2), gradient.flatten(2, -2)
    slopes = gradient[:, :, None] if single else gradient.flatten(3).transpose(2, 3)
    if isinstance(layer, _BatchNorm):
        rows = before[:, None] if single else before.flatten(2).transpose(1, 2)
        mean, variance = layer._buffers["running_mean"], layer._buffers["running_var"]
        assert mean is not None  # else the layer is not known here
        assert variance is not None
        return (rows - mean) / (variance + layer.eps).sqrt(), slopes
    kernel, dilation, padding, stride = (
        getattr(layer, name) for name in ("kernel_size", "dilation", "padding", "stride")
    )
    if isinstance(layer, nn.Conv1d):
        before = before[:, :, None]
        kernel, dilation, padding, stride = (1, *kernel), (1, *dilation), (0, *padding), (1, *stride)
    return functional.unfold(before, kernel, dilation, padding, stride).transpose(1, 2), slopes


def _by_torch_func(model: nn.Module, classes: int, x: Tensor, rest: dict[str, Tensor]) -> list[Factor]:
    """The whole Jacobian in these parameters."""
    numbers = sum(value.numel() for value in rest.values())
    require_memory(
        2 * x.element_size() * len(x) * classes * numbers,
        x.device,
        f"the Jacobian of {numbers:,} parameters at {len(x):,} points",
        "pass a smaller block, or use empirical_ntk_product",
    )

    def one(parameters: dict[str, Tensor], point: Tensor) -> Tensor:
        outputs: Tensor = functional_call(model, parameters, (point[None],))
        return outputs[0]

    try:
        jacobian = vmap(jacrev(one), (None, 0))(rest, x.detach())
    except (RuntimeError, NotImplementedError, ValueError) as error:
        layers = {name.rpartition(".")[0] for name in rest}
        named = [
            f"{name or 'the model'} ({type(model.get_submodule(name)).__name__})" for name in sorted(layers)
        ]
        raise InputError(
            "every layer must be linear, a plain convolution or batch norm, or one that torch.func can "
            f"differentiate, got {', '.join(named)}, where it fails ({' '.join(str(error).split())[:200]}); "
            "freeze it or rewrite its forward."
        ) from error
    rows = torch.cat([part.reshape(len(x), classes, -1) for part in jacobian.values()], 2)
    return [Factor(gradients=rows.detach().transpose(0, 1))]
