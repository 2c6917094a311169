"""Arrays in one ``.npz`` file, whichever of the usual names they have; read without executing anything."""

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast._arguments import BOUNDS
from holdfast._memory import require_memory
from holdfast._rules import PATH, SEED, maybe, takes
from holdfast.data._rules import CLASSES, DTYPE, FEATURE_MAP, SHARE
from holdfast.data.base import Bounds, Dataset
from holdfast.data.features import with_features
from holdfast.data.split import split_rows
from holdfast.data.tensors import from_tensors
from holdfast.errors import InputError

LARGE, INFLATION = 2**28, 200
"""An array above so many bytes must not inflate by more than this factor: images shrink by ten, noise by
less.
"""
# (training examples, training labels, test examples, test labels)
NAMES = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_x", "train_y", "test_x", "test_y"),
    ("x", "y", "", ""),
)


@takes(
    file=PATH,
    bounds=maybe(BOUNDS),
    classes=CLASSES,
    features=FEATURE_MAP,
    validation=SHARE,
    test=maybe(SHARE),
    seed=SEED,
    dtype=DTYPE,
)
def npz(
    file: str | Path,
    *,
    bounds: Bounds = None,
    classes: Sequence[int] | None = None,
    features: str = "pixels",
    validation: float = 0.15,
    test: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A data set from an ``.npz`` file.

    Its arrays are ``x, y``; or ``x_train, y_train`` and ``x_test, y_test``; or ``train_images, train_labels``
    and ``test_images, test_labels``; and ``class_names`` if present.

    Bytes (uint8) are pixels: divided by 255, with bounds (0, 1). Images with 3 channels in the last axis are
    turned to (channels, height, width).

    Args:
        file: the file.
        bounds: valid box of floating-point examples; ``None`` for that of the file's arrays ``low`` and
            ``high``, or no box.
        classes: labels to keep, renumbered ``0, 1, ..`` in this order; ``None`` for all.
        features: see `with_features`.
        validation: share of each class's training rows set aside.
        test: share set aside where the file has no test arrays (``None``: 0.15); with test arrays ``None`` or
            0.
        seed: of the split.
        dtype: torch.float32 or torch.float64.

    Raises:
        InputError: an unreadable file, none of the names above, arrays of objects, or what `from_tensors`
            refuses.

    >>> import holdfast as hf
    >>> import numpy, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     numpy.savez(f"{folder}/my.npz", x=numpy.eye(4), y=numpy.array([0, 0, 1, 1]))
    ...     len(hf.data.npz(f"{folder}/my.npz", validation=0, test=0).train)
    4
    """
    path = Path(file)
    arrays = _arrays(path)
    names = next((names for names in NAMES if names[0] in arrays and names[1] in arrays), None)
    if names is None:
        raise InputError(
            f"{str(path)!r} must hold arrays named {' or '.join(f'{n[0]}, {n[1]}' for n in NAMES)}, got "
            f"{', '.join(sorted(arrays)) or 'none'}; rename them."
        )
    images, labels = arrays[names[0]], arrays[names[1]].reshape(-1)
    own_test = names[2] in arrays and names[3] in arrays
    if own_test and test not in (None, 0):
        raise InputError(
            f"test must be None or 0 where {str(path)!r} has test arrays, got {test}; leave it out."
        )
    first_test = len(labels) if own_test else None
    if own_test and test is None:
        more = arrays[names[2]]
        if more.shape[1:] != images.shape[1:] or more.dtype != images.dtype:
            raise InputError(
                f"{names[2]} must be like {names[0]} in {str(path)!r}, got {more.dtype} {more.shape[1:]} "
                f"against {images.dtype} {images.shape[1:]}; store both alike."
            )
        for x_name, y_name in (names[:2], names[2:]):
            if len(arrays[x_name]) != len(arrays[y_name]):
                raise InputError(
                    f"{x_name} and {y_name} in {str(path)!r} must be equally long, got {len(arrays[x_name])} "
                    f"and {len(arrays[y_name])}; cut the longer one."
                )
        images, labels = (
            np.concatenate([images, more]),
            np.concatenate([labels, arrays[names[3]].reshape(-1)]),
        )
    if not (np.issubdtype(images.dtype, np.floating) or images.dtype == np.uint8):
        raise InputError(
            f"{names[0]} in {str(path)!r} must hold floating-point numbers or bytes, got {images.dtype}; "
            "convert them."
        )
    if bounds is None and "low" in arrays and "high" in arrays:
        bounds = (torch.tensor(arrays["low"], dtype=dtype), torch.tensor(arrays["high"], dtype=dtype))
    x, box = _scaled(images, bounds, dtype)
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{names[1]} in {str(path)!r} must hold integer labels, got {labels.dtype}; convert them."
        )
    y = torch.tensor(labels.astype(np.int64))
    data = from_tensors(
        x,
        y,
        box,
        classes=classes,
        class_names=tuple(str(label) for label in arrays.get("class_names", ())),
        name=path.stem,
        split=split_rows(
            y, validation=validation, test=0.15 if test is None else test, seed=seed, test_from=first_test
        ),
        dtype=dtype,
    )
    return with_features(data, features)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the names above, each once its header is found to say what the file holds and memory
    to have room for it.
    """
    wanted = {name for names in NAMES for name in names if name} | {"class_names", "low", "high"}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            chosen = {name: info for name, info in members.items() if name in wanted}
            if not chosen:
                return dict.fromkeys(members, np.empty(0))
            require_memory(
                3 * sum(_declared(archive, info, path) for info in chosen.values()),
                torch.device("cpu"),
                f"the arrays of {str(path)!r}, and two copies,",
                "keep fewer examples in it",
            )
            return {name: _array(archive, info) for name, info in chosen.items()}
    except (
        OSError,
        ValueError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
    ) as error:
        if isinstance(error, InputError):
            raise
        # numpy's own sentence for arrays of objects advises loading them with code execution.
        why = (
            "it is no archive of plain arrays"
            if "pickle" in str(error) or "zip" in str(error)
            else str(error)
        )
        raise InputError(
            f"{str(path)!r} cannot be read as .npz ({why}); store plain arrays with numpy.savez."
        ) from error


def _declared(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> int:
    """Bytes that an array takes, once its own header and the archive's agree on them.

    Raises:
        InputError: they differ, or the array inflates to far more than data do: bytes that nobody measured.
    """
    with archive.open(info) as file:
        shape, _, dtype = _header(file)
        declared = math.prod(shape) * dtype.itemsize
        held = info.file_size - file.tell()
    if declared != held and not dtype.hasobject:
        raise InputError(
            f"{str(path)!r} must hold what it declares, got {info.filename} of {declared:,} bytes in its "
            f"header and {held:,} in the archive; write it again with numpy.savez."
        )
    if held > LARGE and held > INFLATION * max(1, info.compress_size):
        raise InputError(
            f"{str(path)!r} must hold measured data, got {info.filename}, which inflates from "
            f"{info.compress_size:,} to {held:,} bytes; store it uncompressed with numpy.savez if that is "
            "meant."
        )
    return declared


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return found


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _scaled(images: np.ndarray, bounds: Bounds, dtype: torch.dtype) -> tuple[Tensor, Bounds]:
    if images.ndim == 4 and images.shape[3] == 3 and images.shape[1] != 3:
        images = images.transpose(0, 3, 1, 2)
    x = torch.tensor(np.ascontiguousarray(images))
    return (x.to(dtype).div_(255), (0.0, 1.0)) if x.dtype == torch.uint8 else (x, bounds)
