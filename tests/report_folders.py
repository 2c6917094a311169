"""Run folders as training leaves them, for the tests of the report: small, seeded, with plausible figures."""

import json
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

EPOCHS = 60


def digits_run(folder: Path, **changes: object) -> Path:
    """A finished, certified run on digits 3 against 8; ``changes`` replace entries of the summary."""
    folder.mkdir(parents=True)
    summary: dict[str, object] = {
        "name": "digits-3-8",
        "started": "2026-03-14T09:26:53+00:00",
        "seconds": 41.7,
        "seed": 0,
        "versions": {"holdfast": "0.1.0", "torch": "2.13.0", "python": "3.11.7", "platform": "Linux x86_64"},
        "threat": "l2:0.1",
        "command": ["holdfast", "train", "--data", "digits", "--out", "runs/digits-3-8"],
        "data": {
            "name": "digits",
            "examples": 357,
            "features": 65,
            "classes": 2,
            "class_names": ["three", "eight"],
            "train": 250,
            "validation": 53,
            "test": 54,
        },
        "network": {
            "name": "TwoLayer",
            "parameters": 130000,
            "width": 2000,
            "activation": "softplus",
            "outputs": 1,
        },
        "attack": "PGD(steps=10, step_size=0.025, restarts=1)",
        "loss": "cross-entropy",
        "parameter_radius": 20.0,
        "clean_accuracy": 0.9629,
        "robust_accuracy": 0.8703,
        "accuracy_on": "test",
        "robust_accuracy_verified": 0.8518,
        "train_clean_accuracy": 0.972,
        "train_robust_accuracy": 0.888,
        "surrogate_loss": 0.4327,
        "robust_loss_lower_bound": 0.3913,
        "gap": 0.0414,
        "certificate_status": "certified",
        "certificate_reason": "Every window from epoch 20 covers all 250 examples, each attacked point lies in its threat set, "
        "and the curvature of softplus is at most 1/4.",
        "robust_loss_upper_bound": 0.4391,
        "robust_loss_upper_kind": "verified",
        "robust_loss_attacked": 0.4385,
        "training_attack_loss": 0.4327,
        "certificate_informative": True,
        "certificate_floor": 0.0,
        "attack_missed": 0.0,
        "closing": {
            "attacks": ["pgd-40", "apgd-margin-20", "square-250"],
            "train": {"examples": 54, "population": 250, "robust": 48, "under_training_attack": 49},
            "test": {"examples": 54, "robust": 47},
        },
        "width_factor": 3.18,
        "bound_source": "final pass, tightened",
        "linearisation_error": {"mean": 0.0123, "max": 0.0871},
        "bounds_at_radii": [
            {"radius": r, "lower_bound": b, "status": "certified"}
            for r, b in (
                (2.5, 0.6409),
                (5.0, 0.5952),
                (10.0, 0.5211),
                (20.0, 0.3913),
                (40.0, 0.1034),
                (80.0, -0.62),
            )
        ],
        "drift": [{"layer": "hidden.weight", "value": 19.87, "radius": 20.0}],
        "per_class": [
            {"class_name": "three", "examples": 27, "clean_accuracy": 0.9629, "robust_accuracy": 0.8518},
            {"class_name": "eight", "examples": 27, "clean_accuracy": 0.9629, "robust_accuracy": 0.8888},
        ],
        "compatibility": {"compatible": True, "smallest_distance": 0.3127, "pairs_meeting": 0, "reach": 0.2},
        "interrupted": False,
    }
    summary.update(changes)
    write_summary(folder, summary)
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in epoch_rows()), encoding="utf-8"
    )
    config = {
        "data": "digits",
        "classes": [3, 8],
        "threat": "l2:0.1",
        "seed": 0,
        "epochs": EPOCHS,
        "model": {
            "class_path": "holdfast.networks.TwoLayer",
            "init_args": {"width": 2000, "activation": "softplus"},
        },
        "attack": {"steps": 10, "restarts": 1},
        "optimiser": {"name": "sgd", "learning_rate": 40.0},
        "parameter_radius": 20.0,
    }
    (folder / "config.yaml").write_text(
        "# complete: trains this run again\n" + yaml.safe_dump(config, sort_keys=False), encoding="utf-8"
    )
    (folder / "log.txt").write_text(
        "".join(f"09:27:{i:02d} epoch {i + 1} online loss {0.68 - 0.004 * i:.4f}\n" for i in range(EPOCHS)),
        encoding="utf-8",
    )
    digits_gallery(folder / "gallery.safetensors", classes=(3, 8), examples=6, constant=True)
    return folder


