"""The suites against the reference implementation of AutoAttack, on the same points, in turns.

The network: a small conv net (`small_conv`: 16 and 32 channels with stride 2, 100 units), trained by `holdfast train` with PGD at l-inf 0.3 on all
of MNIST, from weights warmed up at 0.15, as it else stays at chance. Without ``--run`` it is trained first (some 15 minutes of one
idle core), by these commands:

    export PYTHONPATH=benchmarks
    common="--data FOLDER --network evaluation:small_conv --parameter-radius null --optimizer adam --batch-size 128 --evaluation.steps 10
      --final.steps 20 --final.restarts 1 --certificate.trace false --certificate.tighten 0"
    holdfast train $common --threat linf:0.15 --examples 20000 --attack.steps 5 --epochs 3 --learning-rate 0.002 --out WARM
    holdfast train $common --threat linf:0.3 --attack.steps 7 --epochs 12 --learning-rate 0.002
      --training.schedule linear --network.init-args.start WARM/last.safetensors --out MIDDLE
    holdfast train $common --threat linf:0.3 --attack.steps 4 --attack.step-size 0.15 --epochs 10 --learning-rate 0.005
      --training.schedule linear --network.init-args.start MIDDLE/last.safetensors --out RUN

``--network mnist-conv`` takes the run of MNIST's challenge net instead (25 times the work). The points: of the test part, past those
that `fast` was chosen on. The
reference is used where its repository lies (`--reference FOLDER`, the one that holds `autoattack/`); without it ours alone is measured. Per
seed the three take turns in changing order; times are of the processor (all threads), which other work on the machine disturbs least.
Ratios are of one seed's neighbours in time; `fast` is also set against `standard`.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from harness import command, machine, record, table
from torch import Tensor, nn

import holdfast as hf
from holdfast.evaluation import evaluate
from holdfast.record.run import read_weights

COMMON = (
    "--network evaluation:small_conv --parameter-radius null --optimizer adam --batch-size 128 --evaluation.steps 10"
    " --final.steps 20 --final.restarts 1 --certificate.trace false --certificate.tighten 0"
)
STAGES = (
    "--threat linf:0.15 --examples 20000 --attack.steps 5 --epochs 3 --learning-rate 0.002",
    "--threat linf:0.3 --attack.steps 7 --epochs 12 --learning-rate 0.002 --training.schedule linear",
    "--threat linf:0.3 --attack.steps 4 --attack.step-size 0.15 --epochs 10 --learning-rate 0.005 --training.schedule linear",
)


def small_conv(classes: int = 10, start: str | None = None) -> nn.Sequential:
    """The network measured; ``start``: a file of weights to begin with."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )
    if start is not None:
        net.load_state_dict(read_weights(Path(start)))
    return net


NETWORKS = {"small-conv": small_conv, "mnist-conv": hf.networks.MNISTConv}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="path/to/mnist", help="folder of MNIST's IDX files")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/benchmark-conv"), help="folder of the trained conv net"
    )
    parser.add_argument("--network", choices=sorted(NETWORKS), default="small-conv", help="of that run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reference", type=Path, help="folder that holds autoattack/")
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument(
        "--skip", type=int, default=500, help="test points passed over first: those that `fast` was chosen on"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="60 points, one seed")
    parser.add_argument("--record", action="store_true", help="write the result into RESULTS.md")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    points, seeds = (60, 1) if given.quick else (given.points, given.seeds)
    if not (given.run / "last.safetensors").exists():
        train(given.data, given.run)
    model = NETWORKS[given.network]()
    model.load_state_dict(read_weights(given.run / "last.safetensors"))
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    data = hf.data.idx(given.data)
    rows = slice(given.skip, given.skip + points)
    x, y = data.test.x[rows], data.test.y[rows].long()
    x = x.reshape(len(x), 1, 28, 28)
    threat = hf.LpBall("inf", 0.3, bounds=(0.0, 1.0))

    found: dict[str, list[tuple[int, float]]] = {}
    stages = []
    for seed in range(seeds):
        turns = [("standard", standard), ("fast", fast)]
        if given.reference is not None:
            sys.path.insert(0, str(given.reference))
            turns.append(("reference", reference))
        for name, work in turns[seed % len(turns) :] + turns[: seed % len(turns)]:
            began = time.process_time()
            left, detail = work(model, x, y, threat, seed)
            found.setdefault(name, []).append((left, time.process_time() - began))
            print(
                f"seed {seed}: {name} leaves {left} of {points} in {found[name][-1][1]:.1f} CPU s {detail}",
                flush=True,
            )
            if name == "standard" and seed == 0:
                stages.append(detail)
    lines = []
    for name, results in found.items():
        times = [seconds for _, seconds in results]
        lines.append(
            [
                name,
                ", ".join(str(left) for left, _ in results),
                f"{statistics.median(times):.1f}",
                *(ratios(results, found.get(other)) for other in ("reference", "standard")),
            ]
        )
    text = "\n".join(
        [
            f"`{command()}`, {machine()}.",
            "",
            f"{points} MNIST test points from number {given.skip} on, {given.network}, l-inf 0.3; clean: {int((model(x).argmax(1) == y).sum())} right.",
            "",
            table(
                [
                    "suite",
                    "points left, by seed",
                    "CPU seconds",
                    "of the reference's time",
                    "of `standard`'s time",
                ],
                lines,
            ),
            "",
            *stages,
        ]
    )
    print(text)
    if given.record:
        record("evaluation", f"## Suites against AutoAttack\n\n{text}")


def ratios(ours: list[tuple[int, float]], others: list[tuple[int, float]] | None) -> str:
    """Median and range over the seeds of how the times compare."""
    if others is None or ours is others:
        return ""
    values = [mine / theirs for (_, mine), (_, theirs) in zip(ours, others, strict=True)]
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"


def train(data: str, out: Path) -> None:
    """The network that everything here is about, in three stages, each from the weights of the one before."""
    names = [out.with_name(f"{out.name}-{word}") for word in ("warm", "middle")] + [out]
    start: list[str] = []
    here = str(Path(__file__).parent)
    for stage, folder in zip(STAGES, names, strict=True):
        call = [
            sys.executable,
            "-m",
            "holdfast",
            "train",
            "--data",
            data,
            *shlex.split(f"{COMMON} {stage}"),
            *start,
        ]
        subprocess.run([*call, "--out", str(folder)], check=True, env={**os.environ, "PYTHONPATH": here})
        start = ["--network.init-args.start", str((folder / "last.safetensors").resolve())]


def standard(model: nn.Module, x: Tensor, y: Tensor, threat: hf.LpBall, seed: int) -> tuple[int, str]:
    result = evaluate(model, x, y, threat, "standard", seed=seed, verify=None)
    seconds = "; ".join(f"{s.name}: {s.entered} in, {s.left} left, {s.seconds:.1f} s" for s in result.stages)
    return int(result.robust.sum()), seconds


def fast(model: nn.Module, x: Tensor, y: Tensor, threat: hf.LpBall, seed: int) -> tuple[int, str]:
    return int(evaluate(model, x, y, threat, "fast", seed=seed, verify=None).robust.sum()), ""


def reference(model: nn.Module, x: Tensor, y: Tensor, threat: hf.LpBall, seed: int) -> tuple[int, str]:
    from autoattack import AutoAttack

    attack = AutoAttack(
        model, norm="Linf", eps=threat.radius, version="standard", seed=seed, device="cpu", verbose=False
    )
    points = attack.run_standard_evaluation(x, y, bs=250)
    with torch.no_grad():
        return int((model(points).argmax(1) == y).sum()), ""


if __name__ == "__main__":
    main()
