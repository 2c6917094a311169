"""What a run leaves behind, each figure once: its name, its type, its unit, and what it says.

`Summary` is ``summary.json``, `EpochFigures` a line of ``metrics.jsonl``, `EvaluationFigures` is
``evaluation.json`` and the entry ``evaluation`` of the summary. Writers make these values, readers are given
them; `holdfast.record.plain` turns them into JSON and back. A figure is ``None`` where it was not measured;
no figure is NaN or infinite.

To add an entry: a field here and a higher `SCHEMA`. Files of a lower version are read without it.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from holdfast.certificates import Certificate
from holdfast.diagnosis import Finding
from holdfast.trace import Evaluated

# ruff: noqa: RUF009 - `about` makes fields, and defaults are frozen values

SCHEMA = 2
"""Version of this schema. Files without an entry ``schema`` are of version 1, in which anything might be
missing.
"""

Share = Annotated[float, "from 0 to 1"]
Interval = tuple[Share, Share]


def about(says: str, unit: str = "", *, default: Any = None, optional: bool = False) -> Any:
    """A field with what it says. An ``optional`` one is left out of the file where it is not known; others
    are null.
    """
    return field(default=default, metadata={"says": says, "unit": unit, "optional": optional})


@dataclass(frozen=True, kw_only=True)
class BestFigures:
    """The weights that did best on the validation part (``model.safetensors``)."""

    epoch: int | None = about(
        "epoch after which they were taken; 0 where there is no validation part", "epochs"
    )
    by: str | None = about("what makes them the best: `robust_loss` or `robust_accuracy`")
    robust_accuracy: Share | None = about("accuracy under the validation attack: observed", "share")
    robust_loss: float | None = about("loss under the validation attack: observed", "loss")


@dataclass(frozen=True, kw_only=True)
class DataFigures:
    """The data and its parts."""

    name: str | None = about("name of the data")
    examples: int | None = about("number of examples, all parts together", "examples")
    features: int | None = about("numbers in one example", "features")
    classes: int | None = about("number of labels", "classes")
    shape: tuple[int, ...] = about("shape of one example", default=())
    class_names: tuple[str, ...] = about("names of the classes, in the order of the labels", default=())
    train: int | None = about("size of the training part", "examples")
    validation: int | None = about("size of the validation part", "examples")
    test: int | None = about("size of the test part", "examples")
    extra: int | None = about("further examples that only training has", "examples")
    extra_share: float | None = about("their share of each batch", "0 to 1")


@dataclass(frozen=True, kw_only=True)
class NetworkFigures:
    """The network."""

    name: str | None = about("class of the network")
    parameters: int | None = about("number of trained parameters", "parameters")
    width: int | None = about("hidden units, where the network says so", "units")
    activation: str | None = about("name of its activation, where the network says so")


@dataclass(frozen=True, kw_only=True)
class CompatibilityFigures:
    """Whether the threat sets of differently labelled training examples stay apart."""

    compatible: bool | None = about("whether they do; null where no exact test is known")
    smallest_distance: float | None = about("between two examples with different labels", "input units")
    reach: float | None = about("distance up to which two threat sets meet", "input units")
    pairs_meeting: int | None = about("pairs of different labels that meet; there may be more", "pairs")


@dataclass(frozen=True, kw_only=True)
class PartCounts:
    """Examples of one part that met the same attacks, and how many were left."""

    examples: int | None = about("number attacked", "examples")
    robust: int | None = about("number right and not broken by any attack: observed", "examples")
    population: int | None = about(
        "size of the part that they are a random sample of", "examples", optional=True
    )
    under_training_attack: int | None = about(
        "number right and not broken by the training attack alone: observed", "examples", optional=True
    )


@dataclass(frozen=True, kw_only=True)
class ClosingFigures:
    """Both parts at the end of training under the same attacks."""

    attacks: tuple[str, ...] = about("names of the attacks", default=())
    train: PartCounts | None = about("counts on the training part")
    test: PartCounts | None = about("counts on the test part")


@dataclass(frozen=True, kw_only=True)
class LinearisationFigures:
    """How far the network is from its linearisation at the initial weights."""

    mean: float | None = about("mean absolute error over the training examples: observed", "output units")


@dataclass(frozen=True, kw_only=True)
class BoundFigures:
    """The lower bound over the ball of another parameter radius."""

    radius: float | None = about("radius of the ball", "weight norm")
    lower_bound: float | None = about("no network of that ball has a smaller robust loss", "loss")
    status: str | None = about("how the bound is known, in the words of `certificate_status`")


@dataclass(frozen=True, kw_only=True)
class DriftFigures:
    """How far the weights of one ball have moved."""

    layer: str | None = about("names of its parameters")
    value: float | None = about("distance of the last weights from the initial ones", "weight norm")
    radius: float | None = about("radius of the certificate's ball", "weight norm")


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """Accuracies of one class."""

    class_name: str | None = about("name of the class")
    examples: int | None = about("number of examples", "examples")
    clean_accuracy: Share | None = about("accuracy without attack: observed", "share")
    robust_accuracy: Share | None = about("accuracy under attack: observed", "share")
    verified_accuracy: Share | None = about("accuracy that is proved; null without bounds", "share")


@dataclass(frozen=True, kw_only=True)
class LossBracket:
    """Both ends of the robust loss."""

    attacked: float | None = about("loss that attacks reached: observed", "loss")
    verified: float | None = about("loss that no attack can exceed: proved", "loss")


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """95 % intervals of accuracies measured on a sample."""

    clean: Interval | None = about("interval of `clean_accuracy`", "share")
    robust: Interval | None = about("interval of `robust_accuracy`", "share")
    verified: Interval | None = about("interval of `robust_accuracy_verified`", "share")


@dataclass(frozen=True, kw_only=True)
class StageFigures:
    """One stage of the cascade."""

    name: str | None = about("name of the attack or bound")
    kind: Literal["attack", "bound"] | None = about("an attack breaks examples, a bound proves them")
    entered: int | None = about("number open before it", "examples")
    left: int | None = about("number open after it", "examples")
    seconds: float | None = about("time of all processes together", "s")
    note: str | None = about("why it was left out or made smaller; else empty")

    @property
    def decided(self) -> int | None:
        """Examples broken or proved here."""
        return None if self.entered is None or self.left is None else max(0, self.entered - self.left)


@dataclass(frozen=True, kw_only=True)
class AccuracyAtRadius:
    """Both ends of the robust accuracy at one radius of the threat."""

    radius: float | None = about("radius of the threat", "input units")
    verified: Share | None = about("accuracy that is proved; null without bounds", "share")
    not_broken: Share | None = about("accuracy under attack: observed", "share")


@dataclass(frozen=True, kw_only=True)
class HardExample:
    """An example neither broken nor proved."""

    example: int | None = about("its row in `attacked.safetensors`")
    label: str | None = about("name of its class")
    loss: float | None = about("loss that the attacks reached: observed", "loss")


@dataclass(frozen=True, kw_only=True)
class VerdictFigures:
    """Whether the attacks can be trusted."""

    word: Literal["trust", "doubt", "void"] | None = about(
        "`trust`: no sign that they failed; `doubt`, `void`: see the warnings"
    )
    warnings: tuple[Finding, ...] = about("signs that the attacks failed, each with its remedy", default=())


@dataclass(frozen=True, kw_only=True)
class RecheckFigures:
    """What the file of attacked points shows when it is read back."""

    examples: int | None = about("number read back", "examples")
    outside: int | None = about("number of points outside their threat sets", "examples")
    wrong_flags: int | None = about("number classified otherwise than recorded", "examples")
    wrong_losses: int | None = about("number with another loss", "examples")
    sound: bool | None = about("whether none of these was found")


@dataclass(frozen=True, kw_only=True)
class EvaluationFigures:
    """``evaluation.json``: a network under the strongest attacks, with verified bounds."""

    schema: int = about("version of this schema", default=SCHEMA)
    data: str | None = about("name of the data")
    part: str | None = about("part of the data: `test`, `validation`, `train` or `all`")
    weights: str | None = about("`last`, `best`, or the file they come from")
    examples: int | None = about("number evaluated", "examples")
    population: int | None = about(
        "size of the part that they are a random sample of; null for all", "examples"
    )
    threat: str | None = about("threat as on the command line, such as `l2:0.3`")
    attacks: str | None = about("name of the suite of attacks")
    verify: str | None = about("method of the bounds; null for none")
    seed: int | None = about("seed of all searches")
    clean_accuracy: Share | None = about("accuracy without attack: observed", "share")
    robust_accuracy: Share | None = about(
        "accuracy under attack, right and not broken by any: observed", "share"
    )
    robust_accuracy_verified: Share | None = about("accuracy that is proved; null without bounds", "share")
    intervals: Intervals | None = about("95 % intervals, where a sample was evaluated")
    robust_loss: LossBracket = about("mean robust loss", default=LossBracket())
    stages: tuple[StageFigures, ...] = about("stages of the cascade, in order", default=())
    per_class: tuple[ClassFigures, ...] = about("one row per class", default=())
    curve: tuple[AccuracyAtRadius, ...] = about("one row per radius", default=())
    curve_attacks: str | None = about("suite of attacks at other radii than the threat's")
    hardest: tuple[HardExample, ...] = about("hardest open examples, highest loss first", default=())
    verdict: VerdictFigures = about("whether the attacks can be trusted", default=VerdictFigures())
    recheck: RecheckFigures = about("what the stored points show when read back", default=RecheckFigures())
    seconds: float | None = about("time of the whole evaluation", "s")
    versions: dict[str, str] | None = about("versions of Python and the packages the figures depend on")


@dataclass(frozen=True, kw_only=True)
class EpochFigures:
    """A line of ``metrics.jsonl``."""

    epoch: int | None = about("number of the epoch, from 1")
    rounds: int | None = about("rounds since the start of the run", "rounds")
    seconds: float | None = about("time spent on training so far", "s")
    learning_rate: float | None = about("learning rate at the end of the epoch")
    online_loss: float | None = about("mean loss at the attacked points of its rounds: observed", "loss")
    lower_bound: float | None = about(
        "lower bound from its rounds alone; known as the certificate is", "loss"
    )
    void: str | None = about("why its rounds give no bound; empty where they do")
    drift: dict[str, float | None] | None = about(
        "distance from the initial weights, by layer", "weight norm"
    )
    clean_accuracy: Share | None = about("accuracy on the validation part: observed", "share")
    robust_accuracy: Share | None = about("the same under the validation attack: observed", "share")
    robust_loss: float | None = about("loss on the validation part under that attack: observed", "loss")
    probe_accuracy: Share | None = about(
        "accuracy of some training examples under PGD of ten steps, where training is against a single step and the "
        "validation part was not looked at: observed",
        "share",
        optional=True,
    )
    event: str | None = about("what went wrong in this epoch, in words", optional=True)
    kernel_drift: float | None = about("relative change of the tangent kernel", optional=True)
    kernel_alignment: float | None = about("cosine to the initial tangent kernel", optional=True)
    kernel_centred_alignment: float | None = about("of the tangent kernel with the labels", optional=True)
    kernel_eigenvalue_max: float | None = about("largest of the tangent kernel", optional=True)
    kernel_eigenvalue_min: float | None = about("smallest of the tangent kernel", optional=True)
    weight_drift: float | None = about("relative change of all trained weights", optional=True)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """``summary.json``: every figure of a run with the word for how it is known."""

    schema: int = about("version of this schema", default=SCHEMA)
    name: str | None = about("name of the run")
    started: str | None = about("when training began, ISO 8601")
    seconds: float | None = about("time spent on training", "s")
    seed: int | None = about("seed of all random numbers")
    epochs: int | None = about("epochs trained", "epochs")
    best: BestFigures = about("the best weights", default=BestFigures())
    interrupted: bool | None = about("whether the run was stopped before its end, and may be resumed")
    versions: dict[str, str] | None = about("versions of Python and the packages the figures depend on")
    threat: str | None = about("threat as on the command line, such as `l2:0.3`")
    attack: str | None = about("attack used in training")
    loss: str | None = about("name of the loss")
    data: DataFigures = about("the data", default=DataFigures())
    network: NetworkFigures = about("the network", default=NetworkFigures())
    compatibility: CompatibilityFigures = about(
        "whether threat sets of different labels meet", default=CompatibilityFigures()
    )
    parameter_radius: float | None = about(
        "radius of the ball that training kept to; null for none", "weight norm"
    )
    objective: str | None = about("what was minimised: `robust-loss`, `trades`, ...", optional=True)
    augmentation: str | None = about(
        "how the examples of a step were varied before they were attacked: `none`, `images`, or a function's name",
        optional=True,
    )
    weight_perturbation: str | None = about(
        "weights at which gradients were taken: `none` for the present ones, or `awp`", optional=True
    )
    averaging: str | None = about(
        "average that is used as the network: `none`, `ema` or `swa`", optional=True
    )
    optimizer: str | None = about("name of the optimiser")
    optimizer_reason: str | None = about("why it was chosen, or `given`")
    batch_size: int | None = about("size of a batch", "examples")
    learning_rate: float | None = about("learning rate at the start")
    learning_rate_reason: str | None = about("why it was chosen, or `given`")
    accuracy_on: str | None = about(
        "part of the data that the accuracies are of: `test`, or `train` where there is none"
    )
    accuracy_weights: str | None = about("weights that the accuracies are of: `last`")
    clean_accuracy: Share | None = about("accuracy without attack: observed", "share")
    robust_accuracy: Share | None = about(
        "accuracy under attack, right and not broken by any: observed", "share"
    )
    robust_accuracy_verified: Share | None = about(
        "accuracy that is proved; null before an evaluation with bounds", "share"
    )
    train_clean_accuracy: Share | None = about(
        "accuracy on the training part without attack: observed", "share"
    )
    train_robust_accuracy: Share | None = about(
        "accuracy on the training part under the attacks of the test part: observed", "share"
    )
    train_fitted: bool | None = about("whether no training example was broken")
    closing: ClosingFigures | None = about("both parts under the same attacks")
    training_attack_loss: float | None = about(
        "loss of the last weights under the training attack: observed", "loss"
    )
    robust_loss_attacked: float | None = about(
        "robust loss of the last weights, as far as attacks found it: observed", "loss"
    )
    robust_loss_upper_bound: float | None = about("upper end of the best robust loss in the ball", "loss")
    robust_loss_upper_kind: str | None = about(
        "how it is known: `verified` (proved) or `strongest attack` (observed)"
    )
    surrogate_loss: float | None = about(
        "smallest loss under the training attack of any frozen weights in the ball", "loss"
    )
    robust_loss_lower_bound: float | None = about("no network of the ball has a smaller robust loss", "loss")
    gap: float | None = about("`surrogate_loss - robust_loss_lower_bound`, at least 0", "loss")
    certificate_status: str | None = about("`certified` (proved), `estimate` or `void`")
    certificate_reason: str | None = about("reason for the status, in one sentence")
    width_factor: float | None = about(
        "how many times wider the network must be, about, before curvature costs nothing"
    )
    bound_source: str | None = about("rounds that gave the lower bound")
    surrogate_weights: str | None = about("weights that the surrogate loss is of")
    linearisation_error: LinearisationFigures = about(
        "distance from linearity at the last weights", default=LinearisationFigures()
    )
    bounds_at_radii: tuple[BoundFigures, ...] = about("one row per radius", default=())
    certificate: Certificate | None = about("the whole certificate (`holdfast.Certificate`)")
    certificate_informative: bool | None = about("whether the bound says more than the trivial one")
    certificate_floor: float | None = about("the trivial bound", "loss")
    attack_missed: float | None = about(
        "by how much the bound exceeds the loss that the attack found", "loss"
    )
    evaluated: tuple[Evaluated, ...] = about(
        "other frozen weights that competed for the surrogate loss", default=()
    )
    drift: tuple[DriftFigures, ...] = about("one row per ball", default=())
    per_class: tuple[ClassFigures, ...] = about("one row per class", default=())
    evaluation: EvaluationFigures | None = about("the last evaluation (`holdfast evaluate`)", optional=True)
    digests: str | None = about("name of the file with the digests of all others", optional=True)

    @property
    def accuracy_of(self) -> str:
        """Which examples the accuracies are of, in words: a part, or a random sample of it."""
        part = self.accuracy_on or "test"
        closing, found = self.closing, self.evaluation
        counts = None if closing is None else closing.train if part == "train" else closing.test
        # An evaluation of the whole part has put its figures in the place of those of the sample.
        whole = found is not None and not found.population and found.weights == "last"
        if whole and found is not None and (found.part, found.threat) == (part, self.threat):
            counts = None
        if counts is None or not counts.examples or counts.examples >= (counts.population or 0):
            return {"train": "the training part"}.get(part, f"the {part} part")
        return f"{counts.examples:,} of {counts.population:,} {part} examples, drawn at random"
