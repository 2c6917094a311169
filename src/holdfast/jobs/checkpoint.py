"""Going on with a run that stopped: the best weights so far, and the state that training resumes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from holdfast.errors import InputError, RunFolderError
from holdfast.record.run import RunWriter, read_checkpoint, read_config_file, read_figures
from holdfast.record.schema import EpochFigures
from holdfast.trace import TraceRecorder, load_trace
from holdfast.training import Carried, TrainingState, Within
from holdfast.training.averaging import Average

Epochs = list[EpochFigures]


@dataclass
class Best:
    """The weights that did best on the validation part."""

    accuracy: float = -1.0
    loss: float = float("inf")
    weights: dict[str, Tensor] | None = None
    epoch: int = 0


def save_state(
    writer: RunWriter,
    model: nn.Module,
    optimizer: Any,
    recorder: TraceRecorder,
    state: TrainingState,
    best: Best,
) -> None:
    """All that a resumed run needs beside the trace and the metrics."""
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": state.epoch,
        "rounds": state.rounds,
        "seconds": state.seconds,
        "generator": state.generator_state,
        "average": vars(state.average),
        # each process carries points of its own, and one of them saves
        "carried": None if recorder.processes > 1 else vars(state.carried),
        "recorded_rounds": recorder.rounds,
        "within": None if state.within is None else vars(state.within),
        "best": vars(best),
        "window": None if state.within is None else recorder.open_state(),
    }
    writer.checkpoint(saved)


def resume_state(
    folder: Path, model: nn.Module, optimizer: Any, recorder: TraceRecorder
) -> tuple[TrainingState, Best, Epochs]:
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
            epoch=saved["epoch"],
            rounds=saved["rounds"],
            seconds=saved["seconds"],
            generator_state=saved["generator"],
            average=Average(**saved["average"]),
            windows=[w for w in trace.windows if w.last <= saved["recorded_rounds"]],
            carried=Carried(**(saved.get("carried") or {})),
            within=None if saved["within"] is None else Within(**saved["within"]),
        )
        recorder.last = next((w for w in reversed(state.windows) if w.lower is not None), None)
        if saved.get("window") is not None:
            recorder.reopen(saved["window"])
        best = Best(**saved["best"])
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"resume needs the model and the optimizer that {folder} was begun with, got others "
            f"({' '.join(str(error).split())}); pass the same ones."
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"the checkpoint in {folder} lacks {error}; start without resume.") from error
    return state, best, [row for row in read_figures(folder).epochs if (row.epoch or 0) <= state.epoch]


def kept_config(folder: Path, described: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The configuration of a run resumed from Python: that of the command line with its number of epochs,
    else ``described``.
    """
    held = read_config_file(folder)
    if held.get("started_from") == "python" or not isinstance(held.get("training"), dict):
        return described
    return {**held, "training": {**held["training"], "epochs": epochs}}
