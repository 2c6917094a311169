"""The trace: what a run leaves behind for certificates, and its folder on disk (no code is executed on
loading).
"""

import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from holdfast._files import json_writer, tensor_writer
from holdfast._record import Files, checked
from holdfast._tensors import raw_bytes
from holdfast._values import Fact, Shown
from holdfast.curvature.lower_model import Block, LowerModel
from holdfast.curvature.rounding import Rounding
from holdfast.errors import RunFolderError
from holdfast.trace.window import Window

FORMAT = 2
WINDOW = re.compile(r"window-\d{8,}-[0-9a-f]{8}\.safetensors")


@dataclass(frozen=True, kw_only=True, repr=False)
class FrozenPoints(Shown):
    """The attacked points of a frozen pass, with the examples that they came from.

    Attributes:
        x: examples (examples, ...).
        points: attacked, (examples, ...).
        y: labels (examples,).

    >>> import torch
    >>> from holdfast import trace
    >>> trace.FrozenPoints(x=torch.eye(2), points=torch.eye(2), y=torch.tensor([0, 1]))
    FrozenPoints(examples 2; shape (2,))
    """

    x: Float[Tensor, "examples ..."]
    points: Float[Tensor, "examples ..."]
    y: Int[Tensor, " examples"]

    def _facts(self) -> list[Fact]:
        return [Fact("examples", len(self.y)), Fact("shape", tuple(self.x.shape[1:]))]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A frozen full pass at weights inside a run.

    Attributes:
        weights: their name, e.g. ``the last weights``.
        surrogate_loss: there, in float64.
        allowance: for rounding.
        distance: of each ball from its start.

    >>> from holdfast import trace
    >>> trace.Evaluated(weights="the last weights", surrogate_loss=0.5, allowance=0.0, distance=(1.0,)).weights
    'the last weights'
    """

    weights: str
    surrogate_loss: float
    allowance: float
    distance: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Trace(Shown):
    """Everything certificates read.

    Attributes:
        names: trained parameters, one tuple per ball.
        initial: ``W0`` by parameter name.
        windows: in order of training; those whose lower model was dropped for space keep their figures.
        rigorous, reason: whether the curvature bound is a proof, and why (not).
        fixed: digests of all that the function depends on besides the trained parameters
            (`holdfast.families.exact.fingerprints`).

    >>> from holdfast import trace
    >>> trace.Trace(names=(("w",),), initial={}, windows=(), rigorous=False, reason="none", fixed={}).void
    ''
    """

    names: tuple[tuple[str, ...], ...]
    initial: dict[str, Tensor]
    windows: tuple[Window, ...]
    rigorous: bool
    reason: str
    fixed: dict[str, str]

    def _facts(self) -> list[Fact]:
        return [
            Fact("windows", len(self.windows)),
            Fact("trained", ", ".join(name for ball in self.names for name in ball)),
            Fact("curvature", self.reason, "proved" if self.rigorous else "estimated"),
        ]

    @property
    def void(self) -> str:
        """Why the whole trace proves nothing: the first fault of any window. With one wrong round the
        others are not to be trusted.
        """
        for window in self.windows:
            if window.void:
                return f"rounds {window.first} to {window.last}: {window.void}"
        return ""


def kept(windows: list[Window], budget: int) -> list[Window]:
    """The windows with at most ``budget`` bytes of lower models: the highest bounds and the last one stay,
    others keep figures.
    """

    def size(window: Window) -> int:
        blocks = [b for ball in window.lower.balls for b in ball] if window.lower is not None else []
        return sum(b.linear.nbytes + (b.matrices.nbytes if b.matrices is not None else 0) for b in blocks)

    order = sorted(range(len(windows)), key=lambda k: (k != len(windows) - 1, -windows[k].lower_bound))
    total, result = 0, list(windows)
    for k in order:
        if windows[k].lower is None:
            continue
        total += size(windows[k])
        if total > budget and k != len(windows) - 1 and k != order[min(1, len(order) - 1)]:
            result[k] = replace(windows[k], lower=None)
    return result


def save_trace(trace: Trace, folder: Path, files: Files | None = None) -> None:
    """Write ``trace.json``, ``initial.safetensors`` and one file per window.

    Windows that are already on disk are not written again.

    Args:
        trace: what training recorded.
        folder: where to.
        files: of the run that ``folder`` lies in, which keeps a record of them; ``None`` for none.

    >>> import torch
    >>> import pathlib, tempfile
    >>> from holdfast import trace
    >>> start = {"names": (("w",),), "initial": {"w": torch.zeros(1)}, "fixed": {}}
    >>> empty = trace.Trace(**start, windows=(), rigorous=False, reason="no window")
    >>> with tempfile.TemporaryDirectory() as name:
    ...     trace.save_trace(empty, pathlib.Path(name))
    ...     pathlib.Path(name, "trace.json").exists()
    True
    """
    files, under = _files_of(folder, files)
    with files.together():
        start = f"{under}initial.safetensors"
        # Without a record nobody knows whose file it is; with one it is this run's.
        if not files.recorded or start not in files:
            files.put(start, tensor_writer(trace.initial))
        rows = []
        for window in trace.windows:
            row: dict[str, Any] = {
                "first": window.first,
                "last": window.last,
                "epoch": window.epoch,
                "online_loss": window.online_loss,
                "drift": list(window.drift),
                "lower_bound": window.lower_bound,
                "void": window.void,
                "frozen": window.frozen,
                "reach": window.reach,
                "rounding": vars(window.rounding),
            }
            if window.lower is not None:
                tensors = _block_tensors(window.lower)
                file = f"window-{window.last:08d}-{_digest(tensors):08x}.safetensors"
                row["file"], row["constant"] = file, window.lower.constant
                if window.lower.radii:
                    row["radii"] = list(window.lower.radii)
                row["eigenvalues"] = [[block.eigenvalue for block in ball] for ball in window.lower.balls]
                if f"{under}{file}" not in files:
                    files.put(f"{under}{file}", tensor_writer(tensors))
            rows.append(row)
        record = {
            "format": FORMAT,
            "names": trace.names,
            "rigorous": trace.rigorous,
            "reason": trace.reason,
            "initial": _digest(trace.initial),
            "fixed": trace.fixed,
            "windows": rows,
        }
        files.put(f"{under}trace.json", json_writer(record))
        # Removed after the record that no longer names them is on disk.
        wanted = {row.get("file") for row in rows}
        stale = (path.name for path in folder.glob("window-*.safetensors"))
        files.drop(f"{under}{name}" for name in stale if name not in wanted)


def _files_of(folder: Path, files: Files | None) -> tuple[Files, str]:
    """Where a trace's files are written, and what goes before their names there."""
    if files is not None:
        return files, f"{folder.name}/"
    folder.mkdir(parents=True, exist_ok=True)
    return Files(folder, recorded=False), ""


