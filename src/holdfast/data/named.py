"""Data sets by a word or a path, as typed on a command line or written in a configuration."""

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path

from holdfast._registry import DATA
from holdfast._rules import PATH, takes
from holdfast.data.base import Dataset
from holdfast.data.cifar import cifar, is_cifar_folder
from holdfast.data.idx import idx, is_idx_folder
from holdfast.data.image_folder import image_folder, is_image_folder
from holdfast.data.mapped import is_mapped_folder, mapped
from holdfast.data.npz import npz
from holdfast.errors import InputError

FOLDERS: tuple[tuple[Callable[[Path], bool], Callable[..., Dataset]], ...] = (
    (is_mapped_folder, mapped),
    (is_idx_folder, idx),
    (is_cifar_folder, cifar),
    (is_image_folder, image_folder),
)
"""How a folder is known, and who reads it."""


@takes(name=PATH)
def load(name: str | Path, **options: object) -> Dataset:
    """The data set called ``name``: of the library, a folder of IDX, CIFAR, image or cached files, or an ``.npz`` file.

    Names are the words of `holdfast._registry.DATA`. Every loader takes ``features``, ``validation``,
    ``test``, ``seed`` and ``dtype``.

    Args:
        name: ``digits``, ``spheres``, ..., or a path.
        **options: go to the function of that name, to `mapped`, `idx`, `cifar`, `image_folder` or `npz`.

    Raises:
        InputError: nothing of that name, an option the loader does not take, or what the loader refuses.

    >>> import holdfast as hf
    >>> hf.data.load("spheres", examples=20, dimension=3, clusters=1).name
    'spheres'
    """
    loader, arguments = _loader(name)
    known = [option for option in inspect.signature(loader).parameters if option not in ("folder", "file")]
    foreign = [option for option in options if option not in known]
    if foreign:
        near = difflib.get_close_matches(foreign[0], known, 1)
        raise InputError(
            f"options of data {str(name)!r} are {', '.join(known)}, got {foreign[0]!r}; "
            + (f"did you mean {near[0]!r}?" if near else "leave it out.")
        )
    return loader(*arguments, **options)


def _loader(name: str | Path) -> tuple[Callable[..., Dataset], tuple[Path, ...]]:
    if str(name) in DATA:
        return DATA[str(name)], ()
    path = Path(name).expanduser()
    if path.is_dir():
        for known, loader in FOLDERS:
            if known(path):
                return loader, (path,)
        raise InputError(
            f"data folder {str(name)!r} must hold train-images-idx3-ubyte (plain or .gz), CIFAR's "
            "data_batch_1.bin or train.bin, dataset.json of a data set that was cached, or a folder of .png or .jpg images for each class, got none of "
            "these; check the path."
        )
    if path.suffix == ".npz" and path.is_file():
        return npz, (path,)
    near = difflib.get_close_matches(str(name).lower(), DATA, 1)
    raise InputError(
        f"data must be {', '.join(DATA)}, a folder with IDX, CIFAR or image files, or an .npz file, got {str(name)!r}; "
        + (f"did you mean {near[0]!r}?" if near else "check the spelling or the path.")
    )
