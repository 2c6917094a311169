"""Data sets by a word or a path, as typed on a command line or written in a configuration."""

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path

from holdfast._registry import DATA
from holdfast._rules import PATH, takes
from holdfast.data.base import Dataset
from holdfast.data.idx import idx, is_idx_folder
from holdfast.data.npz import npz
from holdfast.errors import InputError


@takes(name=PATH)
def load(name: str | Path, **options: object) -> Dataset:
    """The data set called ``name``: of the library, a folder with IDX files, or an ``.npz`` file.

    Names are the words of `holdfast._registry.DATA`. Every loader takes ``features``, ``validation``,
    ``test``, ``seed`` and ``dtype``.

    Args:
        name: ``digits``, ``spheres``, ..., or a path.
        **options: go to the function of that name, to `idx` or to `npz`.

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
        if is_idx_folder(path):
            return idx, (path,)
        raise InputError(
            f"data folder {str(name)!r} must hold train-images-idx3-ubyte, plain or .gz, got none; check "
            "the path."
        )
    if path.suffix == ".npz" and path.is_file():
        return npz, (path,)
    near = difflib.get_close_matches(str(name).lower(), DATA, 1)
    raise InputError(
        f"data must be {', '.join(DATA)}, a folder with IDX files, or an .npz file, got {str(name)!r}; "
        + (f"did you mean {near[0]!r}?" if near else "check the spelling or the path.")
    )
