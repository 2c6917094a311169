"""One evaluation on several processes of a machine: each takes every n-th example, and the first puts them
together.
"""

import multiprocessing
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast import _defaults
from holdfast._files import write_text
from holdfast.attacks import Attack
from holdfast.errors import HoldfastError, InputError
from holdfast.evaluation.cascade import evaluate
from holdfast.evaluation.result import Evaluation, together
from holdfast.evaluation.store import load_attacked, save_attacked
from holdfast.evaluation.warning_signs import examined
from holdfast.threats.base import Threat

TRIES = 2
"""At a share whose process is killed."""
PATIENCE = 10.0
"""Seconds that a process has to write its state when it is told to stop."""


def evaluate_in_processes(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attacks: str | Sequence[Attack] = _defaults.ATTACKS,
    *,
    processes: int,
    resume_from: str | Path | None = None,
    examine: bool = True,
    **settings: Any,
) -> Evaluation:
    """`evaluate` with the examples dealt out to ``processes``; on GPUs each takes the next device.

    Settings are those of `evaluate`, without callbacks. With ``resume_from`` each process keeps a file of its
    own beside it.

    Raises:
        InputError: fewer than one process, more than examples, or a model or attack that cannot be sent to
            another process.
        HoldfastError: a process failed, or was killed twice.
    """
    if not 1 <= processes <= len(x):
        raise InputError(
            f"processes must be between 1 and the number of examples ({len(x)}), got {processes}; leave "
            "it out for one."
        )
    if processes == 1:
        return evaluate(model, x, y, threat, attacks, resume_from=resume_from, examine=examine, **settings)
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.pickle"
        try:
            job.write_bytes(pickle.dumps((model, x.cpu(), y.cpu(), threat, attacks, settings)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                "model, threat and attacks must be such that other processes can have them, but "
                f"{error}; use processes=1."
            ) from error
        kept = None if resume_from is None else str(resume_from)
        _in_workers(processes, (processes, str(job), folder, kept), Path(folder) / "error.txt")
        parts = [load_attacked(Path(folder) / f"{rank}.safetensors")[0] for rank in range(processes)]
    rows = torch.cat([torch.arange(rank, len(x), processes) for rank in range(processes)])
    result = together(parts, rows)
    if not examine:
        return result
    return examined(
        model,
        x,
        y,
        threat,
        result,
        training=model.training,
        seed=settings.get("seed", 0),
        batch_size=settings.get("batch_size"),
        notice=settings.get("notice"),
    )


def _in_workers(processes: int, arguments: tuple[Any, ...], failed: Path) -> None:
    """Every share in a process of its own. One that is killed has its share done again, once.

    Raises:
        InputError: what a share was refused with.
        HoldfastError: a share failed, or was killed again.
    """
    context = multiprocessing.get_context("spawn")

    def begin(rank: int) -> SpawnProcess:
        process = context.Process(target=_share, args=(rank, *arguments))
        process.start()
        return process

    tries, running = Counter(range(processes)), {rank: begin(rank) for rank in range(processes)}
    try:
        while running:
            wait([process.sentinel for process in running.values()])
            for rank, process in [entry for entry in running.items() if entry[1].exitcode is not None]:
                del running[rank]
                if failed.exists():
                    kind, _, text = failed.read_text(encoding="utf-8").partition(":")
                    raise InputError(text) if kind == "refused" else HoldfastError(text)
                if process.exitcode == 0:
                    continue
                if tries[rank] == TRIES:
                    raise HoldfastError(
                        f"a process of the evaluation was killed twice (exit code {process.exitcode}), "
                        "perhaps for lack of memory; take fewer processes or a smaller batch size."
                    )
                tries[rank] += 1
                running[rank] = begin(rank)
    finally:
        for process in running.values():
            process.terminate()  # it writes its state, where it keeps one
        for process in running.values():
            process.join(PATIENCE)
            process.kill()


def _share(rank: int, processes: int, job: str, folder: str, kept: str | None) -> None:
    """What one process does."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    model, x, y, threat, attacks, settings = pickle.loads(
        Path(job).read_bytes()
    )  # written by the parent just now
    if next((p.is_cuda for p in model.parameters()), False):
        model.to(f"cuda:{rank % torch.cuda.device_count()}")
    rows = torch.arange(rank, len(x), processes)
    state = None if kept is None else Path(f"{kept}.{rank}of{processes}")
    try:
        done = evaluate(
            model, x[rows], y[rows], threat, attacks, resume_from=state, examine=False, **settings
        )
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # the first process has been told too
    except Exception as error:
        refused = isinstance(error, HoldfastError)
        text = (
            f"refused:{error}"
            if refused
            else f"failed:a process of the evaluation failed ({type(error).__name__}: {_line(error)}); take"
        )
        text += "" if refused else " one process to see where."
        write_text(Path(folder) / "error.txt", text)
        return
    save_attacked(done, x[rows], Path(folder) / f"{rank}.safetensors")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
