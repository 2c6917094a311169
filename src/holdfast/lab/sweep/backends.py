"""Where the cells of a sweep run: one after another, in processes of this machine (joblib), or on a Ray
cluster.

Each yields records as cells end, in any order. A process that dies takes its cell down, not the sweep: that
cell is tried once more.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from holdfast._rules import COUNT, TEXT, maybe, takes
from holdfast._signals import keeping_handlers
from holdfast.errors import InputError
from holdfast.lab.sweep.cell import TRIES, Record, run_cell

Cells = Sequence[dict[str, Any]]
Backend = Callable[[Cells, str, int], Iterator[Record]]


def in_turn(cells: Cells, folder: str, threads: int) -> Iterator[Record]:
    """In this process."""
    for cell in cells:
        record = run_cell(cell, folder, threads)
        if record["status"] == "interrupted":
            raise KeyboardInterrupt if record["code"] is None else SystemExit(record["code"])
        yield record


@takes(processes=COUNT)
def in_processes(processes: int) -> Backend:
    """In processes of this machine, each limited to its threads."""

    def run(cells: Cells, folder: str, threads: int) -> Iterator[Record]:
        from joblib import Parallel, delayed, parallel_config
        from joblib.externals.loky import get_reusable_executor
        from joblib.externals.loky.process_executor import BrokenProcessPool

        left = {cell["slug"]: cell for cell in cells}
        stopped: Counter[str] = Counter()
        alone = False
        try:
            while left:
                # after a process died nobody knows whose cell it was: one at a time tells
                batch = [next(iter(left.values()))] if alone else list(left.values())
                with parallel_config(backend="loky", n_jobs=processes, inner_max_num_threads=threads):
                    work = Parallel(return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
                    try:
                        for record in work(delayed(run_cell)(cell, folder, threads) for cell in batch):
                            slug = record["slug"]
                            if (
                                record["status"] == "interrupted"
                            ):  # its process alone was told to stop: once more
                                stopped[slug] += 1
                                if stopped[slug] == TRIES:
                                    yield _died(left.pop(slug))
                                continue
                            left.pop(slug)
                            yield record
                    except BrokenProcessPool:
                        if alone:
                            yield _died(left.pop(batch[0]["slug"]))
                        alone = True
        finally:
            get_reusable_executor().shutdown(wait=False, kill_workers=True)

    return run


@takes(address=maybe(TEXT))
def on_ray(address: str | None) -> Backend:
    """On a Ray cluster: the one at ``address``, one that is running, or a new one on this machine. The folder
    must be shared.

    Raises:
        InputError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "--backend ray needs Ray, which is not installed; pip install 'holdfast[ray]', or use "
            "--backend joblib."
        ) from error

    def run(cells: Cells, folder: str, threads: int) -> Iterator[Record]:
        ours = not ray.is_initialized()
        if ours:
            try:
                with keeping_handlers():  # Ray puts one of its own in place of ours
                    ray.init(
                        address=address,
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                    )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise InputError(
                    f"--address must be that of a running Ray cluster, got {address!r} "
                    f"({' '.join(str(error).split())}); start one with `ray start --head`, or leave it out."
                ) from error
        try:
            remote = ray.remote(num_cpus=threads, max_retries=TRIES - 1)(run_cell)
            waiting = {remote.remote(cell, folder, threads): cell for cell in cells}
            while waiting:
                [ready], _ = ray.wait(list(waiting), num_returns=1)
                cell = waiting.pop(ready)
                try:
                    record = ray.get(ready)
                    yield _died(cell) if record["status"] == "interrupted" else record
                except ray.exceptions.RayError:
                    yield _died(cell)
        finally:
            if ours:
                ray.shutdown()

    return run


def _died(cell: dict[str, Any]) -> Record:
    """The record of a cell whose process ended without a word."""
    return {
        "slug": cell["slug"],
        "place": cell["place"],
        "status": "failed",
        "figures": {},
        "tries": TRIES,
        "seconds": None,
        "reason": "its process died, perhaps for lack of memory; try fewer --processes",
    }
