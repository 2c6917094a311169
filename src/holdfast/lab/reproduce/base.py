"""The contract of an experiment: the claim, what must hold stated before anything is run, what was
measured, the verdict.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from holdfast.jobs.summary import versions

Relation = Literal["<=", ">=", ">"]
Known = Literal["proved", "bounded", "estimated", "observed", ""]
Style = Literal["text", "number", "count", "setting"]
Cell = str | float | int | list[float]
Report = Callable[[float], None]
Item = TypeVar("Item")
CODE = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a run: ``quick`` for a look (tests and CI), otherwise the figures to quote; random
    ``seeds`` of networks and searches.
    """

    quick: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One inequality that a measured number must meet, fixed before the run.

    Attributes:
        key: what `Measured.deciding` calls the number.
        what: the number, in words, with how seeds are put together.
        relation, bound: ``number relation bound``.
        why: where the bound comes from.
    """

    key: str
    what: str
    relation: Relation
    bound: float
    why: str

    def holds(self, value: float) -> bool:
        """Whether the number meets the bound; a number that is not there (NaN) meets none.

        >>> Criterion(key="gap", what="gap", relation="<=", bound=0.01, why="").holds(0.0099)
        True
        """
        if math.isnan(value):
            return False
        return {"<=": value <= self.bound, ">=": value >= self.bound, ">": value > self.bound}[self.relation]


@dataclass(frozen=True, kw_only=True)
class Column:
    """Of the table: its heading, how its figures are known, how they are written. A cell with a list has a
    figure per seed.
    """

    name: str
    known: Known = ""
    style: Style = "number"


@dataclass(frozen=True, kw_only=True)
class PlotLine:
    """One quantity of a plot. ``kind``: joined (``line``), marks only (``points``), one ``level``."""

    label: str
    points: tuple[tuple[float, float], ...]
    style: str = "s-blue"
    kind: Literal["line", "points", "level"] = "line"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """What is drawn, before it is drawn."""

    title: str
    x: str
    y: str
    lines: tuple[PlotLine, ...]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run found.

    Attributes:
        deciding: a number for every criterion, by key.
        columns, rows: the table.
        plots: the figures.
        notes: sentences that a reader needs to judge the figures.
    """

    deciding: Mapping[str, float]
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    plots: tuple[Plot, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One claim of the theory and how it is put to the test.

    Attributes:
        name: on the command line.
        claim: in plain words.
        source: theorem and paper; ``(recalled)`` where the text was not at hand.
        setup: data, network, threat and attack, in words.
        criteria: all must hold.
        measure: runs it; the verdict is not its business.
    """

    name: str
    claim: str
    source: str
    setup: str
    criteria: tuple[Criterion, ...]
    measure: Callable[[Scale, Report], Measured]


def record(
    experiment: Experiment, scale: Scale, measured: Measured, seconds: float, processor_seconds: float
) -> dict[str, Any]:
    """Claim, criteria with the numbers that met them or not, table, figures: what `reproduce.json` holds
    of one experiment.
    """
    verdicts = [
        asdict(criterion)
        | {"measured": (value := float(measured.deciding[criterion.key])), "passed": criterion.holds(value)}
        for criterion in experiment.criteria
    ]
    return {
        "name": experiment.name,
        "claim": experiment.claim,
        "source": experiment.source,
        "setup": experiment.setup,
        "settings": settings(experiment, scale),
        "passed": all(v["passed"] for v in verdicts),
        "criteria": verdicts,
        "columns": [asdict(column) for column in measured.columns],
        "rows": [list(row) for row in measured.rows],
        "plots": [asdict(plot) for plot in measured.plots],
        "notes": list(measured.notes),
        "seconds": seconds,
        "processor_seconds": processor_seconds,
    }


def settings(experiment: Experiment, scale: Scale) -> dict[str, Any]:
    """What a finished record must agree with, word for word, to count as this run; ``code`` is a digest
    of the experiments.
    """
    bounds = [f"{c.what} {c.relation} {c.bound:g}" for c in experiment.criteria]
    return {
        "quick": scale.quick,
        "seeds": list(scale.seeds),
        "criteria": bounds,
        "code": CODE,
        "versions": versions(),
    }


def tracked(items: Iterable[Item], report: Report) -> Iterator[Item]:
    """The items, the share that is done reported before each."""
    todo = list(items)
    for done, item in enumerate(todo):
        report(done / len(todo))
        yield item


def within(report: Report, low: float, high: float) -> Report:
    """A report of a part of the work, from ``low`` to ``high``."""
    return lambda share: report(low + (high - low) * share)


def mean(values: Sequence[float]) -> float:
    """Their mean.

    >>> mean([1.0, 2.0])
    1.5
    """
    return math.fsum(values) / len(values)


def log_slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Slope of the least-squares line through ``(log x, log y)``: the power ``p`` of ``y = c x^p``; NaN where
    a number is not above 0.

    >>> round(log_slope([1.0, 4.0, 16.0], [8.0, 4.0, 2.0]), 6)
    -0.5
    """
    if len(xs) < 2 or not all(0 < v < math.inf for v in (*xs, *ys)):
        return math.nan
    a, b = [math.log(x) for x in xs], [math.log(y) for y in ys]
    middle, level = mean(a), mean(b)
    return math.fsum((u - middle) * (v - level) for u, v in zip(a, b, strict=True)) / math.fsum(
        (u - middle) ** 2 for u in a
    )


def seeds_and_mean(
    label: str, xs: Sequence[float], per_seed: Sequence[Sequence[float]], style: str
) -> tuple[PlotLine, ...]:
    """The mean over seeds as a line, every seed as a mark."""
    pairs = list(zip(xs, per_seed, strict=True))
    marks = tuple((x, y) for x, ys in pairs for y in ys)
    return (
        PlotLine(
            label=f"{label}, mean over seeds", points=tuple((x, mean(ys)) for x, ys in pairs), style=style
        ),
        PlotLine(label="", points=marks, style=style, kind="points"),
    )
