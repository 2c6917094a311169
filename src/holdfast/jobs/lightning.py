"""A callback for PyTorch Lightning: robust accuracy after each validation epoch, and a diagnosis at the end."""

import importlib
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from holdfast._rules import COUNT, SEED, maybe, takes
from holdfast.attacks import ATTACK, PGD, Attack, as_attack, in_mode
from holdfast.errors import InputError
from holdfast.evaluation import evaluate
from holdfast.evaluation.cascade import drawn
from holdfast.jobs.diagnose import Diagnosis, diagnose
from holdfast.threats import THREAT, Threat, as_threat

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Both are PyTorch Lightning, each with a class of callbacks of its own."""


@takes(threat=THREAT, attack=maybe(ATTACK), examples=COUNT, every=COUNT, seed=SEED)
def lightning_callback(
    threat: Threat | str,
    *,
    attack: Attack | str | None = None,
    examples: int = 256,
    every: int = 1,
    seed: int = 0,
) -> Any:
    """A callback for a ``Trainer`` of PyTorch Lightning, whose module answers a batch of inputs with logits.

    After each validation epoch it logs ``robust_accuracy``, that of a sample of the validation data under attack. After
    training, its attribute ``diagnosis`` is what `holdfast.diagnose` says of samples of both parts.

    Args:
        threat: or text such as ``linf:0.1``, which has no box.
        attack: after each validation epoch, default ``PGD(steps=10)``.
        examples: of either part, drawn at random, the same in each epoch.
        every: epochs from one look to the next.
        seed: of the samples and of the attacks.

    Returns:
        A ``Callback`` of whichever of ``lightning`` and ``pytorch_lightning`` is imported, or else installed.

    Raises:
        InputError: neither is installed (``pip install 'holdfast[lightning]'``), or an argument is not as stated.

    >>> import holdfast as hf
    >>> hf.lightning_callback("linf:0.1", examples=64).diagnosis is None
    True
    """
    found = as_threat(threat)
    by = PGD(steps=10) if attack is None else as_attack(attack)

    class RobustAccuracy(_callbacks().Callback):  # type: ignore[misc]
        """See `holdfast.lightning_callback`."""

        diagnosis: Diagnosis | None = None

        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.sanity_checking or trainer.current_epoch % every:
                return
            x, y = sample(trainer.val_dataloaders, "validation", examples, seed)
            # Lightning validates in inference mode, in which nothing has a gradient.
            with torch.inference_mode(False), torch.enable_grad(), in_mode(pl_module, "eval"):
                result = evaluate(
                    _Forward(pl_module), x, y, found, [by], verify=None, examine=False, seed=seed
                )
            pl_module.log("robust_accuracy", result.robust_accuracy, prog_bar=True, batch_size=len(y))

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            x, y = sample(trainer.train_dataloader, "training", examples, seed)
            test = (
                sample(trainer.val_dataloaders, "validation", examples, seed)
                if trainer.val_dataloaders
                else None
            )
            with torch.inference_mode(False), torch.enable_grad(), in_mode(pl_module, "eval"):
                self.diagnosis = diagnose(_Forward(pl_module), x, y, found, attack=by, test=test, seed=seed)

    return RobustAccuracy()


class _Forward(nn.Module):
    """A module of Lightning as a plain network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        return self.module(x)


def _callbacks() -> Any:
    """The package that callbacks come from.

    Raises:
        InputError: there is none.
    """
    for package in sorted(PACKAGES, key=lambda name: name not in sys.modules):  # one in use comes first
        try:
            return importlib.import_module(package)
        except ImportError:
            continue
    raise InputError(
        "lightning_callback needs PyTorch Lightning, which is not installed; pip install 'holdfast[lightning]'."
    )


def sample(loader: Any, part: str, examples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Examples and labels of a loader's data set, drawn at random and put together as the loader does.

    Raises:
        InputError: the data set has no length or its batches are no pairs.
    """
    loaders = loader if isinstance(loader, list | tuple) else [loader]
    dataset: Any = getattr(loaders[0], "dataset", None)
    indexed = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    if len(loaders) != 1 or not indexed or not hasattr(dataset, "__len__"):
        raise InputError(
            f"the {part} data must be one DataLoader of a data set with a length, got {type(loader).__name__} of "
            f"{type(dataset).__name__}; use a map-style data set."
        )
    rows = drawn(len(dataset), examples, seed)
    rows = torch.arange(len(dataset)) if rows is None else rows
    batch = loaders[0].collate_fn([dataset[int(row)] for row in rows])
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise InputError(
            f"batches of the {part} data must be pairs of examples and labels, got {type(batch).__name__}; return "
            "(x, y) from the data set."
        )
    return batch[0], batch[1]
