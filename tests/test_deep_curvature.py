"""Deep curvature: bounds against remainders found by ascent, against exact second derivatives, and against themselves."""

import math

import pytest
import torch
from torch import Tensor

import holdfast.families.dense.curvature as deep
import holdfast.families.dense.norms as deep_norms
import holdfast.families.dense.products as deep_products
from deep_cases import DOUBLE, bound_at, draws, normal, problem, quadratic, remainder, worst_ratio
from holdfast.curvature import LocalLinearity
from holdfast.curvature.grams import RowSums
from holdfast.curvature.spectral import norm_bound
from holdfast.errors import InputError
from holdfast.families import DeepCurvature, curvature_for
from holdfast.families.dense.expansion import constants_of, expand, norms_bound, start_of
from holdfast.families.dense.free_parameters import FreeParameters
from holdfast.networks import Dense
from holdfast.networks.activations import activation_named

BOUNDED = ("softplus", "csp1", "csp0.5", "elu", "sigmoid", "tanh", "erf", "gelu", "silu", "identity")


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, 40), (300, 420), (420, 300)])
def test_norm_bound_is_above_the_norm_and_near_it(shape: tuple[int, int]) -> None:
    for seed in range(3):
        matrix = normal(draws(seed), *shape) * 10.0 ** (3 * seed - 3)
        exact = float(torch.linalg.svdvals(matrix)[0])
        assert exact <= norm_bound(matrix) <= exact * 1.001


def test_norm_bound_of_matrices_with_equal_or_no_singular_values() -> None:
    assert norm_bound(torch.zeros(3, 5)) == 0.0
    assert 1.0 <= norm_bound(torch.eye(300)) <= 1.001
    assert norm_bound(torch.full((2, 2), math.nan)) == math.inf
    one = torch.outer(torch.arange(1.0, 301), torch.ones(400))
    assert float(one.double().norm()) <= norm_bound(one) <= float(one.double().norm()) * 1.001


def test_expansion_is_the_networks_own_derivatives() -> None:
    net, initial, points, slopes = problem(0, 3, 6, "tanh", classes=3, output="gaussian", input_layer=True)
    weights = tuple(w.detach() for w in net.weights)
    at = expand(net, weights, tuple(initial.values()), points, slopes)
    gradients = torch.autograd.grad((slopes * net(points)).sum(), list(net.weights))
    for h, gradient in enumerate(gradients):
        torch.testing.assert_close(at.gradient(h), gradient, rtol=1e-10, atol=1e-12)
    assert at.moved == pytest.approx([1.0, 1.0, 1.0])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_exact_identity_behind_the_bounds(depth: int) -> None:
    """``remainder = k sum_h b^h . xi^h + sum_{h>=2} g^h . Delta^h dx^(h-1)``, with both sides from finite differences alone."""
    net, initial, points, slopes = problem(depth, depth, 6, "gelu", input_layer=True)
    weights = tuple(w.detach() for w in net.weights)
    at = expand(net, weights, tuple(initial.values()), points, slopes)
    steps = [normal(draws(9 + h), *w.shape) for h, w in enumerate(weights)]
    act, k = net.activation, net.layer_scale
    x = y = net.inputs(points)
    total = torch.zeros((), dtype=DOUBLE)
    for h, (w, d) in enumerate(zip(weights, steps, strict=True)):
        u, v = x @ w.T, y @ (w + d).T
        xi = act(v) - act(u) - act.slope(u) * (v - u)
        total = total + k * (at.backward[h] * xi).sum() + (at.pull(h) * ((y - x) @ d.T)).sum()
        x, y = k * act(u), k * act(v)
    torch.testing.assert_close(
        total.detach(), remainder(net, points, slopes)(steps).detach(), rtol=1e-9, atol=1e-11
    )


CASES = [
    (
        seed,
        1 + seed % 3,
        (8, 12, 24)[seed % 3 - 1],
        act,
        ("signed", "gaussian")[seed % 2],
        (2, 2, 3)[seed % 3],
    )
    for seed, act in enumerate(BOUNDED)
]


