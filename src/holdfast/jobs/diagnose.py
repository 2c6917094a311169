"""The diagnosis of any network, trained here or elsewhere: the same rules and thresholds as a run's page,
terminal and doctor.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from holdfast import _tensors, diagnosis
from holdfast._arguments import EXAMPLES, INITIAL, LABELS, MODEL, Array, as_examples, check_precision, paired
from holdfast._rules import FUNCTION, SEED, kind, maybe, real, takes
from holdfast._tensors import batches
from holdfast._values import Fact, Tabular
from holdfast.attacks import PGD, Attack, as_attack, attacking
from holdfast.attacks.by_name import ATTACK
from holdfast.certificates import Certificate, certify
from holdfast.certificates.convergence import attacked_points
from holdfast.certificates.frozen import in_float64
from holdfast.data.separation import separation
from holdfast.diagnosis import Finding, Findings, Known, summed_up
from holdfast.errors import InputError
from holdfast.evaluation import Evaluation
from holdfast.evaluation.closing import Closing, Examples, close
from holdfast.evaluation.warning_signs import examined
from holdfast.families import curvature_for
from holdfast.jobs.summary import with_certificate
from holdfast.losses import LOSS, Loss, as_loss, correct
from holdfast.record.known import known_of
from holdfast.record.plain import figure
from holdfast.record.schema import (
    ClassFigures,
    ClosingFigures,
    CompatibilityFigures,
    DataFigures,
    DriftFigures,
    NetworkFigures,
    PartCounts,
    Summary,
)
from holdfast.threats import THREAT, LpBall, Threat, as_threat
from holdfast.training import ParameterBall

BATCH = 256


@dataclass(frozen=True, kw_only=True, repr=False)
class Diagnosis(Tabular):
    """What `holdfast.diagnose` found.

    ``print(found)`` shows a table, ``found["attack"]`` is the first finding of a name, and iteration gives
    all in the order in which to fix.

    Attributes:
        findings: what was looked at, each with its level, its figures and one remedy.
        evaluation: the examples under the strongest attacks.
        certificate: how far the network is from the best of its ball; ``None`` without initial weights.
        known, summary: the figures that findings are made from, and those that `holdfast.write_report` shows.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> found = hf.diagnose(torch.nn.Identity(), x, y, "linf:0.05")
    >>> found["threat"].level
    'good'
    """

    findings: tuple[Finding, ...]
    evaluation: Evaluation
    certificate: Certificate | None
    known: Known
    summary: Summary

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"{name!r}; the findings are {', '.join(f.name for f in self.findings)}")

    def _facts(self) -> list[Fact]:
        return [
            Fact(f.name, f"{f.level}: {f.sentence}{f' -> {f.remedy}' if f.remedy else ''}", f.claims)
            for f in self.findings
        ]

    def _columns(self) -> dict[str, list[Any]]:
        names = ("name", "level", "sentence", "claims", "remedy")
        return {name: [getattr(finding, name) for finding in self.findings] for name in names}

    def __repr__(self) -> str:
        return f"Diagnosis({summed_up(self.findings)})"

    def __str__(self) -> str:
        """A table, one line a finding, its remedy below."""
        return str(Findings(self.findings))


@takes(
    model=MODEL,
    x=EXAMPLES,
    y=LABELS,
    threat=THREAT,
    initial=maybe(INITIAL),
    attack=maybe(ATTACK),
    radius=maybe(real(above=0)),
    test=maybe(kind(tuple, list, what="a pair of examples and labels")),
    loss=maybe(LOSS),
    final_attack=maybe(ATTACK),
    seed=SEED,
    progress=maybe(FUNCTION),
)
def diagnose(
    model: nn.Module,
    x: Array,
    y: Array,
    threat: Threat | str,
    *,
    initial: nn.Module | Mapping[str, Tensor] | None = None,
    attack: Attack | str | None = None,
    radius: float | None = None,
    test: Sequence[Any] | None = None,
    loss: Loss | str | None = None,
    final_attack: Attack | str | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Diagnosis:
    """What holds a network back: the threat, the attack, the optimiser, the network's size, or too few examples.

    Args:
        model: any network, trained anywhere; it is left as it is and looked at in evaluation mode.
        x, y: the examples it was trained on, and their labels.
        threat: or text such as ``linf:0.1``, which has no box.
        initial: its weights before training, as a network or by name: the centre of the ball that it is
            compared in. Without them optimisation is not measured, and of capacity only what the network
            itself shows.
        attack: that it was trained against, default ``PGD(steps=10)``; the attack gap is over it.
        radius: of the parameter ball, default the distance that the weights moved.
        test: (x, y) it was not trained on, for the gap between both parts; under the same attacks.
        loss: default cross-entropy.
        final_attack: the stronger attack, default PGD with 40 steps and 2 restarts; short targeted searches
            and queries follow.
        seed: of all searches.
        progress: called with the share of the work done.

    Returns:
        Findings in the order in which to fix, with the evaluation and the certificate behind them.

    Raises:
        InputError: anything `evaluate` or `certify` refuses.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> found = hf.diagnose(torch.nn.Identity(), x, y, "linf:0.05")
    >>> found["optimisation"].level
    'not-measured'
    """
    threat, loss = as_threat(threat), as_loss(loss)
    attack = PGD(steps=10) if attack is None else as_attack(attack)
    final = PGD(steps=40, restarts=2, keep_best=True) if final_attack is None else as_attack(final_attack)
    report = progress or (lambda share: None)
    x, y = paired(model, x, y)
    if initial is not None:
        check_precision(model, x, "certified")
        in_float64(model, x)
    training, device = model.training, _tensors.device_of(model, x)
    x, y = x.to(device), y.to(device)
    held_out: Examples | None = None
    if test is not None:
        if len(test) != 2:
            raise InputError(
                f"test must be a pair of examples and labels, got {len(test)} parts; give (x, y)."
            )
        examples, labels = paired(model, as_examples("x of test", test[0]), test[1])
        held_out = examples.to(device), labels.to(device)
    closing = close(
        model,
        (x, y),
        held_out,
        threat,
        final,
        loss=loss,
        seed=seed,
        progress=lambda share: report(0.8 * share),
    )
    points = attacked_points(model, x, y, threat, attack, loss, seed=seed + 1, batch_size=BATCH)
    against, holds = _at(model, points.points, y, loss)
    certificate = None
    if initial is not None:
        certificate = certify(
            model,
            initial,
            x,
            y,
            threat,
            attack,
            radius=radius or _distance(model, initial),
            loss=loss,
            seed=seed,
        )
    reported, of = (closing.on_train, (x, y)) if held_out is None else (closing.on_test, held_out)
    assert reported is not None  # there is one where there is a test part
    evaluation = examined(model, *of, threat, reported, training=training, seed=seed)
    report(1.0)
    summary = _summary(
        model,
        threat=threat,
        attack=attack,
        loss=loss,
        parts=((x, y), held_out),
        closing=closing,
        against=against,
        holds=holds,
        evaluation=evaluation,
        certificate=certificate,
    )
    known = replace(known_of(summary), of_run=False, evaluated=True, warnings=evaluation.warnings or ())
    return Diagnosis(
        findings=diagnosis.diagnose(known),
        evaluation=evaluation,
        certificate=certificate,
        known=known,
        summary=summary,
    )


def _summary(
    model: nn.Module,
    *,
    threat: Threat,
    attack: Attack,
    loss: Loss,
    parts: tuple[Examples, Examples | None],
    closing: Closing,
    against: Tensor,
    holds: Tensor,
    evaluation: Evaluation,
    certificate: Certificate | None,
) -> Summary:
    """The figures as a run's summary has them; what is about training stays unknown."""
    (x, y), held_out = parts
    record, tested = closing.record(holds), 0 if held_out is None else len(held_out[1])
    attacked = figure(float(torch.maximum(against.cpu().double(), closing.on_train.loss.double()).mean()))
    train, test = record["train"], record["test"]
    classes = max(2, int(y.max()) + 1)
    summary = Summary(
        name=type(model).__name__,
        threat=threat.spec,
        attack=attack.name,
        loss=loss.name,
        data=DataFigures(
            examples=len(y) + tested,
            features=x[0].numel(),
            classes=classes,
            shape=tuple(x.shape[1:]),
            train=len(y),
            test=None if held_out is None else tested,
        ),
        network=NetworkFigures(
            name=type(model).__name__, parameters=sum(p.numel() for p in model.parameters())
        ),
        compatibility=_separation(x, y, threat),
        accuracy_on="train" if held_out is None else "test",
        clean_accuracy=evaluation.clean_accuracy,
        robust_accuracy=evaluation.robust_accuracy,
        train_clean_accuracy=closing.on_train.clean_accuracy,
        train_robust_accuracy=train["robust"] / train["examples"],
        train_fitted=bool(closing.on_train.robust.all()),
        closing=ClosingFigures(
            attacks=closing.attacks,
            train=PartCounts(**train),
            test=None if test is None else PartCounts(**test),
        ),
        training_attack_loss=figure(float(against.mean())),
        robust_loss_attacked=attacked,
        robust_loss_upper_bound=attacked,
        robust_loss_upper_kind="strongest attack",
        per_class=tuple(
            ClassFigures(
                class_name=str(row.label),
                examples=row.examples,
                clean_accuracy=row.clean_accuracy,
                robust_accuracy=row.robust_accuracy,
            )
            for row in evaluation.per_class()
        ),
    )
    if certificate is None:
        return summary
    moved = tuple(
        DriftFigures(layer=str(place), value=figure(distance), radius=figure(certificate.radius))
        for place, distance in enumerate(certificate.drift, 1)
    )
    return replace(with_certificate(summary, certificate), drift=moved)


