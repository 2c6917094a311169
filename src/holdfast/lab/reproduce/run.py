"""Runs experiments one after another; each is written down as soon as it is finished, and never run twice
with the same settings.
"""

import difflib
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from holdfast._files import json_writer
from holdfast._progress import Progress
from holdfast._record import RECORD, RECORDED, Files, locked, read_values
from holdfast._rules import FLAG, FUNCTION, PATH, TEXT, kind, maybe, several, takes
from holdfast._signals import stopping
from holdfast.errors import InputError, RunFolderError
from holdfast.lab.reproduce import capacity, convergence, drift, iterations, optimal_loss, small_rho, width
from holdfast.lab.reproduce.base import Experiment, Scale, record, settings
from holdfast.record.folder import check_folder

EXPERIMENTS = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (convergence, width, iterations, optimal_loss, drift, capacity, small_rho)
}
ALL = "all"
FILE = "reproduce.json"
PAGE = "reproduce.html"


def chosen(names: Sequence[str]) -> list[Experiment]:
    """The experiments of these names in their own order; all for none or ``all``.

    Raises:
        InputError: a name that is none of theirs.
    """
    for name in names:
        if name not in EXPERIMENTS and name != ALL:
            close = difflib.get_close_matches(name, [*EXPERIMENTS, ALL], n=1, cutoff=0.5)
            remedy = f"did you mean {close[0]}?" if close else "see `holdfast reproduce --list`."
            raise InputError(f"NAME must be one of {', '.join(EXPERIMENTS)} or {ALL}, got {name!r}; {remedy}")
    wanted = set(EXPERIMENTS) if not names or ALL in names else set(names)
    return [experiment for name, experiment in EXPERIMENTS.items() if name in wanted]


@stopping()
@takes(
    names=several(TEXT, least=0),
    scale=maybe(kind(Scale, what="a Scale such as Scale(quick=True)")),
    out=maybe(PATH),
    overwrite=FLAG,
    progress=FLAG,
    finished=maybe(FUNCTION),
)
def reproduce(
    names: Sequence[str] = (),
    *,
    scale: Scale | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    finished: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Put claims of the theory to the test.

    Args:
        names: of `EXPERIMENTS`; none for all.
        scale: quick or not, and the seeds; default the full runs from three seeds.
        out: folder for ``reproduce.json`` and ``reproduce.html``, which hold every experiment finished there.
            One with the same settings, criteria and versions is taken from the folder, not run again.
        overwrite: run experiments again that ``out`` holds with other settings, and replace them; without it
            they are refused.
        finished: called with each record as it comes.

    Returns:
        A record an experiment (`holdfast.lab.reproduce.base.record`): claim, criteria with the numbers that
        decided, table, figures, ``passed``.

    Raises:
        InputError: an unknown name, or no seeds.
        RunFolderError: ``out`` holds something else or these experiments with other settings, or cannot be
            written.
    """
    experiments = chosen(names)
    scale = Scale() if scale is None else scale
    if not scale.seeds:
        raise InputError("seeds must be at least one, got none; 3 are usual.")
    folder = None if out is None else Path(out)
    known = {} if folder is None else _known(folder, experiments, scale, overwrite=overwrite)
    seen = Progress(enabled=progress)
    records = []
    with nullcontext() if folder is None else locked(folder):
        for number, experiment in enumerate(experiments, start=1):
            found = known.get(experiment.name)
            if found is None or found["settings"] != settings(experiment, scale):
                began, spent = time.perf_counter(), time.process_time()
                try:
                    with seen.counted(f"{experiment.name}, {number} of {len(experiments)}") as report:
                        measured = experiment.measure(scale, report)
                except (KeyboardInterrupt, SystemExit) as error:
                    error.add_note("interrupted; start the command again: finished experiments are kept.")
                    raise
                found = record(
                    experiment, scale, measured, time.perf_counter() - began, time.process_time() - spent
                )
                known[experiment.name] = found
                if folder is not None:
                    write_records(known, folder)
            else:
                seen.say(f"{experiment.name}: taken from {folder}")
            records.append(found)
            if finished is not None:
                finished(found)
    return records


def _known(
    folder: Path, experiments: Sequence[Experiment], scale: Scale, *, overwrite: bool
) -> dict[str, dict[str, Any]]:
    """What is finished in the folder; it must be free, or hold these experiments with these settings,
    unless they are to be replaced.
    """
    if not (folder / FILE).exists():
        check_folder(folder, FILE, what="a reproduction")
    known = read_records(folder)
    for experiment in experiments:
        there, now = known.get(experiment.name, {}).get("settings"), settings(experiment, scale)
        if there is not None and there != now and not overwrite:
            what = ", ".join(key for key in now if there.get(key) != now[key])
            raise RunFolderError(
                f"out (--out) must be a new folder or one of these settings, but {folder} holds "
                f"{experiment.name} with others ({what}); choose another, or add overwrite=True "
                "(--overwrite) to replace it."
            )
    return known


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """What is finished in a folder, by name; nothing where there is no file yet.

    Raises:
        RunFolderError: a file that is cut short or of another kind.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        listed = read_values(path, "reproduce")["experiments"]
        return {entry["name"]: entry for entry in listed if entry["settings"]}
    except (KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path} must be what `holdfast reproduce` wrote, but cannot be read ({type(error).__name__}: "
            f"{error}); remove it or choose another --out."
        ) from error


def write_records(records: dict[str, dict[str, Any]], folder: Path) -> None:
    """``reproduce.json`` and the page, each whole or not at all."""
    from holdfast.report.reproduced import write_reproduced_page

    ordered = [records[name] for name in EXPERIMENTS if name in records]
    values = {"passed": all(r["passed"] for r in ordered), "experiments": ordered, RECORDED: RECORD}
    folder.mkdir(parents=True, exist_ok=True)
    Files(folder).put(FILE, json_writer(values))
    write_reproduced_page(ordered, folder / PAGE)
