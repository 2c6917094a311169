"""One self-contained page: no scripts, no network, every figure inline, everything users typed escaped."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from holdfast import _formats as formats
from holdfast._record import check_whole
from holdfast._rules import PATH, Rule, either, several, takes
from holdfast.diagnosis import NOTHING, Finding, summed_up
from holdfast.errors import InputError, RunFolderError
from holdfast.report.accuracy import AccuracyPart, accuracy_bracket, curve_figure, parts
from holdfast.report.bracket import NARROW, WIDE, bracket, full_scale
from holdfast.report.citations import citations
from holdfast.report.collect import Diagnosed, RunPage, page_of, read_run
from holdfast.report.evaluated import VERDICTS, EvaluatedPart, read_evaluation
from holdfast.report.figures import FIGURES, Figure
from holdfast.report.images import Picture, draw
from holdfast.report.pages import render

MOST_EPOCH_ROWS = 60
CONFIG_LINE = re.compile(r"^(\s*(?:- )*)([A-Za-z_][\w.\-]*)(:)(\s.*|)$")
BADGES = {
    "certified": "The lower bound is proved for this run.",
    "estimate": "Computed under an assumption that is not proved.",
    "void": "An assumption of the proof is broken: nothing is claimed.",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """One of the three gaps as shown; ``share`` of the robust loss, where it can be told, is 0 to 1."""

    key: str
    title: str
    question: str
    meaning: str
    figure: str
    finding: Finding
    share: float | None
    largest: bool


@dataclass(frozen=True, kw_only=True)
class EvaluationPage:
    """A run's evaluation with everything drawn; ``hardest`` only where the examples are images."""

    found: EvaluatedPart
    wide: Markup
    narrow: Markup
    parts: tuple[AccuracyPart, ...]
    curve: Figure | None
    hardest: Picture | None
    own_classes: bool


@dataclass(frozen=True, kw_only=True)
class View:
    """One run with everything drawn."""

    label: str
    run: RunPage
    wide: Markup
    narrow: Markup
    cards: tuple[Card, ...]
    figures: tuple[Figure, ...]
    gallery: Picture | None
    config: Markup | None
    evaluation: EvaluationPage | None
    summed_up: str


def _read_diagnosed(value: Any) -> Any:
    if isinstance(value, type) or not isinstance(value, Diagnosed):
        raise TypeError
    return value


ONE = either(PATH, Rule(what="what holdfast.diagnose gave", read=_read_diagnosed))


@takes(folders=either(ONE, several(ONE, least=0)), out=PATH)
def write_report(folders: str | Path | Diagnosed | Sequence[str | Path | Diagnosed], out: str | Path) -> Path:
    """Write the page about these runs, or about networks from elsewhere, to ``out``, whole or not at all.

    Folders are only read. Missing figures are shown as not measured, so a run that was interrupted has a
    page too.

    Args:
        folders: run folders, as `holdfast.train` leaves them, and what `holdfast.diagnose` gave; one or several.
        out: the file of the page.

    Returns:
        ``out``.

    Raises:
        InputError: no folder was given.
        RunFolderError: a folder's ``summary.json`` is missing, a file of its record is missing or not as it
            was written, or ``out`` cannot be written.

    >>> import holdfast as hf
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     length = pathlib.Path(name, "summary.json").write_text('{"name": "my run"}')
    ...     hf.write_report(name, pathlib.Path(name, "page.html")).name
    'page.html'
    """
    shown = folders if isinstance(folders, tuple) else (folders,)
    if not shown:
        raise InputError("folders must name at least one run folder, got none; give for example runs/demo.")
    runs = [page_of(one) if isinstance(one, Diagnosed) else read_run(Path(one)) for one in shown]
    for one in shown:
        if not isinstance(one, Diagnosed):
            # also what no figure is read from: the page shows what the trace is the evidence of
            check_whole(Path(one))
    html = page(runs)
    _write_whole(Path(out), html)
    return Path(out)


def page(runs: Sequence[RunPage]) -> str:
    """The page about these runs, as HTML.

    Args:
        runs: from `read_run`.

    >>> import pathlib, tempfile
    >>> from holdfast import report
    >>> with tempfile.TemporaryDirectory() as name:
    ...     length = pathlib.Path(name, "summary.json").write_text('{"name": "my run"}')
    ...     report.page([report.read_run(pathlib.Path(name))]).startswith("<!doctype html>")
    True
    """
    top, alone = full_scale(list(runs)), len(runs) == 1
    elsewhere = not any(run.known.of_run for run in runs)  # nothing is known of how they were trained
    views = [
        View(
            label=label,
            run=run,
            wide=bracket(run, WIDE, top, magnify=alone),
            narrow=bracket(run, NARROW, top, magnify=alone),
            cards=cards(run),
            figures=tuple(
                drawn
                for figure in FIGURES
                if (drawn := figure(run, runs)) is not None and not (elsewhere and drawn.empty)
            ),
            gallery=draw(run, run.gallery),
            config=None if run.config is None else pretty(run.config),
            evaluation=evaluation(run),
            summed_up=summed_up(run.findings),
        )
        for label, run in zip(labels(runs), runs, strict=True)
    ]
    return render(
        "page.html",
        views=views,
        alone=alone,
        elsewhere=elsewhere,
        badges=BADGES,
        verdicts=VERDICTS,
        works=citations(list(runs)),
        most_epoch_rows=MOST_EPOCH_ROWS,
    )


