"""The headline as a picture: the bracket of the optimal robust loss, and where the network stands in it."""

from dataclasses import dataclass

from markupsafe import Markup

from holdfast._formats import Real, number
from holdfast.report.collect import RunPage
from holdfast.report.svg import Scale, Svg, text_width

WIDE, NARROW = 940.0, 343.0
ZOOM_BELOW = 0.45  # a bracket narrower than this share of the full scale is drawn magnified, with the full scale below it
NO_SPAN = 1e-5  # below this share the ends are one point, and nothing is won by magnifying it
SMALLEST_TOP = 1e-4  # figures below are all written <0.0001
PAD = 14.0
LABEL, FIGURE, TICK = 12.5, 17.0, 11.5
BAND_TOP, BAND_HEIGHT = 82.0, 26.0
AXIS = 176.0


@dataclass(frozen=True, kw_only=True)
class BracketEnds:
    """The figures drawn: whatever is claimed or measured."""

    lower: float | None
    upper: float | None
    surrogate: float | None
    start: float | None
    gap: float | None
    proved_lower: bool
    proved_upper: bool

    @property
    def values(self) -> list[float]:
        return [value for value in (self.lower, self.surrogate, self.upper) if value is not None]


def ends(run: RunPage) -> BracketEnds:
    return BracketEnds(
        lower=run.claimed_lower,
        upper=run.upper,
        surrogate=run.surrogate,
        start=run.start,
        gap=run.gap,
        proved_lower=run.status == "certified",
        proved_upper=run.known.upper_proved,
    )


def full_scale(runs: list[RunPage]) -> float:
    """The top of the loss axis shared by these runs: 0 to here holds every figure and the first epoch's loss.

    A start far above the rest (a diverging first epoch) is left out rather than flatten all else.
    """
    found = [value for run in runs for value in ends(run).values]
    top = max(found, default=0.0)
    starts = [run.start for run in runs if run.start is not None and run.start <= 4 * top]
    return max(1.06 * max([top, *starts]), SMALLEST_TOP) if found else 1.0


def bracket(run: RunPage, width: float, top: float, *, magnify: bool) -> Markup:
    """The number line of one run, ``width`` pixels wide, on the loss scale 0 to ``top``; empty if nothing
    was measured.
    """
    shown = ends(run)
    if not shown.values:
        return Markup("")
    low, high = min(shown.values), max(shown.values)
    span = high - low
    zoom = magnify and len(shown.values) > 1 and NO_SPAN * top < span < ZOOM_BELOW * top
    svg = Svg(width, 276.0 if zoom else 202.0)
    margin = 0.34 * span
    detail = Scale(
        low=max(0.0, low - margin) if zoom else 0.0,
        high=high + margin if zoom else top,
        start=PAD,
        stop=width - PAD,
    )
    _detail(svg, shown, detail)
    if zoom:
        _overview(svg, shown, detail, Scale(low=0.0, high=top, start=PAD, stop=width - PAD))
    return svg.render(describe(run), "bracket")


def describe(run: RunPage) -> str:
    """The picture in words."""
    shown = ends(run)
    lower = "lower bound" if shown.proved_lower or shown.lower is None else "estimated lower bound"
    upper = "upper bound" if shown.proved_upper or shown.upper is None else "strongest attack"
    named = ((lower, shown.lower), ("this network", shown.surrogate), (upper, shown.upper))
    return (
        "Number line of the robust loss: "
        + ", ".join(f"{name} {number(value)}" for name, value in named)
        + "."
    )


def _detail(svg: Svg, shown: BracketEnds, scale: Scale) -> None:
    middle = BAND_TOP + BAND_HEIGHT / 2
    svg.line(scale.start, AXIS, scale.stop, AXIS, "axis")
    for value, text in scale.ticks(max(3, int(svg.width / 150))):
        x = scale(value)
        svg.line(x, AXIS, x, AXIS + 4, "axis")
        svg.text(min(max(x, PAD + 4), svg.width - PAD - 4), AXIS + 18, text, "tick", "middle")
    svg.line(scale.start, middle, scale.stop, middle, "rail")
    lower, upper, surrogate = shown.lower, shown.upper, shown.surrogate
    if lower is not None and scale.low <= 0.0 < lower:
        svg.rect(scale(0.0), BAND_TOP, scale(lower) - scale(0.0), BAND_HEIGHT, "fill-capacity faint")
    if lower is not None and surrogate is not None and surrogate > lower:
        svg.rect(scale(lower), BAND_TOP, scale(surrogate) - scale(lower), BAND_HEIGHT, "fill-optimisation")
    if upper is not None and surrogate is not None and upper > surrogate:
        svg.rect(scale(surrogate), BAND_TOP, scale(upper) - scale(surrogate), BAND_HEIGHT, "fill-attack")
    _gap(svg, shown, scale)
    if lower is not None:
        end_mark(svg, scale(lower), +7, "lower" if shown.proved_lower else "lower dashed")
    if upper is not None:
        end_mark(svg, scale(upper), -7, "upper" if shown.proved_upper else "upper dashed")
    _end_labels(svg, shown, scale)
    if surrogate is not None:
        x = scale(surrogate)
        svg.line(x, 44, x, middle, "stem")
        svg.diamond(x, middle, 9, "network")
        label(svg, x, 16, "this network", number(surrogate), "network-text")


