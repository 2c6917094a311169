"""What a training run is made of, as plain typed values: no torch, so that parsing and refusing are quick.

A name is always either a built-in one (``two-layer``) or the import path of the user's own class or function
(``my_package.module:Net`` or ``my_package.module.Net``), whose arguments stand in ``init_args``.
"""

import difflib
import math
import re
import types
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import cache, partial
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from holdfast._defaults import SEED, TIGHTEN
from holdfast._imports import LIBRARY
from holdfast._registry import (
    ATTACKS,
    AUGMENTATIONS,
    AVERAGING,
    DATA,
    LOSSES,
    NETWORKS,
    OBJECTIVES,
    PERTURBATIONS,
    Registry,
)
from holdfast._rules import (
    FLAG,
    LARGEST_RADIUS,
    LARGEST_SEED,
    TEXT,
    maybe,
    real,
    rules_of,
    shown,
    takes,
    whole,
    word,
)
from holdfast.config.recipes import RECIPES
from holdfast.errors import InputError

# ruff: noqa: RUF009 - `option` and `section` make fields, they are no shared defaults

Arguments = dict[str, Any]
PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*|[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

NORMS = ("linf", "l2", "l1")
OPTIMIZERS = ("auto", "sgd", "adam", "adamw")
ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps", "tpu")
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
OWN = "your own"
"""The alternative that an import path is."""
LOGGERS = ("csv", "tensorboard", "wandb")
CLOSINGS = ("auto", "none", "fast", "standard")


def option(
    default: Any,
    help: str,
    *,
    short: str | None = None,
    least: float | int | None = None,
    above: float | int | None = None,
    below: float | int | None = None,
    names: tuple[str, ...] = (),
    own: bool = True,
    what: str | None = None,
    most: float | int | None = None,
    of: dict[str, tuple[Any, ...]] | None = None,
    unit: str = "",
    declared: bool = False,
    place: str = "",
    switch: bool = False,
) -> Any:
    """A field with what the command line needs: a help text, a short name, and the numbers or the names
    allowed.

    With ``own`` the import path of something of the user's stands beside the names. ``of`` is the one place
    that says where a setting belongs: alternatives of another entry of its section, such as
    ``{"name": ("two-layer", "dense")}``; with any other alternative it does not apply, and is refused. What
    is ``declared`` by the class that takes it is checked by that class's rules. A default of ``...`` must be given. What has a
    ``place`` is written without its name, and called so in the help; a ``switch`` is true where it is written,
    without a value.
    """
    facts: dict[str, Any] = {"help": help, "short": short, "least": least, "above": above, "below": below}
    facts |= {
        "names": names,
        "own": own,
        "what": what or short,
        "most": most,
        "of": of or {},
        "unit": unit,
        "declared": declared,
        "place": place,
        "switch": switch,
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=facts)
    return field(default=default, metadata=facts)


def optional(entry: Field[Any]) -> bool:
    """Whether the field may be ``None``."""
    return get_origin(entry.type) in (types.UnionType, Union) and type(None) in get_args(entry.type)


class Checked:
    """Refuses a number outside the limits of its field, and a name that is none."""

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    _check_number(entry, number)
            if entry.metadata.get("names"):
                for name in value if isinstance(value, tuple) else (value,):
                    if isinstance(name, str):
                        _check_name(entry, name)
        for entry in fields(self):  # type: ignore[arg-type]
            if getattr(self, entry.name) != plain_default(entry):
                check_applies(self, entry.name)

    def chosen(self, tag: str) -> Any:
        """Which alternative the entry ``tag`` is: its word, or `OWN` for an import path.

        >>> NetworkConfig(name="my_nets:Net").chosen("name"), ThreatConfig(spec="linf:0.1").chosen("spec")
        ('your own', 'ball')
        """
        value = getattr(self, tag)
        return OWN if isinstance(value, str) and is_path(value) else value


@dataclass(frozen=True, kw_only=True)
class Tagged(Checked):
    """A section that is one of several alternatives, by ``name``: each a subclass with the settings that its
    class or function declares.

    A setting annotated ``Attack`` is a section of its own. Anything else without a default, such as a second
    network, no text can give; what is ``offered`` by other sections, none has to. The settings in ``shorts``
    have their name for an option too.
    """

    registry: ClassVar[Registry]
    offered: ClassVar[tuple[str, ...]] = ()
    shorts: ClassVar[tuple[str, ...]] = ()
    name: str

    @classmethod
    def section(cls, name: str, **settings: Any) -> Any:
        """The alternative ``name`` with these settings."""
        return cls.alternative(name)(name=name, **settings)

    @classmethod
    def alternative(cls, name: str) -> Any:
        """The class of the alternative ``name``."""
        return _alternative(cls.base(), name if name in cls.registry else OWN)

    @classmethod
    def base(cls) -> Any:
        """What all alternatives have."""
        return next(kind for kind in reversed(cls.__mro__) if "registry" in vars(kind))

    @classmethod
    def possible(cls) -> dict[str, Field[Any]]:
        """The entries of all alternatives by name, with where they belong; those of several are this
        alternative's, else the first's.
        """
        kind: Any = cls
        return _possible(kind)


@cache
def _possible(kind: Any) -> dict[str, Field[Any]]:
    kinds = {name: fields(kind.alternative(name)) for name in (*kind.registry, OWN)}
    kinds = {
        name: entries
        for name, entries in kinds.items()
        if not any(plain_default(entry) is ... for entry in entries)
    }
    found = {
        entry.name: copy(entry) for entries in (*reversed(kinds.values()), fields(kind)) for entry in entries
    }
    for entry in found.values():
        having = tuple(name for name, entries in kinds.items() if entry.name in {one.name for one in entries})
        if len(having) < len(kinds):
            entry.metadata = types.MappingProxyType({**entry.metadata, "of": {"name": having}})
    return found


@cache
def _alternative(base: Any, name: str) -> Any:
    registry: Registry = base.registry
    entries: list[tuple[str, Any, Any]] = []
    if name == OWN:
        entries = [("init_args", Arguments, option({}, "arguments of your own, as {key: value}"))]
    for key, one in registry.settings(name).items() if name != OWN else ():
        if key in base.offered:
            continue
        nested = one.annotation == "Attack"
        default = AttackConfig.section("pgd") if nested else one.default
        short = key if key in base.shorts else None
        made = option(default, one.help, short=short, declared=True)
        entries.append((key, AttackConfig if nested else one.type, made))
    return make_dataclass(
        base.__name__,
        entries,
        bases=(base,),
        frozen=True,
        kw_only=True,
        namespace={"__module__": base.__module__},
    )


def plain_default(entry: Field[Any]) -> Any:
    """The value of a field that is left out."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def names_code(config: "RunConfig") -> bool:
    """Whether the configuration names code of the user's by import path, which from a file runs only where
    it is trusted.
    """

    def named(section: Any) -> Iterator[str]:
        for entry in fields(section):
            value = getattr(section, entry.name)
            if is_dataclass(value):
                yield from named(value)
            elif isinstance(value, str) and section.chosen(entry.name) == OWN:
                yield value

    return not all(LIBRARY.fullmatch(path) for path in named(config))


def applies(section: Any, name: str) -> bool:
    """Whether an entry of a section means anything beside the section's other entries."""
    of = _entry(section, name).metadata.get("of") or {}
    return all(section.chosen(tag) in allowed for tag, allowed in of.items())


def check_applies(section: Any, name: str, prefix: str = "") -> None:
    """Refuse an entry that means nothing beside the section's other entries.

    Raises:
        InputError: what it is for, and what may be set in its place.
    """
    if applies(section, name):
        return
    of: dict[str, tuple[Any, ...]] = _entry(section, name).metadata["of"]
    tag, allowed = next((t, a) for t, a in of.items() if section.chosen(t) not in a)
    chosen = section.chosen(tag)
    said = str(getattr(section, tag)) if chosen == OWN else _word(chosen)
    say = partial(_said, section, prefix)
    others = [
        entry.name
        for entry in fields(section)
        if (
            tag in entry.metadata["of"]
            or (isinstance(section, Tagged) and entry not in fields(section.base()))
        )
        and applies(section, entry.name)
    ]
    close = difflib.get_close_matches(name, others, n=1)
    listed = ", ".join(say(other).removeprefix(prefix) for other in others)
    takes = f"{said} takes {listed}" if others else f"{said} takes no such settings"
    meant = f"; did you mean {say(close[0])}?" if close else "; leave it out."
    raise InputError(
        f"{say(name)} must go with {f'{say(tag)} '.lstrip()}{' or '.join(map(_word, allowed))}, got it with "
        f"{said}, and {takes}{meant}"
    )


def _said(section: Any, prefix: str, name: str) -> str:
    """An entry as the command line has it in a command, as a file has it in a section."""
    if not hasattr(section, "command"):
        return f"{prefix}{name}"
    return "" if _entry(section, name).metadata.get("place") else f"--{name.replace('_', '-')}"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _entry(section: object, name: str) -> Field[Any]:
    own = {entry.name: entry for entry in fields(section)}  # type: ignore[arg-type]
    known = section.possible() if name not in own and isinstance(section, Tagged) else own
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, own, n=1)
    meant = f"did you mean {close[0]}?" if close else "leave it out."
    raise InputError(f"a section must hold {', '.join(own)}, got {name}; {meant}")


