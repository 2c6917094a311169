"""``holdfast report``: one self-contained HTML page about one run, or several side by side."""

from collections.abc import Sequence
from pathlib import Path

from holdfast.cli.arguments import Parser
from holdfast.cli.certify import check_run
from holdfast.jobs.folder import check_file

EXAMPLES = """\
  holdfast report runs/wide
  holdfast report runs/narrow runs/wide --out widths.html"""


def run(argv: Sequence[str]) -> int:
    """Write the page and print its path."""
    parser = Parser("report", __doc__, EXAMPLES)
    parser.add_argument(
        "runs", metavar="RUN", type=Path, nargs="+", help="folders that `holdfast train` wrote"
    )
    parser.add_argument(
        "--out",
        metavar="PAGE.html",
        type=Path,
        help="default: RUN/report.html; of several runs, comparison.html here",
    )
    given = parser.read(argv)
    for folder in given.runs:
        check_run(folder)
    page = given.out or (given.runs[0] / "report.html" if len(given.runs) == 1 else Path("comparison.html"))
    check_file(page)

    from holdfast.report import write_report

    print(write_report(given.runs, page))
    return 0
