"""The README's picture, from a run folder: `python docs/figures/first_run.py runs/demo docs/_static/first-run.svg` (needs matplotlib)."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(folder: Path, out: Path) -> None:
    """Loss over rounds between its lower bound and the surrogate loss, and the bound against the radius of the ball."""
    summary = json.loads((folder / "summary.json").read_text())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    low, high, gap = summary["robust_loss_lower_bound"], summary["surrogate_loss"], summary["gap"]
    plt.rcParams.update({"font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "holdfast"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4), width_ratios=(3, 2), layout="constrained")
    rounds = [row["rounds"] for row in metrics]
    left.plot(
        rounds, [row["online_loss"] for row in metrics], color="0.35", label="training loss (moving weights)"
    )
    bounds = [(row["rounds"], row["lower_bound"]) for row in metrics if row["lower_bound"] is not None]
    left.plot(*zip(*bounds, strict=True), "o", color="#1b5faa", label="lower bound from one window")
    left.axhspan(
        low, high, color="#2a9d74", alpha=0.35, label=f"gap {gap:.2g}, {summary['certificate_status']}"
    )
    left.axhline(low, color="#1b5faa", linewidth=1)
    left.axhline(high, color="0.1", linewidth=1)
    left.set(xlabel="round", ylabel="robust loss", ylim=(0, None), title="How far from the best possible?")
    left.legend(frameon=False, loc="lower left", fontsize=9)
    at = [(row["radius"], max(0.0, row["lower_bound"])) for row in summary["bounds_at_radii"]]
    right.plot(*zip(*at, strict=True), "o-", color="#1b5faa", markersize=3)
    right.axhline(high, color="0.1", linewidth=1)
    right.annotate("this network", (at[0][0], high), xytext=(0, 4), textcoords="offset points", fontsize=9)
    right.set(
        xlabel="radius of the ball of weights",
        ylabel="lower bound",
        ylim=(0, None),
        title="No network in the ball is below",
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
