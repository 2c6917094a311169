"""The picture of what a certificate says: `python docs/figures/bracket.py docs/_static/bracket.svg` (needs matplotlib)."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BLUE, GREEN, GREY = "#1b5faa", "#2a9d74", "0.35"


def main(out: Path) -> None:
    """Levels of loss from 0 upwards, each with what it is and how it is known."""
    plt.rcParams.update({"font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "holdfast"})
    figure, axes = plt.subplots(figsize=(8.4, 3.2), layout="constrained")
    levels = [
        (0.30, BLUE, "lower bound", "no network of the ball has a smaller robust loss (proved or estimated)"),
        (0.55, "0.1", "surrogate loss", "this network, at the points the attack of training found"),
        (0.72, GREY, "stronger attacks", "this network, at the worst points found at the end (observed)"),
    ]
    for height, color, name, meaning in levels:
        axes.plot([0, 3.2], [height, height], color=color, linewidth=2)
        axes.text(3.3, height, f"{name}: {meaning}", va="center", color=color)
    spans = [(0.0, 0.30, "capacity gap"), (0.30, 0.55, "optimisation gap"), (0.55, 0.72, "attack gap")]
    for column, (low, high, name) in enumerate(spans):
        axes.fill_between([0, 3.2], low, high, color=GREEN if column == 1 else "0.85", alpha=0.3, linewidth=0)
        axes.text(1.6, (low + high) / 2, name, ha="center", va="center")
    axes.set(xlim=(0, 12), ylim=(0, 0.82), ylabel="loss", xticks=[], yticks=[0])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
