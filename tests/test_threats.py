"""One contract for all threats, then what is particular to each."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from holdfast.errors import InputError
from holdfast.threats import CustomThreat, LpBall, SphereSlice, Threat, parse_threat

SHAPE = (2, 3)
FIXED = torch.tensor([[False, False, True], [False, False, False]])
LOW = torch.tensor([[0.0, 0.1, -math.inf], [0.2, 0.0, 0.0]])
HIGH = torch.tensor([[1.0, 0.9, math.inf], [0.7, math.inf, 1.0]])


def halfspace_in_ball(points: Tensor, x: Tensor) -> Tensor:
    """A user's set: l-inf ball of 0.3, brightening only. Clamps leave its points unchanged."""
    return torch.minimum(torch.maximum(points, x), x + 0.3)


THREATS: dict[str, Threat] = {
    f"{norm}-{name}": LpBall(norm, radius, bounds=bounds, fixed=fixed)
    for norm, radius in (("inf", 0.15), ("2", 0.4), ("1", 0.7))
    for name, bounds, fixed in (
        ("free", None, None),
        ("box", (0.1, 0.9), None),  # 0.1 and 0.9 are no float32 numbers
        ("box a feature", (LOW, HIGH), None),
        ("fixed", None, FIXED),
        ("box and fixed", (0, 1), FIXED),
    )
}
THREATS |= {f"{norm}-zero radius": LpBall(norm, 0, bounds=(0, 1)) for norm in ("inf", "2", "1")}
THREATS |= {
    "sphere": SphereSlice(0.4),
    "sphere slice": SphereSlice(0.4, fixed=FIXED),
    "sphere, all of it": SphereSlice(50, fixed=FIXED),
    "sphere, zero radius": SphereSlice(0),
    "custom": CustomThreat(halfspace_in_ball, radius_hint=0.3 * 6**0.5),
    "custom with membership": CustomThreat(
        lambda p, x: x + (p - x).clamp(-0.3, 0.3),
        contains=lambda p, x: ((p - x).abs() <= 0.3).flatten(1).all(1),
        radius_hint=0.3 * 6**0.5,
    ),
}

