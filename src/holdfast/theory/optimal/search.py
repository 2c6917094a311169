"""The search: keep attacked points, solve the finite problem, attack its solution, add what hurts, until
the bracket is narrow.
"""

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from holdfast import _tensors
from holdfast._arguments import EXAMPLES, LABELS, Array, as_examples, as_labels
from holdfast._memory import require_memory
from holdfast._rules import COUNT, FUNCTION, SEED, maybe, real, several, takes, whole
from holdfast.attacks import ATTACK, PGD, Attack, as_attack
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.attacks.modes import attacking
from holdfast.errors import InputError
from holdfast.losses import LOSS, LOSSES, Loss, as_loss, broken_claim, correct
from holdfast.theory.optimal.curve import RobustLossCurve, Solution, as_tensor
from holdfast.theory.optimal.finite import FiniteProblem, Line
from holdfast.theory.optimal.function_class import FunctionClass, function_class
from holdfast.threats import THREAT, Threat, as_threat
from holdfast.threats.base import Points

TOLERANCE = 0.004
ROUNDS = 12  # a radius
STEPS = 10  # of the search that feeds the working set
SHARE = 0.02  # of the mean weight of an example, below which a point leaves the working set
JUDGED = 0.9  # of the tolerance: brackets that narrow by the quick search are shown to the full attack
BLOCK = 1024  # examples attacked at once

Report = Callable[[float], None]


@takes(
    x=EXAMPLES,
    y=LABELS,
    threat=maybe(THREAT),
    radii=several(real(least=0)),
    loss=maybe(LOSS),
    classes=maybe(whole(least=2)),
    tolerance=real(above=0),
    attack=maybe(ATTACK),
    rounds=COUNT,
    until=maybe(real(least=0)),
    seed=SEED,
    progress=maybe(FUNCTION),
)
def optimal_robust_loss(
    kernel: Any,
    x: Array,
    y: Array,
    threat: Threat | str | None,
    radii: Sequence[float],
    *,
    loss: Loss | str | None = None,
    classes: int | None = None,
    tolerance: float = TOLERANCE,
    attack: Attack | str | None = None,
    rounds: int = ROUNDS,
    until: float | None = None,
    seed: int = 0,
    progress: Report | None = None,
) -> RobustLossCurve:
    """How small the robust loss on these examples can get with functions of norm ``R``, for each ``R``.

    The answer is a bracket (`docs/explanations/theory.md`; Gao et al. 2019).

    A working set of attacked points makes the problem finite; its dual bounds the optimum from below whatever
    the points (`FiniteProblem`), the attacked loss of its solution shows what is reached. Points where the
    loss is higher join, and the problem is solved again from where it was, until the bracket is ``tolerance``
    wide. Radii are taken in rising order, each starting from the working set of the one before.

    Args:
        kernel: `KernelSpec`, a kernel function ``(x1, x2) -> matrix`` (`ntk`; differentiable in ``x1`` where
            there is a threat), or an ``nn.Module``: then the functions are that network's, linear in its
            weights, and ``R`` is their distance from its present ones.
        x: examples (n, ...).
        y: labels ``0 .. classes-1``, (n,).
        threat: ``None`` for the clean problem.
        radii: ``R >= 0``.
        loss: convex; default cross-entropy.
        classes: by default the largest label + 1, and at least 2.
        tolerance: width of bracket after which a radius is done.
        attack: judges each radius at the end; default 40 steps of PGD from the example and one from a random
            point.
        rounds: of solving and attacking, at most, per radius.
        until: radii above the first whose upper end is at most this are left out of the result.
        seed: of the attacks.
        progress: called with the share of the work done, about.

    Raises:
        InputError: no or bad radii, a loss that is not convex, examples the threat refuses or whose kernel
            overflows, labels that are no class numbers, or a working set beyond memory.

    >>> import holdfast as hf
    >>> data = hf.data.forced(dimension=2)
    >>> curve = hf.theory.optimal_robust_loss(hf.theory.KernelSpec(), data.x, data.y, None, [0.5])
    >>> round(float(curve.upper), 3)
    0.586
    """
    began = time.perf_counter()
    loss = as_loss(loss)
    threat = None if threat is None else as_threat(threat)
    x, y = as_examples("x", x), as_labels("y", y)
    classes = max(2, int(y.max()) + 1) if classes is None else classes
    _check(x, y, loss, classes)
    x = x.detach().double()
    if threat is not None:
        threat.check(x)
    functions = function_class(kernel, x, classes)
    if int(y.max()) >= max(2, functions.outputs):
        raise InputError(
            f"labels must lie in 0..{max(2, functions.outputs) - 1} for functions with {functions.outputs} "
            f"output(s), got {int(y.max())}; renumber them or give classes."
        )
    search = _LossSearch(
        functions=functions,
        x=x,
        y=y.long(),
        threat=threat,
        loss=loss,
        tolerance=tolerance,
        rounds=rounds,
        attack=PGD(steps=40, restarts=2, start="example") if attack is None else as_attack(attack),
        seed=seed,
        working=_Working(
            points=x,
            owner=torch.arange(len(x), device=x.device),
            coefficients=(none := x.new_zeros(len(x), functions.outputs)),
            held=none,
        ),
    )
    found: dict[float, _Reached] = {}
    rising = sorted(set(map(float, radii)))
    for done, radius in enumerate(rising):
        if progress is not None:
            progress(done / len(rising))
        found[radius] = search.at(radius)
        if until is not None and found[radius].loss <= until:
            break
    radii = [float(radius) for radius in radii if float(radius) in found]
    reached = [found[radius] for radius in radii]
    lower = [max(line.at(r.solution.radius) for line in search.lines) for r in reached]
    return RobustLossCurve(
        radii=tuple(radii),
        lower=as_tensor(lower),
        upper=as_tensor([r.loss for r in reached]),
        clean_loss=as_tensor([r.clean_loss for r in reached]),
        accuracy=as_tensor([r.accuracy for r in reached]),
        lines=tuple(search.lines),
        solutions=tuple(r.solution for r in reached),
        threat="none" if threat is None else threat.spec,
        examples=len(x),
        points=len(search.working.points),
        what=functions.what,
        seconds=time.perf_counter() - began,
    )


