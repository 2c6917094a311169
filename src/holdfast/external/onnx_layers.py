"""ONNX nodes that are layers of torch: linear maps, convolutions, batch norm, pooling, activations."""

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from holdfast.external.onnx_node import Function, Node, function, padded

_EXACT = 40.0  # above it softplus(x) and x are one number even in float64
Layer = TypeVar("Layer", bound=nn.Module)
_CONV: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Callable[..., nn.Module], ...] = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_MAX: tuple[Callable[..., nn.Module], ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MEAN: tuple[Callable[..., nn.Module], ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_NORM: tuple[Callable[..., nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """``x -> x W^T + b``, holding exactly these numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _holding(layer, weight=weight, bias=bias)


def _holding(layer: Layer, **tensors: Tensor | None) -> Layer:
    """The layer with these parameters in place of its own, which may have no memory."""
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(layer, name, nn.Parameter(tensor.detach().clone()))
    return layer


def gemm(node: Node) -> nn.Module:
    """``alpha A' B' + beta C``; with weights ``B`` and ``C`` a linear layer."""
    alpha, beta = node.attributes["alpha"], node.attributes["beta"]
    swapped = [bool(node.attributes[name]) for name in ("transA", "transB")]
    if swapped[0] and not node.constant[0]:
        raise node.refuse("must have transA 0, since axis 0 is the batch, got 1; export it so")
    offset = node.optional(2)
    node.asked.update((0, 1))
    plain = not node.constant[0] and node.constant[1] and (offset is None or node.constant[2])
    if plain and alpha == 1.0 and (offset is None or beta == 1.0):
        weight = node.value(1) if swapped[1] else node.value(1).T
        bias = None if offset is None else offset.expand(1, len(weight)) if offset.ndim < 2 else offset
        if bias is None or bias.shape[0] == 1:
            return linear(weight, None if bias is None else bias.expand(1, len(weight))[0])

    def product(a: Any, b: Any, c: Any = None) -> Any:  # tensors, or what torch.fx puts in their place
        left, right = (m.T if turned else m for m, turned in zip((a, b), swapped, strict=True))
        result = alpha * (left @ right)
        return result if c is None else result + beta * c

    return function(node, product)


def matmul(node: Node) -> nn.Module:
    """A product of matrices; with constant weights on the right a linear layer without bias."""
    if not node.constant[0] and node.constant[1] and node.value(1).ndim == 2:
        return linear(node.value(1).T, None)
    return function(node, torch.matmul)


def _spatial(node: Node, kernel: list[int]) -> dict[str, Any]:
    """Kernel, strides, dilations and pads (beginnings, then ends) of a sliding window."""
    rank = len(kernel)
    if node.attributes.get("kernel_shape", kernel) != kernel:
        raise node.refuse(
            f"must have kernel_shape {kernel}, as its weights, got {node.attributes['kernel_shape']}; "
            "export it again"
        )
    strides: list[int] = node.attributes.get("strides", [1] * rank)
    dilations: list[int] = node.attributes.get("dilations", [1] * rank)
    pads: list[int] = node.attributes.get("pads", [0] * 2 * rank)
    auto = node.attributes["auto_pad"]
    if auto == "VALID":
        pads = [0] * 2 * rank
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        reach = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        sides = node.value(0).shape[2:]
        total = [
            max(0, (math.ceil(side / stride) - 1) * stride + width - side)
            for side, stride, width in zip(sides, strides, reach, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = less + more if auto == "SAME_UPPER" else more + less
    elif auto != "NOTSET":
        raise node.refuse(f"must have a known auto_pad, got {auto}; export it with explicit pads")
    return {"kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads}


def _even(pads: list[int]) -> bool:
    half = len(pads) // 2
    return pads[:half] == pads[half:] and min(pads, default=0) >= 0


def _of_rank(node: Node, kinds: tuple[Callable[..., nn.Module], ...], rank: int) -> Callable[..., nn.Module]:
    if not 1 <= rank <= len(kinds):
        raise node.refuse(f"must work on 1 to {len(kinds)} spatial axes, got {rank}; reshape it")
    return kinds[rank - 1]


def conv(node: Node) -> nn.Module:
    """A convolution; uneven padding goes before it."""
    weight, bias = node.weights(1), node.weights(2)
    if weight is None:
        raise node.refuse("must have weights, but has none; export the network with its weights inside")
    kind = _of_rank(node, _CONV, weight.ndim - 2)
    window = _spatial(node, list(weight.shape[2:]))
    group = node.attributes["group"]
    even = _even(window["pads"])
    layer = kind(
        weight.shape[1] * group,
        weight.shape[0],
        tuple(window["kernel"]),
        stride=tuple(window["strides"]),
        padding=tuple(window["pads"][: weight.ndim - 2]) if even else 0,
        dilation=tuple(window["dilations"]),
        groups=group,
        bias=bias is not None,
        device="meta",
    )
    layer = _holding(layer, weight=weight, bias=bias)
    return layer if even else padded(window["pads"], layer, 0.0)


def conv_transpose(node: Node) -> nn.Module:
    """A transposed convolution with even pads."""
    weight, bias = node.weights(1), node.weights(2)
    if weight is None:
        raise node.refuse("must have weights, but has none; export the network with its weights inside")
    kind = _of_rank(node, _TRANSPOSED, weight.ndim - 2)
    window = _spatial(node, list(weight.shape[2:]))
    node.must("auto_pad", "NOTSET", "VALID")
    if not _even(window["pads"]) or "output_shape" in node.attributes:
        raise node.refuse("must have even pads and no output_shape; export it so")
    group = node.attributes["group"]
    layer = kind(
        weight.shape[0],
        weight.shape[1] * group,
        tuple(window["kernel"]),
        stride=tuple(window["strides"]),
        padding=tuple(window["pads"][: weight.ndim - 2]),
        output_padding=tuple(node.attributes.get("output_padding", [0] * (weight.ndim - 2))),
        dilation=tuple(window["dilations"]),
        groups=group,
        bias=bias is not None,
        device="meta",
    )
    return _holding(layer, weight=weight, bias=bias)


def batch_norm(node: Node) -> nn.Module:
    """Batch normalisation with its kept statistics."""
    node.must("training_mode", 0)
    node.must("spatial", 1)
    node.without_effect("momentum")  # of training
    tensors = [node.weights(index) for index in range(1, 5)]
    if any(tensor is None for tensor in tensors):
        raise node.refuse("must have scale, offset, mean and variance; export the network for inference")
    scale, offset, mean, variance = tensors
    kind = _of_rank(node, _NORM, node.value(0).ndim - 1)
    layer = kind(len(node.value(1)), eps=node.attributes["epsilon"])
    layer.register_buffer("running_mean", mean)
    layer.register_buffer("running_var", variance)
    return _holding(layer, weight=scale, bias=offset)


def _rounded_up(node: Node, window: dict[str, Any]) -> bool:
    """Whether rounding the output's size up adds a window."""
    if not node.attributes.get("ceil_mode"):
        return False
    half = len(window["kernel"])
    for axis, side in enumerate(node.value(0).shape[2:]):
        reach = window["dilations"][axis] * (window["kernel"][axis] - 1) + 1
        room = side + window["pads"][axis] + window["pads"][axis + half] - reach
        if room % window["strides"][axis]:
            return True
    return False


def max_pool(node: Node) -> nn.Module:
    """The largest entry of each window; padding that torch does not know goes before it."""
    if node.outputs > 1:
        raise node.refuse(
            "must put out values only, but its indices are used; export the network without them"
        )
    node.must("storage_order", 0)
    window = _spatial(node, node.attributes["kernel_shape"])
    kind = _of_rank(node, _MAX, len(window["kernel"]))
    inside = all(2 * pad <= size for pad, size in zip(window["pads"], window["kernel"] * 2, strict=True))
    even = _even(window["pads"]) and inside
    layer = kind(
        tuple(window["kernel"]),
        stride=tuple(window["strides"]),
        padding=tuple(window["pads"][: len(window["kernel"])]) if even else 0,
        dilation=tuple(window["dilations"]),
        ceil_mode=_rounded_up(node, window),
    )
    return layer if even else padded(window["pads"], layer, -math.inf)


def average_pool(node: Node) -> nn.Module:
    """The mean of each window."""
    window = _spatial(node, node.attributes["kernel_shape"])
    kind = _of_rank(node, _MEAN, len(window["kernel"]))
    counted = bool(node.attributes.get("count_include_pad"))
    inside = all(2 * pad <= size for pad, size in zip(window["pads"], window["kernel"] * 2, strict=True))
    even = _even(window["pads"]) and inside
    if set(window["dilations"]) != {1} or _rounded_up(node, window) or not (even or counted):
        raise node.refuse(
            "must have dilations 1, sizes rounded down, and even pads or count_include_pad 1; export it so"
        )
    layer = kind(
        tuple(window["kernel"]),
        stride=tuple(window["strides"]),
        padding=tuple(window["pads"][: len(window["kernel"])]) if even else 0,
        count_include_pad=counted,
    )
    return layer if even else padded(window["pads"], layer, 0.0)


def global_pool(node: Node, reduce: Callable[..., Tensor]) -> nn.Module:
    """A reduction over all spatial axes, which stay with length 1."""
    axes = tuple(range(2, node.value(0).ndim))
    return Function(node.op, partial(reduce, dim=axes, keepdim=True), (None,))


def gelu(node: Node) -> nn.Module:
    """GELU, exact or by tanh."""
    return nn.GELU(approximate=node.attributes["approximate"])


def softmax(node: Node, kind: Callable[..., nn.Module]) -> nn.Module:
    """Softmax or its log; before opset 13 over all axes from one on."""
    rank = node.value(0).ndim
    (axis,) = node.axes([node.attributes["axis"]], rank)
    if node.opset < 13 and axis != rank - 1:
        raise node.refuse(f"must work along the last axis, got axis {axis}; export it with opset 13 or later")
    return kind(dim=axis)


def leaky(node: Node) -> nn.Module:
    """Leaky ReLU."""
    return nn.LeakyReLU(node.attributes["alpha"])


def selu(node: Node) -> nn.Module:
    """``gamma (max(x, 0) + alpha (exp(min(x, 0)) - 1))``."""
    gamma = torch.tensor(node.attributes["gamma"], dtype=node.value(0).dtype)
    return nn.Sequential(nn.ELU(node.attributes["alpha"]), Function("Mul", operator.mul, (None, gamma)))


LAYERS: dict[str, Callable[[Node], nn.Module]] = {
    "Gemm": gemm,
    "MatMul": matmul,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "BatchNormalization": batch_norm,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": partial(global_pool, reduce=torch.mean),
    "GlobalMaxPool": partial(global_pool, reduce=torch.amax),
    "Relu": lambda node: nn.ReLU(),
    "LeakyRelu": leaky,
    "Sigmoid": lambda node: nn.Sigmoid(),
    "Tanh": lambda node: nn.Tanh(),
    "Softplus": lambda node: nn.Softplus(threshold=_EXACT),
    "Elu": lambda node: nn.ELU(node.attributes["alpha"]),
    "Selu": selu,
    "Gelu": gelu,
    "Softmax": partial(softmax, kind=nn.Softmax),
    "LogSoftmax": partial(softmax, kind=nn.LogSoftmax),
}
