"""Training, validation and test rows: stratified by class, and a function of the seed alone."""

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast._arguments import LABELS
from holdfast._rules import SEED, maybe, real, takes, whole
from holdfast._tensors import generator
from holdfast.data.base import Split
from holdfast.errors import InputError


@takes(
    y=LABELS,
    validation=real(least=0, below=1),
    test=real(least=0, below=1),
    seed=SEED,
    test_from=maybe(whole(least=0)),
)
def split_rows(
    y: Int[Tensor, " examples"],
    *,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    test_from: int | None = None,
) -> Split:
    """Row numbers of each part, ascending; each class gives its share.

    Shares are rounded, and every class keeps at least one row for training.

    Args:
        y: labels ``0 .. classes-1``, (examples,).
        validation: share of each class's training rows set aside to select weights by, in [0, 1).
        test: share of each class set aside for the final figures, in [0, 1).
        seed: of the shuffle.
        test_from: rows from this number on are the test part as it came (``test`` is then not used).

    Raises:
        InputError: a share outside [0, 1), or both adding up to 1 or more.

    >>> import torch
    >>> import holdfast as hf
    >>> split = hf.data.split_rows(torch.tensor([0, 0, 1, 1]), validation=0, test=0.5)
    >>> len(split.train), len(split.test)
    (2, 2)
    """
    if test_from is None and validation + test >= 1.0:
        raise InputError(
            f"validation + test must be below 1, got {validation} + {test}; leave some rows to train on."
        )
    random = generator(seed)
    labels = y.cpu() if test_from is None else y[:test_from].cpu()
    parts: dict[str, list[Tensor]] = {"train": [], "validation": [], "test": []}
    for label in torch.unique(labels):
        rows = (labels == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=random)]
        tested = 0 if test_from is not None else min(round(test * len(rows)), len(rows) - 1)
        selected = min(round(validation * len(rows)), len(rows) - 1 - tested)
        sizes = [tested, selected, len(rows) - tested - selected]
        for name, part in zip(("test", "validation", "train"), rows.split(sizes), strict=True):
            parts[name].append(part)
    if test_from is not None:
        parts["test"].append(torch.arange(test_from, len(y)))
    empty = torch.empty(0, dtype=torch.long)
    joined = {name: torch.cat([empty, *rows]).sort().values.to(y.device) for name, rows in parts.items()}
    return Split(train=joined["train"], validation=joined["validation"], test=joined["test"])
