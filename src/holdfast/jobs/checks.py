"""What is checked before anything is spent: the data against the threat, and threat sets against each other."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.attacks.base import checked_outputs
from holdfast.data import Dataset
from holdfast.data.separation import separation
from holdfast.errors import InputError
from holdfast.jobs.progress import Progress
from holdfast.threats import LpBall, Threat


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
    """Refuse data without training examples, not finite, with labels out of range, or outside the threat's box."""
    if len(data.train) == 0:
        raise InputError(
            f"data must have training examples, got none of {len(data.y)} in {data.name}; lower validation and test."
        )
    rows = int((~torch.isfinite(data.x.reshape(len(data.x), -1)).all(1)).sum())
    if rows:
        raise InputError(
            f"x must be finite, got NaN or infinity in {rows} of {len(data.x)} examples; remove or fill these rows."
        )
    if data.y.is_floating_point() or data.y.dtype == torch.bool or tuple(data.y.shape) != (len(data.x),):
        raise InputError(
            f"y must hold one integer label an example, got {data.y.dtype} of shape {tuple(data.y.shape)}; use y.long()."
        )
    low, high = int(data.y.min()), int(data.y.max())
    if low < 0 or high >= data.classes:
        raise InputError(f"y must lie in 0..{data.classes - 1}, got {low}..{high}; renumber the labels.")
    threat.check(data.x)


def check_model(model: nn.Module, data: Dataset) -> None:
    """Refuse a module that cannot be trained on this data, by a pass over a few examples in evaluation mode."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise InputError(
            "the model must have parameters that require gradients, got none; unfreeze those to train."
        )
    device, dtype = trained[0].device, trained[0].dtype
    if dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"the model's parameters must be float32 or float64, got {dtype}; use model.float(), and precision= for speed."
        )
    x, y = data.train.x[:8].to(device, dtype), data.train.y[:8].to(device)
    try:
        outputs = checked_outputs(model.eval(), x, y)
    except InputError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
        raise InputError(
            f"model must take a batch of shape {tuple(x.shape)}, but its forward pass failed ({why}); mend its layers, "
            "or set HOLDFAST_DEBUG=1 to see where."
        ) from error
    if outputs.shape[1] < data.classes and (data.classes, outputs.shape[1]) != (2, 1):
        raise InputError(
            f"model must return an output for each of {data.classes} classes (two classes: one will do), "
            f"got {outputs.shape[1]}; give it more outputs."
        )


def check_weights(weights: Tensor | None, examples: int) -> None:
    """Refuse example weights that are no distribution over the training examples."""
    if weights is None:
        return
    ok = tuple(weights.shape) == (examples,) and bool((weights >= 0).all())
    if not ok or abs(float(weights.double().sum()) - 1) > 1e-4:
        raise InputError(
            f"example_weights must be {examples} numbers >= 0 that add up to 1, one a training example, got shape "
            f"{tuple(weights.shape)} with sum {float(weights.double().sum()):.6g}; divide them by their sum."
        )


def check_compatible(data: Dataset, threat: Threat, *, allow: bool, progress: Progress) -> Compatibility:
    """Report, before training, pairs of differently labelled examples whose threat sets meet: no classifier holds on both.

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
            f"threat sets of different labels must not meet, but {more}{found.count} pair{'s' if found.count > 1 else ''} of training examples do under "
            f"{threat.spec} (the nearest, rows {int(rows[first])} and {int(rows[second])}, are {found.distance:.4g} apart); {remedy}, "
            "or set allow_incompatible (--allow-incompatible) to train all the same."
        )
    return Compatibility(
        compatible=found.count == 0,
        smallest_distance=found.distance,
        reach=threat.reach,
        pairs_meeting=found.count,
    )
