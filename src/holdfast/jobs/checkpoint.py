"""Stopping a run and going on with it: signals, the best weights so far, and the state that training resumes from."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast.errors import InputError, RunFolderError
from holdfast.runs import RunWriter, read_metrics
from holdfast.runs.run import read_checkpoint
from holdfast.trace import Trace, TraceRecorder, load_trace, save_trace
from holdfast.training import TrainingState

Rows = list[dict[str, Any]]


@dataclass
class Best:
    """The weights that did best on the validation part."""

    accuracy: float = -1.0
    loss: float = float("inf")
    weights: dict[str, Tensor] | None = None
    epoch: int = 0


def save_state(
    writer: RunWriter, model: nn.Module, optimizer: Any, recorder: TraceRecorder, trace: Trace,
    state: TrainingState, best: Best, rows: Rows,
) -> None:  # fmt: skip
    """All that a resumed run needs, and all that a reader of an unfinished one finds."""
    if writer.folder is None:
        return
    save_trace(trace, writer.folder / "trace")
    writer.metrics(rows)
    current = model.state_dict()
    writer.weights("last", current)
    writer.weights("model", best.weights or current)
    writer.checkpoint(
        {
            "model": current, "optimizer": optimizer.state_dict(), "epoch": state.epoch, "rounds": state.rounds,
            "seconds": state.seconds, "generator": state.generator_state, "recorded_rounds": recorder.rounds,
            "best": {"accuracy": best.accuracy, "loss": best.loss, "epoch": best.epoch, "weights": best.weights},
        }
    )  # fmt: skip


def resume_state(
    folder: Path, model: nn.Module, optimizer: Any, recorder: TraceRecorder
) -> tuple[TrainingState, Best, Rows]:
    """Put model, optimiser and recorder back to the last checkpoint in ``folder``.

    Raises:
        RunFolderError: there is no checkpoint, or it was cut short.
        InputError: it is of another network or optimiser.
    """
    saved, trace = read_checkpoint(folder), load_trace(folder / "trace")
    try:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        for name, start in recorder.initial.items():
            start.copy_(trace.initial[name])
        recorder.rounds = saved["recorded_rounds"]
        state = TrainingState(
            epoch=saved["epoch"], rounds=saved["rounds"], seconds=saved["seconds"], generator_state=saved["generator"],
            windows=[w for w in trace.windows if w.last <= saved["recorded_rounds"]],
        )  # fmt: skip
        recorder.last = next((w for w in reversed(state.windows) if w.lower is not None), None)
        best = Best(**saved["best"])
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"resume needs the model and the optimizer that {folder} was begun with, got others "
            f"({' '.join(str(error).split())}); pass the same ones."
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"the checkpoint in {folder} lacks {error}; start without resume.") from error
    return state, best, [row for row in read_metrics(folder) if row["epoch"] <= state.epoch]


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask training to stop after the step it is in; a second Ctrl-C stops at once."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