@torch.no_grad()
def _at(model: nn.Module, points: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """The loss at these points, and whether each is classified as its label."""
    with attacking(model, "eval"):
        outputs = torch.cat([_tensors.answers(model, part) for part in batches(points, BATCH)])
    return loss(outputs, y), correct(outputs, y)


def _distance(model: nn.Module, initial: nn.Module | Mapping[str, Tensor]) -> float:
    """The radius of the smallest balls that hold the weights; of any size where they have not moved."""
    start = initial.state_dict() if isinstance(initial, nn.Module) else initial
    names = curvature_for(model)[0].parameters(model)
    absent = [name for ball in names for name in ball if name not in start]
    if absent:
        raise InputError(
            f"initial must hold the starting weights of every trained parameter, got none for {absent[0]!r}; "
            "give the network as it was before training."
        )
    moved = ParameterBall(names=names, initial=start, radius=math.inf).distances(model)
    return max(float(distance) for distance in moved) * (1 + 1e-6) or 1.0


def _separation(x: Tensor, y: Tensor, threat: Threat) -> CompatibilityFigures:
    """Whether threat sets of different labels meet; nothing where no exact test is known."""
    if not isinstance(threat, LpBall):
        return CompatibilityFigures()
    found = separation(x, y, norm=threat.norm, radius=float(threat.radius), fixed=threat.fixed)
    return CompatibilityFigures(
        compatible=found.count == 0,
        pairs_meeting=found.count,
        reach=threat.reach,
        smallest_distance=figure(found.distance),
    )
