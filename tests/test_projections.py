"""Projections against solvers that know nothing of them, and against the inequality that defines a projection."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

from holdfast import projections as pr

PROJECT = {"inf": pr.project_linf, "2": pr.project_l2, "1": pr.project_l1}
MAXIMISE = {"inf": pr.maximise_linf, "2": pr.maximise_l2, "1": pr.maximise_l1}
NORMS = list(PROJECT)
BOXES = ["none", "box", "half open", "some stuck"]

norms = pytest.mark.parametrize("norm", NORMS)
boxes = pytest.mark.parametrize("box", BOXES)


def limits(box: str, rows: int, features: int, rng: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
    """Lower and upper limits of displacements, in float64."""
    if box == "none":
        return None, None
    low = -torch.rand(rows, features, dtype=torch.float64, generator=rng)
    high = torch.rand(rows, features, dtype=torch.float64, generator=rng)
    if box == "half open":
        high[:, ::2] = torch.inf
        low[:, 1::3] = -torch.inf
    if box == "some stuck":
        low[:, ::3] = high[:, ::3] = 0.0
        low[:, 1::4] = 0.0
    return low, high


def gaussian(rows: int, features: int, rng: torch.Generator) -> Tensor:
    return torch.randn(rows, features, dtype=torch.float64, generator=rng)


def row(limit: Tensor | None, i: int, features: int, default: float) -> np.ndarray:
    return np.full(features, default) if limit is None else limit[i].numpy()


def solved_by_slsqp(
    point: np.ndarray, norm: str, radius: float, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The nearest point, from a general solver; z = u - v with u, v >= 0 makes the l1 constraint smooth."""
    n = len(point)

    def split(w: np.ndarray) -> np.ndarray:
        return w[:n] - w[n:]

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        gap = split(w) - point
        return 0.5 * gap @ gap, np.concatenate([gap, -gap])

    if norm == "inf":
        low, high, ball = np.maximum(low, -radius), np.minimum(high, radius), []
    elif norm == "2":
        ball = [{"type": "ineq", "fun": lambda w: radius**2 - split(w) @ split(w)}]
    else:
        ball = [{"type": "ineq", "fun": lambda w: radius - w.sum()}]
    limit = [(0.0, b if np.isfinite(b) else None) for b in (*np.maximum(high, 0), *np.maximum(-low, 0))]
    options = {"ftol": 1e-15, "maxiter": 1000}
    result = minimize(
        objective, np.full(2 * n, 1e-3), jac=True, bounds=limit, constraints=ball, options=options
    )
    return split(result.x)


@norms
@boxes
def test_projection_is_what_a_general_solver_finds(norm: str, box: str, rng: torch.Generator) -> None:
    rows, features = 12, 6
    delta = gaussian(rows, features, rng)
    low, high = limits(box, rows, features, rng)
    radius = 0.2 + torch.rand(rows, dtype=torch.float64, generator=rng)
    ours = PROJECT[norm](delta, radius, low, high).numpy()
    for i in range(rows):
        edges = row(low, i, features, -np.inf), row(high, i, features, np.inf)
        theirs = solved_by_slsqp(delta[i].numpy(), norm, float(radius[i]), *edges)
        np.testing.assert_allclose(ours[i], theirs, atol=2e-5)
        assert np.sum((ours[i] - delta[i].numpy()) ** 2) <= np.sum((theirs - delta[i].numpy()) ** 2) + 1e-7


def by_bisection(delta: Tensor, norm: str, radius: float, low: Tensor, high: Tensor) -> Tensor:
    """The multiplier halved in on, in as many features as one likes."""

    def trial(multiplier: Tensor) -> Tensor:
        if norm == "2":
            shrunk = delta / (1 + multiplier)
        else:
            shrunk = delta.sign() * (delta.abs() - multiplier).clamp(min=0)
        return shrunk.clamp(low, high)

    below, above = torch.zeros(len(delta), 1).double(), torch.full((len(delta), 1), 1e8).double()
    below = torch.where(pr.lengths(trial(below), norm)[:, None] <= radius, -1e-300, below)
    above = torch.where(below < 0, 0.0, above)
    for _ in range(200):
        middle = (below + above) / 2
        outside = pr.lengths(trial(middle.clamp(min=0)), norm)[:, None] > radius
        below, above = torch.where(outside, middle, below), torch.where(outside, above, middle)
    return trial(above.clamp(min=0))


