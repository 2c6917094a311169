"""One round: the lower model stays below the loss of every network, near and far, random and chosen to break it."""

import math

import pytest
import torch
from torch import Tensor, nn

from certificate_cases import (
    DOUBLE,
    KINKED,
    LOSSES,
    SHAPES,
    SMOOTH,
    Copies,
    draws,
    examples,
    hunted_slack,
    lower_at,
    network,
    normal,
    one_round,
    random_moves,
)
from holdfast.curvature import LocalLinearity
from holdfast.errors import InputError
from holdfast.families import TwoLayerCurvature, curvature_for
from holdfast.families.two_layer.curvature import kink_widths, weighted_grams
from holdfast.losses import CrossEntropy, Hinge
from holdfast.networks import TwoLayer
from holdfast.networks.activations import ACTIVATIONS, Activation
from holdfast.threats import LpBall
from holdfast.trace import TraceRecorder

ROUNDING = 1e-12


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", SMOOTH + KINKED)
def test_lower_model_of_a_round_is_below_the_loss_of_every_network(activation: str, loss: str) -> None:
    others = ("signed", "dense")
    turn = ((*SMOOTH, *KINKED).index(activation) + list(LOSSES).index(loss)) % 2
    for seed, shape in enumerate(("binary", others[turn])):
        net = network(activation, shape, seed=seed, paired=turn == 0)
        x, y = examples(shape, seed=seed)
        points = x + 0.1 * normal(draws(seed), *x.shape)
        # At the start outputs are 0 and tie (hinge); elsewhere they do not.
        for distance in (0.0, 3.0) if loss == "hinge" else (3.0,):
            window, initial = one_round(net, x, y, points, LOSSES[loss], distance=distance, seed=seed)
            copies = Copies(net, initial, points, y, LOSSES[loss])
            assert window.lower is not None
            assert hunted_slack(copies, window.lower, seed) >= -ROUNDING, (shape, distance)


