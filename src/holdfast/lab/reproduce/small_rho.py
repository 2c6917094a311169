"""Where the threat is small against the distance of labels, robust interpolation needs no more width than
plain.
"""

import math

from holdfast.lab.reproduce.base import Criterion, Experiment, Measured, Report, Scale
from holdfast.lab.reproduce.capacity import COLUMNS, NOTES, widths_plot
from holdfast.lab.reproduce.forced_widths import SETUP, forced_widths

SHARE = 0.5
"""Of ``1 / sqrt(d)``, up to which one hyperplane is robust on these data."""

CRITERIA = (
    Criterion(
        key="gap",
        what="least verified robust width less the least verified plain one, greatest over dimensions",
        relation="<=",
        bound=0.0,
        why="up to rho = 1 / sqrt(d) a hyperplane, one unit, is robust on these data (holdfast.data.forced)",
    ),
)


def measure(scale: Scale, report: Report) -> Measured:
    """The search of `capacity` at half the rho up to which one unit is enough."""
    dimensions = (3, 5) if scale.quick else (3, 4, 6, 8, 12)
    found = forced_widths(scale, report, {d: SHARE / math.sqrt(d) for d in dimensions})
    return Measured(
        deciding={"gap": max(f.robust - f.plain for f in found)},
        columns=COLUMNS,
        rows=tuple(f.row for f in found),
        plots=(widths_plot(found),),
        notes=NOTES,
    )


EXPERIMENT = Experiment(
    name="small-rho",
    claim="Where the threat is small against the distance of labels, no such gap shows: the width that "
    "fits plainly fits robustly.",
    source="Kim, Moon and Yun 2025, arXiv 2510.24643 (recalled); the hyperplane in holdfast.data.forced",
    setup=f"{SETUP}; rho = 1 / (2 sqrt(d))",
    criteria=CRITERIA,
    measure=measure,
)
