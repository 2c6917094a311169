"""Whole epochs without replacement, split over processes without padding."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast._tensors import chunks, generator


@dataclass(frozen=True, kw_only=True)
class RoundShare:
    """This process's share of one round: its rows, and how many examples the round has over all processes."""

    rows: Tensor
    round_size: int


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of what is drawn in one epoch."""
    return (seed * 1_000_003 + epoch) % 2**63


def epoch_batches(
    examples: int, batch_size: int, *, seed: int, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[RoundShare]:
    """Every example exactly once, in an order fixed by ``seed`` and ``epoch`` alone (so that a resumed run
    repeats it).

    The last batch may be short. No example is repeated to even out processes: a share may be one row smaller,
    or empty. One batch of all examples keeps the data's order.
    """
    if batch_size >= examples:
        order = torch.arange(examples)
    else:
        order = torch.randperm(examples, generator=generator(epoch_seed(seed, epoch)))
    for part in chunks(examples, batch_size):
        rows = order[part]
        yield RoundShare(rows=rows[rank::processes], round_size=len(rows))