def end_mark(svg: Svg, x: Real, foot: Real, style: str) -> None:
    """One square bracket; its feet point inwards."""
    top, bottom = BAND_TOP - 9, BAND_TOP + BAND_HEIGHT + 9
    svg.path([(x + foot, top), (x, top), (x, bottom), (x + foot, bottom)], f"end {style}")


def label(svg: Svg, x: Real, y: Real, name: str, value: str, style: str, aside: str = "") -> None:
    """A name over its value, centred at ``x``, or nearer the middle where it would leave the drawing;
    ``aside`` below, small.
    """
    half = label_width(name, value, aside) / 2 + 2
    x = min(max(x, half), svg.width - half)
    svg.text(x, y, name, "label", "middle")
    svg.text(x, y + 19, value, f"figure {style}", "middle")
    if aside:
        svg.text(x, y + 36, aside, "tick", "middle")


def label_width(name: str, value: str, aside: str = "") -> float:
    return max(text_width(name, LABEL), text_width(value, FIGURE), text_width(aside, TICK))


def labels_below(svg: Svg, found: list[tuple[Real, str, str, str, str]]) -> None:
    """Labels (place, name, value, style, aside) of at most two ends, below them; moved apart where they would
    touch, then inwards as one."""
    found = sorted(found, key=lambda end: end[0])
    halves = [label_width(name, value, aside) / 2 for _, name, value, _, aside in found]
    places = [end[0] for end in found]
    if len(places) == 2:
        push = max(0.0, halves[0] + halves[1] + 12 - (places[1] - places[0])) / 2
        places = [places[0] - push, places[1] + push]
    if places:
        inwards = max(0.0, 2 - (places[0] - halves[0])) - max(0.0, places[-1] + halves[-1] + 2 - svg.width)
        places = [place + inwards for place in places]
    for (_, name, value, style, aside), place in zip(found, places, strict=True):
        label(svg, place, BAND_TOP + BAND_HEIGHT + 27, name, value, style, aside)


def _end_labels(svg: Svg, shown: BracketEnds, scale: Scale) -> None:
    lower_name = "lower bound" if shown.proved_lower else "lower estimate"
    upper_name = "upper bound" if shown.proved_upper else "strongest attack"
    ends = ((shown.lower, lower_name, "lower-text"), (shown.upper, upper_name, "upper-text"))
    labels_below(
        svg,
        [(scale(value), name, number(value), style, "") for value, name, style in ends if value is not None],
    )


def _gap(svg: Svg, shown: BracketEnds, scale: Scale) -> None:
    """The dimension line between the lower bound and the network."""
    if shown.lower is None or shown.surrogate is None or shown.surrogate <= shown.lower:
        return
    # the recorded gap, which allows for rounding, so that drawing and sentence agree to the last digit
    gap = number(shown.surrogate - shown.lower if shown.gap is None else shown.gap)
    word = "gap" if shown.proved_lower else "estimated gap"
    dimension(svg, scale(shown.lower), scale(shown.surrogate), f"{word} {gap}")


def dimension(svg: Svg, left: Real, right: Real, text: str) -> None:
    """A dimension line above the band, its figure on it or, for want of room, beside it."""
    y, room = 58.0, text_width(text, LABEL) + 8
    svg.line(left, y - 4, left, BAND_TOP - 9, "dimension")
    if right - left > room + 24:
        centre = (left + right) / 2
        svg.line(left, y, centre - room / 2, y, "dimension")
        svg.line(centre + room / 2, y, right, y, "dimension")
        svg.text(centre, y + 4, text, "label strong", "middle")
    else:
        svg.line(left, y, right, y, "dimension")
        outside = left - 8 - room > 0
        svg.text(
            left - 8 if outside else right + 8, y + 4, text, "label strong", "end" if outside else "start"
        )


def _overview(svg: Svg, shown: BracketEnds, detail: Scale, scale: Scale) -> None:
    """The same figures on the whole loss scale, and the wedge that magnifies them."""
    y = 236.0
    low, high = max(detail.low, 0.0), detail.high
    wedge = [(detail.start, AXIS + 26), (detail.stop, AXIS + 26), (scale(high), y - 6), (scale(low), y - 6)]
    svg.path(wedge, "wedge", closed=True)
    svg.line(scale.start, y, scale.stop, y, "axis")
    for value, label in scale.ticks(4):
        svg.line(scale(value), y, scale(value), y + 4, "axis")
        svg.text(min(max(scale(value), PAD + 2), svg.width - PAD - 4), y + 20, label, "tick", "middle")
    if shown.lower is not None:
        svg.rect(scale(0.0), y - 3, scale(shown.lower) - scale(0.0), 6, "fill-capacity faint")
    left, right = scale(min(shown.values)), scale(max(shown.values))
    svg.rect(left - 1, y - 6, max(right - left, 2) + 2, 12, "fill-bracket")
    if shown.start is not None and shown.start <= scale.high:
        x = scale(shown.start)
        svg.circle(x, y, 3.5, "start")
        text = "loss of epoch 1"
        anchor = "end" if x + text_width(text, LABEL) / 2 > svg.width else "middle"
        svg.text(min(x, svg.width - 2), y - 10, text, "tick", anchor)
