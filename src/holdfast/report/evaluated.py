"""An evaluation as typed values, read as leniently as the rest of a run.

The record lies under ``evaluation`` in ``summary.json``; pictures of its hardest examples come from
``evaluation/attacked.safetensors``, of which only their rows are read.
"""

from dataclasses import dataclass
from math import isclose
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from holdfast._fields import Fields
from holdfast._record import checked
from holdfast.diagnosis import Finding
from holdfast.report.collect import ClassRow, Gallery, Run, class_rows

VERDICTS = {
    "trust": "No sign that the attacks failed was found. That is no proof.",
    "doubt": "The share not broken may be too high.",
    "void": "The share not broken means nothing.",
}
MOST_HARDEST = 24
POINTS = "attacked.safetensors"

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the cascade: an ``attack`` breaks examples, a ``bound`` proves them."""

    name: str
    kind: str | None
    entered: float | None
    left: float | None
    seconds: float | None
    note: str | None

    @property
    def settled(self) -> float | None:
        """Examples broken or proved here."""
        return None if self.entered is None or self.left is None else max(0.0, self.entered - self.left)


@dataclass(frozen=True, kw_only=True)
class AtRadius:
    """Both sides of the bracket at one radius of the threat."""

    radius: float
    verified: float | None
    not_broken: float | None


@dataclass(frozen=True, kw_only=True)
class Hard:
    """An example neither broken nor proved: its row in the file of attacked points, and the loss the attacks reached."""

    row: int | None
    label: str
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What an evaluation found. ``verified`` is proved, ``not_broken`` observed; spans are 95 % intervals of a sample."""

    record: Fields
    clean: float | None
    verified: float | None
    not_broken: float | None
    clean_span: Span | None
    verified_span: Span | None
    not_broken_span: Span | None
    steps: tuple[Step, ...]
    per_class: tuple[ClassRow, ...]
    curve: tuple[AtRadius, ...]
    hardest: tuple[Hard, ...]
    pictures: Gallery | None
    pictures_problem: str | None
    verdict: str | None
    warnings: tuple[Finding, ...]
    faults: tuple[str, ...]


def read_evaluation(run: Run) -> Evaluated | None:
    """The evaluation recorded in the run's summary; ``None`` where there is none."""
    record = run.summary.inner("evaluation")
    if not record.values:
        return None
    bounded = record.text("verify") is not None
    spans = record.inner("intervals")
    hardest = tuple(
        Hard(row=row.whole("example"), label=row.text("label") or "?", loss=row.number("loss"))
        for row in record.rows("hardest")[:MOST_HARDEST]
    )
    pictures, problem = _pictures(run.folder / "evaluation" / POINTS, hardest)
    verdict = record.inner("verdict")
    word = verdict.text("word")
    clean = record.share("clean_accuracy")
    verified = record.share("robust_accuracy_verified") if bounded else None
    not_broken = record.share("robust_accuracy")
    return Evaluated(
        record=record,
        clean=clean,
        verified=verified,
        not_broken=not_broken,
        clean_span=_span(spans, "clean", clean),
        verified_span=_span(spans, "verified", verified),
        not_broken_span=_span(spans, "robust", not_broken),
        steps=tuple(_step(row) for row in record.rows("stages")),
        per_class=class_rows(record.rows("per_class")),
        curve=_curve(record, bounded),
        hardest=hardest,
        pictures=pictures,
        pictures_problem=problem,
        verdict=word if word in VERDICTS else None,
        warnings=run.known.warnings,
        faults=_faults(record, verified, not_broken),
    )


def _span(spans: Fields, key: str, inside: float | None) -> Span | None:
    found = spans.values.get(key)
    if inside is None or not isinstance(found, list) or len(found) != 2:
        return None
    ends = Fields({"low": found[0], "high": found[1]})
    low, high = ends.share("low"), ends.share("high")
    return (low, high) if low is not None and high is not None and low <= inside <= high else None


def _step(row: Fields) -> Step:
    kind = row.text("kind")
    return Step(
        name=row.text("name") or "?",
        kind=kind if kind in ("attack", "bound") else None,
        entered=row.number("entered"),
        left=row.number("left"),
        seconds=row.number("seconds"),
        note=row.text("note"),
    )


def _curve(record: Fields, bounded: bool) -> tuple[AtRadius, ...]:
    """In increasing order. Without bounds nothing was proved at any radius, which is not the same as 0 proved."""
    found = []
    for row in record.rows("curve"):
        radius, low, high = row.number("radius"), row.share("verified"), row.share("not_broken")
        if radius is not None and radius >= 0:
            found.append(AtRadius(radius=radius, verified=low if bounded else None, not_broken=high))
    return tuple(sorted(found, key=lambda point: point.radius))


def _faults(record: Fields, verified: float | None, not_broken: float | None) -> tuple[str, ...]:
    """Why the figures cannot be believed as they stand, whatever the verdict."""
    found = []
    if verified is not None and not_broken is not None and verified > not_broken:
        found.append("More is proved than was not broken: a bound or an attack is wrong.")
    checked = record.inner("recheck")
    if checked.flag("sound") is False:
        counts = [
            f"{checked.whole(key)} {words}"
            for key, words in (
                ("outside", "outside their threat sets"),
                ("wrong_flags", "classified otherwise than recorded"),
                ("wrong_losses", "with another loss"),
            )
            if checked.whole(key)
        ]
        said = f": {', '.join(counts)}" if counts else ""
        found.append(f"The stored points, read back, do not bear out these figures{said}.")
    return tuple(found)


def _pictures(path: Path, hardest: tuple[Hard, ...]) -> tuple[Gallery | None, str | None]:
    """The hardest examples and their attacked points, or why there are none to show."""
    rows = [hard.row for hard in hardest if hard.row is not None]
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
            if not all(hard.loss is None or _same(hard.loss, loss[hard.row]) for hard in hardest):
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
