"""Passes over whole parts of the data at frozen weights: validation after an epoch, the best weights at the end."""

from typing import Any

import torch
from torch import Tensor, nn

from holdfast.attacks import Attack
from holdfast.attacks.evaluate import evaluate
from holdfast.certificates import FrozenPass, attacked_points, evaluated_pass, frozen_pass
from holdfast.curvature import Curvature
from holdfast.data import Dataset
from holdfast.jobs.checkpoint import Best
from holdfast.losses import Loss
from holdfast.threats import Threat
from holdfast.trace import Evaluated
from holdfast.training import EpochRecord


def attacked_at_once(model: nn.Module) -> int:
    """Examples attacked at once: a (rows, width) array of at most 2^24 numbers."""
    return max(16, min(1024, 2**24 // max(1, getattr(model, "width", 2**14))))


def validate(
    model: nn.Module, data: Dataset, threat: Threat, attack: Attack, loss: Loss, seed: int, device: torch.device,
    best: Best, record: EpochRecord,
) -> dict[str, Any]:  # fmt: skip
    part = data.validation
    # Every example is attacked to the end, since its loss is wanted, in pieces that memory can hold.
    result = evaluate(
        model, part.x.to(device), part.y.to(device), threat, (attack,), loss=loss, drop_broken=False, seed=seed,
        batch_size=attacked_at_once(model),
    )  # fmt: skip
    robust, robust_loss = result.robust_accuracy, float(result.loss.mean())
    if (robust, -robust_loss) > (best.accuracy, -best.loss):
        best.accuracy, best.loss, best.epoch = robust, robust_loss, record.epoch
        best.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return {"clean_accuracy": result.clean_accuracy, "robust_accuracy": robust, "robust_loss": robust_loss}


def best_pass(
    model: nn.Module, best: Best, current: dict[str, Tensor], final: FrozenPass, x: Tensor, y: Tensor, threat: Threat,
    attack: Attack, loss: Loss, curvature: Curvature, seed: int, example_weights: Tensor | None,
) -> list[Evaluated]:  # fmt: skip
    """A frozen pass at the best weights, where they differ from the last: it competes for the surrogate loss."""
    if best.weights is None or all(
        torch.equal(best.weights[name], tensor) for name, tensor in current.items()
    ):
        return []
    model.load_state_dict(best.weights)
    points = attacked_points(
        model, x, y, threat, attack, loss, seed=seed + 2, batch_size=attacked_at_once(model)
    )
    passed = frozen_pass(
        model,
        final.initial,
        points,
        threat,
        loss,
        curvature,
        label="the best weights",
        example_weights=example_weights,
    )
    model.load_state_dict(current)
    return [] if passed.fault else [evaluated_pass(passed, max(passed.evaluated.distance), 0.0)]
