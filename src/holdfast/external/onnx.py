"""ONNX files as modules of torch: plain layers and functions, in float32 or float64, for any number of examples.

The graph is run once on a probe batch, so that shapes are known; each node then becomes a layer. What does not depend on the input
is computed beforehand by the reference evaluator of the ``onnx`` package. Reading executes no code from the file.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import HoldfastError, InputError
from holdfast.external.onnx_functions import FUNCTIONS
from holdfast.external.onnx_graph import assembled, ends_in_softmax, mixes_rows
from holdfast.external.onnx_layers import LAYERS
from holdfast.external.onnx_node import Function, Layer, Node

TRANSLATIONS = {**LAYERS, **FUNCTIONS}
OLDEST = 7  # opset from which arithmetic broadcasts as it does today
_ROWS = 3  # of the probe where the file leaves the batch open: unlike most lengths, so that it shows where it is written out
_SHAPES = {"Shape", "Size"}  # known once the probe's shape is


@dataclass(frozen=True, kw_only=True)
class ImportedNetwork:
    """A network read from a file.

    Attributes:
        network: takes (batch, *input_shape) and returns (batch, outputs); in evaluation mode.
        input_shape: of one example.
        outputs: numbers in one output.
        ends_in_softmax: whether outputs are probabilities; the softmax is kept.
    """

    network: nn.Module
    input_shape: tuple[int, ...]
    outputs: int
    ends_in_softmax: bool


def load_onnx(path: str | Path) -> ImportedNetwork:
    """The network in an ONNX file (``.onnx``, also gzipped), opset 7 or later, with one input whose first axis is the batch.

    Read are Gemm, MatMul, Conv, ConvTranspose, BatchNormalization, max and average pooling, the usual activations, arithmetic,
    reductions and changes of shape. Weights are parameters with the file's own numbers (half precision is widened to float32),
    so ``.double()`` gives the network as a function of real numbers. A batch of fixed size in the file is made free.

    Raises:
        InputError: ``onnx`` is not installed; the file is missing, cut short or not ONNX; a node that is not read (its
            name and operation are told); more than one input or output; outputs of an example that depend on others.
    """
    path = Path(path)
    onnx = _package()
    model, constants = _read(onnx, path)
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST:
        raise InputError(
            f"{path} must use ONNX opset {OLDEST} or later, got {opset}; convert it with onnx.version_converter."
        )
    source, probe = _probe(onnx, graph, path)
    if len(graph.output) != 1:
        raise InputError(
            f"{path} must have one output, got {len(graph.output)}; export the network with its logits alone."
        )
    layers, output, last = _translated(onnx, model, constants | {source: probe}, source, opset)
    if last.ndim != 2:
        module = nn.Flatten() if last.ndim > 2 else Function("Unsqueeze", lambda x: x[:, None], (None,))
        layers.append(Layer(name=f"{len(layers)}_outputs", module=module, sources=(output,)))
        output = len(layers)
    network = assembled(layers, output).eval()
    shape = tuple(probe.shape[1:])
    if mixes_rows(network, _random((2, *shape), probe.dtype)):
        raise InputError(
            f"{path} must treat each example alone, but outputs change with the number of examples; export it with a batch"
            " axis in front that no operation touches."
        )
    return ImportedNetwork(
        network=network,
        input_shape=shape,
        outputs=last[0].numel(),
        ends_in_softmax=ends_in_softmax(network),
    )


def _package() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.inliner
        import onnx.reference
    except ImportError as error:
        raise InputError(
            f"reading ONNX needs the onnx package, which is not there ({error}); run pip install 'holdfast[onnx]'."
        ) from error
    return onnx


def _read(onnx: Any, path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The checked model, without functions of its own, and its weights by name."""
    if not path.is_file():
        raise InputError(f"{path} must be an ONNX file, but there is none; check the path.")
    try:
        if _is_gzipped(path):
            model = onnx.load_model_from_string(gzip.decompress(path.read_bytes()))
            onnx.checker.check_model(model)
        else:
            model = onnx.load_model(str(path))  # with weights in files beside it, if any
            onnx.checker.check_model(str(path))  # by its path: a message in memory may have at most 2 GB
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
        return model, {tensor.name: _tensor(onnx, tensor) for tensor in model.graph.initializer}
    except Exception as error:  # what damaged files raise in protobuf, onnx, numpy and gzip is of many kinds
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} must be a whole ONNX file with its weights, but it cannot be read ({why}); export or copy it again."
        ) from error


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _probe(onnx: Any, graph: Any, path: Path) -> tuple[str, Tensor]:
    """The input's name and a probe batch for it."""
    kept = {tensor.name for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in kept]
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs) or "none"
        raise InputError(f"{path} must have one input, got {names}; export the network with one.")
    kind = inputs[0].type.tensor_type
    floats = {1: torch.float32, 10: torch.float32, 11: torch.float64, 16: torch.float32}
    sides = [side.dim_value if side.HasField("dim_value") else 0 for side in kind.shape.dim]
    if kind.elem_type not in floats or len(sides) < 2 or min(sides[1:]) < 1:
        shown = [side or "?" for side in sides]
        name = {number: name for name, number in onnx.TensorProto.DataType.items()}.get(kind.elem_type)
        raise InputError(
            f"{path} must take floating-point examples of fixed shape with the batch as first axis, got {name} {shown};"
            " export it so."
        )
    try:
        return inputs[0].name, _random((sides[0] or _ROWS, *sides[1:]), floats[kind.elem_type])
    except RuntimeError as error:  # no room, or a negative number of rows
        raise InputError(
            f"{path} must take examples that fit into memory, got shape {sides}; export it again."
        ) from error


