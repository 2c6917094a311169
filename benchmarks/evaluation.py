"""The suites against the reference implementation of AutoAttack, on the same points, in turns.

The network: MNIST's challenge conv net, trained by `holdfast train` with PGD at l-inf 0.3 (`--run FOLDER`, else trained first: half an
hour on two cores). The points: the first 500 of the test part that the network classifies correctly count as robust or broken. The
reference is used where its repository lies on the path (`--reference FOLDER`, the one that holds `autoattack/`); without it ours
alone is measured. Per seed the three take turns in changing order; times are of the processor (all threads), which other work
on the machine disturbs least.
"""

import argparse
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
from holdfast.runs.run import read_weights

THREAT = "linf:0.3"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="path/to/mnist", help="folder of MNIST's IDX files")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/benchmark-conv"), help="folder of the trained conv net"
    )
    parser.add_argument("--reference", type=Path, help="folder that holds autoattack/")
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="60 points, one seed")
    parser.add_argument("--record", action="store_true", help="write the result into RESULTS.md")
    given = parser.parse_args()
    points, seeds = (60, 1) if given.quick else (given.points, given.seeds)
    if not (given.run / "last.safetensors").exists():
        train(given.data, given.run)
    model = hf.networks.MNISTConv()
    model.load_state_dict(read_weights(given.run / "last.safetensors"))
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    data = hf.data.idx(given.data)
    x, y = data.test.x[:points], data.test.y[:points].long()
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
    rows = []
    for name, results in found.items():
        times = [seconds for _, seconds in results]
        ratio = "1" if name == "reference" else ""
        if "reference" in found and name != "reference":
            ratios = [a / b for (_, a), (_, b) in zip(results, found["reference"], strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        rows.append(
            [name, ", ".join(str(left) for left, _ in results), f"{statistics.median(times):.1f}", ratio]
        )
    text = "\n".join(
        [
            f"`{command()}`, {machine()}.",
            "",
            f"{points} MNIST test points, conv net, l-inf 0.3; clean: {int((model(x).argmax(1) == y).sum())} right.",
            "",
            table(["suite", "points left, by seed", "CPU seconds", "of the reference's time"], rows),
            "",
            *stages,
        ]
    )
    print(text)
    if given.record:
        record("evaluation", f"## Suites against AutoAttack\n\n{text}")


def train(data: str, out: Path) -> None:
    """The network that everything here is about."""
    options = shlex.split(
        "--network mnist-conv --parameter-radius null --examples 14000 --epochs 8 --batch-size 100 --attack.steps 7 --optimizer adam"
        " --learning-rate 0.0005 --evaluation.steps 5 --training.evaluate-every 4 --certificate.trace false"
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "holdfast",
            "train",
            "--data",
            data,
            "--threat",
            THREAT,
            *options,
            "--out",
            str(out),
        ],
        check=True,
    )


def standard(model: nn.Module, x: Tensor, y: Tensor, threat: hf.LpBall, seed: int) -> tuple[int, str]:
    result = evaluate(model, x, y, threat, "standard", seed=seed)
    seconds = "; ".join(f"{s.name}: {s.entered} in, {s.left} left, {s.seconds:.1f} s" for s in result.stages)
    return int(result.robust.sum()), seconds


def fast(model: nn.Module, x: Tensor, y: Tensor, threat: hf.LpBall, seed: int) -> tuple[int, str]:
    return int(evaluate(model, x, y, threat, "fast", seed=seed).robust.sum()), ""


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
