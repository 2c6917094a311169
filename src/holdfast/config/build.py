"""From a `RunConfig` to what `train` takes: data, threat, network, attacks, settings."""

import math
from dataclasses import dataclass, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast import _imports as imports
from holdfast import data as datasets
from holdfast._registry import LOSSES, NETWORKS
from holdfast._tensors import flatten, generator
from holdfast.attacks import Attack
from holdfast.config.schema import (
    AttackConfig,
    AugmentationConfig,
    DataConfig,
    NetworkConfig,
    ObjectiveConfig,
    RunConfig,
    Tagged,
    ThreatConfig,
    TrainingConfig,
    is_path,
    with_recipe,
)
from holdfast.data.base import Dataset
from holdfast.data.items import is_items
from holdfast.data.mapped import is_mapped_folder
from holdfast.data.selection import keep_examples
from holdfast.errors import InputError
from holdfast.losses import Loss
from holdfast.networks.linearised import Linearised
from holdfast.threats import Threat, as_threat
from holdfast.training import optimizers
from holdfast.training.augmentation import Augmentation, as_augmentation
from holdfast.training.averaging import Averaging
from holdfast.training.objectives import Objective, as_objective
from holdfast.training.perturbation import WeightPerturbation
from holdfast.training.schedules import ScheduleSettings
from holdfast.training.settings import ValidationSettings

PROBED, PROBES = 32, 4
"""Examples and directions with which a user's own threat is tried against the box and the fixed features."""
BOX_SPARE = 1e-6
"""Share of the box by which rounding may lead out of it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `holdfast.jobs.train.train` takes."""

    model: nn.Module
    data: Dataset
    threat: Threat
    options: dict[str, Any]


def build(config: RunConfig) -> Job:
    """Everything a run needs, built from its configuration, in which a recipe's settings are resolved already.

    Raises:
        InputError: a name that is not known, or values that do not fit together.
    """
    data = build_data(config.data, seed=config.seed)
    training = config.training
    return Job(
        data=data,
        threat=build_threat(config.threat, data),
        model=build_network(config.network, data, seed=config.seed),
        options={
            "attack": build_attack(config.attack),
            "validation": ValidationSettings(
                attack=build_attack(config.evaluation),
                every=training.evaluate_every,
                best_by=training.best_by,
                kernel_examples=training.kernel_examples,
            ),
            "final_attack": build_attack(config.final),
            "closing": training.closing,
            "loss": build_loss(training),
            "parameter_radius": training.parameter_radius,
            "start": training.start,
            "project": training.project,
            "epochs": training.epochs,
            "batch_size": training.batch_size,
            "optimizer": build_optimizer(training),
            "learning_rate": None if _makes_its_own(training) else training.learning_rate,
            "schedule": build_schedule(training),
            "objective": build_objective(config.objective),
            "augmentation": build_augmentation(config.augmentation),
            "weight_perturbation": build_tagged(config.weight_perturbation, WeightPerturbation),
            "averaging": build_tagged(config.averaging, Averaging),
            "extra": build_extra(config.data, seed=config.seed),
            "allow_incompatible": config.threat.allow_incompatible,
            "seed": config.seed,
            "name": config.name,
            "loggers": config.loggers,
            "device": config.device,
            "certificate": config.certificate,
        },
    )


def build_data(config: DataConfig, *, seed: int) -> Dataset:
    """The data set, the part of it asked for, and its features prepared."""
    given = {"classes": config.classes} if config.classes is not None else {}
    arguments = {**given, **config.init_args}
    shares = {"validation": config.validation, "test": config.test}
    offers = {"seed": seed} | {part: share for part, share in shares.items() if share is not None}
    if ":" in config.name and is_path(config.name):
        data = _own_data(config, arguments, offers)
    elif config.name == "spheres" and config.classes is not None:
        raise InputError(
            f"data.classes picks classes of data that has some, got {list(config.classes)} for spheres; "
            "say how many it"
            " should have with --data.init-args.classes."
        )
    else:
        data = datasets.load(config.name, **{**offers, **arguments})
    if config.examples is not None:
        data = keep_examples(data, config.examples)
    if config.flatten:
        data = _flattened(data)
    return datasets.with_features(data, config.features)


