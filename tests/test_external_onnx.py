"""ONNX graphs against the reference evaluator of the ``onnx`` package, operation by operation and in random chains."""

import copy
import gzip
import importlib
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.errors import InputError
from holdfast.external import load_model, load_onnx, onnx_graph
from holdfast.external.onnx_graph import GraphNetwork
from holdfast.external.onnx_node import Function

pytest.importorskip("onnx", reason="reading ONNX is an extra: pip install 'holdfast[onnx]'")
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

onnx_reading = importlib.import_module("holdfast.external.onnx")
F32 = TensorProto.FLOAT
DIMENSION = onnx.TensorShapeProto.Dimension(dim_param="M")
numbers = np.random.default_rng(20190607)


def array(*shape, low=-1.0, high=1.0, dtype=np.float32):
    return numbers.uniform(low, high, shape).astype(dtype)


def model_of(nodes, shape, constants=None, *, opset=17, out="y", dtype=F32, inputs=None, outputs=None):
    """A model with input ``x`` of this shape and the given nodes."""
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(
        nodes,
        "test",
        inputs or [helper.make_tensor_value_info("x", dtype, shape)],
        outputs or [helper.make_tensor_value_info(out, dtype, None)],
        values,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model = shape_inference.infer_shapes(model)  # a whole file tells the shape of its outputs
    for output in model.graph.output:
        output.type.tensor_type.shape.dim.extend(
            [] if output.type.tensor_type.HasField("shape") else [DIMENSION]
        )
    return model


def saved(model, folder):
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def reference(model, x):
    return torch.tensor(np.asarray(ReferenceEvaluator(model).run(None, {"x": x.numpy()})[0]))


def node(op, inputs="x", outputs="y", **attributes):
    return helper.make_node(op, inputs.split(" "), outputs.split(" "), **attributes)


def i64(*values):
    return np.array(values, dtype=np.int64)


W34, W43, B4 = array(3, 4), array(4, 3), array(4)
KERNEL, BIAS = array(4, 2, 3, 3), array(4)
IMAGE, ROWS = ("N", 2, 7, 6), ("N", 3)

# name: nodes, input shape, constants, opset
CASES = {
    "gemm": ([node("Gemm", "x w b")], ROWS, {"w": W34, "b": B4}, 13),
    "gemm transposed": ([node("Gemm", "x w b", transB=1)], ROWS, {"w": W43, "b": B4}, 13),
    "gemm without offset": ([node("Gemm", "x w", transB=1)], ROWS, {"w": W43}, 11),
    "gemm with factors": ([node("Gemm", "x w b", alpha=0.5, beta=2.0)], ROWS, {"w": W34, "b": B4}, 13),
    "gemm with a factor and an empty name": ([node("Gemm", "x w ", alpha=0.5)], ROWS, {"w": W34}, 13),
    "gemm with a row": ([node("Gemm", "x w b")], ROWS, {"w": W34, "b": B4[None]}, 7),
    "gemm with a number": ([node("Gemm", "x w b")], ROWS, {"w": W34, "b": B4[0]}, 13),
    "matmul": ([node("MatMul", "x w")], ROWS, {"w": W34}, 13),
    "matmul and sum": ([node("MatMul", "x w", "h"), node("Add", "b h")], ROWS, {"w": W34, "b": B4}, 13),
    "matmul of three axes": ([node("MatMul", "x w")], ("N", 5, 3), {"w": W34}, 13),
    "matmul from the left": ([node("MatMul", "w x")], ("N", 4, 5), {"w": W34}, 13),
    "conv": (
        [node("Conv", "x w b", kernel_shape=[3, 3], pads=[1, 0, 1, 0], strides=[2, 1])],
        IMAGE,
        {"w": KERNEL, "b": BIAS},
        11,
    ),
    "conv padded unevenly": ([node("Conv", "x w", pads=[2, 0, 1, 1])], IMAGE, {"w": KERNEL}, 11),
    "conv same upper": (
        [node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2])],
        IMAGE,
        {"w": KERNEL},
        11,
    ),
    "conv same lower": (
        [node("Conv", "x w", auto_pad="SAME_LOWER", strides=[2, 2])],
        IMAGE,
        {"w": KERNEL},
        11,
    ),
    "conv in groups": ([node("Conv", "x w", group=2, dilations=[2, 2])], IMAGE, {"w": array(4, 1, 3, 2)}, 11),
    "conv in one dimension": (
        [node("Conv", "x w b", pads=[1, 1])],
        ("N", 2, 8),
        {"w": array(3, 2, 3), "b": array(3)},
        11,
    ),
    "transposed conv": (
        [node("ConvTranspose", "x w", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])],
        IMAGE,
        {"w": array(2, 3, 3, 3)},
        11,
    ),
    "batch norm": (
        [node("BatchNormalization", "x s o m v", epsilon=1e-3)],
        IMAGE,
        {"s": array(2), "o": array(2), "m": array(2), "v": array(2, low=0.5)},
        15,
    ),
    "batch norm of rows": (
        [node("BatchNormalization", "x s o m v")],
        ROWS,
        {"s": array(3), "o": array(3), "m": array(3), "v": array(3, low=0.5)},
        15,
    ),
    "max pool": ([node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 1])], IMAGE, {}, 12),
    "max pool rounded up": (
        [node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)],
        IMAGE,
        {},
        12,
    ),
    "average pool": (
        [node("AveragePool", kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1])],
        IMAGE,
        {},
        11,
    ),
    "average pool with padding": (
        [node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        IMAGE,
        {},
        11,
    ),
    "global average pool": ([node("GlobalAveragePool")], IMAGE, {}, 11),
    "global max pool": ([node("GlobalMaxPool")], IMAGE, {}, 11),
    "softmax": ([node("Softmax")], ROWS, {}, 13),
    "softmax before opset 13": ([node("Softmax")], ROWS, {}, 11),
    "log softmax": ([node("LogSoftmax", axis=1)], ROWS, {}, 13),
    "leaky relu": ([node("LeakyRelu", alpha=0.3)], ROWS, {}, 16),
    "leaky relu by default": ([node("LeakyRelu")], ROWS, {}, 16),
    "elu": ([node("Elu", alpha=0.7)], ROWS, {}, 13),
    "gelu": ([node("Gelu")], ROWS, {}, 20),
    "gelu by tanh": ([node("Gelu", approximate="tanh")], ROWS, {}, 20),
    "prelu": ([node("PRelu", "x s")], ROWS, {"s": array(3)}, 16),
    "flatten": ([node("Flatten")], IMAGE, {}, 13),
    "flatten by negative axis": ([node("Flatten", axis=-3)], IMAGE, {}, 13),
    "reshape": ([node("Reshape", "x to")], IMAGE, {"to": i64(0, 6, -1)}, 14),
    "reshape to rows": ([node("Reshape", "x to")], IMAGE, {"to": i64(-1, 84)}, 14),
    "reshape by the input's shape": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Unsqueeze", "n axis", "n1"),
            node("Concat", "n1 rest", "to", axis=0),
            node("Reshape", "x to"),
        ],
        IMAGE,
        {"zero": np.int64(0), "axis": i64(0), "rest": i64(4, 21)},
        13,
    ),
    "transpose": ([node("Transpose", perm=[0, 2, 3, 1])], IMAGE, {}, 13),
    "unsqueeze and squeeze": (
        [node("Unsqueeze", "x axes", "h"), node("Neg", "h", "g"), node("Squeeze", "g axes")],
        ROWS,
        {"axes": i64(-1)},
        13,
    ),
    "squeeze before opset 13": (
        [node("Unsqueeze", "x", "h", axes=[1]), node("Squeeze", "h", axes=[1])],
        ROWS,
        {},
        11,
    ),
    "concat": ([node("Neg", "x", "h"), node("Concat", "x h", axis=1)], IMAGE, {}, 13),
    "concat with rows made for the batch": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Concat", "n one", "to", axis=0),
            node("Expand", "c to", "e"),
            node("Concat", "x e", axis=1),
        ],
        ROWS,
        {"zero": np.array([0]), "one": np.array([1]), "c": array(1, 1)},
        13,
    ),
    "concat with a constant": ([node("Concat", "c x", axis=1)], ("M1", 3), {"c": array(1, 2)}, 13),
    "split": ([node("Split", "x", "a b", axis=1), node("Sub", "a b")], IMAGE, {}, 11),
    "split in sizes": (
        [node("Split", "x to", "a b", axis=-1), node("Concat", "b a", axis=3)],
        IMAGE,
        {"to": i64(2, 4)},
        13,
    ),
    "split by number": (
        [node("Split", "x", "a b", axis=2, num_outputs=2), node("Concat", "b a", axis=2)],
        IMAGE,
        {},
        18,
    ),
    "slice": (
        [node("Slice", "x s e a t")],
        IMAGE,
        {"s": i64(1, 0), "e": i64(9223372036854775807, -1), "a": i64(2, -1), "t": i64(2, 1)},
        13,
    ),
    "slice before opset 10": ([node("Slice", starts=[1], ends=[3], axes=[2])], IMAGE, {}, 9),
    "gather": ([node("Gather", "x i", axis=1)], ROWS, {"i": i64(2, 0, -1)}, 13),
    "gather one": ([node("Gather", "x i", axis=2)], IMAGE, {"i": np.int64(-2)}, 13),
    "pad": ([node("Pad", "x p v")], IMAGE, {"p": i64(0, 0, 1, 0, 0, 1, 0, 2), "v": np.float32(0.5)}, 13),
    "pad before opset 11": ([node("Pad", pads=[0, 0, 1, 0, 0, 0, 0, 2])], IMAGE, {}, 10),
    "pad by axes": ([node("Pad", "x p  a")], IMAGE, {"p": i64(1, 2), "a": i64(-1)}, 18),
    "clip": ([node("Clip", "x l h")], ROWS, {"l": np.float32(-0.3), "h": np.float32(0.4)}, 13),
    "clip from above": ([node("Clip", "x  h")], ROWS, {"h": np.float32(0.4)}, 13),
    "clip before opset 11": ([node("Clip", min=-0.1, max=0.2)], ROWS, {}, 7),
    "mean": ([node("ReduceMean", axes=[2, -1], keepdims=0)], IMAGE, {}, 13),
    "mean by input": ([node("ReduceMean", "x a")], IMAGE, {"a": i64(3)}, 18),
    "sum": ([node("ReduceSum", "x a", keepdims=0)], IMAGE, {"a": i64(1, 2)}, 13),
    "sum before opset 13": ([node("ReduceSum", axes=[1])], IMAGE, {}, 11),
    "largest": ([node("ReduceMax", axes=[1, 2])], IMAGE, {}, 13),
    "arithmetic": (
        [node("Sub", "c x", "a"), node("Div", "a d", "b"), node("Mul", "b d", "e"), node("Add", "e x")],
        ROWS,
        {"c": array(3), "d": array(1, 3, low=0.5)},
        14,
    ),
    "power": ([node("Pow", "x two")], ROWS, {"two": np.float32(2)}, 15),
    "sums of several": ([node("Sum", "x c x")], ROWS, {"c": array(3)}, 13),
    "larger and smaller": (
        [node("Max", "x c", "h"), node("Min", "h d")],
        ROWS,
        {"c": array(3), "d": array(3)},
        13,
    ),
    "dropout": ([node("Dropout", "x", "h"), node("Identity", "h", "g"), node("Relu", "g")], ROWS, {}, 13),
    "constants": (
        [
            helper.make_node("Constant", [], ["c"], value_float=0.25),
            node("Exp", "c", "d"),
            node("Add", "x d"),
        ],
        ROWS,
        {},
        13,
    ),
    "selu with its numbers": ([node("Selu", alpha=2.0, gamma=3.0)], ROWS, {}, 13),
    "truth values as numbers": (
        [
            node("Greater", "x c", "g"),
            node("Cast", "g", "a", to=1),
            node("Less", "x d", "l"),
            node("Cast", "l", "b", to=1),
            node("Add", "a b"),
        ],
        ROWS,
        {"c": np.float32(0.0), "d": np.float32(0.5)},
        13,
    ),
    "numbers as truth values": (
        [node("Relu", "x", "r"), node("Cast", "r", "t", to=9), node("Neg", "x", "n"), node("Where", "t x n")],
        ROWS,
        {},
        16,
    ),
    "split with an output to spare": (
        [node("Split", "x", "a b c", axis=2), node("Sub", "a b")],
        ("N", 2, 6, 5),
        {},
        11,
    ),
    "batch norm with momentum": (
        [node("BatchNormalization", "x s s s v", momentum=0.1)],
        ROWS,
        {"s": array(3), "v": array(3, low=0.5)},
        15,
    ),
    "log softmax of large numbers": (
        [node("Mul", "x c", "h"), node("LogSoftmax", "h")],
        ROWS,
        {"c": np.float32(10)},
        13,
    ),
    "dropout with its ratio": (
        [node("Dropout", "x r t")],
        ROWS,
        {"r": np.float32(0.4), "t": np.bool_(False)},
        13,
    ),
    "where": (
        [node("Greater", "x c", "t"), node("Neg", "x", "n"), node("Where", "t x n")],
        ROWS,
        {"c": np.float32(0.1)},
        16,
    ),
}
UNARY = ["Relu", "Sigmoid", "Tanh", "Erf", "Softplus", "Abs", "Exp", "Neg", "Sign", "Sin", "Cos", "Selu"]
CASES |= {op.lower(): ([node(op)], ROWS, {}, 13) for op in UNARY}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fixed", [False, True], ids=["batch open", "batch 1"])
def test_operations_agree_with_the_reference_evaluator(tmp_path, name, fixed):
    nodes, shape, constants, opset = CASES[name]
    wide = name == "concat with a constant"  # the evaluator does not repeat constants
    declared = [1 if fixed or wide else "N", *shape[1:]]
    model = model_of(nodes, declared, constants, opset=opset)
    onnx.checker.check_model(model)
    imported = load_onnx(saved(model, tmp_path))
    x = torch.tensor(array(1 if fixed or wide else 5, *shape[1:], low=-2.0, high=2.0))
    expected = reference(model, x).flatten(1)
    with torch.no_grad():
        outputs = imported.network(x)
        together = imported.network(torch.cat([x, x + 0.5]))
    assert imported.input_shape == shape[1:]
    assert imported.outputs == expected.shape[1]
    assert outputs.shape == expected.shape
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together[: len(x)], outputs)  # any number of examples, whatever the file says
    torch.testing.assert_close(torch.fx.symbolic_trace(imported.network)(x), outputs, rtol=0, atol=0)


