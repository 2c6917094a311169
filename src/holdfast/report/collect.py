"""A run folder as its page shows it; what was not measured is ``None``.

Only ``summary.json`` must be there and whole: without it a folder is not a run. All else may be missing, as
it is after an interrupt, and is then shown as not measured.
"""

import re
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from holdfast._formats import CONTROL
from holdfast._record import checked
from holdfast.diagnosis import Finding, Known, diagnose
from holdfast.record.known import known_of
from holdfast.record.run import read_figures
from holdfast.record.schema import BoundFigures, ClassFigures, DriftFigures, EpochFigures, Summary

LOG_BYTES = 16_384
LOG_LINES = 40
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PYTHON = re.compile("^started_from: python$", re.MULTILINE)
STATUSES = ("certified", "estimate", "void")


@dataclass(frozen=True, kw_only=True)
class BoundAtRadius:
    """The lower bound over the ball of this parameter radius; ``informative``: it is more than the trivial
    one.
    """

    radius: float
    lower_bound: float | None
    status: str | None
    informative: bool


KERNEL = (
    "kernel_drift",
    "kernel_alignment",
    "kernel_centred_alignment",
    "kernel_eigenvalue_max",
    "kernel_eigenvalue_min",
    "weight_drift",
)
"""Columns of runs whose tangent kernel was watched."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of ``metrics.jsonl``; ``rounds`` counts from the start of the run, ``kernel`` has what was
    observed of `KERNEL`.
    """

    epoch: float
    rounds: float
    seconds: float | None
    learning_rate: float | None
    online_loss: float | None
    lower_bound: float | None
    void: str | None
    clean_accuracy: float | None
    robust_accuracy: float | None
    robust_loss: float | None
    drift: dict[str, float]
    kernel: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Examples beside what the attack made of them; first axis: the example. Predictions may be missing."""

    x: NDArray[np.float64]
    attacked: NDArray[np.float64]
    label: NDArray[np.int64]
    predicted_clean: NDArray[np.int64] | None
    predicted_attacked: NDArray[np.int64] | None


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """Everything the page shows of one run folder.

    Attributes:
        folder: the run folder.
        name: of the run.
        summary: what ``summary.json`` holds.
        status: of the certificate; ``None`` without one.
        lower: the lower bound of the robust loss in the ball.
        upper: the upper end of the optimum.
        surrogate: the surrogate loss of the certificate.
        known: the figures that the findings are made from.
        findings: of the diagnosis, in the order in which to fix.
        bounds_at_radii: the lower bound by parameter radius.
        drift: distance of each ball from its start.
        per_class: accuracies by class.
        class_names: names of the classes, by number.
        epochs: lines of ``metrics.jsonl``.
        unread_lines: lines of ``metrics.jsonl`` that could not be read.
        gallery: examples beside their attacked points; ``None`` where there are none.
        gallery_problem: why the gallery could not be read; ``None`` where it could.
        config: text of ``config.yaml``; ``None`` where it is missing.
        log: last lines of the log.

    >>> import pathlib, tempfile
    >>> from holdfast import report
    >>> with tempfile.TemporaryDirectory() as name:
    ...     length = pathlib.Path(name, "summary.json").write_text('{"name": "my run"}')
    ...     report.read_run(pathlib.Path(name)).name
    'my run'
    """

    folder: Path
    name: str
    summary: Summary
    status: str | None
    lower: float | None
    upper: float | None
    surrogate: float | None
    known: Known
    findings: tuple[Finding, ...]
    bounds_at_radii: tuple[BoundAtRadius, ...]
    drift: tuple[DriftFigures, ...]
    per_class: tuple[ClassFigures, ...]
    class_names: tuple[str, ...]
    epochs: tuple[Epoch, ...]
    unread_lines: int
    gallery: Gallery | None
    gallery_problem: str | None
    config: str | None
    log: tuple[str, ...]

    @property
    def claimed_lower(self) -> float | None:
        """The lower end of the bracket: nothing where the certificate is void, or the bound is the trivial
        one.
        """
        return self.known.claimed

    @property
    def gap(self) -> float | None:
        """The gap, where there is a lower bound that says something."""
        return None if self.claimed_lower is None else self.known.gap

    @property
    def unsayable(self) -> bool:
        """Whether there is a lower bound, and it is the trivial one."""
        return self.known.kind is not None and self.lower is not None and not self.known.informative

    def finding(self, name: str) -> Finding:
        """The first finding of this name."""
        return next(finding for finding in self.findings if finding.name == name)

    @property
    def start(self) -> float | None:
        """The online loss of the first epoch: about where training began."""
        return next((epoch.online_loss for epoch in self.epochs if epoch.online_loss is not None), None)

    def class_name(self, label: int) -> str:
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)


def said(finding: Finding, config: str | None) -> Finding:
    """The finding with its remedy as the run of this configuration was started: in Python, or by a command."""
    return finding if config is not None and PYTHON.search(config) else finding.at_terminal()


def read_run(folder: Path) -> RunPage:
    """The run in ``folder``, with its findings.

    Args:
        folder: a run folder, as `holdfast.train` leaves it.

    Raises:
        RunFolderError: the folder or its ``summary.json`` is missing or cut short.

    >>> import pathlib, tempfile
    >>> from holdfast import report
    >>> with tempfile.TemporaryDirectory() as name:
    ...     length = pathlib.Path(name, "summary.json").write_text('{"name": "my run"}')
    ...     report.read_run(pathlib.Path(name)).finding("certificate").level
    'warning'
    """
    figures = read_figures(folder)
    summary, known = figures.summary, known_of(figures.summary, figures.epochs)
    gallery, problem = _gallery(checked(folder / "gallery.safetensors"))
    config = _text(checked(folder / "config.yaml"))
    return _page(
        summary,
        known,
        folder=folder,
        name=summary.name or folder.resolve().name,
        findings=tuple(said(finding, config) for finding in diagnose(known)),
        epochs=_epochs(figures.epochs),
        unread_lines=figures.unread,
        gallery=gallery,
        gallery_problem=problem,
        config=config,
        log=_log_tail(folder / "log.txt"),
    )


@runtime_checkable
class Diagnosed(Protocol):
    """What `holdfast.diagnose` gives, as far as a page shows it."""

    findings: tuple[Finding, ...]
    known: Known
    summary: Summary


def page_of(found: Diagnosed) -> RunPage:
    """The page of a network that was trained elsewhere: what is about training is not on it."""
    return _page(
        found.summary,
        found.known,
        folder=Path(),
        name=found.summary.name or "network",
        findings=found.findings,
        epochs=(),
        unread_lines=0,
        gallery=None,
        gallery_problem=None,
        config=None,
        log=(),
    )


def _page(summary: Summary, known: Known, **rest: Any) -> RunPage:
    """What a page takes from a summary, with the rest as given."""
    status = summary.certificate_status
    return RunPage(
        summary=summary,
        known=known,
        status=status if status in STATUSES else None,
        lower=summary.robust_loss_lower_bound,
        upper=summary.robust_loss_upper_bound,
        surrogate=summary.surrogate_loss,
        bounds_at_radii=_bounds(summary.bounds_at_radii, known.floor),
        drift=summary.drift,
        per_class=named(summary.per_class),
        class_names=summary.data.class_names,
        **rest,
    )


def named(rows: tuple[ClassFigures, ...]) -> tuple[ClassFigures, ...]:
    """The table of classes, each with a name."""
    return tuple(replace(row, class_name=row.class_name or str(index)) for index, row in enumerate(rows))


def _bounds(rows: tuple[BoundFigures, ...], floor: float) -> tuple[BoundAtRadius, ...]:
    found = [
        BoundAtRadius(
            radius=row.radius,
            lower_bound=row.lower_bound,
            status=row.status,
            informative=row.lower_bound is not None and row.lower_bound > floor,
        )
        for row in rows
        if row.radius is not None
    ]
    return tuple(sorted(found, key=lambda bound: bound.radius))


def _epochs(rows: tuple[EpochFigures, ...]) -> tuple[Epoch, ...]:
    rounds = [row.rounds or 0 for row in rows]
    if any(later <= earlier for earlier, later in pairwise(rounds)):
        # not a running count, so counts of each epoch: epochs of a run are of one length, or nearly
        rounds = list(accumulate(rounds))
    return tuple(
        Epoch(
            epoch=float(index if row.epoch is None else row.epoch),
            rounds=float(done if done > 0 else index + 1),
            seconds=row.seconds,
            learning_rate=row.learning_rate,
            online_loss=row.online_loss,
            lower_bound=row.lower_bound,
            void=row.void,
            clean_accuracy=row.clean_accuracy,
            robust_accuracy=row.robust_accuracy,
            robust_loss=row.robust_loss,
            drift={layer: value for layer, value in (row.drift or {}).items() if value is not None},
            kernel={key: value for key in KERNEL if (value := getattr(row, key)) is not None},
        )
        for index, (row, done) in enumerate(zip(rows, rounds, strict=True))
    )


def _gallery(path: Path) -> tuple[Gallery | None, str | None]:
    """The gallery, or why there is none to show (``None``: the run kept none)."""
    if not path.exists():
        return None, None
    try:
        arrays = load_file(path)
        x, attacked = (arrays[key].astype(np.float64) for key in ("x", "attacked"))
        label = arrays["label"].astype(np.int64)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None, "gallery.safetensors is cut short or not a gallery"
    if x.shape != attacked.shape or x.ndim < 2 or label.shape != x.shape[:1]:
        return None, "gallery.safetensors holds arrays that do not fit together"

    def predicted(key: str) -> NDArray[np.int64] | None:
        found = arrays.get(key)
        return found.astype(np.int64) if found is not None and found.shape == label.shape else None

    return Gallery(
        x=np.nan_to_num(x, posinf=0.0, neginf=0.0),
        attacked=np.nan_to_num(attacked, posinf=0.0, neginf=0.0),
        label=label,
        predicted_clean=predicted("predicted_clean"),
        predicted_attacked=predicted("predicted_attacked"),
    ), None


def _text(path: Path) -> str | None:
    try:
        return CONTROL.sub("", path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n"))
    except OSError:
        return None


def _log_tail(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            tail = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    # a progress bar redraws its line after a carriage return: what stood there last is what was seen
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in ANSI.sub("", tail).split("\n"))
    return tuple(CONTROL.sub("", line) for line in lines if line.strip())[-LOG_LINES:]
