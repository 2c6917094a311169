"""``holdfast sweep``: train over widths, sizes and radii, or search the smallest width that fits; phase
diagrams.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast._defaults import BACKEND, PROCESSES
from holdfast.config.options import chosen, options_help, spelled
from holdfast.errors import InputError

if TYPE_CHECKING:
    from holdfast.lab.sweep.backends import Backend
    from holdfast.lab.sweep.grid import Grid

USAGE = """usage: holdfast sweep [CONFIG.yaml] [options of `holdfast train`, any with several values] [options]

Every combination of the values is a cell: a training run with a folder of its own, or with --capacity a search for the least
width that fits plainly and robustly, every fit proved. The page draws two swept settings against each figure.

examples:
  holdfast sweep --data digits --threat l2:0.3 --width 256,1024,4096 --examples 100,200 --seeds 3 --out runs/sweep
  holdfast sweep --data digits --classes 3,8 --threat l2:0.1,l2:0.3,l2:0.5 --width 500 --processes 2
  holdfast sweep --capacity --data forced --threat l2 --dimension 4,8 --rho 0.3,0.6,0.9 --seeds 3 --out runs/capacity
  holdfast sweep wide.yaml --rho 0.2,0.5,0.8 --backend ray

Interrupted or extended by further values, the same command goes on: cells that are done are not repeated, failed ones are.
Values stand between commas; a list is one value in brackets: --classes [3,8],[1,7]."""


def run(argv: Sequence[str]) -> int:
    """Read the grid, run it, show it, write its page; 1 where cells failed."""
    from holdfast.lab.sweep.grid import OWN

    if "--help" in argv or "-h" in argv:
        print(f"{USAGE}\n\n{options_help(OWN, chosen(argv))}")
        return 0
    spelled(argv, OWN)  # a mistyped option is refused before anything is imported to read its value

    from holdfast.lab.sweep.grid import read_grid

    grid, own, asked = read_grid(argv)
    out = Path(asked or Path("runs") / f"sweep-{grid.title}")
    backend, threads = _backend(grid, own)
    quiet = "--quiet" in own
    if not quiet:
        print(f"holdfast: {len(grid.cells)} cells, into {out}", flush=True)

    from holdfast.lab.sweep.run import run_sweep

    try:
        found = run_sweep(grid, out, backend, threads=threads, progress=not quiet)
    finally:
        page = _page(out)
    _show(found, page)
    return int(any(cell["status"] == "failed" for cell in found["cells"]))


def _backend(grid: "Grid", own: dict[str, str]) -> "tuple[Backend, int]":
    from holdfast.lab.sweep.backends import in_processes, in_turn, on_ray
    from holdfast.lab.sweep.grid import whole

    name = own.get("--backend", BACKEND)
    processes = whole("--processes", own.get("--processes", str(PROCESSES)))
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(limit) if limit.isdigit() else os.cpu_count() or 1
    threads = whole(
        "--threads", own.get("--threads", str(1 if name == "ray" else max(1, cores // processes)))
    )
    if name not in ("joblib", "ray"):
        raise InputError(f"--backend must be joblib or ray, got {name!r}; leave it out for joblib.")
    if "--address" in own and name != "ray":
        raise InputError(
            "--address is that of a Ray cluster, got it without --backend ray; add that or leave it out."
        )
    if name == "ray":
        if "--processes" in own:
            raise InputError(
                "--processes is for this machine, got it with --backend ray, which asks its cluster; "
                "leave it out."
            )
        return on_ray(own.get("--address")), threads
    return (in_turn if processes == 1 else in_processes(processes)), threads


def _page(out: Path) -> Path | None:
    """The page about the finished cells, also of a sweep that was interrupted."""
    if not (out / "sweep.json").exists():
        return None
    from holdfast.report.sweep import write_sweep_report

    return write_sweep_report(out, out / "report.html")


def _show(found: dict[str, Any], page: Path | None) -> None:
    from rich.text import Text

    from holdfast.cli.terminal import console, table
    from holdfast.report.sweep import columns, value_text

    out = console()
    names = [axis["name"] for axis in found["axes"]]
    figures = columns(found)
    made = table(*(names or ["cell"]), *(label for _, label in figures), "done")
    for point in found["points"]:
        where = list(point["place"].values()) or ["all"]
        values = [value_text(name, point["figures"].get(name), point) for name, _ in figures]
        made.add_row(*where, *values, f"{point['done']} of {point['of']}")
    out.print()
    out.print(made)
    for cell in found["cells"]:
        if cell["status"] == "failed":
            out.print(Text(f"failed: {cell['slug']}: {cell['reason']}", style="bold red"))
    if page is not None:
        out.print(Text(str(page)), soft_wrap=True)