def test_uneven_padding_of_max_pooling_counts_for_nothing(tmp_path):
    model = model_of([node("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 1, 1])], ("N", 1, 3, 3), opset=12)
    x = -torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    windows = [[x[0, 0, i : i + 2, j : j + 2].max() for j in range(3)] for i in range(3)]
    imported = load_onnx(saved(model, tmp_path))
    assert imported.network(x).flatten().tolist() == [float(value) for row in windows for value in row]
    (note,) = imported.notes  # the evaluator gives another shape
    assert "y (MaxPool) was not compared" in note
    with pytest.warns(UserWarning, match="MaxPool"):
        load_model(tmp_path / "net.onnx")


STEPS = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "Softplus": {},
    "Erf": {},
    "Gemm": {"w": (4, 4), "b": (4,)},
    "MatMul": {"w": (4, 4)},
    "Add": {"c": (4,)},
    "Mul": {"c": (1, 4)},
    "Sub": {"c": ()},
}


@settings(max_examples=25)
@given(
    steps=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.booleans()), min_size=1, max_size=8),
    seed=st.integers(0, 2**31),
)
def test_random_graphs_agree_with_the_reference_evaluator(tmp_path_factory, steps, seed):
    draw = np.random.default_rng(seed)
    nodes, constants, values = [], {}, ["x"]
    for place, (op, doubled) in enumerate(steps):
        source = values[int(draw.integers(len(values)))]
        names = []
        for name, shape in STEPS[op].items():
            names.append(f"{name}{place}")
            constants[names[-1]] = draw.normal(size=shape).astype(np.float32)
        nodes.append(node(op, " ".join([source, *names]), f"v{place}"))
        values.append(f"v{place}")
        if doubled:  # a sum with an earlier value
            nodes.append(node("Add", f"v{place} {values[int(draw.integers(len(values)))]}", f"s{place}"))
            values.append(f"s{place}")
    model = model_of(nodes, ("N", 4), constants, out=values[-1])
    imported = load_onnx(saved(model, tmp_path_factory.mktemp("net")))
    x = torch.tensor(draw.normal(size=(3, 4)).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(imported.network(x), reference(model, x), rtol=1e-4, atol=1e-4)


def perceptron(*, opset=13, softmax=False):
    w, b, v = array(5, 6), array(6), array(6, 3)
    nodes = [
        node("Gemm", "x w b", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r v", "f"),
        node("Add", "f c", "y"),
    ]
    constants = {"w": w, "b": b, "v": v, "c": array(3)}
    if softmax:
        nodes.append(node("Softmax", "y", "p"))
    return model_of(nodes, (1, 5), constants, opset=opset, out="p" if softmax else "y"), constants


def test_float64_is_the_file_as_a_function_of_real_numbers(tmp_path):
    model, c = perceptron()
    network = load_onnx(saved(model, tmp_path)).network
    x = array(7, 5, dtype=np.float64)
    w, b, v, offset = (c[name].astype(np.float64) for name in ("w", "b", "v", "c"))
    expected = np.maximum(x @ w + b, 0) @ v + offset
    exact = copy.deepcopy(network).double()
    np.testing.assert_allclose(exact(torch.tensor(x)).detach().numpy(), expected, rtol=0, atol=1e-13)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_chains_become_plain_layers(tmp_path):
    network = load_onnx(saved(perceptron()[0], tmp_path)).network
    assert type(network) is nn.Sequential
    assert [type(layer) for layer in network] == [nn.Linear, nn.ReLU, nn.Linear]  # product and sum are one
    assert not network.training


def test_softmax_at_the_end_is_kept_and_told(tmp_path):
    imported = load_onnx(saved(perceptron(softmax=True)[0], tmp_path))
    x = torch.tensor(array(4, 5))
    torch.testing.assert_close(imported.network(x).sum(1), torch.ones(4))
    assert imported.ends_in_softmax
    assert not load_onnx(saved(perceptron()[0], tmp_path)).ends_in_softmax
    inside = model_of([node("Softmax", "x", "s"), node("Add", "x s")], ROWS)
    assert not load_onnx(saved(inside, tmp_path)).ends_in_softmax


def gelu(half=0.5, root=2**0.5, one=1.0, *, order=0):
    last = [
        [node("Mul", "x e1", "m"), node("Mul", "m half")],
        [node("Mul", "half e1", "m"), node("Mul", "m x")],
        [node("Mul", "x half", "m"), node("Mul", "m e1")],
    ][order]
    nodes = [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "e1"), *last]
    return model_of(nodes, ROWS, {"half": np.float32(half), "root": np.float32(root), "one": np.float32(one)})


@pytest.mark.parametrize("order", range(3))
def test_gelu_in_pieces_is_one_layer(tmp_path, order):
    model = gelu(order=order)
    network = load_onnx(saved(model, tmp_path)).network
    assert [type(layer) for layer in network] == [nn.GELU]
    x = torch.tensor(array(6, 3, low=-4, high=4))
    torch.testing.assert_close(network(x), reference(model, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"half": 0.4}, {"root": 1.5}, {"one": 0.9}])
