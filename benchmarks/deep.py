"""The certificate of deep networks on digits 3 against 8: surrogate loss and certified gap by activation, depth, width and radius.

Data and threat are those of `reference_table.py` (pixels / 16 scaled to norm sqrt(3)/2 with a last coordinate 1/2, l2 radius 0.1 in the
first 64 coordinates, logistic loss). Projected momentum descent on attacked points, the same radius in every layer; the last
pass is certified, attacked by 10 steps of PGD. The start has loss log 2 = 0.6931. "Aim" is an independent prototype's loss / gap.
"""

import time
from dataclasses import dataclass

import torch
from harness import arguments, command, machine, record, table

import holdfast as hf
from holdfast.data import on_sphere
from holdfast.losses import CrossEntropy
from holdfast.training.ball import ParameterBall


@dataclass(frozen=True)
class Row:
    """A network, the radius of each layer's ball, the figures to reach, and whether the quick form includes it."""

    activation: str
    depth: int
    width: int
    radius: float
    aim: str
    quick: bool = False


ROWS = (
    Row("softplus", 2, 256, 1, "0.669 / 0.004", quick=True),
    Row("softplus", 2, 256, 2, "0.646 / 0.057"),
    Row("csp1", 2, 256, 1, "", quick=True),
    Row("softplus", 2, 1024, 2, "0.642 / 0.018"),
    Row("softplus", 2, 1024, 3, "0.619 / 0.073"),
    Row("csp1", 2, 1024, 0.5, "0.650 / <0.0001"),
    Row("csp1", 2, 1024, 1, "0.611 / 0.006"),
    Row("csp1", 2, 1024, 2, "0.545 / 0.097"),
    Row("csp2", 2, 1024, 2, "0.557 / 0.014 (1024 or 4096)"),
    Row("csp4", 2, 1024, 4, "0.479 / 0.064"),
    Row("tanh", 2, 1024, 0.5, "0.640 / 0.010"),
    Row("csp1", 3, 1024, 0.1, "0.679 / 0.006"),
    Row("csp4", 3, 1024, 0.5, "0.637 / 0.013"),
    Row("csp1", 2, 4096, 2, "0.547 / 0.021"),
)


def trained(
    row: Row, data: hf.data.Dataset, threat: hf.Threat, *, rounds: int
) -> tuple[hf.networks.Dense, dict[str, torch.Tensor]]:
    """Projected momentum descent in float32; steps as long as suits the ball, attacks as long as the width allows."""
    model = hf.networks.Dense(
        data.features, data.classes, row.width, row.depth, row.activation, input_layer=False, output="signed"
    )
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    names = tuple((f"weights.{h}",) for h in range(row.depth))
    ball = ParameterBall(
        names=names, initial={n: initial[n] for (n,) in names}, radius=row.radius * (1 - 1e-4)
    )
    attack = hf.PGD(steps=10 if row.width <= 1024 else 3, start="example")
    x, y, loss = data.train.x, data.train.y, CrossEntropy()
    momentum = [torch.zeros_like(w) for w in model.weights]
    rates: list[float] = []
    for _ in range(rounds):
        points = attack.points(
            model, x, y, threat, generator=torch.Generator().manual_seed(0), loss=loss, mode="eval"
        )
        value = loss(model(points), y).mean()
        gradients = torch.autograd.grad(value, list(model.weights))
        if not rates:
            rates = [row.radius / (4 * float(g.norm())) for g in gradients]
        with torch.no_grad():
            for w, m, g, rate in zip(model.weights, momentum, gradients, rates, strict=True):
                m.mul_(0.7).add_(g)
                w.sub_(rate * m)
        ball.project(model)
    return model, initial


def run(row: Row, *, quick: bool) -> list[str]:
    data = on_sphere(hf.data.digits(classes=(3, 8), validation=0.0, test=0.0))
    threat = hf.LpBall("2", 0.1, fixed=data.fixed)
    began = time.perf_counter()
    model, initial = trained(row, data, threat, rounds=10 if quick else 30 if row.width <= 1024 else 20)
    middle = time.perf_counter()
    found = hf.certify(
        model, initial, data.train.x, data.train.y, threat, hf.PGD(steps=10, start="example"), row.radius
    )
    seconds = time.perf_counter() - middle
    cells = [
        f"{row.activation}, {row.depth}", f"{row.width:,}", f"{row.radius:g}", f"{found.surrogate_loss:.4f}",
        f"{found.gap:.5f}", row.aim, f"{found.width_factor:.2f}", found.status, f"{middle - began:.0f}", f"{seconds:.0f}",
    ]  # fmt: skip
    print(" | ".join(cells), flush=True)
    return cells


def main() -> None:
    options = arguments(__doc__ or "")
    rows = [
        run(row, quick=options.quick)
        for row in ROWS
        if options.only in f"{row.activation}-{row.depth}-{row.width}-{row.radius:g}"
        and (row.quick or not options.quick)
    ]
    header = (
        "activation, layers", "width", "R", "surrogate loss", "certified gap", "aim (loss / gap)", "width factor", "status",
        "seconds of training", "seconds of certifying",
    )  # fmt: skip
    text = (
        f"## Deep certificates: digits 3 against 8\n\n`{command()}`; {machine()}.\n\n{table(header, rows)}\n"
    )
    print(text)
    if options.record:
        record("deep", text)


if __name__ == "__main__":
    main()
