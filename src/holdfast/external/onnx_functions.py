"""ONNX nodes that are functions of torch: arithmetic, reductions, and changes of shape that keep the batch
first.
"""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.external.onnx_node import Function, Node, function

_FLOATS = {
    1: torch.float32,
    10: torch.float32,
    11: torch.float64,
    16: torch.float32,
}  # float, float16, double, bfloat16
_BOOL = 9
_LARGEST = torch.finfo(torch.float32).max
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
            f"must keep axis 0, which is the batch, but takes shape {tuple(source)} to {tuple(shape)}; "
            "export the network with a batch axis"
        )
    if len(shape) == 2:
        return nn.Flatten()
    rest = tuple(int(side) for side in shape[1:])
    return Function(f"{node.op} to {rest}", lambda x: torch.reshape(x, (-1, *rest)), (None,))


def reshape(node: Node) -> nn.Module:
    """Reshape: 0 keeps an axis (unless ``allowzero``), -1 is what is left."""
    value = node.value(0)
    wanted = [int(side) for side in node.given("shape", 1, 5) or []]
    if not node.attributes.get("allowzero"):
        wanted = [value.shape[axis] if side == 0 else side for axis, side in enumerate(wanted)]
    if -1 in wanted:
        known = math.prod(side for side in wanted if side != -1)
        wanted[wanted.index(-1)] = value.numel() // max(1, known)
    return reshaped(node, wanted)


def flatten(node: Node) -> nn.Module:
    """Flatten to two axes."""
    shape = node.value(0).shape
    axis = node.attributes["axis"]
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
            value[:1].expand(rows, *tail) if fixed else value
            for value, tail, fixed in zip(values, tails, node.constant, strict=True)
        ]
        return torch.cat(parts, axis)

    # a constant that the file makes from the number of examples has the probe's, all of them alike
    fixed = [node.value(place) for place, is_fixed in enumerate(node.constant) if is_fixed]
    if any(len(value) not in (1, node.batch) or bool((value != value[:1]).any()) for value in fixed):
        raise node.refuse("must join constants of one example, got one for several; export it so")
    return function(node, joined)


def split(node: Node) -> list[nn.Module]:
    """Pieces along an axis, each a module of its own."""
    (axis,) = node.axes([node.attributes["axis"]], node.value(0).ndim)
    sizes, count = node.given("split", 1, 13), node.attributes.get("num_outputs", node.declared)
    if sizes is None:
        side = node.value(0).shape[axis]
        size = math.ceil(side / count)
        sizes = [min(size, side - start) for start in range(0, side, size)]
    if len(sizes) != node.declared or sum(sizes) != node.value(0).shape[axis]:
        raise node.refuse(
            f"must have a piece an output and use the whole axis, got pieces {sizes}; export it again"
        )
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
    (axis,) = node.axes([node.attributes["axis"]], node.value(0).ndim)
    places = node.weights(1)
    if places is None or places.ndim > 1 or node.constant[0]:
        raise node.refuse(
            "must gather from computed values at constant places, a number or a list; export it so"
        )
    side = node.value(0).shape[axis]
    if bool(((places < -side) | (places >= side)).any()):
        raise node.refuse(f"must gather from places within the axis of {side}; export it again")
    places = places % side
    if places.ndim == 0:
        return Function(node.op, partial(torch.select, dim=axis, index=int(places)), (None,))
    return Function(node.op, lambda x, where: torch.index_select(x, axis, where), (None, places))


def pad(node: Node) -> nn.Module:
    """Constant padding on any axis but the batch."""
    node.must("mode", "constant")
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
    low, high = (  # the defaults before opset 11 are the ends of float32
        None if edge is None or abs(edge) >= _LARGEST else edge for edge in (low, high)
    )
    if low is None and high is None:
        return nn.Identity()
    return Function(node.op, partial(torch.clamp, min=low, max=high), (None,))


def reduction(node: Node, made: Callable[..., Tensor], since: int) -> nn.Module:
    """A sum, mean or the like over some axes."""
    axes, kept = node.given("axes", 1, since), bool(node.attributes["keepdims"])
    if node.attributes.get("noop_with_empty_axes") and not axes:
        return nn.Identity()
    over = node.axes(axes or None, node.value(0).ndim)
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
    """Between numbers of floating point nothing, since a network has one type here; truth values become 0
    and 1, numbers whether they are not 0.
    """
    value, kind = node.value(0), node.attributes["to"]
    node.without_effect("saturate", "round_mode")  # of 8-bit numbers
    if kind not in (*_FLOATS, _BOOL):
        raise node.refuse(
            "must cast to a floating-point type or to bool; export the network without whole numbers"
        )
    if value.dtype == torch.bool:
        return nn.Identity() if kind == _BOOL else Truth(_FLOATS[kind])
    return Function(node.op, lambda x: x != 0, (None,)) if kind == _BOOL else nn.Identity()


class Truth(nn.Module):
    """Truth values as 0 and 1 of the network's floating-point type."""

    one: Tensor
    zero: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones((), dtype=dtype))
        self.register_buffer("zero", torch.zeros((), dtype=dtype))

    def forward(self, x: Any) -> Any:  # tensors, or what torch.fx puts in their place
        return torch.where(x, self.one, self.zero)


def dropout(node: Node) -> nn.Module:
    """Nothing, in inference."""
    node.without_effect("ratio", "seed")
    node.optional(1)
    training = node.weights(2)
    if training is not None and bool(training.any()):
        raise node.refuse("must have training_mode false, got true; export the network for inference")
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
    "Dropout": dropout,
}