def test_what_resembles_gelu_stays_itself(tmp_path, change):
    model = gelu(**change)
    network = load_onnx(saved(model, tmp_path)).network
    assert isinstance(network, GraphNetwork)
    x = torch.tensor(array(6, 3, low=-4, high=4))
    torch.testing.assert_close(network(x).detach(), reference(model, x), rtol=1e-5, atol=1e-6)


def test_silu_and_cut_softplus_are_one_layer(tmp_path):
    silu = model_of([node("Sigmoid", "x", "s"), node("Mul", "s x")], ROWS)
    cut = model_of(
        [node("Softplus", "x", "s"), node("Greater", "x t", "g"), node("Where", "g x s")],
        ROWS,
        {"t": np.float32(20)},
    )
    assert [type(layer) for layer in load_onnx(saved(silu, tmp_path)).network] == [nn.SiLU]
    (layer,) = load_onnx(saved(cut, tmp_path)).network
    assert (type(layer), layer.threshold) == (nn.Softplus, 20.0)


def test_a_sum_used_elsewhere_is_no_bias(tmp_path):
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "s"), node("Mul", "s h")]
    model = model_of(nodes, ROWS, {"w": W34, "b": B4})
    network = load_onnx(saved(model, tmp_path)).network
    x = torch.tensor(array(4, 3))
    torch.testing.assert_close(network(x).detach(), reference(model, x))
    assert any(isinstance(layer, Function) and layer.name == "Add" for layer in network.layers.values())


