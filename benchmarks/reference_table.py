"""The certificate on digits 3 against 8: surrogate loss, best recorded round, tightened, and a matrix a unit.

The set-up is that of the design's reference figures: pixels / 16 scaled to norm sqrt(3)/2 with a last coordinate 1/2, l2
radius 0.1 in the first 64 coordinates, logistic loss, full batch, 10-step PGD, paired Gaussian start. The columns named
"target" are those reference figures, from an independent prototype.
"""

import time
from dataclasses import dataclass

from harness import arguments, command, machine, record, table

import holdfast as hf
from holdfast.data import on_sphere


@dataclass(frozen=True)
class Row:
    """One line of the table: a network, a ball, the training that reaches its edge, and the figures to reach."""

    activation: str
    width: int
    radius: float
    centred: bool
    learning_rate: float
    momentum: float
    schedule: str
    epochs: int
    targets: tuple[str, str, str, str]  # surrogate, best round, tightened, per unit


ROWS = (
    Row("softplus", 2_000, 5, False, 2.0, 0.9, "constant", 80, ("0.5952", "0.5952", "", "")),
    Row("softplus", 2_000, 20, False, 7.0, 0.0, "constant", 350, ("0.4327", "0.3757", "0.3891", "0.3913")),
    Row("softplus", 20_000, 20, False, 4.0, 0.9, "constant", 80, ("0.4340", "0.4331", "", "")),
    Row("softplus", 2_000, 20, True, 4.0, 0.9, "constant", 120, ("0.1452", "0.1446", "", "")),
    Row("relu", 2_000, 5, False, 2.5, 0.0, "cosine", 200, ("0.5566", "0.3692", "0.4109", "0.4521")),
    Row("relu", 20_000, 5, False, 1.0, 0.9, "constant", 60, ("0.5515", "0.4428", "0.4670", "")),
    Row("relu", 2_000, 5, True, 0.5, 0.9, "constant", 150, ("0.3801", "0.3608", "0.3662", "0.3766")),
)


def run(row: Row, *, quick: bool) -> list[str]:
    data = on_sphere(hf.data.digits(classes=(3, 8), validation=0.0, test=0.0), center=row.centred)
    threat = hf.LpBall("2", 0.1, fixed=data.fixed)
    attack = hf.PGD(steps=10, start="example")
    model = hf.networks.TwoLayer(data.features, data.classes, row.width, row.activation)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    began = time.perf_counter()
    done = hf.train(
        model,
        data,
        threat,
        attack=attack,
        parameter_radius=row.radius,
        learning_rate=row.learning_rate,
        optimizer=hf.optimizers.SGD(momentum=row.momentum),
        schedule=row.schedule,
        epochs=20 if quick else row.epochs,
        certificate=hf.CertificateSettings(trace_every=1, tighten=20 if quick else 200),
        final_attack=attack,
        progress=False,
    )
    seconds = time.perf_counter() - began
    certificate = done.certificate
    windows = [m for m in done.metrics if m["lower_bound"] is not None]
    best = max(windows, key=lambda m: m["lower_bound"])
    per_unit = ""
    if row.width <= 2_000 and row.targets[2] and not quick:
        finer = hf.certify(
            model, initial, data.train.x, data.train.y, threat, attack, row.radius, tighten=120, per_unit=True
        )
        per_unit = f"{finer.lower_bound:.4f}"
    target = [f" ({text})" if text else "" for text in row.targets]
    cells = [
        f"{row.activation}{', centred' if row.centred else ''}",
        f"{row.width:,}",
        f"{row.radius:g}",
        f"{certificate.surrogate_loss:.4f}{target[0]}",
        f"{best['lower_bound']:.4f}{target[1]} (round {best['rounds']})",
        f"{certificate.lower_bound:.4f}{target[2]}",
        f"{per_unit}{target[3]}",
        f"{certificate.gap:.4f}",
        f"{certificate.width_factor:.1f}",
        certificate.status,
        f"{seconds:.0f}",
    ]
    print(" | ".join(cells), flush=True)
    return cells


def main() -> None:
    options = arguments(__doc__ or "")
    rows = [
        run(row, quick=options.quick)
        for row in ROWS
        if options.only in f"{row.activation}-{row.width}-{row.radius:g}"
    ]
    header = (
        "network",
        "units",
        "R",
        "surrogate (target)",
        "best round (target)",
        "tightened (target)",
        "per unit (target)",
        "gap",
        "width factor",
        "status",
        "seconds",
    )
    text = f"## Certificate: digits 3 against 8\n\n`{command()}`; {machine()}.\n\n{table(header, rows)}\n"
    print(text)
    if options.record:
        record("reference-table", text)


if __name__ == "__main__":
    main()
