"""Which models have a closed form: exact types of known layers with nothing hung on them. All others go
through autograd.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module

from holdfast import _tensors
from holdfast.acceleration.layers import (
    AffineLayer,
    Convolution,
    Flat,
    Layer,
    MaxPooling,
    Pair,
    Pointwise,
    Portions,
    Rectifier,
    Reshape,
    ops,
    run_backward,
    run_forward,
    run_values,
)
from holdfast.acceleration.switch import is_enabled
from holdfast.families.base import ClosedForm, Family, Slopes
from holdfast.families.exact import exact_core
from holdfast.families.registry import known_as, registered

LEAST_WORK = 2**24  # multiplications a pass below which autograd's own time is as short

Closed = ClosedForm
_Value = Callable[[Tensor], Tensor]
_Back = Callable[[Tensor, Tensor, Tensor], Tensor]
_POINTWISE: dict[type[nn.Module], Callable[[Any], tuple[_Value, _Back]]] = {
    nn.Sigmoid: lambda layer: (torch.sigmoid, lambda g, x, y: ops.sigmoid_backward(g, y)),
    nn.Tanh: lambda layer: (torch.tanh, lambda g, x, y: ops.tanh_backward(g, y)),
    nn.SiLU: lambda layer: (functional.silu, lambda g, x, y: ops.silu_backward(g, x)),
    nn.GELU: lambda layer: (
        layer.forward,
        lambda g, x, y: ops.gelu_backward(g, x, approximate=layer.approximate),
    ),
    nn.Softplus: lambda layer: (
        layer.forward,
        lambda g, x, y: ops.softplus_backward(g, x, layer.beta, layer.threshold),
    ),
    nn.ELU: lambda layer: (
        partial(functional.elu, alpha=layer.alpha),
        lambda g, x, y: ops.elu_backward(g, layer.alpha, 1, 1, False, x),
    ),
    nn.LeakyReLU: lambda layer: (
        partial(functional.leaky_relu, negative_slope=layer.negative_slope),
        lambda g, x, y: ops.leaky_relu_backward(g, x, layer.negative_slope, False),
    ),
}


def _methods(kind: type[nn.Module]) -> tuple[Any, Any]:
    return getattr(kind, "forward", None), kind.__call__


_OTHERS = (
    nn.Sequential,
    nn.Identity,
    nn.Dropout,
    nn.Linear,
    nn.ReLU,
    nn.Flatten,
    nn.Conv2d,
    nn.MaxPool2d,
    *(known.network for known in registered() if not isinstance(known, Family)),
)
# What each class did when this module was imported: a class whose methods were replaced since is not known.
_KNOWN = {kind: _methods(kind) for kind in (*_OTHERS, *_POINTWISE)}
# Names that an instance must not bear itself, since they would hide its methods.
_METHODS = {kind: {name for name in dir(kind) if callable(getattr(kind, name))} for kind in _KNOWN}


def closed_form(model: nn.Module, points: Tensor) -> Closed | None:
    """The model's closed form for such points, or ``None``: acceleration is off, or autograd is the safe way.

    Recognised, on a CPU in float32 and float64: networks of families that have one, `MNISTConv`, and
    `nn.Sequential` (also nested) of linear layers, 2-d convolutions, max-pooling, flattening and the usual
    activations, of exactly these types, without hooks, parametrisations, replaced methods or compiled calls,
    outside autocast, where there is work enough to gain from it. It reads the model's weights anew in every
    call and keeps nothing.

    Args:
        model: the network.
        points: (batch, ...), as the model takes them.

    >>> import torch
    >>> import holdfast as hf
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 2))
    >>> points = torch.zeros(1000, 8)
    >>> form = hf.acceleration.closed_form(net, points)
    >>> with torch.no_grad():
    ...     outputs, gradients = form(points, torch.ones_like)  # of the sum of the outputs
    >>> outputs.shape, gradients.shape
    (torch.Size([1000, 2]), torch.Size([1000, 8]))
    """
    if not is_enabled() or not _plain(points) or len(points) == 0:
        return None
    if torch.is_autocast_enabled("cpu") or torch_module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return None
    if len(points) * _weights(model, points) < LEAST_WORK:
        return None
    core = exact_core(model)
    if core is not None and type(model) is core.family.network:
        return core.family.closed_form(model) if _tensors_are_plain(model, points.dtype) else None
    if not _is_known(model, points.dtype):
        return None
    layers = _layers(model, points)
    return None if layers is None else Stack(layers=_in_portions(tuple(_arranged(layers))))


def outputs(model: nn.Module, points: Tensor) -> Tensor:
    """``f(x')`` without gradient, for searches by many queries.

    It is the closed form's forward pass where there is one of layers.

    Args:
        model: the network.
        points: (batch, ...), as the model takes them.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.acceleration.outputs(torch.nn.Identity(), torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    with torch.no_grad():
        closed = closed_form(model, points)
        return closed.outputs(points) if isinstance(closed, Stack) else _tensors.answers(model, points)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers one after the other."""

    layers: tuple[Layer, ...]

    def __call__(self, points: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
        found, kept = run_forward(self.layers, points)
        return found, run_backward(self.layers, slopes(found).clone(), kept)

    def outputs(self, points: Tensor) -> Tensor:
        """The forward pass alone."""
        return run_values(self.layers, points)


def _plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.dtype in (torch.float32, torch.float64)
    )


def _weights(module: nn.Module, points: Tensor) -> int:
    """Multiplications per example, about: every weight once, those of convolutions once per pixel."""
    pixels = points.shape[2:].numel() if points.ndim == 4 else 1
    own = sum(
        tensor.numel() * (pixels if tensor.ndim == 4 else 1)
        for tensors in (module._parameters, module._buffers)
        for tensor in tensors.values()
        if tensor is not None
    )
    return own + sum(_weights(part, points) for part in module._modules.values() if part is not None)


def _tensors_are_plain(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether all its tensors, also those of its lists, are plain ones of this type."""
    return all(
        _plain(tensor) and tensor.dtype == dtype for tensor in (*module.parameters(), *module.buffers())
    )


def _is_known(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether it and all in it are of known types, with their own methods and no hooks, and plain tensors
    of this type.
    """
    kind = type(module)
    return (
        _KNOWN.get(kind) == _methods(kind)
        and module.__dict__.keys().isdisjoint(_METHODS[kind])
        and module._compiled_call_impl is None
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and _tensors_are_plain(module, dtype)
        and all(part is not None and _is_known(part, dtype) for part in module._modules.values())
    )


def _layers(model: nn.Module, points: Tensor) -> list[Layer] | None:
    """The model's layers in the order it calls them; ``None`` where one has no closed form for inputs of
    such shape.
    """
    found: list[Layer] = []
    dimensions = points.ndim
    parts: Iterator[nn.Module]
    known = known_as(model)
    stack = None if known is None else known.stack(model)
    if stack is not None:
        shape, body = stack
        found.append(Reshape(shape=shape))
        dimensions, parts = 1 + len(shape), _parts(body)
    else:
        parts = _parts(model)
    for part in parts:
        layer = _layer(part, dimensions)
        if layer is None:
            return None
        dimensions = 2 if isinstance(layer, Flat) else dimensions
        found.append(layer)
    return found if dimensions == 2 and found else None


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested `nn.Sequential`, less those that do nothing."""
    if isinstance(model, nn.Sequential):
        for part in model:
            yield from _parts(part)
    elif not (isinstance(model, nn.Identity) or (isinstance(model, nn.Dropout) and not model.training)):
        yield model


def _layer(part: nn.Module, dimensions: int) -> Layer | None:
    kind = type(part)
    if kind in _POINTWISE:
        value, back = _POINTWISE[kind](part)
        return Pointwise(value=value, back=back)
    match part:
        case nn.ReLU():
            return Rectifier()
        case nn.Linear() if dimensions == 2:
            return AffineLayer(weight=part.weight, bias=part.bias)
        case nn.Flatten(start_dim=1, end_dim=-1):
            return Flat()
        case nn.Conv2d(padding_mode="zeros", padding=tuple() as padding) if dimensions == 4:
            return Convolution(
                weight=part.weight,
                bias=part.bias,
                stride=_pair(part.stride),
                padding=_pair(padding),
                dilation=_pair(part.dilation),
                groups=part.groups,
            )
        case nn.MaxPool2d(return_indices=False) if dimensions == 4:
            return MaxPooling(
                size=_pair(part.kernel_size),
                stride=_pair(part.stride),
                padding=_pair(part.padding),
                dilation=_pair(part.dilation),
                ceil_mode=part.ceil_mode,
            )
    return None


def _pair(size: int | tuple[int, ...]) -> Pair:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _arranged(layers: list[Layer]) -> Iterator[Layer]:
    """The layers with ReLU after max-pooling (a quarter of the entries), and with what each may assume of its
    neighbours.

    The two commute, slopes included: where the largest entry of a window is not above 0 the slope is 0 both
    ways, and else both find it at the same place. Windows that reach into padding are left in their order.
    """
    order = list(layers)
    for i, layer in enumerate(order[1:], 1):
        unpadded = isinstance(layer, MaxPooling) and layer.padding == (0, 0) and not layer.ceil_mode
        if unpadded and isinstance(order[i - 1], Rectifier):
            order[i - 1], order[i] = layer, order[i - 1]
    before: Layer | None = None
    for layer in order:
        match layer, before:
            case (
                Rectifier(),
                AffineLayer() | Convolution() | MaxPooling(),
            ):  # which need nothing of what they put out
                yield replace(layer, in_place=True)
            case MaxPooling(), Convolution(native_backward=True):
                yield replace(layer, channels_first=True)
            case _:
                yield layer
        before = layer


def _in_portions(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers with those from the first to the last that works on images run on a few of these at a
    time.
    """
    images = [i for i, layer in enumerate(layers) if isinstance(layer, Convolution | MaxPooling | Flat)]
    if not any(isinstance(layer, Convolution) for layer in layers):
        return layers
    end = images[-1] + 1
    return Portions(layers=layers[:end]), *layers[end:]
