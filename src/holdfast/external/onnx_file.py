"""What an ONNX file holds: its checked model in float32 or float64, its weights, the shape of its input,
its nodes' attributes and types.
"""

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import InputError

HALVES = {10, 16}  # float16 and bfloat16 among ONNX's types
_FLOAT = 1
_ROWS = 3  # of the probe where the file leaves the batch open: unlike most lengths, so that it shows where it is written out
_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
HALF_NOTE = (
    "numbers of half precision are computed in float32, so outputs differ from the file's own by its rounding"
)


def package() -> Any:
    """The ``onnx`` package.

    Raises:
        InputError: it is not there.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.inliner
        import onnx.reference
    except ImportError as error:
        raise InputError(
            f"ONNX files need the onnx package, which is not there ({error}); run pip install "
            "'holdfast[onnx]'."
        ) from error
    return onnx


def read(onnx: Any, path: Path) -> tuple[Any, dict[str, Tensor], tuple[str, ...]]:
    """The checked model, without functions of its own and half precision; its weights by name; what to
    tell of it.
    """
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
        notes = (HALF_NOTE,) if _widen(onnx, model.graph) else ()
        return model, {entry.name: tensor(onnx, entry) for entry in model.graph.initializer}, notes
    except Exception as error:  # what damaged files raise in protobuf, onnx, numpy and gzip is of many kinds
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} must be a whole ONNX file with its weights, but it cannot be read ({why}); export "
            "or copy it again."
        ) from error


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _widen(onnx: Any, graph: Any) -> bool:
    """Put float32 for half precision throughout a graph, in place; it holds the same numbers. Whether
    there was any.
    """
    found = False
    for entry in (*graph.input, *graph.output, *graph.value_info):
        if entry.type.tensor_type.elem_type in HALVES:
            entry.type.tensor_type.elem_type = _FLOAT
            found = True
    for entry in graph.initializer:
        found |= _widen_tensor(onnx, entry)
    for node in graph.node:
        for attribute in node.attribute:
            found |= attribute.HasField("t") and _widen_tensor(onnx, attribute.t)
            if attribute.name in ("to", "dtype") and attribute.i in HALVES:
                attribute.i, found = _FLOAT, True
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                found |= _widen(onnx, inner)
    return found


def _widen_tensor(onnx: Any, proto: Any) -> bool:
    if proto.data_type not in HALVES:
        return False
    wide = onnx.numpy_helper.to_array(proto).astype("float32")
    proto.CopyFrom(onnx.numpy_helper.from_array(wide, proto.name))
    return True


def probe_of(onnx: Any, graph: Any, path: Path) -> tuple[str, Tensor]:
    """The input's name and a probe batch for it."""
    kept = {entry.name for entry in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in kept]
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs) or "none"
        raise InputError(f"{path} must have one input, got {names}; export the network with one.")
    kind = inputs[0].type.tensor_type
    floats = {_FLOAT: torch.float32, 11: torch.float64}
    sides = [side.dim_value if side.HasField("dim_value") else 0 for side in kind.shape.dim]
    if kind.elem_type not in floats or len(sides) < 2 or min(sides[1:]) < 1:
        shown = [side or "?" for side in sides]
        name = {number: name for name, number in onnx.TensorProto.DataType.items()}.get(kind.elem_type)
        raise InputError(
            f"{path} must take floating-point examples of fixed shape with the batch as first axis, got "
            f"{name} {shown}; export it so."
        )
    try:
        return inputs[0].name, random((sides[0] or _ROWS, *sides[1:]), floats[kind.elem_type])
    except RuntimeError as error:  # no room, or a negative number of rows
        raise InputError(
            f"{path} must take examples that fit into memory, got shape {sides}; export it again."
        ) from error


def random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The same numbers in [0, 1] each time."""
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def tensor(onnx: Any, proto: Any) -> Tensor:
    """A tensor of its own memory."""
    return torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())


def schema_of(onnx: Any, entry: Any, opset: int) -> Any:
    """The operation as its version of ONNX defines it; ``None`` outside ONNX's own domain."""
    if entry.domain not in ("", "ai.onnx"):
        return None
    try:
        return onnx.defs.get_schema(entry.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def attributes_of(onnx: Any, entry: Any) -> dict[str, Any]:
    """The attributes of a node that are given."""
    return {attribute.name: _attribute(onnx, attribute) for attribute in entry.attribute}


def defaults_of(onnx: Any, schema: Any) -> dict[str, Any]:
    """The attributes of an operation that have a default."""
    values = {} if schema is None else {name: one.default_value for name, one in schema.attributes.items()}
    return {name: _attribute(onnx, value) for name, value in values.items() if value.type}


def _attribute(onnx: Any, proto: Any) -> Any:
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return tensor(onnx, value)
    return list(value) if proto.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


def is_random(schema: Any, inputs: Sequence[Tensor | None]) -> bool:
    """Whether a node without live inputs draws random numbers."""
    if schema is None:
        return False
    training = inputs[2] if schema.name == "Dropout" and len(inputs) > 2 else None
    return schema.name in _RANDOM or (training is not None and bool(training.any()))


def types_allowed(schema: Any, place: int) -> set[str]:
    """The types that an operation takes as its input at this place, as ONNX writes them."""
    return set(schema.inputs[min(place, len(schema.inputs) - 1)].types) if schema.inputs else set()


def types_made(
    onnx: Any, schema: Any, inputs: Mapping[int, torch.dtype], to: int | None, outputs: int
) -> list[torch.dtype | None]:
    """The types of an operation's outputs, ``None`` where its inputs do not tell.

    Args:
        inputs: types by place.
        to: the attribute of that name.
        outputs: how many there are.
    """
    if schema is None:
        return [None] * outputs
    known: dict[str, torch.dtype | None] = {
        schema.inputs[min(place, len(schema.inputs) - 1)].type_str: kind for place, kind in inputs.items()
    }
    if to is not None and schema.name == "Cast":
        name = onnx.TensorProto.DataType.Name(to).lower()
        known[schema.outputs[0].type_str] = NAMES.get(f"tensor({name})")
    found: list[torch.dtype | None] = []
    for place in range(outputs):
        output = schema.outputs[min(place, len(schema.outputs) - 1)]
        alone = next(iter(output.types)) if len(output.types) == 1 else ""
        found.append(known.get(output.type_str, NAMES.get(alone)))
    return found


NAMES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(bool)": torch.bool,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
}
