"""When a proved bound lies above the loss that an attack found: the attack missed something, so attack
again.
"""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from holdfast._tensors import applied, batches, generator, per_example
from holdfast.attacks import PGD
from holdfast.certificates.frozen import BATCH, FrozenPass
from holdfast.threats import Threat
from holdfast.threats.base import Points

STEPS, RESTARTS = 40, 3


def attacked_again(passed: FrozenPass, *, seed: int) -> FrozenPass:
    """The pass with every example at the worst of its recorded point and of what a longer attack from there,
    and from random points, finds.

    A robust loss is at least the loss at any points of the threat sets, so the larger surrogate loss is the
    truer one.
    """
    points, noise = passed.points, generator(seed, passed.points.x.device)
    points = replace(points, x=points.x.double(), points=points.points.double())
    found = torch.cat(
        [
            _FromRecorded(steps=STEPS, restarts=RESTARTS, keep_best=True, recorded=start).points(
                passed.model, x, y, passed.threat, generator=noise, loss=passed.loss
            )
            for x, start, y in zip(
                batches(points.x, BATCH), batches(points.points, BATCH), batches(points.y, BATCH), strict=True
            )
        ]
    )
    with torch.no_grad():
        outputs = torch.cat([applied(passed.model, part) for part in batches(found, BATCH)])
    inside = torch.cat(
        [
            passed.threat.contains(a, b)
            for a, b in zip(batches(found, BATCH), batches(points.x, BATCH), strict=True)
        ]
    )
    worse = inside & (passed.loss(outputs, points.y) > passed.loss(passed.outputs, points.y))
    return replace(
        passed,
        points=replace(points, points=torch.where(per_example(worse, found), found, points.points)),
        outputs=torch.where(worse[:, None], outputs, passed.outputs),
    )


@dataclass(frozen=True, kw_only=True)
class _FromRecorded(PGD):
    """PGD whose first search begins at points that are known already."""

    recorded: Tensor

    def _start(self, x: Points, threat: Threat, generator: Generator, restart: int) -> Points:
        return self.recorded if restart == 0 else super()._start(x, threat, generator, restart)