def test_gzipped_files_and_half_precision_are_read(tmp_path):
    path = tmp_path / "net.onnx.gz"
    model = perceptron()[0]
    path.write_bytes(gzip.compress(model.SerializeToString()))
    x = torch.tensor(array(1, 5))
    torch.testing.assert_close(load_model(path)(x).detach(), reference(model, x))
    half = model_of([node("MatMul", "x w")], ROWS, {"w": W34.astype(np.float16)}, dtype=TensorProto.FLOAT16)
    imported = load_onnx(saved(half, tmp_path))
    assert "half precision" in " ".join(imported.notes)
    (layer,) = imported.network
    np.testing.assert_array_equal(layer.weight.detach().numpy(), W34.astype(np.float16).T.astype(np.float32))


def test_exported_networks_come_back(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(64, 8),
        nn.Softplus(),
        nn.Linear(8, 3),
    ).eval()
    x = torch.randn(5, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # this exporter is the older of torch's two, and needs no further package
        torch.onnx.export(network, (x[:1],), tmp_path / "net.onnx", dynamo=False, opset_version=13)
    back = load_model(tmp_path / "net.onnx")
    torch.testing.assert_close(back(x), network(x), rtol=1e-5, atol=1e-6)


# nodes, constants and what the message must tell
REFUSED = {
    "unknown operation": (
        [node("Det", name="odd")],
        {},
        r"odd \(Det\) must be an operation that is read here",
    ),
    "other domain": ([node("Odd", domain="com.example")], {}, r"y \(Odd\) must be an operation"),
    "transposed input": ([node("Gemm", "x w", transA=1)], {"w": W34}, r"transA 0"),
    "sum over the batch": ([node("ReduceSum", keepdims=1)], {}, r"axis 0 alone"),
    "batch flattened away": ([node("Flatten", axis=0)], {}, r"must keep axis 0"),
    "transposed batch": ([node("Transpose")], {}, r"axis 0, the batch, in front"),
    "computed weights": (
        [node("Add", "x one", "w"), node("Conv", "i w")],
        {"one": B4[:3], "i": array(1, 3, 3)},
        "input 1",
    ),
    "batch norm in training": (
        [node("BatchNormalization", "x s s s v", training_mode=1)],
        {"s": array(3), "v": array(3)},
        "training_mode 0",
    ),
    "shapes that do not fit": ([node("MatMul", "x w")], {"w": array(5, 2)}, r"cannot be run on shapes"),
    "rows that mix": ([node("Add", "x c")], {"c": array(3, 3)}, r"treat each example alone"),
    "output of constants": ([node("Neg", "c"), node("Relu", "x", "z")], {"c": B4}, "from its input"),
    "a sum of truth values": (
        [node("Greater", "x c", "a"), node("Less", "x c", "b"), node("Add", "a b")],
        {"c": B4[:3]},
        r"y \(Add\) must have an input 0 of a type",
    ),
    "truth values put out": (
        [node("Greater", "x c")],
        {"c": B4[:3]},
        "floating-point numbers, got torch.bool",
    ),
    "dropout in training": (
        [node("Dropout", "x r t")],
        {"r": np.float32(0.5), "t": np.bool_(True)},
        r"y \(Dropout\) must have training_mode false",
    ),
    "random numbers": (
        [
            node("Identity", "x", "h"),
            helper.make_node("RandomUniform", [], ["r"], shape=[3]),
            node("Add", "h r"),
        ],
        {},
        r"r \(RandomUniform\)",
    ),
    "constants dropped at random": (
        [node("Dropout", "c r t", "d"), node("Add", "x d")],
        {"c": B4[:3], "r": np.float32(0.5), "t": np.bool_(True)},
        r"d \(Dropout\) must not draw random numbers",
    ),
    "places beyond the axis": ([node("Gather", "x i", axis=1)], {"i": i64(1, 3)}, r"y \(Gather\)"),
    "kernel shape of other weights": (
        [node("Unsqueeze", "x a", "h"), node("Conv", "h w", kernel_shape=[2])],
        {"a": i64(1), "w": array(1, 1, 3)},
        r"kernel_shape \[3\]",
    ),
    "nothing left": ([node("Slice", "x s e a")], {"s": i64(3), "e": i64(9), "a": i64(1)}, r"y \(Slice\)"),
    "several pooling outputs": (
        [
            node("Unsqueeze", "x a", "h"),
            node("MaxPool", "h", "v i", kernel_shape=[1]),
            node("Cast", "i", "j", to=1),
            node("Add", "v j"),
        ],
        {"a": i64(1)},
        "values only",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_name(tmp_path, name):
    nodes, constants, words = REFUSED[name]
    model = model_of(nodes, ROWS, constants)
    with pytest.raises(InputError, match=words):
        load_onnx(saved(model, tmp_path))


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "constants", "words"),
    [
        ("Elu", "x", {"alpha": 0.5}, {}, r"y \(Elu\) .* attribute alpha=0.5"),
        ("LeakyRelu", "x", {"alpha": 0.5}, {}, r"attribute alpha=0.5"),
        ("Dropout", "x r", {}, {"r": np.float32(0.5)}, r"y \(Dropout\) .* input 1"),
    ],
)
def test_what_a_translation_does_not_look_at_is_refused(
    tmp_path, monkeypatch, op, inputs, attributes, constants, words
):
    monkeypatch.setitem(onnx_reading.TRANSLATIONS, op, lambda node: nn.Identity())
    model = model_of([node(op, inputs, **attributes)], ROWS, constants)
    with pytest.raises(InputError, match=words):
        load_onnx(saved(model, tmp_path))


def test_an_attribute_with_its_default_needs_no_look(tmp_path, monkeypatch):
    monkeypatch.setitem(onnx_reading.TRANSLATIONS, "Elu", lambda node: nn.ELU())
    load_onnx(saved(model_of([node("Elu", alpha=1.0)], ROWS), tmp_path))


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        ("Tanh", lambda x: torch.tanh(x) + 0.01),
        ("Exp", lambda x: torch.exp(x.clamp(max=80))),  # only where the right one is infinite
        ("Abs", lambda x: torch.where(x == 0, torch.nan, x.abs())),  # only at 0
        ("Sin", lambda x: torch.sin(torch.where(x.abs() > 50, -x, x))),  # only far away
    ],
)
def test_the_first_node_that_differs_from_the_reference_is_named(tmp_path, monkeypatch, op, wrong):
    monkeypatch.setitem(onnx_reading.TRANSLATIONS, op, lambda node: Function(op, wrong, (None,)))
    nodes = [node("Mul", "x c", "h"), node(op, "h", "g", name="odd"), node("Neg", "g")]
    model = model_of(nodes, ROWS, {"c": np.float32(1.5)})
    with pytest.raises(InputError, match=rf"odd \({op}\) must compute what the reference evaluator"):
        load_onnx(saved(model, tmp_path))


