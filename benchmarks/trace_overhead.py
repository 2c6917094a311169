"""Training with the trace against training without it: the price of a certificate.

Both are the whole job (`holdfast.train`) on the same data, seed and network, timed by its own record of the seconds spent in
training: attack, gradient, step, projection and, with the trace, its recording, window by window, at the rhythm the job
chooses for itself. Evaluation and the certificate itself come after training and are not part of the promise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import arguments, command, interleaved, machine, record, table

from holdfast import CertificateSettings, ValidationSettings
from holdfast.attacks import PGD, CleanAttack
from holdfast.data import Dataset, digits, from_tensors
from holdfast.jobs.train import train
from holdfast.networks import TwoLayer
from holdfast.threats import LpBall

PROMISED = 1.10


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training job; ``epochs`` cover several recorded windows."""

    data: Callable[[], Dataset]
    width: int
    activation: str
    norm: str
    threat_radius: float
    radius: float
    epochs: int
    batch_size: int | None


def binary() -> Dataset:
    return digits(classes=(3, 8))


def like_mnist() -> Dataset:
    """Ten classes of 784 features, half of them 0; only sizes matter here."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.rand(10, 784, generator=draw)
    y = torch.arange(2560) % 10
    x = (centres[y] + 0.1 * torch.randn(len(y), 784, generator=draw)).clamp(0.0, 1.0)
    return from_tensors(x, y, bounds=(0.0, 1.0))


CASES: dict[str, Case] = {
    "digits 3v8, full batch, softplus 2,000": Case(
        data=binary,
        width=2000,
        activation="softplus",
        norm="2",
        threat_radius=0.1,
        radius=20.0,
        epochs=60,
        batch_size=None,
    ),
    "digits 3v8, full batch, ReLU 2,000": Case(
        data=binary,
        width=2000,
        activation="relu",
        norm="2",
        threat_radius=0.1,
        radius=20.0,
        epochs=60,
        batch_size=None,
    ),
    "digits, ten classes, batch 128, softplus 4,000": Case(
        data=digits,
        width=4000,
        activation="softplus",
        norm="2",
        threat_radius=0.1,
        radius=60.0,
        epochs=20,
        batch_size=128,
    ),
    "784 features, ten classes, batch 128, softplus 4,000": Case(
        data=like_mnist,
        width=4000,
        activation="softplus",
        norm="inf",
        threat_radius=0.1,
        radius=60.0,
        epochs=4,
        batch_size=128,
    ),
}


def trained(case: Case, data: Dataset, *, trace: bool) -> float:
    """Seconds spent in training."""
    model = TwoLayer(data.features, data.classes, case.width, case.activation)
    run = train(
        model,
        data,
        LpBall(case.norm, case.threat_radius),
        attack=PGD(steps=10),
        parameter_radius=case.radius,
        epochs=case.epochs,
        batch_size=case.batch_size,
        progress=False,
        certificate=CertificateSettings(trace=trace, tighten=1),
        validation=ValidationSettings(attack=CleanAttack(), every=case.epochs),
        final_attack=CleanAttack(),
        allow_incompatible=True,
    )
    return float(run.summary["seconds"])


def main() -> None:
    chosen = arguments(__doc__ or "")
    rows = []
    for name, case in CASES.items():
        if chosen.only not in name:
            continue
        data = case.data()
        ratio = interleaved(
            lambda: trained(case, data, trace=True),  # noqa: B023
            lambda: trained(case, data, trace=False),  # noqa: B023
            repeats=3 if chosen.quick else 9,
            clock=lambda work: work(),  # type: ignore[arg-type, return-value]
        )
        rows.append([name, f"{ratio.ours:.2f}", f"{ratio.floor:.2f}", ratio.text, f"{PROMISED:.2f}"])
        print(" | ".join(rows[-1]), flush=True)
    if chosen.record:
        header = ["training, PGD-10", "with trace, s", "without, s", "ratio: median (range)", "promised"]
        record(
            "trace_overhead",
            f"## Trace overhead\n\n`{command()}`: {machine()}.\n\n{__doc__}\n{table(header, rows)}\n",
        )


if __name__ == "__main__":
    main()