def _check_number(entry: Field[Any], value: float | int) -> None:
    least, above, below, most = (entry.metadata.get(key) for key in ("least", "above", "below", "most"))
    wrong = (
        not (isinstance(value, int) or math.isfinite(value))
        or (least is not None and value < least)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
        or (most is not None and value > most)
    )
    if wrong:
        limits = [f">= {least:g}" if least is not None else "", f"> {above:g}" if above is not None else ""]
        limits += [
            f"< {below:g}" if below is not None else "",
            f"<= {most:g}" if isinstance(most, float) else f"<= {most}" if most is not None else "",
        ]
        unit = entry.metadata.get("unit", "")
        allowed = " and ".join(limit for limit in limits if limit) or "finite"
        raise InputError(
            f"{entry.name} must be {unit}{allowed}, got {shown(value)}; leave it out for the default."
        )


def is_path(name: str) -> bool:
    """Whether ``name`` has the form of an import path.

    >>> is_path("my_package.Net"), is_path("net:Net"), is_path("two-layer"), is_path("l2:0.1")
    (True, True, False, False)
    """
    return PATH.fullmatch(name) is not None


def _check_name(entry: Field[Any], value: str) -> None:
    names, own = entry.metadata["names"], entry.metadata["own"]
    if value in names or (own and is_path(value)):
        return
    what = entry.metadata["what"] or entry.name
    close = difflib.get_close_matches(value, names, n=1)
    remedy = f"did you mean {close[0]}?" if close else "use one of these."
    path = " or an import path like my_package:Name" if own else ""
    raise InputError(f"{what} must be {', '.join(names)}{path}, got {value!r}; {remedy}")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """What is learnt from: a data set, the part of it that is used, and how its features are prepared."""

    name: str = option(
        "digits",
        f"data set: {', '.join(DATA)}, a folder of IDX files (MNIST), of CIFAR, of images or of a cache, a .npz file, or module:function "
        "for your own",
        short="data",
    )
    init_args: Arguments = option({}, "arguments of the data set's own function, as {key: value}")
    classes: tuple[int, ...] | None = option(
        None,
        "keep these classes only and number them from 0, e.g. [3,8]",
        short="classes",
        of={"name": ("digits", "a file", OWN)},
    )
    examples: int | None = option(
        None, "keep this many examples, of every class its share", short="examples", least=2
    )
    extra: str | None = option(
        None,
        "further examples for training alone, such as pseudo-labelled or generated ones: the training part of a data set "
        "named as above",
    )
    extra_share: float = option(
        0.5, "share of each batch that they are", above=0, below=1, of={"extra": ("a data set", OWN)}
    )
    features: Literal["pixels", "sphere", "centred-sphere"] = option(
        "pixels",
        "as they are, or scaled to norm sqrt(3)/2 with a constant last feature 1/2 (the paper's domain)",
    )
    flatten: bool = option(False, "one axis of features per example")
    validation: float | None = option(
        None,
        "share of the examples that selects the best weights; left out, the data's own",
        least=0,
        below=1,
        unit="a share of the examples, ",
    )
    test: float | None = option(
        None,
        "share of the examples kept for the final figures; left out, the data's own",
        least=0,
        below=1,
        unit="a share of the examples, ",
    )

    def chosen(self, tag: str) -> Any:
        if tag == "extra":
            path = self.extra is not None and ":" in self.extra and is_path(self.extra)
            return "null" if self.extra is None else OWN if path else "a data set"
        own = ":" in self.name and is_path(self.name)
        return self.name if self.name in DATA else OWN if own else "a file"