def ten_class_run(folder: Path, **changes: object) -> Path:
    """An estimate on ten classes with a gallery of images, two layers of drift and no verified bound."""
    rng = np.random.default_rng(3)
    digits_run(
        folder,
        name="mnist-conv",
        threat="linf:0.1",
        data={
            "name": "mnist",
            "examples": 60000,
            "features": 784,
            "classes": 10,
            "class_names": [str(i) for i in range(10)],
            "train": 54000,
            "validation": 6000,
            "test": 10000,
        },
        network={"name": "Conv", "parameters": 3274634, "width": None, "activation": "relu", "outputs": 10},
        surrogate_loss=0.1873,
        robust_loss_lower_bound=0.0312,
        gap=0.1561,
        certificate_status="estimate",
        certificate_reason="The network is deep, and its curvature was taken to be 0: the bound is the local-linearity estimate.",
        robust_loss_upper_bound=0.2014,
        robust_loss_upper_kind="strongest attack",
        robust_accuracy_verified=None,
        robust_loss_attacked=0.2014,
        training_attack_loss=0.1873,
        closing={
            "attacks": ["pgd-40"],
            "train": {"examples": 10000, "population": 54000, "robust": 9410, "under_training_attack": 9650},
            "test": {"examples": 10000, "robust": 9105},
        },
        drift=[
            {"layer": name, "value": value, "radius": None}
            for name, value in (("conv1.weight", 3.21), ("conv2.weight", 8.4), ("dense.weight", 11.9))
        ],
        per_class=[
            {
                "class_name": str(i),
                "examples": 1000,
                "clean_accuracy": float(1 - rng.random() / 40),
                "robust_accuracy": float(0.97 - rng.random() / 8),
            }
            for i in range(10)
        ],
        bounds_at_radii=[
            {"radius": r, "lower_bound": b, "status": "estimate"}
            for r, b in ((6.0, 0.2202), (12.0, 0.0312), (24.0, -0.4))
        ],
        seconds=7412.0,
    )
    rows = epoch_rows(
        layers={"conv1.weight": 3.21, "conv2.weight": 8.4, "dense.weight": 11.9}, low=0.19, lower=0.0312
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    digits_gallery(folder / "gallery.safetensors", classes=tuple(range(10)), examples=12, constant=False)
    summary = json.loads((folder / "summary.json").read_text())
    write_summary(folder, summary | changes)
    return folder


def void_run(folder: Path, **changes: object) -> Path:
    """A run whose certificate is void: a window saw dropout. It keeps a (worthless) lower bound in its summary."""
    void = {
        "name": "with-dropout",
        "certificate_status": "void",
        "certificate_reason": "Dropout was active in rounds 1 to 60, so those rounds are not rounds of one network; train without it, or certify one frozen pass.",
        "robust_accuracy_verified": None,
        "robust_loss_upper_kind": "strongest attack",
        "gap": None,
        "width_factor": None,
        "bounds_at_radii": [{"radius": 20.0, "lower_bound": 0.3812, "status": "void"}],
    }
    digits_run(folder, **(void | changes))
    rows = [row | {"void": "dropout was active"} for row in epoch_rows()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def unsayable_run(folder: Path, **changes: object) -> Path:
    """An ordinary convolutional net: an estimate that comes to no more than the trivial bound, at its radius and at most others."""
    silent: dict[str, object] = {
        "name": "ordinary-conv",
        "surrogate_loss": 1.502,
        "training_attack_loss": 1.502,
        "robust_loss_lower_bound": 0.0,
        "robust_loss_upper_bound": 1.779,
        "robust_loss_attacked": 1.779,
        "gap": None,
        "certificate_informative": False,
        "width_factor": 0.0,
        "bounds_at_radii": [
            {"radius": r, "lower_bound": b, "status": "estimate"}
            for r, b in ((1.2, 0.842), (2.4, 0.0), (6.0, 0.0), (12.0, 0.0))
        ],
    }
    return ten_class_run(folder, **(silent | changes))


def interrupted_run(folder: Path) -> Path:
    """What an interrupt may leave: half a metrics line, few figures, no gallery, no configuration, no log."""
    folder.mkdir(parents=True)
    write_summary(
        folder,
        {
            "name": "stopped",
            "started": "2026-03-14T09:26:53",
            "seconds": 3.2,
            "seed": 1,
            "threat": "linf:0.1",
            "interrupted": True,
            "clean_accuracy": None,
            "robust_accuracy": float("nan"),
            "surrogate_loss": None,
            "robust_loss_lower_bound": None,
            "gap": None,
            "certificate_status": None,
            "parameter_radius": float("inf"),
        },
    )
    lines = [json.dumps(row) for row in epoch_rows()[:4]]
    (folder / "metrics.jsonl").write_text(
        "\n".join([*lines, lines[0][: len(lines[0]) // 2]]), encoding="utf-8"
    )
    return folder


def evaluated_run(folder: Path, *, images: bool = True, pictures: bool = True, **changes: object) -> Path:
    """The digits run, evaluated on a sample of 40 of 54; ``changes`` replace entries of the evaluation."""
    digits_run(folder)
    rng, rows = np.random.default_rng(11), (31, 14, 7)
    loss = rng.random(40).astype(np.float32)
    evaluation: dict[str, object] = {
        "data": "digits 3,8",
        "part": "test",
        "examples": 40,
        "population": 54,
        "threat": "l2:0.1",
        "attacks": "standard",
        "verify": "crown",
        "seed": 0,
        "clean_accuracy": 0.975,
        "robust_accuracy": 0.875,
        "robust_accuracy_verified": 0.55,
        "intervals": {"clean": [0.8684, 0.9994], "robust": [0.732, 0.9581], "verified": [0.3849, 0.7074]},
        "robust_loss": {"attacked": 0.3121, "verified": 0.7003},
        "stages": [
            _stage("apgd-ce-100", "attack", 39, 36, 0.5),
            _stage("crown", "bound", 36, 14, 1.2),
            _stage("apgd-dlr-100-targets-9", "attack", 14, 14, 0.0, "not for two classes"),
            _stage("fab-100-targets-9", "attack", 14, 13, 0.9),
            _stage("square-5000", "attack", 13, 13, 2.1),
        ],
        "per_class": [
            {
                "class_name": "three",
                "examples": 19,
                "clean_accuracy": 0.9473,
                "robust_accuracy": 0.8421,
                "verified_accuracy": 0.5263,
            },
            {
                "class_name": "eight",
                "examples": 21,
                "clean_accuracy": 1.0,
                "robust_accuracy": 0.9047,
                "verified_accuracy": 0.5714,
            },
        ],
        "curve": [
            {"radius": 0.2, "verified": 0.1, "not_broken": 0.725},
            {"radius": 0.05, "verified": 0.85, "not_broken": 0.95},
            {"radius": 0.1, "verified": 0.55, "not_broken": 0.875},
        ],
        "hardest": [{"example": k, "label": ("three", "eight")[k % 2], "loss": float(loss[k])} for k in rows],
        "verdict": {"word": "trust", "warnings": []},
        "recheck": {"examples": 40, "outside": 0, "wrong_flags": 0, "wrong_losses": 0, "sound": True},
        "seconds": 6.1,
        "versions": {"holdfast": "0.1.0"},
    }
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    write_summary(folder, summary | {"evaluation": evaluation | changes})
    if pictures:
        x = rng.random((40, 1, 8, 8) if images else (40, 9)).astype(np.float32)
        points = {"x": x, "attacked": x + np.float32(0.02), "y": np.arange(40) % 2, "loss": loss}
        (folder / "evaluation").mkdir()
        save_file(points, folder / "evaluation" / "attacked.safetensors")
    return folder


def _stage(
    name: str, kind: str, entered: int, left: int, seconds: float, note: str = ""
) -> dict[str, object]:
    return {"name": name, "kind": kind, "entered": entered, "left": left, "seconds": seconds, "note": note}


def write_summary(folder: Path, summary: dict[str, object]) -> None:
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")


def epoch_rows(
    *, layers: dict[str, float] | None = None, low: float = 0.43, lower: float = 0.3757
) -> list[dict[str, object]]:
    """Training as it looks: a falling online loss, a lower bound that starts below 0, drift that meets its ball."""
    rng = np.random.default_rng(7)
    rows: list[dict[str, object]] = []
    for i in range(EPOCHS):
        done = (i + 1) / EPOCHS
        rows.append(
            {
                "epoch": i + 1,
                "rounds": 8 * (i + 1),
                "seconds": 0.6,
                "learning_rate": 40.0 * (1 - 0.9 * done),
                "online_loss": low + 0.27 * float(np.exp(-5 * done)) + 0.004 * float(rng.standard_normal()),
                "lower_bound": lower - 1.3 * float(np.exp(-9 * done)) - 0.06 * max(0.0, done - 0.7)
                if i % 3 == 2
                else None,
                "void": "",
                "clean_accuracy": 0.96 - 0.4 * float(np.exp(-8 * done)),
                "robust_accuracy": 0.87 - 0.42 * float(np.exp(-6 * done)),
                "robust_loss": low + 0.02 + 0.25 * float(np.exp(-5 * done)),
                "drift": {
                    name: value * float(1 - np.exp(-4 * done)) / (1 - np.exp(-4))
                    for name, value in (layers or {"hidden.weight": 19.87}).items()
                },
            }
        )
    return rows


def digits_gallery(path: Path, *, classes: tuple[int, ...], examples: int, constant: bool) -> None:
    """Real digits; vectors with a constant last coordinate, or images (1, 8, 8) that are twice as fine (1, 16, 16)."""
    rng = np.random.default_rng(5)
    data = load_digits()
    rows = np.concatenate(
        [np.flatnonzero(data.target == c)[: -(-examples // len(classes))] for c in classes]
    )[:examples]
    x = data.images[rows] / 16.0
    other = data.images[rng.permutation(len(data.images))[: len(rows)]] / 16.0
    change = 0.18 * (other - x) * (rng.random(x.shape) > 0.3)
    labels = np.array([classes.index(c) for c in data.target[rows]])
    attacked_prediction = np.where(np.arange(len(rows)) % 3 == 1, (labels + 1) % len(classes), labels)
    attacked = x + change
    if constant:
        x, attacked = (
            np.concatenate([v.reshape(len(rows), -1), np.full((len(rows), 1), 0.5)], 1) for v in (x, attacked)
        )
    else:
        x, attacked = (np.kron(v, np.ones((1, 2, 2)))[:, None] for v in (x, attacked))
    save_file(
        {
            "x": x.astype(np.float32),
            "attacked": attacked.astype(np.float32),
            "label": labels.astype(np.int64),
            "predicted_clean": labels.astype(np.int64),
            "predicted_attacked": attacked_prediction.astype(np.int64),
        },
        path,
    )
