"""Data sets in files that are mapped into memory: examples are read from the disk when they are needed.

A folder holds ``examples.bin``, the numbers as they lie in memory, part after part; ``rows.safetensors``, the labels, the
parts and what else is a tensor; and ``dataset.json``, which says what they are, with their digests.
"""

import hashlib
import json
import mmap
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from holdfast._files import json_writer, part_of, tensor_writer, write_part
from holdfast._rules import PATH, SEED, maybe, takes
from holdfast._tensors import portions
from holdfast.data._rules import DTYPE, DTYPES, FEATURE_MAP, SHARE
from holdfast.data.base import Bounds, Dataset, Split
from holdfast.data.features import with_features
from holdfast.data.tensors import inside
from holdfast.errors import HoldfastError, InputError

EXAMPLES, ROWS, DESCRIPTION = "examples.bin", "rows.safetensors", "dataset.json"
VERSION = 1
PARTS = ("train", "validation", "test")
READ = 2**24
"""Bytes read at once for a digest."""
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000) if sys.platform == "linux" else 0
"""A private mapping counts as memory to be had, and one larger than that is refused, unless it says this."""


@takes(
    folder=PATH,
    features=FEATURE_MAP,
    validation=maybe(SHARE),
    test=maybe(SHARE),
    seed=SEED,
    dtype=maybe(DTYPE),
)
def mapped(
    folder: str | Path,
    *,
    features: str = "pixels",
    validation: float | None = None,
    test: float | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> Dataset:
    """The data set that `from_dataset` wrote to ``cache``; its examples stay on the disk until they are needed.

    The files are read once, and held against the digests that were taken when they were written. Changes to the tensor
    ``x`` in place stay in this process.

    Args:
        folder: the folder that was given as ``cache``.
        features: see `with_features`; another map than ``pixels`` works in memory.
        validation, test: ``None``: the parts are as they were written.
        seed: not used, for the same reason.
        dtype: ``None``, or that of the file.

    Raises:
        InputError: no such folder, one that was cut short or changed, or a part or dtype other than written.

    >>> import tempfile
    >>> import holdfast as hf
    >>> with tempfile.TemporaryDirectory() as name:
    ...     pairs = [(torch.ones(2), 0), (torch.zeros(2), 1)]
    ...     written = hf.data.from_dataset(pairs, validation=0, cache=Path(name) / "pairs")
    ...     hf.data.mapped(Path(name) / "pairs").x
    tensor([[1., 1.],
            [0., 0.]])
    """
    here = Path(folder)
    given = next(
        (part for part, share in (("validation", validation), ("test", test)) if share is not None), ""
    )
    if given:
        raise InputError(
            f"{given} must be None for {str(here)!r}, whose parts are as they were written, got a share; leave it out."
        )
    data = _opened(here, check=True)
    if dtype is not None and dtype != data.x.dtype:
        raise InputError(f"dtype must be that of {str(here)!r}, {data.x.dtype}, got {dtype}; leave it out.")
    return with_features(data, features)


def is_mapped_folder(folder: Path) -> bool:
    """Whether `from_dataset` wrote a data set here."""
    return (folder / DESCRIPTION).is_file() and (folder / EXAMPLES).is_file()


def check_new(folder: Path) -> None:
    """Refuse a folder that exists: that it holds the same data, only reading all of them again would tell.

    Raises:
        InputError: it exists.
    """
    if folder.exists():
        use = (
            f"open it with holdfast.data.load({str(folder)!r})"
            if is_mapped_folder(folder)
            else "name another"
        )
        raise InputError(
            f"cache must be a new folder, got {str(folder)!r}, which exists, and may hold other data; {use}, or "
            "remove it."
        )


class Writing:
    """A folder that is being written, beside where it will lie: it moves there whole, or is removed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.part = folder, part_of(folder, str(os.getpid()))
        self._file: File | None = None

    def __enter__(self) -> "Writing":
        with _said(self.folder):
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self.part, ignore_errors=True)

    def examples(self, shape: torch.Size, dtype: torch.dtype) -> "File":
        """Where the examples go as they are read."""
        self._file = File(self.part / "read.bin", shape, dtype, self.folder)
        return self._file

    def moved(self) -> None:
        """The folder in its place."""
        with _said(self.folder):
            if self.folder.exists():
                raise OSError("the folder has come into being meanwhile")
            os.rename(self.part, self.folder)


class File:
    """Examples of one shape, written one after another."""

    def __init__(self, path: Path, shape: torch.Size, dtype: torch.dtype, folder: Path) -> None:
        self.path, self.shape, self.dtype, self.folder = path, shape, dtype, folder
        self.count, self.sha = 0, hashlib.sha256()
        with _said(folder):
            self.file = path.open("xb")

    def add(self, example: Tensor) -> None:
        self.write(example[None])

    def write(self, rows: Tensor) -> None:
        numbers = rows.cpu().contiguous().flatten().view(torch.uint8).numpy().data
        self.sha.update(numbers)
        with _said(self.folder):
            self.file.write(numbers)
        self.count += len(rows)

    def close(self) -> None:
        if not self.file.closed:
            with _said(self.folder):
                self.file.flush()
                os.fsync(self.file.fileno())
                self.file.close()

    def finished(self) -> Tensor:
        self.close()
        return _mapping(self.path, (self.count, *self.shape), self.dtype)


def written(
    folder: Writing,
    x: Tensor,
    y: Tensor,
    box: Bounds,
    *,
    split: Split,
    name: str,
    class_names: tuple[str, ...],
) -> Dataset:
    """The rows in their final file, part after part, so that each part is one stretch of it; opened."""
    order = torch.cat([getattr(split, part) for part in PARTS])
    file = File(folder.part / EXAMPLES, x.shape[1:], x.dtype, folder.folder)
    try:
        for rows in portions(x[: len(order)]):
            file.write(inside(x[order[rows]], box, x.dtype, owned=True))
    finally:
        file.close()
    sides = (
        {}
        if box is None
        else {key: torch.as_tensor(side) for key, side in zip(("low", "high"), box, strict=True)}
    )
    rows_file = folder.part / ROWS
    counts = {part: len(getattr(split, part)) for part in PARTS}
    description = {
        "version": VERSION,
        "name": name,
        "class_names": list(class_names),
        "shape": list(x.shape[1:]),
        "dtype": next(word for word, dtype in DTYPES.items() if dtype == x.dtype),
        "byte_order": sys.byteorder,
        "parts": counts,
        "bounds": None if box is None else list(box) if not isinstance(box[0], Tensor) else "by feature",
        "digests": {EXAMPLES: file.sha.hexdigest()},
    }
    with _said(folder.folder):
        write_part(rows_file, tensor_writer({"y": y[order], **sides}))
        description["digests"][ROWS] = _digest(rows_file)  # type: ignore[index]
        description["digest"] = _digest_of(description)
        write_part(folder.part / DESCRIPTION, json_writer(description))
        (folder.part / "read.bin").unlink()
    _opened(folder.part, check=False)  # what is no data set is refused before it has its place
    folder.moved()
    return _opened(folder.folder, check=False)


def _opened(folder: Path, *, check: bool) -> Dataset:
    """Raises:
    InputError: the folder does not hold what it says.
    """
    try:
        said: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if said["digest"] != _digest_of({key: value for key, value in said.items() if key != "digest"}):
            raise ValueError(f"{DESCRIPTION} is not as it was written")
        if said["version"] != VERSION or said["byte_order"] != sys.byteorder:
            raise ValueError(f"version {said['version']}, {said['byte_order']} endian")
        for file, digest in said["digests"].items() if check else ():
            if _digest(folder / file) != digest:
                raise ValueError(f"{file} is not as it was written")
        counts = [int(said["parts"][part]) for part in PARTS]
        rows = torch.split(torch.arange(sum(counts)), counts)
        tensors = load_file(folder / ROWS)
        x = _mapping(folder / EXAMPLES, (sum(counts), *said["shape"]), DTYPES[said["dtype"]])
        bounds = said["bounds"]
        return Dataset(
            name=str(said["name"]),
            x=x,
            y=tensors["y"],
            classes=len(said["class_names"]),
            split=Split(**dict(zip(PARTS, rows, strict=True))),
            bounds=(tensors["low"], tensors["high"]) if bounds == "by feature" else bounds and tuple(bounds),
            class_names=tuple(map(str, said["class_names"])),
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        SafetensorError,
        HoldfastError,
        AttributeError,
        RuntimeError,
        RecursionError,
    ) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"{str(folder)!r} must hold a data set as from_dataset wrote it to cache, but does not "
            f"({type(error).__name__}: {why[:160]}); remove it and write it again."
        ) from error


def _mapping(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The numbers of a file as a tensor that reads them when they are needed; writes to it never reach the file."""
    size = torch.Size(shape).numel() * dtype.itemsize
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} must have {size} bytes, got {path.stat().st_size}")
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    with path.open("rb") as file:
        if sys.platform == "linux":
            flags, access = mmap.MAP_PRIVATE | NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            held = mmap.mmap(file.fileno(), size, flags=flags, prot=access)
        else:
            held = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    return torch.frombuffer(held, dtype=dtype).view(shape)


def _digest_of(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ):
            sha.update(block)
    return sha.hexdigest()


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Failures to write as one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(
            f"cache must be a folder that can be written, but writing {str(folder)!r} failed ({why}); free space or "
            "name another."
        ) from error