@dataclass(frozen=True, kw_only=True)
class ThreatConfig(Checked):
    """What the adversary may do to one example."""

    spec: str = option(
        "l2:0.3",
        "what an adversary may change: linf:0.1, l2:0.5, l1:3, linf:8/255, sphere:0.1",
        short="threat",
    )
    box: bool = option(True, "keep attacked examples within the data's valid box", of={"spec": ("ball", OWN)})
    fixed: tuple[int, ...] = option(
        (), "numbers of the features no adversary may change, beside the data's own, e.g. [0,5]"
    )
    allow_incompatible: bool = option(
        False,
        "train although threat sets of different labels meet: no classifier is robust on those",
        short="allow-incompatible",
    )
    init_args: Arguments = option({}, "arguments of your own threat, as {key: value}", of={"spec": (OWN,)})

    def chosen(self, tag: str) -> Any:
        word = self.spec.partition(":")[0].strip().lower()
        return "sphere" if word == "sphere" else "ball" if word in NORMS or not is_path(self.spec) else OWN


def _name(default: str, registry: Registry, what: str, own: str) -> Any:
    """The entry that says which alternative a section is."""
    says = f"{', '.join(registry)}, or my_package.module:{own}"
    return option(default, says, names=tuple(registry), what=what)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Tagged):
    """The network; the settings of each are those of its class, but for what the data say of it."""

    registry: ClassVar[Registry] = NETWORKS
    offered: ClassVar[tuple[str, ...]] = ("data", "features", "classes", "shape", "channels", "size", "seed")
    shorts: ClassVar[tuple[str, ...]] = ("width", "activation")
    name: str = _name("two-layer", NETWORKS, "network", "Net")
    linearised: bool = option(
        False,
        "train its tangent at the initial weights instead, which is linear in the weights: two to three "
        "times the work",
        short="linearised",
    )