@pytest.mark.parametrize(("seed", "depth", "width", "act", "output", "classes"), CASES)
def test_ascent_on_remainder_over_bound_stays_below_one(
    seed: int, depth: int, width: int, act: str, output: str, classes: int
) -> None:
    width = 12 if classes == 3 else width
    radius = (0.3, 1.0, 3.0, 6.0)[seed % 4]
    net, initial, points, slopes = problem(
        seed,
        depth,
        width,
        act,
        output=output,
        classes=classes,
        input_layer=seed % 2 == 0,
        radius=radius,
        centre=(1.0, 0.0, 0.5)[seed % 3],
    )
    for prepared in (False, True):
        curvature = bound_at(net, initial, points, slopes, radius, prepared=prepared)
        found = worst_ratio(
            net, initial, points, slopes, radius, lambda s, c=curvature: quadratic(c, s), seed=seed
        )
        assert found <= 1
    start = start_of(tuple(initial.values()), (radius,) * depth, 1)
    at = expand(net, tuple(w.detach() for w in net.weights), start.weights, points, slopes)
    matrix = norms_bound(at, start, constants_of(net.activation))

    def by_norms(steps: list[Tensor]) -> Tensor:
        r = torch.stack([s.norm() for s in steps])
        return r @ matrix @ r

    assert worst_ratio(net, initial, points, slopes, radius, by_norms, seed=seed) <= 1


@pytest.mark.parametrize("act", ["csp1", "tanh", "softplus", "gelu"])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_ascent_with_a_radius_a_layer_and_many_classes_stays_below_one(depth: int, act: str) -> None:
    seed = depth + len(act)
    radii = tuple((0.2, 1.0, 4.0)[(seed + h) % 3] for h in range(depth))
    net, initial, points, slopes = problem(
        seed, depth, 24, act, output=("signed", "gaussian")[seed % 2], classes=4, centre=0.1
    )
    curvature = bound_at(net, initial, points, slopes, radii)
    assert worst_ratio(net, initial, points, slopes, radii, lambda s: quadratic(curvature, s), seed=seed) <= 1


