"""Tangent kernels against their floor, the bare matrix products of the same work, and against neural-tangents 0.6.5.

Analytic: ReLU, depth 3, float32, one set of n MNIST points (uniform noise where ``--mnist`` names no folder) with itself; its floor is
one full n x n x d product. Empirical: 784-1024-1024-10 with ReLU, trace over the outputs; its floor is one forward pass, the backward
products of all outputs and the contraction of each layer. Times are processor time with one thread, else wall time; all take turns.
Neural-tangents needs jax 0.4.25 and an older numpy, so it runs in an interpreter of its own (``--peer``), which is told when to
start; its kernels are compiled before they are timed, and its empirical kernel is the structured implementation over plain
``lax`` operations (over its own `stax` layers, whose ReLU is a nested jit, it falls back to whole Jacobians: 500 times as long).
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy
import torch
from harness import machine, record, table
from torch import Tensor, nn

from holdfast import data as datasets
from holdfast.theory import KernelSpec, empirical_ntk, ntk

FEATURES, WIDTH, CLASSES = 784, 1024, 10

PEER = f"""
import sys, time, jax, numpy, neural_tangents as nt
from jax import lax
from neural_tangents import stax
kind, clock = sys.argv[1], getattr(time, sys.argv[3])
x = jax.numpy.asarray(numpy.load(sys.argv[2]))
if kind == "analytic":
    layers = sum(([stax.Dense(8), stax.Relu()] for _ in range(3)), [])
    _, _, infinite = stax.serial(*layers, stax.Dense(1))
    kernel = jax.jit(lambda x: infinite(x, None, "ntk"))
else:
    sizes = [({FEATURES}, {WIDTH}), ({WIDTH}, {WIDTH}), ({WIDTH}, {CLASSES})]
    keys = jax.random.split(jax.random.PRNGKey(1), 3)
    weights = [jax.random.normal(k, s) / s[0] ** 0.5 for k, s in zip(keys, sizes)]
    parameters = [(w, jax.numpy.zeros(w.shape[1])) for w in weights]
    def apply(parameters, x):
        for layer, (w, b) in enumerate(parameters):
            x = lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ()))) + b
            x = lax.max(x, 0.0) if layer < 2 else x
        return x
    structured = nt.NtkImplementation.STRUCTURED_DERIVATIVES
    found = nt.empirical_ntk_fn(apply, trace_axes=(-1,), vmap_axes=0, implementation=structured)
    kernel = jax.jit(lambda x: found(x, None, parameters))
kernel(x).block_until_ready()
print("ready", flush=True)
for _ in sys.stdin:
    began = clock()
    kernel(x).block_until_ready()
    print(clock() - began, flush=True)
"""


def points(n: int, folder: str | None) -> Tensor:
    if folder is None:
        return torch.rand(n, FEATURES, generator=torch.Generator().manual_seed(0))
    return datasets.load(folder, seed=0).x[:n].flatten(1).float()


def floor_of_empirical(weights: list[Tensor], x: Tensor) -> None:
    layers = [x]
    for weight in weights:
        layers.append(layers[-1] @ weight.T)
    gradients = torch.eye(CLASSES).expand(len(x), -1, -1)
    for depth, weight in reversed(list(enumerate(weights))):
        _ = layers[depth] @ layers[depth].T, gradients.flatten(1) @ gradients.flatten(1).T
        if depth:
            gradients = gradients @ weight


def case(kind: str, x: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    torch.manual_seed(0)
    if kind == "analytic":
        kernel = ntk(KernelSpec(activation="relu", depth=3, trained="hidden and output"))
        return lambda: kernel(x), lambda: x @ x.T
    sizes = (FEATURES, WIDTH, WIDTH, CLASSES)
    linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    model = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
    weights = [layer.weight.detach() for layer in linear]
    return lambda: empirical_ntk(model, x), lambda: floor_of_empirical(weights, x)


def measure(kind: str, x: Tensor, repeats: int, peer: str | None) -> list[str]:
    ours, floor = case(kind, x)
    word = "process_time" if torch.get_num_threads() == 1 else "perf_counter"
    clocks = {"ours": lambda: spent(ours, word), "floor": lambda: spent(floor, word)}
    process = None
    if peer is not None:
        file = Path(tempfile.mkdtemp()) / "points.npy"
        numpy.save(file, x.numpy())
        process = subprocess.Popen(
            [peer, "-c", PEER, kind, str(file), word],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(
                f"{peer} could not run neural-tangents; install neural-tangents==0.6.5 jax==0.4.25"
            )

        def turn() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        clocks["peer"] = turn
    for clock in clocks.values():
        clock()
    times: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(repeats):
        for name, clock in clocks.items():
            times[name].append(clock())
    if process is not None:
        process.stdin.close()
        process.wait()
        shutil.rmtree(file.parent)
    cells = [f"{kind}, n = {len(x):,}", f"{statistics.median(times['ours']) * 1e3:.1f} ms"]
    for other in ("floor", "peer"):
        if other not in times:
            cells.append("-")
            continue
        middle = statistics.median(a / b for a, b in zip(times["ours"], times[other], strict=True))
        cells.append(f"{middle:.3f} ({min(times['ours']) / min(times[other]):.3f})")
    return cells


def spent(work: Callable[[], object], word: str) -> float:
    clock = getattr(time, word)
    began = clock()
    work()
    return clock() - began


def overhead(x: Tensor) -> float:
    """Peak memory of the analytic kernel beyond its points, over that of the matrix itself; asked of the system, in a process of its own."""
    code = f"""
import pathlib, torch
from holdfast import data as datasets
from holdfast.theory import KernelSpec, ntk
torch.set_num_threads({torch.get_num_threads()})
kernel = ntk(KernelSpec(activation="relu", depth=3, trained="hidden and output"))
x = torch.rand({len(x)}, {FEATURES})
kernel(x[:64]), x @ x[:64].T
status = pathlib.Path("/proc/self/status")
size = lambda word: next(int(s.split()[1]) for s in status.read_text().splitlines() if s.startswith(word))
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = size("VmRSS")
kernel(x)
print((size("VmHWM") - before) * 1024 / (4 * len(x) ** 2))
"""
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and smaller sizes")
    parser.add_argument("--repeats", type=int, default=None)
    parser.add_argument("--record", action="store_true", help="write the result into the results page")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch")
    parser.add_argument("--mnist", default=None, help="a folder of IDX files (MNIST)")
    parser.add_argument("--peer", default=None, help="a Python interpreter that has neural-tangents")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    sizes = (
        {"analytic": (500, 1000), "empirical": (100,)}
        if options.quick
        else {"analytic": (500, 1000, 2000, 4000), "empirical": (100, 500)}
    )
    repeats = 3 if options.quick else 9
    repeats = repeats if options.repeats is None else options.repeats
    x = points(4000, options.mnist)
    rows = [measure(kind, x[:n], repeats, options.peer) for kind, many in sizes.items() for n in many]
    header = ("kernel", "time", "/ floor: median (fastest)", "/ neural-tangents: median (fastest)")
    largest = x[: sizes["analytic"][-1]]
    memory = f"Peak memory of the analytic kernel, n = {len(largest):,}: {overhead(largest):.2f} times the matrix itself."
    text = f"{machine()}\n\n{table(header, rows)}\n\n{memory}"
    print(text)
    if options.record:
        record("kernels", f"`python benchmarks/kernels.py {' '.join(sys.argv[1:])}`\n\n{text}")


if __name__ == "__main__":
    main()
