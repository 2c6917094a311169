"""How many rounds of plain projected gradient descent it takes to come within epsilon of the best robust
loss.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

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
    seeds_and_mean,
    tracked,
)
from holdfast.lab.reproduce.setups import DIGITS, PGD_10, RADIUS, network, pair, trained

BALL = 10.0
EPSILONS = (0.2, 0.1, 0.05, 0.02, 0.01)
GRADIENT = 1 + RADIUS
"""``||df/dW|| <= max |act'| ||x'||``, at most 1 times the norm of an attacked unit vector; the loss has
slopes up to 1.
"""

CRITERIA = (
    Criterion(
        key="slope",
        what="slope of log rounds against log 1/epsilon, greatest over seeds",
        relation="<=",
        bound=2.0,
        why="the theorem's T is of order R^2 H^2 / epsilon^2 (recalled)",
    ),
    Criterion(
        key="share",
        what="rounds over (R G / epsilon)^2, greatest over epsilons and seeds",
        relation="<=",
        bound=1.0,
        why="projected gradient descent on convex functions with gradients up to G needs no more "
        "(Zinkevich 2003); here G = 1.1 and the network is "
        "convex in the limit of infinite width only",
    ),
)


def measure(scale: Scale, report: Report) -> Measured:
    """Train, certify at the end, and read off when the best loss so far came within epsilon of the
    certified lower bound.
    """
    data, threat = pair(scale)
    width, rounds = (512, 120) if scale.quick else (2000, 300)
    needed: list[list[float]] = []
    curves: list[tuple[tuple[float, float], ...]] = []
    gaps: list[float] = []
    uncertified = 0
    for seed in tracked(scale.seeds, report):
        run = trained(
            network(data, width, seed),
            data,
            threat,
            PGD_10,
            radius=BALL,
            rounds=rounds,
            momentum=0.0,
            seed=seed,
        )
        certificate = run.certificate
        uncertified += certificate.status != "certified"
        best = accumulate((row.online_loss for row in run.epochs if row.online_loss is not None), min)
        excess = [loss - certificate.lower_bound for loss in best]
        needed.append([rounds_until(excess, epsilon) for epsilon in EPSILONS])
        gaps.append(certificate.gap)
        curves.append(tuple((float(t), e) for t, e in enumerate(excess, start=1) if e > 0))
    inverse = [1 / epsilon for epsilon in EPSILONS]
    limits = [(BALL * GRADIENT / epsilon) ** 2 for epsilon in EPSILONS]
    per_epsilon = [[rounds_of[i] for rounds_of in needed] for i in range(len(EPSILONS))]
    styles = ("s-blue", "s-green", "s-purple", "s-sky", "s-grey")
    return Measured(
        deciding={
            "slope": math.nan
            if uncertified
            else worst([log_slope(inverse, rounds_of) for rounds_of in needed]),
            "share": math.nan
            if uncertified
            else worst(
                [t / limit for rounds_of in needed for t, limit in zip(rounds_of, limits, strict=True)]
            ),
        },
        columns=(
            Column(name="epsilon", style="setting"),
            Column(name="rounds until the certified gap is below", known="bounded", style="count"),
            Column(name="(R G / epsilon)^2", known="bounded", style="count"),
        ),
        rows=tuple(zip(EPSILONS, per_epsilon, limits, strict=True)),
        plots=(
            Plot(
                title="Rounds needed against 1 / epsilon",
                x="1 / epsilon",
                y="rounds",
                log_x=True,
                log_y=True,
                lines=(
                    *seeds_and_mean("rounds needed", inverse, per_epsilon, "s-blue"),
                    PlotLine(
                        label="(R G / epsilon)^2, slope 2",
                        points=tuple(zip(inverse, limits, strict=True)),
                        style="s-vermillion dash",
                    ),
                ),
            ),
            Plot(
                title="Best loss so far, above the certified lower bound",
                x="round",
                y="excess",
                log_x=True,
                log_y=True,
                lines=tuple(
                    PlotLine(label=f"seed {seed}", points=curve, style=styles[i % len(styles)])
                    for i, (seed, curve) in enumerate(zip(scale.seeds, curves, strict=True))
                ),
            ),
        ),
        notes=(
            f"{len(data.train)} examples, {width:,} units, parameter radius {BALL:g}, step 4, no "
            f"momentum; gaps after {rounds} rounds: " + ", ".join(f"{gap:.2g}" for gap in gaps) + ".",
            "Rounds are counted to the gap against the certified lower bound, hence never fewer than the "
            "true optimum would count.",
        )
        + ((f"{uncertified} runs were not certified: nothing can be counted.",) if uncertified else ()),
    )


def rounds_until(excess: Sequence[float], epsilon: float) -> float:
    """The first round, counted from 1, at which the excess is ``epsilon`` or less; infinite for none.

    >>> rounds_until([0.5, 0.1], 0.2), rounds_until([0.5], 0.2)
    (2.0, inf)
    """
    return next((float(t) for t, e in enumerate(excess, start=1) if e <= epsilon), math.inf)


def worst(values: Sequence[float]) -> float:
    """The greatest; NaN if one is."""
    return math.nan if any(math.isnan(v) for v in values) else max(values)


EXPERIMENT = Experiment(
    name="iterations",
    claim="Plain projected gradient descent comes within epsilon of the best robust loss in rounds that "
    "grow no faster than 1 / epsilon^2.",
    source="Gao et al. 2019, arXiv 1906.07916, Theorem 4.1: T of order R^2 H^2 / epsilon^2 (recalled)",
    setup=f"{DIGITS}; two layers, softplus, 10-step PGD, full batch, projected gradient descent without "
    "momentum",
    criteria=CRITERIA,
    measure=measure,
)
