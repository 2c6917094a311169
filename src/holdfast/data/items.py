"""Examples and labels one after another, from whatever holds them: data sets of torch and of Hugging Face, loaders,
iterables.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, default_collate
from torch.utils.data._utils.collate import default_convert

from holdfast._arguments import as_tensor
from holdfast._rules import Rule
from holdfast.data.base import Dataset, remedy_for
from holdfast.errors import InputError

EXAMPLE_COLUMNS, LABEL_COLUMNS = ("image", "img", "pixel_values", "x"), ("label", "labels", "y")
"""Names of columns that need not be given."""
REREAD = 8
"""Items that are read twice: a random transform that leaves one as it is hardly leaves all of them."""

Columns = Sequence[str | int]
Pair = tuple[Tensor, int]


def _read_items(value: Any) -> Any:
    if isinstance(value, type | str | bytes | Mapping | Tensor | np.ndarray | Dataset | int | float):
        raise TypeError
    if isinstance(value, list | tuple) and value and all(_is_source(item) for item in value):
        raise TypeError  # several data sets, such as (train, test)
    if not _by_index(value) and not isinstance(value, Iterable):
        raise TypeError
    return value


def _is_source(value: Any) -> bool:
    """Whether this is a data set rather than an item of one."""
    return isinstance(value, torch.utils.data.Dataset | DataLoader)


def _by_index(value: Any) -> bool:
    return (
        not isinstance(value, IterableDataset) and hasattr(value, "__getitem__") and hasattr(value, "__len__")
    )


ITEMS = Rule(
    what="a data set or a DataLoader of torch, rows of Hugging Face, or an iterable of (example, label)",
    read=_read_items,
    hint=remedy_for,
)


def is_items(value: Any) -> bool:
    """Whether `from_dataset` reads this as one part of a data set."""
    try:
        ITEMS.read(value)
    except TypeError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Source:
    """One part of a data set before it is read.

    Attributes:
        part: its name, for messages.
        items: by index, or one after another.
        columns: where an item has its example and its label; ``None`` where its own names tell.
        limit: how many items are read at most.
    """

    part: str
    items: Any
    columns: Columns | None
    limit: int | None

    @property
    def length(self) -> int | None:
        """How many items will be read; ``None`` where only reading tells."""
        if not _by_index(self.items):
            return None
        count = len(self.items)
        return count if self.limit is None else min(count, self.limit)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that the data set has for its labels (Hugging Face, torchvision); empty for none."""
        features = getattr(self.items, "features", None)
        if isinstance(features, Mapping):
            known = [name for name in LABEL_COLUMNS if name in features]
            label = self.columns[1] if self.columns is not None else known[0] if len(known) == 1 else None
            names = getattr(features.get(label), "names", None)
        else:
            names = getattr(self.items, "classes", None)
        texts = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        return tuple(names) if texts and names is not None else ()

    def pairs(self) -> Iterator[Pair]:
        """Every example with its label.

        Raises:
            InputError: an item that is no such pair, cannot be read, or is another at each reading.
        """
        again = self._again()
        for index, item in enumerate(self._read()):
            pair = self._pair(index, item)
            if index < REREAD and again is not None:
                self._check_same(index, pair, again(index))
            yield pair

    def _read(self) -> Iterator[Any]:
        if not _by_index(self.items):
            yield from self._iterated(iter(self.items))
            return
        for index in range(self.length or 0):
            yield self._at(index)

    def _iterated(self, found: Iterator[Any]) -> Iterator[Any]:
        index = 0
        while self.limit is None or index < self.limit:
            item = self._tried(index, lambda: next(found, _END))
            if item is _END:
                return
            yield item
            index += 1

    def _again(self) -> Callable[[int], Any] | None:
        """Another reading of the first items; ``None`` for what can be read only once."""
        if _by_index(self.items):
            return self._at
        first = iter(self.items)
        if first is self.items or first is iter(self.items):
            return None
        held = list(islice(self._iterated(first), REREAD))
        return lambda index: held[index] if index < len(held) else _END

    def _at(self, index: int) -> Any:
        return self._tried(index, lambda: self.items[index])

    def _tried(self, index: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as error:  # whatever a data set of others raises
            raise InputError(
                f"item {index} of {self.part} must be readable, but reading it failed ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:120]}); fix or remove it."
            ) from error

    def _check_same(self, index: int, pair: Pair, item: Any) -> None:
        other = None if item is _END else self._pair(index, item)
        if other is None or other[1] != pair[1] or not _equal(pair[0], other[0]):
            raise InputError(
                f"item {index} of {self.part} must be the same at each reading, got two different ones; remove "
                "random transforms from the data set and pass augmentation= to holdfast.train."
            )

    def _pair(self, index: int, item: Any) -> Pair:
        where = f"item {index} of {self.part}"
        columns = self.columns or (_columns(item) if isinstance(item, Mapping) else (0, 1))
        try:
            value, label = (item[column] for column in columns)
        except (TypeError, KeyError, IndexError, ValueError) as error:
            held = (
                f"columns {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
            )
            places = ", ".join(map(str, columns)) if columns else "columns whose names are known"
            raise InputError(
                f"{where} must hold an example and its label at {places}, got {held}; say "
                "where they are with columns=."
            ) from error
        example = _example(where, value)
        number = as_tensor(f"the label of {where}", label)
        if number.numel() != 1 or number.is_floating_point() or number.is_complex():
            raise InputError(
                f"the label of {where} must be one whole number, got {number.dtype} of shape "
                f"{tuple(number.shape)}; Holdfast is for classification."
            )
        return example, int(number)


_END = object()


def source(part: str, items: Any, *, columns: Columns | None, limit: int | None) -> Source:
    """The part that these items are; of a loader, its data set.

    Raises:
        InputError: a loader with a sampler or a collate function of its own, which would be passed over.
    """
    if isinstance(items, DataLoader):
        own = "sampler" if _samples(items) else "collate function" if _collates(items) else ""
        if own:
            draws = "torch.utils.data.Subset(dataset, indices) of what it draws"
            remedy = draws if own == "sampler" else "loader.dataset, whose items are what it makes of them"
            raise InputError(
                f"{part} must be a DataLoader whose data set is read in order, one item at a time, got one with a "
                f"{own} of its own, which would be passed over; give {remedy}."
            )
        items = items.dataset
    return Source(part=part, items=items, columns=columns, limit=limit)


def _samples(loader: DataLoader[Any]) -> bool:
    """Whether a loader draws anything else than every item once."""
    if isinstance(loader.dataset, IterableDataset):
        return False
    sampler = loader.sampler
    if isinstance(sampler, RandomSampler):
        return bool(sampler.replacement) or sampler.num_samples != len(loader.dataset)  # type: ignore[arg-type]
    plain = type(sampler) is SequentialSampler
    return not plain or (loader.batch_sampler is not None and not hasattr(loader.batch_sampler, "drop_last"))


def _collates(loader: DataLoader[Any]) -> bool:
    return loader.collate_fn not in (default_collate, default_convert)


def _columns(item: Mapping[Any, Any]) -> tuple[str, ...]:
    """The names of the example and the label; empty where they are not clear."""
    found = [[name for name in names if name in item] for names in (EXAMPLE_COLUMNS, LABEL_COLUMNS)]
    return tuple(names[0] for names in found) if all(len(names) == 1 for names in found) else ()


def _equal(first: Tensor, second: Tensor) -> bool:
    """The same numbers, NaN counting as one."""
    return first.shape == second.shape and bool(
        ((first == second) | ((first != first) & (second != second))).all()
    )


def _example(where: str, value: Any) -> Tensor:
    if callable(getattr(value, "convert", None)) and hasattr(value, "mode"):
        value = _pixels(where, value)
    example = as_tensor(f"the example of {where}", value).detach()
    if example.dtype == torch.uint8:
        return example.float() / 255
    if not example.is_floating_point():
        raise InputError(
            f"the example of {where} must hold floating-point numbers or bytes, got {example.dtype}; convert it."
        )
    return example


def _pixels(where: str, image: Any) -> Tensor:
    """The bytes of an image of Pillow, (channels, height, width): one channel where it is grey, else three."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise InputError(
            f"the example of {where} must be an image of bytes, got mode {image.mode}, whose range is its own; "
            "convert it to a tensor in the data set."
        )
    kept = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    values = torch.tensor(np.asarray(kept))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)
