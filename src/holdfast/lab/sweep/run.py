"""``holdfast sweep``: every cell of a grid, what is done already left alone, and ``sweep.json`` with all
figures.
"""

import itertools
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from holdfast._files import json_writer
from holdfast._formats import duration
from holdfast._progress import Progress
from holdfast._record import RECORD, RECORDED, Files, checked, locked, read_record, read_values
from holdfast._rules import COUNT, FLAG, FUNCTION, PATH, kind, takes
from holdfast._signals import stopping
from holdfast.errors import RunFolderError
from holdfast.jobs.summary import versions
from holdfast.lab.sweep.backends import Backend
from holdfast.lab.sweep.cell import Record, check, choices
from holdfast.lab.sweep.grid import SEED, Cell, Grid

FILE, CELLS = "sweep.json", "cells"


@stopping()
@takes(
    grid=kind(Grid, what="a Grid", hint="read_grid(['--width', '8,16']) makes one"),
    out=PATH,
    backend=FUNCTION,
    threads=COUNT,
    progress=FLAG,
)
def run_sweep(
    grid: Grid, out: str | Path, backend: Backend, *, threads: int = 1, progress: bool = True
) -> dict[str, Any]:
    """Run what is not done yet and return what ``sweep.json`` says; it is written anew after every cell.

    Cells that are done are not repeated; failed ones are. A cell that was training when the sweep was killed
    goes on from its checkpoint.

    Raises:
        InputError: data or a threat that cannot be had; nothing is written then.
        RunFolderError: ``out`` holds another sweep or something else, or a file of it is not as it was
            written.
        KeyboardInterrupt, SystemExit: a signal came; everything done is kept.
    """
    out = Path(out)
    done = _records(grid, out)
    todo = [cell for cell in grid.cells if cell.slug not in done]
    for cell in {choices(asdict(c)): c for c in reversed(todo)}.values():
        check(asdict(cell))
    folder = out / CELLS
    folder.mkdir(parents=True, exist_ok=True)
    seen, began = Progress(enabled=progress), time.perf_counter()
    with locked(out), ExitStack() as stack:
        files = Files(out)
        files.tidy()
        # Those of an earlier version, which kept no digests; what the folder's record names is left as it is.
        unnamed = [record for slug, record in done.items() if f"{CELLS}/{slug}.json" not in files]
        _write(files, _described(grid, done), *unnamed)
        _say(seen, f"{len(grid.cells)} cells, into {out}")
        if done:
            _say(seen, f"{len(done)} of {len(grid.cells)} cells were done before")
        report = stack.enter_context(seen.named()) if seen.live and todo else None
        try:
            records = backend([asdict(cell) for cell in todo], str(folder), threads)
            for number, record in enumerate(records, start=1):
                done[record["slug"]] = record
                _write(files, _described(grid, done), record)
                left = (time.perf_counter() - began) / number * (len(todo) - number)
                if report is not None:
                    report("cells", number, len(todo))
                rest = f"; about {duration(left)} left" if number < len(todo) else ""
                _say(seen, f"{number} of {len(todo)}: {_line(record)}{rest}")
        except (KeyboardInterrupt, SystemExit) as error:
            finished = sum(record["status"] == "done" for record in done.values())
            error.add_note(
                f"interrupted with {finished} of {len(grid.cells)} cells done; give the same command "
                "again to go on."
            )
            raise
    return _described(grid, done)


def _say(seen: Progress, text: str) -> None:
    """One line as it is: values may hold brackets, and logs are not wrapped."""
    if seen.enabled:
        seen.console.print(Text(text), soft_wrap=True)


def _write(files: Files, described: dict[str, Any], *records: Record) -> None:
    """``sweep.json``, and the records of these cells, in one step."""
    with files.together():
        for record in records:
            files.put(f"{CELLS}/{record['slug']}.json", json_writer(record))
        files.put(FILE, json_writer(described))


