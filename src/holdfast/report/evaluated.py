"""An evaluation as the page shows it.

The record lies under ``evaluation`` in ``summary.json``; pictures of its hardest examples come from
``evaluation/attacked.safetensors``, of which only their rows are read.
"""

from dataclasses import dataclass
from math import isclose
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from holdfast._record import checked
from holdfast.diagnosis import Finding
from holdfast.record.schema import (
    ClassFigures,
    EvaluationFigures,
    HardExample,
    Interval,
    Intervals,
    StageFigures,
)
from holdfast.report.collect import Gallery, RunPage, named, said

VERDICTS = {
    "trust": "No sign that the attacks failed was found. That is no proof.",
    "doubt": "The share not broken may be too high.",
    "void": "The share not broken means nothing.",
}
MOST_HARDEST = 24
POINTS = "attacked.safetensors"


@dataclass(frozen=True, kw_only=True)
class AtRadius:
    """Both sides of the bracket at one radius of the threat."""

    radius: float
    verified: float | None
    not_broken: float | None


@dataclass(frozen=True, kw_only=True)
class EvaluatedPart:
    """What an evaluation found. ``verified`` is proved, ``not_broken`` observed; spans are 95 % intervals
    of a sample.
    """

    record: EvaluationFigures
    clean: float | None
    verified: float | None
    not_broken: float | None
    clean_span: Interval | None
    verified_span: Interval | None
    not_broken_span: Interval | None
    steps: tuple[StageFigures, ...]
    per_class: tuple[ClassFigures, ...]
    curve: tuple[AtRadius, ...]
    hardest: tuple[HardExample, ...]
    pictures: Gallery | None
    pictures_problem: str | None
    verdict: str | None
    warnings: tuple[Finding, ...]
    faults: tuple[str, ...]


def read_evaluation(run: RunPage) -> EvaluatedPart | None:
    """The evaluation recorded in the run's summary; ``None`` where there is none."""
    record = run.summary.evaluation
    if record is None or record == EvaluationFigures():
        return None
    bounded, spans = bool(record.verify), record.intervals or Intervals()
    hardest = record.hardest[:MOST_HARDEST]
    pictures, problem = _pictures(run.folder / "evaluation" / POINTS, hardest)
    verified = record.robust_accuracy_verified if bounded else None
    return EvaluatedPart(
        record=record,
        clean=record.clean_accuracy,
        verified=verified,
        not_broken=record.robust_accuracy,
        clean_span=_span(spans.clean, record.clean_accuracy),
        verified_span=_span(spans.verified, verified),
        not_broken_span=_span(spans.robust, record.robust_accuracy),
        steps=record.stages,
        per_class=named(record.per_class),
        curve=_curve(record, bounded),
        hardest=hardest,
        pictures=pictures,
        pictures_problem=problem,
        verdict=record.verdict.word,
        warnings=tuple(said(sign, run.config) for sign in record.verdict.warnings),
        faults=_faults(record, verified),
    )


def _span(span: Interval | None, inside: float | None) -> Interval | None:
    return span if span is not None and inside is not None and span[0] <= inside <= span[1] else None


def _curve(record: EvaluationFigures, bounded: bool) -> tuple[AtRadius, ...]:
    """In increasing order. Without bounds nothing was proved at any radius, which is not the same as 0
    proved.
    """
    found = [
        AtRadius(radius=row.radius, verified=row.verified if bounded else None, not_broken=row.not_broken)
        for row in record.curve
        if row.radius is not None and row.radius >= 0
    ]
    return tuple(sorted(found, key=lambda point: point.radius))


def _faults(record: EvaluationFigures, verified: float | None) -> tuple[str, ...]:
    """Why the figures cannot be believed as they stand, whatever the verdict."""
    found = []
    if verified is not None and record.robust_accuracy is not None and verified > record.robust_accuracy:
        found.append("More is proved than was not broken: a bound or an attack is wrong.")
    checked = record.recheck
    if checked.sound is False:
        counts = [
            f"{number} {words}"
            for number, words in (
                (checked.outside, "outside their threat sets"),
                (checked.wrong_flags, "classified otherwise than recorded"),
                (checked.wrong_losses, "with another loss"),
            )
            if number
        ]
        said = f": {', '.join(counts)}" if counts else ""
        found.append(f"The stored points, read back, do not bear out these figures{said}.")
    return tuple(found)


def _pictures(path: Path, hardest: tuple[HardExample, ...]) -> tuple[Gallery | None, str | None]:
    """The hardest examples and their attacked points, or why there are none to show."""
    rows = [hard.example for hard in hardest if hard.example is not None]
    if not rows or not path.exists():
        return None, None
    try:
        with safe_open(checked(path), framework="numpy") as file:
            label, loss = file.get_tensor("y"), file.get_tensor("loss")
            x, attacked = file.get_slice("x"), file.get_slice("attacked")
            shape = x.get_shape()
            fits = (
                len(shape) >= 2 and shape == attacked.get_shape() and label.shape == loss.shape == (shape[0],)
            )
            if not fits or len(rows) < len(hardest) or not all(0 <= row < shape[0] for row in rows):
                return None, f"{POINTS} does not hold these examples"
            if not all(hard.loss is None or _same(hard.loss, loss[hard.example]) for hard in hardest):
                return None, f"{POINTS} is of another evaluation"
            before, after = (
                np.concatenate([points[row : row + 1] for row in rows]).astype(np.float64)
                for points in (x, attacked)
            )
    except (SafetensorError, OSError, KeyError, IndexError, ValueError, TypeError):
        return None, f"{POINTS} is cut short or not a file of attacked points"
    return Gallery(
        x=np.nan_to_num(before, posinf=0.0, neginf=0.0),
        attacked=np.nan_to_num(after, posinf=0.0, neginf=0.0),
        label=label[rows].astype(np.int64),
        predicted_clean=None,
        predicted_attacked=None,
    ), None


def _same(recorded: float, stored: object) -> bool:
    return isclose(recorded, float(np.float64(stored)), rel_tol=1e-5, abs_tol=1e-8)  # type: ignore[arg-type]
