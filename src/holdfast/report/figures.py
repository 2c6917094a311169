"""The line charts: loss, drift, accuracy and bound against radius, each with its legend and a description
in words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from holdfast._formats import number, percent, setting
from holdfast.report.collect import BoundAtRadius, Epoch, RunPage
from holdfast.report.svg import Scale, Svg

WIDTH, HEIGHT = 420.0, 258.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 10.0, 38.0
MOST_POINTS = 400
BELOW = -1.0
"""Where bounds that say nothing are drawn: as arrows on the floor."""
LAYER_STYLES = ("s-blue", "s-vermillion", "s-green", "s-purple", "s-sky", "s-grey")

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points of one quantity, joined (``line``) or not (``points``); one level all across (``level``); or the
    outline of a shaded ``area``."""

    label: str
    points: tuple[Point, ...]
    style: str
    kind: str = "line"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawn chart: ``title`` and ``run`` head it, ``legend`` pairs a style and kind with words,
    ``notes`` stand below.
    """

    title: str
    run: str
    svg: Markup
    legend: tuple[Series, ...]
    notes: tuple[str, ...] = ()
    empty: str = ""


def thinned(points: tuple[Point, ...], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """At most ``most`` of the points, evenly spaced, the last among them."""
    if len(points) <= most:
        return points
    return tuple(points[round(i * (len(points) - 1) / (most - 1))] for i in range(most))


def chart(
    series: tuple[Series, ...],
    *,
    x_name: str,
    y_high: float,
    description: str,
    as_percent: bool = False,
    log_x: bool = False,
) -> Markup:
    """The series on axes 0 to ``y_high``; points below 0 become arrows on the floor, points above end at
    the ceiling.
    """
    xs = [x for s in series for x, _ in s.points]
    low, high = (min(xs), max(xs)) if xs else (0.0, 1.0)
    if not log_x:
        low = 0.0 if low >= 0 and low < 0.4 * high else low
    if low == high:
        low, high = (low / 2, high * 2) if log_x else (low - 0.5, high + 0.5)
    x = Scale(low=low, high=high, start=LEFT, stop=WIDTH - RIGHT - 6, logarithmic=log_x)
    y = Scale(low=0.0, high=y_high or 1.0, start=HEIGHT - BOTTOM, stop=TOP)
    svg = Svg(WIDTH, HEIGHT)
    for value, text in y.ticks(5):
        svg.line(LEFT, y(value), WIDTH - RIGHT, y(value), "axis" if value == 0 else "grid")
        svg.text(LEFT - 8, y(value) + 4, f"{100 * value:.0f} %" if as_percent else text, "tick", "end")
    for value, text in x.ticks(5):
        svg.line(x(value), HEIGHT - BOTTOM, x(value), HEIGHT - BOTTOM + 4, "axis")
        svg.text(x(value), HEIGHT - BOTTOM + 17, text, "tick", "middle")
    svg.text(WIDTH - RIGHT, HEIGHT - 3, x_name, "tick name", "end")
    for s in series:
        _draw(svg, s, x, y)
    return svg.render(description, "chart")


def _draw(svg: Svg, series: Series, x: Scale, y: Scale) -> None:
    if series.kind == "level":
        if series.points and y.low <= series.points[0][1] <= y.high:
            height = y(series.points[0][1])
            svg.line(LEFT, height, WIDTH - RIGHT, height, f"stroke level {series.style}")
        return
    if series.kind == "area":
        svg.path([(x(a), y(b)) for a, b in series.points], f"area {series.style}", closed=True)
        return
    points = [(x(a), y(min(b, y.high))) for a, b in thinned(series.points)]
    if series.kind == "line" and len(points) > 1:
        svg.path([(a, min(b, y.start)) for a, b in points], f"stroke {series.style}")
    for a, b in points:
        if b > y.start:  # below the axis: a bound that says nothing
            svg.path(
                [(a - 3.5, y.start - 7), (a + 3.5, y.start - 7), (a, y.start - 1)],
                f"mark {series.style}",
                closed=True,
            )
        elif series.kind == "void":
            svg.cross(a, b, 3.5, f"stroke {series.style}")
        elif series.kind == "hollow":
            svg.circle(a, b, 3.5, f"hollow {series.style}")
        elif series.kind == "points" or len(points) == 1:
            svg.circle(a, b, 3.0, f"mark {series.style}")


def _level(label: str, value: float | None, style: str, over: tuple[Point, ...]) -> tuple[Series, ...]:
    """One horizontal line, or nothing; it borrows the horizontal extent of ``over``."""
    if value is None or not over:
        return ()
    return (
        Series(
            label=f"{label} {number(value)}",
            points=((over[0][0], value), (over[-1][0], value)),
            style=style,
            kind="level",
        ),
    )


def loss_top(runs: Sequence[RunPage]) -> float:
    """Top of the loss axis, shared by the runs."""
    found = [v for run in runs for v in (run.surrogate, run.upper, run.claimed_lower) if v is not None]
    found += [e.online_loss for run in runs for e in run.epochs if e.online_loss is not None]
    return 1.05 * max(found, default=0.0) or 1.0


def loss_figure(run: RunPage, runs: Sequence[RunPage]) -> Figure:
    top = loss_top(runs)
    title = "Loss and its bounds over rounds"
    online = tuple((e.rounds, e.online_loss) for e in run.epochs if e.online_loss is not None)
    floor = run.known.floor
    bounds = tuple(
        (e.rounds, e.lower_bound if e.lower_bound > floor else BELOW)
        for e in run.epochs
        if e.lower_bound is not None and not e.void
    )
    void = tuple(
        (e.rounds, 0.0) for e in run.epochs if e.void
    )  # on the floor: whatever was computed, nothing is claimed
    extent = online or bounds
    candidates = (
        Series(
            label="online loss: mean over moving weights, not a surrogate loss", points=online, style="s-grey"
        ),
        Series(
            label=f"lower {'estimate' if run.status == 'estimate' else 'bound'} from this window",
            points=bounds,
            style="s-blue",
            kind="points",
        ),
        Series(label="void window: no claim", points=void, style="s-vermillion", kind="void"),
    )
    series = (
        *(s for s in candidates if s.points),
        *_level("surrogate loss reached", run.surrogate, "s-ink", extent),
        *_level(
            "best lower estimate" if run.status == "estimate" else "best lower bound",
            run.claimed_lower,
            "s-blue long",
            extent,
        ),
        *_level(
            "upper bound" if run.summary.robust_loss_upper_kind == "verified" else "strongest attack",
            run.upper,
            "s-vermillion dash",
            extent,
        ),
    )
    if not extent:
        return Figure(
            title=title, run=run.name, svg=Markup(""), legend=(), empty="No epoch was recorded: not measured."
        )
    said = f"Loss over {len(online)} epochs" + (
        f": online loss from {number(online[0][1])} to {number(online[-1][1])}" if online else ""
    )
    said += "".join(f"; {s.label}" for s in series if s.kind == "level") + "."
    notes = []
    if any(value == BELOW for _, value in bounds):
        notes.append("Arrows on the floor: bounds that are the trivial one, which say nothing.")
    if reasons := sorted({e.void for e in run.epochs if e.void}):
        notes.append(f"Void: {'; '.join(reasons)}")
    return Figure(
        title=title,
        run=run.name,
        legend=series,
        notes=tuple(notes),
        svg=chart(series, x_name="rounds", y_high=top, description=said),
    )


def drift_figure(run: RunPage, runs: Sequence[RunPage]) -> Figure:
    title = "Drift from the initial weights, by layer"
    layers = list(dict.fromkeys(layer for e in run.epochs for layer in e.drift))
    radii = {d.layer: d.radius for d in run.drift}
    if not layers:
        return Figure(
            title=title, run=run.name, svg=Markup(""), legend=(), empty="Drift over time: not measured."
        )
    moved = tuple(
        Series(
            label=layer,
            points=tuple((e.rounds, e.drift[layer]) for e in run.epochs if layer in e.drift),
            style=LAYER_STYLES[min(i, len(LAYER_STYLES) - 1)],
        )
        for i, layer in enumerate(layers)
    )
    highest = max(value for s in moved for _, value in s.points)
    balls = sorted({radii[layer] for layer in layers if radii.get(layer) is not None}, key=lambda r: r or 0.0)
    levels = tuple(s for r in balls for s in _level("radius", r, "s-ink dash", moved[0].points) if r)
    levels = tuple(
        Series(label=f"radius {setting(s.points[0][1])}", points=s.points, style=s.style, kind=s.kind)
        for s in levels
    )
    top = 1.08 * max([highest, *(r for r in balls if r and r <= 8 * highest)])
    said = "Drift over rounds: " + ", ".join(f"{s.label} ends at {number(s.points[-1][1])}" for s in moved)
    said += "".join(f", {s.label}" for s in levels) + "."
    notes = tuple(f"The {s.label} lies above the chart." for s in levels if s.points[0][1] > top)
    return Figure(
        title=title,
        run=run.name,
        legend=(*moved, *levels),
        notes=notes,
        svg=chart((*moved, *levels), x_name="rounds", y_high=top, description=said),
    )


def kernel_figure(run: RunPage, runs: Sequence[RunPage]) -> Figure | None:
    """How the tangent kernel moved on a few training examples; on pages with a run that watched it."""
    if not any(epoch.kernel for one in runs for epoch in one.epochs):
        return None
    title = "Tangent kernel on a sample of the training part (observed)"
    looks = [e for e in run.epochs if e.kernel]
    series = tuple(
        Series(
            label=label,
            points=tuple((e.rounds, e.kernel[key]) for e in looks if key in e.kernel),
            style=style,
        )
        for label, key, style in (
            ("drift of the kernel since the start", "kernel_drift", "s-vermillion"),
            ("drift of the weights since the start", "weight_drift", "s-grey"),
            ("alignment with the labels", "kernel_alignment", "s-blue"),
            ("alignment, both centred", "kernel_centred_alignment", "s-sky dash"),
        )
        if any(key in e.kernel for e in looks)
    )
    if not series:
        return Figure(
            title=title, run=run.name, svg=Markup(""), legend=(), empty="The tangent kernel: not observed."
        )
    said = "Over rounds: " + ", ".join(f"{s.label} ends at {number(s.points[-1][1])}" for s in series) + "."
    return Figure(
        title=title,
        run=run.name,
        legend=series,
        notes=_spectrum(looks),
        svg=chart(
            series,
            x_name="rounds",
            y_high=1.08 * max(value for s in series for _, value in s.points),
            description=said,
        ),
    )


def _spectrum(looks: list[Epoch]) -> tuple[str, ...]:
    ends = [
        (e.kernel["kernel_eigenvalue_min"], e.kernel["kernel_eigenvalue_max"])
        for e in (looks[0], looks[-1])
        if {"kernel_eigenvalue_min", "kernel_eigenvalue_max"} <= e.kernel.keys()
    ]
    if len(ends) < 2:
        return ()
    least, most = zip(*ends, strict=True)
    return (
        f"From the first look to the last the largest eigenvalue went from {number(most[0])} to "
        f"{number(most[1])}, the smallest from {number(least[0])} to {number(least[1])}.",
    )


def accuracy_figure(run: RunPage, runs: Sequence[RunPage]) -> Figure:
    title = "Accuracy on the validation part"

    def over(pick: str) -> tuple[Point, ...]:
        found: list[tuple[Epoch, float | None]] = [(e, getattr(e, pick)) for e in run.epochs]
        return tuple((e.epoch, value) for e, value in found if value is not None)

    series = tuple(
        Series(label=label, points=points, style=style)
        for label, points, style in (
            ("clean", over("clean_accuracy"), "s-blue"),
            ("under attack", over("robust_accuracy"), "s-vermillion dash"),
        )
        if points
    )
    if not series:
        return Figure(
            title=title, run=run.name, svg=Markup(""), legend=(), empty="Accuracy over epochs: not measured."
        )
    said = (
        "Accuracy over epochs: "
        + ", ".join(f"{s.label} ends at {percent(s.points[-1][1])}" for s in series)
        + "."
    )
    return Figure(
        title=title,
        run=run.name,
        legend=series,
        svg=chart(series, x_name="epoch", y_high=1.0, description=said, as_percent=True),
    )


def radius_figure(run: RunPage, runs: Sequence[RunPage]) -> Figure:
    title = "Lower bound against the radius of the ball"
    rows = [row for row in run.bounds_at_radii if row.lower_bound is not None]
    if not rows:
        return Figure(
            title=title, run=run.name, svg=Markup(""), legend=(), empty="Bounds at other radii: not measured."
        )

    def points(rows: list[BoundAtRadius]) -> tuple[Point, ...]:
        return tuple(
            (row.radius, row.lower_bound if row.informative else BELOW)
            for row in rows
            if row.lower_bound is not None
        )

    joined = Series(label="", points=points([r for r in rows if r.status != "void"]), style="s-blue")
    kinds = (
        ("certified", "points", "s-blue"),
        ("estimate", "hollow", "s-blue"),
        ("void", "void", "s-vermillion"),
    )
    series = tuple(
        Series(label=status, points=found, style=style, kind=kind)
        for status, kind, style in kinds
        if (
            found := tuple(
                (r, 0.0 if kind == "void" else b) for r, b in points([r for r in rows if r.status == status])
            )
        )
    )
    reached = _level("surrogate loss of this network", run.surrogate, "s-ink", points(rows))
    values = [value for s in series for _, value in s.points] + [s.points[0][1] for s in reached]
    radii = [row.radius for row in rows]
    told = (
        f"{'void' if r.status == 'void' else number(r.lower_bound) if r.informative else 'nothing can be said'} "
        f"at {setting(r.radius)}"
        for r in rows
    )
    said = f"Lower bound against radius: {', '.join(told)}."
    own = run.summary.parameter_radius
    notes = [f"This run's radius is {setting(own)}."] if own is not None else []
    if any(value < 0 for value in values):
        notes.append("Arrows on the floor: nothing can be said at this radius.")
    return Figure(
        title=title,
        run=run.name,
        legend=(*series, *reached),
        notes=tuple(notes),
        svg=chart(
            (joined, *series, *reached),
            x_name="parameter radius",
            y_high=1.08 * max([*values, 0.0]),
            description=said,
            log_x=min(radii) > 0 and max(radii) / min(radii) >= 8,
        ),
    )


FIGURES: tuple[Callable[[RunPage, Sequence[RunPage]], Figure | None], ...] = (
    loss_figure,
    drift_figure,
    accuracy_figure,
    radius_figure,
    kernel_figure,
)
"""What a page shows of each run, in order: each from the run and all runs of the page, which show the same
figures; ``None`` leaves one out.
"""
