"""Lower models, two-layer curvature and the kernel problem's lines where they are reached, in exact arithmetic."""

import math
from fractions import Fraction

import mpmath
import pytest
import torch

import holdfast as hf
from holdfast.curvature.lower_model import Block, ball_minimum
from holdfast.families.two_layer.curvature import TwoLayerCurvature
from holdfast.losses import Hinge, Huber, Squared
from holdfast.networks import TwoLayer
from holdfast.theory.capacity import _above, forced_width, shattered_coordinates
from holdfast.theory.optimal.finite import FiniteProblem
from holdfast.theory.projected import excluded
from holdfast.theory.sign_patterns import log2_labellings

DOUBLE = torch.float64


def test_the_multiplier_is_above_the_largest_eigenvalue_however_that_was_rounded():
    """No slope, and matrices of ones whose largest eigenvalue is their size: the least value is ``-n R^2`` exactly."""
    for n in range(2, 80):
        block = Block(linear=torch.zeros(1, n, dtype=DOUBLE), matrices=torch.ones(1, n, n, dtype=DOUBLE))
        found = ball_minimum((block,), 1.0)
        assert found.value <= -n
        assert found.value >= -n * (1 + 1e-8)


@pytest.mark.parametrize("radius", [0.3, 1.0, 7.0])
def test_the_dual_bound_is_reached_and_not_crossed(radius):
    """One coordinate: ``min of v u - m u^2`` over ``|u| <= R`` lies at an end."""
    for v, m in ((1.0, 0.25), (-2.0, 1.5), (0.1, 3.0), (5.0, 0.01)):
        block = Block(linear=torch.tensor([[v]], dtype=DOUBLE), matrices=torch.tensor([[[m]]], dtype=DOUBLE))
        exact = -abs(v) * radius - m * radius**2
        found = ball_minimum((block,), radius).value
        assert exact - 1e-8 * abs(exact) <= found <= exact + 1e-14 * abs(exact)


def single(activation: str, weight: float, *, train_output: bool = False) -> TwoLayer:
    """Two units with equal weights and outputs 1 and -1, each its own group."""
    net = TwoLayer(1, 2, 2, activation, train_output=train_output).double()
    with torch.no_grad():
        net.weight.fill_(weight)
    return net


ONE, ROOT = torch.ones(1, 1, dtype=DOUBLE), 2**0.5


@pytest.mark.parametrize(
    ("activation", "up", "down"),
    [
        ("relu2", 1.0, None),
        ("softplus", 0.0, None),
        ("elu", -1e-3, None),
        ("gelu", 0.0, 2.0),
        ("silu", 0.0, 3.4358),
        ("tanh", -0.65848, 0.65848),
    ],
)
@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_smooth_curvature_is_reached(activation, up, down, slope):
    """A unit where its second derivative is largest or smallest, one example, a slope of the sign that loses."""
    for at, side in ((up, 1.0), (down, -1.0)):
        if at is None:
            continue
        net = single(activation, at)
        curvature = TwoLayerCurvature().round(net, ONE, slope * ONE, reach=1.0)
        group = int((net.output_weight[:, 0] * slope * side < 0).nonzero()[0])
        step = torch.tensor(-1e-4 if activation == "elu" else 1e-4, dtype=DOUBLE)
        said = float(curvature.balls[0][0].matrices[group]) * float(step) ** 2
        u, act = torch.tensor(at, dtype=DOUBLE), net.activation
        lost = side * float(act.value(u + step) - act.value(u) - act.slope(u) * step) / ROOT
        assert lost <= said * (1 + 1e-6)
        assert lost >= 0.99 * said


@pytest.mark.parametrize("activation", ["relu", "leaky-relu"])
def test_kinks_are_reached(activation):
    """A unit at 0 moved by ``v`` loses ``jump v``: at ``v = 2 tau`` that is what the quadratic and the slack allow together."""
    net = single(activation, 0.0)
    for reach in (0.5, 1.0, 2.0):
        curvature = TwoLayerCurvature().round(net, ONE, ONE, reach=reach)
        matrix, slack = float(curvature.balls[0][0].matrices.max()), float(curvature.slack)
        jump = net.activation.kink / ROOT
        shares = [jump * v / (matrix * v**2 + slack) for v in torch.logspace(-2, 2, 4001).tolist()]
        assert 0.999 < max(shares) <= 1 + 1e-12


def test_trained_outputs_are_reached():
    """The mixed term ``s Lip(act) alpha v`` of an activation of constant slope, by both layers alike."""
    net = single("identity", 0.3, train_output=True)
    first, second = TwoLayerCurvature().round(net, ONE, ONE, reach=1.0).balls[0]
    said = 2 * (float(first.matrices.max()) * float(second.eigenvalue)) ** 0.5
    assert said * (1 + 1e-12) >= 1 / ROOT
    assert said <= (1 + 1e-9) / ROOT