@pytest.mark.parametrize("norm", ["2", "1"])
@pytest.mark.parametrize("box", BOXES[1:])
@pytest.mark.parametrize("radius", [0.01, 1.0, 3.0, 100.0])
def test_projection_is_what_bisection_finds_in_784_features(
    norm: str, box: str, radius: float, rng: torch.Generator
) -> None:
    delta = gaussian(16, 784, rng) * torch.logspace(-3, 2, 16, dtype=torch.float64)[:, None]
    low, high = limits(box, 16, 784, rng)
    assert low is not None
    assert high is not None
    ours = PROJECT[norm](delta, radius, low, high)
    assert torch.allclose(ours, by_bisection(delta, norm, radius, low, high), rtol=1e-11, atol=1e-12)
    single = PROJECT[norm](delta.float(), radius, low.float(), high.float())
    rounding = 3e-7 * (1 + delta.norm(dim=1))  # of the input: a projection does not enlarge it
    assert ((single - ours).norm(dim=1) <= rounding).all()


problems = st.tuples(st.integers(0, 10**6), st.integers(1, 40), st.floats(0.0, 10.0), st.sampled_from(BOXES))


@norms
@given(problem=problems)
def test_projection_is_in_the_set_and_no_point_of_the_set_lies_ahead_of_it(
    norm: str, problem: tuple[int, int, float, str]
) -> None:
    """``<p - P(p), z - P(p)> <= 0`` for all z of a convex set characterises P(p); the linear maximiser gives the worst z."""
    seed, features, radius, box = problem
    rng = torch.Generator().manual_seed(seed)
    delta = 10 ** (4 * torch.rand(8, 1, generator=rng).double() - 2) * gaussian(8, features, rng)
    low, high = limits(box, 8, features, rng)
    near = PROJECT[norm](delta, radius, low, high)
    rounding = 1e-12 * (1 + radius)
    assert (pr.lengths(near, norm) <= radius + rounding).all()
    if low is not None:
        assert ((low <= near) & (near <= high)).all()
    ahead = delta - near
    worst = MAXIMISE[norm](ahead, radius, low, high)
    others = [PROJECT[norm](3 * gaussian(8, features, rng), radius, low, high) for _ in range(5)]
    for z in (worst, torch.zeros_like(near), *others):
        assert ((ahead * (z - near)).sum(1) <= 1e-12 * (1 + radius) * (1 + delta.norm(dim=1) ** 2)).all()
    again = PROJECT[norm](near, radius, low, high)
    # What lies outside by rounding moves by as much.
    assert torch.allclose(again, near, rtol=1e-12, atol=rounding)


@norms
@boxes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_inside_comes_back_bit_for_bit(
    norm: str, box: str, dtype: torch.dtype, rng: torch.Generator
) -> None:
    low, high = limits(box, 200, 30, rng)
    inside = 0.999 * PROJECT[norm](gaussian(200, 30, rng), 2.0, low, high)
    edges = [None if edge is None else edge.to(dtype) for edge in (low, high)]
    inside = inside.to(dtype)
    assert torch.equal(PROJECT[norm](inside, 2.0, *edges), inside)


@norms
@boxes
def test_projection_never_moves_two_points_apart(norm: str, box: str, rng: torch.Generator) -> None:
    low, high = limits(box, 500, 20, rng)
    first, second = gaussian(500, 20, rng), gaussian(500, 20, rng)
    second = torch.lerp(first, second, torch.logspace(-6, 0, 500, dtype=torch.float64)[:, None])
    apart = PROJECT[norm](first, 0.7, low, high) - PROJECT[norm](second, 0.7, low, high)
    assert (apart.norm(dim=1) <= (first - second).norm(dim=1) * (1 + 1e-9) + 1e-14).all()


