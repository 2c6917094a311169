"""The exact least margin of a network with one hidden layer of ReLU units over a ball: branch and bound with
a tight dual.

``f(x) = c + sum_j a_j relu(<w_j, x> + b_j)`` over ``||x - x_0|| <= r``. Units that keep one sign in the whole
ball are linear. Of the others those with ``a_j >= 0`` are convex: ``a_j relu(z) >= a_j t z`` for any ``t`` in
[0, 1], and the best ``t`` loses nothing. Those with ``a_j < 0`` lie above their chord over the ball's
interval of ``z``, until a branch fixes their sign ``s_j``, whose constraint ``s_j z_j >= 0`` gets a
multiplier ``l_j >= 0``. For every choice of ``t`` and ``l`` the least value of the resulting linear function,
``<q, x_0> - r ||q||_dual + const``, is a lower bound of ``f`` there (rounding subtracted); its maximum over
the choices is that of a convex relaxation, which is exact once every sign of a concave unit is known. So the
search decides, and only the concave units that change sign in the ball are branched on.
"""

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog, minimize

Array = npt.NDArray[np.float64]

ROUNDING = 4 * 2.0**-53
DUAL = {"2": 2, "1": np.inf, "inf": 1}


@dataclass(frozen=True, kw_only=True)
class Least:
    """``bound <= f`` on the ball, proved; ``point``: where ``f <= 0`` in float64, if such a point was met;
    ``decided``: one or the other.
    """

    bound: float
    point: Array | None

    @property
    def decided(self) -> bool:
        return self.bound > 0 or self.point is not None


@dataclass(frozen=True, kw_only=True)
class Hinges:
    """``f``: ``a`` (units), ``w`` (units, features), ``b`` (units), ``c``."""

    a: Array
    w: Array
    b: Array
    c: float

    def __call__(self, x: Array) -> float:
        return float(self.c + self.a @ np.maximum(self.w @ x + self.b, 0.0))


def least(f: Hinges, centre: Array, radius: float, norm: str, parts: int) -> Least:
    """Raise a lower bound of ``f`` over the ball until it is above 0, a point refutes that, or the ball is in
    ``parts`` parts.

    Args:
        norm: ``"2"``, ``"inf"`` or ``"1"``; features that may not change belong into ``b``, there is no box.
        parts: into which the ball is cut at most.
    """
    search = _Ball(f, centre, radius, norm)
    start = np.zeros(len(f.a), dtype=np.int8)
    first = search.bounded(start)
    if first.refuting is not None:
        return Least(bound=first.value, point=first.refuting)
    heap = [(first.value, 0, start, first)]
    number = 0
    while heap[0][0] <= 0:
        value, _, signs, node = heapq.heappop(heap)
        if node.branch is None or number + 2 > 2 * parts:
            return Least(bound=value, point=None)
        for side in (1, -1):
            number += 1
            child = signs.copy()
            child[node.branch] = side
            found = search.bounded(child)
            if found.refuting is not None:
                return Least(bound=min(found.value, value), point=found.refuting)
            heapq.heappush(heap, (max(found.value, value), number, child, found))
    return Least(bound=heap[0][0], point=None)


@dataclass(frozen=True, kw_only=True)
class _Node:
    """A bound of one part, a point of the ball where ``f`` is not above 0 if one was met, and the concave
    unit to branch on.
    """

    value: float
    refuting: Array | None
    branch: int | None


