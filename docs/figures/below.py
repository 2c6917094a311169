"""Why a round bounds the robust loss from below: `python docs/figures/below.py docs/_static/below.svg` (needs matplotlib).

One weight ``w``, one example that the adversary may move to three points, and ``loss(w) = log(1 + exp(-a (w - b)))`` at each.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

POINTS = ((1.3, 0.2), (-1.1, 2.2), (0.5, 0.9))
CURVATURE = 0.12  # what the network may bend away from its tangent; wider networks bend less
ANCHOR, START, RADIUS = 0.8, 0.1, 1.0


def loss(w: np.ndarray, slope: float, shift: float) -> np.ndarray:
    """The loss at one point of the threat set."""
    return np.logaddexp(0, -slope * (w - shift))


def main(out: Path) -> None:
    """Robust loss, one round, the quadratic below it, and the bound over the ball."""
    plt.rcParams.update({"font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "holdfast"})
    w = np.linspace(-1.6, 2.0, 400)
    curves = np.stack([loss(w, *point) for point in POINTS])
    slope, shift = POINTS[0]
    value = loss(np.array(ANCHOR), slope, shift)
    gradient = -slope / (1 + np.exp(slope * (ANCHOR - shift)))
    below = value + gradient * (w - ANCHOR) - CURVATURE * (w - ANCHOR) ** 2
    ball = np.abs(w - START) <= RADIUS
    figure, axes = plt.subplots(figsize=(8.4, 3.4), layout="constrained")
    axes.axvspan(START - RADIUS, START + RADIUS, color="0.95", label="the ball of weights")
    axes.plot(
        w, curves.max(0), color="0.1", linewidth=2.5, label="robust loss: the worst point at each weight"
    )
    axes.plot(w, curves[0], color="#1b5faa", label="one round: the point attacked in training")
    axes.plot(w, below, color="#2a9d74", linestyle="--", label="the quadratic below it")
    axes.plot(ANCHOR, value, "o", color="#1b5faa")
    axes.hlines(
        below[ball].min(), START - RADIUS, START + RADIUS, color="#2a9d74", label="lower bound over the ball"
    )
    axes.set(xlabel="weights", ylabel="loss", xticks=[], yticks=[0], ylim=(-0.2, 3.0))
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
