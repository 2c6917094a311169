"""The optimal robust loss in the kernel limit: all 45 pairs of digits, an independent prototype's figures, and MNIST.

Digits as in the design's reference table: pixels / 16 scaled to norm sqrt(3)/2 with a last coordinate 1/2, l2 radius 0.1 in the first 64
coordinates, logistic loss, ReLU kernel <x, y> (pi - theta) / 2 pi. Lower ends are bounds; upper ends are what no attack (40 steps of PGD
from the example and once from a random point) took higher. Seconds are processor time. The target: brackets at most 0.005
wide at every radius, under 30 s a curve. MNIST: ``--data FOLDER``, ten classes, l-inf 0.1 on the pixels in [0, 1], inputs centred and
scaled as `holdfast train` does.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch
from harness import command, machine, record, table

import holdfast as hf
from holdfast.config.build import build_network
from holdfast.config.schema import NetworkConfig
from holdfast.data import on_sphere
from holdfast.data.selection import keep_examples
from holdfast.theory import KernelSpec, RobustLossCurve, ntk, optimal_robust_loss

RADII = (5.0, 10.0, 20.0, 40.0, 60.0, 100.0, 200.0)
REFERENCE = {
    5.0: "0.5493 to 0.5505",
    20.0: "0.3380 to 0.3410",
    60.0: "0.1496 to 0.1564",
    200.0: "0.0098 to 0.0144",
}
TARGET = 0.005


def pair(first: int, second: int) -> tuple[RobustLossCurve, float]:
    """The curve of one pair of digits, and its processor time."""
    data = on_sphere(hf.data.digits(classes=(first, second), validation=0.0, test=0.0))
    kernel = ntk(KernelSpec(activation="relu", normalised=False))
    threat = hf.LpBall("2", 0.1, fixed=data.fixed)
    began = time.process_time()
    curve = optimal_robust_loss(kernel, data.train.x, data.train.y, threat, RADII, tolerance=TARGET)
    return curve, time.process_time() - began


def span(low: float, high: float) -> str:
    return f"{low:.4f} to {high:.4f}"


def digits(quick: bool) -> str:
    pairs = [(3, 8), (0, 1)] if quick else list(itertools.combinations(range(10), 2))
    pair(0, 1)  # first calls import and compile
    curves = {}
    for a, b in pairs:
        curves[a, b] = pair(a, b)
        curve, seconds = curves[a, b]
        print(f"{a} v {b}: widest {curve.width:.4f}, {seconds:.1f} s, {curve.points} points", flush=True)
    three, _ = curves[3, 8]
    rows = [
        [
            f"{r:g}",
            span(low, high),
            REFERENCE.get(r, ""),
            f"{accuracy:.3f}",
            f"{clean:.4f}",
            f"{max(float(c.upper[i] - c.lower[i]) for c, _ in curves.values()):.4f}",
            span(
                min(float(c.upper[i]) for c, _ in curves.values()),
                max(float(c.upper[i]) for c, _ in curves.values()),
            ),
        ]
        for i, (r, low, high, accuracy, clean) in enumerate(
            zip(
                three.radii,
                *(v.tolist() for v in (three.lower, three.upper, three.accuracy, three.clean_loss)),
                strict=True,
            )
        )
    ]
    spent = sorted((seconds, name) for name, (_, seconds) in curves.items())
    widest = max(c.width for c, _ in curves.values())
    return (
        table(
            (
                "R",
                "3 v 8",
                "prototype",
                "robust accuracy",
                "clean loss",
                f"widest bracket of {len(pairs)} pairs (target {TARGET})",
                "upper ends of the pairs",
            ),
            rows,
        )
        + f"\n\n{len(pairs)} curves of {len(RADII)} radii: widest bracket {widest:.4f} (target {TARGET}); {spent[0][0]:.0f} to {spent[-1][0]:.0f} s of"
        f" processor time a curve, median {spent[len(spent) // 2][0]:.0f} (target 30); slowest {spent[-1][1][0]} v {spent[-1][1][1]}."
    )


def mnist(folder: Path, examples: int, radii: list[float], rounds: int) -> str:
    data = hf.data.idx(folder, validation=0.0)
    part = keep_examples(data, examples * len(data.y) // len(data.train)).train
    model = build_network(NetworkConfig.section("two-layer", width=1000, activation="relu"), data, seed=0)
    threat = hf.LpBall("inf", 0.1, bounds=data.bounds)
    began = time.process_time()
    curve = optimal_robust_loss(
        ntk(model),
        part.x,
        part.y,
        threat,
        radii,
        classes=data.classes,
        tolerance=0.02,
        rounds=rounds,
        attack=hf.PGD(steps=20, start="example"),
        progress=lambda share: print(f"{share:.0%}", flush=True),
    )
    seconds = time.process_time() - began
    rows = [
        [f"{r:g}", span(low, high), f"{accuracy:.3f}", f"{clean:.4f}"]
        for r, low, high, accuracy, clean in zip(
            curve.radii,
            *(v.tolist() for v in (curve.lower, curve.upper, curve.accuracy, curve.clean_loss)),
            strict=True,
        )
    ]
    return (
        f"MNIST, {len(part.y):,} examples, ten classes, l-inf 0.1: {seconds:.0f} s of processor time, {curve.points:,} points in the end.\n\n"
        + table(("R", "optimal robust loss", "robust accuracy", "clean loss"), rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two pairs of digits")
    parser.add_argument("--data", type=Path, help="folder with MNIST; without it that part is left out")
    parser.add_argument("--examples", type=int, default=5000, help="of MNIST")
    parser.add_argument("--radii", type=float, nargs="+", default=[50.0, 200.0], help="of MNIST")
    parser.add_argument("--rounds", type=int, default=4, help="of solving and attacking, a radius of MNIST")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-digits", action="store_true")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    parts = [] if given.skip_digits else [digits(given.quick)]
    if given.data is not None:
        parts.append(mnist(given.data, given.examples, given.radii, given.rounds))
    text = f"## Optimal robust loss in the kernel limit\n\n`{command()}`; {machine()}.\n\n" + "\n\n".join(
        parts
    )
    print(text)
    if given.record:
        record("optimal-loss", text)


if __name__ == "__main__":
    main()