def _records(grid: Grid, out: Path) -> dict[str, Record]:
    """Records of cells that are done; the folder must be free or hold this very sweep."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    if not (out / FILE).exists():
        raise RunFolderError(
            f"--out must be a new folder or that of this sweep, but {out} holds something else; choose "
            "another."
        )
    held = read_values(out / FILE, "sweep")
    before, kind = held.get("shared") or {}, held.get("kind")
    now = json.loads(json.dumps(grid.shared))
    different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if kind != grid.kind or different:
        what = different[0] if different else "kind"
        raise RunFolderError(
            f"--out must be a new folder or that of this sweep, but {out} holds another one ({what} is "
            f"{before.get(what, kind)!r} there, {now.get(what, grid.kind)!r} here); choose another folder."
        )
    known = read_record(out) if (out / RECORD).is_file() else None
    found: dict[str, Record] = {}
    for cell in grid.cells:
        name = f"{CELLS}/{cell.slug}.json"
        if known is not None and (name not in known or not (out / name).exists()):
            continue  # never finished, or removed so that it is run again
        try:
            record = json.loads(checked(out / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # of an earlier version, which kept no digests
            continue
        if record.get("status") == "done":
            found[cell.slug] = record
    return found


def _described(grid: Grid, done: dict[str, Record]) -> dict[str, Any]:
    """``sweep.json``."""
    cells = [_entry(cell, done.get(cell.slug)) for cell in grid.cells]
    return {
        "kind": grid.kind,
        "axes": [{"name": axis.name, "values": list(axis.values)} for axis in grid.swept],
        "seeds": next((list(axis.values) for axis in grid.axes if axis.option == SEED), []),
        "shared": grid.shared,
        "cells": cells,
        "points": _points(grid, cells),
        "versions": versions(),
        RECORDED: RECORD,
    }


def _entry(cell: Cell, record: Record | None) -> dict[str, Any]:
    record = {"status": "to do", "figures": {}, "seconds": None, "reason": None} if record is None else record
    return {
        "slug": cell.slug,
        "place": cell.place,
        "folder": f"{CELLS}/{cell.slug}",
        **{key: record.get(key) for key in ("status", "figures", "seconds", "tries", "reason")},
    }


def _points(grid: Grid, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every combination of the swept values, its figures summed up over the seeds: median, least,
    greatest, how many.
    """
    points = []
    for values in itertools.product(*(axis.values for axis in grid.swept)):
        place = {axis.name: value for axis, value in zip(grid.swept, values, strict=True)}
        here = [cell for cell in cells if place.items() <= cell["place"].items()]
        names = dict.fromkeys(name for cell in here for name in cell["figures"])
        figures = {}
        for name in names:
            known = [v for cell in here if isinstance(v := cell["figures"].get(name), int | float)]
            if known and name == "fits":  # yes or no: the share of the seeds is what counts
                known = [statistics.fmean(known)] * len(known)
            if known:
                figures[name] = {
                    "median": statistics.median(known),
                    "low": min(known),
                    "high": max(known),
                    "seeds": len(known),
                }
        figures.pop("certificate_informative", None)
        status = [cell["status"] for cell in here]
        points.append(
            {
                "place": place,
                "figures": figures,
                "done": status.count("done"),
                "failed": status.count("failed"),
                "of": len(here),
                "unsayable": sum(cell["figures"].get("certificate_informative") is False for cell in here),
            }
        )
    return points


def _line(record: Record) -> str:
    """One finished cell in words."""
    where = ", ".join(f"{name} {value}" for name, value in record["place"].items()) or record["slug"]
    if record["status"] == "failed":
        return f"{where}: failed ({record['reason']})"
    figures = record["figures"]
    if "plain_width" in figures:
        robust = figures["robust_width"]
        what = f"plain width {figures['plain_width']}, robust {'not found' if robust is None else robust}"
    else:
        robust = figures.get("robust_accuracy")
        robust = figures.get("train_robust_accuracy") if robust is None else robust
        what = "robust accuracy not measured" if robust is None else f"robust accuracy {robust:.1%}"
    return f"{where}: {what} in {duration(record['seconds'])}"
