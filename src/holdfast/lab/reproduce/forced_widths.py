"""The smallest widths on the forced data of Kim, Moon and Yun (arXiv 2510.24643), over several dimensions:
shared by two experiments.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.data import forced
from holdfast.lab.capacity import smallest_width
from holdfast.lab.reproduce.base import Cell, Report, Scale, tracked
from holdfast.theory.capacity import radius_for
from holdfast.threats import LpBall

SETUP = (
    "Unit vectors against the origin (Kim, Moon and Yun), n = d + 1, l2; two-layer ReLU networks with biases"
)


@dataclass(frozen=True, kw_only=True)
class Forced:
    """What was found at one dimension; the least over seeds, infinite for nothing verified."""

    dimension: int
    plain: float
    impossible_below: float
    robust: float
    row: tuple[Cell, ...]


def forced_widths(scale: Scale, report: Report, rhos: Mapping[int, float]) -> list[Forced]:
    """`smallest_width` at each dimension with its rho."""
    found = []
    for dimension, rho in tracked(rhos.items(), report):
        data = forced(dimension=dimension)
        capacity = smallest_width(
            data,
            LpBall("2", radius_for(data, "2", rho)),
            seeds=scale.seeds,
            widths=tuple(range(1, 2 * dimension + 1)),
            steps=600 if scale.quick else 1000,
        )
        assert capacity.robust is not None  # asked for
        plain, robust = capacity.plain, capacity.robust
        below = float(max(bracket.impossible_below for bracket in robust.brackets))
        failed = sorted({width for bracket in robust.brackets for width in bracket.failed})
        found.append(
            Forced(
                dimension=dimension,
                plain=float(min(plain.smallest, default=math.inf)),
                impossible_below=below,
                robust=float(min(robust.smallest, default=math.inf)),
                row=(
                    dimension,
                    capacity.examples,
                    rho,
                    [float(w) for w in plain.smallest],
                    below,
                    [float(w) for w in robust.smallest] or "none",
                    ", ".join(map(str, failed)) or "none",
                ),
            )
        )
    return found
