"""Anybody's arrays as a data set, checked once so that nothing downstream has to."""

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast._arguments import BOUNDS, EXAMPLES, LABELS, TENSOR, Array, as_examples, as_labels, as_tensor
from holdfast._rules import SEED, TEXT, kind, maybe, several, takes, whole
from holdfast._tensors import portions
from holdfast.data._rules import DTYPE, SHARE
from holdfast.data.base import Bounds, Dataset, Split
from holdfast.data.split import split_rows
from holdfast.errors import InputError


@takes(
    x=EXAMPLES,
    y=LABELS,
    bounds=maybe(BOUNDS),
    fixed=maybe(TENSOR),
    classes=maybe(several(whole())),
    class_names=several(TEXT, least=0),
    name=TEXT,
    validation=SHARE,
    test=SHARE,
    seed=SEED,
    split=maybe(kind(Split, what="a Split", hint="split_rows makes one")),
    dtype=DTYPE,
)
def from_tensors(
    x: Array,
    y: Array,
    bounds: Bounds | tuple[Array, Array] = None,
    *,
    fixed: Array | None = None,
    classes: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    name: str = "data",
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    split: Split | None = None,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A data set from tensors or numpy arrays.

    Args:
        x: examples, floating and finite, any shape after the first axis; in the data's own units.
        y: integer labels ``0 .. C-1``, each class with at least one example.
        bounds: valid box (low, high), numbers or arrays of one example's shape; ``None`` for no box.
        fixed: true where an adversary may not change a feature; shape of one example.
        classes: keep these labels only and renumber them ``0, 1, ..`` in this order.
        class_names: a name for every label of ``y``; by default the labels themselves.
        name: of the data set, for reports.
        validation, test, seed: see `split_rows`; unused where ``split`` is given.
        split: row numbers (of ``x`` as given) of each part.
        dtype: of the examples, float32 or float64.

    Raises:
        InputError: anything else than the above; the message names the argument and the remedy.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.rand(10, 2), torch.arange(10) % 2
    >>> data = hf.data.from_tensors(x, y, bounds=(0, 1), test=0.2)
    >>> len(data.test), data.bounds
    (2, (0.0, 1.0))
    """
    examples, labels = as_examples("x", x).detach(), as_labels("y", y).detach()
    if len(examples) != len(labels):
        raise InputError(
            f"x and y must have one row and one label per example, got {len(examples)} rows and "
            f"{len(labels)} labels; cut the longer one."
        )
    split = _checked_split(split, len(labels)) or split_rows(
        labels, validation=validation, test=test, seed=seed
    )
    names, owned = tuple(class_names), classes is not None
    if classes is not None:
        kept, labels, split, names = keep_classes(labels, split, names, tuple(classes))
        examples = examples[kept]
    return assembled(
        examples,
        labels,
        bounds,
        fixed=fixed,
        class_names=names,
        name=name,
        split=split,
        dtype=dtype,
        owned=owned,
    )


def assembled(
    x: Tensor,
    y: Tensor,
    bounds: Bounds | tuple[Array, Array],
    *,
    split: Split,
    name: str,
    dtype: torch.dtype,
    fixed: Array | None = None,
    class_names: tuple[str, ...] = (),
    owned: bool = False,
) -> Dataset:
    """The data set of these rows, checked.

    ``owned``: nobody else holds ``x``, which may be changed in place.
    """
    classes = count_classes(y, class_names)
    box = checked_box(bounds, x)
    return Dataset(
        name=name,
        x=inside(x, box, dtype, owned=owned),
        y=y,
        classes=classes,
        split=split,
        bounds=box,
        fixed=None if fixed is None else _mask(fixed, x),
        class_names=class_names or tuple(str(label) for label in range(classes)),
    )


def _checked_split(split: Split | None, rows: int) -> Split | None:
    if split is None:
        return None
    used = torch.cat([split.train, split.validation, split.test])
    if len(used) and not (
        int(used.min()) >= 0 and int(used.max()) < rows and len(torch.unique(used)) == len(used)
    ):
        raise InputError(
            f"split must name each of the rows 0..{rows - 1} at most once, got a repeated or foreign row; "
            "rebuild it with split_rows."
        )
    return split


def keep_classes(
    y: Tensor, split: Split, names: tuple[str, ...], classes: tuple[int, ...]
) -> tuple[Tensor, Tensor, Split, tuple[str, ...]]:
    """Which rows are of these classes; their labels, renumbered; the row numbers of the split, following; the names."""
    present = torch.unique(y).tolist()
    missing = [label for label in classes if label not in present]
    if missing or len(set(classes)) != len(classes):
        raise InputError(
            f"classes must be different labels among {present}, got {list(classes)}; leave it out to keep "
            "all of them."
        )
    wanted = torch.tensor(classes, device=y.device)
    match = y[:, None] == wanted
    kept = match.any(1)
    renumber = kept.cumsum(0) - 1

    def rows(part: Tensor) -> Tensor:
        return renumber[part[kept[part]]]

    parts = Split(train=rows(split.train), validation=rows(split.validation), test=rows(split.test))
    labels = match[kept].long().argmax(1)
    return kept, labels, parts, tuple(names[c] if names else str(c) for c in classes)


def count_classes(y: Tensor, names: tuple[str, ...]) -> int:
    """The number of classes, every one of them present."""
    low, high = int(y.min()), int(y.max())
    count = len(names) or high + 1
    if low < 0 or high >= count:
        wrong = torch.unique(y[(y < 0) | (y >= count)]).tolist()
        raise InputError(
            f"y must hold labels 0..{count - 1}, got {wrong[:5]}; renumber the labels or name every class."
        )
    if count < 2:
        raise InputError(
            f"y must hold at least 2 classes, got only label {low}; add examples of another class."
        )
    absent = (torch.bincount(y, minlength=count) == 0).nonzero()[:, 0].tolist()
    if absent:
        raise InputError(
            f"y must hold every label 0..{count - 1}, got none of {absent[:5]}; renumber the labels "
            "or pass classes= to keep some of them."
        )
    return count


def checked_box(bounds: Bounds | tuple[Array, Array], x: Tensor) -> Bounds:
    if bounds is None:
        return None
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise InputError(
            f"bounds must be a pair (low, high) or None, got {bounds!r}; pixels have (0.0, 1.0)."
        )
    low, high = (as_tensor("bounds", side).to(x.device, torch.float64) for side in bounds)
    for side in (low, high):
        if side.ndim and side.shape != x.shape[1:]:
            raise InputError(
                f"bounds must be numbers or have the shape of one example, {tuple(x.shape[1:])}, got "
                f"{tuple(side.shape)}; reshape them."
            )
    if not bool((low <= high).all()):
        raise InputError(
            "bounds must have low <= high everywhere, got a low end above its high end or NaN; swap them."
        )
    outside = sum(
        int(((x[rows] < low.to(x.dtype)) | (x[rows] > high.to(x.dtype))).sum()) for rows in portions(x)
    )
    if outside:
        raise InputError(
            f"x must lie in bounds, got {outside} of {x.numel()} values outside (x runs from "
            f"{float(x.min()):g} to {float(x.max()):g}); rescale x or widen the bounds."
        )
    if low.ndim == 0 and high.ndim == 0:
        return float(low), float(high)
    return low.expand(x.shape[1:]).clone(), high.expand(x.shape[1:]).clone()


def inside(x: Tensor, box: Bounds, dtype: torch.dtype, *, owned: bool = False) -> Tensor:
    """``x`` in ``dtype``; where rounding left the box (0.1 in float32 is above 0.1), the neighbour inside
    it. In place where ``owned``.
    """
    owned, x = owned or x.dtype != dtype, x.to(dtype)
    if box is None:
        return x
    low, high = (torch.as_tensor(side, dtype=torch.float64, device=x.device) for side in box)
    floor, ceiling = low.to(dtype), high.to(dtype)
    floor = torch.where(floor < low, floor.nextafter(torch.full_like(floor, torch.inf)), floor)
    ceiling = torch.where(ceiling > high, ceiling.nextafter(torch.full_like(ceiling, -torch.inf)), ceiling)
    return x.clamp_(floor, ceiling) if owned else x.clamp(floor, ceiling)


def _mask(fixed: Array, x: Tensor) -> Tensor:
    mask = as_tensor("fixed", fixed).to(x.device)
    if mask.dtype != torch.bool or mask.shape != x.shape[1:]:
        raise InputError(
            f"fixed must be true or false for each feature, shape {tuple(x.shape[1:])}, got {mask.dtype} of "
            f"shape {tuple(mask.shape)}; build it with torch.zeros(..., dtype=torch.bool)."
        )
    return mask
