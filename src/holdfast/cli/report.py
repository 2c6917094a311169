"""``holdfast report``: one self-contained HTML page about one run, or several side by side; the page of a
plan, sweep or reproduction again.
"""

from collections.abc import Sequence
from pathlib import Path

from holdfast.cli.certify import check_run
from holdfast.config.commands import ReportCommand
from holdfast.record.folder import check_file

OTHERS = {"plan.json": "plan.html", "sweep.json": "report.html", "reproduce.json": "reproduce.html"}
"""What folders of other jobs are known by, and their pages."""


def run(argv: Sequence[str]) -> int:
    """Write the page and print its path."""
    from holdfast.config.reading import read

    given, _ = read(ReportCommand, argv)
    for folder in given.runs:
        check_run(folder)
    of_one, folder = len(given.runs) == 1, given.runs[0]
    kept = next((name for name in OTHERS if of_one and (folder / name).is_file()), None)
    usual = folder / OTHERS.get(kept or "", "report.html") if of_one else Path("comparison.html")
    page = given.out or usual
    check_file(page)
    print(_written(given.runs, page) if kept is None else _again(folder, kept, page))
    return 0


def _written(folders: Sequence[Path], page: Path) -> Path:
    from holdfast.report import write_report

    return write_report(folders, page)


def _again(folder: Path, kept: str, page: Path) -> Path:
    """The page of another job than training, from the figures it kept."""
    from holdfast._record import read_values

    if kept == "sweep.json":
        from holdfast.report.sweep import write_sweep_report

        return write_sweep_report(folder, page)
    values = read_values(folder / kept, kept.partition(".")[0])
    if kept == "plan.json":
        from holdfast.report.plan import write_plan_page

        return write_plan_page(values, page)
    from holdfast.report.reproduced import write_reproduced_page

    return write_reproduced_page(values["experiments"], page)
