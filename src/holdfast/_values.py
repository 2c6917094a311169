"""How a public value shows itself: it states its facts once, and terminal and notebook lay them out. Tables
and curves go to pandas and matplotlib.

Neither package is needed for anything else, so each is imported when asked for.
"""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any

from holdfast.errors import InputError

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

LONGEST = 40
"""Letters of one cell in a terminal: a name or a reason may be of any length."""
MOST = 8
"""Facts shown there of one value."""
LINE = 100
"""Letters up to which a value is shown on one line."""


@dataclass(frozen=True)
class Fact:
    """One line: ``kind`` says how a figure is known (proved, bounded, estimated, observed), empty for what
    was given or counted.
    """

    label: str
    value: object
    kind: str = ""

    @property
    def cells(self) -> tuple[str, str, str]:
        """As text, each on one line."""
        label, value, kind = (" ".join(str(cell).split()) for cell in (self.label, self.value, self.kind))
        return label, value, kind


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _brief(value: object) -> str:
    """Any value in a few words: what a tensor is, how much a collection holds."""
    if value is None or isinstance(value, bool | int | float | str):
        return str(value)
    if getattr(value, "shape", None) == ():
        return f"{float(value):g}"  # type: ignore[arg-type]
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, Sized):
        return f"{len(value)} in a {type(value).__name__}"
    return type(value).__name__


class Shown:
    """A value with a short ``repr``, and a small table in notebooks. A dataclass must pass ``repr=False``
    for it.
    """

    def _facts(self) -> Sequence[Fact]:
        """What it has to say, the most important first; by default a dataclass's fields."""
        own: Any = self
        shown = [field.name for field in fields(own) if field.repr]
        return [Fact(name.replace("_", " "), _brief(getattr(self, name))) for name in shown]

    def __repr__(self) -> str:
        name = type(self).__name__
        rows = [tuple(map(_short, fact.cells)) for fact in self._facts()[:MOST]]
        line = "; ".join(" ".join(filter(None, row)) for row in rows)
        if len(name) + len(line) < LINE:
            return f"{name}({line})"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows)
        return "\n".join([name, *(f"  {line}".rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        """The same as a table without colours of its own, so that it can be read on light and on dark
        pages.
        """
        cell = '<td style="text-align:left;background:none">{}</td>'
        rows = "".join(
            f"<tr>{''.join(cell.format(escape(text)) for text in fact.cells)}</tr>" for fact in self._facts()
        )
        caption = (
            f'<caption style="text-align:left;color:inherit"><b>{escape(type(self).__name__)}</b></caption>'
        )
        return f'<table style="color:inherit;background:none">{caption}{rows}</table>'


class Tabular(Shown):
    """A value with a table behind it."""

    def _columns(self) -> Mapping[str, Sequence[Any]]:
        """The table, by column."""
        raise NotImplementedError

    def to_frame(self) -> "pandas.DataFrame":
        """The table behind it as a pandas ``DataFrame``.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError(
                "to_frame() must have pandas, which is not installed; run: pip install 'holdfast[frames]'."
            ) from error
        return pandas.DataFrame(dict(self._columns()))


class Drawn(Tabular):
    """A value with a curve behind it."""

    def _draw(self, axes: "Axes") -> None:
        """Draw it, label the axes, and say of each line how it is known."""
        raise NotImplementedError

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """The curve behind it, on the matplotlib ``axes`` given or on new ones, which are returned.

        Raises:
            InputError: matplotlib is not installed.
        """
        if axes is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise InputError(
                    "plot() must have matplotlib, which is not installed; run: pip install 'holdfast[plots]'."
                ) from error
            axes = pyplot.figure(layout="constrained").add_subplot()
        self._draw(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        return axes
