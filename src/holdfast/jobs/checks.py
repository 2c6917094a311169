"""What is checked before anything is spent: the data against the threat, and threat sets against each other."""

from dataclasses import dataclass

import torch

from holdfast.data import Dataset
from holdfast.data.separation import separation
from holdfast.errors import InputError
from holdfast.jobs.progress import Progress
from holdfast.threats import LpBall, Threat


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """Whether threat sets of different labels stay apart.

    ``compatible`` is ``None`` for threats whose sets were not compared (no exact test is known for them).
    """

    compatible: bool | None
    smallest_distance: float
    reach: float
    pairs_meeting: int


def check_data(data: Dataset, threat: Threat) -> None:
    """Refuse data without training examples, not finite, or outside the threat's box."""
    if len(data.train) == 0:
        raise InputError(f"data must have training examples, got none of {len(data.y)} in {data.name}; lower validation and test.")
    rows = int((~torch.isfinite(data.x.reshape(len(data.x), -1)).all(1)).sum())
    if rows:
        raise InputError(f"x must be finite, got NaN or infinity in {rows} of {len(data.x)} examples; remove or fill these rows.")
    threat.check(data.x)


def check_compatible(data: Dataset, threat: Threat, *, allow: bool, progress: Progress) -> Compatibility:
    """Report, before training, pairs of differently labelled examples whose threat sets meet: no classifier holds on both.

    Raises:
        InputError: there are such pairs among the training examples and ``allow`` is false.
    """
    if not isinstance(threat, LpBall):
        return Compatibility(compatible=None, smallest_distance=float("nan"), reach=threat.reach, pairs_meeting=0)
    part = data.train
    with progress.counted("comparing threat sets of different labels") as report:
        found = separation(
            part.x, part.y, norm=threat.norm, radius=float(threat.radius), fixed=threat.fixed, progress=report
        )
    if found.count and not allow:
        first, second = (int(row) for row in found.pairs[0])
        more = "" if found.complete else "at least "
        rows = data.split.train
        raise InputError(
            f"threat sets of different labels must not meet, but {more}{found.count} pair(s) of training examples do under "
            f"{threat.spec} (the nearest, rows {int(rows[first])} and {int(rows[second])}, are {found.distance:.4g} apart); use a radius "
            f"below {found.largest_compatible_radius:.4g}, or allow_incompatible to train all the same."
        )
    return Compatibility(
        compatible=found.count == 0, smallest_distance=found.distance, reach=threat.reach, pairs_meeting=found.count
    )