def _random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def _translated(
    onnx: Any, model: Any, values: dict[str, Tensor], source: str, opset: int
) -> tuple[list[Layer], int, Tensor]:
    """All layers, the number of the output and its probe value."""
    graph, batch = model.graph, len(values[source])
    numbers, layers = {source: 0}, list[Layer]()
    wanted = {name for entry in graph.node for name in entry.input} | {graph.output[0].name}
    for entry in graph.node:
        node = _node(onnx, entry, values, numbers, wanted, opset, batch)
        if node.op in _SHAPES and entry.domain in ("", "ai.onnx"):
            values[entry.output[0]] = _shape(node)
            continue
        if all(node.constant):
            values.update(_folded(onnx, model, entry, values, node))
            continue
        modules = _modules(entry, node)
        live = [name for name, fixed in zip(entry.input, node.constant, strict=False) if not fixed]
        for name, module in zip(entry.output, modules, strict=False):
            try:
                with torch.no_grad():
                    values[name] = module.eval()(*[values[part] for part in live])
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                shapes = [tuple(values[part].shape) for part in live]
                raise node.refuse(f"cannot be run on shapes {shapes} ({error}); export it again") from error
            layers.append(
                Layer(
                    name=f"{len(layers)}_{node.op}",
                    module=module,
                    sources=tuple(numbers[part] for part in live),
                )
            )
            numbers[name] = len(layers)
    output = graph.output[0].name
    if output not in numbers:
        raise InputError(
            "the ONNX graph must compute its output from its input, but does not; export it again."
        )
    return layers, numbers[output], values[output]


def _node(
    onnx: Any,
    entry: Any,
    values: dict[str, Tensor],
    numbers: dict[str, int],
    wanted: set[str],
    opset: int,
    batch: int,
) -> Node:
    label = f"{entry.name or entry.output[0]} ({entry.op_type})"
    names = list(entry.input)
    while names and not names[-1]:  # an optional input left out by an empty name
        names.pop()
    missing = [name for name in names if name and name not in values]
    if missing:
        raise InputError(
            f"ONNX node {label} must have its inputs, but {missing[0]} is not computed; export it again."
        )
    try:
        attributes = {entry.name: _attribute(onnx, entry) for entry in entry.attribute}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"ONNX node {label} must have attributes that can be read, but one cannot ({error}); export it again."
        ) from error
    return Node(
        op=entry.op_type,
        label=label,
        opset=opset,
        attributes=attributes,
        inputs=tuple(values[name] if name else None for name in names),
        constant=tuple(name not in numbers for name in names),
        outputs=sum(name in wanted for name in entry.output if name),
        batch=batch,
    )


def _modules(entry: Any, node: Node) -> list[nn.Module]:
    translation = TRANSLATIONS.get(node.op) if entry.domain in ("", "ai.onnx") else None
    if translation is None:
        raise node.refuse(
            "must be an operation that is read here, but it is not; export the network with "
            f"{', '.join(sorted(TRANSLATIONS))}"
        )
    try:
        made = translation(node)
    except HoldfastError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, RuntimeError, ArithmeticError) as error:
        raise node.refuse(
            f"must have attributes that fit its inputs, but has not ({error}); export it again"
        ) from error
    modules = [made] if isinstance(made, nn.Module) else list(made)
    if node.outputs > len(modules):
        raise node.refuse("must put out one value, but more are used; export the network for inference")
    return modules


def _shape(node: Node) -> Tensor:
    shape = torch.tensor(node.value(0).shape, dtype=torch.int64)
    if node.op == "Size":
        return shape.prod()
    end = node.attributes.get("end")
    return shape[node.attributes.get("start", 0) : len(shape) if end is None else end]


def _folded(onnx: Any, model: Any, entry: Any, values: dict[str, Tensor], node: Node) -> dict[str, Tensor]:
    """The outputs of a node without live inputs."""
    helper = onnx.helper
    feeds = {name: values[name].numpy() for name in entry.input if name}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in entry.output if name]
    graph = helper.make_graph([entry], "constant", inputs, outputs)
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        results = onnx.reference.ReferenceEvaluator(alone).run(None, feeds)
    except Exception as error:  # whatever the operation raises, it is the same to the user
        raise node.refuse(f"must be computable beforehand, but is not ({error}); export it again") from error
    return {info.name: _widened(result) for info, result in zip(outputs, results, strict=True)}


def _tensor(onnx: Any, proto: Any) -> Tensor:
    return _widened(onnx.numpy_helper.to_array(proto))


def _widened(array: Any) -> Tensor:
    """An array as a tensor of its own memory; half precision as float32, which holds the same numbers."""
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype("float32")
    return torch.from_numpy(array.copy())


def _attribute(onnx: Any, proto: Any) -> Any:
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return _tensor(onnx, value)
    return list(value) if proto.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value
