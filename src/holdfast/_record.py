"""Files that belong together: written in one step, checked whenever they are read, and locked while they are
worked on.

``digests.json`` names every file of a run with its SHA-256. New files are first written beside their names;
the record that names them is the one step in which all of them become the folder's content, and a file that
is not yet renamed then is taken from where it lies. So a kill at any moment leaves the files of before or
those of after, never a mixture.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from holdfast._files import part_of, write_part, write_text, writing
from holdfast.errors import RunFolderError

if sys.platform != "win32":
    import fcntl

RECORD = "digests.json"
FORMAT = 1
RECORDED = "digests"
"""Entry of ``summary.json`` (``sweep.json``, ...) that names the record beside it. Runs of version 0.1
have neither.
"""
NAME = re.compile(r"(?:(?:trace|checkpoints|evaluation|cells)/)?[A-Za-z0-9_][A-Za-z0-9.,+=_-]*")
"""What a file with a digest may be called: in its folder or one below, so that no record leads elsewhere."""
SINGLE = (
    "config.yaml",
    "identity.json",
    "summary.json",
    "metrics.jsonl",
    "gallery.safetensors",
    "model.safetensors",
    "last.safetensors",
    "initial.safetensors",
    "certificate.json",
    "report.html",
)
BELOW = {
    "trace": ("*.safetensors", "*.json"),
    "checkpoints": ("*.pt",),
    "evaluation": ("*.safetensors", "*.json", "*.csv", "unfinished*"),
}
"""What a run writes into its folder and the folders below; ``log.txt`` besides."""
LOGS = {
    "tensorboard": "tensorboard/events.out.tfevents.*",
    "csv": "csv/metrics.csv",
    "wandb": "wandb/run-id.txt",
}
"""What tools that watch a run write there, by logger: without a digest, since it is no part of the run."""
REPLACEMENT = "replacement"
"""Folder within that of a run in which the one that is to take its place is written."""
LOOKS = 5
"""At a file whose run is writing its next record meanwhile."""


def belongings(folder: Path) -> list[str]:
    """Names of the files of a run that lie in ``folder``."""
    found = [folder / name for name in SINGLE]
    found += [
        path for below, patterns in BELOW.items() for p in patterns for path in (folder / below).glob(p)
    ]
    return [path.relative_to(folder).as_posix() for path in found if path.is_file()]


def drop_logs(folder: Path, *loggers: str) -> None:
    """Remove what these loggers, or all, have written of a run."""
    for name in loggers or LOGS:
        place = folder / name
        for path in folder.glob(LOGS[name]):
            path.unlink(missing_ok=True)
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def _move_logs(source: Path, target: Path) -> None:
    for name, pattern in LOGS.items():
        paths = list(source.glob(pattern))
        if paths:
            drop_logs(target, name)
            (target / name).mkdir(exist_ok=True)
        for path in paths:
            os.replace(path, target / path.relative_to(source))


def free(folder: Path, unfinished: str = "") -> bool:
    """Whether a run may begin in ``folder``: nothing lies there but what a run leaves that was killed before
    its first checkpoint.

    ``unfinished``: pattern of further files that a job leaves which goes on by itself.
    """
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    left = [
        path
        for path in folder.iterdir()
        if path.name != "log.txt"
        and not path.name.endswith(".part")
        and not (unfinished and path.match(unfinished))
    ]
    return all(
        path.name in BELOW and path.is_dir() and all(p.name.endswith(".part") for p in path.iterdir())
        for path in left
    )


def checked(path: Path) -> Path:
    """The path of a file that is what its run's record says; where no record lies above it, the path as it
    is.

    Raises:
        RunFolderError: the file is missing, differs from what was written, or is not of this run.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise RunFolderError(
            f"{path} must be a regular file, but it is something else; remove it, or train again."
        )
    root = root_of(path)
    if root is None:
        return path
    name = path.absolute().relative_to(root).as_posix()
    for _ in range(LOOKS):
        known = read_record(root)
        if name not in known:
            if not path.exists():
                return path  # whoever opens it says what it was for
            raise RunFolderError(
                f"{path} must be a file of its run, but {RECORD} beside it does not name it, so it comes "
                "from elsewhere; remove it, or train again."
            )
        part = part_of(path)
        if digest_of(path) == known[name]:
            return path
        if digest_of(part) == known[name]:
            os.replace(part, path)
            return path
        if read_record(root) == known:
            break
    if not path.exists():
        raise RunFolderError(f"{path} is missing, though {RECORD} names it; restore it, or train again.")
    raise RunFolderError(
        f"{path} must be as it was written, but its digest differs from the one in {RECORD}: it was cut "
        "short, damaged or exchanged; restore it, or train again."
    )