@pytest.mark.parametrize("theta", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("activation", [name for name in SMOOTH if name != "relu2"])
def test_trained_outputs(activation: str, theta: float) -> None:
    for seed, shape in enumerate(SHAPES):
        net = network(activation, shape, seed=seed, train_output=True)
        x, y = examples(shape, seed=seed)
        loss = list(LOSSES.values())[seed]
        window, initial = one_round(
            net, x, y, x, loss, distance=2.0, curvature=TwoLayerCurvature(theta=theta)
        )
        assert list(initial) == ["weight", "output_weight"]
        assert window.lower is not None
        assert hunted_slack(Copies(net, initial, x, y, loss), window.lower, seed) >= -ROUNDING, shape


def departure(net: TwoLayer, points: Tensor, slopes: Tensor, step: Tensor) -> Tensor:
    """``sum_i <s_i, f(W + Delta, x'_i) - f(W, x'_i) - Df(W, x'_i) Delta>``, the tangent by automatic differentiation."""
    start = net.weight.detach().requires_grad_()

    def inner(weight: Tensor) -> Tensor:
        return (slopes * torch.func.functional_call(net, {"weight": weight}, (points,))).sum()

    value = inner(start)
    (gradient,) = torch.autograd.grad(value, start)
    return (inner(start + step) - value - (gradient * step).sum()).detach()


@pytest.mark.parametrize("activation", SMOOTH + KINKED)
def test_departure_from_the_tangent_for_any_slopes(activation: str) -> None:
    """The curvature's own contract, without any loss: slopes of either sign and any size."""
    for seed, shape in enumerate(SHAPES):
        net = network(activation, shape, seed=seed + 20)
        x, _ = examples(shape, seed=seed)
        draw = draws(seed)
        for reach in (0.01, 5.0):
            slopes = normal(draw, len(x), net.outputs) * 10 ** (
                2 * torch.rand(len(x), 1, generator=draw, dtype=DOUBLE) - 1
            )
            round_ = TwoLayerCurvature().round(net, x, slopes, reach=reach)
            ((block,),) = round_.balls
            assert block.matrices is not None
            slack = 0.0 if round_.slack is None else float(round_.slack)
            for step in random_moves([net.weight.detach()], 30, draw)[0]:
                of_unit = block.matrices.repeat_interleave(net.width // len(block.matrices), 0)
                q = float(torch.einsum("md,mde,me->", step, of_unit, step))
                assert float(departure(net, x, slopes, step)) >= -q - slack - 1e-10 * (1 + q), (shape, reach)


def steepest(activation: Activation, *, above: bool) -> float:
    """Where the second derivative is largest (or smallest), by differences of the slope."""
    u = torch.linspace(-6, 6, 24001, dtype=DOUBLE)
    curvature = activation.slope(u + 1e-5) - activation.slope(u - 1e-5)
    return float(u[curvature.argmax() if above else curvature.argmin()])


CURVED_SIDES = [
    (name, above)
    for name in SMOOTH
    for above in (True, False)
    if (ACTIVATIONS[name].curvature_above if above else ACTIVATIONS[name].curvature_below) > 0
]


@pytest.mark.parametrize(("activation", "above"), CURVED_SIDES)
def test_constants_five_percent_too_small_are_caught(activation: str, above: bool) -> None:
    """One unit at the point of its largest curvature: 1 is a proof there, 0.95 is not. Shows that the tests can fail."""
    act = ACTIVATIONS[activation]
    net = TwoLayer(1, 2, 2, activation, paired=True).double()
    u = steepest(act, above=above) + (0.5 if activation == "relu2" else -0.01 if activation == "elu" else 0.0)
    with torch.no_grad():
        net.weight.fill_(u)
    x, slopes = torch.ones(1, 1, dtype=DOUBLE), torch.ones(1, 1, dtype=DOUBLE)
    # <s, a_r> is +1 for the first unit, -1 for the second: the first falls by b_minus, the second by b_plus.
    step = torch.zeros(2, 1, dtype=DOUBLE)
    step[1 if above else 0] = 1e-2
    step[:] = -step if activation in ("elu",) else step

    def slack(safety: float) -> float:
        ((block,),) = TwoLayerCurvature(safety=safety).round(net, x, slopes, reach=1.0).balls
        assert block.matrices is not None
        q = float((step * (block.matrices @ step[:, :, None]).squeeze(2)).sum())
        return float(departure(net, x, slopes, step)) + q

    assert slack(1.0) >= -1e-15
    assert slack(0.95) < -1e-8


def test_squared_relu_round_with_too_small_a_constant_is_violated() -> None:
    """The end-to-end form: the lower model of a real round, against networks found by descent."""
    net = network("relu2", width=8)
    x, y = examples("binary", count=1)
    proved, initial = one_round(net, x, y, x, LOSSES["hinge"], curvature=TwoLayerCurvature())
    copies = Copies(net, initial, x, y, LOSSES["hinge"])
    short, _ = one_round(net, x, y, x, LOSSES["hinge"], curvature=TwoLayerCurvature(safety=0.95))
    assert proved.lower is not None
    assert short.lower is not None
    assert hunted_slack(copies, proved.lower, 0, climbing=32, steps=100) >= -ROUNDING
    assert hunted_slack(copies, short.lower, 0, climbing=32, steps=100) < -1e-4


def test_relu_bound_needs_its_slack() -> None:
    """Without the slack k the quadratic alone is violated by small moves across the kink."""
    net = network("relu", width=16)
    x, y = examples("binary")
    window, initial = one_round(net, x, y, x, CrossEntropy(), distance=1.0)
    assert window.lower is not None
    # phi(W_t) = b_t, so the lower model at the anchor is b_t - k.
    draw = draws(7)
    step = normal(draw, *initial["weight"].shape)
    anchor = [(step / step.norm())[None]]
    copies = Copies(net, initial, x, y, CrossEntropy())
    k = float(copies.loss_at(anchor) - lower_at(window.lower, anchor))
    assert k > 1e-4
    raised = type(window.lower)(constant=window.lower.constant + k, balls=window.lower.balls)
    assert hunted_slack(copies, raised, 0, climbing=24, steps=100) < -1e-6


def test_lower_model_touches_the_loss_at_its_own_weights() -> None:
    for shape in SHAPES:
        net = network("softplus", shape)
        x, y = examples(shape)
        window, initial = one_round(net, x, y, x, CrossEntropy(), distance=2.0)
        moved = [(net.weight.detach() - initial["weight"])[None]]
        phi = Copies(net, initial, x, y, CrossEntropy()).loss_at(moved)
        assert window.lower is not None
        torch.testing.assert_close(lower_at(window.lower, moved), phi, rtol=1e-12, atol=1e-13)
        assert window.online_loss == pytest.approx(float(phi), rel=1e-12)


def test_hinge_ties_at_the_start_take_the_gradients_own_subgradient() -> None:
    """Paired initialisation makes all outputs 0: autograd splits the slope among the tied classes, and so must the curvature."""
    net = network("softplus", "signed", width=12)
    x, y = examples("signed", count=3)
    window, _ = one_round(net, x, y, x, Hinge())
    assert window.lower is not None
    block = window.lower.balls[0][0]
    assert block.matrices is not None
    pulled = block.linear.reshape(6, -1).norm(dim=1) > 0
    curved = block.matrices.flatten(1).norm(dim=1) > 0
    # A unit of output +e_c with s_c > 0 is pulled but not curved; of each pair one at least is.
    assert torch.equal(pulled, torch.ones_like(pulled))
    assert torch.equal(curved[0::2] | curved[1::2], torch.ones(3, dtype=torch.bool))
    copies = Copies(net, {"weight": net.weight.detach()}, x, y, Hinge())
    assert hunted_slack(copies, window.lower, 0, climbing=32, steps=120) >= -ROUNDING


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_example_at_the_origin_keeps_the_relu_bound_finite(dtype: torch.dtype) -> None:
    net = TwoLayer(3, 2, 4096, "relu").to(dtype)
    x = torch.zeros(2, 3, dtype=dtype)
    x[1] = 1.0
    y = torch.tensor([0, 1])
    recorder = TraceRecorder(
        net, x, y, LpBall("2", 0.0), CrossEntropy(), curvature=TwoLayerCurvature(), radius=1.0
    )
    recorder.open()
    outputs = net(x)
    CrossEntropy()(outputs, y).mean().backward()
    recorder.record(torch.arange(2), x, outputs.detach(), round_size=2)
    window = recorder.close()
    assert window.void == ""
    assert 0.0 <= window.lower_bound < 0.6932


def test_kink_widths_are_positive_and_near_the_best() -> None:
    draw = draws(3)
    magnitudes, norms = normal(draw, 20, 400).abs(), torch.ones(20, dtype=DOUBLE)
    for reach in (0.1, 1.0, 10.0):
        tau = kink_widths(magnitudes, norms, reach)

        def cost(tau: Tensor, reach: float = reach) -> Tensor:
            return (0.8 * reach) ** 2 / (4 * tau) + (tau[:, None] - magnitudes).clamp_min(0).sum(1)

        grid = torch.stack([cost(torch.full_like(norms, t)) for t in torch.logspace(-4, 2, 400).tolist()])
        assert bool((tau > 0).all())
        assert bool((cost(tau) <= 1.25 * grid.amin(0)).all())


def test_weighted_grams_are_weighted_sums_of_outer_products() -> None:
    draw = draws(0)
    z, weights = normal(draw, 5, 3), torch.rand(2, 5, dtype=DOUBLE, generator=draw)
    by_hand = sum(weights[:, i, None, None] * torch.outer(z[i], z[i]) for i in range(5))
    torch.testing.assert_close(weighted_grams(z, weights), by_hand)


# Which networks are given a proof at all.


def test_rigorous_only_where_there_is_a_proof() -> None:
    for name in ACTIVATIONS:
        curvature, reason = curvature_for(network(name))
        assert curvature.rigorous, name
        assert reason.startswith("proved:")
    for name in (*KINKED, "relu2"):
        curvature, reason = curvature_for(network(name, train_output=True))
        assert not curvature.rigorous
        assert name in reason
    assert curvature_for(network("softplus", train_output=True))[0].rigorous
    assert not curvature_for(nn.Linear(2, 2))[0].rigorous
    frozen = network("softplus")
    frozen.weight.requires_grad_(False)
    assert not curvature_for(frozen)[0].rigorous


def test_a_subclass_gets_no_proof() -> None:
    class Sharper(TwoLayer):
        def forward(self, x: Tensor) -> Tensor:
            return 100 * super().forward(x)

    curvature, reason = curvature_for(Sharper(3, 2, 8))
    assert not curvature.rigorous
    assert "Sharper" in reason


def selu() -> Activation:
    return Activation(
        name="selu",
        value=nn.functional.selu,
        slope=lambda x: torch.where(x > 0, 1.0507, 1.7581 * x.exp()),
        lipschitz=1.7581,
        curvature_above=math.inf,
        curvature_below=math.inf,
        kink=-0.7074,
    )


@pytest.mark.parametrize("kink", [-0.7074, 0.7, 0.0])
def test_activations_with_unknown_curvature_get_no_proof(kink: float) -> None:
    """SELU's kink is concave; a convex kink with curvature beside it is not covered either; nor are unbounded derivatives."""
    base = selu()
    activation = Activation(
        name="bent",
        value=base.value,
        slope=base.slope,
        lipschitz=base.lipschitz,
        curvature_above=math.inf,
        curvature_below=0.0 if kink > 0 else math.inf,
        kink=kink,
    )
    curvature, reason = curvature_for(TwoLayer(3, 2, 8, activation))
    assert not curvature.rigorous
    assert "bent" in reason


def test_estimate_takes_curvature_as_zero_and_one_ball_a_layer() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    curvature = LocalLinearity()
    assert curvature.parameters(model) == (("0.weight", "0.bias"), ("2.weight", "2.bias"))
    round_ = curvature.round(model, torch.zeros(2, 3), torch.zeros(2, 2), reach=1.0)
    assert round_.slack is None
    assert all(block.matrices is None and block.eigenvalue is None for ball in round_.balls for block in ball)


@pytest.mark.parametrize("theta", [0.0, -1.0, math.nan])
def test_theta_must_be_positive(theta: float) -> None:
    with pytest.raises(InputError, match="theta"):
        TwoLayerCurvature(theta=theta)


def test_only_two_layer_networks_are_accepted() -> None:
    with pytest.raises(InputError, match="Linear"):
        TwoLayerCurvature().parameters(nn.Linear(2, 2))
