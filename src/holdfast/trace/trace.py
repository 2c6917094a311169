"""The trace: what a run leaves behind for certificates, and its folder on disk (no code is executed on loading)."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from holdfast._files import write_json, write_tensors
from holdfast._tensors import raw_bytes
from holdfast.errors import RunFolderError
from holdfast.trace.lower_model import Block, LowerModel
from holdfast.trace.window import Rounding, Window

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class FrozenPoints:
    """The attacked points of the last frozen pass, with the examples they came from."""

    x: Float[Tensor, "examples ..."]
    points: Float[Tensor, "examples ..."]
    y: Int[Tensor, " examples"]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A frozen full pass at weights inside a run: their name, the surrogate loss there (float64), the distance of each ball."""

    weights: str
    surrogate_loss: float
    allowance: float
    distance: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Everything certificates read.

    Attributes:
        names: trained parameters, one tuple a ball.
        initial: ``W0`` by parameter name.
        windows: in order of training; those whose lower model was dropped for space keep their figures.
        rigorous, reason: whether the curvature bound is a proof, and why (not).
        fixed: digests of all that the function depends on besides the trained parameters (`holdfast.networks.exact.fingerprints`).
    """

    names: tuple[tuple[str, ...], ...]
    initial: dict[str, Tensor]
    windows: tuple[Window, ...]
    rigorous: bool
    reason: str
    fixed: dict[str, str]

    @property
    def void(self) -> str:
        """Why the whole trace proves nothing: the first fault of any window. One wrong round casts doubt on the others."""
        for window in self.windows:
            if window.void:
                return f"rounds {window.first} to {window.last}: {window.void}"
        return ""


def kept(windows: list[Window], budget: int) -> list[Window]:
    """The windows with at most ``budget`` bytes of lower models: the highest bounds and the last one stay, others keep figures."""

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


def save_trace(trace: Trace, folder: Path) -> None:
    """Write ``trace.json``, ``initial.safetensors`` and a file a window; windows already on disk are left as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    # A folder may hold another run's files: only those that this record's digests name count as written.
    initial = _digest(trace.initial)
    if _written_digest(folder) != initial:
        write_tensors(folder / "initial.safetensors", trace.initial)
    rows = []
    for window in trace.windows:
        row: dict[str, Any] = {
            "first": window.first, "last": window.last, "epoch": window.epoch, "online_loss": window.online_loss,
            "drift": list(window.drift), "lower_bound": window.lower_bound, "void": window.void,
            "frozen": window.frozen, "reach": window.reach, "rounding": vars(window.rounding),
        }  # fmt: skip
        if window.lower is not None:
            tensors = _block_tensors(window.lower)
            file = f"window-{window.last:08d}-{_digest(tensors):08x}.safetensors"
            row["file"], row["constant"] = file, window.lower.constant
            if window.lower.radii:
                row["radii"] = list(window.lower.radii)
            row["eigenvalues"] = [[block.eigenvalue for block in ball] for ball in window.lower.balls]
            if not (folder / file).exists():
                write_tensors(folder / file, tensors)
        rows.append(row)
    files = {row.get("file") for row in rows}
    for stale in folder.glob("window-*.safetensors"):
        if stale.name not in files:
            stale.unlink()
    write_json(
        folder / "trace.json",
        {
            "format": FORMAT,
            "names": trace.names,
            "rigorous": trace.rigorous,
            "reason": trace.reason,
            "initial": initial,
            "fixed": trace.fixed,
            "windows": rows,
        },
    )


def _digest(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of the numbers, by name."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(raw_bytes(tensors[name]), value)
    return value


def _written_digest(folder: Path) -> int | None:
    """The digest of ``initial.safetensors`` that the record beside it names; nothing where there is no such pair."""
    try:
        record = json.loads((folder / "trace.json").read_text())
        return int(record["initial"]) if (folder / "initial.safetensors").exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


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

    Raises:
        RunFolderError: a file is missing, cut short or of another format.
    """
    try:
        record = json.loads((folder / "trace.json").read_text())
        if record["format"] != FORMAT:
            raise RunFolderError(
                f"the trace in {folder} is of format {record['format']}, this version reads {FORMAT}; use the version of Holdfast that "
                "its summary.json names, or train again."
            )
        initial = load_file(folder / "initial.safetensors")
        windows = tuple(_window(row, folder) for row in record["windows"])
        return Trace(
            names=tuple(tuple(ball) for ball in record["names"]), initial=initial, windows=windows,
            rigorous=record["rigorous"], reason=record["reason"], fixed=dict(record["fixed"]),
        )  # fmt: skip
    except RunFolderError:
        raise
    except FileNotFoundError as error:
        raise RunFolderError(
            f"the trace must be whole, but {error.filename or folder} is missing; train again or resume the run."
        ) from error
    except Exception as error:  # safetensors, json and key errors all mean the same to the user
        raise RunFolderError(
            f"the trace in {folder} cannot be read ({type(error).__name__}: {error}); it was cut short, so train again or resume the run."
        ) from error


def _window(row: dict[str, Any], folder: Path) -> Window:
    lower = None
    if "file" in row:
        tensors = load_file(folder / row["file"])
        lower = LowerModel(
            constant=row["constant"],
            balls=tuple(
                tuple(
                    Block(
                        linear=tensors[f"{k}.{j}.linear"],
                        matrices=tensors.get(f"{k}.{j}.matrices"),
                        eigenvalue=eigenvalue,
                        basis=tensors.get(f"{k}.{j}.basis"),
                    )
                    for j, eigenvalue in enumerate(ball)
                )
                for k, ball in enumerate(row["eigenvalues"])
            ),
            radii=_radii(row),
        )
    return Window(
        first=row["first"], last=row["last"], epoch=row["epoch"], online_loss=_number(row["online_loss"]),
        drift=tuple(_number(d) for d in row["drift"]), lower=lower, lower_bound=_number(row["lower_bound"]),
        void=row["void"], frozen=row["frozen"], reach=row["reach"], rounding=Rounding(**row["rounding"]),
    )  # fmt: skip


def _radii(row: dict[str, Any]) -> tuple[float, ...]:
    """Traces of earlier versions named one radius for all balls."""
    if "radius" in row:
        return (float(row["radius"]),) * len(row["eigenvalues"])
    return tuple(row.get("radii", ()))


def _number(value: float | None) -> float:
    """JSON has no word for NaN: it was written as null."""
    return float("nan") if value is None else value


def save_points(points: FrozenPoints, folder: Path) -> None:
    """Write ``final_pass.safetensors``: what a certificate at another radius needs besides the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "final_pass.safetensors", {"x": points.x, "points": points.points, "y": points.y})


def load_points(folder: Path) -> FrozenPoints:
    """The points that `save_points` wrote."""
    try:
        tensors = load_file(folder / "final_pass.safetensors")
        return FrozenPoints(x=tensors["x"], points=tensors["points"], y=tensors["y"].to(torch.int64))
    except Exception as error:
        raise RunFolderError(
            f"the attacked points in {folder} cannot be read ({type(error).__name__}: {error}); resume the run to write them again."
        ) from error
