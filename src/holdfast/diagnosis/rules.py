"""The diagnosis: from the figures of a record to findings, by one rule each.

The order is that in which to fix: a threat no classifier can meet hides everything after it, an attack too
weak to train against hides what the optimiser does, and so on to the certificate.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from holdfast._formats import Real, count, number, percent, points, setting
from holdfast.diagnosis.finding import Finding, Level, Remedy, Value
from holdfast.diagnosis.intervals import difference
from holdfast.diagnosis.known import EpochAccuracy, Known
from holdfast.diagnosis.thresholds import (
    AT_EDGE,
    COLLAPSED,
    CURVED,
    DECLINED,
    FALLING,
    FEW,
    FEW_OF_CLASS,
    FEWEST_EPOCHS,
    GENEROUS,
    GUESSING,
    LAGGING,
    MEANT,
    OVERFITTED,
    RARE,
    RISING,
    SMALL,
    STUCK,
    TIGHT,
    UNREACHABLE,
    WEAK,
    WEAK_ACCURACY,
    WIDE_GAP,
)

NOTHING = "nothing can be said at this radius"
"""In place of every figure that follows from a lower bound which is the trivial one."""

UNKNOWN = "not measured"
RESUME = "resume the run"
"""The one remedy of a run that was cut short: its figures are not final."""


def diagnose(known: Known) -> tuple[Finding, ...]:
    """Findings by every rule, in the order in which to fix; each rule gives at least one.

    Args:
        known: the figures.

    >>> import holdfast as hf
    >>> hf.diagnosis.diagnose(hf.diagnosis.Known(robust_accuracy=0.4))[0].level
    'good'
    """
    found: list[Finding] = []
    for name, rule in RULES.items():
        if known.of_run or name not in OF_RUNS:
            said = rule(known)
            found += (replace(f, name=name) for f in ([said] if isinstance(said, Finding) else said))
    return tuple(_as_far_as_known(finding, known) for finding in found)


def _as_far_as_known(finding: Finding, known: Known) -> Finding:
    """The same with its reserve: what rests on attacks is no better than they are, and there are signs
    that these failed.
    """
    proved = finding.name == "capacity" and known.upper_proved
    if finding.name not in BY_ATTACKS or finding.level != "good" or not known.warned or proved:
        return finding
    return replace(finding, sentence=f"as far as these attacks tell, {finding.sentence}")


def _found(level: Level, sentence: str, remedy: Remedy | str = "", *values: Value) -> Finding:
    python, command = remedy if isinstance(remedy, Remedy) else (remedy, "")
    return Finding(name="", level=level, sentence=sentence, remedy=python, command=command, values=values)


def _run(known: Known) -> Finding:
    if known.interrupted:
        return _found(
            "warning",
            "training was interrupted",
            Remedy.by(
                "resume it",
                python="the same call of hf.train, with resume=True",
                command="`holdfast train RUN/config.yaml --resume`, with --trusted where the configuration names "
                "code of your own",
            ),
        )
    epochs = f" ({known.epochs} epoch{'s' if known.epochs != 1 else ''})" if known.epochs else ""
    return _found("good", f"training finished{epochs}")


def _data(known: Known) -> list[Finding]:
    found = []
    sizes = {row.name: row.examples for row in known.per_class if row.examples is not None}
    if rare := rare_classes(sizes):
        found.append(
            _found(
                "warning",
                f"class {', '.join(rare)} has less than a tenth of an even share of the examples",
                "collect more of it, or weigh the accuracy of each class alone (see the per-class table)",
            )
        )
    test = known.test_examples
    if test is not None and 0 < test < FEW:
        found.append(
            _found(
                "warning",
                f"{test:.0f} test examples: accuracies are uncertain by about "
                f"{100 / math.sqrt(test):.0f} percentage points",
                Remedy.by(
                    "test on more examples, where the data have no test part of their own by a larger share",
                    python="test=0.3",
                    command="--data.test 0.3",
                )
                if known.of_run
                else "test on more examples",
            )
        )
    if not sizes and test is None:
        return [_found("not-measured", UNKNOWN)]
    enough = ", and there are enough test examples to tell accuracies" if test else ""
    return found or [_found("good", f"no class is rare{enough}")]


def rare_classes(sizes: Mapping[str, Real]) -> list[str]:
    """Names of the classes with far less than an even share of the examples."""
    even = sum(sizes.values()) / len(sizes) if sizes else 0.0
    return [name for name, size in sizes.items() if size < RARE * even]


def _threat(known: Known) -> Finding:
    distance, reach = known.smallest_distance, known.reach
    if known.compatible is False:
        pairs = "some" if known.pairs_meeting is None else count(known.pairs_meeting)
        below = f" below {setting(distance / 2)}" if distance else ""
        return _found(
            "bad",
            f"the threat sets of {pairs} pairs of differently labelled examples meet: no classifier is "
            "robust on both",
            Remedy.by(
                f"choose a radius{below}, or remove the mislabelled examples",
                python="threat",
                command="--threat",
            ),
        )
    if distance is None or reach is None:
        return _found("not-measured", UNKNOWN)
    if reach > TIGHT * distance:
        return _found(
            "warning",
            f"the threat reaches {100 * reach / distance:.0f} % of the way between the nearest examples "
            "of different labels",
            Remedy.by(
                f"choose a radius well below {setting(distance / 2)}, unless this is the question",
                python="threat",
                command="--threat",
            ),
        )
    return _found("good", "threat sets of different labels are well apart")


def _attack(known: Known) -> Finding:
    more = Remedy.by(
        "train against more steps or restarts",
        python="attack=hf.PGD(steps=20, restarts=2)",
        command="--attack.steps 20 --attack.restarts 2",
    )
    against, train = known.trained_against, known.train
    if known.missed > SMALL:
        return _found(
            "warning",
            f"the proved bound shows that the attack missed at least {number(known.missed)} of loss",
            more,
            Value(number=known.missed, kind="proved"),
        )
    if known.attacked is None or against is None:
        return _found("not-measured", UNKNOWN)
    gap = max(0.0, known.attacked - against)
    values = [Value(number=gap, kind="observed")]
    taken, fewer = 0.0, ""
    if train is not None and train.under_training_attack is not None:
        before, after = train.under_training_attack / train.examples, train.robust / train.examples
        taken = max(0.0, before - after)
        values.append(Value(number=taken, kind="observed", unit="accuracy"))
        fewer = f", and take {points(taken)} of accuracy (of {count(train.examples)} training examples)"
    against_what = known.attack or "the attack of training"
    if gap > max(SMALL, WEAK * against) or taken > WEAK_ACCURACY:
        return _found(
            "warning",
            f"stronger attacks find {number(gap)} more loss than {against_what} found "
            f"({number(against)}){fewer}",
            more,
            *values,
        )
    return _found(
        "good",
        f"stronger attacks find hardly more: {number(gap)} of loss over {number(against)}{fewer}",
        "",
        *values,
    )


def _evaluation(known: Known) -> list[Finding]:
    if known.warnings:
        return [
            replace(warning, sentence=f"{warning.name}: {warning.sentence}")
            for warning in known.warnings
            if warning.level in ("warning", "bad")
        ]
    if known.evaluated:
        return [_found("good", "no sign that the attacks failed was found, which is no proof")]
    return [
        _found(
            "not-measured",
            "not yet checked for signs of failed attacks",
            Remedy.by(
                "evaluate it", python="hf.evaluate(model, x, y, threat)", command="`holdfast evaluate RUN`"
            ),
        )
    ]


def _training(known: Known) -> Finding:
    losses = known.online
    sizes = [row.examples for row in known.per_class if row.examples is not None]
    if sizes and known.clean_accuracy is not None and len(sizes) > 1:
        guess = max(sizes) / sum(sizes)
        if known.clean_accuracy <= guess + GUESSING * (1 - guess):
            return _found(
                "bad",
                f"the network has learnt nothing: its accuracy without attack is {percent(known.clean_accuracy)}, and "
                f"always naming the largest class gives {percent(guess)}",
                Remedy.by(
                    "begin with a smaller radius and let it rise, or lower the learning rate",
                    python="schedule=hf.ScheduleSettings(radius_ramp=0.5), learning_rate",
                    command="--training.radius-ramp 0.5, --learning-rate",
                ),
                Value(number=known.clean_accuracy, kind="observed", unit="accuracy"),
            )
    if len(losses) < FEWEST_EPOCHS:
        few = f"{len(losses)} epoch{'s' if len(losses) != 1 else ''} of losses: too few to tell a trend"
        return _found("not-measured", few if losses else UNKNOWN)
    last = Value(number=losses[-1], kind="observed")
    if losses[-1] > RISING * losses[0]:
        return _found(
            "bad",
            f"the loss rose from {number(losses[0])} to {number(losses[-1])}",
            Remedy.by("divide the learning rate by 3", python="learning_rate", command="--learning-rate"),
            last,
        )
    if falling(losses):
        return _found(
            "warning",
            f"the loss was still falling when training {'was interrupted' if known.interrupted else 'ended'}",
            _longer(known),
            last,
        )
    return _found("good", f"the loss has levelled off, at {number(losses[-1])}", "", last)


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Where robustness was lost, and the sentence that says so."""

    epoch: int
    sentence: str


