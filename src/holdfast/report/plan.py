"""The page about a plan: two curves of optimal loss, a table, and what they mean in plain words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast._files import write_text
from holdfast._formats import count, duration, number, percent, setting
from holdfast.certificates.required_width import WIDE
from holdfast.report.figures import Figure, Series, chart
from holdfast.report.pages import render

HUGE = 1e9  # beyond any machine: given in words instead
GIB = 2**30
EARLIER = {"loss_aim": "target_loss", "gap_aim": "target_gap"}
"""Names that entries of ``plan.json`` had in earlier versions."""


def write_plan_page(record: Mapping[str, Any], out: Path) -> Path:
    """The self-contained page about the record of ``plan.json``, whole or not at all."""
    record = {EARLIER.get(name, name): value for name, value in record.items()}
    widths = {row["radius"]: row["width"] for row in record["width_at_radii"]}
    clean, robust = record["clean"], record["robust"]
    rows = [
        {
            "radius": setting(radius),
            "clean": f"{number(clean['lower'][i])} to {number(clean['upper'][i])}",
            "robust": f"{number(robust['lower'][i])} to {number(robust['upper'][i])}",
            "accuracy": percent(robust["accuracy"][i]),
            "width": width_text(widths.get(radius)),
        }
        for i, radius in enumerate(robust["radii"])
    ]
    text = render("plan.html", record=record, rows=rows, figure=_figure(record), sentences=sentences(record))
    write_text(out, text)
    return out


def width_text(width: float | int | None) -> str:
    """A width as people read it."""
    if width is None:
        return "not known"
    if width <= WIDE:
        return f"{WIDE:g} or fewer"
    return "beyond any machine" if width > HUGE else count(width)


def sentences(record: Mapping[str, Any]) -> list[str]:
    """What the figures mean, most important first."""
    said = [_about_labels(record)]
    loss, radius = setting(record["target_loss"]), record["parameter_radius"]
    [goal] = [row for row in record["radius_for_loss"] if row["loss"] == record["target_loss"]] or [None]
    if radius is None:
        said.append(
            f"A robust loss of {loss} was not reached at any radius tried (observed): take larger "
            "--radii, a smaller threat, or a higher --target-loss."
        )
    else:
        below = (
            ""
            if goal is None or not goal["robust"]["above"]
            else f"; below {setting(goal['robust']['above'])} none has it, which is bounded"
        )
        said.append(
            f"In the limit of infinite width a robust loss of {loss} is reached within radius "
            f"{setting(radius)}, as far as attacks tell{below}: ask for that --parameter-radius."
        )
        if goal is not None and goal["clean"]["enough"]:
            said.append(
                f"Without an adversary radius {setting(goal['clean']['enough'])} is enough: by these, "
                f"robustness costs {radius / goal['clean']['enough']:.1f} times the radius."
            )
    if record["width"] is not None:
        said.append(
            f"From about {width_text(record['width'])} units on, by estimate, curvature costs the "
            f"certificate at most {setting(record['target_gap'])} ({record['width_reason']})."
        )
        cost = record["cost"]
        if cost is not None and record["width"] <= HUGE:
            said.append(
                f"At that width an epoch takes about {duration(cost['seconds_an_epoch'])} here, and training "
                f"about {cost['memory_bytes'] / GIB:.1f} GiB."
            )
    else:
        said.append(f"No width is recommended: {record['width_reason']}.")
    if record["examples"] < record["population"]:
        said.append(
            f"The curves are those of {count(record['examples'])} examples of {count(record['population'])}: "
            "all of them need a larger radius for the same loss."
        )
    return said


def _about_labels(record: Mapping[str, Any]) -> str:
    if record["compatible"] is None:
        return "Whether threat sets of different labels meet is not known for this threat: no exact test is."
    if not record["compatible"]:
        pairs = f"{record['pairs_meeting']:,} pair{'s' if record['pairs_meeting'] != 1 else ''}"
        remedy = (
            f"choose a radius below {setting(record['separation'] / 2)}"
            if record["separation"]
            else "remove one example of each pair"
        )
        return (
            f"Incompatible: the threat sets of {pairs} of differently labelled examples meet, so no "
            f"classifier is robust on all of them; {remedy}."
        )
    if record["separation"] is None:
        return "Compatible: no two examples of different labels can be turned into each other at any radius."
    return (
        f"Compatible: labels are {setting(record['separation'])} apart; the threat takes "
        f"{percent(record['rho'])} of the way to where a robust classifier becomes impossible."
    )


def _figure(record: Mapping[str, Any]) -> Figure:
    series: list[Series] = []
    top = 0.0
    for kind, style in (("clean", "s-blue"), ("robust", "s-vermillion")):
        curve = record[kind]
        rows = sorted(zip(curve["radii"], curve["lower"], curve["upper"], strict=True))
        lower, upper = tuple((r, a) for r, a, _ in rows), tuple((r, b) for r, _, b in rows)
        top = max(top, *(b for _, b in upper))
        series += [
            Series(
                label=f"{kind}, between bound and function found",
                points=(*lower, *reversed(upper)),
                style=style,
                kind="area",
            ),
            Series(label=f"optimal {kind} loss, upper end", points=upper, style=style),
            Series(label=f"optimal {kind} loss, lower bound", points=lower, style=f"{style} dash"),
        ]
    radii = [radius for radius, _ in series[1].points]
    said = "; ".join(
        f"radius {setting(r)}: clean {number(c)}, robust {number(b)}"
        for r, c, b in zip(
            record["robust"]["radii"], record["clean"]["upper"], record["robust"]["upper"], strict=True
        )
    )
    return Figure(
        title="Optimal loss against radius",
        run="",
        legend=tuple(s for s in series if s.kind != "area"),
        svg=chart(
            tuple(series),
            x_name="parameter radius",
            y_high=1.05 * top,
            description=f"Optimal loss: {said}.",
            log_x=min(radii) > 0 and max(radii) / min(radii) >= 8,
        ),
    )
