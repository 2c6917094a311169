"""Folders of IDX files, the format MNIST and its kin come in; plain or gzipped."""

import gzip
import struct
import zlib
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

IMAGES, LABELS = 2051, 2049  # magic numbers: bytes, three axes and one


@takes(
    folder=PATH,
    classes=CLASSES,
    features=FEATURE_MAP,
    flatten=FLAG,
    validation=SHARE,
    test=maybe(SHARE),
    seed=SEED,
    dtype=DTYPE,
)
def idx(
    folder: str | Path,
    *,
    classes: Sequence[int] | None = None,
    features: str = "pixels",
    flatten: bool = False,
    validation: float = 1 / 12,
    test: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Grey images in [0, 1] from IDX files, such as MNIST's.

    The files are ``train-images-idx3-ubyte[.gz]`` and its three companions; ``t10k-...`` is the test part.

    Args:
        folder: the folder with the four files.
        classes: labels to keep, renumbered ``0, 1, ..`` in this order; ``None`` for all.
        features: see `with_features`.
        flatten: examples of shape (height * width,) in place of (1, height, width).
        validation: share of each class's training images set aside; 1/12 is 5,000 of MNIST's 60,000.
        test: ``None`` for the ``t10k`` files, 0 for no test part (they are not read then).
        seed: of the split.
        dtype: torch.float32 or torch.float64.

    Raises:
        InputError: a missing file, a wrong magic number, a file cut short or too long, or images and labels
            of unequal number; the message names the file.

    >>> import holdfast as hf
    >>> import pathlib, struct, tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     images, labels = (pathlib.Path(name, f"train-{w}-ubyte") for w in ("images-idx3", "labels-idx1"))
    ...     written = images.write_bytes(struct.pack(">4i", 2051, 2, 1, 1) + bytes([0, 255]))
    ...     written = labels.write_bytes(struct.pack(">2i", 2049, 2) + bytes([0, 1]))
    ...     hf.data.idx(name, validation=0, test=0).x.flatten()
    tensor([0., 1.])
    """
    here = Path(folder)
    if not here.is_dir():
        raise InputError(
            f"folder must hold IDX files, got {str(here)!r}, which is no folder; check the path."
        )
    if test not in (None, 0):
        raise InputError(
            f"test must be None (the t10k files) or 0 for IDX folders, got {test}; leave it out."
        )
    images, labels = _part(here, "train")
    first_test = len(labels)
    if test is None:
        more_images, more_labels = _part(here, "t10k")
        if more_images.shape[1:] != images.shape[1:]:
            raise InputError(
                f"t10k images must be as large as the training images in {str(here)!r}, got "
                f"{tuple(more_images.shape[1:])} against {tuple(images.shape[1:])}; use files of one data "
                "set."
            )
        images, labels = torch.cat([images, more_images]), torch.cat([labels, more_labels])
    data = from_tensors(
        (images.reshape(len(images), -1) if flatten else images[:, None]).to(dtype).div_(255),
        labels,
        (0.0, 1.0),
        classes=classes,
        name=here.resolve().name,
        split=split_rows(labels, validation=validation, seed=seed, test_from=first_test),
        dtype=dtype,
    )
    return with_features(data, features)


def is_idx_folder(folder: Path) -> bool:
    """Whether the training images of an IDX data set lie here."""
    return _find(folder, "train-images", 3) is not None


def _find(folder: Path, stem: str, axes: int) -> Path | None:
    for joint in ("-", "."):
        for end in ("", ".gz"):
            path = folder / f"{stem}{joint}idx{axes}-ubyte{end}"
            if path.is_file():
                return path
    return None


def _part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images = _read(folder, f"{part}-images", IMAGES)
    labels = _read(folder, f"{part}-labels", LABELS)
    if len(images) != len(labels):
        raise InputError(
            f"{part}-labels in {str(folder)!r} must have one label an image, got {len(labels)} labels for "
            f"{len(images)} images; use files of one data set."
        )
    return images, labels.long()


def _read(folder: Path, stem: str, magic: int) -> Tensor:
    """Bytes of one IDX file: big-endian magic number, the sizes, then the values in row-major order."""
    axes = magic % 256
    path = _find(folder, stem, axes)
    if path is None:
        raise InputError(
            f"{str(folder)!r} must hold {stem}-idx{axes}-ubyte, plain or .gz, got no such file; add it."
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); fetch it again.") from error
    header = 4 + 4 * axes
    if len(content) < header or struct.unpack(">I", content[:4])[0] != magic:
        raise InputError(
            f"{str(path)!r} must start with the IDX magic number {magic}, got "
            f"{content[:4].hex() or 'nothing'} (hex); fetch it again."
        )
    shape = struct.unpack(f">{axes}I", content[4:header])
    size = torch.Size(shape).numel()
    if size == 0 or len(content) - header != size:
        raise InputError(
            f"{str(path)!r} must hold {size} values after its header ({' x '.join(map(str, shape))}, none of "
            f"them 0), got {len(content) - header}; fetch it again."
        )
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)