@pytest.mark.parametrize("loss", [hf.CrossEntropy(), Squared(), Hinge(), Huber(delta=0.7)])
def test_a_line_of_the_kernel_problem_is_below_the_exact_tangent(loss):
    """Outputs so large that their products with the slopes lose digits: the level against exact sums of the same numbers."""
    lifted = 0
    for seed in range(30):
        draw = torch.Generator().manual_seed(seed)
        count = 200
        gram = torch.eye(count, dtype=DOUBLE)
        start = 1e5 * torch.randn(count, 1, generator=draw, dtype=DOUBLE)
        labels = torch.randint(2, (count,), generator=draw)
        problem = FiniteProblem(
            gram=gram,
            start=start,
            owner=torch.arange(count),
            labels=labels,
            examples=count,
            loss=loss,
            temperature=1e-3,
        )
        state = problem.state(1e5 * torch.randn(count, 1, generator=draw, dtype=DOUBLE))
        line = problem.line(state)
        exact = sum(
            Fraction(float(share)) / count * value(loss, float(f), int(y))
            - Fraction(float(dual)) * (Fraction(float(f)) - Fraction(float(f0)))
            for share, f, y, dual, f0 in zip(
                state.shares, state.outputs[:, 0], labels, state.dual[:, 0], start[:, 0], strict=True
            )
        )
        assert Fraction(line.level) <= exact
        lifted += float(exact - Fraction(line.level)) > 0
    assert lifted == 30


def value(loss, f: float, y: int) -> Fraction:
    sign = 2 * y - 1
    if isinstance(loss, Huber):
        size = abs(Fraction(f) - sign)
        delta = Fraction(loss.delta)
        return size**2 / 2 if size <= delta else delta * (size - delta / 2)
    if isinstance(loss, Squared):
        return (Fraction(f) - sign) ** 2 / 2
    if isinstance(loss, Hinge):
        return max(Fraction(0), 1 - sign * Fraction(f))
    with mpmath.workdps(60):
        exact = mpmath.log(1 + mpmath.exp(-sign * mpmath.mpf(f)))
        return Fraction(int(mpmath.floor(exact * mpmath.mpf(2) ** 150)), 2**150)


def test_norms_in_a_kernels_space_allow_for_the_kernels_rounding():
    """Two points that nearly coincide, opposite coefficients: the square of the norm is all rounding, up to 1e-10 of the terms."""
    gram = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=DOUBLE)
    problem = FiniteProblem(
        gram=gram,
        start=torch.zeros(2, 1, dtype=DOUBLE),
        owner=torch.arange(2),
        labels=torch.tensor([0, 1]),
        examples=2,
        loss=Squared(),
        temperature=1e-3,
    )
    size = float(problem.norm(torch.tensor([[1.0], [-1.0]], dtype=DOUBLE)))
    assert size**2 >= 1e-10 * 4 * (1 - 1e-9)  # a kernel with entries 1 + 1e-10 / 1 - 1e-10 has this norm


def test_capacity_bounds_on_their_edges():
    """Exactly representable and just below: a whole number is passed, a rounded one is not."""
    assert _above(3.0) == 3  # what rounding may have lifted to 3 counts as below it
    assert _above(3.0 * (1 + 1e-11)) == 4
    assert _above(2.999) == 3
    assert forced_width(0.5, 5, 4).value == 1
    assert forced_width(0.9, 11, 10).value == 9
    assert [shattered_coordinates((1 - 1 / k) ** 0.5, 10) for k in range(1, 10)] == list(range(1, 10))
    assert shattered_coordinates((1 - 1 / 5.001) ** 0.5, 10) == 5
    assert shattered_coordinates((1 - 1 / 4.999) ** 0.5, 10) == 4


def test_widths_are_excluded_exactly_up_to_the_sum_of_eigenvalues():
    """Orthonormal differences of equal weight: ``m`` units are excluded while ``m / n`` is at most the length that is needed."""
    for n in (4, 9, 16):
        for width in range(1, n):
            assert excluded(torch.eye(n, dtype=DOUBLE), width, width / n * (1 + 1e-6), steps=1)
            assert not excluded(torch.eye(n, dtype=DOUBLE), width, width / n * (1 - 1e-6), steps=1)


def test_no_width_is_excluded_by_rounding():
    """The largest float64 below ``m / n``: what the sum of eigenvalues may be rounded down to excludes nothing."""
    for n in range(2, 40):
        for width in {1, n // 2, n - 1}:
            needed = width / n
            while Fraction(needed) >= Fraction(width, n):
                needed = math.nextafter(needed, 0.0)
            assert not excluded(torch.eye(n, dtype=DOUBLE), width, needed, steps=1)


def test_half_spaces_are_counted_exactly():
    """Cover: ``2 sum C(N-1, k)`` ways to cut ``N`` points in general position; on a line ``2 N``."""
    from holdfast.theory.sign_patterns import _log2_half_spaces, _log2_signs

    for points in (3, 5, 20):
        assert _log2_half_spaces(points, 1) == pytest.approx(float(mpmath.log(2 * points, 2)), rel=1e-12)
    assert _log2_half_spaces(10, 2) == pytest.approx(float(mpmath.log(2 * (1 + 9 + 36), 2)), rel=1e-12)
    assert _log2_signs(1000, 2, 10) == pytest.approx(
        1 + 10 * float(mpmath.log(4 * mpmath.e * 100, 2)), rel=1e-12
    )
    # one unit on a line, with its sign on top: as many labellings as there truly are, at least
    assert log2_labellings(1, 6, 1, 1) >= float(mpmath.log(12, 2))
