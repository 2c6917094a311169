"""Phase diagrams: a grid of coloured rectangles with their figures written in them; colours come from the
page's style sheet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from holdfast.report.svg import Svg, text_width

LEVELS = 10  # shades from paper to ink: classes heat-0 .. heat-10
DARK = 6  # from this shade on, text is light
BOX, TALL, TOP, BOTTOM, RIGHT = 92.0, 42.0, 6.0, 40.0, 8.0
ENLARGED = 1.05  # most that a map is enlarged to on the page
NAME = 12.0  # size of the axes' labels


@dataclass(frozen=True, kw_only=True)
class Box:
    """One rectangle: a shade from 0 to 1 or a ``style`` of its own, the figure in it, and a smaller second
    line.
    """

    shade: float | None
    text: str
    below: str = ""
    style: str = ""


def heat_map(
    boxes: Sequence[Sequence[Box]],
    *,
    x: Sequence[str],
    y: Sequence[str],
    x_name: str,
    y_name: str,
    description: str,
    tall: float = TALL,
) -> Markup:
    """The rectangles ``boxes[row][column]``, row 0 at the bottom, labelled by the axes' values; ``tall``
    pixels high each.
    """
    left = max([text_width(label, NAME) for label in [*y, y_name]]) + 14.0
    svg = Svg(left + BOX * len(x) + RIGHT, TOP + tall * len(y) + BOTTOM + (16.0 if y_name else 0.0))
    top = TOP + (16.0 if y_name else 0.0)
    if y_name:
        svg.text(left - 8, TOP + 10, y_name, "tick name", "end")
    for row, line in enumerate(boxes):
        above = top + tall * (len(boxes) - 1 - row)
        svg.text(left - 8, above + tall / 2 + 4, y[row], "tick", "end")
        for column, box in enumerate(line):
            _draw(svg, box, left + BOX * column, above, tall)
    for column, label in enumerate(x):
        svg.text(left + BOX * (column + 0.5), top + tall * len(y) + 16, label, "tick", "middle")
    svg.text(left + BOX * len(x), top + tall * len(y) + 34, x_name, "tick name", "end")
    drawn = svg.render(description, "chart heat")
    return Markup('<div style="max-width: {}px">{}</div>').format(round(svg.width * ENLARGED), drawn)


def _draw(svg: Svg, box: Box, x: float, y: float, tall: float) -> None:
    level = None if box.shade is None else round(LEVELS * min(1.0, max(0.0, box.shade)))
    svg.rect(
        x + 1, y + 1, BOX - 2, tall - 2, box.style or ("heat-none" if level is None else f"heat-{level}")
    )
    ink = "on" if level is not None and level >= DARK and not box.style else "off"
    middle = y + tall / 2 + (4.5 if not box.below else -1.0)
    svg.text(x + BOX / 2, middle, box.text, f"value {ink}", "middle")
    if box.below:
        svg.text(x + BOX / 2, y + tall / 2 + 13, box.below, f"range {ink}", "middle")
