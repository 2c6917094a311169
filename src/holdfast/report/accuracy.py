"""Robust accuracy as pictures: the bracket between proved and observed, and the same against the radius."""

from dataclasses import dataclass

from markupsafe import Markup

from holdfast._formats import count, percent, setting
from holdfast.record.schema import Interval
from holdfast.report.bracket import AXIS, BAND_HEIGHT, BAND_TOP, PAD, dimension, end_mark, label, labels_below
from holdfast.report.evaluated import AtRadius, EvaluatedPart
from holdfast.report.figures import Figure, Point, Series, chart, thinned
from holdfast.report.svg import Scale, Svg

ASIDE = 16.0  # height of the line of small print under the ends
FEWEST_RADII = 2


@dataclass(frozen=True, kw_only=True)
class AccuracyPart:
    """A part of the examples: every example is in one of them."""

    name: str
    style: str
    share: float
    examples: str


def parts(found: EvaluatedPart) -> tuple[AccuracyPart, ...]:
    """Proved, open, broken, wrong: how the examples divide; nothing where the figures do not divide them."""
    clean, verified, standing = found.clean, found.verified, found.not_broken
    if standing is None:
        return ()
    shares: list[tuple[str, str, float]] = []
    if verified is None:
        shares.append(("not broken, observed", "fill-open", standing))
    else:
        shares.append(("hold, proved", "fill-capacity", verified))
        shares.append(("open: neither proved nor broken", "fill-open", standing - verified))
    if clean is not None:
        shares.append(("broken by an attack", "fill-attack", clean - standing))
        shares.append(("wrong unattacked", "fill-wrong", 1.0 - clean))
    if any(share < -1e-9 for *_, share in shares):
        return ()
    total = found.record.examples
    return tuple(
        AccuracyPart(
            name=name,
            style=style,
            share=max(0.0, share),
            examples="" if total is None else count(round(max(0.0, share) * total)),
        )
        for name, style, share in shares
    )


def accuracy_bracket(found: EvaluatedPart, width: float) -> Markup:
    """The bar of all examples, ``width`` pixels wide: proved from the left, not broken, correct
    unattacked; empty if not measured.
    """
    if found.not_broken is None and found.verified is None:
        return Markup("")
    spanned = found.verified_span is not None or found.not_broken_span is not None
    svg = Svg(width, 202.0 + (ASIDE if spanned else 0.0))
    scale = Scale(low=0.0, high=1.0, start=PAD, stop=width - PAD)
    axis = AXIS + (ASIDE if spanned else 0.0)
    svg.line(scale.start, axis, scale.stop, axis, "axis")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        svg.line(scale(share), axis, scale(share), axis + 4, "axis")
        place = min(max(scale(share), PAD + 4), width - PAD - 8)
        svg.text(place, axis + 18, f"{100 * share:.0f} %", "tick", "middle")
    middle = BAND_TOP + BAND_HEIGHT / 2
    svg.line(scale.start, middle, scale.stop, middle, "rail")
    done = 0.0
    for part in parts(found):
        if part.share > 0:
            left, right = scale(done), scale(min(1.0, done + part.share))
            svg.rect(left, BAND_TOP, right - left, BAND_HEIGHT, part.style)
        done += part.share
    verified, standing = found.verified, found.not_broken
    ends = []
    if verified is not None:
        end_mark(svg, scale(verified), +7, "lower")
        aside = ends_text(found.verified_span)
        ends.append((scale(verified), "verified, proved", percent(verified), "lower-text", aside))
    if standing is not None:
        end_mark(svg, scale(standing), -7, "upper dashed")
        aside = ends_text(found.not_broken_span)
        ends.append((scale(standing), "not broken, observed", percent(standing), "upper-text", aside))
    _whisker(svg, scale, found.verified_span, middle - 6)
    _whisker(svg, scale, found.not_broken_span, middle + 6)
    labels_below(svg, ends)
    if verified is not None and standing is not None and verified < standing:
        dimension(svg, scale(verified), scale(standing), f"open {percent(standing - verified)}")
    if found.clean is not None:
        x = scale(found.clean)
        svg.line(x, 44, x, middle, "stem")
        svg.diamond(x, middle, 7, "network")
        label(svg, x, 16, "unattacked", percent(found.clean), "network-text")
    return svg.render(describe(found), "bracket")


def ends_text(span: Interval | None) -> str:
    return "" if span is None else f"{percent(span[0])} to {percent(span[1])}"


def describe(found: EvaluatedPart) -> str:
    """The bracket in words."""
    named = (
        ("verified, proved", found.verified, found.verified_span),
        ("not broken, observed", found.not_broken, found.not_broken_span),
        ("correct unattacked", found.clean, found.clean_span),
    )
    told = (
        f"{name} {percent(value)}{f' (95 % interval {ends_text(span)})' if span else ''}"
        for name, value, span in named
        if value is not None
    )
    return f"Bar of all examples: {', '.join(told)}."


def _whisker(svg: Svg, scale: Scale, span: Interval | None, y: float) -> None:
    if span is None:
        return
    left, right = scale(span[0]), scale(span[1])
    svg.line(left, y, right, y, "whisker")
    for x in (left, right):
        svg.line(x, y - 4, x, y + 4, "whisker")


def curve_figure(found: EvaluatedPart, run: str) -> Figure | None:
    """Both sides of the bracket against the radius, what is open shaded; ``None`` where fewer than two
    radii were evaluated.
    """
    rows = [row for row in found.curve if row.verified is not None or row.not_broken is not None]
    if len({row.radius for row in rows}) < FEWEST_RADII:
        return None
    proved = tuple((row.radius, row.verified) for row in rows if row.verified is not None)
    standing = tuple((row.radius, row.not_broken) for row in rows if row.not_broken is not None)
    sides = (
        Series(label="not broken (observed)", points=standing, style="s-vermillion dash"),
        Series(label="verified (proved)", points=proved, style="s-blue"),
    )
    joined = tuple(side for side in sides if side.points)
    dots = tuple(
        Series(label="", points=thinned(side.points), style=side.style, kind="points") for side in joined
    )
    open_ = _between(rows)
    clean: tuple[Series, ...] = ()
    if found.clean is not None:
        ends = ((rows[0].radius, found.clean), (rows[-1].radius, found.clean))
        clean = (
            Series(label=f"unattacked {percent(found.clean)}", points=ends, style="s-ink", kind="level"),
        )
    told = (
        f"at {setting(row.radius)} verified {percent(row.verified)}, not broken {percent(row.not_broken)}"
        for row in thinned_rows(rows)
    )
    return Figure(
        title="Robust accuracy against the radius",
        run=run,
        legend=(*joined, *open_, *clean),
        svg=chart(
            (*open_, *joined, *dots, *clean),
            x_name="radius of the threat",
            y_high=1.0,
            description=f"Robust accuracy against radius: {'; '.join(told)}.",
            as_percent=True,
        ),
    )


def thinned_rows(rows: list[AtRadius], most: int = 24) -> list[AtRadius]:
    """Enough of the radii to be read out."""
    stride = -(-len(rows) // most)
    return rows[::stride]


def _between(rows: list[AtRadius]) -> tuple[Series, ...]:
    both = [row for row in rows if row.verified is not None and row.not_broken is not None]
    if len(both) < FEWEST_RADII:
        return ()
    upper: tuple[Point, ...] = tuple(
        (row.radius, row.not_broken) for row in both if row.not_broken is not None
    )
    lower: tuple[Point, ...] = tuple((row.radius, row.verified) for row in both if row.verified is not None)
    outline = (*thinned(upper), *reversed(thinned(lower)))
    return (Series(label="open: neither proved nor broken", points=outline, style="s-open", kind="area"),)
