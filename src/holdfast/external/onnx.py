"""ONNX files as modules of torch: plain layers and functions, in float32 or float64, for any number of
examples.

The graph is run once on a probe batch, so that shapes are known; each node then becomes a layer. What does
not depend on the input is computed beforehand by the reference evaluator of the ``onnx`` package. Reading
executes no code from the file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast._rules import PATH, takes
from holdfast._values import Shown
from holdfast.errors import HoldfastError, InputError
from holdfast.external import onnx_file
from holdfast.external.onnx_comparison import Step, alone, compared, unsure_of
from holdfast.external.onnx_functions import FUNCTIONS
from holdfast.external.onnx_graph import assembled, ends_in_softmax, mixes_rows
from holdfast.external.onnx_layers import LAYERS
from holdfast.external.onnx_node import Attributes, Function, Node, OnnxLayer

TRANSLATIONS = {**LAYERS, **FUNCTIONS}
OLDEST = 7  # opset from which arithmetic broadcasts as it does today
_SHAPES = {"Shape", "Size"}  # known once the probe's shape is


@dataclass(frozen=True, kw_only=True, repr=False)
class ImportedNetwork(Shown):
    """A network read from a file.

    Attributes:
        network: takes ``(batch, *input_shape)`` and returns (batch, outputs); in evaluation mode.
        input_shape: of one example.
        outputs: numbers in one output.
        ends_in_softmax: whether outputs are probabilities; the softmax is kept.
        notes: what differs from the file or could not be compared with it, in words.

    >>> import torch
    >>> import holdfast as hf
    >>> network = torch.nn.Linear(2, 3)
    >>> found = hf.external.ImportedNetwork(network=network, input_shape=(2,), outputs=3, ends_in_softmax=False)
    >>> found.outputs
    3
    """

    network: nn.Module
    input_shape: tuple[int, ...]
    outputs: int
    ends_in_softmax: bool
    notes: tuple[str, ...] = ()


@takes(path=PATH)
def load_onnx(path: str | Path) -> ImportedNetwork:
    """The network in an ONNX file (``.onnx``, also gzipped), opset 7 or later.

    It has one input, whose first axis is the batch.

    Read are Gemm, MatMul, Conv, ConvTranspose, BatchNormalization, max and average pooling, the usual
    activations, arithmetic, reductions and changes of shape. Weights are parameters with the file's own
    numbers (half precision is widened to float32), so ``.double()`` gives the network as a function of real
    numbers. A batch of fixed size in the file is made free. In the end its outputs at several points (of the
    usual range, at 0, large ones) are compared with those of the reference evaluator of ``onnx``.

    Args:
        path: the file.

    Raises:
        InputError: ``onnx`` is not installed; the file is missing, cut short or not ONNX; a node that is not
            read, or has an attribute or input that is not read, or differs from the reference evaluator (its
            name and operation are given); more than one input or output; outputs of an example that depend on
            others.

    >>> import holdfast as hf
    >>> import onnx.parser, tempfile
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     onnx.save(onnx.parser.parse_model(text), f"{folder}/relu.onnx")
    ...     hf.external.load_onnx(f"{folder}/relu.onnx").outputs
    2
    """
    path = Path(path)
    onnx = onnx_file.package()
    model, constants, notes = onnx_file.read(onnx, path)
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST:
        raise InputError(
            f"{path} must use ONNX opset {OLDEST} or later, got {opset}; convert it with "
            "onnx.version_converter."
        )
    source, probe = onnx_file.probe_of(onnx, graph, path)
    if len(graph.output) != 1:
        raise InputError(
            f"{path} must have one output, got {len(graph.output)}; export the network with its logits alone."
        )
    values = constants | {source: probe}
    layers, steps, output = _translated(onnx, model, values, source, opset)
    last = values[graph.output[0].name]
    if not last.is_floating_point():
        raise InputError(f"{path} must put out floating-point numbers, got {last.dtype}; export it so.")
    if last.ndim != 2:
        module = nn.Flatten() if last.ndim > 2 else Function("Unsqueeze", lambda x: x[:, None], (None,))
        layers.append(OnnxLayer(name=f"{len(layers)}_outputs", module=module, sources=(output,)))
        output = len(layers)
    network = assembled(layers, output).eval()
    shape = tuple(probe.shape[1:])
    if mixes_rows(network, onnx_file.random((2, *shape), probe.dtype)):
        raise InputError(
            f"{path} must treat each example alone, but outputs change with the number of examples; export "
            "it with a batch axis in front that no operation touches."
        )
    notes += compared(onnx, model, network, steps, values, source)
    return ImportedNetwork(
        network=network,
        input_shape=shape,
        outputs=last[0].numel(),
        ends_in_softmax=ends_in_softmax(network),
        notes=notes,
    )


def _translated(
    onnx: Any, model: Any, values: dict[str, Tensor], source: str, opset: int
) -> tuple[list[OnnxLayer], list[Step], int]:
    """All layers, the nodes that they are of, and the number of the output; the nodes' values at the probe
    go into ``values``.
    """
    graph, batch = model.graph, len(values[source])
    numbers, layers, steps = {source: 0}, list[OnnxLayer](), list[Step]()
    wanted = {name for entry in graph.node for name in entry.input} | {graph.output[0].name}
    for entry in graph.node:
        node = _node(onnx, entry, values, numbers, wanted, opset, batch)
        schema = onnx_file.schema_of(onnx, entry, opset)
        if node.op in _SHAPES and schema is not None:
            values[entry.output[0]] = _shape(node)
            continue
        kinds = onnx_file.types_made(
            onnx,
            schema,
            {place: value.dtype for place, value in enumerate(node.inputs) if value is not None},
            node.attributes.get("to"),
            node.declared,
        )
        if all(node.constant):
            values.update(
                _folded(onnx, model, entry, values, node, kinds, onnx_file.is_random(schema, node.inputs))
            )
            continue
        modules = _modules(entry, node)
        _check_types(node, schema)
        live = [name for name, fixed in zip(entry.input, node.constant, strict=False) if not fixed]
        made = dict(zip(entry.output, modules, strict=False))
        steps.append(
            Step(
                entry=entry,
                label=node.label,
                modules=made,
                live=tuple(live),
                unsure=unsure_of(node.op, node.attributes),
            )
        )
        for (name, module), kind in zip(made.items(), kinds, strict=False):
            try:
                with torch.no_grad():
                    values[name] = module.eval()(*[values[part] for part in live])
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                shapes = [tuple(values[part].shape) for part in live]
                raise node.refuse(f"cannot be run on shapes {shapes} ({error}); export it again") from error
            if kind is not None and values[name].dtype != kind:
                raise node.refuse(f"must put out {kind}, but puts out {values[name].dtype}; export it again")
            if values[name].numel() == 0:
                raise node.refuse("must put out numbers, but puts out none; export it again")
            layers.append(
                OnnxLayer(
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
    return layers, steps, numbers[output]


def _check_types(node: Node, schema: Any) -> None:
    """Refuse inputs of types that the operation does not take, such as truth values for numbers."""
    names = {kind: name for name, kind in onnx_file.NAMES.items()}
    for place, value in enumerate(node.inputs):
        allowed = onnx_file.types_allowed(schema, place)
        if value is not None and names.get(value.dtype, "") not in allowed:
            raise node.refuse(
                f"must have an input {place} of a type that ONNX allows there, got {value.dtype}; put a "
                "Cast before it"
            )


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
        attributes = Attributes(
            onnx_file.attributes_of(onnx, entry),
            onnx_file.defaults_of(onnx, onnx_file.schema_of(onnx, entry, opset)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"ONNX node {label} must have attributes that can be read, but one cannot ({error}); export "
            "it again."
        ) from error
    return Node(
        op=entry.op_type,
        label=label,
        opset=opset,
        attributes=attributes,
        inputs=tuple(values[name] if name else None for name in names),
        constant=tuple(name not in numbers for name in names),
        outputs=sum(name in wanted for name in entry.output if name),
        declared=len(entry.output),
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
    node.check_all_used()
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


def _folded(
    onnx: Any,
    model: Any,
    entry: Any,
    values: dict[str, Tensor],
    node: Node,
    kinds: list[torch.dtype | None],
    is_random: bool,
) -> dict[str, Tensor]:
    """The outputs of a node without live inputs."""
    if is_random:
        raise node.refuse("must not draw random numbers; export the network for inference")
    feeds = {name: values[name] for name in entry.input if name}
    names = [name for name in entry.output if name]
    reference = alone(onnx, model, entry, feeds, names)
    results = reference.run(feeds, names)
    if results is None:
        raise node.refuse(f"must be computable beforehand, but is not ({reference.why}); export it again")
    made = dict(zip(names, results, strict=True))
    for name, kind in zip(entry.output, kinds, strict=True):
        if kind is not None and name:
            made[name] = made[name].to(kind)  # the evaluator may widen numbers
    return made