def first_slope(
    functions: FunctionClass, x: Points, y: Int[Tensor, " labels"], loss: Loss
) -> tuple[float, float]:
    """The clean loss at radius 0, and how fast the optimal one begins to fall with the radius:
    ``||1/n sum_i s_i K(., x_i)||``.
    """
    problem = FiniteProblem(
        gram=functions.gram(x, x),
        start=functions.start(x),
        owner=torch.arange(len(x), device=x.device),
        labels=y.long(),
        examples=len(x),
        loss=loss,
        temperature=TOLERANCE,
    )
    state = problem.state(problem.theta(x.new_zeros(len(x), functions.outputs)))
    return float(state.value), problem.line(state).slope


def _check(x: Tensor, y: Tensor, loss: Loss, classes: int) -> None:
    if not loss.convex:
        raise InputError(f"the loss must be convex, got {loss.name}; use cross-entropy or hinge.")
    broken = "" if type(loss) in LOSSES.values() else broken_claim(loss, 1 if classes == 2 else classes)
    if broken:
        raise InputError(f"the loss must keep what it claims, but {broken}; correct its slope or its claims.")
    if len(x) != len(y):
        raise InputError(f"x and y must have one row per example, got {len(x)} and {len(y)}; pair them.")
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise InputError(
            f"y must lie in 0..{classes - 1}, got {int(y.min())}..{int(y.max())}; renumber the labels or "
            "raise classes."
        )


@dataclass(frozen=True, kw_only=True)
class _Working:
    """The points, whose they are, the coefficients of the solution, and the values of the best function so
    far.

    Solutions of the finite problem jump from round to round: each serves its own points and no others.
    Attacking the middle between the solution and the best function so far (Ben-Ameur and Neto 2007, in-out
    separation) takes a fraction of the rounds.
    """

    points: Float[Tensor, "points ..."]
    owner: Int[Tensor, " points"]
    coefficients: Float[Tensor, "points outputs"]
    held: Float[Tensor, "points outputs"]

    def keep(self, rows: Bool[Tensor, " points"]) -> "_Working":
        return _Working(
            points=self.points[rows],
            owner=self.owner[rows],
            coefficients=self.coefficients[rows],
            held=self.held[rows],
        )

    def add(
        self, points: Points, owner: Int[Tensor, " new"], held: Float[Tensor, "new outputs"]
    ) -> "_Working":
        nothing = self.coefficients.new_zeros(len(points), self.coefficients.shape[1])
        return _Working(
            points=torch.cat([self.points, points]),
            owner=torch.cat([self.owner, owner]),
            coefficients=torch.cat([self.coefficients, nothing]),
            held=torch.cat([self.held, held]),
        )


@dataclass(frozen=True, kw_only=True)
class _Reached:
    """The best function of a radius with the worst losses known for it."""

    solution: Solution
    loss: float
    clean_loss: float
    accuracy: float


@dataclass(kw_only=True)
class _LossSearch:
    functions: FunctionClass
    x: Points
    y: Int[Tensor, " examples"]
    threat: Threat | None
    loss: Loss
    tolerance: float
    rounds: int
    attack: Attack
    seed: int
    working: _Working

    def __post_init__(self) -> None:
        self.lines: list[Line] = [
            Line(level=float(self.loss.floor(self.working.coefficients.shape[1], self.y).mean()), slope=0.0)
        ]

    def at(self, radius: float) -> _Reached:
        """Rounds of solving and attacking until the bracket is narrow: a quick search feeds them, the full
        attack has the last word.
        """
        weight: float | None = None
        best: _Reached | None = None
        judged, joined = False, True
        for round_ in range(self.rounds):
            problem = self._problem()
            theta = problem.theta(self.working.coefficients)
            if radius > 0:
                theta, weight = problem.solve_in_ball(theta, radius, weight)
            state = problem.state(theta)
            line = problem.line(state)
            if math.isfinite(line.level) and math.isfinite(line.slope):  # what overflowed proves nothing
                self.lines.append(line)
            lower = max(line.at(radius) for line in self.lines)
            self.working = replace(self.working, coefficients=problem.coefficients(theta))
            tried = _scaled(problem, self.working.coefficients, radius)
            if best is not None and joined:
                tried = _scaled(problem, (tried + problem.interpolant(self.working.held)) / 2, radius)
            solution = Solution(
                radius=radius,
                points=self.working.points,
                coefficients=tried,
                dual=state.dual,
                slope=line.slope,
                functions=self.functions,
            )
            values = problem.values(tried)
            points, gain, reached = self._attacked(problem, solution, values, full=False)
            if best is None or math.isnan(best.loss) or reached.loss < best.loss:
                best, judged = reached, False
                self.working = replace(self.working, held=values)
            if self.threat is None or radius == 0:
                break
            last = round_ == self.rounds - 1
            if not judged and (last or best.loss - lower <= JUDGED * self.tolerance):
                points, gain, best = self._attacked(problem, best.solution, self.working.held, full=True)
                judged = True
            if last or (judged and best.loss - lower <= self.tolerance):
                break
            joined = self._renew(state.dual, best.solution, points, gain)
        assert best is not None  # rounds >= 1
        if not math.isfinite(best.loss):
            raise InputError(
                f"the loss of the best function of norm {radius:g} must be finite, got {best.loss}; scale "
                "the examples down or take a smaller radius."
            )
        return best

    def _problem(self) -> FiniteProblem:
        rows = len(self.working.points) * self.functions.rows
        require_memory(
            3 * 8 * rows * rows,
            self.x.device,
            f"a working set of {len(self.working.points):,} points",
            "take fewer examples, or a larger tolerance",
        )
        points, owner = self.working.points, self.working.owner
        return FiniteProblem(
            gram=self.functions.gram(points, points),
            start=self.functions.start(points),
            owner=owner,
            labels=self.y[owner],
            examples=len(self.x),
            loss=self.loss,
            temperature=self.tolerance / 4,
        )

    def _attacked(
        self,
        problem: FiniteProblem,
        solution: Solution,
        values: Float[Tensor, "points outputs"],
        *,
        full: bool,
    ) -> tuple[Points, Float[Tensor, " examples"], _Reached]:
        """A bad point per example, how much worse it is than the worst one known, and what the function is
        worth at all of them.

        ``values`` of ``f - f_0`` at the problem's points, which need not be those that the solution is
        written with.
        """
        known = problem.start + values
        losses = self.loss(known, problem.labels)
        worst = problem.worst(losses)
        right = torch.ones(len(self.x), dtype=torch.bool, device=self.x.device)
        right[problem.owner[~correct(known, problem.labels)]] = False
        clean = self.loss(known[: len(self.x)], self.y)
        if self.threat is None:
            found, now = self.x, worst
        else:
            at = problem.owner.new_zeros(len(self.x))
            top = (losses == worst[problem.owner]).nonzero().squeeze(1)
            at[problem.owner[top]] = top
            found = self._search(solution, self.working.points[at], full=full)
            outputs = _in_blocks(solution.predictor, found)
            now = self.loss(outputs, self.y)
            right &= correct(outputs, self.y)
        return (
            found,
            now - worst,
            _Reached(
                solution=solution,
                loss=float(torch.maximum(now, worst).mean()),
                clean_loss=float(clean.mean()),
                accuracy=float(right.double().mean()),
            ),
        )

    def _search(self, solution: Solution, start: Points, *, full: bool) -> Points:
        """In float32 on the points that carry weight; what is found is judged in float64."""
        assert self.threat is not None
        carry = solution.coefficients.abs().amax(1)
        carry = carry > 1e-9 * carry.max()
        if not bool(carry.any()):
            return self.x
        quick = self.functions.predictor(solution.points[carry], solution.coefficients[carry])
        quick = deepcopy(quick).float()
        found = []
        for rows in _tensors.chunks(len(self.x), BLOCK):
            x, y = self.x[rows].float(), self.y[rows]
            if full:
                points = self.attack.run(quick, x, y, self.threat, loss=self.loss, seed=self.seed).x
            else:
                points = _ascend(quick, start[rows].float(), x, y, self.threat, self.loss)
            found.append(self.threat.project_inside(points.double(), self.x[rows]))
        return torch.cat(found)

    def _renew(
        self,
        dual: Float[Tensor, "points outputs"],
        best: Solution,
        points: Points,
        gain: Float[Tensor, " examples"],
    ) -> bool:
        """Points without weight leave, points that raise an example's loss by a share of the tolerance join;
        examples always stay.

        Whether any joined.
        """
        carried = dual.norm(dim=1)
        needed = carried > SHARE * carried.sum() / len(self.x)
        needed[: len(self.x)] = True
        worse = gain > self.tolerance / 10
        self.working = self.working.keep(needed)
        if not bool(worse.any()):
            return False
        held = _in_blocks(best.predictor, points[worse]) - self.functions.start(points[worse])
        self.working = self.working.add(points[worse], worse.nonzero().squeeze(1), held)
        return True


