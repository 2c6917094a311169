"""The wider the network, the less each unit moves, and the less the kernel changes."""

import copy

from jaxtyping import Float
from torch import Tensor

from holdfast.attacks import PGD
from holdfast.lab.reproduce.base import (
    Column,
    Criterion,
    Experiment,
    Measured,
    Plot,
    PlotLine,
    Report,
    Scale,
    log_slope,
    mean,
    seeds_and_mean,
    tracked,
)
from holdfast.lab.reproduce.setups import DIGITS, network, pair, trained
from holdfast.networks import TwoLayer
from holdfast.theory import empirical_ntk, kernel_drift

ATTACK = PGD(steps=5, start="example")

CRITERIA = (
    Criterion(
        key="unit",
        what="distance of the slope of the logarithm of the largest move of a unit, mean "
        "over seeds, from -1/2",
        relation="<=",
        bound=0.1,
        why="a unit's gradient is m^(-1/2) times something that does not depend on m; 0.1 for "
        "the maximum over ever more units",
    ),
    Criterion(
        key="kernel",
        what="slope of the logarithm of the relative change of the kernel, mean over seeds",
        relation="<=",
        bound=-0.4,
        why="of order m^(-1/2) at most (Gao et al. 2019, recalled), with a tolerance of 0.1; units in "
        "pairs of opposite sign cancel the first order, "
        "so that up to m^(-1) is to be expected",
    ),
    Criterion(
        key="ball",
        what="greatest mean distance of all weights from the start over the least, over widths",
        relation="<=",
        bound=1.5,
        why="the radius that is needed does not depend on the width",
    ),
)


def measure(scale: Scale, report: Report) -> Measured:
    """The same number of rounds at each width, without a ball: nothing but the width holds the weights."""
    data, threat = pair(scale)
    widths = (64, 256, 1024) if scale.quick else (128, 512, 2048, 8192)
    rounds = 40 if scale.quick else 60
    largest: dict[int, list[float]] = {width: [] for width in widths}
    all_weights: dict[int, list[float]] = {width: [] for width in widths}
    kernels: dict[int, list[float]] = {width: [] for width in widths}
    x = data.train.x.double()
    for width, seed in tracked([(w, s) for w in widths for s in scale.seeds], report):
        model = network(data, width, seed)
        start = copy.deepcopy(model)
        trained(
            model, data, threat, ATTACK, radius=None, rounds=rounds, momentum=0.0, seed=seed, certify=False
        )
        moved = (model.weight - start.weight).detach().double()
        largest[width].append(float(moved.norm(dim=1).max()))
        all_weights[width].append(float(moved.norm()))
        kernels[width].append(kernel_change(start, model, x))
    xs = [float(width) for width in widths]
    unit = log_slope(xs, [mean(v) for v in largest.values()])
    kernel = log_slope(xs, [mean(v) for v in kernels.values()])
    far = [mean(v) for v in all_weights.values()]
    return Measured(
        deciding={"unit": abs(unit + 0.5), "kernel": kernel, "ball": max(far) / min(far)},
        columns=(
            Column(name="width", style="count"),
            Column(name="largest move of a unit", known="observed"),
            Column(name="relative change of the kernel", known="observed"),
            Column(name="distance of all weights", known="observed"),
        ),
        rows=tuple((w, largest[w], kernels[w], all_weights[w]) for w in widths),
        plots=tuple(
            Plot(
                title=title,
                x="width",
                y=title.lower(),
                log_x=True,
                log_y=True,
                lines=(
                    *seeds_and_mean("measured", xs, list(values.values()), "s-blue"),
                    PlotLine(
                        label="slope -1/2",
                        style="s-vermillion dash",
                        points=tuple((w, mean(values[widths[0]]) * (w / xs[0]) ** -0.5) for w in xs),
                    ),
                ),
            )
            for title, values in (
                ("Largest move of a unit", largest),
                ("Relative change of the kernel", kernels),
            )
        ),
        notes=(
            f"{len(data.train)} examples, {rounds} rounds, step 4, no momentum, no ball. Slopes: largest "
            f"move {unit:.3f}, kernel {kernel:.3f}.",
        ),
    )


def kernel_change(start: TwoLayer, end: TwoLayer, x: Float[Tensor, "examples features"]) -> float:
    """`kernel_drift` of the network's own tangent kernel at the examples, in float64."""
    before, after = (empirical_ntk(copy.deepcopy(model).double(), x) for model in (start, end))
    return kernel_drift(after, before)


EXPERIMENT = Experiment(
    name="drift",
    claim="The wider the network, the less each unit moves from its start and the less the tangent "
    "kernel changes: as m^(-1/2) or faster.",
    source="Gao et al. 2019, arXiv 1906.07916: weights stay near their start, where the network is "
    "nearly linear (recalled)",
    setup=f"{DIGITS}; two layers, softplus, 5-step PGD, full-batch gradient descent without projection "
    "or momentum",
    criteria=CRITERIA,
    measure=measure,
)
