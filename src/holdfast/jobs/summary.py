"""``summary.json``: every figure of a run with the word for how it is known."""

import math
import platform
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import torch
from torch import nn

from holdfast._tensors import applied
from holdfast.certificates import Certificate, FrozenPass
from holdfast.data import Dataset
from holdfast.evaluation import Evaluation
from holdfast.evaluation.closing import Closing
from holdfast.jobs.session import Session
from holdfast.losses import predictions
from holdfast.record.plain import figure
from holdfast.record.run import RunWriter
from holdfast.record.schema import (
    BestFigures,
    BoundFigures,
    ClassFigures,
    ClosingFigures,
    CompatibilityFigures,
    DataFigures,
    DriftFigures,
    LinearisationFigures,
    NetworkFigures,
    PartCounts,
    Summary,
)
from holdfast.trace import Evaluated

Value = TypeVar("Value")
GALLERY = 12
PACKAGES = ("holdfast", "torch", "numpy", "scipy", "lightning-fabric", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is known of a run after training; the certificate alone where it was cut short.

    Attributes:
        passed: the frozen pass at the last weights; ``others`` competed with them for the surrogate loss.
        closing: what the strongest attacks left on either part.
    """

    certificate: Certificate
    passed: FrozenPass | None = None
    others: tuple[Evaluated, ...] = ()
    closing: Closing | None = None

    @property
    def on_train(self) -> Evaluation | None:
        """The training part under the strongest attacks."""
        return None if self.closing is None else self.closing.on_train

    @property
    def reported(self) -> Evaluation | None:
        """The part that accuracies are reported of: the test part, or where there is none the training
        part.
        """
        return None if self.closing is None else self.closing.on_test or self.closing.on_train


def versions() -> dict[str, str]:
    """Versions of what figures depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def summarise(session: Session, results: Results) -> Summary:
    """The summary; also writes the gallery next to it when there is a folder."""
    data, model, certificate = session.data, session.model, results.certificate
    on_train, reported, folder = results.on_train, results.reported, session.folder
    upper, closing = figure(attacked_loss(results)), _closing(results)
    train = None if closing is None else closing.train
    best, moved, both = session.best, session.ball.distances(model), session.compatibility
    summary = Summary(
        name=session.name or (folder.name if folder is not None else type(model).__name__),
        started=session.started.isoformat(timespec="seconds"),
        seconds=session.state.seconds,
        seed=session.seed,
        epochs=session.state.epoch,
        best=BestFigures(
            epoch=best.epoch,
            by=session.validation.best_by,
            robust_accuracy=best.accuracy if best.accuracy >= 0 else None,
            robust_loss=figure(best.loss),
        ),
        interrupted=results.passed is None,
        versions=versions(),
        threat=session.threat.spec,
        attack=session.attack.name,
        loss=session.loss.name,
        data=DataFigures(
            name=data.name,
            examples=len(data.y),
            features=data.features,
            classes=data.classes,
            shape=tuple(data.shape),
            class_names=names_of(data),
            train=len(data.split.train),
            validation=len(data.split.validation),
            test=len(data.split.test),
            extra=None if session.extra is None else len(session.extra),
            extra_share=None if session.extra is None else session.extra.share,
        ),
        network=NetworkFigures(
            name=type(model).__name__,
            parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            width=_of(model, "width", int),
            activation=_of(getattr(model, "activation", None), "name", str),
        ),
        compatibility=CompatibilityFigures(
            compatible=both.compatible,
            smallest_distance=figure(both.smallest_distance),
            reach=figure(both.reach),
            pairs_meeting=both.pairs_meeting,
        ),
        parameter_radius=figure(session.parameter_radius),
        objective=session.objective.name,
        augmentation=session.augmentation.name,
        weight_perturbation=session.weight_perturbation.name,
        averaging=session.averaging.name,
        optimizer=session.chosen.name,
        optimizer_reason=session.chosen.why or "given",
        batch_size=session.chosen.batch_size,
        learning_rate=figure(session.learning_rate),
        learning_rate_reason="given" if session.step is None else session.step.reason,
        accuracy_on="test" if len(data.split.test) else "train",
        accuracy_weights="last",
        clean_accuracy=None if reported is None else reported.clean_accuracy,
        robust_accuracy=None if reported is None else reported.robust_accuracy,
        robust_accuracy_verified=reported.verified_accuracy
        if reported is not None and session.objective.certified
        else None,
        train_clean_accuracy=None if on_train is None else on_train.clean_accuracy,
        train_robust_accuracy=None
        if train is None or train.robust is None or not train.examples
        else train.robust / train.examples,
        train_fitted=None
        if on_train is None or results.closing is None or len(on_train.y) < results.closing.train
        else bool(on_train.robust.all()),
        closing=closing,
        training_attack_loss=None if results.passed is None else figure(results.passed.surrogate_loss),
        robust_loss_attacked=upper,
        robust_loss_upper_bound=upper,
        robust_loss_upper_kind=None if on_train is None else "strongest attack",
        evaluated=results.others,
        drift=tuple(
            DriftFigures(
                layer=" + ".join(names), value=figure(float(distance)), radius=figure(certificate.radius)
            )
            for names, distance in zip(session.ball.names, moved, strict=True)
        ),
        per_class=() if reported is None else class_figures(reported, data),
    )
    if folder is not None and results.closing is not None:
        _write_gallery(model, data, results.closing, session.writer)
    return with_certificate(summary, certificate)


def with_certificate(summary: Summary, certificate: Certificate) -> Summary:
    """The summary with what this certificate says."""
    return replace(
        summary,
        surrogate_loss=figure(certificate.surrogate_loss),
        robust_loss_lower_bound=figure(certificate.lower_bound),
        gap=figure(certificate.gap),
        certificate_status=certificate.status,
        certificate_reason=certificate.reason,
        width_factor=figure(certificate.width_factor),
        bound_source=certificate.source,
        surrogate_weights=certificate.weights,
        linearisation_error=LinearisationFigures(mean=figure(certificate.linearisation_error)),
        bounds_at_radii=tuple(
            BoundFigures(radius=figure(radius), lower_bound=figure(bound), status=certificate.status)
            for radius, bound in certificate.at_radii
        ),
        certificate=certificate,
        certificate_informative=certificate.informative,
        certificate_floor=figure(certificate.floor),
        attack_missed=figure(certificate.attack_missed),
    )


def names_of(data: Dataset) -> tuple[str, ...]:
    """What the classes are called."""
    return tuple(data.class_names) or tuple(str(label) for label in range(data.classes))


def class_figures(result: Evaluation, data: Dataset, *, bounds: bool = False) -> tuple[ClassFigures, ...]:
    """The table of classes; with what is proved where there are ``bounds``."""
    names = names_of(data)
    return tuple(
        ClassFigures(
            class_name=names[row.label],
            examples=row.examples,
            clean_accuracy=row.clean_accuracy,
            robust_accuracy=row.robust_accuracy,
            verified_accuracy=row.verified_accuracy if bounds else None,
        )
        for row in result.per_class()
    )


def _of(value: object, name: str, kind: type[Value]) -> Value | None:
    """What the user's network says of itself, where it is of this kind."""
    found = getattr(value, name, None)
    return found if isinstance(found, kind) and not isinstance(found, bool) else None


def _closing(results: Results) -> ClosingFigures | None:
    """Counts of both parts under the same attacks, and of the training part under the attack of training
    alone.
    """
    if results.closing is None or results.passed is None:
        return None
    final, closing = results.passed, results.closing
    counts = closing.record(predictions(final.outputs) == final.points.y)
    test = counts["test"]
    return ClosingFigures(
        attacks=closing.attacks,
        train=PartCounts(**counts["train"]),
        test=None if test is None else PartCounts(**test),
    )


def attacked_loss(results: Results) -> float:
    """The robust loss of the last weights as far as attacks found it: each example at its worst known
    point, weighted.
    """
    if results.on_train is None or results.passed is None:
        return math.nan
    final = results.passed
    known = final.loss(final.outputs, final.points.y)
    assert results.closing is not None
    rows = results.closing.train_rows.to(known.device)
    worst = known.index_copy(0, rows, torch.maximum(known[rows], results.on_train.loss.to(known)))
    return float((final.weights * worst).sum())


def _write_gallery(model: nn.Module, data: Dataset, closing: Closing, writer: RunWriter) -> None:
    """Examples with their attacked points: half of them broken by the attack, where there are as many,
    half holding.
    """
    result, rows, among = closing.on_test, closing.test_rows, data.split.test
    if result is None:
        result, rows, among = closing.on_train, closing.train_rows, data.split.train
    # Each example's group: broken by the attack, holding, wrong to begin with; in random order within a
    # group.
    group = torch.where(result.clean, result.robust.long(), 2)
    mixed = torch.randperm(len(group), generator=torch.Generator().manual_seed(0))
    broken, holding, wrong = (mixed[group[mixed] == k] for k in range(3))
    half = max(GALLERY // 2, GALLERY - len(holding))
    chosen = torch.cat([broken[:half], holding, broken[half:], wrong])[:GALLERY]
    device = next(model.parameters()).device
    part = data.part(among[rows[chosen]])
    with torch.no_grad():
        before, after = (predictions(applied(model, v.to(device))).cpu() for v in (part.x, result.x[chosen]))
    writer.tensors(
        "gallery.safetensors",
        {
            "x": part.x,
            "attacked": result.x[chosen],
            "label": part.y,
            "predicted_clean": before,
            "predicted_attacked": after,
        },
    )
