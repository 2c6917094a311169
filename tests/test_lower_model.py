"""The trust region: the dual bound against brute force, the hard case, several blocks, weight decay."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from torch import Tensor

from holdfast.curvature.lower_model import Block, LowerModel, ball_minimum, by_group, curved

DOUBLE = torch.float64


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def symmetric(seed: int, groups: int, size: int, *, shift: float = 0.0) -> Tensor:
    raw = gaussian(seed, groups, size, size)
    return (raw + raw.mT) / 2 + shift * torch.eye(size, dtype=DOUBLE)


def random_block(
    seed: int, *, groups: int, members: int, inputs: int, shift: float = 0.0, scale: float = 1.0
) -> Block:
    return Block(
        linear=scale * gaussian(seed, groups * members, inputs),
        matrices=symmetric(seed + 1, groups, inputs, shift=shift),
    )


def dense_form(ball: tuple[Block, ...]) -> tuple[np.ndarray, np.ndarray]:
    """``V`` as one vector and the whole block-diagonal matrix, built entry by entry: independent of the reshapes under test."""
    linear, pieces = [], []
    for block in ball:
        units, inputs = block.linear.shape
        for r in range(units):
            linear.append(block.linear[r].double().numpy())
            matrix = np.zeros((inputs, inputs))
            if block.matrices is not None:
                members = units // len(block.matrices)
                matrix = matrix + block.matrices[r // members].double().numpy()
            pieces.append(matrix + block.eigenvalue * np.eye(inputs))
    size = sum(len(piece) for piece in pieces)
    whole, at = np.zeros((size, size)), 0
    for piece in pieces:
        whole[at : at + len(piece), at : at + len(piece)] = piece
        at += len(piece)
    return np.concatenate(linear), whole


def exact_minimum(linear: np.ndarray, matrix: np.ndarray, radius: float) -> float:
    """Trust region by the textbook (More and Sorensen 1983), in the other sign convention, hard case included."""
    values, vectors = np.linalg.eigh(-2 * matrix)  # minimise 1/2 u' H u + g' u
    g = vectors.T @ linear
    low = max(0.0, -values[0])

    def step(shift: float) -> np.ndarray:
        gaps = values + shift
        return np.divide(-g, gaps, out=np.zeros_like(g), where=gaps > 1e-13)

    if values[0] > 1e-12 and np.linalg.norm(step(0.0)) <= radius:
        u = step(0.0)
        return float(0.5 * values @ u**2 + g @ u)
    critical = np.abs(values - values[0]) < 1e-12
    if np.abs(g[critical]).max() < 1e-13 and np.linalg.norm(step(low)[~critical]) <= radius:
        u = np.where(critical, 0.0, step(low))
        u[np.argmax(critical)] = math.sqrt(max(0.0, radius**2 - u @ u))
        return float(0.5 * values @ u**2 + g @ u)
    spread = (
        values - values[0] if values[0] <= 0 else values
    )  # exact zeros at the bottom, where the gap may be tiny
    size = np.linalg.norm(g) / radius
    gap = math.exp(
        brentq(
            lambda t: np.linalg.norm(g / (spread + math.exp(t))) - radius,
            math.log(size) - 60,
            math.log(size) + 1,
        )
    )
    u = -g / (spread + gap)
    u *= radius / np.linalg.norm(u)  # on the sphere: no bound may lie above the value there
    return float(0.5 * values @ u**2 + g @ u)


def sampled_minimum(linear: np.ndarray, matrix: np.ndarray, radius: float, seed: int) -> float:
    """Projected descent from many starts, vectorised; an upper estimate of the minimum that any bound must stay below."""
    draw = np.random.default_rng(seed)
    u = draw.standard_normal((200, len(linear)))
    u *= radius / np.linalg.norm(u, axis=1, keepdims=True)
    size = 1 / (2 * np.abs(np.linalg.eigvalsh(matrix)).max() + np.linalg.norm(linear) / radius + 1e-12)
    for _ in range(300):
        u = u - size * (linear - 2 * u @ matrix)
        u /= np.maximum(1.0, np.linalg.norm(u, axis=1, keepdims=True) / radius)
    return float((u @ linear - np.einsum("si,ij,sj->s", u, matrix, u)).min())


@given(
    seed=st.integers(0, 10**6),
    groups=st.integers(1, 3),
    members=st.integers(1, 3),
    inputs=st.integers(1, 4),
    radius=st.floats(1e-3, 1e3),
    shift=st.floats(-5, 5),
    scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e3]),
)
def test_dual_bound_equals_the_exact_trust_region_minimum(
    seed: int, groups: int, members: int, inputs: int, radius: float, shift: float, scale: float
) -> None:
    block = random_block(seed, groups=groups, members=members, inputs=inputs, shift=shift, scale=scale)
    linear, matrix = dense_form((block,))
    found = ball_minimum((block,), radius).value
    exact = exact_minimum(linear, matrix, radius)
    assert found <= exact + 1e-9 * (1 + abs(exact))
    assert found == pytest.approx(exact, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_bound_is_below_everything_descent_finds_and_reached_by_it(seed: int) -> None:
    block = random_block(seed, groups=2, members=2, inputs=3, shift=(-2.0, 0.0, 2.0)[seed % 3])
    linear, matrix = dense_form((block,))
    for radius in (0.1, 1.0, 10.0):
        found, descended = ball_minimum((block,), radius).value, sampled_minimum(linear, matrix, radius, seed)
        assert found <= descended + 1e-9 * abs(descended)
        assert found == pytest.approx(descended, rel=2e-2)


def test_hard_case_where_the_slope_misses_the_largest_curvature() -> None:
    matrices = torch.diag(torch.tensor([3.0, 1.0, -1.0], dtype=DOUBLE))[None]
    block = Block(linear=torch.tensor([[0.0, 1.0, 2.0]], dtype=DOUBLE), matrices=matrices)
    # mu = 3: -1/(4 * 2) - 4/(4 * 4) - 3 R^2, with the rest of the radius spent along the first axis.
    found = ball_minimum((block,), 5.0)
    assert found.value == pytest.approx(-1 / 8 - 1 / 4 - 75, rel=1e-7)
    assert found.value <= -1 / 8 - 1 / 4 - 75
    assert found.multiplier > 3
    linear, matrix = dense_form((block,))
    assert found.value == pytest.approx(exact_minimum(linear, matrix, 5.0), rel=1e-7)


def test_nearly_hard_case_is_valid_and_tight() -> None:
    matrices = torch.diag(torch.tensor([3.0, 1.0], dtype=DOUBLE))[None]
    for tiny in (1e-14, 1e-10, 1e-6):
        block = Block(linear=torch.tensor([[tiny, 1.0]], dtype=DOUBLE), matrices=matrices)
        at_most = -1 / 8 - 3 * 25  # the exact minimum without the tiny component, which only lowers it
        value = ball_minimum((block,), 5.0).value
        assert value <= at_most + 1e-12
        assert value == pytest.approx(at_most - tiny * 5.0, rel=1e-6)


@pytest.mark.parametrize("top", [2.0, 0.0, -2.0])
def test_zero_slope(top: float) -> None:
    block = Block(
        linear=torch.zeros(4, 2, dtype=DOUBLE),
        matrices=torch.diag(torch.tensor([top, -3.0], dtype=DOUBLE))[None],
    )
    value = ball_minimum((block,), 3.0).value
    assert value <= -max(0.0, top) * 9
    assert value == pytest.approx(-max(0.0, top) * 9, rel=1e-8, abs=1e-200)


def test_linear_model_without_matrices() -> None:
    linear = gaussian(3, 5, 2)
    found = ball_minimum((Block(linear=linear),), 2.0)
    assert found.value == pytest.approx(-2.0 * float(linear.norm()), rel=1e-10)
    assert found.slope == pytest.approx(float(linear.norm()))


def test_radius_zero_leaves_only_the_constant() -> None:
    block = random_block(0, groups=1, members=2, inputs=2)
    assert LowerModel(constant=0.7, balls=((block,),)).bound(0.0).value == 0.7


@given(seed=st.integers(0, 10**6), radius=st.floats(0.05, 20))
def test_value_at_the_minimiser_is_the_bound(seed: int, radius: float) -> None:
    """A second route to the same number, through the eigenvectors and the per-group reshape."""
    first = random_block(seed, groups=2, members=3, inputs=3)
    second = Block(linear=gaussian(seed + 5, 1, 4), eigenvalue=0.3)
    ball = (first, second)
    model = LowerModel(constant=1.5, balls=(ball,))
    (minimum,) = model.bound(radius).minima
    moves = tuple(block.minimiser(minimum.multiplier) for block in ball)
    size = math.sqrt(sum(float(u.square().sum()) for u in moves))
    if minimum.multiplier > max(0.0, minimum.max_eigenvalue) * (1 + 1e-6):  # a root, not the hard case
        assert size == pytest.approx(radius, rel=1e-6)
        assert model.value((moves,)) == pytest.approx(model.bound(radius).value, rel=1e-7, abs=1e-9)


def test_interior_minimum_when_curvature_is_negative_definite() -> None:
    """Weight decay can make the lower model convex: then the ball does not bind and mu is 0."""
    linear = torch.tensor([[0.2, -0.1]], dtype=DOUBLE)
    block = Block(linear=linear, matrices=torch.zeros(1, 2, 2, dtype=DOUBLE))
    found = ball_minimum((block,), 100.0, decay=0.5)
    assert found.value == pytest.approx(-float(linear.square().sum()) / (4 * 0.25), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_weight_decay_against_the_objective_written_out(seed: int) -> None:
    block = random_block(seed, groups=2, members=1, inputs=3)
    initial, decay, radius = gaussian(seed + 9, 2, 3), 0.8, 2.0
    model = LowerModel(constant=0.25, balls=((block,),))
    found = model.bound(radius, decay=decay, initial=((initial,),)).value
    linear, matrix = dense_form((block,))
    start = initial.flatten().numpy()

    def objective(u: np.ndarray) -> float:
        return 0.25 + linear @ u - u @ matrix @ u + decay / 2 * ((start + u) ** 2).sum()

    draw = np.random.default_rng(seed)
    best = math.inf
    for _ in range(30):
        u = draw.standard_normal(6)
        result = minimize(
            objective,
            radius * u / np.linalg.norm(u),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda u: radius**2 - u @ u},
        )
        if np.linalg.norm(result.x) <= radius * (1 + 1e-6):
            best = min(best, result.fun)
    assert found <= best + 1e-5
    assert found == pytest.approx(best, abs=1e-4)


@given(seed=st.integers(0, 10**6), factor=st.floats(0, 5))
def test_any_larger_multiplier_is_valid_and_no_better(seed: int, factor: float) -> None:
    block = random_block(seed, groups=1, members=2, inputs=3)
    found = ball_minimum((block,), 1.3)
    linear, matrix = dense_form((block,))
    values, vectors = np.linalg.eigh(matrix)
    mu = max(0.0, values[-1]) + 1e-6 + factor
    other = -(((vectors.T @ linear) ** 2) / (4 * (mu - values))).sum() - mu * 1.3**2
    assert found.value >= other - 1e-9 * (1 + abs(other))


def test_several_blocks_of_different_shape_share_one_ball() -> None:
    ball = (
        random_block(1, groups=2, members=2, inputs=3),
        Block(linear=gaussian(2, 4, 2), eigenvalue=0.4),
        random_block(4, groups=1, members=1, inputs=2, shift=-1.0),
    )
    linear, matrix = dense_form(ball)
    for radius in (0.2, 1.0, 7.0):
        exact = exact_minimum(linear, matrix, radius)
        assert ball_minimum(ball, radius).value == pytest.approx(exact, rel=1e-7)


def test_every_ball_has_its_own_radius() -> None:
    balls = tuple((random_block(k, groups=1, members=2, inputs=2),) for k in range(3))
    whole = LowerModel(constant=0.5, balls=balls).bound(2.0)
    assert whole.value == pytest.approx(0.5 + sum(ball_minimum(ball, 2.0).value for ball in balls))


def test_bound_falls_with_the_radius() -> None:
    model = LowerModel(constant=0.0, balls=((random_block(8, groups=2, members=2, inputs=3),),))
    bounds = [model.bound(radius).value for radius in (0.01, 0.1, 1.0, 3.0, 10.0)]
    assert bounds == sorted(bounds, reverse=True)


def test_groups_are_consecutive_rows() -> None:
    values, matrices = gaussian(0, 6, 2), symmetric(1, 3, 2)
    assert torch.equal(by_group(values, matrices)[1, 0], values[2])
    for r in range(6):
        torch.testing.assert_close(curved(values, matrices)[r], matrices[r // 2] @ values[r])


def test_plus_adds_models() -> None:
    first, second = (
        random_block(1, groups=2, members=2, inputs=2),
        random_block(5, groups=2, members=2, inputs=2),
    )
    second = dataclasses.replace(second, eigenvalue=0.7)
    u = gaussian(9, 4, 2)

    def value(block: Block) -> float:
        return LowerModel(constant=0.0, balls=((block,),)).value(((u,),))

    assert value(first.plus(second, 0.3)) == pytest.approx(value(first) + 0.3 * value(second))
    assert value(Block(linear=first.linear).plus(second, 0.3)) == pytest.approx(
        value(Block(linear=first.linear)) + 0.3 * value(second)
    )


def test_width_factor_follows_its_formula() -> None:
    matrices = torch.diag(torch.tensor([2.0, 1.0], dtype=DOUBLE))[None]
    block = Block(linear=torch.tensor([[3.0, 4.0]], dtype=DOUBLE), matrices=matrices)
    bound = LowerModel(constant=0.0, balls=((block,),)).bound(5.0)
    assert bound.width_factor == pytest.approx((2 * 5 * 2 / 5) ** 2)
    assert LowerModel(constant=0.0, balls=((block,),)).bound(0.01).width_factor == 1.0
