"""Folders of images, one folder a class; needs Pillow (``pip install 'holdfast[images]'``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast._memory import require_memory
from holdfast._rules import COUNT, FLAG, PATH, SEED, maybe, takes
from holdfast.data._rules import CLASSES, DTYPE, FEATURE_MAP, SHARE
from holdfast.data.base import Dataset
from holdfast.data.features import with_features
from holdfast.data.split import split_rows
from holdfast.data.tensors import from_tensors
from holdfast.errors import InputError

ENDS = (".png", ".jpg", ".jpeg")


@takes(
    folder=PATH,
    size=maybe(COUNT),
    grey=FLAG,
    classes=CLASSES,
    features=FEATURE_MAP,
    validation=SHARE,
    test=maybe(SHARE),
    seed=SEED,
    dtype=DTYPE,
)
def image_folder(
    folder: str | Path,
    *,
    size: int | None = None,
    grey: bool = False,
    classes: Sequence[int] | None = None,
    features: str = "pixels",
    validation: float = 0.15,
    test: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Images in [0, 1], shape (3, height, width), from ``CLASS/*.png`` or ``CLASS/*.jpg``.

    Such folders may also lie under ``train`` and ``test``. Classes are numbered in the order of their names.

    Args:
        folder: the folder of the classes, or of ``train`` and ``test``.
        size: height and width that every image is brought to (bilinear); ``None`` where all are equally large.
        grey: one channel in place of three.
        classes: labels to keep, renumbered ``0, 1, ..`` in this order; ``None`` for all.
        features: see `with_features`.
        validation: share of each class's training images set aside.
        test: share set aside where there is no folder ``test`` (``None``: 0.15); with one ``None`` or 0.
        seed: of the split.
        dtype: torch.float32 or torch.float64.

    Raises:
        InputError: no images, one that cannot be read or has another size (its path is named), or Pillow is not
            installed.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
    ...         Path(folder, name).parent.mkdir(exist_ok=True)
    ...         Image.new("RGB", (4, 4)).save(Path(folder, name))
    ...     image_folder(folder).class_names
    ('cat', 'dog')
    """
    here = Path(folder)
    own_test = (here / "train").is_dir() and (here / "test").is_dir()
    if own_test and test not in (None, 0):
        raise InputError(
            f"test must be None or 0 where {str(here)!r} has a folder test, got {test}; leave it out."
        )
    files = _files(here / "train" if (here / "train").is_dir() else here)
    names = tuple(files)
    tests = _files(here / "test") if own_test and test is None else {}
    foreign = [name for name in tests if name not in files]
    if foreign:
        raise InputError(
            f"{str(here / 'test')!r} must have the classes of train, got {foreign[0]!r} besides; rename it."
        )
    rows = [(path, names.index(name)) for part in (files, tests) for name in part for path in part[name]]
    labels = torch.tensor([label for _, label in rows])
    data = from_tensors(
        _read([path for path, _ in rows], size, grey, dtype),
        labels,
        (0.0, 1.0),
        classes=classes,
        class_names=names,
        name=here.resolve().name,
        split=split_rows(
            labels,
            validation=validation,
            test=0.15 if test is None else test,
            seed=seed,
            test_from=sum(map(len, files.values())) if own_test else None,
        ),
        dtype=dtype,
    )
    return with_features(data, features)


def is_image_folder(folder: Path) -> bool:
    """Whether folders of images lie here, or in a folder ``train`` here."""
    return any(path.suffix.lower() in ENDS for within in ("*/*", "train/*/*") for path in folder.glob(within))


def _files(folder: Path) -> dict[str, list[Path]]:
    """The images of every class, both in the order of their names."""
    found = {
        place.name: sorted(path for path in place.iterdir() if path.suffix.lower() in ENDS)
        for place in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if place.is_dir()
    }
    found = {name: paths for name, paths in found.items() if paths}
    if len(found) < 2:
        raise InputError(
            f"{str(folder)!r} must hold at least two folders of images ({', '.join(ENDS)}), one a class, got "
            f"{len(found)}; check the path."
        )
    return found


def _read(paths: list[Path], size: int | None, grey: bool, dtype: torch.dtype) -> Tensor:
    images: list[Tensor] = []
    for number, path in enumerate(paths):
        image = _image(path, size, grey)
        if images and image.shape != images[0].shape:
            raise InputError(
                f"images must be equally large, got {image.shape[2]} x {image.shape[1]} pixels in "
                f"{str(path)!r} against {images[0].shape[2]} x {images[0].shape[1]} in {str(paths[0])!r}; "
                "give a size to bring them to."
            )
        if number == 0:
            require_memory(
                len(paths) * image.numel() * (1 + 2 * dtype.itemsize),
                torch.device("cpu"),
                f"{len(paths):,} images",
                "give a smaller size",
            )
        images.append(image)
    return torch.stack(images).to(dtype).div_(255)


def _image(path: Path, size: int | None, grey: bool) -> Tensor:
    """The bytes of one image, (channels, height, width)."""
    pillow = _pillow()
    try:
        with pillow.open(path) as file:
            image = file.convert("L" if grey else "RGB")
            if size is not None:
                image = image.resize((size, size), pillow.Resampling.BILINEAR)
            values = torch.tensor(np.asarray(image))
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise InputError(
            f"{str(path)!r} must be an image, but cannot be read ({type(error).__name__}); fetch it again or "
            "remove it."
        ) from error
    return values[None] if grey else values.permute(2, 0, 1)


def _pillow() -> Any:
    try:
        from PIL import Image  # optional, and only images need it
    except ImportError as error:
        raise InputError(
            "reading images needs Pillow, which is not installed; pip install 'holdfast[images]'."
        ) from error
    return Image
