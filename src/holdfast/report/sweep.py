"""The page about a sweep: phase diagrams over the swept settings, made from ``sweep.json`` alone."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast._files import write_text
from holdfast._formats import MINUS, Real, count, number
from holdfast._record import read_values
from holdfast.report.figures import Figure, Series, chart
from holdfast.report.heat import Box, heat_map
from holdfast.report.pages import render

# name in sweep.json: heading, how it is known, how it is written, bottom and top of its scale (None: from the
# data)
TRAINED: dict[str, tuple[str, str, str, float | None, float | None]] = {
    "robust_accuracy": ("Robust accuracy (test)", "observed", "percent", 0.0, 1.0),
    "train_robust_accuracy": ("Robust accuracy (train)", "observed", "percent", 0.0, 1.0),
    "clean_accuracy": ("Clean accuracy (test)", "observed", "percent", 0.0, 1.0),
    "fits": ("Fits every training example robustly (share of seeds)", "observed", "percent", 0.0, 1.0),
    "surrogate_loss": ("Surrogate loss reached", "observed", "number", 0.0, None),
    "robust_loss_lower_bound": (
        "Lower bound of the loss in the ball",
        "",
        "number",
        0.0,
        None,
    ),  # known as `bound_kind` says
    "gap": ("Gap to the best in the ball", "", "number", 0.0, None),
}
SEARCHED: dict[str, tuple[str, str, str, float | None, float | None]] = {
    "robust_width": ("Least width with a proved robust fit", "proved", "count", None, None),
    "plain_width": ("Least width with a proved plain fit", "proved", "count", None, None),
    "width_ratio": ("Robust over plain width", "observed", "ratio", None, None),
    "impossible_below": ("No robust fit below this width", "proved", "count", None, None),
}
TABLED = {
    "train": (
        "robust_accuracy",
        "train_robust_accuracy",
        "clean_accuracy",
        "surrogate_loss",
        "robust_loss_lower_bound",
        "gap",
    ),
    "capacity": ("plain_width", "impossible_below", "robust_width", "width_ratio"),
}
SHORT = {
    "robust_accuracy": "robust (test)",
    "train_robust_accuracy": "robust (train)",
    "clean_accuracy": "clean (test)",
    "surrogate_loss": "surrogate",
    "robust_loss_lower_bound": "lower bound",
    "gap": "gap",
    "plain_width": "plain width",
    "impossible_below": "none below",
    "robust_width": "robust width",
    "width_ratio": "ratio",
}

BOUNDS = ("robust_loss_lower_bound", "gap")
"""Figures of certificates: nothing can be said of them where the lower bound is the trivial one."""
SILENT = "nothing can be said"

LOW = 23.0  # height of a box that holds a word alone

Record = Mapping[str, Any]


def write_sweep_report(folder: Path, out: Path) -> Path:
    """Write the self-contained page about the sweep in ``folder``, whole or not at all.

    Raises:
        RunFolderError: no ``sweep.json``, or one that is not as it was written.
    """
    record = read_values(folder / "sweep.json", "sweep")
    done = sum(cell["status"] == "done" for cell in record["cells"])
    text = render(
        "sweep.html",
        record=record,
        title=_title(record),
        done=done,
        groups=groups(record),
        columns=columns(record),
        rows=rows(record),
        failed=[cell for cell in record["cells"] if cell["status"] == "failed"],
        shades=range(11),
    )
    write_text(out, text)
    return out


def columns(record: Record) -> list[tuple[str, str]]:
    """Figures a table of this sweep has, with their headings: those that some cell has."""
    known = {name for point in record["points"] for name in point["figures"]}
    if any(point.get("unsayable") for point in record["points"]):
        known |= set(BOUNDS)
    kind = bound_kind(record)
    aside = f" ({kind})" if kind not in ("", "proved") else ""
    return [
        (name, SHORT[name] + (aside if name in BOUNDS else ""))
        for name in TABLED[record["kind"]]
        if name in known
    ]


def bound_kind(record: Record) -> str:
    """How the lower bounds of a sweep are known: ``proved`` only where every certificate is."""
    found = {cell["figures"].get("certificate_status") for cell in record["cells"]} & {
        "certified",
        "estimate",
    }
    if len(found) == 2:
        return "partly estimated"
    return {"certified": "proved", "estimate": "estimated"}[found.pop()] if found else ""


def rows(record: Record) -> list[dict[str, Any]]:
    """Every point as the table has it."""
    return [
        {
            "place": list(point["place"].values()),
            "values": [value_text(name, point["figures"].get(name), point) for name, _ in columns(record)],
            "done": f"{point['done']} of {point['of']}",
        }
        for point in record["points"]
    ]


def value_text(name: str, figure: Record | None, point: Record | None = None) -> str:
    """``0.81 (0.79 to 0.83)``: the median over seeds with its spread, of those of which something can be
    said.
    """
    silent = 0 if point is None or name not in BOUNDS else point.get("unsayable", 0)
    if figure is None:
        return SILENT if silent else "-"
    if silent:
        return f"{value_text(name, figure)}; {SILENT} of {silent} of {point['of']}"  # type: ignore[index]
    middle = _written(name, figure["median"])
    if figure["low"] == figure["high"]:
        return middle
    ends = f"{_written(name, figure['low'])} to {_written(name, figure['high'])}"
    return f"{middle} ({ends.replace(' %', '')})"


def groups(record: Record) -> list[tuple[str, str, list[Figure]]]:
    """Heading, claim and drawings of each figure that was measured: maps for two swept settings, lines for
    one.
    """
    table = TRAINED if record["kind"] == "train" else SEARCHED
    axes = record["axes"]
    found = []
    if record["kind"] == "capacity" and axes:
        fits = [_fits(record, place, points) for place, points in _panels(record, 1)]
        found.append(("Which widths fit robustly", "", [figure for figure in fits if figure is not None]))
    for name, (title, claim, _, low, high) in table.items():
        values = [p["figures"][name]["median"] for p in record["points"] if name in p["figures"]]
        if not values or not axes:
            continue
        bottom, top = min(values) if low is None else low, max(values) if high is None else high
        numeric = len(axes) == 1 and None not in [_position(v) for v in axes[0]["values"]]
        drawn = [
            _lines(record, name, points, top) if numeric else _map(record, name, place, points, bottom, top)
            for place, points in _panels(record, 2)
        ]
        found.append((title, bound_kind(record) if name in BOUNDS else claim, drawn))
    return [group for group in found if group[2]]


def _title(record: Record) -> str:
    what = "Smallest widths" if record["kind"] == "capacity" else "Sweep"
    names = " and ".join(axis["name"] for axis in record["axes"]) or "seeds"
    data = record["shared"].get("data.name")
    return f"{what} over {names}" + (f": {data}" if data else "")


def _panels(record: Record, kept: int) -> list[tuple[dict[str, str], list[Record]]]:
    """The points for each combination of the axes that no drawing shows: all but the last (``kept`` 1), or
    all but the first two.
    """
    axes = record["axes"]
    outer = axes[:-1] if kept == 1 else axes[2:]
    panels = []
    for values in itertools.product(*(axis["values"] for axis in outer)):
        place = {axis["name"]: value for axis, value in zip(outer, values, strict=True)}
        panels.append((place, [p for p in record["points"] if place.items() <= p["place"].items()]))
    return panels


def _map(
    record: Record, name: str, place: dict[str, str], points: Sequence[Record], low: Real, high: Real
) -> Figure:
    first, second = record["axes"][0], record["axes"][1] if len(record["axes"]) > 1 else None
    ups = second["values"] if second else [""]
    boxes = [
        [
            _box(
                name,
                _point(points, {first["name"]: across} | ({second["name"]: up} if second else {})),
                low,
                high,
            )
            for across in first["values"]
        ]
        for up in ups
    ]
    said = "; ".join(
        f"{', '.join(f'{k} {v}' for k, v in p['place'].items())}: "
        f"{value_text(name, p['figures'].get(name), p)}"
        for p in points
    )
    svg = heat_map(
        boxes,
        x=first["values"],
        y=ups,
        x_name=first["name"],
        y_name=second["name"] if second else "",
        description=said,
    )
    return Figure(title=_place_text(place), run=_place_text(place), svg=svg, legend=())


def _box(name: str, point: Record | None, low: Real, high: Real) -> Box:
    figure = None if point is None else point["figures"].get(name)
    if figure is None:
        silent = point is not None and name in BOUNDS and point.get("unsayable")
        return Box(shade=None, text="failed" if point and point["failed"] else "no claim" if silent else "-")
    value = figure["median"]
    logarithmic = name in SEARCHED and low > 0
    share = (
        (math.log(value) - math.log(low)) / (math.log(high) - math.log(low) or 1.0)
        if logarithmic
        else (value - low) / (high - low or 1.0)
    )
    low_end, middle, high_end = (_brief(name, figure[key]) for key in ("low", "median", "high"))
    spread = "" if low_end == high_end else f"{low_end} to {high_end}".replace(" %", "")
    return Box(shade=share, text=middle, below=spread)


def _lines(record: Record, name: str, points: Sequence[Record], top: Real) -> Figure:
    [axis] = record["axes"]
    known = [
        (p, at)
        for p in points
        if name in p["figures"] and (at := _position(p["place"][axis["name"]])) is not None
    ]
    known.sort(key=lambda pair: pair[1])
    figures = [(at, p["figures"][name]) for p, at in known]
    outline = [(at, f["high"]) for at, f in figures] + [(at, f["low"]) for at, f in reversed(figures)]
    median = tuple((at, float(f["median"])) for at, f in figures)
    several = any(f["low"] != f["high"] for _, f in figures)
    series = (
        *(
            (
                Series(
                    label="from the least to the greatest seed",
                    points=tuple(outline),
                    style="s-open",
                    kind="area",
                ),
            )
            if several
            else ()
        ),
        Series(label="median over the seeds" if several else "each value", points=median, style="s-blue"),
        Series(label="", points=median, style="s-blue", kind="points"),
    )
    ats = [at for at, _ in figures]
    log_x = len(ats) > 1 and min(ats) > 0 and max(ats) / min(ats) >= 8
    highest = max([top, *(f["high"] for _, f in figures)])
    as_percent = (TRAINED | SEARCHED)[name][2] == "percent"
    svg = chart(
        series,
        x_name=axis["name"],
        y_high=1.0 if as_percent else 1.08 * highest or 1.0,
        log_x=log_x,
        as_percent=as_percent,
        description="; ".join(
            f"{axis['name']} {p['place'][axis['name']]}: {value_text(name, p['figures'][name])}"
            for p, _ in known
        ),
    )
    return Figure(title="", run="", svg=svg, legend=series[:-1])


def _fits(record: Record, place: dict[str, str], points: Sequence[Record]) -> Figure | None:
    """The last axis against the widths tried: proved impossible, no fit found, fits (proved) from every
    seed or from some.
    """
    axis, widths = record["axes"][-1], record["shared"].get("widths") or []
    if not widths or len(widths) > 40:
        return None
    across = [_point(points, {axis["name"]: value}) for value in axis["values"]]
    known = [p["figures"]["robust_width"]["high"] for p in record["points"] if "robust_width" in p["figures"]]
    widths = [width for width in widths if not known or width <= 2 * max(known)]
    boxes = [[_state(width, point) for point in across] for width in widths]
    said = "; ".join(
        f"{axis['name']} {value}: none below "
        f"{value_text('impossible_below', p['figures'].get('impossible_below'))}, fits from "
        f"{value_text('robust_width', p['figures'].get('robust_width'))}"
        for value, p in zip(axis["values"], across, strict=True)
        if p is not None
    )
    svg = heat_map(
        boxes,
        x=axis["values"],
        y=[count(width) for width in widths],
        x_name=axis["name"],
        y_name="width",
        description=said,
        tall=LOW,
    )
    return Figure(title=_place_text(place), run=_place_text(place), svg=svg, legend=())


def _state(width: int, point: Record | None) -> Box:
    figures = {} if point is None else point["figures"]
    if "impossible_below" not in figures or point is None:
        return Box(shade=None, text="")
    if width < figures["impossible_below"]["low"]:
        return Box(shade=None, text="impossible", style="state-none")
    fits = figures.get("robust_width")
    if fits is None or width < fits["low"]:
        return Box(shade=None, text="none found", style="heat-none")
    if width < fits["high"] or fits["seeds"] < point["done"]:
        return Box(shade=None, text="some seeds", style="state-some")
    return Box(shade=None, text="fits", style="state-fits")


def _point(points: Sequence[Record], place: Mapping[str, str]) -> Record | None:
    return next((p for p in points if place.items() <= p["place"].items()), None)


def _place_text(place: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in place.items())


def _position(value: str) -> float | None:
    """Where a value stands on an axis: a number, or the radius of a threat."""
    try:
        found = float(value.rpartition(":")[2])
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _brief(name: str, value: Real) -> str:
    """A figure short enough for a box."""
    if (TRAINED | SEARCHED)[name][2] != "number":
        return _written(name, value)
    return (
        f"{value:.3f}".replace("-0.000", "0.000").replace("-", MINUS) if abs(value) < 100 else number(value)
    )


def _written(name: str, value: Real) -> str:
    kind = (TRAINED | SEARCHED)[name][2]
    if kind == "percent":
        return f"{100 * value:.1f} %" if 0 < value < 1 else f"{100 * value:.0f} %"
    if kind in ("count", "ratio"):
        return f"{value:g}" if kind == "count" else f"{value:.3g}"
    return number(value)