def _digest(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of the numbers, by name."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(raw_bytes(tensors[name]), value)
    return value


def _block_tensors(lower: LowerModel) -> dict[str, Tensor]:
    tensors = {}
    for k, ball in enumerate(lower.balls):
        for j, block in enumerate(ball):
            tensors[f"{k}.{j}.linear"] = block.linear
            if block.matrices is not None:
                tensors[f"{k}.{j}.matrices"] = block.matrices
            if block.basis is not None:
                tensors[f"{k}.{j}.basis"] = block.basis
    return tensors


def load_trace(folder: Path) -> Trace:
    """The trace in a run's ``trace`` folder.

    Args:
        folder: of a run's trace.

    Raises:
        RunFolderError: a file is missing, cut short or of another format.

    >>> import torch
    >>> import pathlib, tempfile
    >>> from holdfast import trace
    >>> start = {"names": (("w",),), "initial": {"w": torch.zeros(1)}, "fixed": {}}
    >>> empty = trace.Trace(**start, windows=(), rigorous=False, reason="no window")
    >>> with tempfile.TemporaryDirectory() as name:
    ...     trace.save_trace(empty, pathlib.Path(name))
    ...     trace.load_trace(pathlib.Path(name)).names
    (('w',),)
    """
    try:
        record = json.loads(checked(folder / "trace.json").read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise RunFolderError(
                f"the trace in {folder} is of format {record['format']}, this version reads {FORMAT}; use "
                "the version of Holdfast that its summary.json names, or train again."
            )
        initial = load_file(checked(folder / "initial.safetensors"))
        _refuse_not_finite(folder / "initial.safetensors", initial)
        windows = tuple(_window(row, folder) for row in record["windows"])
        return Trace(
            names=tuple(tuple(ball) for ball in record["names"]),
            initial=initial,
            windows=windows,
            rigorous=record["rigorous"],
            reason=record["reason"],
            fixed=dict(record["fixed"]),
        )
    except RunFolderError:
        raise
    except FileNotFoundError as error:
        raise RunFolderError(
            f"the trace must be whole, but {error.filename or folder} is missing; train again or resume "
            "the run."
        ) from error
    except Exception as error:  # safetensors, json and key errors all mean the same to the user
        raise RunFolderError(
            f"the trace in {folder} cannot be read ({type(error).__name__}: {error}); it was cut short, "
            "so train again or resume the run."
        ) from error


def _window(row: dict[str, Any], folder: Path) -> Window:
    lower = None
    if "file" in row:
        path = _window_file(row["file"], folder)
        tensors = load_file(checked(path))
        _refuse_not_finite(path, tensors)
        lower = LowerModel(
            constant=_finite(row, "constant", folder),
            balls=tuple(
                tuple(
                    Block(
                        linear=tensors[f"{k}.{j}.linear"],
                        matrices=tensors.get(f"{k}.{j}.matrices"),
                        eigenvalue=_finite({"eigenvalue": eigenvalue}, "eigenvalue", folder),
                        basis=tensors.get(f"{k}.{j}.basis"),
                    )
                    for j, eigenvalue in enumerate(ball)
                )
                for k, ball in enumerate(row["eigenvalues"])
            ),
            radii=_radii(row),
        )
        for name in row["rounding"]:
            _finite(row["rounding"], name, folder)
    return Window(
        first=row["first"],
        last=row["last"],
        epoch=row["epoch"],
        online_loss=_number(row["online_loss"]),
        drift=tuple(_number(d) for d in row["drift"]),
        lower=lower,
        lower_bound=_number(row["lower_bound"]),
        void=row["void"],
        frozen=row["frozen"],
        reach=row["reach"],
        rounding=Rounding(**row["rounding"]),
    )


def _window_file(name: Any, folder: Path) -> Path:
    """A window's file, which has the name that windows get and lies in the trace's own folder, not behind
    a link.
    """
    path = folder / str(name)
    if not WINDOW.fullmatch(str(name)) or path.is_symlink():
        raise RunFolderError(
            f"{folder / 'trace.json'} must name windows in its own folder, but names {str(name)[:80]!r}, "
            "which leads elsewhere; train again."
        )
    return path


def _refuse_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """No proof follows from NaN or infinity."""
    wrong = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if wrong:
        raise RunFolderError(f"{path} must hold finite numbers, but {wrong[0]} has others; train again.")


def _finite(row: Mapping[str, Any], name: str, folder: Path) -> Any:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RunFolderError(
            f"{folder / 'trace.json'} must hold finite numbers, but {name} is {value!r}; train again."
        )
    return value


def _radii(row: dict[str, Any]) -> tuple[float, ...]:
    """Traces of earlier versions named one radius for all balls."""
    if "radius" in row:
        return (float(row["radius"]),) * len(row["eigenvalues"])
    return tuple(row.get("radii", ()))


def _number(value: float | None) -> float:
    """JSON has no word for NaN: it was written as null."""
    return float("nan") if value is None else value


def save_points(points: FrozenPoints, folder: Path, files: Files | None = None) -> None:
    """Write ``final_pass.safetensors``: what a certificate at another radius needs besides the weights.

    Args:
        points: of the frozen pass.
        folder: of a run's trace.
        files: of the run that ``folder`` lies in, which keeps a record of them; ``None`` for none.

    >>> import torch
    >>> import pathlib, tempfile
    >>> from holdfast import trace
    >>> points = trace.FrozenPoints(x=torch.eye(2), points=torch.eye(2), y=torch.tensor([0, 1]))
    >>> with tempfile.TemporaryDirectory() as name:
    ...     trace.save_points(points, pathlib.Path(name))
    ...     [file.name for file in pathlib.Path(name).iterdir()]
    ['final_pass.safetensors']
    """
    files, under = _files_of(folder, files)
    tensors = {"x": points.x, "points": points.points, "y": points.y}
    files.put(f"{under}final_pass.safetensors", tensor_writer(tensors))


def load_points(folder: Path) -> FrozenPoints:
    """The points that `save_points` wrote.

    Args:
        folder: of a run's trace.

    Raises:
        RunFolderError: the file is missing, cut short or of another format.

    >>> import torch
    >>> import pathlib, tempfile
    >>> from holdfast import trace
    >>> points = trace.FrozenPoints(x=torch.eye(2), points=torch.eye(2), y=torch.tensor([0, 1]))
    >>> with tempfile.TemporaryDirectory() as name:
    ...     trace.save_points(points, pathlib.Path(name))
    ...     trace.load_points(pathlib.Path(name)).y
    tensor([0, 1])
    """
    try:
        tensors = load_file(checked(folder / "final_pass.safetensors"))
        _refuse_not_finite(folder / "final_pass.safetensors", tensors)
        return FrozenPoints(x=tensors["x"], points=tensors["points"], y=tensors["y"].to(torch.int64))
    except RunFolderError:
        raise
    except Exception as error:
        raise RunFolderError(
            f"the attacked points in {folder} cannot be read ({type(error).__name__}: {error}); resume "
            "the run to write them again."
        ) from error
