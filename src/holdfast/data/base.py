"""What a data set is to everything downstream: examples, labels, the valid box, and which features may change."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Bounds = tuple[float, float] | tuple[Tensor, Tensor] | None


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row numbers of each part; disjoint."""

    train: Int[Tensor, " train"]
    validation: Int[Tensor, " validation"]
    test: Int[Tensor, " test"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a data set: the rows themselves."""

    x: Float[Tensor, "examples ..."]
    y: Int[Tensor, " examples"]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Examples with labels ``0 .. classes-1``.

    Attributes:
        x: examples, in the data's own units; any shape after the first axis.
        bounds: the valid box as (low, high), numbers or tensors of one example's shape; ``None`` for no box. Every example lies in it.
        fixed: true where an adversary may not change a feature (a constant coordinate, an age); ``None`` for nowhere.
        split: which rows train, select (validation) and test.
        class_names: names for reports, one a class.
    """

    name: str
    x: Float[Tensor, "examples ..."]
    y: Int[Tensor, " examples"]
    classes: int
    split: Split
    bounds: Bounds = None
    fixed: Bool[Tensor, "..."] | None = None
    class_names: tuple[str, ...] = field(default=())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.x.shape[1:])

    @property
    def features(self) -> int:
        """Numbers in one example."""
        return int(torch.Size(self.shape).numel())

    def part(self, rows: Tensor) -> Part:
        return Part(x=self.x[rows], y=self.y[rows])

    @property
    def train(self) -> Part:
        return self.part(self.split.train)

    @property
    def validation(self) -> Part:
        return self.part(self.split.validation)

    @property
    def test(self) -> Part:
        return self.part(self.split.test)
