"""Why is it stuck? Findings about a run, read off its folder alone, each with one remedy.

The order is that in which to mend: a threat no classifier can meet hides everything after it, an attack too weak to train
against hides what the optimiser does, and so on to the certificate.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open

from holdfast.report.collect import Fields, Run, read_run

State = Literal["ok", "warn", "bad"]

RARE = 0.1  # a class with less than this share of an even part is rare
FEW = 100  # accuracies from fewer examples are off by several per cent by chance: sqrt(p (1 - p) / n)
TIGHT = 0.9  # radius over half the smallest opposite-label distance, from which on few robust classifiers are left
WEAK = 0.05  # share of the loss that a stronger attack may add
SMALL = 0.01  # losses that matter to no one
WIDE_GAP = 0.1  # optimisation gap as a share of the surrogate loss
FALLING = 0.02  # share by which the loss of the last quarter of epochs still fell
AT_EDGE = 0.99  # drift over radius, from which on the ball holds the weights back
GENEROUS = 0.5  # drift over radius, below which the ball is larger than training needs
CURVED = 1.5  # width factor from which on the bound is loose mostly for want of width
STUCK = 0.25  # surrogate loss over that of guessing, log(classes)
LAGGING = 0.25  # robust accuracy of all minus that of one class
FEW_OF_CLASS = 20  # of fewer examples of one class nothing is said
NEEDED = (
    "last.safetensors",
    "trace/trace.json",
    "trace/initial.safetensors",
    "trace/final_pass.safetensors",
    "trace/setting.json",
)
OVERFITTED = 0.15  # train robust accuracy minus test robust accuracy


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at: ``warn`` costs accuracy or tightness, ``bad`` makes the figures meaningless or unreachable.

    ``remedy`` is empty where all is well.
    """

    area: str
    state: State
    what: str
    remedy: str = ""


def examine(folder: Path) -> list[Finding]:
    """What can be said about the run in ``folder``; an area where nothing is wrong has one finding that is ``ok``.

    Raises:
        RunFolderError: no run there, or its summary is cut short.
    """
    run = read_run(folder)
    findings: list[Finding] = []
    for area, check in CHECKS.items():
        found = [
            Finding(area=area, state=state, what=what, remedy=remedy) for state, what, remedy in check(run)
        ]
        findings += found or [Finding(area=area, state="ok", what=FINE[area])]
    return findings


Found = Iterator[tuple[State, str, str]]

UNKNOWN: tuple[State, str, str] = ("ok", "not measured in this run", "")


def _run(run: Run) -> Found:
    if run.summary.flag("interrupted"):
        yield "warn", "training was interrupted", "go on with `holdfast train RUN/config.yaml --resume`"
    missing = [name for name in NEEDED if not (run.folder / name).exists()]
    if missing and not run.summary.flag("interrupted"):
        yield (
            "bad",
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: the run cannot be certified again",
            "restore what is missing, or train again with `holdfast train RUN/config.yaml`",
        )
    damaged = [str(path.relative_to(run.folder)) for path in _files(run.folder) if not _whole(path)]
    if damaged:
        yield (
            "bad",
            f"{', '.join(damaged)} cannot be read: cut short or damaged",
            "restore what is damaged, or train again with `holdfast train RUN/config.yaml`",
        )
    if run.unread_lines:
        yield (
            "warn",
            f"{run.unread_lines} lines of metrics.jsonl are cut short",
            "nothing need be done, the others are read; train again for a whole record",
        )


