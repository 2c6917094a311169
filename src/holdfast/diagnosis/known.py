"""What a diagnosis reads: the figures of a record, each ``None`` where it is not known."""

from dataclasses import dataclass
from typing import Literal

from holdfast._formats import Real
from holdfast.diagnosis.finding import Finding, Kind

Status = Literal["certified", "estimate", "void"]
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
    examples: Real | None
    robust: float | None


@dataclass(frozen=True, kw_only=True)
class EpochAccuracy:
    """Accuracy under attack after an epoch, on the validation part or on a sample of the training part."""

    epoch: int
    robust: float


@dataclass(frozen=True, kw_only=True)
class Known:
    """Everything the rules read. Losses are means over the training part, accuracies shares of one.

    Attributes:
        of_run: whether the figures are those of a training run.
        interrupted: whether that run was stopped before its last epoch.
        attack: name of the attack of training.
        classes: number of classes.
        status: of the certificate.
        reason: of that status, one sentence.
        informative: whether the certificate's bound is above the trivial one.
        floor: the trivial bound of the robust loss.
        lower: no network of the ball has a smaller robust loss.
        surrogate: smallest loss at the attacked points of one frozen set of weights in the ball.
        gap: of the certificate: its surrogate loss minus ``lower``.
        missed: by how much a proved bound exceeded the loss that an attack had found.
        trained_against: the same of the network at hand (the last weights), which may be another.
        attacked: the largest loss that attacks found for the network at hand.
        upper: an upper end for the optimum: ``attacked``, or where ``upper_proved`` a bound on the loss of
            the network at hand.
        upper_proved: whether ``upper`` is a verified bound.
        radius: of the certificate.
        ball: the radius that training kept to; ``None`` for none.
        width: of the network.
        drift: the largest distance of a layer from its start over its radius.
        width_factor: about how many times wider the network must be before curvature costs nothing.
        at_radii: (radius, lower bound) by radius.
        compatible: whether threat sets of different labels stay apart; ``None`` where no exact test is known.
        smallest_distance: between examples of different labels.
        reach: largest distance at which two threat sets can meet.
        pairs_meeting: pairs of examples of different labels whose threat sets meet.
        per_class: robust accuracy by class.
        robust_accuracy, clean_accuracy: on the part that was evaluated.
        test_examples: in the test part.
        train, test: the two parts under the same attacks, at the same weights.
        epochs: of training, finished.
        online: online losses by epoch.
        robust_by_epoch: accuracies under attack while training.
        windows: lower bounds of the recorded epochs.
        void_windows: reasons of the recorded epochs that gave no bound.
        evaluated: whether attacks were run.
        warnings: signs that the attacks failed.

    >>> import holdfast as hf
    >>> hf.diagnosis.Known(status="certified", lower=0.1).claimed
    0.1
    """

    of_run: bool = True
    interrupted: bool = False
    attack: str | None = None
    classes: Real | None = None
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
    width: Real | None = None
    drift: float | None = None
    width_factor: float | None = None
    at_radii: tuple[tuple[float, float], ...] = ()
    compatible: bool | None = None
    smallest_distance: float | None = None
    reach: float | None = None
    pairs_meeting: Real | None = None
    per_class: tuple[ClassKnown, ...] = ()
    robust_accuracy: float | None = None
    clean_accuracy: float | None = None
    test_examples: Real | None = None
    train: Counted | None = None
    test: Counted | None = None
    epochs: int = 0
    online: tuple[float, ...] = ()
    robust_by_epoch: tuple[EpochAccuracy, ...] = ()
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
        """The lower bound as far as it says anything: nothing where the certificate is void or the bound
        is the trivial one.
        """
        return self.lower if self.kind is not None and self.informative else None
