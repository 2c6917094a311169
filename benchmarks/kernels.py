"""Tangent kernels against their floor, the bare matrix products of the same work, and against neural-tangents 0.6.5.

Analytic: ReLU, depth 3, float32, one set of n points with itself; its floor is one full n x n x d product. Empirical:
784-1024-1024-10 with ReLU, trace over the outputs; its floor is one forward pass, the backward products of all outputs and the
contraction of each layer. Neural-tangents needs jax 0.4.25 and an older numpy, so it runs in an interpreter of its own
(``--peer``), which is told when to start and takes its turn like the others; its kernels are compiled before they are timed.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import torch
from harness import machine, record, seconds, table
from torch import Tensor, nn

from holdfast.theory import KernelSpec, empirical_ntk, ntk

FEATURES, WIDTH, CLASSES = 784, 1024, 10

PEER = f"""
import sys, time, jax, jax.numpy as jnp, neural_tangents as nt
from neural_tangents import stax
kind, n = sys.argv[1], int(sys.argv[2])
x = jax.random.uniform(jax.random.PRNGKey(0), (n, {FEATURES}))
if kind == "analytic":
    layers = sum(([stax.Dense(8), stax.Relu()] for _ in range(3)), [])
    _, _, infinite = stax.serial(*layers, stax.Dense(1))
    kernel = jax.jit(lambda x: infinite(x, None, "ntk"))
else:
    init, apply, _ = stax.serial(
        stax.Dense({WIDTH}), stax.Relu(), stax.Dense({WIDTH}), stax.Relu(), stax.Dense({CLASSES}))
    _, parameters = init(jax.random.PRNGKey(1), x.shape)
    structured = nt.NtkImplementation.STRUCTURED_DERIVATIVES
    found = nt.empirical_ntk_fn(apply, trace_axes=(-1,), vmap_axes=0, implementation=structured)
    kernel = jax.jit(lambda x: found(x, None, parameters))
kernel(x).block_until_ready()
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    kernel(x).block_until_ready()
    print(time.perf_counter() - began, flush=True)
"""


def floor_of_empirical(weights: list[Tensor], x: Tensor) -> None:
    layers = [x]
    for weight in weights:
        layers.append(layers[-1] @ weight.T)
    gradients = torch.eye(CLASSES).expand(len(x), -1, -1)
    for depth, weight in reversed(list(enumerate(weights))):
        _ = layers[depth] @ layers[depth].T, gradients.flatten(1) @ gradients.flatten(1).T
        if depth:
            gradients = gradients @ weight


def case(kind: str, n: int) -> tuple[Callable[[], object], Callable[[], object]]:
    torch.manual_seed(0)
    x = torch.rand(n, FEATURES)
    if kind == "analytic":
        kernel = ntk(KernelSpec(activation="relu", depth=3, trained="hidden and output"))
        return lambda: kernel(x), lambda: x @ x.T
    sizes = (FEATURES, WIDTH, WIDTH, CLASSES)
    linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    model = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
    weights = [layer.weight.detach() for layer in linear]
    return lambda: empirical_ntk(model, x), lambda: floor_of_empirical(weights, x)


def measure(kind: str, n: int, repeats: int, peer: str | None) -> list[str]:
    ours, floor = case(kind, n)
    clocks = {"ours": lambda: seconds(ours), "floor": lambda: seconds(floor)}
    process = None
    if peer is not None:
        process = subprocess.Popen(
            [peer, "-c", PEER, kind, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
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
    cells = [f"{kind}, n = {n:,}", f"{statistics.median(times['ours']) * 1e3:.1f} ms"]
    for other in ("floor", "peer"):
        if other not in times:
            cells.append("-")
            continue
        middle = statistics.median(a / b for a, b in zip(times["ours"], times[other], strict=True))
        cells.append(f"{middle:.3f} ({min(times['ours']) / min(times[other]):.3f})")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and smaller sizes")
    parser.add_argument("--record", action="store_true", help="write the result into the results page")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch")
    parser.add_argument("--peer", default=None, help="a Python interpreter that has neural-tangents")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    sizes = {"analytic": (500, 1000), "empirical": (100,)} if options.quick else {
        "analytic": (500, 1000, 2000, 4000), "empirical": (100, 500)}  # fmt: skip
    repeats = 3 if options.quick else 9
    rows = [measure(kind, n, repeats, options.peer) for kind, many in sizes.items() for n in many]
    header = ("kernel", "time", "/ floor: median (fastest)", "/ neural-tangents: median (fastest)")
    text = f"{machine()}\n\n{table(header, rows)}"
    print(text)
    if options.record:
        record("kernels", f"`python benchmarks/kernels.py {' '.join(sys.argv[1:])}`\n\n{text}")


if __name__ == "__main__":
    main()