@norms
@boxes
def test_one_radius_a_row_is_each_row_on_its_own(norm: str, box: str, rng: torch.Generator) -> None:
    delta = gaussian(6, 9, rng)
    low, high = limits(box, 6, 9, rng)
    radius = torch.tensor([0.0, 0.1, 0.5, 1.0, 5.0, 50.0], dtype=torch.float64)
    for function in (PROJECT[norm], MAXIMISE[norm]):
        together = function(delta, radius, low, high)
        for i in range(6):
            edges = [None if edge is None else edge[i : i + 1] for edge in (low, high)]
            assert torch.allclose(
                function(delta[i : i + 1], float(radius[i]), *edges), together[i : i + 1], atol=1e-14
            )
        assert (together[0] == 0).all()


def test_clipping_one_after_the_other_is_not_the_projection() -> None:
    """Two features, the first at most 1/2: once it is cut to the box, the ball leaves the other one more room."""
    high = torch.tensor([[0.5, 9.0]]).double()
    for norm, radius, point, nearest in (
        ("2", 1.0, [3.0, 4.0], [0.5, 0.75**0.5]),
        ("1", 2.0, [4.0, 3.0], [0.5, 1.5]),
    ):
        delta = torch.tensor([point]).double()
        one_after_the_other = torch.minimum(PROJECT[norm](delta, radius), high)
        ours = PROJECT[norm](delta, radius, None, high)
        assert torch.allclose(ours, torch.tensor([nearest]).double())
        assert pr.lengths(one_after_the_other, norm) < radius - 0.01
        assert (ours - delta).norm() < (one_after_the_other - delta).norm() - 0.05


