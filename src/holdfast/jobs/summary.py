"""``summary.json``: every figure of a run with the word for how it is known."""

import math
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from holdfast.certificates import Certificate, FrozenPass
from holdfast.data import Dataset
from holdfast.evaluation import Evaluation
from holdfast.jobs.session import Session
from holdfast.losses import predictions
from holdfast.runs import RunWriter
from holdfast.trace import Evaluated

GALLERY = 12
PACKAGES = ("holdfast", "torch", "numpy", "scipy", "lightning-fabric", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is known of a run after training; the certificate alone where it was cut short.

    Attributes:
        passed: the frozen pass at the last weights; ``others`` competed with them for the surrogate loss.
        on_train, on_test: how the strongest attack did on either part.
    """

    certificate: Certificate
    passed: FrozenPass | None = None
    others: tuple[Evaluated, ...] = ()
    on_train: Evaluation | None = None
    on_test: Evaluation | None = None


def versions() -> dict[str, str]:
    """Versions of what figures depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def summarise(session: Session, results: Results) -> dict[str, Any]:
    """The summary; also writes the gallery next to it when there is a folder."""
    data, model, certificate = session.data, session.model, results.certificate
    on_train, on_test, folder = results.on_train, results.on_test, session.folder
    upper = attacked_loss(results)
    best, moved = session.best, session.ball.distances(model)
    summary: dict[str, Any] = {
        "name": session.name or (folder.name if folder is not None else type(model).__name__),
        "started": session.started.isoformat(timespec="seconds"),
        "seconds": session.state.seconds,
        "seed": session.seed,
        "epochs": session.state.epoch,
        "best": {
            "epoch": best.epoch, "by": session.best_by, "robust_accuracy": best.accuracy if best.accuracy >= 0 else None,
            "robust_loss": best.loss,
        },
        "interrupted": results.passed is None,
        "versions": versions(),
        "threat": session.threat.spec,
        "attack": session.attack.name,
        "loss": session.loss.name,
        "data": {
            "name": data.name, "examples": len(data.y), "features": data.features, "classes": data.classes,
            "shape": list(data.shape), "class_names": list(data.class_names) or [str(c) for c in range(data.classes)],
            "train": len(data.split.train), "validation": len(data.split.validation), "test": len(data.split.test),
        },
        "network": {
            "name": type(model).__name__, "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "width": getattr(model, "width", None),
            "activation": getattr(getattr(model, "activation", None), "name", None),
        },
        "compatibility": asdict(session.compatibility),
        "parameter_radius": session.parameter_radius,
        "accuracy_on": "test" if len(data.split.test) else "train",
        "accuracy_weights": "last",
        "clean_accuracy": None if on_test is None else on_test.clean_accuracy,
        "robust_accuracy": None if on_test is None else on_test.robust_accuracy,
        "robust_accuracy_verified": None,
        "train_clean_accuracy": None if on_train is None else on_train.clean_accuracy,
        "train_robust_accuracy": None if on_train is None else on_train.robust_accuracy,
        "robust_loss_upper_bound": upper,
        "robust_loss_upper_kind": None if on_train is None else "strongest attack",
        **certified(certificate, upper),
        "evaluated": [asdict(other) for other in results.others],
        "drift": [
            {"layer": " + ".join(names), "value": float(distance), "radius": certificate.radius}
            for names, distance in zip(session.ball.names, moved, strict=True)
        ],
        "per_class": [] if on_test is None else _per_class(on_test, data),
    }  # fmt: skip
    if folder is not None and on_test is not None:
        _write_gallery(model, data, on_test, session.writer)
    return summary


def certified(certificate: Certificate, upper: float) -> dict[str, Any]:
    """The certificate's part of the summary; ``upper`` is the robust loss that attacks found."""
    return {
        "surrogate_loss": certificate.surrogate_loss,
        "robust_loss_lower_bound": certificate.lower_bound,
        "gap": certificate.gap,
        "certificate_status": certificate.status,
        "certificate_reason": certificate.reason,
        "width_factor": certificate.width_factor,
        "bound_source": certificate.source,
        "surrogate_weights": certificate.weights,
        "linearisation_error": {"mean": certificate.linearisation_error},
        "bounds_at_radii": [
            {"radius": radius, "lower_bound": bound, "status": certificate.status}
            for radius, bound in certificate.at_radii
        ],
        "certificate": certificate.as_dict(),
        "gaps": gaps(certificate, upper),
    }


def attacked_loss(results: Results) -> float:
    """The robust loss of the last weights as far as attacks found it: each example at its worst known point, weighted."""
    if results.on_train is None or results.passed is None:
        return math.nan
    final = results.passed
    known = final.loss(final.outputs, final.points.y)
    return float((final.weights * torch.maximum(known, results.on_train.loss.to(known))).sum())


def gaps(certificate: Certificate, upper: float) -> dict[str, Any]:
    """The three gaps with their claims: optimisation (train longer), attack (too weak), capacity (network too small)."""
    proved = {"certified": "proved", "estimate": "estimated", "void": "none"}[certificate.status]
    reached, low = certificate.surrogate_loss, certificate.lower_bound
    attack = max(0.0, upper - reached) if math.isfinite(upper) and math.isfinite(reached) else math.nan
    parts = {
        "optimisation": certificate.gap,
        "attack": attack,
        "capacity": max(0.0, low) if math.isfinite(low) else math.nan,
    }
    known = {k: v for k, v in parts.items() if math.isfinite(v)}
    worst = max(known, key=lambda k: known[k]) if known else ""
    curved = certificate.width_factor > 1.5
    remedies = {
        "optimisation": "most of it is curvature: widen the network about "
        f"{certificate.width_factor:.2g} times, or ask for a smaller parameter radius"
        if curved
        else "train longer, or with another step size",
        "attack": "the attack of training is too weak: give it more steps or restarts",
        "capacity": "no network in this ball does better: give it a larger radius and more width",
    }

    def verdict(part: str) -> str:
        if part not in known:
            return "not measured"
        if known[part] < 0.01:
            return "small: nothing to gain here"
        if part == "capacity" and known.get("optimisation", 0.0) > known[part]:
            return "not known to be the limit: close the optimisation gap first"
        return f"{'the largest of the three: ' if part == worst else ''}{remedies[part]}"

    return {
        "optimisation": {"value": certificate.gap, "claim": proved, "verdict": verdict("optimisation")},
        "attack": {"value": attack, "claim": "observed", "verdict": verdict("attack")},
        "capacity": {
            "low": parts["capacity"], "high": upper, "claim": proved, "high_claim": "observed", "verdict": verdict("capacity"),
        },
        "largest": worst,
    }  # fmt: skip


def _per_class(result: Evaluation, data: Dataset) -> list[dict[str, Any]]:
    names = data.class_names or tuple(str(c) for c in range(data.classes))
    return [
        {
            "class_name": names[row.label], "examples": row.examples, "clean_accuracy": row.clean_accuracy,
            "robust_accuracy": row.robust_accuracy,
        }
        for row in result.per_class()
    ]  # fmt: skip


def _write_gallery(model: nn.Module, data: Dataset, result: Evaluation, writer: RunWriter) -> None:
    """Examples with their attacked points: half of them broken by the attack, where there are as many, half holding."""
    part = data.test if len(data.test) else data.train
    # Each example's group: broken by the attack, holding, wrong to begin with; in random order within a group.
    group = torch.where(result.clean, result.robust.long(), 2)
    mixed = torch.randperm(len(group), generator=torch.Generator().manual_seed(0))
    broken, holding, wrong = (mixed[group[mixed] == k] for k in range(3))
    half = max(GALLERY // 2, GALLERY - len(holding))
    chosen = torch.cat([broken[:half], holding, broken[half:], wrong])[:GALLERY]
    device = next(model.parameters()).device
    with torch.no_grad():
        before, after = (predictions(model(v[chosen].to(device))).cpu() for v in (part.x, result.x))
    writer.tensors(
        "gallery.safetensors",
        {
            "x": part.x[chosen], "attacked": result.x[chosen], "label": part.y[chosen],
            "predicted_clean": before, "predicted_attacked": after,
        },
    )  # fmt: skip
