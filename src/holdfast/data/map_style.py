"""The map-style data sets of torch, and rows of dictionaries as Hugging Face has them, as a data set."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast._arguments import BOUNDS, as_tensor
from holdfast._rules import SEED, TEXT, Rule, either, maybe, real, several, takes, whole
from holdfast.data._rules import CLASSES, DTYPE
from holdfast.data.base import Bounds, Dataset, Split
from holdfast.data.split import split_rows
from holdfast.data.tensors import from_tensors
from holdfast.errors import InputError


def _read_items(value: Any) -> Any:
    if (
        isinstance(value, type | str | bytes | Mapping | Tensor | Dataset)
        or not hasattr(value, "__getitem__")
        or not hasattr(value, "__len__")
    ):
        raise TypeError
    return value


ITEMS = Rule(
    what="a map-style data set: a length, and an (example, label) for each index",
    read=_read_items,
    hint=lambda value: "give the data set of the loader, loader.dataset" if hasattr(value, "dataset") else "",
)


@takes(
    train=ITEMS,
    test=maybe(ITEMS),
    validation=either(real(least=0, below=1), ITEMS),
    bounds=maybe(BOUNDS),
    classes=CLASSES,
    class_names=several(TEXT, least=0),
    columns=several(
        either(TEXT, whole()), least=2, what="two names or numbers: of the example and the label"
    ),
    name=TEXT,
    seed=SEED,
    dtype=DTYPE,
)
def from_dataset(
    train: Any,
    test: Any = None,
    *,
    validation: Any = 0.15,
    bounds: Bounds = (0.0, 1.0),
    classes: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    columns: Sequence[str | int] = (0, 1),
    name: str = "data",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A data set from a `torch.utils.data.Dataset` of (example, label), read into memory once.

    Random augmentations are drawn once too: leave them out. Examples are floating-point tensors of one shape;
    bytes (uint8) are pixels, divided by 255.

    Args:
        train: the training part, or all of it.
        test: the test part; ``None`` for none.
        validation: another such data set, or the share of each class's training rows set aside.
        bounds: valid box, numbers or tensors of one example's shape; ``None`` for no box.
        classes: labels to keep, renumbered ``0, 1, ..`` in this order; ``None`` for all.
        class_names: a name for every label.
        columns: where an item has its example and its label: ``("image", "label")`` for rows of Hugging Face.
        name: for reports.
        seed: of the split.
        dtype: torch.float32 or torch.float64.

    Raises:
        InputError: an item that is no such pair or cannot be read (its index is named), examples of several
            shapes, or what `from_tensors` refuses.

    >>> from torch.utils.data import TensorDataset
    >>> data = from_dataset(TensorDataset(torch.rand(8, 1, 4, 4), torch.arange(8) % 2), validation=0.25)
    >>> len(data.train), len(data.validation), data.shape
    (6, 2, (1, 4, 4))
    """
    shared = isinstance(validation, float)
    parts = {"train": train, "validation": None if shared else validation, "test": test}
    read = {part: _materialised(part, items, columns) for part, items in parts.items() if items is not None}
    shapes = {tuple(x.shape[1:]) for x, _ in read.values()}
    if len(shapes) > 1:
        raise InputError(
            f"train, validation and test must have examples of one shape, got {', '.join(map(str, shapes))}; "
            "resize them."
        )
    counts = {part: len(read[part][1]) if part in read else 0 for part in parts}
    labels = torch.cat([read[part][1] for part in read])
    first_test = len(labels) - counts["test"]
    if shared:
        split = split_rows(labels, validation=validation, seed=seed, test_from=first_test)
    else:
        rows, trained = torch.arange(len(labels)), counts["train"]
        split = Split(train=rows[:trained], validation=rows[trained:first_test], test=rows[first_test:])
    return from_tensors(
        torch.cat([read[part][0] for part in read]).to(dtype),
        labels,
        bounds,
        classes=classes,
        class_names=tuple(class_names),
        name=name,
        split=split,
        dtype=dtype,
    )


def _materialised(part: str, items: Any, columns: Sequence[str | int]) -> tuple[Tensor, Tensor]:
    if len(items) == 0:
        raise InputError(f"{part} must have at least one item, got none; leave it out.")
    pairs = [_pair(part, items, index, columns) for index in range(len(items))]
    shape = pairs[0][0].shape
    for index, (example, _) in enumerate(pairs):
        if example.shape != shape:
            raise InputError(
                f"{part} must have examples of one shape, got {tuple(example.shape)} at index {index} against "
                f"{tuple(shape)} at index 0; resize them in the data set."
            )
    return torch.stack([example for example, _ in pairs]), torch.tensor([label for _, label in pairs])


def _pair(part: str, items: Any, index: int, columns: Sequence[str | int]) -> tuple[Tensor, int]:
    where = f"item {index} of {part}"
    try:
        item = items[index]
    except Exception as error:  # whatever a data set of others raises
        raise InputError(
            f"{where} must be readable, but reading it failed ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}); fix or remove it."
        ) from error
    try:
        value, label = (item[column] for column in columns)
    except (TypeError, KeyError, IndexError, ValueError) as error:
        held = f"columns {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
        raise InputError(
            f"{where} must hold an example and its label at {', '.join(map(str, columns))}, got {held}; say "
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


def _example(where: str, value: Any) -> Tensor:
    if callable(getattr(value, "convert", None)):
        raise InputError(
            f"the example of {where} must be a tensor, got an image ({type(value).__name__}); convert it in the "
            "data set, as torchvision.transforms.ToTensor() does."
        )
    example = as_tensor(f"the example of {where}", value)
    if example.dtype == torch.uint8:
        return example.float() / 255
    if not example.is_floating_point():
        raise InputError(
            f"the example of {where} must hold floating-point numbers or bytes, got {example.dtype}; convert it."
        )
    return example
