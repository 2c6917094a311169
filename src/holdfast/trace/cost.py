"""How often the trace can be written for at most a tenth of training's time: counted, not timed, so that
runs repeat.
"""

import math

from torch import nn

from holdfast.families.base import usual_recording
from holdfast.families.exact import exact_core
from holdfast.families.registry import curvature_for

SHARE = 0.1
"""Share of training that recording may take."""


def record_every(model: nn.Module, examples: int, batch_size: int, attack_passes: int) -> int:
    """Record one epoch in this many, so that recording stays within its share of the cost of training.

    Training: ``attack_passes + 1`` forward and backward passes, each two products of the batch and the
    weights. Recording: what the network's family says, or for an estimate one more gradient and a few passes
    over the weights.
    """
    batch = min(batch_size, examples)
    core = exact_core(model)
    if core is None or not curvature_for(model)[0].rigorous:
        share = usual_recording(batch, attack_passes)
    else:
        share = core.family.recording(core.network, examples, batch, attack_passes)
    return max(1, math.ceil(share / SHARE))