@dataclass(frozen=True, kw_only=True)
class AttackConfig(Tagged):
    """A search of the threat set; the settings of each attack are those of its class (`Tagged.section`)."""

    registry: ClassVar[Registry] = ATTACKS
    name: str = _name("pgd", ATTACKS, "attack", "Attack")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Tagged):
    """What a step minimises; the settings of each objective are those of its class."""

    registry: ClassVar[Registry] = OBJECTIVES
    name: str = _name("robust-loss", OBJECTIVES, "objective", "objective")


@dataclass(frozen=True, kw_only=True)
class PerturbationConfig(Tagged):
    """The weights at which each step's gradient is taken."""

    registry: ClassVar[Registry] = PERTURBATIONS
    name: str = _name("none", PERTURBATIONS, "weight-perturbation", "Perturbation")


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig(Tagged):
    """How the examples of a step are varied before they are attacked."""

    registry: ClassVar[Registry] = AUGMENTATIONS
    name: str = _name("none", AUGMENTATIONS, "augmentation", "augmentation")


@dataclass(frozen=True, kw_only=True)
class AveragingConfig(Tagged):
    """The average of the weights that is used as the network."""

    registry: ClassVar[Registry] = AVERAGING
    name: str = _name("none", AVERAGING, "averaging", "Averaging")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked):
    """How the weights are found."""

    loss: str = option(
        "cross-entropy", f"{', '.join(LOSSES)}, or my_package.module:Loss", short="loss", names=tuple(LOSSES)
    )
    loss_args: Arguments = option(
        {},
        "arguments of the loss, as {key: value}",
        of={"loss": (*(name for name in LOSSES if LOSSES.settings(name)), OWN)},
    )
    epochs: int = option(30, "passes over the training part", short="epochs", least=1)
    batch_size: int | None = option(
        None,
        "examples per step; left out, all of them, or 64 where auto is adam",
        short="batch-size",
        least=1,
    )
    parameter_radius: float | None = option(
        None,
        "radius of the ball around the initial weights; left out, none: the certificate's is then the "
        "distance they moved",
        short="parameter-radius",
        above=0,
        most=LARGEST_RADIUS,
    )
    start: Literal["initial", "kernel", "interval"] = option(
        "initial",
        "where training starts: the centre of the ball, the kernel limit's solution written into the "
        "weights, or weights drawn for interval bounds",
    )
    project: bool = option(
        True, "return the weights to that ball after every step", of={"parameter_radius": ("a number",)}
    )
    optimizer: str = option(
        "auto",
        "sgd, adam, adamw, or e.g. torch.optim.RMSprop; auto: sgd for two layers, for linearised networks "
        "and with a learning rate or momentum given, else adam",
        short="optimizer",
        names=OPTIMIZERS,
    )
    optimizer_args: Arguments = option(
        {},
        "further arguments of the optimizer, as {key: value}",
        of={"optimizer": ("sgd", "adam", "adamw", OWN)},
    )
    learning_rate: float | None = option(
        None,
        "step size; left out, the inverse of the curvature measured at the start for sgd, the best of a "
        "short search where auto is adam, 0.001 for adam and its kin otherwise",
        short="learning-rate",
        above=0,
    )
    momentum: float | None = option(
        None, "momentum of sgd; left out, 0.9", least=0, below=1, of={"optimizer": ("auto", "sgd")}
    )
    weight_decay: float = option(0.0, "weight decay of the optimizer", least=0)
    schedule: Literal["constant", "cosine", "linear", "steps", "one-cycle"] = option(
        "constant", "how the learning rate changes"
    )
    warm_up: float = option(
        0.0, "share of training over which the learning rate rises from 0 first", least=0, below=1
    )
    radius_ramp: float = option(
        0.0, "share of training over which the threat's radius rises from 0 to its own", least=0, most=1.0
    )
    clip_norm: float | None = option(
        None,
        "largest length of a step's gradient; left out, any",
        above=0,
        of={"optimizer": ("auto", "sgd", "adam", "adamw")},
    )
    best_by: Literal["robust_loss", "robust_accuracy"] = option(
        "robust_loss",
        "which weights are the best on the validation part: of lowest loss or highest accuracy under attack",
    )
    closing: Literal["auto", "none", "fast", "standard"] = option(
        "auto",
        "how much of the data the finished network is attacked on: standard (all), fast (1,000 examples of either "
        "part), none; auto is standard for up to 2,000 examples or where that takes at most a third of training's passes, else "
        "samples that do",
    )
    evaluate_every: int = option(1, "epochs between evaluations on the validation part", least=1)
    kernel_examples: int | None = option(
        None,
        "training examples, e.g. 64, on which drift, alignment and eigenvalues of the tangent kernel are "
        "observed after each evaluated epoch (about a backward pass per output for each of them); left out, "
        "none",
        short="kernel-examples",
        least=2,
    )

    def chosen(self, tag: str) -> Any:
        if tag == "parameter_radius":
            return "null" if self.parameter_radius is None else "a number"
        return super().chosen(tag)


