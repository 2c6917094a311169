"""A network read from ONNX held against the reference evaluator of the ``onnx`` package, first whole, then
node by node.

The two compute in floating point in different orders, so outputs may differ by rounding: by a small share of
their size, and by a multiple of what the network's own outputs move when it is computed in float64, or when
its inputs and weights move by a unit of rounding (large terms that cancel leave a small output with their rounding). A larger
difference, or one being finite and the other not, means that the network read is not the file's, and it is
refused by the first node that differs.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.errors import InputError

LARGE = 2**22  # weights, from which on fewer points are compared
# Random points and their size: within the usual range of inputs, on both sides of 0, at 0, and where
# exponentials overflow.
POINTS = (
    (1.0, "uniform"),
    (3.0, "normal"),
    (100.0, "normal"),
    (0.0, "normal"),
    (-1.0, "uniform"),
    (1.0, "normal"),
    (1e4, "normal"),
)
FEW = 3  # points of a large network
ROUNDINGS = 64  # differences between float32 and float64 that are rounding
SHAKES = 4  # times that inputs and weights are moved by a unit of rounding
SHARE = 1e3  # units of rounding of an output, and this share of them of the largest output of an example
OF_LARGEST = 0.01


@dataclass(frozen=True, kw_only=True)
class Step:
    """One node and what it became: a module for each output that is used.

    Attributes:
        entry: of the file.
        label: how errors call it.
        modules: by name of output.
        live: names of the inputs that depend on the network's input, in order.
        unsure: why the reference evaluator is known to be wrong about the node; empty where it is not.
    """

    entry: Any
    label: str
    modules: dict[str, nn.Module]
    live: tuple[str, ...]
    unsure: str = ""


def compared(
    onnx: Any,
    model: Any,
    network: nn.Module,
    steps: Sequence[Step],
    values: dict[str, Tensor],
    source: str,
) -> tuple[str, ...]:
    """Compare outputs at several points; what could not be compared, in words.

    Args:
        network: what is handed out, made of the steps.
        values: of every name at the probe; those of constants hold at every point.
        source: name of the input.

    Raises:
        InputError: a node's outputs differ from the reference evaluator's.
    """
    output, notes = model.graph.output[0].name, list[str]()
    constants = {name: value for name, value in values.items() if not _made_by(steps, source, name)}
    whole = _Reference(onnx, model)
    for points in _batches(values[source], sum(value.numel() for value in constants.values())):
        ours = _run(network, [points])
        theirs = whole.run({source: points}, [output])
        if theirs is not None and agree(ours, _rows(theirs[0], ours), network, [points]):
            continue
        found = _node_by_node(onnx, model, steps, constants | {source: points}, notes)
        if not agree(ours, _rows(found[output], ours), network, [points]):
            raise InputError(
                "the network assembled from the ONNX file must compute what its nodes do, but does not; "
                "please report the file, and export it with another exporter."
            )
    return tuple(dict.fromkeys(notes))


def _made_by(steps: Sequence[Step], source: str, name: str) -> bool:
    return name == source or any(name in step.modules for step in steps)


def _batches(probe: Tensor, weights: int) -> Iterator[Tensor]:
    """The points, in batches of the probe's shape; the last is filled up from the front."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for size, kind in POINTS[: FEW if weights >= LARGE else None]:
        draw = torch.rand if kind == "uniform" else torch.randn
        rows.append(size * draw(probe.shape[1:], dtype=probe.dtype, generator=generator))
    batch = len(probe)
    for start in range(0, len(rows), batch):
        yield torch.stack([rows[(start + place) % len(rows)] for place in range(batch)])


class _Reference:
    """The evaluator of a model, or of one node alone."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self.why = ""
        try:
            self._evaluator = onnx.reference.ReferenceEvaluator(model)
        except Exception as error:  # an operation that it lacks; it says so in many ways
            self._evaluator, self.why = None, _first_line(error)

    def run(self, feeds: dict[str, Tensor], names: Sequence[str]) -> list[Tensor] | None:
        """Outputs by name, or ``None`` with the reason in ``why``."""
        if self._evaluator is None:
            return None
        try:
            with np.errstate(all="ignore"):
                found = self._evaluator.run(
                    list(names), {name: value.numpy() for name, value in feeds.items()}
                )
            return [torch.from_numpy(np.array(value)) for value in found]
        except Exception as error:
            self.why = _first_line(error)
            return None


def alone(onnx: Any, model: Any, entry: Any, feeds: dict[str, Tensor], names: Sequence[str]) -> _Reference:
    """The evaluator of one node with these inputs and outputs."""
    helper = onnx.helper
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.numpy().dtype), value.shape)
        for name, value in feeds.items()
    ]
    graph = helper.make_graph([entry], "alone", inputs, [onnx.ValueInfoProto(name=name) for name in names])
    return _Reference(
        onnx, helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(*inputs)
    return found


def _rows(found: Tensor, like: Tensor) -> Tensor:
    """Outputs of the file in the shape of the network's, which are rows of numbers."""
    return found.reshape(like.shape) if found.numel() == like.numel() else found


