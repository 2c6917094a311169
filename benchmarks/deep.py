"""The certificate of deep networks on digits 3 against 8: surrogate loss and certified gap by activation, depth, width and radius.

Data and threat are those of `reference_table.py` (pixels / 16 scaled to norm sqrt(3)/2 with a last coordinate 1/2, l2 radius 0.1 in the
first 64 coordinates, logistic loss). Projected momentum descent on attacked points, the same radius in every layer; the last
pass is certified, attacked by 10 steps of PGD. The start has loss log 2 = 0.6931. "Goal" is an independent prototype's loss / gap.
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
    radius: float | tuple[float, ...]
    target: str = ""
    quick: bool = False

    @property
    def radii(self) -> tuple[float, ...]:
        return self.radius if isinstance(self.radius, tuple) else (self.radius,) * self.depth

    @property
    def word(self) -> str:
        """What ``--only`` looks into, e.g. ``csp1-2-1024-0.5``; unequal radii are joined by commas."""
        radii = self.radii if isinstance(self.radius, tuple) else self.radii[:1]
        return f"{self.activation}-{self.depth}-{self.width}-{','.join(f'{r:g}' for r in radii)}"


ROWS = (
    Row("softplus", 2, 256, 1, "0.669 / 0.004", quick=True),
    Row("softplus", 2, 256, 2, "0.646 / 0.057"),
    Row("csp1", 2, 256, 1, quick=True),
    Row("softplus", 2, 1024, 1, "0.667 / <0.0001"),
    Row("softplus", 2, 1024, 2, "0.642 / 0.018"),
    Row("softplus", 2, 1024, 3, "0.619 / 0.073"),
    Row("softplus", 2, 1024, (2, 4), "0.620 / 0.040"),
    Row("csp1", 2, 1024, 0.5, "0.650 / <0.0001"),
    Row("csp1", 2, 1024, 1, "0.611 / 0.006"),
    Row("csp1", 2, 1024, 2, "0.545 / 0.097"),
    Row("csp2", 2, 1024, 2, "0.557 / 0.014"),
    Row("csp4", 2, 1024, 4, "0.479 / 0.064"),
    Row("tanh", 2, 1024, 0.5, "0.640 / 0.010"),
    Row("tanh", 2, 1024, 1, "0.594 / 0.119"),
    Row("csp1", 3, 1024, 0.1, "0.679 / 0.006"),
    Row("csp1", 3, 1024, 0.2, "0.666 / 0.037"),
    Row("csp4", 3, 1024, 0.5, "0.637 / 0.013"),
    Row("csp8", 3, 1024, 0.8),
    Row("csp4", 3, 4096, 1),
    Row("softplus", 2, 4096, 2, "0.643 / 0.003"),
    Row("softplus", 2, 4096, 3, "0.620 / 0.022"),
    Row("csp1", 2, 4096, 2, "0.547 / 0.021"),
    Row("csp1", 2, 4096, 3, "0.497 / 0.118"),
    Row("csp2", 2, 4096, 4, "0.476 / 0.086"),
)


def trained(
    row: Row, data: hf.data.Dataset, threat: hf.Threat, *, rounds: int
) -> tuple[hf.networks.Dense, dict[str, torch.Tensor]]:
    """Projected momentum descent in float32; attacks as long as the width allows. Steps begin as long as suits the ball and are halved
    whenever the loss rises; the best weights met are kept."""
    model = hf.networks.Dense(
        data.features, data.classes, row.width, row.depth, row.activation, input_layer=False, output="signed"
    )
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    balls = [
        ParameterBall(names=((f"weights.{h}",),), initial=initial, radius=radius * (1 - 1e-4))
        for h, radius in enumerate(row.radii)
    ]
    attack = hf.PGD(steps=10 if row.width <= 1024 else 3, start="example")
    x, y, loss = data.train.x, data.train.y, CrossEntropy()
    momentum = [torch.zeros_like(w) for w in model.weights]
    rates: list[float] = []
    lowest, last, best = float("inf"), float("inf"), list(model.weights)
    for step in range(rounds + 1):
        points = attack.points(
            model, x, y, threat, generator=torch.Generator().manual_seed(0), loss=loss, mode="eval"
        )
        value = loss(model(points), y).mean()
        gradients = torch.autograd.grad(value, list(model.weights))
        now = float(value.detach())
        if now < lowest:
            lowest, best = now, [w.detach().clone() for w in model.weights]
        if step == rounds:
            break
        if not rates:
            rates = [r / (4 * float(g.norm())) for g, r in zip(gradients, row.radii, strict=True)]
        with torch.no_grad():
            if now > last + 1e-4:
                rates = [rate / 2 for rate in rates]
                for m in momentum:
                    m.zero_()
            for w, m, g, rate in zip(model.weights, momentum, gradients, rates, strict=True):
                m.mul_(0.7).add_(g)
                w.sub_(rate * m)
        last = now
        for ball in balls:
            ball.project(model)
    with torch.no_grad():
        for w, kept in zip(model.weights, best, strict=True):
            w.copy_(kept)
    return model, initial


def run(row: Row, *, quick: bool) -> list[str]:
    data = on_sphere(hf.data.digits(classes=(3, 8), validation=0.0, test=0.0))
    threat = hf.LpBall("2", 0.1, fixed=data.fixed)
    began = time.perf_counter()
    model, initial = trained(row, data, threat, rounds=10 if quick else 30 if row.width <= 1024 else 20)
    middle = time.perf_counter()
    found = hf.certify(
        model,
        initial,
        data.train.x,
        data.train.y,
        threat,
        hf.PGD(steps=10, start="example"),
        row.radius,
    )
    seconds = time.perf_counter() - middle
    cells = [
        f"{row.activation}, {row.depth}",
        f"{row.width:,}",
        ", ".join(f"{r:g}" for r in (row.radii if isinstance(row.radius, tuple) else row.radii[:1])),
        f"{found.surrogate_loss:.4f}",
        f"{found.gap:.5f}",
        row.target,
        f"{found.width_factor:.2f}",
        found.status,
        f"{middle - began:.0f}",
        f"{seconds:.0f}",
    ]
    print(" | ".join(cells), flush=True)
    return cells


def main() -> None:
    options = arguments(__doc__ or "")
    rows = [
        run(row, quick=options.quick)
        for row in ROWS
        if options.only in row.word and (row.quick or not options.quick)
    ]
    header = (
        "activation, layers",
        "width",
        "R",
        "surrogate loss",
        "certified gap",
        "target (loss / gap)",
        "width factor",
        "status",
        "seconds of training",
        "seconds of certifying",
    )
    text = (
        f"## Deep certificates: digits 3 against 8\n\n`{command()}`; {machine()}.\n\n{table(header, rows)}\n"
    )
    print(text)
    if options.record:
        record("deep", text)


if __name__ == "__main__":
    main()
