"""The lines of ``metrics.jsonl``: one an epoch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.theory import KernelFigures
from holdfast.trace import Window
from holdfast.trace.recorder import window_at
from holdfast.training import EpochRecord

Row = dict[str, Any]


def metrics_row(record: EpochRecord, names: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    window: Window | None = record.window
    return {
        "epoch": record.epoch, "rounds": record.rounds, "seconds": record.seconds, "learning_rate": record.learning_rate,
        "online_loss": record.online_loss, "lower_bound": None if window is None else window.lower_bound,
        "void": "" if window is None else window.void,
        "drift": {ball_name(ball): distance for ball, distance in zip(names, record.drift, strict=True)},
        "clean_accuracy": None, "robust_accuracy": None, "robust_loss": None,
    }  # fmt: skip


def kernel_row(figures: KernelFigures) -> dict[str, float]:
    """The columns of one look at the tangent kernel."""
    return {
        "kernel_drift": figures.drift,
        "kernel_alignment": figures.alignment,
        "kernel_centred_alignment": figures.centred_alignment,
        "kernel_eigenvalue_max": figures.eigenvalue_max,
        "kernel_eigenvalue_min": figures.eigenvalue_min,
        "weight_drift": figures.weight_drift,
    }


def ball_name(names: tuple[str, ...]) -> str:
    """A word for the ball of these parameters: the parameter, or the layer that owns them."""
    return names[0] if len(names) == 1 else names[0].rpartition(".")[0] or " + ".join(names)


def at_radius(windows: Sequence[Window], radius: float) -> list[Window]:
    """The windows with their bounds at this radius; NaN where the lower model was dropped for space."""
    return [
        window_at(w, radius) if w.lower is not None else replace(w, lower_bound=float("nan")) for w in windows
    ]


def with_bounds(rows: list[dict[str, Any]], windows: Sequence[Window]) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` with the bounds of these windows."""
    bounds = {window.epoch: window.lower_bound for window in windows}
    return [row | {"lower_bound": bounds.get(row["epoch"])} for row in rows]