def build_extra(config: DataConfig, *, seed: int) -> datasets.Extra | None:
    """The further examples of training: the training part of a data set, prepared as the data are; all of it where it
    has no parts of its own.

    Raises:
        InputError: features that are centred, since these examples have another centre.
    """
    if config.extra is None:
        return None
    if config.features == "centred-sphere":
        raise InputError(
            "data.extra must go with features pixels or sphere, got centred-sphere, whose centre is that of the training "
            "part; choose sphere."
        )
    share = None if is_mapped_folder(Path(config.extra).expanduser()) else 0.0
    of = DataConfig(
        name=config.extra,
        classes=config.classes,
        features=config.features,
        flatten=config.flatten,
        validation=share,
        test=share,
    )
    part = build_data(of, seed=seed).train
    return datasets.Extra(part.x, part.y, share=config.extra_share)


def _own_data(config: DataConfig, arguments: dict[str, Any], offers: dict[str, Any]) -> Dataset:
    """What an import path gives; data sets of torch and of Hugging Face, loaders and iterables are converted.

    A class of data sets that has a parameter ``train``, as those of torchvision have, gives both parts.
    """
    target = imports.find(config.name)
    of_torch = isinstance(target, type) and issubclass(target, torch.utils.data.Dataset)
    if of_torch:  # which knows nothing of classes that are left out
        arguments = dict(config.init_args)
    both = of_torch and config.test is None and _has_train(target) and "train" not in arguments
    found = imports.made(config.name, target, {**arguments, "train": True} if both else arguments, offers)
    test: Any = 0.15 if config.test is None else config.test
    if both:
        test = imports.made(config.name, target, {**arguments, "train": False}, offers)
    elif isinstance(found, tuple) and len(found) == 2 and not is_items(found):
        found, test = found
    if isinstance(found, Dataset):
        return found
    if not is_items(found):
        _refuse_other(found, Dataset, config.name)
    return datasets.from_dataset(
        found,
        test,
        validation=0.15 if config.validation is None else config.validation,
        classes=config.classes if of_torch else None,
        name=config.name.rpartition(":")[2],
        seed=offers["seed"],
    )


def _has_train(target: Any) -> bool:
    parameter = signature(target).parameters.get("train")
    return parameter is not None and isinstance(parameter.default, bool)


def _flattened(data: Dataset) -> Dataset:
    def flat(values: Any) -> Any:
        return values.expand(data.shape).reshape(-1) if isinstance(values, Tensor) else values

    bounds = None if data.bounds is None else (flat(data.bounds[0]), flat(data.bounds[1]))
    return replace(data, x=flatten(data.x), bounds=bounds, fixed=flat(data.fixed))


def build_threat(config: ThreatConfig, data: Dataset) -> Threat:
    """The threat, within the data's box and leaving alone what may not change."""
    fixed = _fixed(config, data)
    bounds = data.bounds if config.box else None
    kind = config.spec.partition(":")[0]
    if kind not in ("linf", "l2", "l1", "sphere") and is_path(config.spec):
        threat: Threat = imports.call(config.spec, config.init_args, {"bounds": bounds, "fixed": fixed})
        _refuse_other(threat, Threat, config.spec)
        _check_limits(threat, config.spec, data, bounds, fixed)
        return threat
    return as_threat(config.spec, bounds=bounds, fixed=fixed)


