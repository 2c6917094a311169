"""Where a run is written: a folder that is free and can be written, found out before anything is computed."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from holdfast.errors import RunFolderError
from holdfast.jobs.config import RunConfig

# All that a run writes; only these are removed when one is overwritten.
FILES = (
    "config.yaml",
    "summary.json",
    "metrics.jsonl",
    "gallery.safetensors",
    "log.txt",
    "model.safetensors",
    "last.safetensors",
    "initial.safetensors",
    "certificate.json",
    "report.html",
)
FOLDERS = ("trace", "checkpoints")


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
    if overwrite and not run and _occupied(folder):
        raise RunFolderError(
            f"--overwrite replaces a run, but {folder} holds something else (no config.yaml); choose another folder."
        )
    if not resume and not overwrite and _occupied(folder):
        if asked:
            raise RunFolderError(
                f"--out must be a new or empty folder, but {folder} holds files; choose another, or add --resume to go on"
                " or --overwrite to replace the run in it."
            )
        folder = next(free for n in count(2) if not _occupied(free := folder.with_name(f"{folder.name}-{n}")))
    _check_writable(folder)
    return folder


@contextmanager
def replacing(folder: Path) -> Iterator[None]:
    """The run in ``folder`` set aside while another is made there, and put back if none was begun; what else lies there stays."""
    held = [folder / name for name in (*FILES, *FOLDERS) if (folder / name).exists()]
    if not held:
        yield
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for path in held:
            path.rename(aside / path.name)
        yield
    finally:
        if not (folder / "config.yaml").exists():
            for path in aside.iterdir():
                path.rename(folder / path.name)
        shutil.rmtree(aside)


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


def _occupied(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


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
            f"{folder} must be a folder that can be written, but {place} {what}; choose another, or mend its permissions."
        ) from error