def root_of(path: Path) -> Path | None:
    """The folder of the run that a file belongs to: the one with the record, at most one above its own."""
    return next((folder for folder in path.absolute().parents[:2] if (folder / RECORD).is_file()), None)


def differing(folder: Path) -> list[str]:
    """Names of the files that are missing or not as they were written; none where there is no record."""
    if not (folder / RECORD).is_file():
        return []
    found = []
    for name in read_record(folder):
        try:
            checked(folder / name)
        except RunFolderError:
            found.append(name)
    return found


def read_values(path: Path, maker: str) -> dict[str, Any]:
    """The table that a job wrote as JSON, as it was written. A file of an earlier version may lack a record.

    Args:
        maker: the command that writes such a file.

    Raises:
        RunFolderError: the file is missing, cut short, damaged or exchanged, or its record is gone.
    """
    try:
        values = json.loads(checked(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{path} must be what `holdfast {maker}` wrote, but cannot be read ({type(error).__name__}: "
            f"{error}); restore it, remove it or choose another folder."
        ) from error
    check_recorded(values, path.parent)
    return values


def check_recorded(values: dict[str, Any], folder: Path) -> None:
    """Refuse a folder whose record was there when these values were written, and is gone.

    Raises:
        RunFolderError: it is gone.
    """
    if RECORDED in values and not (folder / RECORD).is_file():
        raise RunFolderError(
            f"{folder / RECORD} is missing, without which no file of {folder} can be checked; restore "
            "it, or start again in another folder."
        )


def check_whole(folder: Path) -> None:
    """Refuse a folder with a record of which a file is missing or not as it was written.

    Raises:
        RunFolderError: the first such file.
    """
    for name in read_record(folder) if (folder / RECORD).is_file() else ():
        checked(folder / name)


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def read_record(folder: Path) -> dict[str, str]:
    """The digest of every file of the run in ``folder``, by name.

    Raises:
        RunFolderError: the record is damaged, or names something outside the folder.
    """
    path = folder / RECORD
    try:
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(path)
        record = json.loads(path.read_text(encoding="utf-8"))
        files, own = record["files"], record["digest"]
        if record["format"] != FORMAT or own != _own_digest(files) or not all(map(NAME.fullmatch, files)):
            raise ValueError("its own digest differs, or a name leads elsewhere")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(
            f"{path} must be the whole record of its run's files, but cannot be used "
            f"({type(error).__name__}); restore it, or train again."
        ) from error
    return dict(files)


def _own_digest(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


class Files:
    """The files of a folder, written whole, in groups that become its content in one step.

    Args:
        folder: must exist.
        recorded: keep ``digests.json``; without it files are merely written one after another.
        fresh: begin a new record, whatever the one that lies there says.
    """

    def __init__(self, folder: Path, *, recorded: bool = True, fresh: bool = False) -> None:
        self.folder, self.recorded = folder, recorded
        begun = recorded and not fresh and (folder / RECORD).is_file()
        self.digests = read_record(folder) if begun else {}
        self._staged: dict[str, str] = {}
        self._dropped: set[str] = set()
        self._depth = 0

    def __contains__(self, name: str) -> bool:
        return name in self._staged or (
            name in self.digests if self.recorded else (self.folder / name).exists()
        )

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Write one file: at once, or with the others of `together`."""
        with self.together():
            target = self.folder / name
            with writing(target):
                target.parent.mkdir(exist_ok=True)
                write_part(part_of(target), write)
            self._staged[name] = digest_of(part_of(target)) or ""
            self._dropped.discard(name)

    def drop(self, names: Iterable[str]) -> None:
        """Remove files, where there are such: after those of `together` are written."""
        with self.together():
            self._dropped |= {name for name in names if name not in self._staged}

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is put and dropped within becomes the folder's content in one step, or not at all."""
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self._commit()
        finally:
            self._depth -= 1
            if self._depth == 0:
                for name in self._staged:
                    part_of(self.folder / name).unlink(missing_ok=True)
                self._staged, self._dropped = {}, set()

    def _commit(self) -> None:
        kept = {name: digest for name, digest in self.digests.items() if name not in self._dropped}
        files = dict(sorted({**kept, **self._staged}.items()))
        if self.recorded:
            values = {"format": FORMAT, "digest": _own_digest(files), "files": files}
            write_text(self.folder / RECORD, json.dumps(values, indent=1) + "\n")
            _synchronise(self.folder)
        self.digests = files
        staged, self._staged = self._staged, {}
        for name in staged:
            with writing(self.folder / name):
                _move(self.folder / name)
        for name in self._dropped:
            (self.folder / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Finish what a kill left half done: rename what the record names, remove what it does not."""
        for name, digest in self.digests.items():
            if digest_of(part_of(self.folder / name)) == digest:
                _move(self.folder / name)
        for folder in (self.folder, *(self.folder / below for below in (*BELOW, "cells"))):
            for part in folder.glob(".*.part"):
                if not _being_written(part):
                    part.unlink(missing_ok=True)
        if self.digests:
            for window in (self.folder / "trace").glob("window-*.safetensors"):
                if f"trace/{window.name}" not in self.digests:
                    window.unlink(missing_ok=True)


def _being_written(part: Path) -> bool:
    """Whether the process that a temporary file is named after lives: a page may be written by another
    one.
    """
    process = part.name.split(".")[-2]
    try:
        if process.isdigit():
            os.kill(int(process), 0)
        return process.isdigit()
    except OSError:
        return False


def _move(target: Path) -> None:
    try:
        os.replace(part_of(target), target)
    except FileNotFoundError:  # a reader has renamed it already
        if not target.exists():
            raise


def _synchronise(folder: Path) -> None:
    """The folder's own entries on disk, before anything that they no longer name is removed."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError:
            pass  # not every file system can
        finally:
            os.close(handle)


def destination(folder: Path) -> Path:
    """The folder that a run written in ``folder`` is for: the one it is to replace, or its own."""
    replaces = folder.name == REPLACEMENT and (folder.parent / "config.yaml").is_file()
    return folder.parent if replaces else folder


def take_over(folder: Path) -> Path:
    """Let the run in ``folder`` take the place of the one it was begun to replace, in one step; returns
    where it lies then.
    """
    target = destination(folder)
    if target == folder:
        return folder
    files = Files(target, fresh=True)
    with files.together():
        for name in read_record(folder):
            files.put(name, partial(shutil.copyfile, checked(folder / name)))
        files.drop(belongings(target))
    drop_logs(target)
    clear_replacement(target)
    return target


def clear_replacement(folder: Path) -> None:
    """Remove what is left of a run that has taken the place of the one in ``folder``, or came to nothing
    before.
    """
    left = folder / REPLACEMENT
    if not left.is_dir():
        return
    taken = (left / RECORD).is_file() and digest_of(left / RECORD) == digest_of(folder / RECORD)
    if not taken and (left / "config.yaml").is_file():
        return  # it can be resumed
    if taken and (left / "log.txt").exists():
        os.replace(left / "log.txt", folder / "log.txt")
    if taken:
        _move_logs(left, folder)
    drop_logs(left)
    for path in (
        left / "config.yaml",
        *(left / name for name in belongings(left)),
        left / RECORD,
        left / "log.txt",
    ):
        path.unlink(missing_ok=True)
    for part in (left, *(left / below for below in BELOW)):
        for path in part.glob(".*.part"):
            path.unlink(missing_ok=True)
    for path in (*(left / below for below in BELOW), left):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No other process works in ``folder`` (made where there is none) meanwhile.

    The lock is the system's, so that of a dead process is gone with it.

    Raises:
        RunFolderError: another process works there, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder} must be a folder that can be written, but {error.strerror or error}; choose "
            "another with --out."
        ) from error
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"{folder} must be used by one process at a time, but another one is at work in it; wait "
                "until it is done, or choose another folder."
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)
