"""``holdfast reproduce``: the claims of the theory, each as a figure and a table with pass or fail."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.config.commands import ReproduceCommand


def run(argv: Sequence[str]) -> int:
    """Run, show each experiment as it is finished, sum up."""
    from holdfast.config.reading import read

    given, _ = read(ReproduceCommand, argv)
    out = given.out or Path("runs") / ("reproduce-quick" if given.quick else "reproduce")

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
