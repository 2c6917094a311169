"""Drawing primitives: an SVG whose colours come from the page's style sheet, so that it follows light, dark
and print.

Every text passes through `markupsafe`, hence whatever users typed is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor, log10

from markupsafe import Markup

from holdfast._formats import MINUS, Real

GLYPH = 0.62  # mean width of a glyph in ems: what text takes, near enough to keep labels apart


def text_width(text: str, size: Real) -> float:
    return GLYPH * size * len(text)


def compact(value: Real) -> str:
    """A coordinate, to a hundredth of a pixel."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


@dataclass
class Svg:
    """A drawing under construction, in pixels; (0, 0) is the top left corner."""

    width: Real
    height: Real
    parts: list[Markup] = field(default_factory=list)

    def line(self, x1: Real, y1: Real, x2: Real, y2: Real, style: str) -> None:
        self.path([(x1, y1), (x2, y2)], style)

    def path(self, points: Sequence[tuple[Real, Real]], style: str, *, closed: bool = False) -> None:
        steps = " L".join(f"{compact(x)} {compact(y)}" for x, y in points)
        self.parts.append(Markup('<path d="M{}{}" class="{}"/>').format(steps, "Z" if closed else "", style))

    def rect(self, x: Real, y: Real, width: Real, height: Real, style: str) -> None:
        self.parts.append(
            Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"/>').format(
                compact(x), compact(y), compact(max(width, 0.0)), compact(max(height, 0.0)), style
            )
        )

    def circle(self, x: Real, y: Real, radius: Real, style: str) -> None:
        self.parts.append(
            Markup('<circle cx="{}" cy="{}" r="{}" class="{}"/>').format(
                compact(x), compact(y), compact(radius), style
            )
        )

    def diamond(self, x: Real, y: Real, size: Real, style: str) -> None:
        self.path([(x, y - size), (x + size, y), (x, y + size), (x - size, y)], style, closed=True)

    def cross(self, x: Real, y: Real, size: Real, style: str) -> None:
        self.line(x - size, y - size, x + size, y + size, style)
        self.line(x - size, y + size, x + size, y - size, style)

    def text(self, x: Real, y: Real, text: str, style: str = "", anchor: str = "start") -> None:
        self.parts.append(
            Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(
                compact(x), compact(y), style, anchor, text
            )
        )

    def render(self, label: str, style: str) -> Markup:
        """The finished drawing; ``label`` says in words what it shows."""
        return Markup(
            '<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}" '
            'xmlns="http://www.w3.org/2000/svg">{}</svg>'
        ).format(style, compact(self.width), compact(self.height), label, Markup("").join(self.parts))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps ``low .. high`` onto pixels ``start .. stop``, linearly or by logarithm."""

    low: Real
    high: Real
    start: Real
    stop: Real
    logarithmic: bool = False

    def __call__(self, value: Real) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = log10(value), log10(low), log10(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.stop - self.start)

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Round values within the scale, with their labels."""
        return (
            decade_ticks(self.low, self.high) if self.logarithmic else round_ticks(self.low, self.high, about)
        )


def round_ticks(low: Real, high: Real, about: int) -> list[tuple[float, str]]:
    """Some ``about`` multiples of 1, 2 or 5 times a power of ten.

    >>> [label for _, label in round_ticks(0, 1, 5)]
    ['0', '0.2', '0.4', '0.6', '0.8', '1.0']
    """
    span = high - low
    if not span > 0:
        return []
    rough = span / max(about, 1)
    power = floor(log10(rough))
    step = next(m * 10.0**power for m in (1, 2, 5, 10) if m * 10.0**power >= rough * (1 - 1e-9))
    decimals = max(0, -floor(log10(step) + 1e-9))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    values = [i * step for i in range(first, last + 1)]
    plain = decimals <= 6 and max(abs(low), abs(high)) < 1e5
    return [
        (v, (("0" if v == 0 else f"{v:,.{decimals}f}") if plain else f"{v:g}").replace("-", MINUS))
        for v in values
    ]


def decade_ticks(low: Real, high: Real) -> list[tuple[float, str]]:
    """1, 2 and 5 times the powers of ten; over more than three decades the powers alone."""
    multiples = (1, 2, 5) if high / low < 1e3 else (1,)
    values = [m * 10.0**p for p in range(floor(log10(low)), ceil(log10(high)) + 1) for m in multiples]
    return [(v, f"{v:g}") for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