def _scaled(
    problem: FiniteProblem, coefficients: Float[Tensor, "points outputs"], radius: float
) -> Float[Tensor, "points outputs"]:
    """To the radius, unless a smaller norm is what the loss asks for."""
    size = float(problem.norm(coefficients))
    return coefficients * (radius / size) if size > radius or size > 0.9 * radius > 0 else coefficients


def _ascend(
    model: nn.Module, start: Points, x: Points, y: Int[Tensor, " batch"], threat: Threat, loss: Loss
) -> Points:
    """The best iterate of `STEPS` steps of steepest ascent from known bad points, ever shorter ones."""
    into_set = threat.projector(x)
    points, best = start, start
    highest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    with attacking(model, "eval"):
        for step in range(STEPS + 1):
            outputs, gradient = outputs_and_gradient(model, points, lambda outputs: loss(outputs, y))
            value = loss(outputs, y)
            higher = value > highest
            best = torch.where(_tensors.per_example(higher, points), points, best)
            highest = torch.maximum(value, highest)
            size = threat.step_scale * (1 - step / STEPS)
            points = into_set(points + threat.step(gradient, size))
    return best


def _in_blocks(model: nn.Module, points: Points) -> Tensor:
    with torch.no_grad():
        return torch.cat(
            [_tensors.applied(model, points[part]) for part in _tensors.chunks(len(points), BLOCK)]
        )