# The two sections that Python takes whole say what their entries are; of text, jsonargparse makes the types.
@takes(trace=FLAG, trace_every=maybe(whole()), tighten=whole(), radius=maybe(real()))
@dataclass(frozen=True, kw_only=True)
class CertificateSettings(Checked):
    """How the certificate of a run is recorded and tightened.

    Attributes:
        trace: record the rounds of training for the certificate.
        trace_every: epochs between recorded ones; ``None``: as often as costs at most 10 % of the time.
        tighten: evaluations spent on raising the lower bound after training.
        radius: parameter radius ``R`` to certify at; ``None``: that of training.

    >>> import holdfast as hf
    >>> hf.CertificateSettings(radius=2.5).tighten
    40
    """

    trace: bool = option(True, "record the rounds of training for the certificate")
    trace_every: int | None = option(
        None,
        "epochs between recorded ones; left out, as often as costs at most 10 % of the time",
        least=1,
        of={"trace": (True,)},
    )
    tighten: int = option(TIGHTEN, "evaluations spent on raising the lower bound after training", least=0)
    radius: float | None = option(
        None,
        "parameter radius to certify at; left out, that of training",
        above=0,
        most=LARGEST_RADIUS,
    )


@takes(accelerator=TEXT, devices=whole(), precision=word(*PRECISIONS), strategy=TEXT)
@dataclass(frozen=True, kw_only=True)
class DeviceSettings(Checked):
    """Where training runs, in the words of lightning-fabric.

    Attributes:
        accelerator: ``auto``, ``cpu``, ``cuda``, ``mps`` and others of lightning-fabric.
        devices: devices per machine.
        precision: of training, such as ``32-true`` or ``bf16-mixed``; the certificate is in float64 in any
            case.
        strategy: how several devices share the work: ``auto``, ``ddp``, ...

    >>> import holdfast as hf
    >>> hf.DeviceSettings(accelerator="cpu", precision="64-true").devices
    1
    """

    accelerator: str = option(
        "auto", ", ".join(ACCELERATORS), short="accelerator", names=ACCELERATORS, own=False
    )
    devices: int = option(1, "devices per machine", least=1)
    precision: str = option(
        "32-true",
        f"precision of training: {', '.join(PRECISIONS)}; the certificate is in float64 in any case",
        names=PRECISIONS,
        own=False,
    )
    strategy: str = option("auto", "auto, ddp, ...")


