"""Whatever yields examples with labels as a data set: read once, into memory or into a memory-mapped file."""

import time
from array import array
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast._arguments import BOUNDS
from holdfast._memory import require_memory
from holdfast._progress import Progress
from holdfast._rules import COUNT, FLAG, PATH, SEED, TEXT, either, maybe, several, takes, whole
from holdfast.data._rules import CLASSES, DTYPE, SHARE
from holdfast.data.base import Bounds, Dataset, Split
from holdfast.data.items import ITEMS, Source, source
from holdfast.data.mapped import File, Writing, check_new, written
from holdfast.data.split import split_rows
from holdfast.data.tensors import assembled, checked_box, count_classes, keep_classes
from holdfast.errors import InputError

BLOCK = 2**24
"""Bytes of a block, where the number of examples is not known beforehand."""
TOLD = 10.0
"""Seconds between lines about how far reading has come."""


@takes(
    train=ITEMS,
    test=maybe(either(SHARE, ITEMS)),
    validation=either(SHARE, ITEMS),
    bounds=maybe(BOUNDS),
    classes=CLASSES,
    class_names=several(TEXT, least=0),
    columns=maybe(
        several(either(TEXT, whole()), least=2, what="two names or numbers: of the example and the label")
    ),
    limit=maybe(COUNT),
    cache=maybe(PATH),
    name=TEXT,
    seed=SEED,
    dtype=DTYPE,
    progress=FLAG,
)
def from_dataset(
    train: Any,
    test: Any = None,
    *,
    validation: Any = 0.15,
    bounds: Bounds = (0.0, 1.0),
    classes: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    columns: Sequence[str | int] | None = None,
    limit: int | None = None,
    cache: str | Path | None = None,
    name: str = "data",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> Dataset:
    """A data set from one of torch or Hugging Face, a ``DataLoader``, or an iterable of (example, label), read once.

    Of a ``DataLoader`` the data set is read, in order and one item at a time: its shuffling, its batches and its workers
    do not matter. Examples are floating-point tensors of one shape; bytes (uint8) and images of Pillow are pixels, divided
    by 255, channels first. Items must be the same at each reading: the first few are read twice.

    Args:
        train: the training part, or all of it.
        test: the test part: another such data set, or the share of each class set aside; ``None`` for none.
        validation: another such data set, or the share of each class's training rows set aside.
        bounds: valid box, numbers or tensors of one example's shape; ``None`` for no box.
        classes: labels to keep, renumbered ``0, 1, ..`` in this order; ``None`` for all.
        class_names: a name for every label; by default those that the data set itself has, where every one occurs.
        columns: where an item has its example and its label; by default the first and second of a pair, and of a
            dictionary ``image``, ``img``, ``pixel_values`` or ``x``, and ``label``, ``labels`` or ``y``.
        limit: items read of each part at most; an endless iterable needs it.
        cache: a new folder, into which examples are written as they come, and from which they are mapped into memory:
            for data larger than memory. `load` opens it again. ``None``: they are kept in memory.
        name: for reports.
        seed: of the split.
        dtype: torch.float32 or torch.float64.
        progress: say on the terminal how far reading has come, where it takes more than ten seconds.

    Raises:
        InputError: an item that is no such pair, cannot be read or is random (its index is named), examples of several
            shapes, a folder that exists, data larger than memory without ``cache``, or what `from_tensors` refuses.

    >>> from torch.utils.data import TensorDataset
    >>> data = from_dataset(TensorDataset(torch.rand(8, 1, 4, 4), torch.arange(8) % 2), validation=0.25)
    >>> len(data.train), len(data.validation), data.shape
    (6, 2, (1, 4, 4))
    """
    shares = {
        part: value
        for part, value in (("validation", validation), ("test", test))
        if isinstance(value, float)
    }
    parts = {"train": train, "validation": validation, "test": test}
    sources = [
        source(part, items, columns=columns, limit=limit)
        for part, items in parts.items()
        if items is not None and part not in shares
    ]
    if cache is not None:
        check_new(Path(cache))
    with Writing(Path(cache)) if cache is not None else nullcontext() as folder:
        read = _Reading(sources, classes, dtype, folder)
        read.run(Progress(enabled=progress))
        labels = torch.frombuffer(read.labels, dtype=torch.int64).clone()
        split = _split(labels, read.counts, shares, seed)
        names = tuple(class_names) or _own_names(sources[0].class_names, labels, classes)
        if classes is not None:
            _, labels, split, names = keep_classes(labels, split, names, tuple(classes))
        x = read.held.finished()
        if folder is None:
            return assembled(
                x, labels, bounds, class_names=names, name=name, split=split, dtype=dtype, owned=True
            )
        count = count_classes(labels, names)
        return written(
            folder,
            x,
            labels,
            checked_box(bounds, x),
            split=split,
            name=name,
            class_names=names or tuple(str(label) for label in range(count)),
        )


def _split(labels: Tensor, counts: dict[str, int], shares: dict[str, float], seed: int) -> Split:
    """Rows were read in the order train, validation, test."""
    rows, first_test = torch.arange(len(labels)), len(labels) - counts.get("test", 0)
    if "validation" in shares:
        own_test = None if "test" in shares else first_test
        test = shares.get("test", 0.0)
        return split_rows(labels, validation=shares["validation"], test=test, seed=seed, test_from=own_test)
    trained = counts["train"]
    if "test" in shares:
        drawn = split_rows(labels[:trained], validation=0.0, test=shares["test"], seed=seed)
        return Split(train=drawn.train, validation=rows[trained:], test=drawn.test)
    return Split(train=rows[:trained], validation=rows[trained:first_test], test=rows[first_test:])


def _own_names(names: tuple[str, ...], labels: Tensor, classes: Sequence[int] | None) -> tuple[str, ...]:
    """The names that a data set has of its own, where each belongs to a label that occurs or is asked for."""
    wanted = range(len(names)) if classes is None else classes
    present = set(torch.unique(labels).tolist())
    fit = bool(names) and present <= set(range(len(names))) and set(wanted) <= present
    return names if fit else ()


class _Reading:
    """All parts, read one after another.

    Attributes:
        labels: of all items read, those of classes that are not kept among them.
        counts: items of each part.
        held: the examples that are kept.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        classes: Sequence[int] | None,
        dtype: torch.dtype,
        folder: Writing | None,
    ) -> None:
        self.sources, self.classes, self.dtype, self.folder = sources, classes, dtype, folder
        lengths = [one.length for one in sources]
        self.expected = None if None in lengths else sum(length or 0 for length in lengths)
        self.labels, self.counts = array("q"), dict[str, int]()
        self.shapes: dict[str, torch.Size] = {}
        self.held: File | _Memory

    def run(self, progress: Progress) -> None:
        told = time.perf_counter()
        for one in self.sources:
            count = 0
            for example, label in one.pairs():
                self._check_shape(one.part, count, example)
                if self.classes is None or label in self.classes:
                    self.held.add(example.to(self.dtype))
                self.labels.append(label)
                count += 1
                if time.perf_counter() - told > TOLD:
                    of = "" if one.length is None else f" of {one.length:,}"
                    progress.say(f"reading {one.part}: {count:,}{of} examples")
                    told = time.perf_counter()
            if count == 0:
                raise InputError(f"{one.part} must have at least one item, got none; leave it out.")
            self.counts[one.part] = count

    def _check_shape(self, part: str, index: int, example: Tensor) -> None:
        if not self.shapes:
            self.held = self._start(example.shape)
        shape = self.shapes.setdefault(part, example.shape)
        if example.shape != shape:
            raise InputError(
                f"{part} must have examples of one shape, got {tuple(example.shape)} at index {index} against "
                f"{tuple(shape)} at index 0; resize them in the data set."
            )
        if len(set(self.shapes.values())) > 1:
            raise InputError(
                "train, validation and test must have examples of one shape, got "
                f"{', '.join(str(tuple(shape)) for shape in self.shapes.values())}; resize them."
            )

    def _start(self, shape: torch.Size) -> "File | _Memory":
        if self.folder is not None:
            return self.folder.examples(shape, self.dtype)
        return _Memory(shape, self.dtype, self.expected)


class _Memory:
    """Examples in one tensor of the right size, or in blocks that become one, each let go as it is copied."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype, expected: int | None) -> None:
        self.shape, self.dtype, self.count = shape, dtype, 0
        self.bytes = max(1, shape.numel() * dtype.itemsize)
        self.rows = max(1, BLOCK // self.bytes) if expected is None else expected
        self.blocks: list[Tensor] = []

    def add(self, example: Tensor) -> None:
        place = self.count % self.rows
        if place == 0:
            require_memory(
                self.rows * self.bytes,
                torch.device("cpu"),
                f"{self.count + self.rows:,} examples",
                "pass cache= to keep them in a file, or limit= to read fewer",
            )
            self.blocks.append(torch.empty((self.rows, *self.shape), dtype=self.dtype))
        self.blocks[-1][place] = example
        self.count += 1

    def finished(self) -> Tensor:
        if len(self.blocks) == 1:
            return self.blocks.pop()[: self.count]
        whole, done = torch.empty((self.count, *self.shape), dtype=self.dtype), 0
        while self.blocks:
            block = self.blocks.pop(0)[: self.count - done]
            whole[done : done + len(block)] = block
            done += len(block)
        return whole
