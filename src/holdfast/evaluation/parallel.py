"""One evaluation on several processes of a machine: each takes every n-th example, and the first puts them together."""

import os
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from holdfast.attacks import Attack
from holdfast.errors import HoldfastError, InputError
from holdfast.evaluation.cascade import evaluate
from holdfast.evaluation.doubt import examined
from holdfast.evaluation.result import Evaluation, together
from holdfast.evaluation.store import load_attacked, save_attacked
from holdfast.threats.base import Threat


def evaluate_in_processes(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attacks: str | Sequence[Attack] = "standard",
    *,
    processes: int,
    resume_from: str | Path | None = None,
    examine: bool = True,
    **settings: Any,
) -> Evaluation:
    """`evaluate` with the examples dealt out to ``processes``; on GPUs each takes the next device.

    Settings are those of `evaluate`, without callbacks. With ``resume_from`` each process keeps a file of its own beside it.

    Raises:
        InputError: fewer than one process, more than examples, or a model or attack that cannot be sent to another process.
    """
    if not 1 <= processes <= len(x):
        raise InputError(
            f"processes must be between 1 and the number of examples ({len(x)}), got {processes}; leave it out for one."
        )
    if processes == 1:
        return evaluate(model, x, y, threat, attacks, resume_from=resume_from, examine=examine, **settings)
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.pickle"
        try:
            job.write_bytes(pickle.dumps((model, x.cpu(), y.cpu(), threat, attacks, settings)))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"model, threat and attacks must be such that other processes can have them, but {error}; use processes=1."
            ) from error
        kept = None if resume_from is None else str(resume_from)
        start_processes(_share, (processes, str(job), folder, kept), nprocs=processes, start_method="spawn")  # type: ignore[no-untyped-call]
        failed = Path(folder) / "error.txt"
        if failed.exists():
            raise InputError(failed.read_text(encoding="utf-8"))
        parts = [load_attacked(Path(folder) / f"{rank}.safetensors")[0] for rank in range(processes)]
    rows = torch.cat([torch.arange(rank, len(x), processes) for rank in range(processes)])
    result = together(parts, rows)
    return (
        examined(model, x, y, threat, result, training=model.training, seed=settings.get("seed", 0))
        if examine
        else result
    )


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
    except HoldfastError as error:
        (Path(folder) / "error.txt").write_text(str(error), encoding="utf-8")
        return
    save_attacked(done, x[rows], Path(folder) / f"{rank}.safetensors")
