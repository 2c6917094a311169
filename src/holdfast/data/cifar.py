"""Folders of CIFAR-10 or CIFAR-100 in the binary version, which needs no unpickling."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from holdfast._rules import FLAG, PATH, SEED, maybe, takes
from holdfast.data._rules import CLASSES, DTYPE, FEATURE_MAP, SHARE
from holdfast.data.base import Dataset
from holdfast.data.features import with_features
from holdfast.data.split import split_rows
from holdfast.data.tensors import from_tensors
from holdfast.errors import InputError

PIXELS = 3 * 32 * 32
TEN, HUNDRED = "data_batch_1.bin", "train.bin"
"""Files by which the two are known."""


@takes(
    folder=PATH,
    classes=CLASSES,
    features=FEATURE_MAP,
    coarse=FLAG,
    validation=SHARE,
    test=maybe(SHARE),
    seed=SEED,
    dtype=DTYPE,
)
def cifar(
    folder: str | Path,
    *,
    classes: Sequence[int] | None = None,
    features: str = "pixels",
    coarse: bool = False,
    validation: float = 0.1,
    test: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Colour images in [0, 1], shape (3, 32, 32), from the binary version of CIFAR-10 or CIFAR-100.

    CIFAR-10 is ``data_batch_1.bin`` and on, ``test_batch.bin`` and ``batches.meta.txt``; CIFAR-100 is
    ``train.bin``, ``test.bin`` and ``fine_label_names.txt`` (Krizhevsky 2009). Classes are called by their
    number where the file of names is missing.

    Args:
        folder: where the files lie.
        classes: labels to keep, renumbered ``0, 1, ..`` in this order; ``None`` for all.
        features: see `with_features`.
        coarse: the 20 superclasses of CIFAR-100 in place of its 100 classes.
        validation: share of each class's training images set aside; 0.1 is 5,000 of 50,000.
        test: ``None`` for the test file, 0 for no test part (it is not read then).
        seed: of the split.
        dtype: torch.float32 or torch.float64.

    Raises:
        InputError: a missing file, one cut short, or a label out of range; the message names the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("data_batch_1.bin", "test_batch.bin"):
    ...         _ = Path(folder, name).write_bytes((bytes([0] * 3073) + bytes([1] * 3073)) * 2)
    ...     cifar(folder).shape
    (3, 32, 32)
    """
    here = Path(folder)
    if not is_cifar_folder(here):
        raise InputError(
            f"folder must hold {TEN} (CIFAR-10) or {HUNDRED} (CIFAR-100), got {str(here)!r}; take the binary "
            "version."
        )
    if test not in (None, 0):
        raise InputError(
            f"test must be 0, or left out for the test file, with CIFAR folders, got {test}; leave it out."
        )
    ten = (here / TEN).is_file()
    if coarse and ten:
        raise InputError("coarse must go with CIFAR-100, got it with CIFAR-10; leave it out.")
    files = sorted(here.glob("data_batch_*.bin")) if ten else [here / HUNDRED]
    tests = [here / ("test_batch.bin" if ten else "test.bin")] if test is None else []
    bytes_before = 1 if ten else 2  # of CIFAR-100 the coarse label, then the fine one
    parts = [_rows(path, bytes_before) for path in (*files, *tests)]
    labels = torch.cat([part[:, 0 if ten or coarse else 1] for part in parts]).long()
    count = 10 if ten else 20 if coarse else 100
    if int(labels.max()) >= count:
        raise InputError(
            f"labels in {str(here)!r} must lie in 0..{count - 1}, got {int(labels.max())}; fetch the files again."
        )
    names = _names(here, "batches.meta.txt" if ten else f"{'coarse' if coarse else 'fine'}_label_names.txt")
    data = from_tensors(
        torch.cat([part[:, bytes_before:] for part in parts]).reshape(-1, 3, 32, 32).to(dtype).div_(255),
        labels,
        (0.0, 1.0),
        classes=classes,
        class_names=names if len(names) == count else (),
        name=here.resolve().name,
        split=split_rows(
            labels, validation=validation, seed=seed, test_from=sum(map(len, parts[: len(files)]))
        ),
        dtype=dtype,
    )
    return with_features(data, features)


def is_cifar_folder(folder: Path) -> bool:
    """Whether the training images of CIFAR-10 or CIFAR-100 lie here."""
    return (folder / TEN).is_file() or (folder / HUNDRED).is_file()


def _rows(path: Path, before: int) -> Tensor:
    """The bytes of one file, an image a row: so many label bytes, then red, green and blue, row by row."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror}); fetch it again.") from error
    size = before + PIXELS
    if not content or len(content) % size:
        raise InputError(
            f"{str(path)!r} must hold images of {size} bytes each, got {len(content)} bytes in all; fetch it "
            "again."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, size)


def _names(folder: Path, file: str) -> tuple[str, ...]:
    path = folder / file
    return tuple(path.read_text(encoding="utf-8").split()) if path.is_file() else ()
