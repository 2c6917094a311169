"""Where a run is written: a folder that is free and can be written, found out before anything is computed."""

import re
import tempfile
from itertools import count
from pathlib import Path

from holdfast._record import free
from holdfast.errors import RunFolderError
from holdfast.jobs.config import RunConfig


def output_folder(
    config: RunConfig, *, asked: str | None, resume: bool = False, overwrite: bool = False, check: bool = True
) -> Path:
    """The folder this run goes to. Nothing is created or removed yet.

    A folder asked for by ``--out`` must be free, unless it is to be resumed or overwritten. A folder that the configuration
    file names, or the default one, stands for the next free one: ``runs/x``, ``runs/x-2``, ... Without ``check`` it is
    taken as it is (by the other processes of a run that the first one has checked).

    Raises:
        RunFolderError: the folder is occupied, is no folder, holds no run to resume, or cannot be written.
    """
    folder = Path(asked or config.out or Path("runs") / _default_name(config))
    if not check:
        return folder
    if resume and overwrite:
        raise RunFolderError(
            "--resume and --overwrite exclude each other, got both; keep the one that is meant."
        )
    run = (folder / "config.yaml").is_file()
    if resume and not run:
        raise RunFolderError(
            f"--resume needs a run that has begun, but {folder} holds none; give its folder as --out, or leave --resume out."
        )
    if overwrite and not run and not free(folder):
        raise RunFolderError(
            f"--overwrite replaces a run, but {folder} holds something else (no config.yaml); choose another folder."
        )
    if not resume and not overwrite and not free(folder):
        if asked:
            raise RunFolderError(
                f"--out must be a new or empty folder, but {folder} holds files; choose another, or add --resume to go on"
                " or --overwrite to replace the run in it."
            )
        folder = next(other for n in count(2) if free(other := folder.with_name(f"{folder.name}-{n}")))
    _check_writable(folder)
    return folder


def check_file(path: Path) -> None:
    """Refuse a file that cannot be written, before it is worked out."""
    if path.is_dir():
        raise RunFolderError(f"the page must be a file, but {path} is a folder; add a file name to it.")
    _check_writable(path.parent)


def _default_name(config: RunConfig) -> str:
    parts = [Path(config.data.name).stem or "data", config.threat.spec]
    if config.seed:
        parts.append(f"seed{config.seed}")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-.") or "run"


def _check_writable(folder: Path) -> None:
    """By writing: permissions alone do not tell of read-only file systems."""
    whole = folder.absolute()
    place = next(path for path in (whole, *whole.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        what = "is not a folder" if not place.is_dir() else f"cannot be written ({error.strerror})"
        raise RunFolderError(
            f"{folder} must be a folder that can be written, but {place} {what}; choose another, or fix its permissions."
        ) from error