def agree(ours: Tensor, theirs: Tensor, module: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Whether two results of a module are the same up to rounding; axes of length 1 may be more or fewer."""
    if [side for side in ours.shape if side != 1] != [side for side in theirs.shape if side != 1]:
        return False
    if ours.dtype.is_floating_point != theirs.dtype.is_floating_point:
        return False
    if not ours.dtype.is_floating_point:
        return bool((ours.flatten() == theirs.flatten()).all())
    unit = torch.finfo(ours.dtype).eps
    one, other = (value.double().reshape(ours.shape) for value in (ours, theirs))
    if not bool(((one == other) | (one.isfinite() & other.isfinite()) | (one.isnan() & other.isnan())).all()):
        return False
    gap = torch.where(one == other, 0.0, (one - other).abs()).nan_to_num()
    size = torch.where(other.isfinite(), other.abs(), 0.0)
    allowed = SHARE * unit * (size + OF_LARGEST * _largest(size))
    if bool((gap <= allowed).all()):
        return True
    wide = [value.double() if value.is_floating_point() else value for value in inputs]
    widened = copy.deepcopy(module).double()
    exact = _run(widened, wide).reshape(ours.shape)
    others = [one]
    for seed in range(SHAKES):
        draw, moving = torch.Generator().manual_seed(seed), copy.deepcopy(widened)
        with torch.no_grad():
            for weights in moving.parameters():
                weights.copy_(_shaken(weights, unit, draw))
        others.append(_run(moving, [_shaken(value, unit, draw) for value in wide]).reshape(ours.shape))
    moved = torch.zeros_like(one)
    for value in others:
        moved = torch.maximum(
            moved, torch.where(value.isfinite() & exact.isfinite(), (value - exact).abs(), 0.0)
        )
    return bool((gap <= allowed + ROUNDINGS * _largest(moved)).all())


def _shaken(value: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    """Numbers moved by a unit of rounding each, up or down."""
    if not value.is_floating_point():
        return value
    signs = 2 * torch.randint(0, 2, value.shape, generator=generator) - 1
    return value * (1 + unit * signs.to(value.dtype))


def _largest(sizes: Tensor) -> Tensor:
    """The largest of each example, to be broadcast."""
    return sizes.flatten(1).amax(1).reshape(-1, *([1] * (sizes.ndim - 1))) if sizes.ndim > 1 else sizes


def _node_by_node(
    onnx: Any, model: Any, steps: Sequence[Step], values: dict[str, Tensor], notes: list[str]
) -> dict[str, Tensor]:
    """Run each node on the values so far and hold it against the reference on the same ones; all values,
    if none differs.
    """
    for step in steps:
        live = [values[name] for name in step.live]
        made = {name: _run(module, live) for name, module in step.modules.items()}
        feeds = {name: values[name] for name in step.entry.input if name}
        reference = alone(onnx, model, step.entry, feeds, list(made))
        theirs = None if step.unsure else reference.run(feeds, list(made))
        if theirs is None:
            notes.append(
                f"node {step.label} was not compared with the reference evaluator: "
                f"{step.unsure or reference.why}"
            )
        for (name, ours), other in zip(made.items(), theirs or [], strict=False):
            one, two = ours, other
            if (
                step.entry.op_type == "LogSoftmax"
            ):  # the evaluator's is the log of a softmax that may be too small for its type
                one, two = one.exp(), two.exp()
            if not agree(one, two, step.modules[name], live):
                raise InputError(
                    f"ONNX node {step.label} must compute what the reference evaluator of the onnx package "
                    f"does, but {_far(ours, other)}; export it with other operations."
                )
        values = values | made
    return values


def _far(ours: Tensor, theirs: Tensor) -> str:
    if ours.numel() != theirs.numel():
        return f"has shape {tuple(ours.shape)} where that has {tuple(theirs.shape)}"
    one, other = (value.double().flatten() for value in (ours, theirs))
    same = (one == other) | (one.isnan() & other.isnan())
    gap = torch.where(same, 0.0, (one - other).abs().nan_to_num(torch.inf, torch.inf))
    where = int(gap.argmax())
    return f"is {float(one[where]):.6g} where that is {float(other[where]):.6g}"


def unsure_of(op: str, attributes: Mapping[str, Any]) -> str:
    """Why the reference evaluator (onnx 1.23) is known to be wrong about a node; empty where it is not."""
    if op != "MaxPool":
        return ""
    pads = attributes.get("pads") or [0]
    uneven = len(set(pads)) > 1 or (attributes.get("ceil_mode") and any(pads))
    same = str(attributes.get("auto_pad")).startswith("SAME")
    return "it misreads padding of MaxPool that is not the same on all sides" if uneven or same else ""
