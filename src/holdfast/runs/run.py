"""A run and its folder.

``config.yaml`` (complete), ``summary.json``, ``metrics.jsonl`` (a line an epoch), ``trace/``, ``model.safetensors`` (best on
validation), ``last.safetensors``, ``initial.safetensors``, ``gallery.safetensors``, ``checkpoints/``, ``log.txt``, ``report.html``.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast._files import without_nan, write_atomically, write_json, write_tensors, write_text
from holdfast.certificates import Certificate
from holdfast.errors import RunFolderError
from holdfast.trace import FrozenPoints, save_points


def read_summary(folder: Path) -> dict[str, Any]:
    """``summary.json`` of a run.

    Raises:
        RunFolderError: not a run folder, or cut short.
    """
    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = "has no summary.json" if folder.is_dir() else "does not exist"
        raise RunFolderError(
            f"a run folder is needed, but {folder} {what}; give the folder that `holdfast train` wrote."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise RunFolderError(
            f"{path} must be complete JSON, but it is cut short or damaged ({error}); resume the run or train it again."
        ) from error
    if not isinstance(summary, dict):
        raise RunFolderError(
            f"{path} must hold a table of figures, got {type(summary).__name__}; train again."
        )
    return summary


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line that was cut short is left out."""
    path = folder / "metrics.jsonl"
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_weights(path: Path) -> dict[str, Tensor]:
    """A weights file.

    Raises:
        RunFolderError: missing, cut short or not safetensors.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is missing; train again or resume the run.") from error
    except Exception as error:
        raise RunFolderError(
            f"{path} must be a whole safetensors file, but cannot be read ({error}); train again."
        ) from error


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run.

    Raises:
        RunFolderError: there is none, or it was cut short.
    """
    path = folder / "checkpoints" / "last.pt"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunFolderError(
            f"a run is resumed from its checkpoint, but {path} is missing; start it without resume."
        ) from error
    except Exception as error:
        raise RunFolderError(
            f"{path} must be a whole checkpoint, but cannot be read ({type(error).__name__}: it was cut short, or written by"
            " something else); start without resume."
        ) from error
    return state


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `holdfast.train` returns, and what a run folder holds.

    Attributes:
        folder: where it was written; ``None`` for a run in memory.
        model: the network with its last weights; ``None`` for a run loaded from a folder (`weights` has them).
        summary: the figures of ``summary.json``.
        metrics: a row an epoch.
        certificate: the convergence certificate.
        best: weights that did best on the validation part, by name.
    """

    folder: Path | None
    model: nn.Module | None
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    certificate: Certificate
    best: dict[str, Tensor]

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """A run from its folder; nothing in it is executed.

        Raises:
            RunFolderError: the folder is no run, or was cut short.
        """
        folder = Path(folder)
        summary = read_summary(folder)
        known = {field.name for field in fields(Certificate)}
        record = {k: v for k, v in (summary.get("certificate") or {}).items() if k in known}
        record = {
            k: float("nan") if v is None else _tuples(v) if isinstance(v, list) else v
            for k, v in record.items()
        }
        if "status" not in record:
            record = {"status": "void", "reason": "the run holds no certificate", "radius": float("nan")}
        return cls(
            folder=folder, model=None, summary=summary, metrics=read_metrics(folder), certificate=Certificate(**record),
            best=read_weights(folder / "model.safetensors"),
        )  # fmt: skip

    def weights(self, which: str = "last") -> dict[str, Tensor]:
        """``last`` or ``best`` weights by name, for ``model.load_state_dict``."""
        if which == "best":
            return self.best
        if self.model is not None:
            return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        if self.folder is None:
            raise RunFolderError("a run in memory without a model holds no weights; load it from its folder.")
        return read_weights(self.folder / "last.safetensors")


def _tuples(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_tuples(value) if isinstance(value, list) else value for value in values)


class RunWriter:
    """Writes a run folder, each file whole or not at all. With ``folder=None`` it writes nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is None:
            return
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            (folder / "trace").mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"{folder} must be a folder that can be written, but {error.strerror or error}; choose another with --out."
            ) from error

    def clear(self, names: Iterable[str]) -> None:
        """Remove what an earlier run left here and this one writes only later: it would be taken for this one's."""
        if self.folder is not None:
            for name in names:
                self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if self.folder is None:
            raise RuntimeError("this run has no folder")
        return self.folder / name

    def config(self, values: dict[str, Any]) -> None:
        if self.folder is not None:
            write_text(self._path("config.yaml"), yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def weights(self, name: str, state: dict[str, Tensor]) -> None:
        if self.folder is not None:
            write_tensors(self._path(f"{name}.safetensors"), state)

    def attacked(self, points: FrozenPoints) -> None:
        if self.folder is not None:
            save_points(points, self._path("trace"))

    def metrics(self, rows: list[dict[str, Any]]) -> None:
        if self.folder is not None:
            lines = [json.dumps(without_nan(row), allow_nan=False) for row in rows]
            write_text(self._path("metrics.jsonl"), "".join(f"{line}\n" for line in lines))

    def summary(self, values: dict[str, Any]) -> None:
        if self.folder is not None:
            write_json(self._path("summary.json"), values)

    def log(self, text: str) -> None:
        """One dated line in ``log.txt``."""
        if self.folder is not None:
            with self._path("log.txt").open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")

    def checkpoint(self, state: dict[str, Any]) -> None:
        """The state that training goes on from; loaded with ``weights_only=True``."""
        if self.folder is not None:
            write_atomically(self._path("checkpoints/last.pt"), lambda part: torch.save(state, part))
