"""Attacked examples on disk, and the check that reads them back: nothing is believed that the file itself
does not show.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from holdfast._files import Writer, tensor_writer, write_atomically
from holdfast._record import checked
from holdfast._tensors import chunks, device_of
from holdfast.attacks.base import Goal, score
from holdfast.attacks.modes import in_mode
from holdfast.errors import RunFolderError
from holdfast.evaluation.result import Evaluation, Stage
from holdfast.losses import CrossEntropy, Loss
from holdfast.threats.base import Threat

ROUNDING = 1e-4
"""Relative difference of a loss scored again: batches of another size round otherwise."""


@dataclass(frozen=True, kw_only=True)
class Recheck:
    """What the file shows when it is read back.

    Attributes:
        outside: attacked points outside their threat sets, in float64 and without tolerance.
        wrong_flags: examples whose ``robust`` flag is not what the model says of the stored point.
        wrong_losses: examples whose loss differs by more than rounding.
    """

    examples: int
    outside: int
    wrong_flags: int
    wrong_losses: int

    @property
    def sound(self) -> bool:
        return self.outside == self.wrong_flags == self.wrong_losses == 0


def save_attacked(result: Evaluation, x: Tensor, path: Path) -> None:
    """Write the evaluation with the examples it started from."""
    write_atomically(path, attacked_writer(result, x))


def attacked_writer(result: Evaluation, x: Tensor) -> Writer:
    """What `save_attacked` writes, for a path to come."""
    names = ("y", "clean", "robust", "verified", "loss", "loss_bound", "clean_loss", "broken_by")
    tensors = {name: getattr(result, name) for name in names} | {"x": x, "attacked": result.x}
    facts = {"stages": [asdict(stage) for stage in result.stages], "population": result.population}
    return tensor_writer(tensors, {"evaluation": json.dumps(facts)})


def load_attacked(path: Path) -> tuple[Evaluation, Tensor]:
    """The evaluation and its examples.

    Raises:
        RunFolderError: missing, cut short or not such a file.
    """
    try:
        with safe_open(checked(path), framework="pt") as file:
            facts = json.loads(file.metadata()["evaluation"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        x, attacked = tensors.pop("x"), tensors.pop("attacked")
        stages = tuple(Stage(**stage) for stage in facts["stages"])
        return Evaluation(**tensors, x=attacked, stages=stages, population=facts["population"]), x
    except RunFolderError:
        raise
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path} is missing; evaluate the run first with `holdfast evaluate`."
        ) from error
    except Exception as error:
        raise RunFolderError(
            f"{path} must be a whole file of attacked examples, but cannot be read "
            f"({type(error).__name__}); evaluate again."
        ) from error


def recheck(
    path: Path, model: nn.Module, threat: Threat, *, loss: Loss | None = None, batch_size: int = 256
) -> Recheck:
    """Read the file back and test every claim in it: membership, prediction, loss."""
    loss = CrossEntropy() if loss is None else loss
    result, x = load_attacked(path)
    device = device_of(model, x)
    outside = flags = losses = 0
    with in_mode(model, "eval"), torch.no_grad():
        for part in chunks(len(x), batch_size):
            points, y = result.x[part].to(device), result.y[part].to(device)
            outside += int((~threat.contains(points, x[part].to(device))).sum())
            found = score(model, points, y, Goal(loss=loss))
            flags += int((found.reached.cpu() == result.robust[part]).sum())
            again, held = found.value.cpu(), result.loss[part]
            close = (again - held).abs() <= ROUNDING * held.abs().clamp_min(1e-2)
            losses += int((~(close | (again == held))).sum())
    return Recheck(examples=len(x), outside=outside, wrong_flags=flags, wrong_losses=losses)
