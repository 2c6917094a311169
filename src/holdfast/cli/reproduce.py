"""``holdfast reproduce``: the claims of the theory, each as a figure and a table with pass or fail."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.cli.arguments import Parser, count

EXAMPLES = """\
  holdfast reproduce --list
  holdfast reproduce width
  holdfast reproduce convergence drift --seeds 5 --out runs/claims
  holdfast reproduce all --quick

The folder gets reproduce.json and reproduce.html; a finished experiment found there with the same settings is not run again.
Exit status: 0 every claim asked for shows, 1 one does not, 2 wrong input."""


def run(argv: Sequence[str]) -> int:
    """Run, show each experiment as it is finished, sum up."""
    given = _parser().read(argv)
    out: Path = given.out or Path("runs") / ("reproduce-quick" if given.quick else "reproduce")

    from holdfast.cli.reproduced import show_experiment, show_list, show_summary
    from holdfast.cli.terminal import console
    from holdfast.lab.reproduce import Scale, reproduce
    from holdfast.lab.reproduce.run import PAGE, chosen

    experiments, screen = chosen(given.names), console()
    if given.list:
        show_list(screen, experiments)
        return 0
    seeds = given.seeds or (2 if given.quick else 3)

    def finished(record: dict[str, Any]) -> None:
        show_experiment(screen, record)

    records = reproduce(
        given.names,
        scale=Scale(quick=given.quick, seeds=tuple(range(seeds))),
        out=out,
        overwrite=given.overwrite,
        progress=not given.quiet,
        finished=finished,
    )
    show_summary(screen, records, out / PAGE)
    return 0 if all(record["passed"] for record in records) else 1


def _parser() -> Parser:
    parser = Parser("reproduce", __doc__, EXAMPLES)
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="experiments, see --list; `all` or none: all of them"
    )
    parser.add_argument("--list", action="store_true", help="name the experiments with their claims")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small runs, a few minutes for all; the figures to quote take longer",
    )
    parser.add_argument("--seeds", type=count, help="random seeds of each measurement (default: 3; quick: 2)")
    parser.add_argument(
        "--out", type=Path, help="folder (default: runs/reproduce; quick: runs/reproduce-quick)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace experiments that lie in --out with other settings"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser
