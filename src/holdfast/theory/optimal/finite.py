"""The problem on finitely many points: smooth, convex, and each of its iterates proves a lower bound at
every radius.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.errors import InputError
from holdfast.losses import Loss

JITTER = 1e-11  # of the mean diagonal: the square root only names functions, it enters no bound
KERNEL_ROUNDING = (
    1e-10  # relative error of a kernel's entries in float64, which every kernel here is tested to
)
UNIT = 2.0**-53
ITERATIONS = 400
PRECISION = 1e-2  # of a solution's gradient, relative
NEAR_RADIUS = 0.03  # relative: bounds lose only the square of it
TRIES = 6  # weights tried for one radius


@dataclass(frozen=True, kw_only=True)
class Line:
    """``level - slope R <= optimal robust loss at radius R``, for every ``R``."""

    level: float
    slope: float

    def at(self, radius: float) -> float:
        return self.level - self.slope * radius


@dataclass(frozen=True, kw_only=True)
class SolverState:
    """A function at the points: what it costs, and the dual point that belongs to it."""

    outputs: Float[Tensor, "points outputs"]
    losses: Float[Tensor, " points"]
    worst: Float[Tensor, " examples"]
    shares: Float[Tensor, " points"]  # an example's weight of 1, dealt out to its points
    value: Tensor
    dual: Float[Tensor, "points outputs"]  # shares / n times the slope of the loss


@dataclass(kw_only=True)
class FiniteProblem:
    """Minimise ``1/n sum_i max_{j in S_i} loss(f(x_j), y_i)`` over ``||f - f_0|| <= R``; ``S_i`` the points
    of example ``i``.

    Functions are written ``f = f_0 + L theta`` with ``L L' = K``, so that the norm is Euclidean. The maximum
    is softened to ``tau log sum exp(loss / tau)``, which gives every point a share ``p_j``. With ``s_j`` the
    slope of the loss at ``f(x_j)``, convexity says for every ``h`` of the class and whatever the other points
    of the threat sets

        1/n sum_i max_j loss(h(x_j)) >= 1/n sum_j p_j [loss(f(x_j)) + <s_j, h(x_j) - f(x_j)>],

    and the least value of the right side over the ball is ``level - R ||beta||_K``, ``beta_j = p_j s_j / n``:
    a `Line`.
    """

    gram: Float[Tensor, "rows rows"]
    start: Float[Tensor, "points outputs"]
    owner: Int[Tensor, " points"]
    labels: Int[Tensor, " points"]
    examples: int
    loss: Loss
    temperature: float
    root: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.gram.shape not in ((len(self.start),) * 2, (self.start.numel(),) * 2):
            raise InputError(
                f"the kernel must give one number for each pair of {len(self.start)} points, got "
                f"{tuple(self.gram.shape)}; see holdfast.theory.ntk."
            )
        if not bool(self.gram.isfinite().all() and self.start.isfinite().all()):
            raise InputError(
                "the kernel and the outputs at the start must be finite in float64 on all examples, got "
                "overflow or NaN; scale the examples down."
            )
        jitter = JITTER * float(self.gram.diagonal().mean().clamp_min(1e-300))
        failed = True
        while failed:  # rounding can make a matrix of near-equal points indefinite
            shifted = self.gram.clone()
            shifted.diagonal().add_(jitter)
            self.root, info = torch.linalg.cholesky_ex(shifted)
            failed, jitter = bool(info), jitter * 10

    @property
    def columns(self) -> int:
        """Of ``theta``: the outputs where they share one kernel, else 1."""
        return self.start.shape[1] if len(self.gram) == len(self.start) else 1

    def outputs(self, theta: Float[Tensor, "rows columns"]) -> Float[Tensor, "points outputs"]:
        return self.start + (self.root @ theta).reshape(self.start.shape)

    def theta(self, coefficients: Float[Tensor, "points outputs"]) -> Float[Tensor, "rows columns"]:
        """``L' c``, since ``L theta = K c``."""
        return self.root.T @ coefficients.reshape(-1, self.columns)

    def coefficients(self, theta: Float[Tensor, "rows columns"]) -> Float[Tensor, "points outputs"]:
        solved: Tensor = torch.linalg.solve_triangular(self.root.T, theta, upper=True)
        return solved.reshape(self.start.shape)

    def interpolant(self, values: Float[Tensor, "points outputs"]) -> Float[Tensor, "points outputs"]:
        """Coefficients of the function of least norm with these values of ``f - f_0`` at the points."""
        half = torch.linalg.solve_triangular(self.root, values.reshape(-1, self.columns), upper=False)
        return self.coefficients(half)

    def values(self, coefficients: Float[Tensor, "points outputs"]) -> Float[Tensor, "points outputs"]:
        """``f - f_0`` at the points, by the kernel itself: the square root has a jitter, which large
        coefficients would show.
        """
        return (self.gram @ coefficients.reshape(-1, self.columns)).reshape(self.start.shape)

    def norm(self, coefficients: Float[Tensor, "points outputs"]) -> Tensor:
        """``||f - f_0||`` by the kernel itself, with its rounding on the side of a larger norm."""
        flat = coefficients.reshape(-1, self.columns)
        square = (flat * (self.gram @ flat)).sum()
        absolute = (flat.abs() * self.gram.diagonal().clamp_min(0).sqrt()[:, None]).sum(0).square().sum()
        size: Tensor = (square.clamp_min(0) + KERNEL_ROUNDING * absolute).sqrt()
        return size

    def state(self, theta: Float[Tensor, "rows columns"]) -> SolverState:
        outputs = self.outputs(theta)
        losses = self.loss(outputs, self.labels)
        worst = self.worst(losses)
        raised = torch.exp((losses - worst[self.owner]) / self.temperature)
        total = torch.zeros_like(worst).scatter_add(0, self.owner, raised)
        shares = raised / total[self.owner]
        return SolverState(
            outputs=outputs,
            losses=losses,
            worst=worst,
            shares=shares,
            value=(worst + self.temperature * total.log()).mean(),
            dual=self.loss.slope(outputs, self.labels) * (shares / self.examples)[:, None],
        )

    def worst(self, losses: Float[Tensor, " points"]) -> Float[Tensor, " examples"]:
        """The highest loss among each example's points."""
        lowest = torch.full((self.examples,), -torch.inf, dtype=losses.dtype, device=losses.device)
        return lowest.scatter_reduce(0, self.owner, losses, "amax")

    def line(self, state: SolverState) -> Line:
        """The lower bound that this function's dual point proves, rounding taken off.

        Convexity holds at any outputs, so these count as exact. A loss errs by some ``u (1 + loss + |f|)``, a
        slope by some ``u (1 + |s|)``, which tells in the level by how far the outputs are from the start's,
        and by ``R sqrt(K_jj)`` in the ball.
        """
        share = state.shares / self.examples
        tangent = (share * state.losses).sum() - (state.dual * (state.outputs - self.start)).sum()
        slopes = state.dual.abs() + share[:, None]
        terms = (share * state.losses.abs()).sum()
        terms = terms + (slopes * (1 + state.outputs.abs() + self.start.abs())).sum()
        deviations = self.gram.diagonal().clamp_min(0).sqrt().reshape(len(self.start), -1)
        level = tangent - UNIT * (slopes.numel() + 16) * terms
        slope = self.norm(state.dual) + UNIT * 8 * (slopes * deviations).sum()
        return Line(level=float(level), slope=float(slope))

    def solve(
        self, theta: Float[Tensor, "rows columns"], weight: float, radius: float
    ) -> Float[Tensor, "rows columns"]:
        """Minimise the softened loss plus ``weight / 2 ||theta||^2`` by L-BFGS (scipy's), from ``theta``.

        Ends where the gradient is a hundredth of what the weight's part has at ``||theta|| = radius``: bounds
        lose its square.
        """
        from scipy.optimize import minimize  # when first needed: scipy takes its time to import

        def value_and_gradient(vector: object) -> tuple[float, object]:
            at = torch.as_tensor(vector).to(theta).reshape(theta.shape)
            state = self.state(at)
            gradient = self.root.T @ state.dual.reshape(theta.shape) + weight * at
            value = state.value + weight / 2 * at.square().sum()
            return float(value), gradient.cpu().numpy().ravel()

        precision = max(1e-12, PRECISION * weight * radius / theta.numel() ** 0.5)
        found = minimize(
            value_and_gradient,
            theta.cpu().numpy().ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": ITERATIONS, "maxcor": 20, "gtol": precision, "ftol": 1e-12},
        )
        return torch.from_numpy(found.x).to(theta).reshape(theta.shape)

    def solve_in_ball(
        self, theta: Float[Tensor, "rows columns"], radius: float, weight: float | None = None
    ) -> tuple[Float[Tensor, "rows columns"], float]:
        """`solve` with the weight whose solution has about this norm, and that weight; a first guess may be
        given.

        At the optimum ``weight R`` is the slope ``||beta||`` of the curve. The norm falls with the weight,
        about as a power of it: a secant in logarithms, between the two tries nearest to the radius. A loss
        whose minimum lies inside the ball ends there.
        """
        if weight is None:
            weight = float(self.norm(self.state(theta).dual)) / radius
        tried: list[tuple[float, float]] = []
        for _ in range(TRIES):
            theta = self.solve(theta, weight, radius)
            size = float(theta.norm())
            if abs(size / radius - 1) <= NEAR_RADIUS or size == 0:
                break
            tried.append((math.log(weight), math.log(size / radius)))
            weight = math.exp(tried[-1][0] + _log_step(tried))
        return theta, weight


def _log_step(tried: list[tuple[float, float]]) -> float:
    """What to add to the last logarithm of the weight."""
    (last, off) = tried[-1]
    power = -0.7
    for before, was in tried[-2::-1]:
        if abs(last - before) > 1e-9:
            power = min(-0.1, max(-2.0, (off - was) / (last - before)))
            break
    return max(-3.0, min(3.0, -off / power))
