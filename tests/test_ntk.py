"""Analytic tangent kernels: duals against quadrature and Monte Carlo, layers against wide networks, gradients, memory."""

import math

import numpy as np
import pytest
import torch

from holdfast.errors import InputError
from holdfast.networks import Dense, TwoLayer
from holdfast.theory import KernelSpec, ntk
from holdfast.theory.angular import polynomial, power_series

SPECS = {
    **{name: KernelSpec(activation=name) for name in ("relu", "relu2", "erf", "identity", "leaky-relu")},
    **{name: KernelSpec(activation=name) for name in ("softplus", "gelu", "tanh", "silu", "sigmoid", "elu")},
    "relu, shift 0.5": KernelSpec(activation="relu", shift=0.5),
    "relu, shift -1": KernelSpec(activation="relu", shift=-1.0),
    "softplus, shift 0.7": KernelSpec(activation="softplus", shift=0.7),
}
CORRELATIONS = (-1.0, -0.999, -0.6, 0.0, 0.3, 0.9, 0.9999, 1.0)
VARIANCES = ((1.0, 1.0), (0.4, 1.7))


def gauss(low, high, nodes):
    """Nodes and weights between (broadcast) limits, along a new last axis."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    half = (np.asarray(high) - np.asarray(low))[..., None] / 2
    return np.asarray(low)[..., None] + half * (at + 1), half * weights


def normal(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def quadrature(spec, function, u, p, q):
    """Nested one-dimensional integrals, cut wherever a kink is met: shares nothing with the closed forms."""
    root, reach = math.sqrt(max(0.0, 1 - u * u)), 10.0
    kink, other = spec.shift / math.sqrt(p), spec.shift / math.sqrt(q)
    # where the inner integral bends as a function of the outer variable when u is near 1 or -1
    bend = [] if u == 0 else [(other + c * root) / u for c in (-8, -3, 0, 3, 8)]
    cuts = np.array(sorted({-reach, reach, *(c for c in [kink, *bend] if -reach < c < reach)}))
    x, weight = (part.ravel() for part in gauss(cuts[:-1], cuts[1:], 40))
    first = weight * normal(x) * call(function, math.sqrt(p) * x - spec.shift)
    if root == 0:
        return first @ call(function, math.sqrt(q) * u * x - spec.shift)
    middle = np.clip((other - u * x) / root, -reach, reach)
    second = 0.0
    for low, high in ((np.full_like(x, -reach), middle), (middle, np.full_like(x, reach))):
        w, inner = gauss(low, high, 60)
        second += (
            inner * normal(w) * call(function, math.sqrt(q) * (u * x[:, None] + root * w) - spec.shift)
        ).sum(1)
    return first @ second


def call(function, z):
    return function(torch.from_numpy(z)).numpy()


def moments(spec, u, p, q):
    spread = math.sqrt(p * q)
    one = lambda number: torch.tensor([number], dtype=torch.float64)  # noqa: E731
    value, slope = spec.dual.moments(one([u * spread]), one(p), one(q))
    return float(value), float(slope)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("variances", VARIANCES)
def test_duals_agree_with_quadrature(name, variances):
    spec, act = SPECS[name], SPECS[name].act
    p, q = variances
    for u in CORRELATIONS:
        if abs(u) == 1 and p != q and spec.shift and act.kink:
            continue  # the reference's two kinks lie on one line there, and it follows only one
        value, slope = moments(spec, u, p, q)
        assert value == pytest.approx(quadrature(spec, act.value, u, p, q), abs=1e-10, rel=1e-10), u
        assert slope == pytest.approx(quadrature(spec, act.slope, u, p, q), abs=1e-10, rel=1e-10), u


@pytest.mark.parametrize("name", ["relu", "relu2", "erf", "leaky-relu", "relu, shift 0.5", "gelu", "elu"])
def test_duals_agree_with_monte_carlo(name, rng):
    spec, act = SPECS[name], SPECS[name].act
    z = torch.randn(2, 200_000, generator=rng, dtype=torch.float64)
    s, t = z[0] * 0.8, (0.4 * z[0] + math.sqrt(1 - 0.16) * z[1]) * 1.3
    for got, function in zip(moments(spec, 0.4, 0.64, 1.69), (act.value, act.slope), strict=True):
        drawn = function(s - spec.shift) * function(t - spec.shift)
        assert abs(got - float(drawn.mean())) < 5 * float(drawn.std()) / math.sqrt(drawn.numel())


def points(count, features=5, seed=0, dtype=torch.float64):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=dtype) / 2


def recursion(spec, x, y):
    """The sum over layers of the paper, written as it stands, a pair of points at a time."""
    z, w = spec.inputs(x[None])[0], spec.inputs(y[None])[0]
    covariance, p, q = [float(z @ w)], float(z @ z), float(w @ w)
    slopes = []
    for _ in range(spec.depth):
        value, slope = moments(spec, covariance[-1] / math.sqrt(p * q), p, q)
        p, q = (spec.factor * moments(spec, 1.0, r, r)[0] for r in (p, q))
        covariance.append(spec.factor * value)
        slopes.append(spec.factor * slope)
    total = sum(covariance[h] * math.prod(slopes[h:]) for h in range(spec.depth))
    total += covariance[0] * math.prod(slopes) if spec.trained == "all" else 0
    return total * spec.output_variance + (covariance[-1] if spec.trained != "hidden" else 0)


@pytest.mark.parametrize("activation", ["relu", "relu2", "erf", "softplus", "leaky-relu"])
@pytest.mark.parametrize("trained", ["hidden", "hidden and output", "all"])
def test_kernel_is_the_sum_over_layers(activation, trained):
    spec = KernelSpec(
        activation=activation,
        depth=3,
        trained=trained,
        output_variance=0.5,
        constant=0.5,
        scale=0.9,
        center=torch.full((5,), 0.1),
    )
    x, y = points(2), points(3, seed=1)
    y[2] = x[1]
    wanted = torch.tensor([[recursion(spec, a, b) for b in y] for a in x], dtype=torch.float64)
    torch.testing.assert_close(ntk(spec)(x, y), wanted, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ntk(spec).diagonal(x), ntk(spec)(x, x.clone()).diagonal(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_blocks_halves_and_products_agree(monkeypatch, activation, dtype):
    x, kernel = points(23, dtype=dtype), ntk(KernelSpec(activation=activation, depth=2))
    whole = kernel(x, x.clone())
    monkeypatch.setattr("holdfast.theory.analytic.TILE", (7, 4))
    half = kernel(x)
    close = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 1e-5}
    torch.testing.assert_close(half, whole, **close)
    assert half.dtype == dtype
    assert torch.equal(half, half.T)
    assert torch.equal(half.diagonal(), kernel.diagonal(x))
    torch.testing.assert_close(kernel.product(x, x[:9], whole[:9, :3]), whole[:, :9] @ whole[:9, :3], **close)


@pytest.mark.parametrize("activation", ["relu", "relu2", "erf", "gelu", "leaky-relu"])
def test_gradient_is_that_of_differences(activation):
    kernel = ntk(KernelSpec(activation=activation, depth=2, trained="all"))
    y = points(2, 3, seed=4)
    torch.autograd.gradcheck(lambda x: kernel(x, y), points(2, 3).requires_grad_(True), atol=1e-6)


@pytest.mark.parametrize("spec", [KernelSpec(shift=0.3, depth=2), KernelSpec(activation="elu")])
def test_gradient_of_the_quadratures_is_that_of_differences(spec):
    kernel = ntk(spec)
    y = points(2, 3, seed=4)
    torch.autograd.gradcheck(lambda x: kernel(x, y), points(2, 3).requires_grad_(True), atol=1e-6)


@pytest.mark.parametrize("name", ["relu", "relu2", "erf", "softplus", "elu", "relu, shift 0.5"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradient_is_finite_at_coincident_opposite_and_zero_points(name, dtype):
    y = points(3, dtype=dtype)
    x = torch.stack([y[0], -y[1], torch.zeros_like(y[2])]).requires_grad_(True)
    values = ntk(SPECS[name])(x, y)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()
    assert gradient[0].norm() > 0


def test_coincident_points_meet_the_diagonal_in_float32():
    x, kernel = points(40, 64, dtype=torch.float32), ntk(KernelSpec(depth=3))
    exact = ntk(KernelSpec(depth=3)).diagonal(x.double())
    torch.testing.assert_close(kernel.diagonal(x).double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(kernel(x).diagonal().double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "model",
    [
        Dense(5, 2, 8, 2),
        TwoLayer(5, 3, 12, train_output=True, constant=0.5, scale=0.7),
    ],
)
def test_spec_follows_the_network(model):
    spec = ntk(model).spec
    x = points(3, dtype=torch.float32)
    if isinstance(model, Dense):
        assert spec.depth == 2
        assert spec.factor == pytest.approx(model.activation.normaliser, rel=1e-12)
    else:
        torch.testing.assert_close(spec.inputs(x), model.inputs(x))
        assert spec.trained == "hidden and output"
        assert spec.output_variance == pytest.approx(1 / 3)


def test_shift_normalises(rng):
    draws = torch.randn(400_000, generator=rng, dtype=torch.float64)
    square = (draws - 0.5).relu().square()
    assert (
        abs(1 / KernelSpec(shift=0.5).factor - float(square.mean())) < 5 * float(square.std()) / 400_000**0.5
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"depth": 0}, "depth must be a whole number >= 1"),
        ({"trained": "first"}, "trained must be one of"),
        ({"activation": "rleu"}, "did you mean"),
        ({"shift": math.nan}, "shift must be a finite number"),
        ({"output_variance": -1.0}, "output_variance must be a finite number >= 0"),
    ],
)
def test_bad_specs_are_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        KernelSpec(**wrong)


def test_bad_calls_are_refused(monkeypatch):
    kernel, x = ntk(KernelSpec()), points(3)
    with pytest.raises(InputError, match="agree in features"):
        kernel(x, points(3, 4))
    with pytest.raises(InputError, match="points as rows"):
        kernel(x[0])
    with pytest.raises(InputError, match="a row a point"):
        kernel.product(x, x, x[:2])
    with pytest.raises(InputError, match="use empirical_ntk"):
        ntk(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="shift must be 0 for elu"):
        ntk(KernelSpec(activation="elu", shift=0.5, normalised=False))(x, x)
    monkeypatch.setattr("holdfast._memory.free_bytes", lambda device: 2**20)
    with pytest.raises(InputError, match=r"free memory of cpu \(0.0 GiB\), it needs"):
        kernel(points(400))


@pytest.mark.parametrize(
    ("activation", "depth"),
    [("relu", 2), ("relu", 3), ("relu", 4), ("leaky-relu", 3), ("relu2", 3)],
)
def test_the_polynomial_in_the_angle_is_what_the_layers_give(activation, depth):
    """At well separated, nearly coincident and opposite points; the layers in float64 are the reference."""
    angle = torch.cat([torch.linspace(0, math.pi, 301), torch.logspace(-3, -1, 40)]).double()
    u, kernel = angle.cos()[:, None], ntk(KernelSpec(activation=activation, depth=depth))
    one = [kernel._dual.rows(torch.ones(1, dtype=torch.float64))] * depth
    powers = power_series(lambda u: kernel._scaled(u, one, one), depth)
    assert powers is not None
    exact = kernel._scaled(u, one, one)
    found = polynomial(list(torch.tensor(powers, dtype=torch.float64).unbind()), u.clone())
    assert float((found - exact).abs().max()) < 5e-8 * float(exact.max())
    single = polynomial(list(torch.tensor(powers).unbind()), u.float())
    # the correlation itself, rounded, says no more about small angles than this
    blur = torch.finfo(torch.float32).eps / angle.sin().clamp_min(3e-4)
    assert ((single.double() - exact)[:, 0].abs() <= exact.max() * (2e-6 + depth * blur)).all()


def test_a_series_that_is_too_long_or_too_steep_is_not_used():
    assert power_series(lambda u: torch.sin(40 * torch.asin(u)), 8) is None
    assert power_series(torch.asin, 1) is not None
    assert ntk(KernelSpec(activation="relu2", depth=10))._angular(torch.ones(1, 1)) is None
    assert ntk(KernelSpec(depth=3))._angular(torch.ones(1, 1, dtype=torch.float64)) is None
