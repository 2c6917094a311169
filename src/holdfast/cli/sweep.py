"""``holdfast sweep``: train over widths, sizes and radii, or search the smallest width that fits; phase
diagrams.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.config.commands import SweepCommand

if TYPE_CHECKING:
    from holdfast.lab.sweep.backends import Backend


def run(argv: Sequence[str]) -> int:
    """Read the grid, run it, show it, write its page; 1 where cells failed."""
    from holdfast.lab.sweep.grid import read_grid

    grid, own, asked = read_grid(argv)
    out = Path(asked or Path("runs") / f"sweep-{grid.title}")
    backend, threads = _backend(own)

    from holdfast.lab.sweep.run import run_sweep

    try:
        found = run_sweep(grid, out, backend, threads=threads, progress=not own.quiet)
    finally:
        page = _page(out)
    _show(found, page)
    return int(any(cell["status"] == "failed" for cell in found["cells"]))


def _backend(own: SweepCommand) -> "tuple[Backend, int]":
    from holdfast.lab.sweep.backends import in_processes, in_turn, on_ray

    if own.backend == "ray":
        return on_ray(own.address), own.threads or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(limit) if limit.isdigit() else os.cpu_count() or 1
    threads = own.threads or max(1, cores // own.processes)
    return (in_turn if own.processes == 1 else in_processes(own.processes)), threads


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
