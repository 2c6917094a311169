"""What is checked before anything is spent: the data against the threat, and threat sets against each
other.
"""

from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from itertools import count

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from holdfast._memory import free_bytes, out_of_memory
from holdfast._progress import Progress
from holdfast._tensors import applied
from holdfast.attacks import in_mode
from holdfast.attacks.base import checked_model
from holdfast.certificates.frozen import in_float64
from holdfast.data import Dataset, Extra
from holdfast.data.separation import separation
from holdfast.data.tensors import checked_box
from holdfast.errors import InputError
from holdfast.threats import LpBall, Threat
from holdfast.training.loop import mixed
from holdfast.training.optimizers import Auto, Named


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """Whether threat sets of different labels stay apart.

    ``compatible`` is ``None`` for threats whose sets were not compared (no exact test is known for them).
    """

    compatible: bool | None
    smallest_distance: float
    reach: float
    pairs_meeting: int


def check_data(data: Dataset, threat: Threat) -> None:
    """Refuse data without training examples, or outside the threat's box; the rest `Dataset` has refused."""
    if len(data.split.train) == 0:
        raise InputError(
            f"data must have training examples, got none of {len(data.y)} in {data.name}; lower "
            "validation and test."
        )
    threat.check(data.x)


def check_extra(extra: Extra, data: Dataset, threat: Threat, batch_size: int) -> None:
    """Refuse extra examples that are not like the data, and batches without an example of either kind.

    Raises:
        InputError: what was wrong, and the remedy.
    """
    if extra.x.shape[1:] != data.x.shape[1:]:
        raise InputError(
            f"extra examples must have the shape of the data's, {data.shape}, got {tuple(extra.x.shape[1:])}; reshape "
            "them."
        )
    low, high = int(extra.y.min()), int(extra.y.max())
    if low < 0 or high >= data.classes:
        raise InputError(
            f"labels of extra examples must lie in 0..{data.classes - 1}, as those of the data do, got {low}..{high}; "
            "renumber them, and label what has no label."
        )
    try:
        checked_box(data.bounds, extra.x)
        threat.check(extra.x)
    except InputError as error:
        raise InputError(f"extra examples must be as the data are, but of them: {error}") from error
    mix = mixed(batch_size, extra)
    if not (mix.own and mix.extra):
        least = next(size for size in count(2) if 0 < extra.of_batch(size) < size)
        kind = "of the training part" if mix.extra else "that is extra"
        raise InputError(
            f"batch_size must leave room for both kinds of examples, got {batch_size} at an extra share of "
            f"{extra.share:g}, with none {kind}; choose at least {least}."
        )