@pytest.mark.parametrize("act", ["csp1", "tanh", "gelu"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_bound_in_a_tiny_ball_is_above_the_exact_hessian(depth: int, act: str) -> None:
    """As R -> 0 the bound must dominate ``-Hessian / 2`` in every direction, and not by much."""
    ratios = []
    for seed in range(3 if depth < 3 else 1):
        net, initial, points, slopes = problem(seed, depth, 4, act, radius=1e-7, centre=0.0, count=1)
        curvature = bound_at(net, initial, points, slopes, 1e-7)
        rest, shapes = remainder(net, points, slopes), [w.shape for w in net.weights]
        sizes = [s.numel() for s in shapes]

        def split(flat: Tensor, shapes=shapes, sizes=sizes) -> list[Tensor]:
            return [p.reshape(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]

        zero = torch.zeros(sum(sizes), dtype=DOUBLE)
        hessian = torch.autograd.functional.hessian(
            lambda v, rest=rest, split=split: rest(split(v)), zero, vectorize=True
        )
        q = torch.autograd.functional.hessian(
            lambda v, c=curvature, split=split: quadratic(c, split(v)), zero, vectorize=True
        )
        # Directions the curvature does not see at all must have none.
        slack = torch.linalg.eigvalsh(q + hessian)[0]
        assert float(slack) >= -1e-10 * float(q.abs().max())
        root = torch.linalg.cholesky(q + 1e-9 * q.abs().max() * torch.eye(len(q), dtype=DOUBLE))
        inverse = torch.linalg.inv(root)
        ratios.append(float(torch.linalg.eigvalsh(inverse @ -hessian @ inverse.T)[-1]))
    assert max(ratios) <= 1 + 1e-9
    assert max(ratios) >= (0.9 if depth == 1 and act == "csp1" else 0.05)


def test_a_bound_five_per_cent_too_small_is_caught() -> None:
    """Two linear layers of one unit: the remainder ``a k^2 Delta_2 Delta_1 x`` reaches the bound, so 1 is right and 0.95 is not."""
    net, initial, points, _ = problem(3, 2, 1, "identity", output="gaussian", centre=0.0, count=1)
    slopes = torch.ones(1, 1, dtype=DOUBLE)

    def worst(safety: float) -> float:
        curvature = bound_at(net, initial, points, slopes, 1.0, DeepCurvature(safety=safety))
        return worst_ratio(
            net, initial, points, slopes, 1.0, lambda s: quadratic(curvature, s), seed=0, steps=80
        )

    assert 0.97 < worst(1.0) <= 1
    assert worst(0.95) > 1.02
    assert not DeepCurvature(safety=0.95).rigorous


@pytest.mark.parametrize("short", [1.0, 0.97])
def test_a_spectral_norm_taken_too_small_is_caught(monkeypatch: pytest.MonkeyPatch, short: float) -> None:
    """One steep top unit above two units that bend alike: all curvature is what ``||W0||`` hands down, and with the free numbers at
    their extremes the bound is nearly reached in the direction of its singular vector. A norm 3 % too small must be caught."""
    net = Dense(1, 2, 2, 2, "csp1", output="signed", input_layer=False, zero_start=False).double()
    initial = {
        "weights.0": torch.zeros(2, 1, dtype=DOUBLE),
        "weights.1": torch.tensor([[3e3, -3e3], [0, 0]], dtype=DOUBLE),
    }
    with torch.no_grad():
        for name, start in initial.items():
            net.get_parameter(name).copy_(start)
    points, slopes = torch.ones(1, 1, dtype=DOUBLE), -torch.ones(1, 1, dtype=DOUBLE)
    monkeypatch.setattr(
        deep,
        "first_parameters",
        lambda depth: FreeParameters(theta=(1e5,) * 2, theta2=(1e-4,) * 2, tau=(1e5,) * 2, tau2=1e5),
    )
    monkeypatch.setattr(deep_norms, "norm_bound", lambda matrix: short * norm_bound(matrix))
    curvature = bound_at(net, initial, points, slopes, 1e-6, prepared=True)
    rest = remainder(net, points, slopes)
    step = torch.tensor([[1.0], [-1.0]], dtype=DOUBLE) * 5e-7
    steps = [step, torch.zeros(2, 2, dtype=DOUBLE)]
    ratio = float((-rest(steps) / quadratic(curvature, steps)).detach())
    assert (0.98 < ratio <= 1) if short == 1.0 else (ratio > 1.02)


@pytest.mark.parametrize("short", [1.0, 0.97])
@pytest.mark.parametrize("other", [0, 1])
def test_products_with_layer_three_are_reached_and_not_crossed(
    monkeypatch: pytest.MonkeyPatch, other: int, short: float
) -> None:
    """Three linear layers of one unit, moves of layer 3 and of one other: the remainder is one product, and the bound its
    geometric mean."""
    net, initial, points, _ = problem(3, 3, 1, "identity", output="gaussian", centre=0.0, count=1)
    slopes = torch.ones(1, 1, dtype=DOUBLE)
    # The product meant is split evenly, the others so that they cost these moves nothing.
    third = (1e-9, 1.0, 1e-9) if other == 0 else (1.0, 1e-9, 1e-9)
    tau2 = 1e9 if other == 0 else 1e-9
    monkeypatch.setattr(
        deep,
        "first_parameters",
        lambda depth: FreeParameters(
            theta=(1.0,) * 3, theta2=(1.0,) * 3, tau=(1.0,) * 3, tau2=tau2, third=third
        ),
    )
    monkeypatch.setattr(deep_norms, "norm_bound", lambda matrix: short * norm_bound(matrix))
    curvature = bound_at(net, initial, points, slopes, 1e-4, prepared=True)
    rest = remainder(net, points, slopes)
    worst = -math.inf
    for sign in (1.0, -1.0):
        for size in torch.logspace(-3, 3, 121, dtype=DOUBLE):
            steps = [torch.zeros_like(w) for w in net.weights]
            steps[2] += 1e-5
            steps[other] += sign * size * 1e-5
            worst = max(worst, float((-rest(steps) / quadratic(curvature, steps)).detach()))
    if other == 1 or short == 1.0:  # no norm but the weights' own slopes in the product with layer 2
        assert 0.99 < worst <= 1
    else:
        assert worst > 1.02


@pytest.mark.parametrize("input_layer", [True, False])
def test_rows_and_matrices_are_the_same_quadratic(input_layer: bool) -> None:
    net, initial, points, slopes = problem(4, 3, 16, "csp1", input_layer=input_layer)
    curvature = bound_at(net, initial, points, slopes, 1.0)
    for (block,), weights in zip(curvature.balls[1:], net.weights[1:], strict=True):
        assert block.rows is not None
        once, twice = RowSums(), RowSums()
        once.add(block.rows, 2.0)
        for _ in range(4):  # 20 rows of 16 inputs
            twice.add(block.rows, 0.5)
        matrices, basis = once.reduced()
        assert basis is not None
        assert basis.shape[1] < 16
        whole, none = twice.reduced()
        assert none is None
        for seed in range(3):
            step = normal(draws(seed), *weights.shape)
            direct = (step * block.rows.times(step)).sum()
            for m, seen in ((matrices, step @ basis), (whole, step)):
                of_unit = m.repeat_interleave(len(step) // len(m), 0)
                spread = torch.einsum("md,mde,me->", seen, of_unit, seen)
                torch.testing.assert_close(spread, 2 * direct, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kept", [0, 2, 16])
def test_pairs_are_above_the_products_they_stand_for(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    net, initial, points, slopes = problem(2, 2, 12, "tanh")
    start = start_of(tuple(initial.values()), (1.0, 1.0), 1)
    at = expand(net, tuple(w.detach() for w in net.weights), start.weights, points, slopes)
    monkeypatch.setattr(deep_products, "KEPT", kept)
    pairs = deep_products.pairs_of(at, 1)
    assert pairs is not None
    above = pairs.vectors @ torch.diag(pairs.values) @ pairs.vectors.T + pairs.rest * torch.eye(
        len(points), dtype=DOUBLE
    )
    exact = at.pull(1) @ at.pull(1).T
    gap = torch.linalg.eigvalsh(above - exact)
    assert float(gap[0]) >= -1e-12 * float(exact.norm())
    assert kept < 16 or float(gap[-1]) <= 1e-12 * float(exact.norm())


def test_shared_matrices_where_memory_is_short_are_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net, initial, points, slopes = problem(5, 2, 12, "softplus")
    apart = bound_at(net, initial, points, slopes, 1.0)
    monkeypatch.setattr(deep, "MATRIX_NUMBERS", 40)
    shared = bound_at(net, initial, points, slopes, 1.0)
    assert len(shared.balls[0][0].matrices) == 4
    assert len(apart.balls[0][0].matrices) == 12
    assert len(shared.balls[1][0].rows.weights) == 1
    assert worst_ratio(net, initial, points, slopes, 1.0, lambda s: quadratic(shared, s), seed=0) <= 1


def test_examples_without_slope_weigh_nothing() -> None:
    net, initial, points, slopes = problem(6, 2, 8, "csp1")
    slopes[2:] = 0
    all_, some = (
        bound_at(net, initial, p, s, 1.0, prepared=True)
        for p, s in ((points, slopes), (points[:2], slopes[:2]))
    )
    steps = [normal(draws(h), *w.shape) for h, w in enumerate(net.weights)]
    torch.testing.assert_close(quadratic(all_, steps), quadratic(some, steps), rtol=1e-9, atol=0)
    none = bound_at(net, initial, points, 0 * slopes, 1.0)
    assert float(quadratic(none, steps)) == 0.0


def test_which_dense_networks_have_a_proof() -> None:
    for act in BOUNDED:
        assert isinstance(curvature_for(Dense(3, 2, 4, 2, act))[0], DeepCurvature)
    for act in ("relu", "relu2"):
        curvature, reason = curvature_for(Dense(3, 2, 4, 2, act))
        assert isinstance(curvature, LocalLinearity)
        assert act in reason
    frozen = Dense(3, 2, 4, 2)
    frozen.weights[0].requires_grad_(False)
    assert isinstance(curvature_for(frozen)[0], LocalLinearity)

    class Own(Dense):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -super().forward(x)

    assert isinstance(curvature_for(Own(3, 2, 4, 2))[0], LocalLinearity)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_centred_softplus(temperature: float) -> None:
    act = activation_named(f"csp{temperature:g}")
    z = torch.linspace(-12, 12, 200_001, dtype=DOUBLE)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    assert float(torch.trapezoid(density * act(z), z)) == pytest.approx(0, abs=1e-9)
    slopes = (act(z[1:]) - act(z[:-1])) / (z[1:] - z[:-1])
    torch.testing.assert_close(slopes, act.slope((z[1:] + z[:-1]) / 2), rtol=0, atol=1e-8)
    bends = ((act.slope(z[1:]) - act.slope(z[:-1])) / (z[1:] - z[:-1])).max()
    assert 0.999 * act.curvature_above <= float(bends) <= act.curvature_above * (1 + 1e-7)
    assert act.convex
    assert act == activation_named(act.name)


@pytest.mark.parametrize("name", ["csp", "cspx", "csp-1", "csp0", "cspnan"])
def test_centred_softplus_of_no_temperature_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"csp|temperature"):
        activation_named(name)


def test_signed_outputs_of_dense_networks() -> None:
    net = Dense(3, 3, 12, 2, output="signed")
    assert net.groups == 6
    assert net.output_weight.sum(0).tolist() == [1, 1, -1, -1] * 3
    with pytest.raises(InputError, match="multiple of 6"):
        Dense(3, 3, 8, 2, output="signed")
    with pytest.raises(InputError, match="output must be"):
        Dense(3, 3, 8, 2, output="paired")
