"""What the search for the optimal robust loss found: a bracket a radius, and everything between the radii
that convexity gives.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._formats import count, number, setting
from holdfast._values import Drawn, Fact, Shown
from holdfast.errors import InputError
from holdfast.theory.optimal.finite import Line
from holdfast.theory.optimal.function_class import FunctionClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True, repr=False)
class Solution(Shown):
    """A function of norm at most ``radius``, by its kernel coefficients.

    Attributes:
        radius: ``R``.
        points: attacked points, (points, ...).
        coefficients: (points, outputs).
        dual: ``beta_j = p_j s_j / n``, a point's share of its example times the slope of the loss there: what
            proved the bound.
        slope: ``||beta||_K``, the slope of that bound in the radius.
        functions: the class it is taken from.
    """

    radius: float
    points: Float[Tensor, "points ..."]
    coefficients: Float[Tensor, "points outputs"]
    dual: Float[Tensor, "points outputs"]
    slope: float
    functions: FunctionClass

    def _facts(self) -> list[Fact]:
        return [
            Fact("radius", setting(self.radius)),
            Fact("points", count(len(self.points))),
            Fact("slope", number(self.slope)),
        ]

    @property
    def predictor(self) -> nn.Module:
        """The function as a module, in float64."""
        return self.functions.predictor(self.points, self.coefficients)


@dataclass(frozen=True, kw_only=True, repr=False)
class RobustLossCurve(Drawn):
    """Optimal robust loss against radius ``R``, between two bounds.

    ``min_{||f - f_0|| <= R} 1/n sum_i sup_{x' in B(x_i)} loss(f(x'), y_i)``.

    Attributes:
        radii: asked for, in the order asked.
        lower: *bounded*: no function of norm ``R`` has a smaller robust loss on these examples (float64,
            rounding of the kernel taken off).
        upper: loss of the best function found, at the worst points found; *observed*, not proved, where there
            is a threat; without one it is this function's loss, hence a bound.
        clean_loss: of that function, at the examples themselves.
        accuracy: share of the examples it classifies correctly at the worst points found.
        lines: all lower bounds, each valid at every radius.
        solutions: the best function of each radius.
        threat: its spec; ``none`` for the clean problem.
        examples, points: how many examples, and points of their threat sets at the end.
        what: the class of functions, in words.
        seconds: spent.

    >>> import holdfast as hf
    >>> data = hf.data.forced(dimension=2)
    >>> curve = hf.theory.optimal_robust_loss(hf.theory.KernelSpec(), data.x, data.y, None, [0.5, 1.0])
    >>> bool((curve.lower <= curve.upper).all())
    True
    """

    radii: tuple[float, ...]
    lower: Float[Tensor, " radii"]
    upper: Float[Tensor, " radii"]
    clean_loss: Float[Tensor, " radii"]
    accuracy: Float[Tensor, " radii"]
    lines: tuple[Line, ...]
    solutions: tuple[Solution, ...]
    threat: str
    examples: int
    points: int
    what: str
    seconds: float

    def _facts(self) -> list[Fact]:
        upper = "bounded" if self.threat == "none" else "observed"
        shown = [
            Fact(
                f"loss at radius {setting(self.radii[k])}",
                f"{number(float(self.lower[k]))} to {number(float(self.upper[k]))}",
                f"bounded to {upper}",
            )
            for k in sorted({0, len(self.radii) - 1})
        ]
        return [
            Fact("functions", self.what),
            Fact("threat", self.threat),
            Fact("examples", count(self.examples)),
            Fact("radii", count(len(self.radii))),
            *shown,
        ]

    def _columns(self) -> dict[str, list[Any]]:
        names = ("lower", "upper", "clean_loss", "accuracy")
        return {"radius": list(self.radii)} | {name: getattr(self, name).tolist() for name in names}

    def _draw(self, axes: "Axes") -> None:
        rows = sorted(zip(self.radii, self.lower.tolist(), self.upper.tolist(), strict=True))
        radii, lower, upper = zip(*rows, strict=True)
        axes.fill_between(radii, lower, upper, alpha=0.25)
        axes.plot(
            radii, upper, marker=".", label=f"upper ({'bounded' if self.threat == 'none' else 'observed'})"
        )
        axes.plot(radii, lower, marker=".", linestyle="--", label="lower (bounded)")
        axes.set(xlabel="radius", ylabel="robust loss")

    @property
    def width(self) -> float:
        """The widest bracket."""
        return float((self.upper - self.lower).max())

    def at(self, radius: float) -> tuple[float, float]:
        """A bracket at any radius: below by the lines, above between two radii by the chord, since the
        optimum is convex in ``R``.

        Beyond the largest radius the last function still serves; below the smallest the chord starts at
        ``f_0``, of radius 0.
        """
        if not (math.isfinite(radius) and radius >= 0):
            raise InputError(f"radius must be a finite number >= 0, got {radius}; 0 is the start itself.")
        lower = max(line.at(radius) for line in self.lines)
        known = sorted(zip(self.radii, self.upper.tolist(), strict=True))
        upper = min((loss for r, loss in known if r <= radius), default=math.inf)
        for (r1, a), (r2, b) in pairwise(known):
            if r1 <= radius <= r2 and r2 > r1:
                upper = min(upper, a + (b - a) * (radius - r1) / (r2 - r1))
        return lower, upper

    def radius_for(self, loss: float) -> tuple[float, float]:
        """``R(epsilon)``: between which radii the optimal robust loss falls to ``loss``; the second is
        infinite if none asked for did.

        Below the first no function reaches it (bounded); at the second one was found that does (observed
        under a threat).
        """
        known = sorted(zip(self.radii, self.upper.tolist(), strict=True))
        above = math.inf
        for index, (radius, value) in enumerate(known):
            if value <= loss:
                above = radius
                if index:
                    before, larger = known[index - 1]
                    above = before + (larger - loss) / (larger - value) * (radius - before)
                break
        below = max(
            (
                math.inf if line.slope <= 0 else (line.level - loss) / line.slope
                for line in self.lines
                if line.level > loss
            ),
            default=0.0,
        )
        return below, above


def as_tensor(values: list[float]) -> Float[Tensor, " values"]:
    return torch.tensor(values, dtype=torch.float64)
