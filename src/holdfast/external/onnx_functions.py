"""ONNX nodes that are functions of torch: arithmetic, reductions, and changes of shape that keep the batch first."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.external.onnx_node import Function, Node, function

Translated = nn.Module | Sequence[nn.Module]


def _unary(made: Callable[..., Tensor]) -> Callable[[Node], nn.Module]:
    return lambda node: Function(node.op, made, (None,))


def _binary(made: Callable[..., Tensor]) -> Callable[[Node], nn.Module]:
    return lambda node: function(node, made, 2)


def _many(made: Callable[..., Tensor]) -> Callable[[Node], nn.Module]:
    return lambda node: function(node, lambda *values: reduce(made, values))


def reshaped(node: Node, shape: Sequence[int]) -> nn.Module:
    """The numbers of each example in another shape; ``shape`` is that of the whole probe batch."""
    source = node.value(0).shape
    if len(shape) < 2 or shape[0] != source[0] or source[0] != node.batch:
        raise node.refuse(
            f"must keep axis 0, which is the batch, but takes shape {tuple(source)} to {tuple(shape)};"
            " export the network with a batch axis"
        )
    if len(shape) == 2:
        return nn.Flatten()
    rest = tuple(int(side) for side in shape[1:])
    return Function(f"{node.op} to {rest}", lambda x: torch.reshape(x, (-1, *rest)), (None,))


def reshape(node: Node) -> nn.Module:
    """Reshape: 0 keeps an axis (unless ``allowzero``), -1 is what is left."""
    value = node.value(0)
    wanted = [int(side) for side in node.given("shape", 1, 5) or []]
    if not node.attributes.get("allowzero", 0):
        wanted = [value.shape[axis] if side == 0 else side for axis, side in enumerate(wanted)]
    if -1 in wanted:
        known = math.prod(side for side in wanted if side != -1)
        wanted[wanted.index(-1)] = value.numel() // max(1, known)
    return reshaped(node, wanted)


def flatten(node: Node) -> nn.Module:
    """Flatten to two axes."""
    shape = node.value(0).shape
    axis = node.attributes.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return reshaped(node, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def squeeze(node: Node) -> nn.Module:
    """Drop axes of length 1."""
    shape = node.value(0).shape
    axes = node.given("axes", 1, 13)
    if axes is None:
        axes = [axis for axis in range(1, len(shape)) if shape[axis] == 1]
    gone = {axis % len(shape) for axis in axes}
    return reshaped(node, [side for axis, side in enumerate(shape) if axis not in gone])


def unsqueeze(node: Node) -> nn.Module:
    """Put in axes of length 1."""
    shape = list(node.value(0).shape)
    axes = node.given("axes", 1, 13) or []
    rank = len(shape) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    return reshaped(node, shape)


def transpose(node: Node) -> nn.Module:
    """Axes in another order."""
    rank = node.value(0).ndim
    order = tuple(node.attributes.get("perm", range(rank - 1, -1, -1)))
    if order[0] != 0:
        raise node.refuse(f"must leave axis 0, the batch, in front, got perm {order}; export it so")
    return Function(node.op, partial(torch.permute, dims=order), (None,))


def concat(node: Node) -> nn.Module:
    """Tensors one after the other; constants are repeated for every example."""
    (axis,) = node.axes(
        [node.attributes["axis"]], max(value.ndim for value in node.inputs if value is not None)
    )
    live = node.constant.index(False)
    tails = [tuple(node.value(place).shape[1:]) for place in range(len(node.inputs))]

    def joined(*values: Any) -> Any:  # tensors, or what torch.fx puts in their place
        rows = values[live].shape[0]
        parts = [
            value.expand(rows, *tail) if fixed else value
            for value, tail, fixed in zip(values, tails, node.constant, strict=True)
        ]
        return torch.cat(parts, axis)

    if any(fixed and len(node.value(place)) != 1 for place, fixed in enumerate(node.constant)):
        raise node.refuse("must join constants of one example, got one for several; export it so")
    return function(node, joined)


def split(node: Node) -> list[nn.Module]:
    """Pieces along an axis, each a module of its own."""
    (axis,) = node.axes([node.attributes.get("axis", 0)], node.value(0).ndim)
    sizes = node.given("split", 1, 13)
    if sizes is None:
        side, count = node.value(0).shape[axis], node.attributes.get("num_outputs", node.outputs)
        size = math.ceil(side / count)
        sizes = [min(size, side - start) for start in range(0, side, size)]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [
        Function(node.op, partial(torch.narrow, dim=axis, start=start, length=size), (None,))
        for start, size in zip(starts, sizes, strict=True)
    ]


def slice_(node: Node) -> nn.Module:
    """Steps along some axes."""
    starts, ends = node.given("starts", 1, 10) or [], node.given("ends", 2, 10) or []
    rank = node.value(0).ndim
    axes = node.axes(node.given("axes", 3, 10) or list(range(len(starts))), rank)
    steps = (node.given("steps", 4, 10) if node.opset >= 10 else None) or [1] * len(starts)
    if min(steps, default=1) < 1:
        raise node.refuse(f"must have steps of at least 1, got {min(steps)}; export it with a gather instead")
    index = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return Function(node.op, lambda x: x[tuple(index)], (None,))


def gather(node: Node) -> nn.Module:
    """Constant places along an axis."""
    (axis,) = node.axes([node.attributes.get("axis", 0)], node.value(0).ndim)
    places = node.weights(1)
    if places is None or places.ndim > 1 or node.constant[0]:
        raise node.refuse(
            "must gather from computed values at constant places, a number or a list; export it so"
        )
    places = places % node.value(0).shape[axis]
    if places.ndim == 0:
        return Function(node.op, partial(torch.select, dim=axis, index=int(places)), (None,))
    return Function(node.op, lambda x, where: torch.index_select(x, axis, where), (None, places))


def pad(node: Node) -> nn.Module:
    """Constant padding on any axis but the batch."""
    node.must("mode", "constant", "constant")
    rank = node.value(0).ndim
    pads = node.given("pads", 1, 11) or []
    axes = node.given("axes", 3, 18) if node.opset >= 18 else None
    places = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    around = [0] * 2 * rank  # torch: from the last axis on, beginning and end of each
    for place, axis in enumerate(places):
        around[2 * (rank - 1 - axis)] = pads[place]
        around[2 * (rank - 1 - axis) + 1] = pads[place + len(places)]
    if around[-2:] != [0, 0]:
        raise node.refuse("must leave axis 0 alone, which is the batch, but pads it; export it so")
    fill = node.number("value", 2, 11) or 0.0
    edges = around[:-2]
    return Function(node.op, lambda x: torch.nn.functional.pad(x, edges, value=fill), (None,))


def clip(node: Node) -> nn.Module:
    """Values kept between two numbers."""
    low, high = node.number("min", 1, 11), node.number("max", 2, 11)
    if low is None and high is None:
        return nn.Identity()
    return Function(node.op, partial(torch.clamp, min=low, max=high), (None,))


def reduction(node: Node, made: Callable[..., Tensor], since: int) -> nn.Module:
    """A sum, mean or the like over some axes."""
    axes = node.given("axes", 1, since)
    if not axes and node.attributes.get("noop_with_empty_axes", 0):
        return nn.Identity()
    over = node.axes(axes or None, node.value(0).ndim)
    kept = bool(node.attributes.get("keepdims", 1))
    return Function(node.op, partial(made, dim=over, keepdim=kept), (None,))


def prelu(node: Node) -> nn.Module:
    """``max(x, 0) + slope min(x, 0)``; the slope broadcasts to the input."""
    node.weights(1)
    return function(node, lambda x, slope: torch.relu(x) - slope * torch.relu(-x), 2)


def power(node: Node) -> nn.Module:
    """A power; one constant exponent stays a number, since squares have bounds of their own."""
    exponent = node.value(1)
    if node.constant[1] and exponent.numel() == 1:
        return Function(node.op, partial(torch.pow, exponent=float(exponent)), (None,))
    return function(node, torch.pow)


def cast(node: Node) -> nn.Module:
    """Between floating-point types: nothing, since a network has one type here."""
    if node.attributes["to"] not in (1, 10, 11, 16):  # float, float16, double, bfloat16
        raise node.refuse("must cast to a floating-point type; export the network without whole numbers")
    return nn.Identity()


def _same(node: Node) -> nn.Module:
    return nn.Identity()


FUNCTIONS: dict[str, Callable[[Node], Translated]] = {
    "Add": _binary(operator.add),
    "Sub": _binary(operator.sub),
    "Mul": _binary(operator.mul),
    "Div": _binary(operator.truediv),
    "Pow": power,
    "Sum": _many(operator.add),
    "Max": _many(torch.maximum),
    "Min": _many(torch.minimum),
    "Neg": _unary(torch.neg),
    "Abs": _unary(torch.abs),
    "Exp": _unary(torch.exp),
    "Log": _unary(torch.log),
    "Sqrt": _unary(torch.sqrt),
    "Erf": _unary(torch.erf),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Cos": _unary(torch.cos),
    "Greater": _binary(torch.gt),
    "Less": _binary(torch.lt),
    "Where": lambda node: function(node, torch.where),
    "Clip": clip,
    "PRelu": prelu,
    "ReduceSum": partial(reduction, made=torch.sum, since=13),
    "ReduceMean": partial(reduction, made=torch.mean, since=18),
    "ReduceMax": partial(reduction, made=torch.amax, since=18),
    "ReduceMin": partial(reduction, made=torch.amin, since=18),
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "Cast": cast,
    "Identity": _same,
    "Dropout": _same,
}
