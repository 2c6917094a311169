"""Robust interpolation needs more width than plain interpolation where the threat reaches far between
labels.
"""

from holdfast.lab.reproduce.base import (
    Column,
    Criterion,
    Experiment,
    Measured,
    Plot,
    PlotLine,
    Report,
    Scale,
)
from holdfast.lab.reproduce.forced_widths import SETUP, Forced, forced_widths

RHO = 0.8

CRITERIA = (
    Criterion(
        key="apart",
        what="least width not proved impossible for a robust fit, less the least width "
        "verified for a plain one; least over dimensions",
        relation=">=",
        bound=1.0,
        why="both ends are proofs: below rho^2 min(n - 1, d) no robust fit exists, and one unit fits plainly",
    ),
    Criterion(
        key="unfitted",
        what="dimensions at which no robust fit was verified at any width",
        relation="<=",
        bound=0.0,
        why="d units are robust at every rho < 1 (holdfast.data.forced), so the data can be fitted and "
        "the gap is one of width",
    ),
    Criterion(
        key="growth",
        what="least verified robust width at the largest dimension less that at the smallest",
        relation=">=",
        bound=1.0,
        why="the bound grows as rho^2 d, the plain width does not",
    ),
)


def measure(scale: Scale, report: Report) -> Measured:
    """Search the smallest width, plain and robust, on the forced data of several dimensions."""
    dimensions = (3, 5) if scale.quick else (3, 4, 6, 8)
    found = forced_widths(scale, report, dict.fromkeys(dimensions, RHO))
    robust = [f.robust for f in found]
    return Measured(
        deciding={
            "apart": min(f.impossible_below - f.plain for f in found),
            "unfitted": float(sum(width == float("inf") for width in robust)),
            "growth": robust[-1] - robust[0],
        },
        columns=COLUMNS,
        rows=tuple(f.row for f in found),
        plots=(widths_plot(found),),
        notes=NOTES,
    )


COLUMNS = (
    Column(name="dimension", style="count"),
    Column(name="examples", style="count"),
    Column(name="rho", style="setting"),
    Column(name="plain width that fits", known="proved", style="count"),
    Column(name="robust: impossible below", known="proved", style="count"),
    Column(name="robust width that fits", known="proved", style="count"),
    Column(name="robust: no fit found at", known="observed", style="text"),
)
NOTES = (
    "A width is verified by an exact check of every threat set, not by attacks; a seed is another search, "
    "and the least width of all seeds counts: what one search proves to fit, fits.",
)


def widths_plot(found: list[Forced]) -> Plot:
    """Widths against dimension."""
    xs = [float(f.dimension) for f in found]
    return Plot(
        title="Least first hidden width",
        x="dimension",
        y="units",
        lines=(
            PlotLine(
                label="robust, verified",
                points=tuple((x, f.robust) for x, f in zip(xs, found, strict=True)),
                style="s-blue",
            ),
            PlotLine(
                label="robust, proved impossible below",
                points=tuple((x, f.impossible_below) for x, f in zip(xs, found, strict=True)),
                style="s-vermillion dash",
            ),
            PlotLine(
                label="plain, verified",
                points=tuple((x, f.plain) for x, f in zip(xs, found, strict=True)),
                style="s-green",
            ),
        ),
    )


EXPERIMENT = Experiment(
    name="capacity",
    claim="Where the threat reaches far between labels, fitting robustly takes more width than fitting "
    "plainly, and more the higher the dimension.",
    source="Kim, Moon and Yun 2025, arXiv 2510.24643 (recalled; proof in holdfast.theory.capacity); Gao "
    "et al. 2019, arXiv 1906.07916, section 6 (recalled)",
    setup=f"{SETUP}; rho = {RHO:g}",
    criteria=CRITERIA,
    measure=measure,
)
