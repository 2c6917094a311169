"""PGD and the PGD training step against their floor: the network passes they cannot do without.

Floor of an attack of K steps: K times forward and gradient in the input, parameters frozen, from given slopes at the outputs.
Floor of a training step: that, and one forward pass with the gradient in the parameters. No loss, no step, no projection, no
random start and no optimiser: all of those count against Holdfast. The training step is the real loop (`holdfast.training.fit`,
an epoch of several rounds, SGD with momentum, weights projected onto the ball of radius 20).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import arguments, command, interleaved, machine, record, table
from lightning_fabric import Fabric
from torch import Tensor, nn

from holdfast.attacks import PGD
from holdfast.losses import CrossEntropy
from holdfast.networks import MNISTConv, TwoLayer
from holdfast.threats import LpBall, Threat
from holdfast.training import ParameterBall, TrainingState, fit

BATCH = 128
FEATURES = 784
STEPS = 10

UNIT = (0.0, 1.0)
THREATS: dict[str, Threat] = {
    "linf, box": LpBall("inf", 0.1, bounds=UNIT),
    "l2": LpBall("2", 2.0),
    "l2, box": LpBall("2", 2.0, bounds=UNIT),
    "l1, box": LpBall("1", 10.0, bounds=UNIT),
}


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(FEATURES, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MLP 784-1024-1024-10": perceptron,
    "MNIST-challenge conv": lambda: MNISTConv(classes=10),
    "two-layer 784-4096-1 softplus": lambda: TwoLayer(FEATURES, 2, 4096, "softplus", scale=0.05),
}


@dataclass(frozen=True)
class Case:
    """One network with the data of an epoch; half of the pixels are 0, as in MNIST, so that the box matters."""

    model: nn.Module
    x: Tensor
    y: Tensor
    initial: dict[str, Tensor]
    optimizer: torch.optim.Optimizer

    @property
    def rounds(self) -> int:
        return len(self.x) // BATCH

    @property
    def slopes(self) -> Tensor:
        with torch.no_grad():
            outputs = self.model(self.x[:BATCH])
        return torch.ones_like(outputs) / BATCH


def case(make: Callable[[], nn.Module]) -> Case:
    model, draw = make(), torch.Generator().manual_seed(0)
    rounds = 3 if isinstance(model, MNISTConv) else 10  # convolutions take ten times as long
    x = (2 * torch.rand(rounds * BATCH, FEATURES, generator=draw) - 1).clamp(min=0.0)
    y = torch.randint(0, max(2, model(x[:2]).shape[1]), (len(x),), generator=draw)
    initial = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    return Case(model=model, x=x, y=y, initial=initial, optimizer=optimizer)


def floor_of_attack(model: nn.Module, x: Tensor, slopes: Tensor, steps: int) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    points = x.clone().requires_grad_(True)
    for _ in range(steps):
        torch.autograd.grad(model(points), points, slopes)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def floor_of_training(model: nn.Module, x: Tensor, slopes: Tensor, steps: int) -> None:
    parameters = list(model.parameters())
    for batch in x.split(BATCH):
        floor_of_attack(model, batch, slopes, steps)
        torch.autograd.grad(model(batch), parameters, slopes)


def attack(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int) -> None:
    noise = torch.Generator().manual_seed(0)
    PGD(steps=steps).points(model, x, y, threat, generator=noise, loss=CrossEntropy())


def training(chosen: Case, threat: Threat) -> None:
    model, fabric = chosen.model, Fabric(accelerator="cpu", devices=1)
    fit(
        fabric, model, model, chosen.optimizer, chosen.x, chosen.y, threat, PGD(steps=STEPS), CrossEntropy(),
        epochs=1, batch_size=BATCH, schedule="constant", seed=0,
        ball=ParameterBall(names=(tuple(chosen.initial),), initial=chosen.initial, radius=20.0), project=True,
        recorder=None, record_every=1, state=TrainingState(), observe=lambda record, state: None,
        on_step=lambda done, loss: None, stop=lambda: False,
    )  # fmt: skip


def main() -> None:
    chosen = arguments(__doc__ or "")
    rows = []
    for name, make in NETWORKS.items():
        here = case(make)
        x, y, slopes = here.x[:BATCH], here.y[:BATCH], here.slopes
        for word, threat in THREATS.items():
            for work in ("PGD-10", "PGD-40", "training step, PGD-10"):
                label = f"{name} | {word} | {work}"
                if chosen.only not in label or (chosen.quick and work == "PGD-40"):
                    continue
                if work.startswith("PGD"):
                    steps = int(work.removeprefix("PGD-"))
                    ours = lambda: attack(here.model, x, y, threat, steps)  # noqa: B023, E731
                    floor = lambda: floor_of_attack(here.model, x, slopes, steps)  # noqa: B023, E731
                else:
                    ours = lambda: training(here, threat)  # noqa: B023, E731
                    floor = lambda: floor_of_training(here.model, here.x, slopes, STEPS)  # noqa: B023, E731
                ratio = interleaved(ours, floor, repeats=5 if chosen.quick else 15)
                per = 1 if work.startswith("PGD") else here.rounds
                rows.append(
                    [
                        name,
                        word,
                        work,
                        f"{1e3 * ratio.ours / per:.1f}",
                        f"{1e3 * ratio.floor / per:.1f}",
                        ratio.text,
                    ]
                )
                print(" | ".join(rows[-1]), flush=True)
    if chosen.record:
        header = ["network, batch 128", "threat", "work", "ms", "floor, ms", "ratio: median (range)"]
        record(
            "attack_speed",
            f"## Speed of PGD and of a training step\n\n`{command()}`: {machine()}.\n\n{__doc__}\n{table(header, rows)}\n",
        )


if __name__ == "__main__":
    main()
