"""Experiments on the terminal, from their records alone: claim, criteria, table, verdict, and all of them
in one table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast._formats import duration, setting
from holdfast.report.reproduced import decided, figure, table_rows

if TYPE_CHECKING:
    from holdfast.lab.reproduce import Experiment


def show_list(out: Console, experiments: Sequence["Experiment"]) -> None:
    """Names and claims."""
    rows = _table("Experiment", "claim")
    for experiment in experiments:
        rows.add_row(experiment.name, experiment.claim)
    out.print(rows)


def show_experiment(out: Console, record: Mapping[str, Any]) -> None:
    """One experiment: what is claimed, what was measured, what that decides."""
    out.print()
    out.print(Text(record["name"], style="bold"))
    out.print(Text(record["claim"]))
    out.print(Text(f"{record['setup']}.", style="dim"))
    out.print(Text(f"Source: {record['source']}.", style="dim"))
    names = [column["name"] for column in record["columns"]]
    known = [column["known"] for column in record["columns"]]
    rows = _table(*(f"{name}\n({word})" if word else name for name, word in zip(names, known, strict=True)))
    for row in table_rows(record):
        rows.add_row(*row)
    out.print(rows)
    for note in record["notes"]:
        out.print(Text(note, style="dim"))
    for criterion in record["criteria"]:
        bound = f"must be {criterion['relation']} {setting(criterion['bound'])}"
        out.print(
            Text.assemble(
                _word(criterion["passed"]), f"  {criterion['what']}: {figure(criterion['measured'])}, {bound}"
            )
        )


def show_summary(out: Console, records: Sequence[Mapping[str, Any]], page: Path) -> None:
    """A line an experiment, and where the page is."""
    out.print()
    rows = _table("Experiment", "verdict", "decided by", "time")
    for record in records:
        rows.add_row(record["name"], _word(record["passed"]), decided(record), duration(record["seconds"]))
    out.print(rows)
    passed = sum(record["passed"] for record in records)
    out.print(Text(f"{passed} of {len(records)} claims show."))
    out.print(Text(str(page)), soft_wrap=True)


def _word(passed: bool) -> Text:
    return Text("pass", style="bold green") if passed else Text("fail", style="bold red")


def _table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="left")
    return made
