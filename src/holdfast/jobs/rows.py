"""The lines of ``metrics.jsonl``: one per epoch."""

from collections.abc import Sequence
from dataclasses import replace

from holdfast.record.plain import figure
from holdfast.record.schema import EpochFigures
from holdfast.theory import KernelFigures
from holdfast.trace import Window
from holdfast.trace.recorder import window_at
from holdfast.training import EpochRecord


def metrics_row(record: EpochRecord, names: tuple[tuple[str, ...], ...]) -> EpochFigures:
    window: Window | None = record.window
    return EpochFigures(
        epoch=record.epoch,
        rounds=record.rounds,
        seconds=record.seconds,
        learning_rate=figure(record.learning_rate),
        online_loss=figure(record.online_loss),
        lower_bound=None if window is None else figure(window.lower_bound),
        void="" if window is None else window.void,
        drift={ball_name(ball): figure(distance) for ball, distance in zip(names, record.drift, strict=True)},
    )


def with_kernel(row: EpochFigures, figures: KernelFigures) -> EpochFigures:
    """The row with one look at the tangent kernel."""
    return replace(
        row,
        kernel_drift=figure(figures.drift),
        kernel_alignment=figure(figures.alignment),
        kernel_centred_alignment=figure(figures.centred_alignment),
        kernel_eigenvalue_max=figure(figures.eigenvalue_max),
        kernel_eigenvalue_min=figure(figures.eigenvalue_min),
        weight_drift=figure(figures.weight_drift),
    )


def ball_name(names: tuple[str, ...]) -> str:
    """A word for the ball of these parameters: the parameter, or the layer that owns them."""
    return names[0] if len(names) == 1 else names[0].rpartition(".")[0] or " + ".join(names)


def at_radius(windows: Sequence[Window], radius: float) -> list[Window]:
    """The windows with their bounds at this radius; NaN where the lower model was dropped for space."""
    return [
        window_at(w, radius) if w.lower is not None else replace(w, lower_bound=float("nan")) for w in windows
    ]


def with_bounds(rows: Sequence[EpochFigures], windows: Sequence[Window]) -> list[EpochFigures]:
    """The rows of ``metrics.jsonl`` with the bounds of these windows."""
    bounds = {window.epoch: window.lower_bound for window in windows}
    return [replace(row, lower_bound=figure(bounds.get(row.epoch or 0))) for row in rows]
