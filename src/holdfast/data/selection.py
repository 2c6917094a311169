"""Fewer examples of a data set, every class and every part keeping its share."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.data.base import Dataset, Split
from holdfast.errors import InputError

PARTS = ("train", "validation", "test")


def keep_examples(data: Dataset, count: int) -> Dataset:
    """The first examples of every class in every part, ``count`` in all, each class of each part keeping its
    share.

    Raises:
        InputError: more examples than there are.
    """
    if count > len(data.y):
        raise InputError(
            f"examples must be at most {len(data.y)}, all that the data has, got {count}; lower it."
        )
    groups = [
        rows[data.y[rows] == k].sort().values
        for rows in (getattr(data.split, part) for part in PARTS)
        for k in range(data.classes)
    ]
    total = sum(len(rows) for rows in groups)
    shares = [count * len(rows) / total for rows in groups]
    sizes = [int(share) for share in shares]
    # largest remainders, so that the sizes add up to count
    for index in sorted(range(len(groups)), key=lambda i: sizes[i] - shares[i])[: count - sum(sizes)]:
        sizes[index] += 1
    kept = torch.cat([rows[:size] for rows, size in zip(groups, sizes, strict=True)])
    return keep_rows(data, kept.sort().values)


def keep_rows(data: Dataset, rows: Int[Tensor, " kept"]) -> Dataset:
    """These rows, in this order, each in the part it was in."""
    place = torch.full((len(data.y),), -1, device=data.y.device)
    place[rows] = torch.arange(len(rows), device=data.y.device)
    parts = {part: place[getattr(data.split, part)] for part in PARTS}
    split = Split(**{part: positions[positions >= 0] for part, positions in parts.items()})
    return replace(data, x=data.x[rows], y=data.y[rows], split=split)
