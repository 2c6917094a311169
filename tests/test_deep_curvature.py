"""Deep curvature: bounds against remainders found by ascent, against exact second derivatives, and against themselves."""

import math

import pytest
import torch
from torch import Tensor

import holdfast.curvature.deep as deep
from deep_cases import DOUBLE, bound_at, draws, normal, problem, quadratic, remainder, worst_ratio
from holdfast.curvature import DeepCurvature, LocalLinearity, curvature_for
from holdfast.curvature.deep_expansion import constants_of, expand, norms_bound, start_of
from holdfast.curvature.spectral import norm_bound
from holdfast.errors import InputError
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
        seed, depth, width, act, output=output, classes=classes, input_layer=seed % 2 == 0, radius=radius,
        centre=(1.0, 0.0, 0.5)[seed % 3],
    )  # fmt: skip
    curvature = bound_at(net, initial, points, slopes, radius)
    assert (
        worst_ratio(net, initial, points, slopes, radius, lambda s: quadratic(curvature, s), seed=seed) <= 1
    )
    start = start_of(tuple(initial.values()), (radius,) * depth, 1)
    at = expand(net, tuple(w.detach() for w in net.weights), start.weights, points, slopes)
    matrix = norms_bound(at, start, constants_of(net.activation))

    def by_norms(steps: list[Tensor]) -> Tensor:
        r = torch.stack([s.norm() for s in steps])
        return r @ matrix @ r

    assert worst_ratio(net, initial, points, slopes, radius, by_norms, seed=seed) <= 1


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


def test_a_spectral_norm_taken_too_small_is_caught() -> None:
    """One unit a layer and a strongly curved top: what is handed down rests on ``||W0|| + R``."""
    net, initial, points, _ = problem(1, 2, 2, "csp0.5", centre=0.0, count=1, radius=1e-3)
    slopes = torch.ones(1, 1, dtype=DOUBLE)
    short = start_of(tuple(initial.values()), (1e-3, 1e-3), 2)
    short = deep.replace(
        short, norms=tuple(0.0 for _ in short.norms), weights=tuple(0 * w for w in short.weights)
    )
    honest = bound_at(net, initial, points, slopes, 1e-3)
    wrong = DeepCurvature(start=deep.replace(short, columns=(0.0, 0.0))).at(
        net, expand(net, tuple(initial.values()), tuple(initial.values()), points, slopes)
    )
    ratio = [
        worst_ratio(net, initial, points, slopes, 1e-3, lambda s, c=c: quadratic(c, s), seed=2, steps=60)
        for c in (honest, wrong)
    ]
    assert ratio[0] <= 1
    assert ratio[1] > ratio[0]


@pytest.mark.parametrize("input_layer", [True, False])
def test_matrices_in_a_basis_of_the_round_are_the_same_quadratic(input_layer: bool) -> None:
    net, initial, points, slopes = problem(4, 3, 16, "csp1", input_layer=input_layer)
    whole = bound_at(net, initial, points, slopes, 1.0)
    small = bound_at(net, initial, points, slopes, 1.0, DeepCurvature(low_rank=True))
    assert small.balls[1][0].basis is not None
    for seed in range(5):
        steps = [normal(draws(seed + h), *w.shape) for h, w in enumerate(net.weights)]
        torch.testing.assert_close(quadratic(whole, steps), quadratic(small, steps), rtol=1e-10, atol=0)


def test_shared_matrices_where_memory_is_short_are_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net, initial, points, slopes = problem(5, 2, 12, "softplus")
    apart = bound_at(net, initial, points, slopes, 1.0)
    monkeypatch.setattr(deep, "MATRIX_NUMBERS", 40)
    shared = bound_at(net, initial, points, slopes, 1.0)
    assert len(shared.balls[0][0].matrices) == 4
    assert len(apart.balls[0][0].matrices) == 12
    assert len(shared.balls[1][0].matrices) == 1
    assert worst_ratio(net, initial, points, slopes, 1.0, lambda s: quadratic(shared, s), seed=0) <= 1


def test_examples_without_slope_weigh_nothing() -> None:
    net, initial, points, slopes = problem(6, 2, 8, "csp1")
    slopes[2:] = 0
    all_, some = (
        bound_at(net, initial, p, s, 1.0, DeepCurvature(tune=False))
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
        pass

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
