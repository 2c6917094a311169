"""How often the trace can be written for at most a tenth of training's time: counted, not timed, so that runs repeat."""

import math

from torch import nn

from holdfast.curvature import curvature_for
from holdfast.networks import Dense
from holdfast.networks.exact import exact_core

SHARE = 0.1
"""Share of training that recording may take."""

SMALL = 8
"""Small operations cost up to so many times their count beside attacks in closed form (measured: benchmarks/trace_overhead.py); large
ones, such as passes through the network, cost about their count."""

EIGEN = 25
"""What an eigenproblem of size ``n`` costs, in units of ``n^3``."""

PASS = 150
"""What one elementwise pass chain over the weights costs, in floating-point operations of a matrix product a weight."""


def record_every(model: nn.Module, examples: int, batch_size: int, attack_passes: int) -> int:
    """Record one epoch in this many, so that recording stays within its share of the cost of training.

    Training: ``attack_passes + 1`` forward and backward passes, each two products of the batch and the weights. Recording takes the
    network's gradient anew: in float64, which counts twice, with two products for a two-layer network. To that come the product
    ``M D`` and the matrices ``M``, passes over the weights, and an eigenproblem a window.
    """
    batch = min(batch_size, examples)
    rounds = math.ceil(examples / batch)
    passes = 4 * batch * (attack_passes + 1)
    core = exact_core(model)
    if core is None or not curvature_for(model)[0].rigorous:
        return max(1, math.ceil((PASS * SMALL / passes + 1 / (attack_passes + 1)) / SHARE))
    net = core.network
    if isinstance(net, Dense):
        return max(1, math.ceil(_dense_share(net, examples, batch, attack_passes) / SHARE))
    inputs, units, groups = net.input_size, net.width, net.groups
    training = units * inputs * passes
    recording: float = 2 * units * inputs**2 + PASS * units * inputs + 2 * groups * batch * inputs**2
    if net.activation.kink:
        recording += 2 * units * inputs * batch + PASS * units * batch / 4
    closing = 10 * groups * inputs**3 + 2 * units * inputs**2
    own = 2 * 4 * units * inputs * batch
    return max(1, math.ceil((own + SMALL * (recording + closing / rounds)) / training / SHARE))


def _dense_share(model: Dense, examples: int, batch: int, attack_passes: int) -> float:
    """What recording one epoch of a deep network costs, as a share of training it; float64 counts twice.

    A round: two passes forward, one backward, gradients and two products with the matrices; the matrices of layer 1 and their
    cross terms; an eigenproblem of the batch. A window: eigenproblems and a basis. Once a run, counted as if it were once an epoch: norms.
    """
    units, depth, inputs = model.width, model.depth, model.weights[0].shape[1]
    seen = min(inputs, model.features)
    weights = units * inputs + (depth - 1) * units**2
    rounds, rank = math.ceil(examples / batch), min(examples, units)
    training: float = weights * 4 * examples * (attack_passes + 1)
    passes: float = 24 * examples * weights + 2 * PASS * rounds * (weights + 2 * batch * units * depth)
    first = 4 * units * examples * seen * (seen + 16) + EIGEN * rounds * batch**3
    closing = EIGEN * (units * seen**3 + (depth + model.groups) * rank**3) + 8 * depth * units * rank * (
        units + rank
    )
    norms: float = 8 * units**3 * ((depth - 2) * 3 + 2 / model.groups) if depth > 1 else 0
    share: float = (passes + first + closing + norms) / training
    return share
