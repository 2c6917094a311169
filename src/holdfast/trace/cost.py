"""How often the trace can be written for at most a tenth of training's time: counted, not timed, so that runs repeat."""

import math

from torch import nn

from holdfast.networks import Dense, TwoLayer

SHARE = 0.0125
"""Counted share of training that recording may take: an eighth of what is promised, since small operations cost up to eight times
their count beside attacks in closed form (measured: benchmarks/trace_overhead.py)."""

PASS = 150
"""What one elementwise pass chain over the weights costs, in floating-point operations of a matrix product a weight."""


def record_every(model: nn.Module, examples: int, batch_size: int, attack_passes: int) -> int:
    """Record one epoch in this many, so that recording stays within its share of the cost of training.

    Training: ``attack_passes + 1`` forward and backward passes, each two products of the batch and the weights. Recording a
    two-layer network: the product ``M D`` and the matrices ``M``, passes over the weights, and an eigenproblem a window.
    """
    batch = min(batch_size, examples)
    rounds = math.ceil(examples / batch)
    passes = 4 * batch * (attack_passes + 1)
    if isinstance(model, Dense) and not model.activation.kink:
        # Spectral norms of every layer each round, tuned a few times over, and an eigenproblem a layer at the end.
        units = model.width
        training = model.depth * units**2 * passes
        norms = model.depth * (40 * units**3 + 8 * batch * units**2)
        return max(1, math.ceil((norms + 10 * model.depth * units**3 / rounds) / training / SHARE))
    if not isinstance(model, TwoLayer):
        return max(1, math.ceil(PASS / passes / SHARE))
    inputs, units, groups = model.input_size, model.width, model.groups
    training = units * inputs * passes
    recording: float = 2 * units * inputs**2 + PASS * units * inputs + 2 * groups * batch * inputs**2
    if model.activation.kink:
        recording += 2 * units * inputs * batch + PASS * units * batch / 4
    closing = 10 * groups * inputs**3 + 2 * units * inputs**2
    return max(1, math.ceil((recording + closing / rounds) / training / SHARE))
