"""The page about the claims put to the test: each with its criterion, figures, table and verdict."""

from collections.abc import Mapping, Sequence
from math import isfinite, log10
from pathlib import Path
from typing import Any

from markupsafe import Markup

from holdfast._files import write_text
from holdfast._formats import NOT_MEASURED, Real, count, number, percent, setting
from holdfast.report.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Figure, Series
from holdfast.report.pages import render
from holdfast.report.svg import Scale, Svg

Record = Mapping[str, Any]


def write_reproduced_page(records: Sequence[Record], out: Path) -> Path:
    """The self-contained page about the records of ``reproduce.json``, whole or not at all."""
    shown = [
        {
            "record": record,
            "decided": decided(record),
            "criteria": [
                criterion
                | {
                    "measured": figure(criterion["measured"]),
                    "must": f"{SIGNS[criterion['relation']]} {setting(criterion['bound'])}",
                }
                for criterion in record["criteria"]
            ],
            "rows": table_rows(record),
            "figures": [draw(plot) for plot in record["plots"]],
        }
        for record in records
    ]
    passed = sum(record["passed"] for record in records)
    text = render("reproduce.html", shown=shown, passed=passed)
    write_text(out, text)
    return out


SIGNS = {"<=": "\N{LESS-THAN OR EQUAL TO}", ">=": "\N{GREATER-THAN OR EQUAL TO}", ">": ">"}


def figure(value: Real | None) -> str:
    """A number that decides; small ones with their power of ten."""
    if value is not None and isfinite(value) and 0 < abs(value) < 1e-4:
        return setting(float(f"{value:.2g}"))
    return setting(value)


def decided(record: Record) -> str:
    """The criterion that failed, else the first, as one line: ``0.0042 <= 0.01``."""
    criterion = next((c for c in record["criteria"] if not c["passed"]), record["criteria"][0])
    return (
        f"{criterion['what']}: {figure(criterion['measured'])} (must be "
        f"{SIGNS[criterion['relation']]} {setting(criterion['bound'])})"
    )


def table_rows(record: Record) -> list[list[str]]:
    """The table as text, a list a row."""
    styles = [column["style"] for column in record["columns"]]
    return [[cell(value, style) for value, style in zip(row, styles, strict=True)] for row in record["rows"]]


def cell(value: Any, style: str) -> str:
    """A word as it is, a figure in its style, figures of several seeds as their mean and range.

    >>> cell([1.0, 2.0], "setting"), cell([2.0, 2.0], "count"), cell("PGD", "text")
    ('1.5 (1 to 2)', '2', 'PGD')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        known = [v for v in value if v is not None]
        if len(known) < len(value) or not known:
            return NOT_MEASURED
        low, high, middle = (
            figure(float(f"{v:.4g}")) if style == "number" else _one(v, style)
            for v in (min(known), max(known), sum(known) / len(known))
        )
        return middle if low == high else f"{middle} ({low} to {high})"
    return _one(value, style)


def _one(value: Real | None, style: str) -> str:
    return {"count": count, "setting": setting, "percent": percent}.get(style, number)(value)


def draw(plot: Record) -> Figure:
    """The figure that a plot describes; what is not finite, or not above 0 on a logarithmic axis, is left
    out.
    """
    series = tuple(
        Series(
            label=line["label"],
            points=tuple(
                (float(x), float(y))
                for x, y in line["points"]
                if x is not None
                and y is not None
                and isfinite(x)
                and isfinite(y)
                and not (plot["log_x"] and x <= 0)
                and not (plot["log_y"] and y <= 0)
            ),
            style=line["style"],
            kind=line["kind"],
        )
        for line in plot["lines"]
    )
    series = tuple(s for s in series if s.points)
    if not series:
        return Figure(title=plot["title"], run="", svg=Markup(""), legend=(), empty="Not measured.")
    return Figure(
        title=plot["title"],
        run="",
        legend=tuple(s for s in series if s.label),
        svg=_drawn(plot, series),
    )


def _drawn(plot: Record, series: tuple[Series, ...]) -> Markup:
    x = _scale(
        [a for s in series if s.kind != "level" for a, _ in s.points],
        LEFT + 8,
        WIDTH - RIGHT - 8,
        log=plot["log_x"],
        floor=False,
    )
    y = _scale([b for s in series for _, b in s.points], HEIGHT - BOTTOM, TOP, log=plot["log_y"], floor=True)
    svg = Svg(WIDTH, HEIGHT)
    for value, text in y.ticks(5):
        svg.line(LEFT, y(value), WIDTH - RIGHT, y(value), "axis" if value == 0 else "grid")
        svg.text(LEFT - 6, y(value) + 4, text, "tick", "end")
    for value, text in x.ticks(5):
        svg.line(x(value), HEIGHT - BOTTOM, x(value), HEIGHT - BOTTOM + 4, "axis")
        svg.text(x(value), HEIGHT - BOTTOM + 17, text, "tick", "middle")
    svg.text(WIDTH - RIGHT, HEIGHT - 3, plot["x"], "tick name", "end")
    for s in series:
        if s.kind == "level":
            svg.line(LEFT, y(s.points[0][1]), WIDTH - RIGHT, y(s.points[0][1]), f"stroke level {s.style}")
            continue
        points = [(x(a), y(b)) for a, b in s.points]
        if s.kind == "line" and len(points) > 1:
            svg.path(points, f"stroke {s.style}")
        for a, b in points if s.kind == "points" or len(points) == 1 else []:
            svg.circle(a, b, 3.0, f"mark {s.style}")
    said = "; ".join(
        f"{s.label} from {number(s.points[0][1])} at {setting(s.points[0][0])} to "
        f"{number(s.points[-1][1])} at {setting(s.points[-1][0])}"
        for s in series
        if s.label and s.kind == "line"
    )
    return svg.render(f"{plot['title']}: {plot['y']} against {plot['x']}; {said}.", "chart")


def _scale(values: list[float], start: float, stop: float, *, log: bool, floor: bool) -> Scale:
    """From the least to the greatest, to whole decades or half of one where logarithmic; from 0 where
    ``floor``.
    """
    low, high = min(values), max(values)
    if log:
        margin = 10 ** (0.06 * max(1.0, log10(high / low))) if floor else 1.0
        low, high = low / margin, high * margin
        return Scale(
            low=low,
            high=high if high > low else 2 * low,
            start=start,
            stop=stop,
            logarithmic=True,
        )
    if floor:
        low, high = min(0.0, low), 1.05 * high
    return Scale(low=low, high=high if high > low else low + 1, start=start, stop=stop)