def section(
    default: Any,
    help: str,
    *,
    needed: bool = False,
    optional: bool = False,
    without: tuple[str, ...] = (),
    of: dict[str, tuple[Any, ...]] | None = None,
) -> Any:
    """A field that is a section of entries, ``without`` those that the command has no use for.

    Where it is ``needed``, its first entry must be given; where it is ``optional``, it is ``None`` unless something of
    it is given.
    """
    facts: dict[str, Any] = {
        "help": help,
        "names": (),
        "default": default,
        "without": without,
        "of": of or {},
    }
    facts |= {"needed": needed, "optional": optional}
    return field(default_factory=lambda: None if optional else default, metadata=facts)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """One training run, completely: the same file gives the same run."""

    command: ClassVar[str] = "train"

    data: DataConfig = section(DataConfig(), "data")
    threat: ThreatConfig = section(ThreatConfig(), "threat")
    network: NetworkConfig = section(NetworkConfig.section("two-layer"), "network")
    attack: AttackConfig = section(AttackConfig.section("pgd"), "attack in training")
    evaluation: AttackConfig = section(
        AttackConfig.section("pgd", steps=20), "attack after every epoch, on the validation part"
    )
    final: AttackConfig = section(
        AttackConfig.section("pgd", steps=40, restarts=2, keep_best=True), "attack on the finished network"
    )
    objective: ObjectiveConfig = section(ObjectiveConfig.section("robust-loss"), "what a step minimises")
    augmentation: AugmentationConfig = section(
        AugmentationConfig.section("none"), "augmentation of the examples in training"
    )
    weight_perturbation: PerturbationConfig = section(
        PerturbationConfig.section("none"), "weights at which gradients are taken"
    )
    averaging: AveragingConfig = section(AveragingConfig.section("none"), "average of the weights")
    training: TrainingConfig = section(TrainingConfig(), "training")
    certificate: CertificateSettings = section(CertificateSettings(), "certificate")
    device: DeviceSettings = section(DeviceSettings(), "device")
    seed: int = option(
        SEED, "seed of the split, the weights, the order and the attacks", least=0, most=LARGEST_SEED
    )
    out: str | None = option(None, "folder to write; left out, runs/DATA-THREAT")
    recipe: str | None = option(
        None,
        f"a published recipe, whose settings stand where you give none: {', '.join(RECIPES)}",
        names=tuple(RECIPES),
        own=False,
    )
    name: str | None = option(None, "name of the run in its report; left out, that of its folder")
    loggers: tuple[str, ...] = option(
        (),
        f"where the figures of each epoch go besides: {', '.join(LOGGERS)}, into the run's folder or the account's "
        "project",
        names=LOGGERS,
        own=False,
    )


