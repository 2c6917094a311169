"""A plan on the terminal: the two curves, what they mean, the width to ask for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from holdfast._formats import number, percent, setting
from holdfast.cli.terminal import table
from holdfast.report.plan import sentences, width_text


def show_plan(out: Console, record: Mapping[str, Any], folder: Path) -> None:
    """The record of ``plan.json`` in one table and a few sentences."""
    out.print()
    sample = f" of {record['population']:,}" if record["examples"] < record["population"] else ""
    out.print(
        Text(
            f"{record['data']}, {record['examples']:,}{sample} training examples, {record['threat']}, "
            f"{record['network']}",
            style="bold",
        )
    )
    widths = {row["radius"]: row["width"] for row in record["width_at_radii"]}
    rows = table(
        "Radius",
        "optimal clean loss",
        "optimal robust loss",
        "robust accuracy",
        f"width for gap {setting(record['target_gap'])}",
    )
    clean, robust = record["clean"], record["robust"]
    for index, radius in enumerate(robust["radii"]):
        rows.add_row(
            setting(radius),
            *(
                f"{number(curve['lower'][index])} to {number(curve['upper'][index])}"
                for curve in (clean, robust)
            ),
            percent(robust["accuracy"][index]),
            width_text(widths.get(radius)),
        )
    out.print(rows)
    out.print("lower ends bounded, upper ends observed, widths estimated", style="dim")
    for sentence in sentences(record):
        out.print(f"- {sentence}", highlight=False, markup=False)
    out.print(Text(str(folder / "plan.html")), soft_wrap=True)
