"""PGD and the PGD training step against their floor: the network passes they cannot do without.

Floor of an attack of K steps: K times forward and gradient in the input, parameters frozen, from given slopes at the outputs.
Floor of a training step: that, and one forward pass with the gradient in the parameters. No loss, no step, no projection, no
random start and no optimiser: all of those count against Holdfast. The training step is the real loop (`holdfast.training.fit`,
an epoch of several rounds, SGD with momentum, weights projected onto the ball of radius 20).

The second table sets PGD-40 and the training step with PGD-10 (l-inf 0.1 in the box) against torchattacks 3.5.1, where that is
installed beside Holdfast: its PGD with the same steps, step size and random start; as a training step, that attack in evaluation
mode, forward and backward pass and SGD with momentum, without projection. "Plain" is Holdfast with its acceleration off. All of
a row take turns; ratios are of the fastest times, which other work on the machine disturbs least, and of the medians.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from harness import arguments, command, interleaved, machine, record, seconds, table
from lightning_fabric import Fabric
from torch import Tensor, nn

from holdfast.acceleration import enabled
from holdfast.attacks import PGD
from holdfast.losses import CrossEntropy
from holdfast.networks import MNISTConv, TwoLayer
from holdfast.threats import LpBall, Threat
from holdfast.training import Hooks, ParameterBall, Training, TrainingState, fit
from holdfast.training.objectives import RobustLoss

try:
    import torchattacks
except ImportError:
    torchattacks = None

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


WIDE = "two-layer 784-65536-1 softplus"


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
    run = Training(
        fabric=fabric,
        module=model,
        model=model,
        optimizer=chosen.optimizer,
        x=chosen.x,
        y=chosen.y,
        threat=threat,
        attack=PGD(steps=STEPS),
        loss=CrossEntropy(),
        objective=RobustLoss(),
        epochs=1,
        batch_size=BATCH,
        ball=ParameterBall(names=(tuple(chosen.initial),), initial=chosen.initial, radius=20.0),
        project=True,
    )
    fit(run, TrainingState(), Hooks())


class TwoLogits(nn.Module):
    """A signed output as two logits, which is what other libraries take."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.model(x)
        return torch.cat([torch.zeros_like(outputs), outputs], 1) if outputs.shape[1] == 1 else outputs


def peer_attack(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    radius = THREATS["linf, box"].step_scale
    found: Tensor = torchattacks.PGD(TwoLogits(model), eps=radius, alpha=2.5 * radius / steps, steps=steps)(
        x, y
    )
    return found


def peer_training(chosen: Case) -> None:
    model = TwoLogits(chosen.model)
    for x, y in zip(chosen.x.split(BATCH), chosen.y.split(BATCH), strict=True):
        points = peer_attack(chosen.model, x, y, STEPS)
        loss = nn.functional.cross_entropy(model(points), y)
        chosen.optimizer.zero_grad()
        loss.backward()
        chosen.optimizer.step()


def plainly(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with enabled(False):
            work()

    return run


def turns(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, over rounds in which all take turns, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        order = list(works) if turn % 2 else list(works)[::-1]
        for name in order:
            taken = seconds(works[name])
            if turn:
                times[name].append(taken)
    return times


def against_peers(only: str, *, quick: bool) -> Iterator[list[str]]:
    if torchattacks is None:
        print("torchattacks is not installed here: no comparison with it (pip install torchattacks==3.5.1)")
    threat = THREATS["linf, box"]
    networks = NETWORKS if quick else {**NETWORKS, WIDE: lambda: TwoLayer(FEATURES, 2, 65536, scale=0.05)}
    for name, make in networks.items():
        for work in ("PGD-10" if quick else "PGD-40", "training step, PGD-10"):
            if only not in f"{name} | peers | {work}" or (name == WIDE and work.startswith("training")):
                continue
            here = case(make)
            if work.startswith("PGD"):
                x, y, steps, slopes = here.x[:BATCH], here.y[:BATCH], int(work[4:]), here.slopes
                ours = lambda: attack(here.model, x, y, threat, steps)  # noqa: B023, E731
                peer = lambda: peer_attack(here.model, x, y, steps)  # noqa: B023, E731
                floor = lambda: floor_of_attack(here.model, x, slopes, steps)  # noqa: B023, E731
                per = 1
            else:
                ours = lambda: training(here, threat)  # noqa: B023, E731
                peer = lambda: peer_training(here)  # noqa: B023, E731
                floor = lambda: floor_of_training(here.model, here.x, here.slopes, STEPS)  # noqa: B023, E731
                per = here.rounds
            works = {"ours": ours, "plain": plainly(ours), "floor": floor}
            if torchattacks is not None:
                works["torchattacks"] = peer
            times = turns(works, 3 if quick else 7 if name == WIDE else 15)
            row = [name, work, f"{1e3 * min(times['ours']) / per:.1f}"]
            for other in ("torchattacks", "floor", "plain"):
                row.append(
                    " / ".join(f"{f(times['ours']) / f(times[other]):.2f}" for f in (min, statistics.median))
                    if other in times
                    else "not installed"
                )
            print(" | ".join(row), flush=True)
            yield row


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
    peers = list(against_peers(chosen.only, quick=chosen.quick))
    if chosen.record:
        beside = ["network, batch 128", "work", "ms, fastest"]
        beside += [f"ours / {other}: fastest / median" for other in ("torchattacks", "floor", "plain")]
        header = ["network, batch 128", "threat", "work", "ms", "floor, ms", "ratio: median (range)"]
        record(
            "attack_speed",
            f"## Speed of PGD and of a training step\n\n`{command()}`: {machine()}.\n\n{__doc__}\n{table(header, rows)}\n\n{table(beside, peers)}\n",
        )


if __name__ == "__main__":
    main()