def check_model(model: nn.Module, data: Dataset) -> None:
    """Refuse a module that cannot be trained on this data, by a pass over a few examples in evaluation
    mode.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise InputError(
            "the model must have parameters that require gradients, got none; unfreeze those to train."
        )
    device, dtype = trained[0].device, trained[0].dtype
    if dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"the model's parameters must be float32 or float64, got {dtype}; use model.float(), and "
            "precision= for speed."
        )
    few = data.part(data.split.train[:4]).x.to(device, dtype)
    outputs = checked_model(model, few, data.y[data.split.train].to(device))
    _check_trains(model, few)
    in_float64(model, few)  # as the final pass will
    if outputs.shape[1] < data.classes and (data.classes, outputs.shape[1]) != (2, 1):
        raise InputError(
            f"model must return an output for each of {data.classes} classes (two classes: one will do), "
            f"got {outputs.shape[1]}; give it more outputs."
        )


def _check_trains(model: nn.Module, x: Float[Tensor, "batch ..."]) -> None:
    """Refuse a model whose outputs carry no gradient to any trained parameter.

    Raises:
        InputError: it has none.
    """
    devices = [x.device] if x.is_cuda else []
    with in_mode(model, "eval"), torch.random.fork_rng(devices), torch.enable_grad():
        outputs = applied(model, x)
    if not outputs.requires_grad:
        raise InputError(
            "the model's outputs must depend on its trained parameters, got outputs without a gradient; remove "
            "no_grad, detach and the like from its forward pass."
        )


def check_together(optimizer: object, learning_rate: float | None) -> None:
    """Refuse a learning rate beside an optimiser that has its own.

    Raises:
        InputError: there is one.
    """
    if learning_rate is not None and not isinstance(optimizer, Auto | Named):
        raise InputError(
            "learning_rate is for the optimizer sgd, adam or adamw, got it with a function that makes an "
            "optimiser; set it there."
        )


def check_batches(model: nn.Module, data: Dataset, batch_size: int, extra: Extra | None = None) -> None:
    """Refuse batches that the model cannot be trained on: batch norm has no variance to divide by where a
    batch is of one example.

    A pass of a copy in training mode over as many examples as the smallest batch has; the global random state
    is left alone.

    Raises:
        InputError: the pass failed.
    """
    examples = len(data.split.train)
    smallest = mixed(batch_size, extra).smallest(examples)
    if not any(isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm) for module in model.modules()):
        return
    first = next(model.parameters())
    x = data.part(data.split.train[:smallest]).x.to(first.device, first.dtype)
    devices = [first.device] if first.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            deepcopy(model).train()(x)
    except (ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise InputError(
            f"the model must take every batch in training mode, but fails on the last one, of {smallest} of "
            f"{examples} examples ({' '.join(str(error).split()).rstrip('.')}); choose a batch_size that "
            f"leaves more, such as {_better(examples, batch_size)}."
        ) from error


def check_memory(model: nn.Module, data: Dataset, batch_size: int) -> None:
    """Refuse batches whose pass does not fit into memory: a system that runs out of it ends the process.

    What a pass keeps for its gradient is measured at two and at four examples, and taken to grow in proportion.

    Raises:
        InputError: with the largest batch that fits.
    """
    first = next(model.parameters())
    free, few = free_bytes(first.device), data.train.x[:4].to(first.device, first.dtype)
    if free is None or len(few) < 4:
        return
    each = (_kept_bytes(model, few) - _kept_bytes(model, few[:2])) / 2
    most = int(free / max(each, 1.0))
    if batch_size > most:
        raise InputError(
            f"a batch must fit into memory, which holds {most:,} examples at about {each / 2**20:.3g} MiB each "
            f"({free / 2**30:.3g} GiB are free), got {batch_size:,}; choose a batch_size of at most {most // 2:,}."
        )


def _kept_bytes(model: nn.Module, x: Float[Tensor, "batch ..."]) -> int:
    """What the gradient of a pass needs kept."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        with suppress(RuntimeError):  # a tensor that only stands for one under a transform of torch.func
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    devices = [x.device] if x.is_cuda else []
    with (
        in_mode(model, "eval"),
        torch.random.fork_rng(devices),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        applied(model, x.clone().requires_grad_())
    return sum(kept.values())


def _better(examples: int, batch_size: int) -> int:
    """The next batch size that leaves at least two examples for the last batch."""
    larger = range(batch_size + 1, examples + 1)
    return next((size for size in larger if examples % size != 1 and size > 1), examples)


def check_compatible(data: Dataset, threat: Threat, *, allow: bool, progress: Progress) -> Compatibility:
    """Report, before training, pairs of differently labelled examples whose threat sets meet: no classifier
    holds on both.

    Raises:
        InputError: there are such pairs among the training examples and ``allow`` is false.
    """
    if not isinstance(threat, LpBall):
        return Compatibility(
            compatible=None, smallest_distance=float("nan"), reach=threat.reach, pairs_meeting=0
        )
    part = data.train
    with progress.counted("comparing threat sets of different labels") as report:
        found = separation(
            part.x, part.y, norm=threat.norm, radius=float(threat.radius), fixed=threat.fixed, progress=report
        )
    if found.count and not allow:
        first, second = (int(row) for row in found.pairs[0])
        more = "" if found.complete else "at least "
        rows = data.split.train
        remedy = (
            f"use a radius below {found.largest_compatible_radius:.4g}"
            if found.largest_compatible_radius > 0
            else "remove one of each pair"
        )
        raise InputError(
            f"threat sets of different labels must not meet, but {more}{found.count} "
            f"pair{'s' if found.count > 1 else ''} of training examples do under {threat.spec} (the nearest, "
            f"rows {int(rows[first])} and {int(rows[second])}, are {found.distance:.4g} apart); {remedy}, or "
            "set allow_incompatible (--allow-incompatible) to train all the same."
        )
    return Compatibility(
        compatible=found.count == 0,
        smallest_distance=found.distance,
        reach=threat.reach,
        pairs_meeting=found.count,
    )
