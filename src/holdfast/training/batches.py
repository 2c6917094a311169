"""Whole epochs without replacement, split over processes without padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from holdfast._tensors import chunks, generator

EXTRA = 7_919
"""Sets the order of extra examples apart from that of the training part."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Of what a full round is made.

    Attributes:
        own: examples of the training part.
        extra: further examples beside them.
        examples: of these there are in all.
    """

    own: int
    extra: int = 0
    examples: int = 0

    def rounds(self, examples: int) -> int:
        """In an epoch, a pass over the training part of so many examples."""
        return -(-examples // self.own)

    def beside(self, own: int) -> int:
        """Further examples beside so many of the training part: a short round keeps the share, and has at least one."""
        return 0 if self.extra == 0 else max(1, round(own * self.extra / self.own))

    def smallest(self, examples: int) -> int:
        """Examples of both kinds in the last round of an epoch."""
        own = examples % self.own or self.own
        return own + self.beside(own)


@dataclass(frozen=True, kw_only=True)
class RoundShare:
    """This process's share of one round.

    Attributes:
        rows, extra: its rows of the training part, and of the extra examples.
        round_size: examples of the training part in the round, over all processes.
        total: examples of both kinds, over all processes.
    """

    rows: Tensor
    extra: Tensor
    round_size: int
    total: int


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of what is drawn in one epoch."""
    return (seed * 1_000_003 + epoch) % 2**63


def epoch_batches(
    examples: int, mix: Mix, *, seed: int, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[RoundShare]:
    """Every example of the training part exactly once, in an order fixed by ``seed`` and ``epoch`` alone (so that a
    resumed run repeats it), and beside them the next ones of the extra examples.

    The last batch may be short. No example is repeated to even out processes: a share may be one row smaller,
    or empty. One batch of all examples keeps the data's order.
    """
    if mix.own >= examples:
        order = torch.arange(examples)
    else:
        order = torch.randperm(examples, generator=generator(epoch_seed(seed, epoch)))
    parts = list(chunks(examples, mix.own))
    sizes = [mix.beside(part.stop - part.start) for part in parts]
    extra = extra_rows(mix.examples, sizes, seed=seed, first=epoch * sum(sizes))
    for part, others in zip(parts, extra, strict=True):
        rows = order[part]
        yield RoundShare(
            rows=rows[rank::processes],
            extra=others[rank::processes],
            round_size=len(rows),
            total=len(rows) + len(others),
        )


def extra_rows(examples: int, sizes: list[int], *, seed: int, first: int) -> Iterator[Tensor]:
    """As many rows of the extra examples as each of ``sizes`` says, from the ``first``-th that is drawn in a run.

    Drawn without replacement; when all are used up, they are shuffled anew.
    """
    left = torch.empty(0, dtype=torch.int64)
    turns = count(first // max(1, examples))
    skipped = first % max(1, examples)
    for size in sizes:
        while len(left) < size:
            turn = generator(epoch_seed(seed + EXTRA, next(turns)))
            left = torch.cat([left, torch.randperm(examples, generator=turn)[skipped:]])
            skipped = 0
        yield left[:size]
        left = left[size:]