def collapse(accuracies: Sequence[EpochAccuracy]) -> Collapse | None:
    """The first epoch in which robust accuracy collapsed; None where it did not.

    >>> from holdfast.diagnosis.known import EpochAccuracy
    >>> collapse([EpochAccuracy(epoch=1, robust=0.4), EpochAccuracy(epoch=2, robust=0.03)]).sentence
    'catastrophic overfitting in epoch 2: robust accuracy fell from 40 % (epoch 1) to 3 %'
    """
    best = None
    for now in accuracies:
        if best is None or now.robust > best.robust:
            best = now
        elif best.robust >= MEANT and now.robust < COLLAPSED * best.robust:
            fell = f"fell from {_whole(best.robust)} (epoch {best.epoch}) to {_whole(now.robust)}"
            return Collapse(
                epoch=now.epoch,
                sentence=f"catastrophic overfitting in epoch {now.epoch}: robust accuracy {fell}",
            )
    return None


def _whole(share: float) -> str:
    """A share in whole per cent: all that a few hundred examples tell."""
    return f"{100 * share:.0f} %"


def _overfitting(known: Known) -> Finding:
    """How robust accuracy went while training: collapsed, past its best, or neither."""
    seen = known.robust_by_epoch
    if len(seen) < 2:
        return _found("not-measured", UNKNOWN)
    best, last = max(seen, key=lambda one: one.robust), seen[-1]
    value = Value(number=last.robust, kind="observed", unit="accuracy")
    lost = collapse(seen)
    if lost is not None and last.robust < COLLAPSED * best.robust:
        return _found(
            "bad",
            f"{lost.sentence}; it ended at {_whole(last.robust)}",
            Remedy.by(
                "train against more steps, or with a recipe that keeps single steps honest; the weights kept as the best "
                "are from before",
                python="attack=hf.PGD(steps=10), or recipe='grad-align'",
                command="--attack pgd --attack.steps 10, or --recipe grad-align",
            ),
            value,
        )
    if best.robust - last.robust > DECLINED:
        return _found(
            "warning",
            f"robust accuracy was highest in epoch {best.epoch}, {_whole(best.robust)}, and fell to "
            f"{_whole(last.robust)} by the end: robust overfitting",
            Remedy.by(
                "use the best weights, train for fewer epochs, or average the weights",
                python="run.best, epochs, averaging=hf.EMA()",
                command="--weights best, --epochs, --averaging ema",
            ),
            value,
        )
    return _found(
        "good", f"robust accuracy held while training: {_whole(last.robust)} after the last epoch", "", value
    )