def to_dict(config: object) -> dict[str, Any]:
    """The configuration as YAML can hold it: mappings, lists, numbers, text; settings that do not apply are
    left out.

    >>> to_dict(CertificateSettings())["tighten"]
    40
    """

    def plain(value: object) -> Any:
        if is_dataclass(value):
            return {
                entry.name: plain(getattr(value, entry.name))
                for entry in fields(value)
                if applies(value, entry.name)
            }
        return list(value) if isinstance(value, tuple) else value

    return {entry.name: plain(getattr(config, entry.name)) for entry in fields(config)}  # type: ignore[arg-type]


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """The configuration that these values, of the types the fields state, make up; what is left out is the
    default.

    Raises:
        InputError: a number outside its limits, or a setting that does not apply beside the others.
    """
    defaults = with_recipe(values.get("recipe"))
    sections = {key: _over(getattr(defaults, key), value, key) for key, value in values.items()}
    return replace(defaults, **sections)


def with_recipe(name: Any) -> RunConfig:
    """The defaults, with the settings of the recipe over them where one is named."""
    defaults = RunConfig()
    if not isinstance(name, str):
        return defaults
    chosen = replace(defaults, recipe=name)  # which refuses a name that is none
    return replace(
        chosen,
        **{key: with_entries(getattr(chosen, key), given, key) for key, given in RECIPES[name].items()},
    )


def _over(default: Any, value: Any, key: str) -> Any:
    """A section with these entries replaced; anything else is the value itself, of several values a tuple."""
    if not is_dataclass(default) or isinstance(default, type):
        return tuple(value) if isinstance(value, list) else value
    return with_entries(default, value, key)


def with_entries(section: Any, given: Mapping[str, Any], key: str) -> Any:
    """The section called ``key`` with these entries; others that no longer apply beside them go back to their
    plain defaults.

    Raises:
        InputError: an entry given that does not apply.
    """
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if isinstance(section, Tagged) and isinstance(name := given.get("name", section.name), str):
        _check_name(_entry(section, "name"), name)
        if (kind := section.alternative(name)) is not type(
            section
        ):  # its own defaults, and what all alternatives have
            shared = {entry.name: getattr(section, entry.name) for entry in fields(section.base())}
            section = kind(**shared | {"name": name})
        given |= _declared(section, given, key)
    values = {entry.name: getattr(section, entry.name) for entry in fields(section)} | given
    probe = object.__new__(type(section))
    vars(probe).update(values)  # its values are checked below, when it is made
    for entry in fields(section):  # first what is chosen, then what goes with it
        if entry.metadata["names"] and isinstance(values[entry.name], str):
            _check_name(entry, values[entry.name])
    for name in given:
        check_applies(probe, name, f"{key}.")
    for entry in fields(section):
        if entry.name not in given and not applies(probe, entry.name):
            values[entry.name] = plain_default(entry)
    return type(section)(**values)


def _declared(section: Tagged, given: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Those of the entries given that the class of the alternative declares, checked by its rules and as
    plain values.

    Raises:
        InputError: a value that the class refuses, or an alternative that no text can describe.
    """
    entries = {entry.name: entry for entry in fields(section) if entry.metadata["declared"]}
    for entry in entries.values():
        if plain_default(entry) is ...:
            python = section.registry[section.name].__name__
            raise InputError(
                f"{key}.name must be what text can describe, got {section.name}, which needs {entry.name}; "
                f"give it from Python, as {python}({entry.name}=...)."
            )
    found: dict[str, Any] = {}
    for name in given.keys() & entries.keys():
        value = given[name]
        if entries[name].type is AttackConfig:
            inner = value if isinstance(value, Mapping) else {"name": value}
            if not isinstance(inner.get("name", ""), str):
                raise InputError(
                    f"{key}.{name} must be an attack's name, or a section with one, got {shown(value)}; "
                    f"write pgd, or {{name: pgd, steps: 5}}."
                )
            found[name] = with_entries(getattr(section, name), inner, f"{key}.{name}")
            continue
        rule = rules_of(section.registry[section.name])[name]
        read = rule(f"{key}.{name}", value, "leave it out for the default")
        found[name] = read if isinstance(read, bool | int | float | str | tuple | None) else value
    return found