class _Ball:
    """What is the same in every part of one ball."""

    def __init__(self, f: Hinges, centre: Array, radius: float, norm: str) -> None:
        self.f, self.centre, self.radius, self.norm = f, centre, radius, norm
        middle, reach = f.w @ centre + f.b, radius * np.linalg.norm(f.w, ord=DUAL[norm], axis=1)
        size = np.abs(f.w) @ (np.abs(centre) + radius) + np.abs(f.b)
        slack = (len(centre) + 4) * ROUNDING * size
        self.size = size
        self.low, self.high = middle - reach - slack, middle + reach + slack
        self.stable = np.where(self.low >= 0, 1, np.where(self.high <= 0, -1, 0)).astype(np.int8)

    def bounded(self, signs: npt.NDArray[np.int8]) -> _Node:
        """The best dual bound where the units keep these signs (0: free)."""
        f, count = self.f, len(self.f.a)
        known = np.where(self.stable != 0, self.stable, signs)
        cut = np.flatnonzero((signs != 0) & (self.stable == 0))
        convex = np.flatnonzero((known == 0) & (f.a >= 0))
        concave = np.flatnonzero((known == 0) & (f.a < 0))
        share = np.where(known > 0, 1.0, 0.0)
        chord = self.high[concave] / (self.high[concave] - self.low[concave])
        share[concave] = chord
        constant = f.c - float((f.a[concave] * chord) @ self.low[concave])
        best = _Best(value=-np.inf, point=self.centre)

        def dual(numbers: Array) -> tuple[float, Array]:
            weight = f.a * share
            weight[convex] = f.a[convex] * numbers[: len(convex)]
            weight[cut] -= signs[cut] * numbers[len(convex) :]
            slope = weight @ f.w
            at = self.lowest(slope)
            value = float(slope @ self.centre) - self.radius * float(
                np.linalg.norm(slope, ord=DUAL[self.norm])
            )
            value += constant + float(weight @ f.b)
            lost = (
                ROUNDING
                * (len(at) + count + 8)
                * (float((np.abs(weight) + np.abs(f.a)) @ self.size) + abs(f.c))
            )
            if value - lost > best.value:
                best.value, best.point = value - lost, at
            z = f.w @ at + f.b
            if best.refuting is None and f.c + float(f.a @ np.maximum(z, 0.0)) <= 0:
                best.refuting = at
            gradient = np.concatenate([f.a[convex] * z[convex], -signs[cut] * z[cut]])
            return -value, -gradient

        def enough(_: Array) -> None:
            if best.value > 0 or best.refuting is not None:
                raise StopIteration

        start = np.concatenate([np.full(len(convex), 0.5), np.zeros(len(cut))])
        dual(start)
        if len(start) and best.value <= 0 and best.refuting is None:
            # the dual of a polyhedral ball is not smooth: a linear programme finds its maximum
            solved = None if self.norm == "2" else self._programmed(f.a * share, convex, cut, signs[cut])
            if solved is not None:
                dual(solved[0])
                best.point = solved[1]
            else:
                limits = [(0.0, 1.0)] * len(convex) + [(0.0, None)] * len(cut)
                minimize(dual, start, jac=True, method="L-BFGS-B", bounds=limits, callback=enough)
        z = f.w[concave] @ best.point + f.b[concave]
        loss = -f.a[concave] * (chord * (z - self.low[concave]) - np.maximum(z, 0.0))
        branch = int(concave[loss.argmax()]) if len(concave) else None
        if best.refuting is None and f(best.point) <= 0:
            best.refuting = best.point
        return _Node(value=best.value, refuting=best.refuting, branch=branch)

    def _programmed(
        self,
        weight: Array,
        convex: npt.NDArray[np.int64],
        cut: npt.NDArray[np.int64],
        sides: npt.NDArray[np.int8],
    ) -> tuple[Array, Array] | None:
        """Multipliers and point of the relaxation as a linear programme, for polyhedral balls; ``None`` where
        it is not solved.

        With ``v_j >= relu(z_j)`` for the convex units; the dual function is evaluated at what comes out, so
        nothing rests on the solver.
        """
        f, features = self.f, len(self.centre)
        steps = np.eye(features) if self.norm == "inf" else np.hstack([np.eye(features), -np.eye(features)])
        fixed = np.delete(np.arange(len(f.a)), convex)
        costs = np.concatenate([(weight[fixed] @ f.w[fixed]) @ steps, f.a[convex]])
        units, middle = f.w @ steps, f.w @ self.centre + f.b
        above = np.hstack([units[convex], -np.eye(len(convex))])
        kept = np.hstack([-sides[:, None] * units[cut], np.zeros((len(cut), len(convex)))])
        matrix, limit = np.vstack([above, kept]), np.concatenate([-middle[convex], sides * middle[cut]])
        if self.norm == "1":
            matrix = np.vstack([matrix, np.concatenate([np.ones(2 * features), np.zeros(len(convex))])])
            limit = np.append(limit, self.radius)
        reach = (-self.radius if self.norm == "inf" else 0.0, self.radius)
        moves = [reach] * steps.shape[1] + [(0.0, None)] * len(convex)
        solved = linprog(costs, A_ub=matrix, b_ub=limit, bounds=moves, method="highs")
        if solved.x is None:
            return None
        found = -np.asarray(solved.ineqlin.marginals)
        share = np.clip(found[: len(convex)] / np.maximum(f.a[convex], 1e-300), 0.0, 1.0)
        numbers = np.concatenate([share, np.maximum(found[len(convex) : len(convex) + len(cut)], 0.0)])
        return numbers, self.centre + (1 - 1e-12) * (steps @ solved.x[: steps.shape[1]])

    def lowest(self, slope: Array) -> Array:
        """The point of the ball where ``<slope, x>`` is least, strictly inside."""
        reach = self.radius * (1 - 1e-12)
        if self.norm == "inf":
            return self.centre - reach * np.sign(slope)
        if self.norm == "1":
            move = np.zeros_like(slope)
            top = int(np.abs(slope).argmax())
            move[top] = np.sign(slope[top])
            return self.centre - reach * move
        length = float(np.linalg.norm(slope))
        return self.centre - reach * slope / length if length > 0 else self.centre


@dataclass(kw_only=True)
class _Best:
    """The best bound so far, where its linear function is least, and any point met where ``f`` is not
    above 0.
    """

    value: float
    point: Array
    refuting: Array | None = None
