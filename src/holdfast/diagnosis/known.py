"""What a diagnosis reads: the figures of a record, each ``None`` where it is not known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from holdfast._fields import Fields
from holdfast.diagnosis.finding import Finding, Kind, from_dict

Status = Literal["certified", "estimate", "void"]
REACHED = 1e-9
"""A loss this close to its infimum has reached it."""
STATUSES: tuple[Status, ...] = ("certified", "estimate", "void")


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Examples that one cascade of attacks met, and how many it left.

    Attributes:
        examples: attacked; a random sample where ``population`` is more.
        robust: right, and broken by none of the attacks.
        under_training_attack: right, and not broken by the attack of training alone.
    """

    examples: int
    robust: int
    population: int
    under_training_attack: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClassKnown:
    """One class: its examples and its robust accuracy."""

    name: str
    examples: float | None
    robust: float | None


@dataclass(frozen=True, kw_only=True)
class Known:
    """Everything the rules read. Losses are means over the training part, accuracies shares of one.

    Attributes:
        surrogate: smallest loss at the attacked points of one frozen set of weights in the ball.
        trained_against: the same of the network at hand (the last weights), which may be another.
        attacked: the largest loss that attacks found for the network at hand.
        upper: an upper end for the optimum: ``attacked``, or where ``upper_proved`` a bound on the loss of the network at hand.
        lower: no network of the ball has a smaller robust loss; ``floor`` is the trivial bound.
        missed: by how much a proved bound exceeded the loss that an attack had found.
        ball: the radius that training kept to; ``radius`` is that of the certificate, where none was kept to the distance moved.
        drift: the largest distance of a layer from its start over its radius.
        train, test: the two parts under the same attacks, at the same weights.
        online: online losses by epoch; ``windows`` bounds of the recorded epochs, ``void_windows`` reasons of those that gave none.
    """

    of_run: bool = True
    interrupted: bool = False
    attack: str | None = None
    classes: float | None = None
    status: Status | None = None
    reason: str | None = None
    informative: bool = True
    floor: float = 0.0
    lower: float | None = None
    surrogate: float | None = None
    gap: float | None = None
    missed: float = 0.0
    trained_against: float | None = None
    attacked: float | None = None
    upper: float | None = None
    upper_proved: bool = False
    radius: float | None = None
    ball: float | None = None
    width: float | None = None
    drift: float | None = None
    width_factor: float | None = None
    at_radii: tuple[tuple[float, float], ...] = ()
    compatible: bool | None = None
    smallest_distance: float | None = None
    reach: float | None = None
    pairs_meeting: float | None = None
    per_class: tuple[ClassKnown, ...] = ()
    robust_accuracy: float | None = None
    test_examples: float | None = None
    train: Counted | None = None
    test: Counted | None = None
    epochs: int = 0
    online: tuple[float, ...] = ()
    windows: tuple[float, ...] = ()
    void_windows: tuple[str, ...] = ()
    evaluated: bool = False
    warnings: tuple[Finding, ...] = ()

    @property
    def warned(self) -> bool:
        """Whether something says that the attacks failed, so that what they left may fall to better ones."""
        return any(warning.level in ("warning", "bad") for warning in self.warnings)

    @property
    def kind(self) -> Kind | None:
        """How the lower bound is known."""
        return {"certified": "proved", "estimate": "estimated"}.get(self.status or "")  # type: ignore[return-value]

    @property
    def claimed(self) -> float | None:
        """The lower bound as far as it says anything: nothing where the certificate is void or the bound is the trivial one."""
        return self.lower if self.kind is not None and self.informative else None