def evaluation(run: RunPage) -> EvaluationPage | None:
    """The run's evaluation, drawn; ``None`` where it has none."""
    found = read_evaluation(run)
    if found is None:
        return None
    hardest = draw(run, found.pictures)
    return EvaluationPage(
        found=found,
        wide=accuracy_bracket(found, WIDE),
        narrow=accuracy_bracket(found, NARROW),
        parts=parts(found),
        curve=curve_figure(found, run.name),
        hardest=hardest if hardest is not None and hardest.as_images else None,
        own_classes=bool(found.per_class) and found.per_class != run.per_class,
    )


def labels(runs: Sequence[RunPage]) -> list[str]:
    """A distinct name for each run: its own, with the folder's, and at last a number, where names repeat."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        repeated = Counter(names)
        names = [
            f"{n} ({run.folder.name})" if repeated[n] > 1 else n for n, run in zip(names, runs, strict=True)
        ]
    if len(set(names)) < len(names):
        names = [f"{i}. {name}" for i, name in enumerate(names, start=1)]
    return names


def cards(run: RunPage) -> tuple[Card, ...]:
    """The three gaps, with each one's share of the robust loss: lower bound + optimisation + attack."""
    shares = loss_shares(run)
    largest = max(shares, key=lambda key: shares[key]) if len(shares) > 1 else None
    words = {
        "optimisation": ("Optimisation", "Train longer?", f"surrogate loss {formats.MINUS} lower bound"),
        "attack": (
            "Attack",
            "Attack too weak?",
            f"loss under stronger attacks {formats.MINUS} loss trained against",
        ),
        "capacity": ("Capacity", "Network too small?", "where the optimum lies"),
    }
    return tuple(
        Card(
            key=key,
            title=title,
            question=question,
            meaning=meaning,
            figure=_figure(run, key),
            finding=run.finding(key),
            share=shares.get(key),
            largest=key == largest,
        )
        for key, (title, question, meaning) in words.items()
    )


def _figure(run: RunPage, key: str) -> str:
    finding = run.finding(key)
    if key == "optimisation" and run.unsayable:
        return NOTHING
    if key == "capacity" and len(finding.values) == 1:  # one end of the bracket alone
        return f"{'at most' if run.claimed_lower is None else 'at least'} {finding.figure}"
    return finding.figure


def loss_shares(run: RunPage) -> dict[str, float]:
    """Shares of the robust loss of this network: what no network in the ball avoids (the lower bound), what
    the optimiser leaves, and what the training attack misses. Empty where nothing is claimed or measured."""
    lower, gap, missed = run.claimed_lower, run.gap, run.finding("attack").value
    if lower is None or gap is None or lower <= 0:
        return {}
    parts = {"capacity": lower, "optimisation": max(0.0, gap)}
    if missed is not None:
        parts["attack"] = missed.number
    total = sum(parts.values())
    return {key: part / total for key, part in parts.items()} if total > 0 else {}


def pretty(config: str) -> Markup:
    """The configuration as it stands, its keys marked."""
    lines = []
    for line in config.splitlines():
        found = CONFIG_LINE.match(line)
        if found:
            indent, key, colon, rest = found.groups()
            lines.append(Markup('{}<span class="key">{}</span>{}{}').format(indent, key, colon, rest))
        elif line.lstrip().startswith("#"):
            lines.append(Markup('<span class="comment">{}</span>').format(line))
        else:
            lines.append(Markup("{}").format(line))
    return Markup("\n").join(lines)


def _write_whole(out: Path, html: str) -> None:
    """Writes beside ``out`` and renames: a reader sees the old page or the new one, never half of one."""
    if out.is_dir():
        raise RunFolderError(
            f"the page must be a file, but {out} is a folder; name a file in it, as {out / 'report.html'}."
        )
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent)
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(html)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # a temporary file is for its owner alone; the page need not be
        os.replace(temporary, out)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise RunFolderError(
            f"the page must go to a place that can be written, but {out} cannot ('{error.strerror}'); "
            "choose another with --out."
        ) from error