@pytest.mark.parametrize("box", ["box", "half open", "some stuck"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rough_projection_of_attacks_is_close_to_the_exact_one(
    box: str, dtype: torch.dtype, rng: torch.Generator
) -> None:
    """From well inside the ball to a hundred times its radius: in the limits, in the ball, near the nearest point."""
    radius = 3.0
    delta = (gaussian(64, 784, rng) * torch.logspace(-3, 1, 64, dtype=torch.float64)[:, None]).to(dtype)
    low, high = (edge.to(dtype) for edge in limits(box, 64, 784, rng) if edge is not None)
    rough = pr.roughly_project_l2(delta, radius, low, high)
    assert rough.dtype == dtype
    assert ((low <= rough) & (rough <= high)).all()
    assert (pr.lengths(rough, "2") <= radius * (1 + 6e-5)).all()
    exact = pr.project_l2(delta, radius, low, high)
    assert ((rough - exact).norm(dim=1) <= 1e-4 * radius).all()
    inside = pr.lengths(delta.clamp(low, high), "2") < radius
    assert inside.any()
    assert torch.equal(rough[inside], delta.clamp(low, high)[inside])


@boxes
def test_points_on_the_sphere_of_the_l1_ball_stay_where_they_are(box: str, rng: torch.Generator) -> None:
    """Their sum is the radius up to rounding, above it or below."""
    delta = 3 * gaussian(4000, 19, rng)
    low, high = limits(box, 4000, 19, rng)
    near = pr.project_l1(delta, 1.6, low, high)
    assert ((near.abs().sum(1) - 1.6).abs() < 1e-12).float().mean() > 0.5
    assert (pr.project_l1(near, 1.6, low, high) - near).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_rough_l1_projection_is_the_exact_one_to_a_ten_thousandth_of_the_radius(
    dtype: torch.dtype, boxed: bool, scale: float, rng: torch.Generator
) -> None:
    delta = (scale * gaussian(40, 60, rng) * 10 ** (-2 * torch.rand(40, 60, generator=rng))).to(dtype)
    delta[:, ::9] = 0.0
    radius = 1.5
    low, high = (
        (-torch.rand(40, 60, generator=rng).to(dtype), torch.rand(40, 60, generator=rng).to(dtype))
        if boxed
        else (None, None)
    )
    if low is not None and high is not None:
        low[:, ::4], high[:, ::5] = 0.0, 0.0  # examples at the edge of the box
    rough = pr.roughly_project_l1(delta, radius, low, high)
    assert rough.dtype == dtype
    assert (pr.lengths(rough, "1") <= radius * (1 + 1e-5)).all()
    if low is not None and high is not None:
        assert ((low <= rough) & (rough <= high)).all()
    exact = pr.project_l1(delta, radius, low, high)
    assert ((rough - exact).abs().sum(1) <= 3e-4 * radius).all()


@pytest.mark.parametrize("spread", [0, 4, 12, 60])
def test_both_searches_for_the_l2_multiplier_agree(spread: int, rng: torch.Generator) -> None:
    """Breakpoints over up to 60 decades are the hard case for Newton's method; sorting does not care."""
    size = 10 ** (-spread * torch.rand(64, 300, generator=rng).double())
    room = 10 ** (-spread * torch.rand(64, 300, generator=rng).double())
    room[:, ::7] = 0.0
    size[:, ::5] = 0.0
    radius = room.norm(dim=1, keepdim=True) * torch.logspace(-9, 0.1, 64).double()[:, None]
    most = torch.where(torch.arange(64)[:, None] % 2 == 0, 1e300, (3 * radius).square())
    terms = size.square(), room.square(), radius.square(), most
    rounds, sorted_ = (find(*terms).sqrt() for find in (pr._square_by_rounds, pr._square_by_sorting))
    first, second = (torch.minimum(scale * size, room) for scale in (rounds, sorted_))
    assert ((first - second).norm(dim=1, keepdim=True) <= 1e-9 * radius).all()


@pytest.mark.parametrize("norm", ["inf", "1"])
@boxes
def test_linear_maximiser_attains_the_optimum_of_a_linear_program(
    norm: str, box: str, rng: torch.Generator
) -> None:
    direction = gaussian(10, 7, rng)
    low, high = limits(box, 10, 7, rng)
    ours = MAXIMISE[norm](direction, 0.8, low, high)
    for i in range(10):
        top, bottom = row(high, i, 7, np.inf), row(low, i, 7, -np.inf)
        g = direction[i].numpy()
        if norm == "inf":
            top, bottom = np.minimum(top, 0.8), np.maximum(bottom, -0.8)
        ball = {"A_ub": np.ones((1, 14)), "b_ub": [0.8]} if norm == "1" else {}
        result = linprog(np.concatenate([-g, g]), bounds=[(0, b) for b in (*top, *-bottom)], **ball)
        assert -result.fun == pytest.approx(float(direction[i] @ ours[i]), abs=1e-9)


@norms
@boxes
def test_linear_maximiser_is_in_the_set_and_beats_every_sample(
    norm: str, box: str, rng: torch.Generator
) -> None:
    direction = gaussian(4, 12, rng)
    low, high = limits(box, 4, 12, rng)
    best = MAXIMISE[norm](direction, 0.8, low, high)
    assert torch.allclose(PROJECT[norm](best, 0.8, low, high), best, atol=1e-14)
    value = (direction * best).sum(1)
    for _ in range(500):
        towards = gaussian(4, 12, rng) + 3 * direction * torch.rand(4, 1, generator=rng).double()
        other = PROJECT[norm](5 * towards, 0.8, low, high)
        assert ((direction * other).sum(1) <= value + 1e-12).all()
    if norm == "2":  # stationarity: the ascent direction, projected far out, stays where it is
        assert torch.allclose(pr.project_l2(1e7 * direction, 0.8, low, high), best, atol=1e-6)


@norms
@boxes
@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1.0, 1e30])
def test_maximiser_depends_on_the_direction_alone_at_any_scale(
    norm: str, box: str, scale: float, rng: torch.Generator
) -> None:
    low, high = limits(box, 5, 8, rng)
    direction = gaussian(5, 8, rng).sign() * torch.tensor([1.0, 2, 4, 8, 16, 32, 64, 128]).double()
    small = (scale * direction).float()
    edges = [None if edge is None else edge.float() for edge in (low, high)]
    expected = MAXIMISE[norm](direction, 0.5, low, high)
    assert torch.allclose(MAXIMISE[norm](small, 0.5, *edges).double(), expected, rtol=2e-5, atol=2e-6)