def from_record(summary: Mapping[str, Any], metrics: Sequence[Any] = ()) -> Known:
    """The figures of ``summary.json`` and of the lines of ``metrics.jsonl``; whatever is no figure is not known."""
    record = Fields(summary)
    certificate, fit, data = (record.inner(key) for key in ("certificate", "compatibility", "data"))
    status = record.text("certificate_status")
    lower = record.number("robust_loss_lower_bound")
    surrogate, upper = record.number("surrogate_loss"), record.number("robust_loss_upper_bound")
    floor = lower_floor(record)
    proved = record.text("robust_loss_upper_kind") == "verified"
    attacked = record.number("robust_loss_attacked")
    against = record.number("training_attack_loss")
    shares = [
        value / radius
        for row in record.rows("drift")
        if (value := row.number("value")) is not None and (radius := row.number("radius"))
    ]
    rows = [Fields(row) for row in metrics if isinstance(row, dict)]
    evaluation = record.inner("evaluation").inner("verdict")
    closing = record.inner("closing")
    return Known(
        interrupted=record.flag("interrupted") is True,
        attack=record.text("attack"),
        classes=data.number("classes"),
        status=next((known for known in STATUSES if known == status), None),
        reason=record.text("certificate_reason"),
        informative=_informative(record, lower, surrogate, floor),
        floor=floor,
        lower=lower,
        surrogate=surrogate,
        gap=record.number("gap"),
        missed=max(0.0, record.number("attack_missed") or certificate.number("attack_missed") or 0.0),
        trained_against=surrogate if against is None else against,
        attacked=upper if attacked is None and not proved else attacked,
        upper=upper,
        upper_proved=proved,
        radius=certificate.number("radius") or record.number("parameter_radius"),
        ball=record.number("parameter_radius"),
        width=record.inner("network").number("width"),
        drift=max(shares, default=None),
        width_factor=record.number("width_factor"),
        at_radii=tuple(
            (radius, bound)
            for row in record.rows("bounds_at_radii")
            if (radius := row.number("radius")) is not None and (bound := row.number("lower_bound")) is not None
            and row.text("status") != "void"
        ),
        compatible=fit.flag("compatible"),
        smallest_distance=fit.number("smallest_distance"),
        reach=fit.number("reach"),
        pairs_meeting=fit.number("pairs_meeting"),
        per_class=tuple(
            ClassKnown(name=row.text("class_name") or str(index), examples=row.number("examples"), robust=row.share("robust_accuracy"))
            for index, row in enumerate(record.rows("per_class"))
        ),
        robust_accuracy=record.share("robust_accuracy"),
        test_examples=data.number("test"),
        train=_counted(closing.inner("train")),
        test=_counted(closing.inner("test")),
        epochs=len(rows),
        online=tuple(loss for row in rows if (loss := row.number("online_loss")) is not None),
        windows=tuple(bound for row in rows if (bound := row.number("lower_bound")) is not None and not row.text("void")),
        void_windows=tuple(reason for row in rows if (reason := row.text("void"))),
        evaluated=evaluation.text("word") in ("trust", "doubt", "void"),
        warnings=tuple(from_dict(row) for row in evaluation.rows("warnings")),
    )  # fmt: skip


def _informative(record: Fields, lower: float | None, surrogate: float | None, floor: float) -> bool:
    """Whether the lower bound says more than the trivial one, which is all there is to say where the loss has come down to it."""
    if lower is None or record.flag("certificate_informative") is False:
        return False
    return lower > floor or (lower == floor and surrogate is not None and surrogate <= floor + REACHED)


def lower_floor(record: Fields) -> float:
    """The trivial bound of a run's robust loss; losses of older records are never below 0."""
    floor = record.number("certificate_floor")
    floor = record.inner("certificate").number("floor") if floor is None else floor
    return 0.0 if floor is None else floor


def _counted(row: Fields) -> Counted | None:
    examples, robust = row.whole("examples"), row.whole("robust")
    if examples is None or robust is None or not 0 <= robust <= examples or examples == 0:
        return None
    population, under = row.whole("population"), row.whole("under_training_attack")
    return Counted(
        examples=examples,
        robust=robust,
        population=examples if population is None else max(examples, population),
        under_training_attack=under if under is not None and 0 <= under <= examples else None,
    )