def _check_limits(threat: Threat, path: str, data: Dataset, bounds: Any, fixed: Tensor | None) -> None:
    """Refuse a user's own threat that leaves the box or moves fixed features: what it does counts, not which
    arguments it takes.

    Looked for at drawn points of the sets and at those farthest along drawn directions, for a few examples.

    Raises:
        InputError: it ignores one of the two limits.
    """
    if bounds is None and fixed is None:
        return
    x, draw = data.x[:PROBED], generator(0)
    threat.check(x)
    points = [threat.sample(x, generator=draw)]
    for _ in range(PROBES):
        direction = torch.randn(x.shape, dtype=x.dtype, generator=draw)
        points += [threat.maximise(direction, x), threat.maximise(-direction, x)]
    if fixed is not None and any(bool(((point != x) & fixed).any()) for point in points):
        raise InputError(
            f"{path} must leave the fixed features alone, got points of its sets in which they differ "
            "(threat.fixed, or the data's own);"
            " give it a parameter `fixed`, the mask of these features, and keep them."
        )
    if bounds is not None:
        low, high = (torch.as_tensor(edge, dtype=x.dtype) for edge in bounds)
        spare = BOX_SPARE * (high - low)
        below, above = torch.minimum(low, x) - spare, torch.maximum(high, x) + spare
        if any(bool(((point < below) | (point > above)).any()) for point in points):
            raise InputError(
                f"{path} must stay within the data's valid box, got points of its sets outside; give it "
                "a parameter `bounds`, the pair"
                " (low, high), and keep to it, or set --threat.box false."
            )


def _fixed(config: ThreatConfig, data: Dataset) -> Tensor | None:
    if not config.fixed:
        return data.fixed
    if not all(0 <= feature < data.features for feature in config.fixed):
        raise InputError(
            f"threat.fixed must hold feature numbers from 0 to {data.features - 1}, got "
            f"{list(config.fixed)}; fix these."
        )
    mask = torch.zeros(data.shape, dtype=torch.bool) if data.fixed is None else data.fixed.clone()
    mask.view(-1)[list(config.fixed)] = True
    return mask


def build_network(config: NetworkConfig, data: Dataset, *, seed: int) -> nn.Module:
    """The network, its initial weights fixed by ``seed``; its tangent there where ``linearised``."""
    if config.linearised:
        return Linearised(build_network(replace(config, linearised=False), data, seed=seed))
    offers = {"features": data.features, "classes": data.classes, "shape": data.shape, "seed": seed}
    network: nn.Module
    if config.name in NETWORKS:
        target = NETWORKS[config.name]
        if "channels" in signature(target).parameters:
            offers |= _image(config.name, data, sized="size" in signature(target).parameters)
        network = imports.made(config.name, target, _declared(config), {**offers, "data": data})
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = imports.call(config.name, config.init_args, offers)  # type: ignore[attr-defined]
    _refuse_other(network, nn.Module, config.name)
    return network


