"""Activations: constants against second derivatives, slopes against autograd, values against many digits."""

import copy
import math
import pickle

import mpmath
import numpy as np
import pytest
import torch

from holdfast.errors import InputError
from holdfast.networks.activations import ACTIVATIONS, Activation, activation_named

ALL = [pytest.param(activation, id=name) for name, activation in ACTIVATIONS.items()]
SMOOTH = [pytest.param(activation, id=name) for name, activation in ACTIVATIONS.items() if activation.smooth]

# The table of curvature constants, five digits, written down independently of the code.
TABLE = {
    "softplus": (0.25, 0.0),
    "relu2": (2.0, 0.0),
    "elu": (1.0, 0.0),
    "sigmoid": (0.09623, 0.09623),
    "tanh": (0.76981, 0.76981),
    "erf": (0.96789, 0.96789),
    "gelu": (0.79789, 0.10799),
    "silu": (0.5, 0.03692),
}


def second_derivative(activation: Activation, x: torch.Tensor) -> torch.Tensor:
    """By autograd of torch's own backward formulas, on values alone: `slope` has no part in it."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(activation(x).sum(), x, create_graph=True)
    if not first.requires_grad:
        return torch.zeros_like(x)
    (second,) = torch.autograd.grad(first.sum(), x, allow_unused=True)
    return torch.zeros_like(x) if second is None else second.detach()


@pytest.fixture(scope="module")
def grid() -> torch.Tensor:
    """Dense, off 0 by half a step: curvature is bounded almost everywhere, and jumps at 0 for some."""
    return (torch.arange(-400_000, 400_000, dtype=torch.float64) + 0.5) * 2.5e-5


@pytest.mark.parametrize("activation", SMOOTH)
def test_curvature_constants_bound_the_second_derivative_and_are_tight(activation, grid):
    second = second_derivative(activation, grid)
    rounding = 4e-16 if activation.name in ("gelu", "erf", "tanh", "sigmoid", "silu") else 0.0
    assert second.max().item() <= activation.curvature_above + rounding
    assert (-second).max().item() <= activation.curvature_below + rounding
    assert second.max().item() == pytest.approx(
        activation.curvature_above, abs=2e-5 if activation.name == "elu" else 1e-6
    )
    assert max(0.0, (-second).max().item()) == pytest.approx(activation.curvature_below, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "second", "highest", "lowest"),
    [
        ("softplus", lambda x: mpmath.sech(x / 2) ** 2 / 4, 0, None),
        ("sigmoid", lambda x: mpmath.diff(lambda t: 1 / (1 + mpmath.exp(-t)), x, 2), -1.3, 1.3),
        ("tanh", lambda x: -2 * mpmath.tanh(x) * mpmath.sech(x) ** 2, -0.66, 0.66),
        ("erf", lambda x: -4 * x * mpmath.exp(-(x**2)) / mpmath.sqrt(mpmath.pi), -0.7, 0.7),
        ("gelu", lambda x: mpmath.npdf(x) * (2 - x**2), 0, 2.0),
        (
            "silu",
            lambda x: mpmath.sech(x / 2) ** 2 / 4 * (2 - x * mpmath.tanh(x / 2)),
            0,
            3.4,
        ),
    ],
)
def test_curvature_constants_are_upper_bounds_to_forty_digits(name, second, highest, lowest):
    """The constants must be rounded up, by no more than 1e-14: a float64 grid cannot tell that."""
    activation = activation_named(name)
    with mpmath.workdps(40):
        for start, sign, bound in (
            (highest, 1, activation.curvature_above),
            (lowest, -1, activation.curvature_below),
        ):
            if start is None:
                assert bound == 0.0
                continue
            top = start and mpmath.findroot(lambda x: mpmath.diff(second, x), start)
            exact = sign * second(top)
            assert exact <= bound <= exact * (1 + mpmath.mpf(10) ** -14)


@pytest.mark.parametrize(("name", "bounds"), TABLE.items())
def test_curvature_constants_agree_with_the_published_table(name, bounds):
    activation = activation_named(name)
    rounded_up = tuple(
        math.ceil(bound * 1e5 - 1e-6) / 1e5
        for bound in (activation.curvature_above, activation.curvature_below)
    )
    assert rounded_up == pytest.approx(bounds, abs=1e-12)


@pytest.mark.parametrize("activation", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slope_is_the_derivative_autograd_finds(activation, dtype):
    x = torch.cat([torch.linspace(-30, 30, 4001, dtype=dtype), torch.zeros(1, dtype=dtype)]).requires_grad_()
    (expected,) = torch.autograd.grad(activation(x).sum(), x)
    slope = activation.slope(x.detach())
    assert slope.dtype == dtype
    torch.testing.assert_close(
        slope, expected, rtol=1e-12 if dtype == torch.float64 else 2e-6, atol=4 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("activation", ALL)
def test_lipschitz_constant_bounds_the_slope_and_is_tight(activation, grid):
    if activation.lipschitz is None:
        assert activation.slope(torch.tensor([1e6], dtype=torch.float64)).item() > 1e5
        return
    steepest = (
        activation.slope(torch.cat([grid, torch.tensor([-1e3, 1e3], dtype=torch.float64)])).abs().max().item()
    )
    assert steepest <= activation.lipschitz + 2e-16
    assert steepest == pytest.approx(activation.lipschitz, abs=1e-8)


@pytest.mark.parametrize("activation", ALL)
def test_kink_is_the_jump_of_the_slope_at_zero(activation):
    nearby = torch.tensor([-1e-12, 1e-12], dtype=torch.float64)
    left, right = activation.slope(nearby).tolist()
    assert right - left == pytest.approx(activation.kink, abs=1e-10)
    assert activation.smooth == (abs(right - left) < 1e-10)
    if not activation.smooth:
        assert activation.curvature_above == math.inf


@pytest.mark.parametrize("activation", ALL)
def test_convex_is_what_midpoints_say(activation):
    x = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    excess = (activation(x - 0.5) + activation(x + 0.5)) / 2 - activation(x)
    assert activation.convex == bool((excess >= -1e-12).all())


@pytest.mark.parametrize("x", [0.0, 1e-9, 1.0, 20.0, 20.1, 36.9, 39.999, 40.001, 100.0, 700.0])
def test_softplus_is_accurate_where_torch_cuts_it(x):
    softplus = activation_named("softplus")
    with mpmath.workdps(330):
        for value in (x, -x):
            exact = mpmath.log1p(mpmath.exp(mpmath.mpf(value)))
            ours = softplus(torch.tensor([value], dtype=torch.float64)).item()
            assert abs(mpmath.mpf(ours) - exact) <= 4.5e-16 * exact
            point = torch.tensor([value], dtype=torch.float64, requires_grad=True)
            (slope,) = torch.autograd.grad(softplus(point), point)
            exact_slope = 1 / (1 + mpmath.exp(-mpmath.mpf(value)))
            assert abs(mpmath.mpf(slope.item()) - exact_slope) <= 4.5e-16 * exact_slope


def test_softplus_stays_finite_and_accurate_in_float32():
    x = torch.tensor([-80.0, -50.0, 0.0, 25.0, 39.9, 40.1, 1e30], requires_grad=True)
    value = activation_named("softplus")(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    expected = np.logaddexp(0.0, x.detach().numpy().astype(np.float64))
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=3e-7)
    np.testing.assert_allclose(slope.numpy(), torch.sigmoid(x.detach().double()).numpy(), rtol=1e-6)


def test_normaliser_agrees_with_closed_forms():
    def tail(b: float) -> float:
        return 0.5 * math.erfc(b / math.sqrt(2))

    closed = {
        "identity": 1.0,
        "relu": 0.5,
        "leaky-relu": (1 + 0.01**2) / 2,
        "relu2": 1.5,
        "erf": 2 / math.pi * math.asin(2 / 3),
        "elu": 1.0 + math.exp(2) * tail(2) - 2 * math.exp(0.5) * tail(1),
    }
    for name, second_moment in closed.items():
        assert activation_named(name).normaliser == pytest.approx(1 / second_moment, rel=1e-13)


@pytest.mark.parametrize("activation", ALL)
def test_normaliser_agrees_with_gauss_hermite(activation):
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    values = activation(torch.from_numpy(nodes)).numpy()
    moment = weights @ values**2 / math.sqrt(2 * math.pi)
    assert activation.normaliser == pytest.approx(1 / moment, rel=1e-4 if activation.name == "elu" else 1e-9)


def test_activations_copy_and_pickle_with_the_networks_that_hold_them():
    for activation in ACTIVATIONS.values():
        assert pickle.loads(pickle.dumps(activation)) == activation
        assert copy.deepcopy(activation) == activation


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match=r"got 'sofplus'; did you mean 'softplus'\?"):
        activation_named("sofplus")
    with pytest.raises(InputError, match="pick one of these"):
        activation_named("zzz")
