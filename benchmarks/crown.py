"""CROWN on a 784-1024-1024-10 ReLU network, l-inf 0.1: processor time, memory and bounds, against auto_LiRPA in turns.

The peer is optional: give the interpreter's path where it lies (`PYTHONPATH`); without it ours alone is measured. Each side runs in a
process of its own, so that its greatest memory is its own; times are of the processor, one thread, without imports.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from harness import command, machine, record, table
from torch import nn

RADIUS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="10 points, once")
    parser.add_argument("--record", action="store_true", help="write the result into RESULTS.md")
    parser.add_argument("--side", choices=sorted(SIDES), help="measure one side in this process, as JSON")
    given = parser.parse_args()
    points, repeats = (10, 1) if given.quick else (given.points, given.repeats)
    if given.side:
        print(json.dumps(measured(given.side, given.points)))
        return
    found: dict[str, list[dict[str, object]]] = {name: [] for name in SIDES}
    for turn in range(repeats):
        for name in sorted(SIDES, reverse=bool(turn % 2)):
            call = [sys.executable, str(Path(__file__)), "--side", name, "--points", str(points)]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
            else:
                print(f"{name} is left out: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    text = summary(found, points)
    print(text)
    if given.record:
        record("crown", text)


def summary(found: dict[str, list[dict[str, object]]], points: int) -> str:
    rows = []
    for name, runs in found.items():
        if runs:
            seconds = statistics.median(float(str(run["seconds"])) for run in runs)
            memory = max(float(str(run["memory"])) for run in runs)
            rows.append([name, f"{seconds:.2f}", f"{1000 * seconds / points:.1f}", f"{memory:.0f}"])
    lines = [f"`{command()}`; {machine()}", ""]
    lines.append(table(["", "processor seconds", "ms a point", "MB above the start"], rows))
    if all(found.values()):
        ratios = [
            float(str(a["seconds"])) / float(str(b["seconds"]))
            for a, b in zip(found["holdfast"], found["auto_LiRPA"], strict=False)
        ]
        ours, theirs = (
            torch.tensor(found[name][0]["margins"], dtype=torch.float64)
            for name in ("holdfast", "auto_LiRPA")
        )
        looser = float(((theirs - ours) / (1 + theirs.abs())).max())
        lines += [
            "",
            f"Ratio {statistics.median(ratios):.2f} (target 0.40); ours looser by at most {looser:.1e} of a margin.",
        ]
    return "\n".join(lines)


def measured(side: str, points: int) -> dict[str, object]:
    """Seconds, MB above what was held before, and least margins."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    ).eval()
    x = torch.rand(points, 784)
    y = net(x).argmax(1)
    prove = SIDES[side]
    prove(net, x[:1], y[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    margins = prove(net, x, y)
    seconds = time.process_time() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": seconds, "memory": memory, "margins": margins.tolist()}


def ours(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    import holdfast as hf

    return hf.verify(net, x, y, hf.LpBall("inf", RADIUS, bounds=(0.0, 1.0)), "crown").margin_lower_bound


def theirs(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # type: ignore[import-not-found]

    others = torch.stack([torch.tensor([j for j in range(10) if j != int(label)]) for label in y])
    rows = torch.eye(10)[y][:, None] - torch.eye(10)[others]
    low, high = (x - RADIUS).clamp(0, 1), (x + RADIUS).clamp(0, 1)
    bounded = BoundedModule(net, torch.empty_like(x), device="cpu")
    point = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high))
    lower, _ = bounded.compute_bounds(x=(point,), C=rows, method="CROWN", bound_upper=False)
    least: torch.Tensor = lower.detach().amin(1).double()
    return least


SIDES = {"auto_LiRPA": theirs, "holdfast": ours}

if __name__ == "__main__":
    main()