threats = pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS.keys())
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def examples(rows: int, rng: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Examples in every box above, some features on its edge."""
    x = torch.rand(rows, *SHAPE, generator=rng, dtype=torch.float64) * 1.4 - 0.2
    x[:, 0, 2] = 0.5
    return torch.minimum(torch.maximum(x, LOW.clamp(min=0.1).double()), HIGH.clamp(max=0.9).double()).to(
        dtype
    )


def around(x: Tensor, rng: torch.Generator, spread: float = 2.0) -> Tensor:
    """Points near and far, one row in eight near the example."""
    size = torch.logspace(-3, math.log10(spread), 8, dtype=x.dtype).repeat(len(x) // 8 + 1)[: len(x)]
    return x + size.reshape(-1, 1, 1) * torch.randn(x.shape, generator=rng, dtype=x.dtype)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


@threats
def test_the_example_is_in_its_set_and_every_operation_leaves_it_there(
    threat: Threat, rng: torch.Generator
) -> None:
    for dtype in (torch.float32, torch.float64):
        x = examples(50, rng, dtype)
        threat.check(x)
        assert threat.contains(x, x).all()
        assert torch.equal(threat.project(x, x), x)
        assert torch.equal(threat.project_inside(x, x), x)
        assert (threat.distance(x, x) == 0).all()


@threats
@dtypes
def test_projected_and_sampled_points_are_contained(
    threat: Threat, dtype: torch.dtype, rng: torch.Generator
) -> None:
    x = examples(4000, rng, dtype)
    points = around(x, rng)
    inside = threat.project_inside(points, x)
    assert inside.dtype == dtype
    assert threat.contains(inside, x).all()
    assert threat.contains(threat.project_inside(threat.project(points, x), x), x).all()
    assert threat.contains(threat.sample(x, generator=rng), x).all()
    step = 2e-5 * (1 + threat.step_scale)  # the shrinking, and no more
    assert (inside - threat.project(points, x)).abs().max() <= step


@threats
@dtypes
def test_the_projector_of_a_batch_projects_many_points_in_turn(
    threat: Threat, dtype: torch.dtype, rng: torch.Generator
) -> None:
    """What attacks use between their steps: near the projection, and the points they pass in are left alone."""
    x = examples(64, rng, dtype)
    projector = threat.projector(x)
    tolerance = 1e-4 * threat.step_scale + 4 * torch.finfo(dtype).eps
    for spread in (2.0, 0.1, 30.0):
        points = around(x, rng, spread)
        before = points.clone()
        near = projector(points)
        assert near.dtype == dtype
        assert near.shape == x.shape
        assert torch.equal(points, before)
        assert ((near - threat.project(points, x)).flatten(1).norm(dim=1) <= tolerance).all()
        inside = threat.project_inside(near, x)
        assert threat.contains(inside, x).all()
    assert torch.equal(projector(x), x)


@dtypes
def test_a_point_inside_is_projected_to_itself_bit_for_bit(dtype: torch.dtype, rng: torch.Generator) -> None:
    """Of scales so mixed that ``x + (p - x)`` would round."""
    x = 1 + torch.rand(2000, *SHAPE, generator=rng, dtype=dtype)
    inside = 1e-3 * torch.rand(2000, *SHAPE, generator=rng, dtype=dtype)
    assert not torch.equal(x + (inside - x), inside)
    for threat in (*(LpBall(norm, 20, bounds=(0, 3)) for norm in ("inf", "2", "1")), SphereSlice(20)):
        assert torch.equal(threat.project(inside, x), inside)
        assert torch.equal(threat.project_inside(inside, x), inside)


@threats
def test_membership_refuses_points_just_outside_and_not_finite(threat: Threat, rng: torch.Generator) -> None:
    x = examples(64, rng)
    points = around(x, rng)
    outside = (points - threat.project(points, x)).flatten(1).norm(dim=1) > 1e-6
    assert outside.sum() > 20
    assert not threat.contains(points, x)[outside].any()
    edge = threat.project(points, x)
    assert not threat.contains(edge + 1e-6 * (points - edge), x)[outside].any()
    for bad in (math.nan, math.inf, -math.inf):
        broken = x.clone()
        broken[:, 1, 1] = bad
        assert not threat.contains(broken, x).any()


@threats
def test_projection_obeys_the_inequality_that_defines_it(threat: Threat, rng: torch.Generator) -> None:
    x = examples(200, rng)
    points = around(x, rng)
    near = threat.project(points, x)
    ahead = points - near
    slack = 3e-6 if isinstance(threat, CustomThreat) else 1e-9
    assert (dot(ahead, threat.maximise(ahead, x) - near) <= slack * (1 + ahead.flatten(1).norm(dim=1))).all()
    for _ in range(20):
        z = threat.sample(x, generator=rng)
        assert (dot(ahead, z - near) <= 1e-10).all()
    assert torch.allclose(threat.project(near, x), near, rtol=0, atol=1e-12)
    single = threat.project(points.float(), x.float())
    assert torch.allclose(single.double(), near, atol=3e-6)


@threats
def test_linear_maximiser_beats_every_sample_and_lies_in_the_set(
    threat: Threat, rng: torch.Generator
) -> None:
    x = examples(100, rng)
    direction = torch.randn(x.shape, generator=rng, dtype=x.dtype)
    best = threat.maximise(direction, x)
    assert torch.allclose(threat.project(best, x), best, rtol=0, atol=1e-9)
    slack = 2e-6 * dot(direction, direction).sqrt() if isinstance(threat, CustomThreat) else 1e-9
    for _ in range(100):
        z = threat.project(x + threat.step_scale * (direction + torch.randn(x.shape, generator=rng)), x)
        assert (dot(direction, z - best) <= slack).all()
    assert torch.allclose(threat.maximise(1e-30 * direction, x), best, atol=1e-9)


@threats
@dtypes
def test_step_ascends_with_the_stated_length_and_is_zero_at_zero(
    threat: Threat, dtype: torch.dtype, rng: torch.Generator
) -> None:
    x = examples(50, rng, dtype)
    gradient = torch.randn(x.shape, generator=rng, dtype=dtype)
    for scale in (1.0, 1e-30, 1e30):
        step = threat.step(scale * gradient, 0.3)
        assert step.dtype == dtype
        length = threat.norm_of(step) if isinstance(threat, LpBall) else step.flatten(1).norm(dim=1)
        assert torch.allclose(length, torch.tensor(0.3, dtype=dtype))
        assert (dot(step, gradient) > 0).all()
        fixed = getattr(threat, "fixed", None)
        if fixed is not None:
            assert (step[:, fixed] == 0).all()
    assert torch.equal(threat.step(torch.zeros_like(x), 0.3), torch.zeros_like(x))


@threats
def test_shape_of_one_example_and_an_empty_batch_are_kept(threat: Threat, rng: torch.Generator) -> None:
    for rows in (0, 1):
        x = examples(rows, rng)
        for result in (
            threat.project(x + 1, x),
            threat.project_inside(x + 1, x),
            threat.maximise(x + 1, x),
            threat.step(x, 1.0),
        ):
            assert result.shape == x.shape
        assert threat.sample(x, generator=rng).shape == x.shape
        assert threat.contains(x, x).shape == threat.distance(x, x).shape == (rows,)


@threats
def test_sets_farther_apart_than_reach_do_not_meet(threat: Threat, rng: torch.Generator) -> None:
    x = examples(400, rng)
    other = torch.lerp(x, x.roll(1, 0), torch.rand(400, 1, 1, generator=rng, dtype=x.dtype))
    apart = threat.distance(x, other) > threat.reach
    for _ in range(5):
        shared = threat.project_inside(threat.sample(x, generator=rng), other)
        assert not threat.contains(shared, x)[apart].any()


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@pytest.mark.parametrize("fixed", [None, FIXED])
def test_balls_within_reach_meet_at_the_midpoint_in_the_box(
    norm: str, fixed: Tensor | None, rng: torch.Generator
) -> None:
    threat = LpBall(norm, 0.3, bounds=(LOW, HIGH), fixed=fixed)
    x = examples(500, rng)
    other = torch.lerp(x, x.roll(1, 0), torch.rand(500, 1, 1, generator=rng, dtype=x.dtype))
    near = threat.distance(x, other) <= threat.reach * (1 - 1e-12)
    assert 20 < near.sum() < 480
    middle = (x + other) / 2
    assert (threat.contains(middle, x) & threat.contains(middle, other))[near].all()


def test_distance_is_infinite_between_rows_that_differ_in_a_fixed_feature() -> None:
    x = torch.zeros(2, *SHAPE)
    other = x.clone()
    other[:, 0, 0] = 3.0
    other[1, 0, 2] = 1e-6
    for threat in (LpBall("2", 1.0, fixed=FIXED), SphereSlice(1.0, fixed=FIXED)):
        assert threat.distance(x, other).tolist() == [3.0, math.inf]


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@dtypes
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), exponent=st.floats(-3.0, 3.0), radius=st.floats(0.0, 5.0))
def test_projected_points_of_large_examples_are_contained(
    norm: str, dtype: torch.dtype, seed: int, exponent: float, radius: float
) -> None:
    """120 points of 784 features a case, features and examples of mixed scales, boxes that float32 cannot hold."""
    rng = torch.Generator().manual_seed(seed)
    spread = 10 ** (6 * torch.rand(784, generator=rng, dtype=torch.float64) - 5)
    centre = spread * torch.rand(784, generator=rng, dtype=torch.float64) * 10**exponent
    bounds = (centre - spread, centre + spread)
    x = torch.lerp(*bounds, torch.rand(40, 784, generator=rng, dtype=torch.float64).clamp(0.1, 0.9)).to(dtype)
    for threat in (
        LpBall(norm, radius),
        LpBall(norm, radius, bounds=bounds, fixed=torch.rand(784, generator=rng) < 0.1),
    ):
        points = x + 10 ** (4 * torch.rand(40, 1, generator=rng) - 3) * torch.randn(
            x.shape, generator=rng, dtype=dtype
        )
        assert threat.contains(threat.project_inside(points, x), x).all()
    plain = LpBall(norm, radius)
    assert plain.contains(plain.project_inside(plain.project(points, x), x), x).all()


def test_projected_points_of_a_slice_keep_the_stated_distance_from_its_edges(rng: torch.Generator) -> None:
    """Of both edges: the ball around the example and the sphere that it lies on."""
    x = torch.randn(40, 6, generator=rng, dtype=torch.float64)
    size = x.norm(dim=1)
    away = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    aside = away - (away * x).sum(1, keepdim=True) * x / size[:, None] ** 2
    radius, margin = 0.3, 2.0**-22 * size
    inside = SphereSlice(radius).project_inside(
        x - 10 * x / size[:, None], x
    )  # into the sphere: the ball binds
    assert torch.allclose((inside - x).norm(dim=1), (1 - 1e-5) * radius - margin, rtol=1e-12, atol=0)
    inside = SphereSlice(3 * float(size.max())).project_inside(
        x + 1e-3 * aside + x, x
    )  # out of it: the sphere binds
    assert torch.allclose(inside.norm(dim=1), size - margin, rtol=1e-12, atol=0)


def test_what_a_custom_maximiser_misses_is_within_what_it_says() -> None:
    """A square whose side is all but perpendicular to the direction, so that the projection of a far point stops short of the corner."""
    threat = CustomThreat(lambda points, x: torch.clamp(points, x - 1, x + 1), radius_hint=2**0.5)
    slant = torch.logspace(-8, -5, 31, dtype=torch.float64)
    direction = torch.stack([slant, torch.ones_like(slant)], 1)
    x = torch.zeros_like(direction)
    missed = direction.abs().sum(1) - (direction * threat.maximise(direction, x)).sum(1)
    assert (missed <= threat.maximise_error * direction.norm(dim=1)).all()
    assert missed.max() > 0.05 * threat.maximise_error


@dtypes
@pytest.mark.parametrize("rows", [500, pytest.param(100_000, marks=pytest.mark.slow)])
def test_project_inside_is_needed_and_enough_at_norm_thirty(
    dtype: torch.dtype, rows: int, rng: torch.Generator
) -> None:
    """Of plain projections a good part fails the check without tolerance; of inside points none."""
    balls = [LpBall("2", 0.1), LpBall("inf", 8 / 255), LpBall("1", 2), LpBall("2", 0.1, bounds=(0, 1))]
    for _ in range(rows // 500):
        x = torch.rand(500, 784, generator=rng, dtype=dtype) ** 3
        x = 30 * x / x.norm(dim=1, keepdim=True)
        points = x + torch.randn(x.shape, generator=rng, dtype=dtype)
        for threat in balls:
            centre = x.clamp(max=1.0) if threat.bounds else x
            assert threat.contains(threat.project(points, centre), centre).double().mean() < 0.99
            assert threat.contains(threat.project_inside(points, centre), centre).all()
        sphere = SphereSlice(0.1)
        assert sphere.contains(sphere.project_inside(points, x), x).all()


def test_project_inside_projects_onto_the_stated_radius(rng: torch.Generator) -> None:
    x = examples(50, rng)
    far = x + 10 * torch.randn(x.shape, generator=rng, dtype=x.dtype)
    for norm in ("inf", "2", "1"):
        threat = LpBall(norm, 0.3)
        radius = (1 - 1e-5) * 0.3 - 2**-22 * threat.norm_of(x)
        assert torch.allclose(threat.norm_of(threat.project_inside(far, x) - x), radius, rtol=1e-12)
        tiny = LpBall(norm, 1e-9)
        assert torch.equal(tiny.project_inside(far, x), x)


@pytest.mark.parametrize("norm", ["inf", "1"])
def test_maximiser_with_box_and_fixed_features_is_the_optimum_of_a_linear_program(
    norm: str, rng: torch.Generator
) -> None:
    threat = LpBall(norm, 0.3, bounds=(LOW, HIGH), fixed=FIXED)
    x = examples(10, rng)
    direction = torch.randn(x.shape, generator=rng, dtype=x.dtype)
    ours = dot(direction, threat.maximise(direction, x) - x)
    for i in range(10):
        up, down = (edge.flatten().numpy().copy() for edge in (HIGH - x[i], x[i] - LOW))
        up[2] = down[2] = 0.0
        g = direction[i].flatten().numpy()
        if norm == "inf":
            up, down = np.minimum(up, 0.3), np.minimum(down, 0.3)
        ball = {"A_ub": np.ones((1, 12)), "b_ub": [0.3]} if norm == "1" else {}
        result = linprog(np.concatenate([-g, g]), bounds=[(0.0, edge) for edge in (*up, *down)], **ball)
        assert -result.fun == pytest.approx(float(ours[i]), abs=1e-9)


def test_l1_step_moves_the_largest_share_of_the_features_that_may_change() -> None:
    gradient = torch.tensor([[5.0, -4.0, 3.0, 2.0, 100.0]])
    fixed = torch.tensor([False, False, False, False, True])
    assert LpBall("1", 1, fixed=fixed).step(gradient, 0.6).tolist() == [pytest.approx([0.6, 0, 0, 0, 0])]
    assert LpBall("1", 1, fixed=fixed, sparsity=0.5).step(gradient, 0.6).tolist() == [
        pytest.approx([0.3, -0.3, 0, 0, 0])
    ]
    assert LpBall("1", 1, sparsity=0.6).step(torch.tensor([[0.0, -2, 0, 0, 0]]), 0.6).tolist() == [
        pytest.approx([0, -0.6, 0, 0, 0])
    ]


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
def test_samples_without_a_box_are_uniform_in_the_ball(norm: str, rng: torch.Generator) -> None:
    """In ``k`` features, ``(||x' - x|| / radius)^k`` of a uniform point is uniform in [0, 1], and its mean is ``x``."""
    fixed = torch.tensor([False, True, False, False])
    threat = LpBall(norm, 0.5, fixed=fixed)
    x = torch.ones(40_000, 4, dtype=torch.float64)
    delta = threat.sample(x, generator=rng) - x
    share = (threat.norm_of(delta) / 0.5) ** 3
    assert torch.allclose(
        share.quantile(torch.linspace(0.1, 0.9, 9).double()), torch.linspace(0.1, 0.9, 9).double(), atol=0.02
    )
    assert (delta.mean(0).abs() < 0.005).all()
    spread = delta.var(0)[~fixed]
    variance = {"inf": 1 / 3, "2": 1 / 5, "1": 1 / 10}[
        norm
    ] * 0.25  # of one coordinate of the unit ball in three features
    assert torch.allclose(spread, torch.full_like(spread, variance), rtol=0.05)


def test_samples_of_linf_with_a_box_are_uniform_in_the_box_part(rng: torch.Generator) -> None:
    x = torch.tensor([[0.1, 0.95]], dtype=torch.float64).expand(20_000, 2)
    points = LpBall("inf", 0.3, bounds=(0, 1)).sample(x, generator=rng)
    assert torch.allclose(points.mean(0), torch.tensor([0.2, 0.825]).double(), atol=0.005)
    assert torch.allclose(points.var(0), torch.tensor([0.4**2, 0.35**2]).double() / 12, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_samples_of_the_box_fill_it_and_stay_in_the_ball_where_it_has_no_end(
    dtype: torch.dtype, rng: torch.Generator
) -> None:
    x = torch.tensor([[0.25, 0.5, 7.0, 0.0]], dtype=dtype).expand(5000, 4)
    low, high = torch.tensor([0, -3, -math.inf, 0]), torch.tensor([1, 5, math.inf, 1])
    fixed = torch.tensor([False, False, False, True])
    for norm in ("inf", "2", "1"):
        drawn = LpBall(norm, 0.25, bounds=(low, high), fixed=fixed).sample_box(x, generator=rng)
        assert drawn.dtype == dtype
        drawn = drawn.double()
        assert ((drawn >= low) & (drawn <= high)).all()
        assert torch.allclose(drawn[:, :2].mean(0), torch.tensor([0.5, 1.0]).double(), atol=0.1)
        assert torch.allclose(drawn[:, :2].var(0), torch.tensor([1.0, 64.0]).double() / 12, rtol=0.05)
        assert ((drawn[:, 2] - 7).abs() <= 0.25).all()
        assert (drawn[:, 2] != 7).any()
        assert (drawn[:, 3] == 0).all()


def test_samples_of_the_box_are_samples_of_the_set_where_there_is_no_box(rng: torch.Generator) -> None:
    x = torch.rand(8, *SHAPE, generator=rng)
    for threat in (LpBall("2", 0.5), LpBall("inf", 0.5, fixed=FIXED), THREATS["custom"]):
        first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
        assert torch.equal(threat.sample_box(x, generator=first), threat.sample(x, generator=second))


def test_samples_repeat_with_the_generator_and_leave_the_global_one_alone() -> None:
    state = torch.random.get_rng_state()
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))
    for threat in THREATS.values():
        first, second = (threat.sample(x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_box_float32_cannot_hold_never_lets_a_point_past_it(rng: torch.Generator) -> None:
    """float32(0.1) > 0.1 and float32(0.9) < 0.9: the points respect the numbers given; an example is taken as it is."""
    threat = LpBall("inf", 0.5, bounds=(-0.1, 0.1))
    x = torch.tensor([[0.0, 0.1, -0.1]])
    assert float(x[0, 1].double()) > 0.1
    threat.check(x)
    top = threat.maximise(torch.ones_like(x), x)
    assert threat.contains(top, x).all()
    assert float(top[0, 0].double()) <= 0.1
    assert top[0, 1] == x[0, 1]
    assert not threat.contains(torch.full_like(x, 0.1), x)[0]


def test_with_radius_keeps_everything_else() -> None:
    threat = LpBall("l1", 0.5, bounds=(LOW, HIGH), fixed=FIXED, sparsity=0.2)
    other = threat.with_radius(1)
    assert (other.radius, other.norm, other.sparsity) == (1.0, "1", 0.2)
    assert other.bounds is not None
    assert all(torch.equal(edge, side) for edge, side in zip(other.bounds, (LOW, HIGH), strict=True))
    assert torch.equal(other.fixed, FIXED)
    assert other.with_radius(0.5) == threat
    assert other != threat
    assert threat != LpBall("l1", 0.5, bounds=(LOW, HIGH), sparsity=0.2)
    assert threat == LpBall(1, 0.5, bounds=(LOW.clone(), HIGH.clone()), fixed=FIXED.clone(), sparsity=0.2)
    assert hash(threat) == hash(other.with_radius(0.5))


def test_dual_norm_is_the_largest_inner_product_over_the_unit_ball(rng: torch.Generator) -> None:
    direction = torch.randn(20, 7, generator=rng, dtype=torch.float64)
    zero = torch.zeros_like(direction)
    for norm in ("inf", "2", "1"):
        threat = LpBall(norm, 1.0)
        dual = LpBall(threat.dual_norm, 1.0).norm_of(direction)
        assert torch.allclose((direction * threat.maximise(direction, zero)).sum(1), dual)


def test_sphere_slice_maximiser_stays_on_the_sphere_when_the_ascent_points_outwards(
    rng: torch.Generator,
) -> None:
    """The domain of the paper: unit vectors with last coordinate 1/2."""
    x = torch.randn(200, 9, generator=rng, dtype=torch.float64)
    x = torch.cat([x / x.norm(dim=1, keepdim=True) * 0.75**0.5, torch.full((200, 1), 0.5).double()], 1)
    threat = SphereSlice(0.2, fixed=torch.arange(10) == 9)
    outwards = x + 0.5 * torch.randn(x.shape, generator=rng, dtype=x.dtype)
    outwards = outwards[dot(outwards[:, :9], x[:, :9]) > 0.1]
    best = threat.maximise(outwards, x[: len(outwards)])
    rows = dot(outwards[:, :9], x[: len(outwards), :9]) > 0.1
    assert rows.any()
    assert torch.allclose(best.norm(dim=1)[rows], torch.ones(()).double())
    assert (best[:, 9] == 0.5).all()


def test_custom_projection_that_rounds_inside_points_is_refused_with_the_remedy(rng: torch.Generator) -> None:
    x = torch.rand(64, *SHAPE, generator=rng)
    rounding = CustomThreat(lambda p, x: x + (p - x).clamp(-0.3, 0.3), radius_hint=1.0)
    with pytest.raises(InputError, match=r"torch.where, or pass contains="):
        rounding.check(x)
    with pytest.raises(InputError, match="radius_hint must bound"):
        CustomThreat(halfspace_in_ball, radius_hint=0.1).check(x)
    with pytest.raises(InputError, match="keep the shape"):
        CustomThreat(lambda p, x: p.flatten(1), radius_hint=1.0).check(x)
    with pytest.raises(InputError, match=r"radius_hint must be a number > 0 and <= 1e.15, got 0"):
        CustomThreat(halfspace_in_ball, radius_hint=0)


def test_custom_threat_agrees_with_the_ball_it_imitates(rng: torch.Generator) -> None:
    ball = LpBall("2", 0.4, bounds=(0, 1))
    twin = CustomThreat(ball.project, contains=ball.contains, radius_hint=0.4, name="twin")
    x = torch.rand(100, *SHAPE, generator=rng, dtype=torch.float64)
    points = around(x, rng)
    assert twin.spec == "twin"
    assert torch.equal(twin.project(points, x), ball.project(points, x))
    assert twin.contains(twin.project_inside(points, x), x).all()
    direction = torch.randn(x.shape, generator=rng, dtype=x.dtype)
    lost = dot(direction, ball.maximise(direction, x) - twin.maximise(direction, x))
    assert (lost.abs() <= 2e-6 * 0.4 * direction.flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize(
    ("text", "norm", "radius", "spec"),
    [
        ("linf:0.1", "inf", 0.1, "linf:0.1"),
        ("l2:0.5", "2", 0.5, "l2:0.5"),
        ("l1:3", "1", 3.0, "l1:3"),
        ("linf:8/255", "inf", 8 / 255, "linf:8/255"),
        (" LINF : 8 / 255 ", "inf", 8 / 255, "linf:8/255"),
        ("2:1e-3", "2", 1e-3, "l2:0.001"),
        ("inf:0", "inf", 0.0, "linf:0"),
    ],
)
def test_threats_are_read_from_text_and_written_back(text: str, norm: str, radius: float, spec: str) -> None:
    threat = parse_threat(text, bounds=(0, 1))
    assert threat == LpBall(norm, radius, bounds=(0.0, 1.0))
    assert threat.spec == spec
    assert parse_threat(threat.spec, bounds=(0, 1)) == threat


@given(radius=st.floats(0.0, 1e6), norm=st.sampled_from(["inf", "2", "1"]))
def test_spec_reads_back_to_the_same_radius(radius: float, norm: str) -> None:
    assert parse_threat(LpBall(norm, radius).spec) == LpBall(norm, radius)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("lnf:0.1", "linf:0.1"),
        ("l2", "l2:0.1"),
        ("l2:", "l2:0.1"),
        ("linf:8/0", "linf:0.1"),
        ("l3:4/255", "l2:4/255"),
        ("l2:nan", "l2:0.1"),
        ("l2:1e999", "l2:0.1"),
        ("", "l2:0.1"),
    ],
)
def test_text_that_is_no_threat_is_refused_with_the_nearest_form(text: str, meant: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_threat(text)
    assert str(refused.value).endswith(f"did you mean {meant}?")
    assert "linf:8/255" in str(refused.value)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LpBall("3", 0.1), "norm must be 'inf', '2' or '1', got '3'"),
        (lambda: LpBall("2", -0.1), "radius must be a number >= 0 and <= 1e+300, got -0.1"),
        (lambda: LpBall("2", math.nan), "radius must be a number >= 0 and <= 1e+300, got nan"),
        (lambda: parse_threat("l2:-1"), "radius must be a number >= 0 and <= 1e+300, got -1.0"),
        (lambda: SphereSlice(math.inf), "radius must be a number >= 0 and <= 1e+300, got inf"),
        (lambda: LpBall("2", 0.1, bounds=(1, 0)), "low <= high everywhere and no NaN, got 1 and 0"),
        (lambda: LpBall("2", 0.1, bounds=(LOW * math.nan, HIGH)), "a tensor of shape"),
        (lambda: LpBall("2", 0.1, fixed=FIXED.float()), "fixed must be true or false for each feature"),
        (lambda: SphereSlice(0.1, fixed=FIXED | True), "at least one feature to change"),
        (lambda: LpBall("1", 0.1, sparsity=0.0), "sparsity must be a number > 0 and <= 1"),
        (lambda: LpBall("2", 0.1, fixed=FIXED).check(torch.zeros(3, 7)), "shape of one example, (7,)"),
        (lambda: LpBall("2", 0.1, bounds=(LOW, HIGH)).check(torch.zeros(3, 7)), "shape of one example, (7,)"),
        (lambda: LpBall("2", 0.1).check(torch.zeros(3, 7, dtype=torch.long)), "floating-point batch"),
        (lambda: SphereSlice(0.1).check(torch.full((3, 7), math.nan)), "NaN or infinity in 3 of 3"),
        (
            lambda: LpBall("2", 0.1, bounds=(0, 1)).check(torch.tensor([[0.5], [1.5], [-1e-9]])),
            "2 of 3 examples outside",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(make: object, message: str) -> None:
    with pytest.raises(InputError) as refused:
        make()  # type: ignore[operator]
    assert message in str(refused.value)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize("norm", ["1", "2"])
def test_what_a_projector_returns_is_used_as_it_stands(norm: str, rng: torch.Generator) -> None:
    """So that the last point of an attack needs no second search for its multiplier."""
    threat = LpBall(norm, 2.0, bounds=(0.0, 1.0))
    x = torch.rand(50, 784, generator=rng)
    points = x + 0.3 * torch.randn(50, 784, generator=rng)
    near = threat.projector(x)(points)
    assert torch.equal(threat.project_inside(near, x), near)
    length = threat.norm_of(near - x)
    assert (length >= 2.0 - 4e-4).all()  # rounding is allowed for in shares of the norms of the examples


def test_a_radius_that_is_no_number_is_said_to_be_none() -> None:
    with pytest.raises(InputError, match=r"the radius 'abc' is not a number, e\.g\. l2:0\.1\."):
        parse_threat("l2:abc")
