"""Ten digits, signed one-hot outputs: the certified gap against width.

400 examples scaled to norm sqrt(3)/2 with a last coordinate 1/2, l2 radius 0.1, softplus, R = 60; f_c is m^(-1/2) times a sum over
all m units. The target is a gap of at most 0.09 at 10 x 4,000 units (an independent prototype's), then at most 0.01.
"""

import time

from harness import arguments, command, machine, record, table

import holdfast as hf
from holdfast.data import on_sphere

EXAMPLES = 400
CASES = tuple((60.0, width) for width in (4_000, 10_000, 20_000, 40_000))


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
        model,
        data,
        threat,
        attack=attack,
        parameter_radius=radius,
        learning_rate=radius * 2 / 3,
        epochs=10 if quick else 50,
        schedule="cosine",
        certificate=hf.CertificateSettings(tighten=10 if quick else 60 if width <= 20_000 else 20),
        final_attack=hf.PGD(steps=1),
        progress=False,
    )
    found = done.certificate
    cells = [
        f"{radius:.4g}",
        f"10 x {width // 10:,}",
        f"{found.surrogate_loss:.4f}",
        f"{found.lower_bound:.4f}",
        f"{found.gap:.4f}",
        f"{found.width_factor:.2f}",
        found.status,
        f"{time.perf_counter() - began:.0f}",
    ]
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