@norms
@boxes
def test_zero_direction_and_zero_displacement_give_zero(norm: str, box: str, rng: torch.Generator) -> None:
    low, high = limits(box, 3, 5, rng)
    zero = torch.zeros(3, 5, dtype=torch.float64)
    for radius in (0.0, 1.0):
        assert torch.equal(MAXIMISE[norm](zero, radius, low, high), zero)
        assert torch.equal(PROJECT[norm](zero, radius, low, high), zero)


@norms
@boxes
def test_huge_float32_displacements_do_not_overflow(norm: str, box: str, rng: torch.Generator) -> None:
    low, high = limits(box, 50, 8, rng)
    edges = [None if edge is None else edge.float() for edge in (low, high)]
    for scale in (1e6, 1e30):
        near = PROJECT[norm](scale * gaussian(50, 8, rng).float(), 0.5, *edges)
        assert near.isfinite().all()
        assert (pr.lengths(near, norm) <= 0.5 * (1 + 1e-6)).all()
        if low is not None:
            assert ((edges[0] <= near) & (near <= edges[1])).all()


def lens_problem(rows: int, features: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points around, a centre in or on the outer ball, and both radii."""
    centre = gaussian(rows, features, rng)
    length = centre.norm(dim=1)
    outer = length * torch.where(torch.arange(rows) % 3 == 0, 1.3, 1.0)
    radius = length * 10 ** (1.5 * torch.rand(rows, generator=rng).double() - 1)
    points = centre * 2 * torch.rand(rows, 1, generator=rng).double() + gaussian(rows, features, rng)
    return points, centre, radius, outer


def test_projection_onto_two_balls_is_what_a_general_solver_finds(rng: torch.Generator) -> None:
    points, centre, radius, outer = lens_problem(60, 4, rng)
    ours = pr.project_two_balls(points, centre, radius, outer)
    corners = 0
    for i in range(60):
        p, x, r, rho = points[i].numpy(), centre[i].numpy(), float(radius[i]), float(outer[i])
        balls = [
            {"type": "ineq", "fun": lambda z, x=x, r=r: r**2 - (z - x) @ (z - x)},
            {"type": "ineq", "fun": lambda z, rho=rho: rho**2 - z @ z},
        ]
        start, options = 0.9 * x, {"ftol": 1e-14, "maxiter": 500}
        theirs = minimize(lambda z, p=p: (z - p) @ (z - p), start, constraints=balls, options=options).x
        np.testing.assert_allclose(ours[i].numpy(), theirs, atol=1e-5)
        on_both = abs(np.linalg.norm(theirs) - rho) < 1e-6 and abs(np.linalg.norm(theirs - x) - r) < 1e-6
        corners += on_both
    assert 5 <= corners <= 55  # the problem visits the edge as well as the two caps


@given(seed=st.integers(0, 10**6), features=st.integers(1, 12))
def test_two_balls_projection_and_maximiser_answer_each_other(seed: int, features: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    points, centre, radius, outer = lens_problem(12, features, rng)
    near = pr.project_two_balls(points, centre, radius, outer)
    rounding = 1e-9 * (1 + outer)
    assert (near.norm(dim=1) <= outer + rounding).all()
    assert ((near - centre).norm(dim=1) <= radius + rounding).all()
    ahead = points - near
    worst = pr.maximise_two_balls(ahead, centre, radius, outer)
    assert (worst.norm(dim=1) <= outer + rounding).all()
    assert ((worst - centre).norm(dim=1) <= radius + rounding).all()
    assert ((ahead * (worst - near)).sum(1) <= 1e-7 * (1 + ahead.norm(dim=1)) * (1 + outer)).all()
    direction = gaussian(12, features, rng)
    value = (direction * pr.maximise_two_balls(direction, centre, radius, outer)).sum(1)
    for _ in range(20):
        other = pr.project_two_balls(centre + 2 * gaussian(12, features, rng), centre, radius, outer)
        assert ((direction * other).sum(1) <= value + 1e-9 * (1 + outer)).all()
    assert torch.equal(pr.maximise_two_balls(torch.zeros_like(points), centre, radius, outer), centre)
