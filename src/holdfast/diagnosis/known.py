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
class Known:
    """Everything the rules read. Losses are means over the training part, accuracies shares of one.

    Attributes:
        surrogate: smallest loss at the attacked points of one frozen set of weights in the ball.
        trained_against: the same of the network at hand (the last weights), which may be another.
        attacked: the largest loss that attacks found for the network at hand.
        upper: an upper end for the optimum: ``attacked``, or where ``upper_proved`` a bound on the loss of
            the network at hand.
        lower: no network of the ball has a smaller robust loss; ``floor`` is the trivial bound.
        missed: by how much a proved bound exceeded the loss that an attack had found.
        ball: the radius that training kept to; ``radius`` is that of the certificate, where none was kept to
            the distance moved.
        drift: the largest distance of a layer from its start over its radius.
        train, test: the two parts under the same attacks, at the same weights.
        online: online losses by epoch; ``windows`` bounds of the recorded epochs, ``void_windows`` reasons of
            those that gave none.
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
    test_examples: Real | None = None
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
        """The lower bound as far as it says anything: nothing where the certificate is void or the bound
        is the trivial one.
        """
        return self.lower if self.kind is not None and self.informative else None
