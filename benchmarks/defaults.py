"""Robust training loss of ordinary networks on digits where nothing but model, data and threat is given, beside gradient descent and Adam by hand."""

import itertools
import time

import torch
from torch import nn

import holdfast as hf

DATA = hf.data.digits()
THREAT = hf.LpBall("2", 0.3, bounds=DATA.bounds)
QUIET = {
    "progress": False,
    "certificate": hf.CertificateSettings(trace=False, tighten=0),
    "validation": hf.ValidationSettings(every=1000),
    "final_attack": "clean",
    "allow_incompatible": True,
}


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def deep() -> nn.Module:
    sizes = [64, *[128] * 6]
    hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(128, 10))


NETWORKS = {
    "Dense, 2 x 256": lambda: hf.networks.Dense(64, 10, 256, 2),
    "two convolutions": conv,
    "MNISTConv": lambda: hf.networks.MNISTConv(10, 1, 8),
    "64-256-10, ReLU": lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)),
    "six hidden layers of 128, ReLU": deep,
}
BY_HAND = [{"optimizer": "adam", "batch_size": 64, "learning_rate": rate} for rate in (0.01, 0.003)]


def trained(name: str, **settings: object) -> str:
    torch.manual_seed(0)
    model, began = NETWORKS[name](), time.perf_counter()
    run = hf.train(model, DATA, THREAT, **QUIET, **settings)
    seconds = time.perf_counter() - began
    attack = hf.PGD(steps=40, keep_best=True)
    loss = float(attack.run(model, DATA.train.x, DATA.train.y, THREAT, seed=1).loss.mean())
    return f"{loss:.4f} (rate {run.summary['learning_rate']:g}, {seconds:.0f} s)"


if __name__ == "__main__":
    print(
        "| network | nothing given | gradient descent, all examples | Adam by hand |\n| --- | --- | --- | --- |"
    )
    for name in NETWORKS:
        cells = [
            trained(name),
            trained(name, optimizer="sgd"),
            ", ".join(trained(name, **one) for one in BY_HAND),
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
