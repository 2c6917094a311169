"""Ten digits, signed one-hot outputs: the certified gap against width.

400 examples scaled to norm sqrt(3)/2 with a last coordinate 1/2, l2 radius 0.1, softplus. Outputs are m^(-1/2) sums over all m
units. Written with each output normalised by its own m / 10 units, the ball of radius R here is that of radius R / sqrt(10): both
R = 60 and R = 60 sqrt(10) are shown, so that either reading of "radius 60" can be compared.
"""

import math
import time

from harness import arguments, command, machine, record, table

import holdfast as hf
from holdfast.data import on_sphere

EXAMPLES = 400
CASES = tuple((60.0, width) for width in (4_000, 10_000, 20_000, 40_000, 80_000)) + tuple(
    (60.0 * math.sqrt(10), width) for width in (10_000, 40_000, 160_000)
)


def run(radius: float, width: int, *, quick: bool) -> list[str]:
    digits = hf.data.digits()
    data = on_sphere(
        hf.data.from_tensors(
            digits.x[:EXAMPLES], digits.y[:EXAMPLES], bounds=(0.0, 1.0), validation=0.0, test=0.0
        )
    )
    threat = hf.LpBall("2", 0.1, fixed=data.fixed)
    attack = hf.PGD(steps=10, start="example")
    model = hf.networks.TwoLayer(data.features, data.classes, width)
    began = time.perf_counter()
    done = hf.train(
        model, data, threat, attack=attack, parameter_radius=radius, learning_rate=radius * 2 / 3, epochs=10 if quick else 60,
        schedule="cosine", tighten=10 if quick else 60, final_attack=hf.PGD(steps=1), progress=False,
    )  # fmt: skip
    found = done.certificate
    cells = [
        f"{radius:.4g}", f"10 x {width // 10:,}", f"{found.surrogate_loss:.4f}", f"{found.lower_bound:.4f}", f"{found.gap:.4f}",
        f"{found.width_factor:.2f}", found.status, f"{time.perf_counter() - began:.0f}",
    ]  # fmt: skip
    print(" | ".join(cells), flush=True)
    return cells


def main() -> None:
    options = arguments(__doc__ or "")
    cases = [case for case in CASES if options.only in f"{case[0]:.0f}-{case[1]}"]
    rows = [
        run(radius, width, quick=options.quick) for radius, width in (cases[:2] if options.quick else cases)
    ]
    header = ("R", "units", "surrogate", "lower bound", "gap", "width factor", "status", "seconds")
    note = " ".join((__doc__ or "").split("\n\n")[1].split())
    text = f"## Certificate: ten digits, gap against width\n\n`{command()}`; {machine()}.\n\n{note}\n\n{table(header, rows)}\n"
    print(text)
    if options.record:
        record("ten-classes", text)


if __name__ == "__main__":
    main()
