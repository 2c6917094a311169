"""What people see: tables made from ``summary.json`` alone, so that terminal and page cannot disagree."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from holdfast._console import Output
from holdfast._formats import NOT_MEASURED, count, duration, number, percent, setting
from holdfast.diagnosis import NOTHING, Finding, summed_up
from holdfast.report.collect import BoundAtRadius, RunPage, read_run

if TYPE_CHECKING:
    from holdfast.certificates import Certificate

# How sure each kind of claim looks, and what each status means to a reader.
KIND_STYLE = {"proved": "green", "estimated": "yellow", "observed": "cyan"}
STATUS = {
    "certified": ("proved", "bold green"),
    "estimate": ("estimated, not proved", "bold yellow"),
    "void": ("void: nothing is claimed", "bold red"),
}
LEVEL = {
    "good": ("ok", "green"),
    "warning": ("look", "yellow"),
    "bad": ("bad", "bold red"),
    "not-measured": ("-", "dim"),
}


def console(*, error: bool = False) -> Console:
    """Plain text where the output is no terminal; 110 columns there, so that logs do not depend on a
    window.
    """
    stream = sys.stderr if error else sys.stdout
    return Output(file=stream, highlight=False, width=None if stream.isatty() else 110)


def show_run(out: Console, folder: Path, page: Path | None) -> None:
    """The outcome of a run; the path of its page, where there is one, is the last line."""
    run = read_run(folder)
    out.print()
    out.print(_heading(run))
    out.print(_bracket_table(run))
    out.print(_accuracy_table(run))
    if run.bounds_at_radii:
        out.print(_radius_table(run.bounds_at_radii))
    show_findings(out, run.findings)
    if page is not None:
        # never wrapped, so that it can be clicked and copied
        out.print(Text(str(page)), soft_wrap=True)


def show_certificate(out: Console, certificate: "Certificate", file: Path) -> None:
    """A certificate computed again: its status and why, its figures, and where it was written."""
    words, style = STATUS.get(certificate.status, (certificate.status, ""))
    rows = table("Certificate", "", "")
    rows.add_row("status", Text(certificate.status, style=style), words)
    rows.add_row("parameter radius", setting(certificate.radius), "")
    said = certificate.status == "void" or certificate.informative
    lower, gap = (
        (number(value), "") if said else (NOTHING, "the bound is the trivial one")
        for value in (certificate.lower_bound, certificate.gap)
    )
    rows.add_row("lower bound", lower[0], certificate.source if said else lower[1])
    rows.add_row(
        "surrogate",
        number(certificate.surrogate_loss),
        f"of {certificate.weights}" if certificate.weights else "",
    )
    name = "estimated gap" if certificate.status == "estimate" else "gap"
    rows.add_row(name, Text(gap[0], style=style), certificate.reason)
    out.print(rows)
    out.print(Text(str(file)), soft_wrap=True)


def show_findings(out: Console, findings: Sequence[Finding]) -> None:
    """One line a finding, with its figures and how they are known, its remedy below where there is one."""
    rows = table("Diagnosis", "", "")
    for finding in findings:
        word, style = LEVEL[finding.level]
        text = Text(finding.sentence)
        if finding.values:
            known = Text(finding.claims)
            for kind in finding.kinds:
                known.highlight_words([kind], style=KIND_STYLE[kind])
            text = Text.assemble(text, "  (", known, ")")
        if finding.remedy:
            text.append(f"\n-> {finding.remedy}", style="bold")
        rows.add_row(finding.name, Text(word, style=style), text)
    out.print(rows)
    urgent = [finding for finding in findings if finding.level in ("bad", "warning")]
    more = f"; start with: {urgent[0].name}" if len(urgent) > 1 else ""
    out.print(Text(f"{summed_up(findings)}{more}."))


def _heading(run: RunPage) -> Text:
    summary = run.summary
    network = summary.network
    width = network.width
    parts = [
        summary.data.name,
        summary.threat,
        network.name,
        f"width {count(width)}" if width is not None else None,
        summary.attack,
        f"training {duration(summary.seconds)}" if summary.seconds is not None else None,
    ]
    heading = Text.assemble((run.name, "bold"), "  ", ", ".join(part for part in parts if part))
    if summary.interrupted:
        heading.append("  (interrupted)", style="yellow")
    return heading


def _bracket_table(run: RunPage) -> Table:
    """lower bound <= surrogate loss <= upper bound, and what stands behind the two ends."""
    words, style = STATUS.get(run.status or "", ("not computed", ""))
    rows = table("Robust loss", "", "")
    ball = "" if run.known.radius is None else f" within {setting(run.known.radius)} of the initial weights"
    behind = "" if run.claimed_lower is None else f"no network{ball} is below: "
    name, gap = ("lower estimate", "estimated gap") if run.status == "estimate" else ("lower bound", "gap")
    if run.unsayable:
        rows.add_row(
            name,
            NOTHING,
            Text(
                f"the {run.known.kind} bound{ball} is {number(run.known.floor)}, which is true of any network"
            ),
        )
    else:
        rows.add_row(name, number(run.claimed_lower), Text.assemble(behind, (words, style)))
    of = {"the best weights": "the best weights"}.get(run.summary.surrogate_weights or "", "this network")
    rows.add_row("surrogate", number(run.surrogate), f"{of} under the attack of training: observed")
    if run.known.upper_proved:
        rows.add_row("upper bound", number(run.upper), "this network, verified: proved")
    else:
        rows.add_row(
            "strongest attack", number(run.upper), "" if run.upper is None else "this network: observed"
        )
    reason = run.summary.certificate_reason or ""
    rows.add_row(
        gap,
        Text(NOTHING if run.unsayable else number(run.gap), style=style),
        "" if run.unsayable else escape(reason),
    )
    return rows


def _accuracy_table(run: RunPage) -> Table:
    summary, train, test = run.summary, run.known.train, run.known.test
    rows = table("Accuracy", summary.accuracy_of.removeprefix("the "), "training part")
    rows.add_row("clean", percent(summary.clean_accuracy), percent(summary.train_clean_accuracy))
    robust = summary.robust_accuracy
    if train is None:
        rows.add_row("robust", percent(robust), "")
    else:
        # An evaluation with other attacks replaces the test part's figure: the two of one kind then have a
        # row of their own.
        both = NOT_MEASURED if test is None else percent(test.robust / test.examples)
        same = test is None or robust is None or percent(robust) == both
        if not same:
            rows.add_row("robust", percent(robust), "")
        sample = f" (of {count(train.examples)})" if train.examples < train.population else ""
        rows.add_row(
            "robust, same attacks" if same else "the same under the attacks that ended training",
            percent(robust) if same else both,
            f"{percent(train.robust / train.examples)}{sample}",
        )
    verified = summary.robust_accuracy_verified
    if verified is not None:
        rows.add_row("verified", percent(verified), "")
    return rows


def _radius_table(bounds: Sequence[BoundAtRadius]) -> Table:
    estimated = any(bound.status == "estimate" for bound in bounds)
    rows = table("Parameter radius", "lower estimate" if estimated else "lower bound", "")
    for bound in bounds:
        words, style = STATUS.get(bound.status or "", ("", ""))
        if bound.status == "void" or bound.informative:
            rows.add_row(
                setting(bound.radius),
                NOT_MEASURED if bound.status == "void" else number(bound.lower_bound),
                Text(words, style=style),
            )
    silent = [bound.radius for bound in bounds if bound.status != "void" and not bound.informative]
    if silent:
        rows.add_row(setting(min(silent)) + (" and more" if len(silent) > 1 else ""), "-", Text(NOTHING))
    return rows


def table(*columns: str) -> Table:
    """A plain table: names left, the first figure right."""
    made = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index == 1 else "left", no_wrap=index < 2)
    return made