def test_a_network_put_together_wrongly_is_refused(tmp_path, monkeypatch):
    def swapped(layers, output):
        return [
            replace(layer, module=nn.Tanh()) if isinstance(layer.module, nn.ReLU) else layer
            for layer in layers
        ]

    monkeypatch.setattr(onnx_graph, "recognised", swapped)
    with pytest.raises(InputError, match="must compute what its nodes do"):
        load_onnx(saved(perceptron()[0], tmp_path))


def test_rounding_is_no_difference(tmp_path):
    # Two large numbers whose difference is all that is left: float32 in another order moves it by many times its units.
    w = array(200, 1, low=1e3, high=2e3)
    nodes = [
        node("MatMul", "x w", "a"),
        node("ReduceSum", "x k", "b"),
        node("Sub", "a b", "d"),
        node("Mul", "d c"),
    ]
    model = model_of(nodes, ("N", 200), {"w": w, "k": i64(1), "c": np.float32(1e4)})
    assert load_onnx(saved(model, tmp_path)).notes == ()


def info(name, shape, dtype=F32):
    return helper.make_tensor_value_info(name, dtype, shape)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: model_of([node("Relu")], ROWS, opset=6), "opset 7 or later, got 6"),
        (lambda: model_of([node("Relu")], [3]), r"batch as first axis, got FLOAT \[3\]"),
        (lambda: model_of([node("Relu")], ["N", "C"]), r"fixed shape"),
        (lambda: model_of([node("Abs")], ROWS, dtype=TensorProto.INT32), "floating-point"),
        (
            lambda: model_of([node("Add", "x z")], ROWS, inputs=[info("x", ROWS), info("z", ROWS)]),
            "one input, got x, z",
        ),
        (
            lambda: model_of(
                [node("Relu"), node("Neg", "x", "z")], ROWS, outputs=[info("y", None), info("z", None)]
            ),
            "one output, got 2",
        ),
    ],
)
def test_graphs_of_another_form_are_refused(tmp_path, model, words):
    with pytest.raises(InputError, match=words):
        load_onnx(saved(model(), tmp_path))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    path = saved(perceptron()[0], tmp_path)
    whole = path.read_bytes()
    for cut in (whole[:20], whole[: len(whole) // 2], b"", b"\x1f\x8bnot gzip"):
        path.write_bytes(cut)
        with pytest.raises(InputError, match="whole ONNX file"):
            load_onnx(path)
    with pytest.raises(InputError, match="there is none"):
        load_onnx(tmp_path / "absent.onnx")


def test_outputs_without_a_number_are_no_mixing_of_rows(tmp_path):
    model = model_of([node("Neg", "x", "n"), node("Log", "n")], ROWS)
    assert load_onnx(saved(model, tmp_path)).network(torch.ones(1, 3)).isnan().all()


def test_weights_beside_the_file_are_read_and_missed(tmp_path):
    model, _ = perceptron()
    path = tmp_path / "net.onnx"
    x = torch.tensor(array(1, 5))
    expected = reference(model, x)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    torch.testing.assert_close(load_onnx(path).network(x).detach(), expected)
    (tmp_path / "net.data").unlink()
    with pytest.raises(InputError, match="with its weights"):
        load_onnx(path)


def test_without_the_package_the_remedy_is_told(tmp_path, monkeypatch):
    path = saved(perceptron()[0], tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'holdfast\[onnx\]'"):
        load_onnx(path)
