"""Certified training on MNIST: clean accuracy, and what is verified of all 10,000 test images, by recipe.

Two convolutions (4 x 4, stride 2), 100 units, no batch norm; one seed. Verified: by intervals alone, and with linear bounds
(CROWN) for those that intervals leave. Time is processor time of the whole call of `holdfast.train`.
"""

import argparse
import time

import torch
from harness import command, machine, record, table
from torch import nn

import holdfast as hf

BATCH, RATE = 128, 0.002


def network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, channels, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * channels * 49, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def row(recipe: str, chosen: argparse.Namespace, data: hf.Dataset) -> list[str]:
    threat = hf.LpBall("inf", chosen.radius, bounds=data.bounds)
    model, began = network(chosen.channels), time.process_time()
    hf.train(
        model,
        data,
        threat,
        recipe=recipe,
        epochs=chosen.epochs,
        batch_size=BATCH,
        optimizer=hf.optimizers.Adam(clip_norm=10.0),
        learning_rate=RATE,
        closing="none",
        allow_incompatible=True,
        validation=hf.ValidationSettings(attack="clean", every=chosen.epochs),
        certificate=hf.CertificateSettings(trace=False, tighten=0),
        progress=False,
    )
    taken = time.process_time() - began
    x, y = data.test.x, data.test.y
    with torch.no_grad():
        right = model(x).argmax(1) == y
    proved = hf.verify(model, x, y, threat, method="ibp").verified
    left = (right & ~proved).nonzero()[:, 0]
    more = hf.verify(model, x[left], y[left], threat, method="crown").verified
    shares = [right.double().mean(), proved.double().mean(), (proved.sum() + more.sum()) / len(y)]
    return [
        recipe,
        f"{chosen.radius:g}",
        str(chosen.epochs),
        f"{taken:.0f} s",
        *(f"{100 * float(share):.1f} %" for share in shares),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with MNIST's four IDX files")
    parser.add_argument("--recipes", default="ibp,crown-ibp", help="separated by commas")
    parser.add_argument("--radius", type=float, default=0.1, help="in l-inf")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--channels", type=int, default=16, help="of the first convolution")
    parser.add_argument("--record", action="store_true", help="write the result into RESULTS.md")
    chosen = parser.parse_args()
    data = hf.data.load(chosen.data)
    header = ["recipe", "radius", "epochs", "processor time", "clean", "verified by intervals", "and CROWN"]
    rows = [row(recipe, chosen, data) for recipe in chosen.recipes.split(",")]
    text = f"## Certified training on MNIST\n\n`{command()}`; {machine()}.\n\n{table(header, rows)}"
    print(text, flush=True)
    if chosen.record:
        record("certified-training", text)


if __name__ == "__main__":
    main()
