"""Where a run is written: a folder that is free and can be written, found out before anything is computed."""

import os
import re
import tempfile
from itertools import count
from pathlib import Path

from holdfast._record import REPLACEMENT, free
from holdfast.config.schema import RunConfig
from holdfast.errors import RunFolderError

RUN = "config.yaml"
"""What a folder with a run in it is known by."""


def check_folder(
    folder: Path,
    mark: str,
    *,
    what: str = "a run",
    resume: bool | None = None,
    overwrite: bool = False,
    unfinished: str = "",
) -> None:
    """Refuse a folder that results cannot go to, before anything is computed. Nothing is created or removed.

    Args:
        mark: the file by which results of this kind are known.
        what: they are, in words.
        resume: whether to go on with what lies there; ``None`` where there is no going on.
        unfinished: pattern of files from which the job goes on by itself.

    Raises:
        RunFolderError: the folder is occupied, is no folder, holds nothing to resume or replace, or cannot be
            written.
    """
    if resume and overwrite:
        raise RunFolderError(
            "resume (--resume) and overwrite (--overwrite) exclude each other, got both; keep the one "
            "that is meant."
        )
    there, vacant = (folder / mark).is_file(), free(folder, unfinished)
    if resume and not there:
        raise RunFolderError(
            f"resume (--resume) needs a run that has begun, but {folder} holds none; give its folder as "
            "out (--out), or start it without resume."
        )
    if overwrite and not there and not vacant:
        raise RunFolderError(
            f"overwrite (--overwrite) replaces {what}, but {folder} holds something else (no {mark}); "
            "choose another folder."
        )
    if not resume and not overwrite and not vacant:
        on = "" if resume is None else "resume=True (--resume) to go on or "
        remedy = (
            f"or add {on}overwrite=True (--overwrite) to replace {what} in it" if there else "or empty it"
        )
        raise RunFolderError(
            f"out (--out) must be a new or empty folder, but {folder} holds files; choose another, {remedy}."
        )
    _check_writable(folder)


def output_folder(
    config: RunConfig, *, asked: str | None, resume: bool = False, overwrite: bool = False, check: bool = True
) -> Path:
    """The folder this run goes to. Nothing is created or removed yet.

    A folder asked for by ``--out`` must be free, unless it is to be resumed or overwritten. A folder that the
    configuration file names, or the default one, means the next free one: ``runs/x``, ``runs/x-2``, ...
    Without ``check`` it is taken as it is (by the other processes of a run that the first one has checked).

    Raises:
        RunFolderError: the folder is occupied, is no folder, holds no run to resume, or cannot be written.
    """
    folder = Path(asked or config.out or Path("runs") / _default_name(config))
    if not check:
        return folder
    if not asked and not resume and not overwrite:
        folder = next_free(folder)
    check_folder(folder, RUN, resume=resume, overwrite=overwrite)
    return folder


def next_free(folder: Path, unfinished: str = "") -> Path:
    """This folder, or the first of ``folder-2``, ``folder-3``, ... that is new or empty, but for files of
    this pattern.
    """
    others = (folder.with_name(f"{folder.name}-{n}") for n in count(2))
    return folder if free(folder, unfinished) else next(other for other in others if free(other, unfinished))


def written_in(folder: Path, *, resume: bool, overwrite: bool) -> Path:
    """Where the files of a run for ``folder`` are written: beside the run that it replaces, until its own
    record is whole.
    """
    aside = folder / REPLACEMENT
    begun = (aside / RUN).is_file() if resume else overwrite and (folder / RUN).is_file()
    return aside if begun else folder


def process_number() -> int:
    """Number of this process among those of a run: torchrun, SLURM and lightning-fabric each say it their
    own way.
    """
    words = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return max((int(rank) for word in words if (rank := os.environ.get(word, "")).isdigit()), default=0)


def check_file(path: Path) -> None:
    """Refuse a file that cannot be written, before it is worked out."""
    if path.is_dir():
        raise RunFolderError(f"the page must be a file, but {path} is a folder; add a file name to it.")
    if path.exists() and not _is_page(path):
        raise RunFolderError(
            f"the page must be a new file or replace a page, but {path} is something else; choose "
            "another name."
        )
    _check_writable(path.parent)


def _is_page(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(15).lower() == b"<!doctype html>"
    except OSError:
        return False


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
            f"{folder} must be a folder that can be written, but {place} {what}; choose another, or fix "
            "its permissions."
        ) from error
