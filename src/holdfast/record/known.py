"""What a diagnosis reads of a run's record."""

import math
from collections.abc import Sequence

from holdfast.certificates.certificate import REACHED
from holdfast.diagnosis.known import STATUSES, ClassKnown, Counted, EpochAccuracy, Known
from holdfast.record.schema import EpochFigures, PartCounts, Summary


def known_of(summary: Summary, epochs: Sequence[EpochFigures] = ()) -> Known:
    """The figures of a run, as far as its record has them."""
    fit, data, certificate = summary.compatibility, summary.data, summary.certificate
    lower, surrogate, upper = (
        summary.robust_loss_lower_bound,
        summary.surrogate_loss,
        summary.robust_loss_upper_bound,
    )
    floor = floor_of(summary)
    proved = summary.robust_loss_upper_kind == "verified"
    attacked, against = summary.robust_loss_attacked, summary.training_attack_loss
    missed = summary.attack_missed or (0.0 if certificate is None else certificate.attack_missed)
    radius = math.nan if certificate is None else certificate.radius
    shares = [row.value / row.radius for row in summary.drift if row.value is not None and row.radius]
    closing, verdict = summary.closing, None if summary.evaluation is None else summary.evaluation.verdict
    return Known(
        interrupted=summary.interrupted is True,
        attack=summary.attack,
        classes=data.classes,
        status=next((known for known in STATUSES if known == summary.certificate_status), None),
        reason=summary.certificate_reason,
        informative=_informative(summary, floor),
        floor=floor,
        lower=lower,
        surrogate=surrogate,
        gap=summary.gap,
        missed=max(0.0, missed) if math.isfinite(missed) else 0.0,
        trained_against=surrogate if against is None else against,
        attacked=upper if attacked is None and not proved else attacked,
        upper=upper,
        upper_proved=proved,
        radius=radius if radius and math.isfinite(radius) else summary.parameter_radius,
        ball=summary.parameter_radius,
        width=summary.network.width,
        drift=max(shares, default=None),
        width_factor=summary.width_factor,
        at_radii=tuple(
            (row.radius, row.lower_bound)
            for row in summary.bounds_at_radii
            if row.radius is not None and row.lower_bound is not None and row.status != "void"
        ),
        compatible=fit.compatible,
        smallest_distance=fit.smallest_distance,
        reach=fit.reach,
        pairs_meeting=fit.pairs_meeting,
        per_class=tuple(
            ClassKnown(name=row.class_name or str(index), examples=row.examples, robust=row.robust_accuracy)
            for index, row in enumerate(summary.per_class)
        ),
        robust_accuracy=summary.robust_accuracy,
        clean_accuracy=summary.clean_accuracy,
        test_examples=data.test,
        train=None if closing is None else _counted(closing.train),
        test=None if closing is None else _counted(closing.test),
        epochs=len(epochs),
        online=tuple(row.online_loss for row in epochs if row.online_loss is not None),
        robust_by_epoch=robust_by_epoch(epochs),
        windows=tuple(row.lower_bound for row in epochs if row.lower_bound is not None and not row.void),
        void_windows=tuple(row.void for row in epochs if row.void),
        evaluated=verdict is not None and verdict.word is not None,
        warnings=() if verdict is None else verdict.warnings,
    )


def robust_by_epoch(epochs: Sequence[EpochFigures]) -> tuple[EpochAccuracy, ...]:
    """Accuracies under attack while training: those of the validation part, else those of the probe."""
    for name in ("robust_accuracy", "probe_accuracy"):
        seen = [(row.epoch, getattr(row, name)) for row in epochs]
        found = tuple(
            EpochAccuracy(epoch=epoch, robust=share)
            for epoch, share in seen
            if share is not None and epoch is not None
        )
        if found:
            return found
    return ()


def floor_of(summary: Summary) -> float:
    """The trivial bound of a run's robust loss; losses of older records are never below 0."""
    floor = summary.certificate_floor
    if floor is None and summary.certificate is not None and math.isfinite(summary.certificate.floor):
        return summary.certificate.floor
    return 0.0 if floor is None else floor


def _informative(summary: Summary, floor: float) -> bool:
    """Whether the lower bound says more than the trivial one, which is all there is to say where the loss
    has come down to it.
    """
    lower, surrogate = summary.robust_loss_lower_bound, summary.surrogate_loss
    if lower is None or summary.certificate_informative is False:
        return False
    return lower > floor or (lower == floor and surrogate is not None and surrogate <= floor + REACHED)


def _counted(part: PartCounts | None) -> Counted | None:
    if part is None or not part.examples or part.robust is None or not 0 <= part.robust <= part.examples:
        return None
    under = part.under_training_attack
    return Counted(
        examples=part.examples,
        robust=part.robust,
        population=max(part.examples, part.population or 0),
        under_training_attack=under if under is not None and 0 <= under <= part.examples else None,
    )
