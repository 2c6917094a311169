"""What people see: tables made from ``summary.json`` alone, so that terminal and page cannot disagree."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from holdfast.jobs.doctor import Finding
from holdfast.report.collect import BoundAtRadius, Gap, Run, read_run
from holdfast.report.formats import count, duration, number, percent, setting
from holdfast.report.html import gap_text

if TYPE_CHECKING:
    from holdfast.certificates import Certificate

# What each word of a claim means to a reader, and how sure it looks.
CLAIM_STYLE = {"proved": "green", "bounded": "green", "estimated": "yellow", "observed": "cyan"}
STATUS = {
    "certified": ("proved", "bold green"),
    "estimate": ("estimated, not proved", "bold yellow"),
    "void": ("void: nothing is claimed", "bold red"),
}
GAPS = {
    "optimisation": "optimisation gap",
    "attack": "attack gap",
    "capacity": "capacity gap",
}
FINDING_STYLE = {"ok": ("ok", "green"), "warn": ("look", "yellow"), "bad": ("bad", "bold red")}


def console(*, error: bool = False) -> Console:
    """Plain text where the output is no terminal; 110 columns there, so that logs do not depend on a window."""
    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 110)


def show_run(out: Console, folder: Path, page: Path | None) -> None:
    """The outcome of a run; the path of its page, where there is one, is the last line."""
    run = read_run(folder)
    out.print()
    out.print(_heading(run))
    out.print(_bracket_table(run))
    out.print(_gap_table(run))
    out.print(_accuracy_table(run))
    if run.bounds_at_radii:
        out.print(_radius_table(run.bounds_at_radii))
    if page is not None:
        # never wrapped, so that it can be clicked and copied
        out.print(Text(str(page)), soft_wrap=True)


def show_certificate(out: Console, certificate: "Certificate", file: Path) -> None:
    """A certificate computed again: its status and why, its figures, and where it was written."""
    words, style = STATUS.get(certificate.status, (certificate.status, ""))
    rows = table("Certificate", "", "")
    rows.add_row("status", Text(certificate.status, style=style), words)
    rows.add_row("parameter radius", setting(certificate.radius), "")
    rows.add_row("lower bound", number(certificate.lower_bound), certificate.source or "")
    rows.add_row(
        "surrogate",
        number(certificate.surrogate_loss),
        f"of {certificate.weights}" if certificate.weights else "",
    )
    rows.add_row("gap", Text(number(certificate.gap), style=style), certificate.reason)
    out.print(rows)
    out.print(Text(str(file)), soft_wrap=True)


def show_findings(out: Console, findings: Sequence[Finding]) -> None:
    """One line a finding, with its remedy below where there is one."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        word, style = FINDING_STYLE[finding.state]
        text = Text(finding.what)
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(Text(word, style=style), finding.area, text)
    out.print(table)
    bad, look = (sum(finding.state == state for finding in findings) for state in ("bad", "warn"))
    if bad or look:
        out.print(Text(f"{bad} bad, {look} worth a look; start with the first."))
    else:
        out.print(Text("Nothing is wrong."))


def _heading(run: Run) -> Text:
    summary = run.summary
    network = summary.inner("network")
    width = network.number("width")
    parts = [
        summary.inner("data").text("name"),
        summary.text("threat"),
        network.text("name"),
        f"width {count(width)}" if width is not None else None,
        summary.text("attack"),
        duration(summary.number("seconds")) if summary.number("seconds") is not None else None,
    ]
    heading = Text.assemble((run.name, "bold"), "  ", ", ".join(part for part in parts if part))
    if summary.flag("interrupted"):
        heading.append("  (interrupted)", style="yellow")
    return heading


def _bracket_table(run: Run) -> Table:
    """lower bound <= surrogate loss <= upper bound, and what stands behind the two ends."""
    words, style = STATUS.get(run.status or "", ("not computed", ""))
    rows = table("Robust loss", "", "")
    radius = run.summary.number("parameter_radius")
    ball = "" if radius is None else f" within {setting(radius)} of the initial weights"
    behind = "" if run.claimed_lower is None else f"no network{ball} is below: "
    rows.add_row("lower bound", number(run.claimed_lower), Text.assemble(behind, (words, style)))
    of = {"the best weights": "the best weights"}.get(
        run.summary.text("surrogate_weights") or "", "this network"
    )
    rows.add_row("surrogate", number(run.surrogate), f"{of} under the attack of training")
    kind = run.summary.text("robust_loss_upper_kind")
    behind = "verified" if kind == "verified" else f"this network under the {kind}: observed" if kind else ""
    rows.add_row("upper bound", number(run.upper), behind)
    gap = run.summary.number("gap")
    reason = run.summary.text("certificate_reason") or ""
    rows.add_row("gap", Text(number(gap), style=style), escape(reason))
    return rows


def _gap_table(run: Run) -> Table:
    rows = table("Gap", "", "claim", "verdict")
    for key, name in GAPS.items():
        gap = run.gaps[key]
        rows.add_row(name, _value(gap), _claim(gap), escape(gap.verdict or ""))
    return rows


def _claim(gap: Gap) -> Text:
    """``proved``, or where the ends of a bracket are known in different ways ``proved to observed``."""
    ends = [claim for claim in dict.fromkeys((gap.claim, gap.high_claim)) if claim]
    return Text(" to ").join(Text(claim, style=CLAIM_STYLE.get(claim, "")) for claim in ends)


def _value(gap: Gap) -> Text:
    """The figure; a `Text`, since rich would take ``[1, 2]`` for markup where an end is a word."""
    if gap.low is not None and gap.high is not None:
        return Text(f"[{number(gap.low)}, {number(gap.high)}]")
    return Text(gap_text(gap))


def _accuracy_table(run: Run) -> Table:
    summary = run.summary
    rows = table("Accuracy", f"{summary.text('accuracy_on') or 'test'} part", "train part (last weights)")
    for name, key in (("clean", "clean_accuracy"), ("robust", "robust_accuracy")):
        rows.add_row(name, percent(summary.number(key)), percent(summary.number(f"train_{key}")))
    verified = summary.number("robust_accuracy_verified")
    if verified is not None:
        rows.add_row("verified", percent(verified), "")
    return rows


def _radius_table(bounds: Sequence[BoundAtRadius]) -> Table:
    rows = table("Parameter radius", "lower bound", "")
    for bound in bounds:
        words, style = STATUS.get(bound.status or "", ("", ""))
        rows.add_row(setting(bound.radius), number(bound.lower_bound), Text(words, style=style))
    return rows


def table(*columns: str) -> Table:
    """A plain table: names left, the first figure right."""
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index == 1 else "left", no_wrap=index < 2)
    return made
