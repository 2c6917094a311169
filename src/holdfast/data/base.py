"""What a data set is to everything downstream: examples, labels, the valid box, and which features may
change.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast._arguments import as_examples, as_labels
from holdfast._formats import count
from holdfast._rules import COUNT, kind
from holdfast._values import Fact, Shown
from holdfast.errors import InputError

Bounds = tuple[float, float] | tuple[Tensor, Tensor] | None


def box_facts(bounds: Bounds, fixed: Tensor | None) -> list[Fact]:
    """The valid box and the features that may not change, in a few words."""
    box = "none"
    if bounds is not None:
        low, high = (torch.as_tensor(end) for end in bounds)
        box = f"{float(low.min()):g} to {float(high.max()):g}"
        box += "" if low.numel() == high.numel() == 1 else ", set by feature"
    facts = [Fact("box", box)]
    return facts if fixed is None else [*facts, Fact("fixed features", count(int(fixed.sum())))]


@dataclass(frozen=True, kw_only=True, repr=False)
class Split(Shown):
    """Row numbers of each part; disjoint.

    Attributes:
        train: rows to train on.
        validation: rows to select weights and settings by.
        test: rows for the final figures.

    >>> import torch
    >>> import holdfast as hf
    >>> len(hf.data.split_rows(torch.tensor([0, 0, 1, 1]), validation=0, test=0.5).test)
    2
    """

    train: Int[Tensor, " train"]
    validation: Int[Tensor, " validation"]
    test: Int[Tensor, " test"]

    def _facts(self) -> list[Fact]:
        return [Fact(name, count(len(getattr(self, name)))) for name in ("train", "validation", "test")]


@dataclass(frozen=True, kw_only=True, repr=False)
class Part(Shown):
    """One part of a data set: its examples and labels.

    Attributes:
        x: examples (examples, ...).
        y: labels (examples,).

    >>> import holdfast as hf
    >>> part = hf.data.forced(dimension=2).train
    >>> part.y
    tensor([0, 0, 1])
    """

    x: Float[Tensor, "examples ..."]
    y: Int[Tensor, " examples"]

    def __len__(self) -> int:
        return len(self.y)

    def _facts(self) -> list[Fact]:
        return [Fact("examples", count(len(self))), Fact("shape", tuple(self.x.shape[1:]))]


@dataclass(frozen=True, kw_only=True, repr=False)
class Dataset(Shown):
    """Examples with labels ``0 .. classes-1``.

    Attributes:
        name: for terminals and reports.
        x: examples, in the data's own units; any shape after the first axis.
        y: labels ``0 .. classes-1``, (examples,).
        classes: number of classes.
        split: which rows train, select (validation) and test.
        bounds: the valid box as (low, high), numbers or tensors of one example's shape; ``None`` for no box.
            Every example lies in it.
        fixed: true where an adversary may not change a feature (a constant coordinate, an age); ``None`` for
            nowhere.
        class_names: names for reports, one per class.

    >>> import holdfast as hf
    >>> data = hf.data.spheres(20, dimension=3, clusters=1)
    >>> data.classes, len(data.train), tuple(data.train.x.shape)
    (2, 12, (12, 3))
    """

    name: str
    x: Float[Tensor, "examples ..."]
    y: Int[Tensor, " examples"]
    classes: int
    split: Split
    bounds: Bounds = None
    fixed: Bool[Tensor, "..."] | None = None
    class_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        labels = as_labels("y", self.y)
        if len(labels) != len(self.x):
            raise InputError(
                f"x and y must have one row and one label per example, got {len(self.x)} rows and "
                f"{len(labels)} labels; cut the longer one."
            )
        classes = COUNT("classes", self.classes)
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
            raise InputError(
                f"y must lie in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}; renumber "
                "the labels."
            )
        object.__setattr__(self, "x", as_examples("x", self.x))
        object.__setattr__(self, "y", labels)

    def _facts(self) -> list[Fact]:
        parts = (
            f"{count(len(getattr(self.split, name)))} {name}" for name in ("train", "validation", "test")
        )
        return [
            Fact("name", self.name),
            Fact("examples", ", ".join(parts)),
            Fact("shape", self.shape),
            Fact("classes", self.classes),
            *box_facts(self.bounds, self.fixed),
        ]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.x.shape[1:])

    @property
    def features(self) -> int:
        """Numbers in one example."""
        return int(torch.Size(self.shape).numel())

    def part(self, rows: Tensor) -> Part:
        """These rows: a view where they are consecutive, so that nothing is copied, else a copy."""
        if len(rows) and bool((rows.diff() == 1).all()):
            one = slice(int(rows[0]), int(rows[0]) + len(rows))
            return Part(x=self.x[one], y=self.y[one])
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


def remedy_for(value: object) -> str:
    """The call that makes a data set of what was given in its place; empty where none is near."""
    call = "holdfast.data.from_dataset"
    if isinstance(value, str | bytes | Path):
        return "holdfast.data.load(...) reads one by its name or path"
    if isinstance(value, type):
        return "make an object of the class first"
    if isinstance(value, Tensor | np.ndarray):
        return "holdfast.data.from_tensors(x, y) makes one of tensors or arrays"
    if isinstance(value, Mapping):
        splits = [repr(key) for key in value if str(key) in ("train", "test", "validation")]
        first = splits[:1] or [repr(key) for key in islice(value, 1)]
        others = ["" if key == "'test'" else f"{key.strip(chr(39))}=" for key in splits[1:]]
        given = [f"splits[{key}]" for key in first]
        given += [f"{word}splits[{key}]" for word, key in zip(others, splits[1:], strict=True)]
        given.sort(key=lambda text: "=" in text)
        return f"{call}({', '.join(given)}) makes one of its splits" if given else ""
    if (
        isinstance(value, tuple | list)
        and value
        and all(isinstance(item, Tensor | np.ndarray) for item in value)
    ):
        return "holdfast.data.from_tensors(x, y) makes one of tensors or arrays"
    kinds = (torch.utils.data.Dataset, torch.utils.data.DataLoader)
    if isinstance(value, tuple | list) and value and all(isinstance(item, kinds) for item in value):
        return f"{call}(train, test) makes one of two such parts" + (
            "" if len(value) < 3 else ", and validation= takes a third"
        )
    if isinstance(value, torch.utils.data.DataLoader):
        return f"{call}(loader) makes one of a DataLoader's data"
    if isinstance(value, torch.utils.data.IterableDataset):
        return f"{call}(train, test) makes one of a torch IterableDataset, and limit= bounds an endless one"
    if isinstance(value, torch.utils.data.Dataset) or (
        hasattr(value, "__getitem__") and hasattr(value, "__len__")
    ):
        return f"{call}(train, test) makes one of a torch or Hugging Face Dataset"
    if isinstance(value, Iterable):
        return f"{call}(iterable) makes one of (example, label) pairs, and limit= bounds an endless one"
    return ""


def _hint(value: object) -> str:
    return remedy_for(value) or (
        "holdfast.data.from_tensors(x, y) makes one, holdfast.data.load('digits') reads one"
    )


DATASET = replace(kind(Dataset, what="a holdfast Dataset"), hint=_hint)
