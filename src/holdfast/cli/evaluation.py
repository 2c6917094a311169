"""An evaluation on the terminal: the bracket, the cascade, the curve, the verdict."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from holdfast._formats import duration, number, percent, setting
from holdfast.cli.terminal import table
from holdfast.record.plain import to_plain
from holdfast.record.schema import EvaluationFigures, Interval, Intervals

VERDICT = {
    "trust": ("trust: no sign that the attacks failed was found", "bold green"),
    "doubt": ("doubt: the figure may be too high", "bold yellow"),
    "void": ("void: the figure means nothing", "bold red"),
}


def show_evaluation(out: Console, record: EvaluationFigures, folder: Path) -> None:
    """All that a reader needs to believe the figure, or not to."""
    out.print()
    sample = f" drawn from {record.population:,}" if record.population else ""
    out.print(
        Text(
            f"{record.data}, {record.part} part, {record.examples:,} examples{sample}, {record.threat}",
            style="bold",
        )
    )
    out.print(_bracket(record))
    out.print(_cascade(record))
    if record.curve:
        out.print(_curve(record))
    word, style = VERDICT[record.verdict.word or "void"]
    out.print(Text(word, style=style))
    for sign in (warning.at_terminal() for warning in record.verdict.warnings):
        out.print(f"  {escape(sign.name)}: {escape(sign.sentence)}\n  [bold]-> {escape(sign.remedy)}[/bold]")
    if not record.recheck.sound:
        out.print(
            Text(
                f"the stored points do not bear out the figures: {to_plain(record.recheck)}", style="bold red"
            )
        )
    out.print(Text(str(folder / "evaluation.json")), soft_wrap=True)


def _bracket(record: EvaluationFigures) -> Table:
    rows = table("Robust", "accuracy", "loss", "")
    spans = record.intervals or Intervals()

    def span(ends: Interval | None) -> str:
        return "" if ends is None else f", 95 % interval {percent(ends[0])} to {percent(ends[1])}"

    loss = record.robust_loss
    if record.robust_accuracy_verified is not None:
        rows.add_row(
            "verified",
            percent(record.robust_accuracy_verified),
            number(loss.verified),
            Text.assemble(("proved", "green"), span(spans.verified)),
        )
    rows.add_row(
        "not broken",
        percent(record.robust_accuracy),
        number(loss.attacked),
        Text.assemble(("observed", "cyan"), span(spans.robust)),
    )
    rows.add_row("clean", percent(record.clean_accuracy), "", span(spans.clean).removeprefix(", "))
    return rows


def _cascade(record: EvaluationFigures) -> Table:
    rows = table("Cascade", "examples in", "left", "seconds", "")
    for stage in record.stages:
        done = "proved" if stage.kind == "bound" else "broken"
        note = stage.note or f"{stage.decided:,} {done}"
        rows.add_row(
            stage.name,
            f"{stage.entered:,}",
            f"{stage.left:,}",
            duration(stage.seconds),
            escape(note),
        )
    return rows


def _curve(record: EvaluationFigures) -> Table:
    rows = table("Radius", "verified", "not broken")
    for point in record.curve:
        # without bounds nothing was proved at any radius, which is not the same as 0 % proved
        proved = percent(point.verified if record.verify else None)
        rows.add_row(setting(point.radius), proved, percent(point.not_broken))
    return rows
