"""Recipes: Holdfast's training against a plain loop of the same recipe, on MNIST or the CIFAR-10 subset.

Both train the same network from the same weights with the same attack steps, optimiser, batches and epochs; the loop is written
out below in plain torch, as the papers' code has it. Accuracies are those of the test part, robust under PGD with 40 steps and 2
restarts, mean and spread over seeds. Time is processor time of training alone (no evaluation, no trace), in turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from harness import command, machine, record, table
from torch import nn
from torch.nn import functional as F

import holdfast as hf

BATCH, RATE = 128, 0.001
SILENT = {
    "closing": "none",
    "certificate": hf.CertificateSettings(trace=False, tighten=0),
    "validation": hf.ValidationSettings(attack="clean", every=10**6),
    "allow_incompatible": True,
    "progress": False,
}


def network(shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    channels, side = shape[0], shape[1]
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def pgd(
    model: nn.Module, x: torch.Tensor, eps: float, steps: int, value: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    points = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        points.requires_grad_(True)
        (slope,) = torch.autograd.grad(value(model(points)), points)
        points = points.detach() + eps / 4 * slope.sign()
        points = (x + (points - x).clamp(-eps, eps)).clamp(0, 1)
    return points.detach()


def plain_loss(recipe: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """The loss of one batch, as the papers' code has it."""
    if recipe == "pgd":
        return F.cross_entropy(model(pgd(model, x, eps, 10, lambda out: F.cross_entropy(out, y))), y)
    if recipe == "fgsm-rs":
        points = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1).requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(model(points), y), points)
        points = points.detach() + 1.25 * eps * slope.sign()
        return F.cross_entropy(model((x + (points - x).clamp(-eps, eps)).clamp(0, 1)), y)
    model.eval()
    clean = model(x).softmax(1).detach()
    points = pgd(model, x, eps, 10, lambda out: F.kl_div(out.log_softmax(1), clean, reduction="sum"))
    model.train()
    outputs, attacked = model(x), model(points)
    kl = F.kl_div(attacked.log_softmax(1), outputs.softmax(1), reduction="batchmean")
    return F.cross_entropy(outputs, y) + 6.0 * kl


def plain(recipe: str, data: hf.Dataset, eps: float, epochs: int, seed: int) -> tuple[nn.Module, float]:
    model, part = network(data.shape, data.classes, seed), data.train
    optimizer, began = torch.optim.Adam(model.parameters(), lr=RATE), time.process_time()
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(part.y)).split(BATCH):
            loss = plain_loss(recipe, model, part.x[rows], part.y[rows], eps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return model.eval(), time.process_time() - began


def ours(recipe: str, data: hf.Dataset, eps: float, epochs: int, seed: int) -> tuple[nn.Module, float]:
    model, threat = network(data.shape, data.classes, seed), hf.LpBall("inf", eps, bounds=data.bounds)
    settings = {"learning_rate": RATE, "optimizer": "adam", "batch_size": BATCH, "schedule": "constant"}
    began = time.process_time()
    hf.train(model, data, threat, recipe=recipe, epochs=epochs, seed=seed, **settings, **SILENT)
    return model.eval(), time.process_time() - began


def accuracies(model: nn.Module, data: hf.Dataset, eps: float, examples: int) -> tuple[float, float]:
    threat = hf.LpBall("inf", eps, bounds=data.bounds)
    attack = hf.PGD(steps=40, restarts=2, drop_broken=True)
    found = hf.evaluate(
        model, data.test.x[:examples], data.test.y[:examples], threat, attack, verify=None, examine=False
    )
    return found.clean_accuracy, found.robust_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", required=True, help="folder of MNIST's IDX files, or an .npz file of images"
    )
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--examples", type=int, default=10_000, help="of the training part")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", default="pgd,trades,fgsm-rs")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = hf.data.load(given.data, validation=0.0)
    if len(data.train.y) > given.examples:
        part = data.train
        x, y = (
            torch.cat([part.x[: given.examples], data.test.x]),
            torch.cat([part.y[: given.examples], data.test.y]),
        )
        split = hf.data.Split(
            train=torch.arange(given.examples),
            validation=torch.arange(0),
            test=torch.arange(given.examples, len(y)),
        )
        data = hf.Dataset(name=data.name, x=x, y=y, split=split, bounds=data.bounds, classes=data.classes)
    rows = []
    for recipe in given.recipes.split(","):
        found: dict[str, list[tuple[float, float, float]]] = {"plain": [], "holdfast": []}
        for seed in range(given.seeds):
            for name, train in (("plain", plain), ("holdfast", ours)):
                torch.manual_seed(seed)
                model, seconds = train(recipe, data, given.eps, given.epochs, seed)
                found[name].append((*accuracies(model, data, given.eps, 1000), seconds))
        cells = [recipe]
        for name in ("plain", "holdfast"):
            for column in (0, 1):
                values = [100 * row[column] for row in found[name]]
                spread = max(values) - min(values)
                cells.append(f"{statistics.mean(values):.1f} ({spread:.1f})")
        ratio = statistics.median(b[2] / a[2] for a, b in zip(found["plain"], found["holdfast"], strict=True))
        rows.append([*cells, f"{ratio:.2f}"])
        print(rows[-1], flush=True)
    header = ["recipe", "plain: clean", "robust", "Holdfast: clean", "robust", "time / plain"]
    text = (
        f"## Recipes against a plain loop\n\n`{command()}`; {machine()}\n\n{given.epochs} epochs on {len(data.train.y):,} examples of {data.name}, l-inf {given.eps:g}, batches of {BATCH}, "
        f"Adam {RATE:g}; 1,000 test examples; percent, mean (spread) over {given.seeds} seeds.\n\n"
        + table(header, rows)
    )
    if given.record:
        record("recipes", text)
    print(text)


if __name__ == "__main__":
    main()
