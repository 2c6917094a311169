"""Write a robustness question as ONNX and VNN-LIB files and have it decided, then prove robustness in Python."""

import subprocess
import sys

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import holdfast as hf

data = hf.data.digits(classes=(3, 8))
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(data.features, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
for _ in range(100):
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(data.train.x), data.train.y).backward()
    optimizer.step()

# Any exporter will do; written out here so that the example needs nothing but the package `onnx`.
weights = [
    numpy_helper.from_array(value.detach().numpy(), name)
    for name, value in net.named_parameters()
]
nodes = [
    helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["hidden"], transB=1),
    helper.make_node("Relu", ["hidden"], ["active"]),
    helper.make_node("Gemm", ["active", "2.weight", "2.bias"], ["y"], transB=1),
]
ends = [
    helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
    for name, size in (("x", 64), ("y", 2))
]
graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
onnx.save(
    helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "net.onnx"
)

# One example as a VNN-LIB property: is there an input within 0.25 that another class wins?
[path] = hf.external.write_robustness(
    ".", data.test.x[:1], data.test.y[:1], outputs=2, radius=0.25, bounds=data.bounds
)
command = [
    sys.executable,
    "-m",
    "holdfast",
    "verify",
    str(path),
    "--model",
    "net.onnx",
    "--quiet",
]
answer = subprocess.run(
    command, capture_output=True, text=True, check=False
).stdout.split("\n")
print(f"{path}: {answer[0]}")
print("counterexample:", *answer[1:3], "...")

# The same question in Python, at a smaller radius and for many examples at once.
proof = hf.verify(
    net,
    data.test.x,
    data.test.y,
    hf.LpBall("inf", 0.05, bounds=data.bounds),
    method="alpha",
)
print(
    f"{int(proof.verified.sum())} of {len(proof.y)} test examples proved robust at radius 0.05"
)