def _image(name: str, data: Dataset, *, sized: bool) -> dict[str, int]:
    """Channels and size of one example as an image: as it is, or flattened and grey.

    Raises:
        InputError: it is no image, or no square one where the network needs that.
    """
    channels = data.shape[0] if len(data.shape) == 3 else 1
    size = math.isqrt(data.features // channels)
    square = channels * size * size == data.features and len(data.shape) in (1, 3)
    if not square and (sized or len(data.shape) != 3):
        raise InputError(
            f"{name} needs {'square ' if sized else ''}images, got examples of shape {data.shape}; choose "
            "--network two-layer or dense."
        )
    return {"channels": channels, "size": size}


def build_attack(config: AttackConfig) -> Attack:
    """The attack."""
    attack: Attack = build_tagged(config, Attack)
    return attack


def build_tagged(config: Tagged, kind: type) -> Any:
    """What a section of several alternatives names: the library's own with its settings, or the user's by import
    path.
    """
    if config.name in config.registry:
        return config.registry[config.name](**_declared(config))
    made = imports.call(config.name, config.init_args, {})  # type: ignore[attr-defined]
    _refuse_other(made, kind, config.name)
    return made


def _declared(config: Tagged) -> dict[str, Any]:
    """The settings that the class of the alternative declares, attacks among them built."""
    settings = {
        entry.name: getattr(config, entry.name) for entry in fields(config) if entry.metadata["declared"]
    }
    return {
        key: build_tagged(value, Attack) if isinstance(value, AttackConfig) else value
        for key, value in settings.items()
    }


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective; an import path may name a class, or a function ``(model, clean, attacked, y)``."""
    return as_objective(_built_or_function(config, Objective))


def build_augmentation(config: AugmentationConfig) -> Augmentation:
    """The augmentation; an import path may name a class, or a function ``(x, generator)``."""
    return as_augmentation(_built_or_function(config, Augmentation))


def _built_or_function(config: Tagged, kind: type) -> Any:
    if config.name in config.registry:
        return build_tagged(config, kind)
    found = imports.find(config.name)
    if isinstance(found, type):
        return imports.made(config.name, found, config.init_args, {})  # type: ignore[attr-defined]
    return found


def build_schedule(training: TrainingConfig) -> ScheduleSettings:
    """How the learning rate and the threat's radius change."""
    return ScheduleSettings(
        learning_rate=training.schedule, warm_up=training.warm_up, radius_ramp=training.radius_ramp
    )


@dataclass(frozen=True, kw_only=True)
class RecipeParts:
    """The values of the parts of training that a caller left out."""

    attack: Attack
    objective: Objective
    augmentation: Augmentation
    perturbation: WeightPerturbation
    averaging: Averaging
    schedule: ScheduleSettings
    start: str
    optimizer: optimizers.Auto | optimizers.Choice


def build_recipe(name: str | None) -> RecipeParts:
    """The parts of a recipe by name; without one, the defaults."""
    config = with_recipe(name)
    return RecipeParts(
        attack=build_attack(config.attack),
        objective=build_objective(config.objective),
        augmentation=build_augmentation(config.augmentation),
        perturbation=build_tagged(config.weight_perturbation, WeightPerturbation),
        averaging=build_tagged(config.averaging, Averaging),
        schedule=build_schedule(config.training),
        start=config.training.start,
        optimizer=build_optimizer(config.training),
    )


def build_loss(config: TrainingConfig) -> Loss:
    """The loss, with its arguments."""
    target = LOSSES[config.loss] if config.loss in LOSSES else imports.find(config.loss)
    loss: Loss = imports.made(config.loss, target, config.loss_args, {})
    _refuse_other(loss, Loss, config.loss)
    return loss


def _makes_its_own(training: TrainingConfig) -> bool:
    """Whether the optimiser is made from an import path or with arguments, its learning rate among them."""
    return is_path(training.optimizer) or bool(training.optimizer_args)


def build_optimizer(config: TrainingConfig) -> optimizers.Auto | optimizers.Choice:
    """A named optimiser with its settings, or a factory for any torch optimiser by import path."""
    if not _makes_its_own(config):
        given = {} if config.momentum is None else {"momentum": config.momentum}
        # momentum is that of sgd: to give it is to choose it
        name = "sgd" if given and config.optimizer == "auto" else config.optimizer
        return optimizers.OPTIMIZERS[name](
            weight_decay=config.weight_decay, clip_norm=config.clip_norm, **given
        )
    named = {"sgd": "torch.optim.SGD", "adam": "torch.optim.Adam", "adamw": "torch.optim.AdamW"}
    path = named.get(config.optimizer, config.optimizer)
    offers: dict[str, Any] = {"weight_decay": config.weight_decay}
    offers |= {} if config.learning_rate is None else {"lr": config.learning_rate}
    if config.optimizer == "sgd":
        offers["momentum"] = optimizers.SGD().momentum if config.momentum is None else config.momentum
    imports.find(path)

    def factory(parameters: Any) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = imports.call(
            path, {"params": parameters, **config.optimizer_args}, offers
        )
        _refuse_other(made, torch.optim.Optimizer, path)
        return made

    return factory


def _refuse_other(value: object, kind: type, path: str) -> None:
    """Refuse what an import path gave where a ``kind`` is needed."""
    if not isinstance(value, kind):
        public = "torch.nn.Module" if kind is nn.Module else kind.__name__
        raise InputError(
            f"{path} must give an object of type {public}, got {type(value).__name__}; name another."
        )