def _longer(known: Known) -> Remedy:
    """More epochs, in the ball of this run: without a radius the ball would grow with the distance moved,
    and its bound weaken.
    """
    if known.interrupted:
        return Remedy(RESUME, RESUME)
    epochs, radius = 2 * known.epochs, known.radius
    if known.ball is not None or radius is None:
        return Remedy.by("train longer", python=f"epochs={epochs}", command=f"--epochs {epochs}")
    return Remedy.by(
        "train longer in the same ball",
        python=f"epochs={epochs}, parameter_radius={radius:.4g}",
        command=f"--epochs {epochs} --parameter-radius {radius:.4g}",
    )


def falling(losses: Sequence[float]) -> bool:
    """Whether the last quarter of epochs still lowered the loss, steadily rather than by noise."""
    last = losses[-max(2, len(losses) // 4 + 1) :]
    if len(losses) < FEWEST_EPOCHS or last[0] - last[-1] <= max(FALLING * last[0], SMALL / 10):
        return False
    downs = sum(later < earlier for earlier, later in pairwise(last))
    return downs > 0.6 * (len(last) - 1)


def _optimisation(known: Known) -> Finding:
    gap, reached, kind = known.gap, known.surrogate, known.kind
    if kind is None:
        return _found("not-measured", "the certificate is void" if known.status == "void" else UNKNOWN)
    if not known.informative:
        at = "this radius" if known.radius is None else f"radius {setting(known.radius)}"
        return _found(
            "not-measured",
            f"nothing can be said at {at}: the {kind} lower bound is {number(known.floor)}, which no "
            "network goes below",
            _tighter(known),
        )
    if gap is None or reached is None:
        return _found("not-measured", UNKNOWN)
    value = Value(number=gap, kind=kind)
    most = (
        "no network of the ball gains more than"
        if kind == "proved"
        else "by the estimate no network of the ball gains more than"
    )
    if gap <= max(SMALL, WIDE_GAP * reached):
        return _found("good", f"{most} {number(gap)} on a loss of {number(reached)}", "", value)
    if falling(known.online):
        what, remedy = "and the loss was still falling", _longer(known)
        if _curved(known):
            remedy = remedy.besides(_wider(known))
    elif known.drift is not None and known.drift < GENEROUS:
        what = f"and the weights use {100 * known.drift:.0f} % of the parameter radius"
        remedy = Remedy.by(
            "ask for a smaller ball, whose bound is tighter",
            python=f"{'parameter_radius' if known.of_run else 'radius'} just above the drift",
            command="--parameter-radius just above the drift",
        )
    elif kind == "proved":
        what, remedy = "and the loss no longer falls", _wider(known)
    else:
        what, remedy = "part of which is the looseness of the bound", _tighter(known)
    return _found(
        "warning",
        f"the {'' if kind == 'proved' else 'estimated '}gap is {number(gap)} at a loss of "
        f"{number(reached)}, {what}",
        remedy,
        value,
    )


def _curved(known: Known) -> bool:
    return (known.width_factor or 0.0) > CURVED


def _wider(known: Known) -> Remedy:
    factor, less = known.width_factor, "curvature loosens the bound; a wider network has less"
    if factor is not None and factor > UNREACHABLE:
        return _smaller(
            "curvature loosens the bound more than any width within reach makes up for; train in a smaller ball"
        )
    if factor is None or not _curved(known):
        return Remedy.by(f"{less}, or one with centred inputs", python="width", command="--width")
    if known.width is None:
        return Remedy.by(
            f"curvature loosens the bound; a network about {factor:.2g} times as wide has less",
            python="width",
            command="--width",
        )
    width = math.ceil(factor * known.width)
    return Remedy.by(less, python=f"width={width}", command=f"--width {width}")


def _smaller(says: str) -> Remedy:
    return Remedy.by(says, python="parameter_radius", command="--parameter-radius")


def _tighter(known: Known) -> Remedy:
    """How to a bound that says something, or more: the largest radius known to have one, else the network."""
    inside = [
        (radius, bound)
        for radius, bound in known.at_radii
        if bound > known.floor and (known.radius is None or radius < known.radius)
    ]
    within_reach = (known.width_factor or 0.0) <= UNREACHABLE
    if known.kind == "proved" and _curved(known) and within_reach:
        return _wider(known)
    if inside:
        radius, bound = max(inside)
        if not known.of_run:
            said = (
                f"ask for a smaller ball: at radius {setting(radius)} the {known.kind} bound is {number(bound)} "
                f"(radius={setting(radius)})"
            )
            return Remedy(said, said)
        return Remedy.by(
            f"train in a smaller ball: at radius {setting(radius)} the {known.kind} bound was {number(bound)} from "
            "this run; a new run's may differ",
            python=f"parameter_radius={setting(radius)}",
            command=f"--parameter-radius {setting(radius)}",
        )
    if known.kind == "proved" and not within_reach:
        return _wider(known)
    if known.kind == "proved":
        return Remedy.by(
            "train in a smaller ball, or widen the network",
            python="parameter_radius, width",
            command="--parameter-radius, --width",
        )
    return Remedy.by(
        "train in a much smaller ball, or a two-layer network, which has a proof",
        python="parameter_radius, hf.networks.TwoLayer",
        command="--parameter-radius, --network two-layer",
    )


def _capacity(known: Known) -> Finding:
    low, high, reached, gap, kind = known.claimed, known.upper, known.surrogate, known.gap, known.kind
    values = [Value(number=max(low, known.floor), kind=kind)] if low is not None and kind is not None else []
    if high is not None:
        values.append(Value(number=high, kind="proved" if known.upper_proved else "observed"))
    stuck = None if known.classes is None or known.classes < 2 else STUCK * math.log(known.classes)
    attained = reached if high is None else high
    if attained is not None and stuck is not None and attained <= stuck:
        return _found(
            "good", f"there is room for a low loss: this network reaches {number(attained)}", "", *values
        )
    most = "" if high is None else f": the best of this ball has a loss of at most {number(high)}"
    if low is None or gap is None or reached is None or stuck is None:
        if known.informative or kind is None:
            return _found("not-measured", UNKNOWN)
        return _found("not-measured", f"{NOTHING}{most}", "", *values)
    if gap > max(SMALL, WIDE_GAP * reached):
        ends = number(low) if high is None else f"{number(low)} and {number(high)}"
        between = (
            f"{'lies' if kind == 'proved' else 'is estimated to lie'} "
            f"{'above' if high is None else 'between'} {ends}"
        )
        return _found(
            "not-measured",
            f"not known to be the limit: the best of this ball {between}, so close the optimisation gap first",
            "",
            *values,
        )
    full = known.drift is None or known.drift >= AT_EDGE
    below = "no network in this ball is" if kind == "proved" else "by the estimate no network in this ball is"
    return _found(
        "warning",
        f"the loss is {number(reached)} and {below} below {number(low)}: the ball is the limit",
        Remedy.by(
            "give the network more room, or lower the radius of the threat",
            python="parameter_radius" if full else "width",
            command="--parameter-radius" if full else "--width",
        ),
        *values,
    )


def _generalisation(known: Known) -> Finding:
    train, test = known.train, known.test
    if train is None or test is None:
        return _found("not-measured", UNKNOWN)
    over = train.robust / train.examples - test.robust / test.examples
    low, high = difference(
        (train.robust, train.examples),
        (test.robust, test.examples),
        first_whole=train.examples == train.population,
    )
    sample = (
        f"{count(train.examples)} of {count(train.population)}"
        if train.examples < train.population
        else f"all {count(train.examples)}"
    )
    said = (
        f"under the same attacks robust accuracy is {percent(train.robust / train.examples)} on {sample} "
        f"training examples and {percent(test.robust / test.examples)} on {count(test.examples)} test "
        f"examples: {points(over)} apart (95 % interval {points(low).removesuffix(' points')} to "
        f"{points(high)})"
    )
    value = Value(number=over, kind="observed", unit="accuracy")
    if over > OVERFITTED and low > 0:
        remedy = Remedy.by(
            "train on more examples, in a smaller ball, or for fewer epochs",
            python="examples of the data, parameter_radius, epochs",
            command="--examples, --parameter-radius, --epochs",
        )
        return _found("warning", said, remedy, value)
    return _found("good", said, "", value)


def _classes(known: Known) -> Finding:
    overall = known.robust_accuracy
    rows = [row for row in known.per_class if row.robust is not None and (row.examples or 0) >= FEW_OF_CLASS]
    if overall is None or not rows:
        return _found("not-measured", UNKNOWN)
    low = [
        f"{row.name} ({100 * (row.robust or 0):.0f} %)"
        for row in rows
        if (row.robust or 0) < overall - LAGGING
    ]
    if low:
        return _found(
            "warning",
            f"robust accuracy of class {', '.join(low)} is far below that of all ({100 * overall:.0f} %)",
            "look at its examples in the report's gallery and table, and collect more of it",
        )
    return _found("good", "no class is far behind the others")


def _trace(known: Known) -> Finding:
    if known.void_windows:
        (reason, times), *others = Counter(known.void_windows).most_common()
        more = f" (and {len(others)} other reason{'s' if len(others) > 1 else ''})" if others else ""
        return _found(
            "warning",
            f"{times} of {known.epochs} epochs give no bound: {reason.rstrip('.')}{more}",
            "train without what makes these rounds void; the certificate counts the other epochs and the "
            "final pass",
        )
    if not known.windows:
        if known.interrupted or not known.epochs:
            return _found("not-measured", UNKNOWN)
        return _found(
            "not-measured",
            "no window was recorded (the run was too short, or had no trace): the bound is that of the final pass "
            "alone",
        )
    recorded = f"{len(known.windows)} window{'s' if len(known.windows) != 1 else ''} recorded"
    telling = sum(bound > known.floor for bound in known.windows)
    if telling == 0:
        return _found("not-measured", f"{recorded}, not one gives more than the trivial bound")
    if telling < len(known.windows):
        return _found("good", f"{recorded}, {telling} of them give more than the trivial bound")
    return _found("good", "every recorded epoch gives a bound")


def _certificate(known: Known) -> Finding:
    reason = (known.reason or "no reason was recorded").rstrip(".")
    if known.interrupted and known.kind is None:
        return _found(
            "warning" if known.status is None else "bad",
            "there is no certificate, since the run was interrupted"
            if known.status is None
            else f"the certificate is void: {reason}",
            RESUME,
        )
    if known.status is None:
        return (
            _found(
                "warning",
                "there is no certificate",
                Remedy.by(
                    "compute it",
                    python="hf.certify(model, initial, x, y, threat, attack, radius)",
                    command="`holdfast certify RUN`",
                ),
            )
            if known.of_run
            else _found("not-measured", "no initial weights were given, so there is no ball to certify in")
        )
    if known.status == "void":
        return _found(
            "bad",
            f"the certificate is void: {reason}",
            "fix that cause and train again: a void certificate proves nothing",
        )
    if known.status == "estimate":
        return _found(
            "warning",
            f"the lower bound is an estimate, nothing is proved: {reason}",
            Remedy.by(
                "train a two-layer network for a proof",
                python="hf.networks.TwoLayer",
                command="--network two-layer",
            ),
        )
    if not known.informative:
        return _found("warning", f"{NOTHING}: the proved bound is the trivial one", _tighter(known))
    return _found("good", "the lower bound is proved")


RULES: dict[str, Callable[[Known], Finding | list[Finding]]] = {
    "run": _run,
    "data": _data,
    "threat": _threat,
    "evaluation": _evaluation,
    "attack": _attack,
    "training": _training,
    "overfitting": _overfitting,
    "optimisation": _optimisation,
    "capacity": _capacity,
    "generalisation": _generalisation,
    "classes": _classes,
    "trace": _trace,
    "certificate": _certificate,
}
BY_ATTACKS = ("attack", "overfitting", "capacity", "generalisation", "classes")
"""Rules that take what attacks found for the worst there is."""

OF_RUNS = ("run", "training", "overfitting", "trace")
"""Rules that look at how a network was trained; one from elsewhere is spared them."""
