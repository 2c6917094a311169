"""Files written whole or not at all: to a temporary name beside the target, then renamed over it."""

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from holdfast.errors import RunFolderError


def part_of(path: Path, *words: str) -> Path:
    """Where a file is written before it is renamed."""
    return path.with_name(".".join(("", path.name, *words, "part")))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary path beside ``path``, then rename it into place.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    part = part_of(path, str(os.getpid()))  # other processes may write the same file
    with writing(path):
        write_part(part, write)
        os.replace(part, path)


def write_part(part: Path, write: Callable[[Path], None]) -> None:
    """Write a temporary file to the disk, with the mode of any new file: some libraries write theirs for
    the owner alone.
    """
    try:
        part.unlink(missing_ok=True)
        part.touch()
        mode = stat.S_IMODE(part.stat().st_mode)
        write(part)
        part.chmod(mode)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Failures to write as one sentence.

    Raises:
        RunFolderError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors have their own errors for a full disk
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise RunFolderError(
            f"{path} must be writable, but writing failed ({why}); free space or choose another folder "
            "with --out."
        ) from error


Writer = Callable[[Path], None]


def text_writer(text: str) -> Writer:
    """Writes this text to a path."""

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    return write


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    write_atomically(path, text_writer(text))


def without_nan(value: Any) -> Any:
    """The same with numbers that JSON has no word for (NaN, infinity) as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def yaml_text(values: Any) -> str:
    """Plain values as YAML; what only behaves as text or a number becomes that."""
    import yaml

    text: str = yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, allow_unicode=True)
    return text


def json_writer(value: Any) -> Writer:
    """Writes JSON that any reader accepts to a path; NaN and infinity become null."""
    return text_writer(json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_atomically(path, json_writer(value))


def tensor_writer(tensors: Mapping[str, Any], metadata: dict[str, str] | None = None) -> Writer:
    """Writes tensors (and some text) as safetensors to a path: plain numbers, nothing that could execute."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return lambda part: save_file(plain, part, metadata=metadata)


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write safetensors, whole or not at all."""
    write_atomically(path, tensor_writer(tensors, metadata))