def _files(folder: Path) -> list[Path]:
    patterns = ("*.safetensors", "trace/*.safetensors", "trace/*.json", "checkpoints/*.pt")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def _whole(path: Path) -> bool:
    """Whether the file ends where it should; numbers are not read."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
            return True
        if path.suffix == ".pt":  # an archive, whose table of contents comes last
            return is_zipfile(path)
        with safe_open(path, framework="numpy"):
            return True
    except (SafetensorError, OSError, ValueError):
        return False


def _data(run: Run) -> Found:
    sizes = {row.class_name: row.examples for row in run.per_class if row.examples is not None}
    if sizes:
        even = sum(sizes.values()) / len(sizes)
        rare = [name for name, size in sizes.items() if size < RARE * even]
        if rare:
            yield (
                "warn",
                f"class {', '.join(rare)} has less than a tenth of an even share of the examples",
                "collect more of it, or weigh the accuracy of each class alone (see the per-class table)",
            )
    test = run.summary.inner("data").number("test")
    if test is not None and 0 < test < FEW:
        off = 100 / math.sqrt(test)
        yield (
            "warn",
            f"{test:.0f} test examples: accuracies are uncertain by about {off:.0f} percentage points",
            "keep more of them for the test with --data.test",
        )
    if not sizes and test is None:
        yield UNKNOWN


def _threat(run: Run) -> Found:
    fit = run.summary.inner("compatibility")
    distance, reach, pairs = fit.number("smallest_distance"), fit.number("reach"), fit.number("pairs_meeting")
    if fit.flag("compatible") is False:
        count = "some" if pairs is None else f"{pairs:,.0f}"
        below = "" if distance is None else f" below {distance / 2:.4g}"
        yield (
            "bad",
            f"the threat sets of {count} pairs of differently labelled examples meet: no classifier is robust on both",
            f"choose a radius{below} with --threat, or remove the mislabelled examples",
        )
    elif distance is not None and reach is not None and reach > TIGHT * distance:
        yield (
            "warn",
            f"the threat reaches {100 * reach / distance:.0f} % of the way between the nearest examples of different labels",
            f"choose a radius well below {distance / 2:.4g} with --threat, unless this is the question",
        )
    elif distance is None:
        yield UNKNOWN


def _attack(run: Run) -> Found:
    gap, loss = run.gaps["attack"].value, run.surrogate
    if gap is None or loss is None:
        yield UNKNOWN
    elif gap > max(SMALL, WEAK * loss):
        yield (
            "warn",
            f"a stronger attack finds {gap:.4g} more loss than the one trained against ({loss:.4g})",
            "train against more steps or restarts: --attack.steps 20 --attack.restarts 2",
        )


def _optimisation(run: Run) -> Found:
    losses = [epoch.online_loss for epoch in run.epochs if epoch.online_loss is not None]
    if len(losses) >= 4 and losses[-1] > 1.05 * losses[0]:
        yield (
            "bad",
            f"the loss rose from {losses[0]:.4g} to {losses[-1]:.4g}",
            "lower the learning rate by 3: --learning-rate",
        )
        return
    gap, drift = run.gaps["optimisation"].value, _drift(run)
    wide = gap is not None and run.surrogate is not None and gap > max(SMALL, WIDE_GAP * run.surrogate)
    if _falling(losses):
        yield (
            "warn",
            "the loss was still falling when training ended",
            f"train longer: --epochs {2 * len(run.epochs)}"
            + (f"; besides, {_wider(run.summary)}" if wide and _curved(run.summary) else ""),
        )
    elif wide and drift is not None and drift < GENEROUS:
        yield (
            "warn",
            f"the optimisation gap is {gap:.4g}, and the weights use {100 * drift:.0f} % of the parameter radius",
            "ask for a smaller ball, whose bound is tighter: --parameter-radius just above the drift",
        )
    elif wide and run.status == "certified":
        yield (
            "warn",
            f"the optimisation gap is {gap:.4g} at a surrogate loss of {run.surrogate:.4g}, and the loss no longer falls",
            _wider(run.summary),
        )
    elif gap is None:
        yield UNKNOWN


def _curved(summary: Fields) -> bool:
    return (summary.number("width_factor") or 0.0) > CURVED


def _wider(summary: Fields) -> str:
    factor = summary.number("width_factor")
    if factor is not None and _curved(summary):
        return f"the bound pays for curvature: widen the network about {factor:.2g} times with --width"
    return "the bound pays for curvature: widen the network with --width, or centre its inputs"


def _capacity(run: Run) -> Found:
    loss, gap = run.surrogate, run.gaps["optimisation"].value
    classes = run.summary.inner("data").number("classes")
    if loss is None or gap is None or classes is None or classes < 2 or run.status != "certified":
        yield UNKNOWN
        return
    near_best = gap <= max(SMALL, WIDE_GAP * loss)
    if near_best and loss > STUCK * math.log(classes):
        drift = _drift(run)
        more = "--parameter-radius" if drift is None or drift >= AT_EDGE else "--width"
        yield (
            "warn",
            f"the loss is {loss:.4g} and no network in this ball is below {run.claimed_lower:.4g}: the ball is the limit",
            f"give the network more room with {more}, or lower the radius of the threat",
        )


def _generalisation(run: Run) -> Found:
    train, test = run.summary.number("train_robust_accuracy"), run.summary.number("robust_accuracy")
    if train is None or test is None or run.summary.text("accuracy_on") == "train":
        yield UNKNOWN
    elif train - test > OVERFITTED:
        yield (
            "warn",
            f"robust accuracy is {100 * train:.1f} % on the training part and {100 * test:.1f} % on the test part",
            "train on more examples (--examples), or in a smaller ball (--parameter-radius)",
        )
    overall = run.summary.number("robust_accuracy")
    low = [
        row for row in run.per_class
        if row.robust_accuracy is not None and overall is not None
        and (row.examples or 0) >= FEW_OF_CLASS and row.robust_accuracy < overall - LAGGING
    ]  # fmt: skip
    if low and overall is not None:
        words = ", ".join(f"{row.class_name} ({100 * (row.robust_accuracy or 0.0):.0f} %)" for row in low)
        yield (
            "warn",
            f"robust accuracy of class {words} is far below that of all ({100 * overall:.0f} %)",
            "look at its examples in the report's gallery and table, and collect more of it",
        )


def _trace(run: Run) -> Found:
    reasons = Counter(epoch.void for epoch in run.epochs if epoch.void)
    if not reasons:
        if not any(epoch.lower_bound is not None for epoch in run.epochs):
            yield UNKNOWN
        return
    (reason, times), *others = reasons.most_common()
    more = f" (and {len(others)} other reasons)" if others else ""
    yield (
        "warn",
        f"{times} of {len(run.epochs)} epochs give no bound: {reason.rstrip('.')}{more}",
        "train without what makes these rounds void; the certificate counts the other epochs and the final pass",
    )


def _certificate(run: Run) -> Found:
    reason = (run.summary.text("certificate_reason") or "no reason was recorded").rstrip(".")
    if run.status is None:
        yield "warn", "the run has no certificate", "compute it with `holdfast certify RUN`"
    elif run.status == "void":
        yield (
            "bad",
            f"the certificate is void: {reason}",
            "mend that cause and train again: a void run proves nothing",
        )
    elif run.status == "estimate":
        yield (
            "warn",
            f"the gap is an estimate, nothing is proved: {reason}",
            "train a two-layer network for a proof: --network two-layer",
        )


def _falling(losses: list[float]) -> bool:
    """Whether the last quarter of epochs still lowered the loss, steadily rather than by noise."""
    last = losses[-max(2, len(losses) // 4 + 1) :]
    if len(losses) < 4 or last[0] - last[-1] <= max(FALLING * last[0], SMALL / 10):
        return False
    downs = sum(later < earlier for earlier, later in pairwise(last))
    return downs > 0.6 * (len(last) - 1)


def _drift(run: Run) -> float | None:
    """Largest drift of a layer as a share of its ball's radius."""
    shares = [row.value / row.radius for row in run.drift if row.value is not None and row.radius]
    return max(shares, default=None)


CHECKS = {
    "run": _run,
    "data": _data,
    "threat": _threat,
    "attack": _attack,
    "optimisation": _optimisation,
    "capacity": _capacity,
    "generalisation": _generalisation,
    "trace": _trace,
    "certificate": _certificate,
}
FINE = {
    "run": "whole, trained to its end",
    "data": "no class is rare, and the test part is large enough",
    "threat": "threat sets of different labels are well apart",
    "attack": "a stronger attack finds hardly more loss",
    "optimisation": "the loss has settled close to the lower bound",
    "capacity": "the ball leaves room for a low loss",
    "generalisation": "robust on the test part nearly as on the training part",
    "trace": "every recorded epoch gives a bound",
    "certificate": "the gap is proved",
}
