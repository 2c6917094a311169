"""All 60,000 MNIST images, ten classes, two-layer softplus, l-inf 0.1 in [0, 1]: a certificate, its time and its memory.

Inputs are centred and scaled by one fixed affine map inside the network; the threat acts on the pixels. Widths are tried until
the certified gap passes 0.05. Each width runs in a process of its own, so that peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from harness import RESULTS, command, machine, record, table

import holdfast as hf


def run(folder: str, width: int, radius: float, epochs: int, examples: int | None) -> dict[str, float | str]:
    data = hf.data.idx(folder, flatten=True, validation=0.0)
    if examples is not None:
        part = data.train
        data = hf.data.from_tensors(
            part.x[:examples],
            part.y[:examples],
            bounds=data.bounds,
            validation=0.0,
            test=0.0,
            name="MNIST, first part",
        )
    threat = hf.LpBall("inf", 0.1, bounds=data.bounds)
    mean = data.train.x.mean(0)
    scale = float(0.75**0.5 / (data.train.x - mean).norm(dim=1).mean())
    model = hf.networks.TwoLayer(data.features, data.classes, width, scale=scale, center=mean, constant=0.5)
    began = time.perf_counter()
    done = hf.train(
        model,
        data,
        threat,
        attack=hf.PGD(steps=5, start="example"),
        parameter_radius=radius,
        learning_rate=radius / 2,
        epochs=epochs,
        batch_size=500,
        schedule="cosine",
        certificate=hf.CertificateSettings(tighten=4),
        final_attack=hf.PGD(steps=5, start="example"),
    )
    found = done.certificate
    return {
        "width": width,
        "radius": radius,
        "examples": len(data.train),
        "surrogate": found.surrogate_loss,
        "lower": found.lower_bound,
        "gap": found.gap,
        "status": found.status,
        "factor": found.width_factor,
        "robust": done.summary["robust_accuracy"],
        "training": done.summary["seconds"],
        "seconds": time.perf_counter() - began,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with the four IDX files")
    parser.add_argument("--widths", default="1000,2000,4000")
    parser.add_argument("--radius", type=float, default=60.0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--examples", type=int, default=None, help="the first so many only (a quick try)")
    parser.add_argument("--record", action="store_true", help=f"write the result into {RESULTS.name}")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(run(options.data, options.one, options.radius, options.epochs, options.examples)))
        return
    rows = []
    for width in (int(text) for text in options.widths.split(",")):
        child = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--one", str(width)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(child.stdout.splitlines()[-1])
        rows.append(
            [
                f"{found['examples']:,}",
                f"{width:,}",
                f"{found['radius']:g}",
                f"{found['surrogate']:.4f}",
                f"{found['lower']:.4f}",
                f"{found['gap']:.4f}",
                f"{found['factor']:.2f}",
                str(found["status"]),
                f"{found['robust']:.1%}",
                f"{found['training']:.0f}",
                f"{found['seconds']:.0f}",
                f"{found['memory']:.1f} GiB",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    header = (
        "examples",
        "units",
        "R",
        "surrogate",
        "lower bound",
        "gap",
        "width factor",
        "status",
        "robust accuracy (PGD-5)",
        "training s",
        "all s",
        "peak memory",
    )
    note = " ".join((__doc__ or "").split("\n\n")[1].split())
    shown = command().replace(options.data, "FOLDER")
    text = f"## Certificate: MNIST\n\n`{shown}`; {machine()}.\n\n{note}\n\n{table(header, rows)}\n"
    print(text)
    if options.record:
        record("mnist", text)


if __name__ == "__main__":
    main()
