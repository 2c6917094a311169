"""The certificate end to end: never above what any network of the ball reaches, equal to the optimum where that is known."""

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from certificate_cases import (
    DOUBLE,
    LOSSES,
    Copies,
    draws,
    examples,
    hunted_slack,
    lower_at,
    move,
    network,
    normal,
    one_round,
    random_moves,
    record_round,
)
from holdfast.attacks import PGD, Attack
from holdfast.attacks.base import Goal
from holdfast.certificates import (
    Certificate,
    FrozenPass,
    attacked_points,
    certify,
    certify_trace,
    frozen_pass,
)
from holdfast.certificates.certificate import LowerBound
from holdfast.certificates.convergence import conclude
from holdfast.certificates.frozen import pass_candidate
from holdfast.curvature import LocalLinearity
from holdfast.errors import InputError
from holdfast.families import TwoLayerCurvature
from holdfast.families.exact import fingerprints, fixed_parts
from holdfast.families.two_layer.anchors import Anchor, Duals
from holdfast.families.two_layer.family import anchors_of
from holdfast.families.two_layer.tightening import best_anchor, evaluate, tighten
from holdfast.losses import CrossEntropy, Loss
from holdfast.networks import Dense, TwoLayer
from holdfast.threats import LpBall, Threat
from holdfast.trace import Evaluated, Trace, TraceRecorder

THREAT = LpBall("2", 0.2)
ATTACK = PGD(steps=6)


@dataclass(frozen=True)
class Linear(Attack):
    """The exact adversary of a linear network: the linear maximiser of its input gradient."""

    name = "linear"

    def search(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        goal: Goal,
        generator: torch.Generator,
    ) -> Tensor:
        points = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(goal.value(model(points), y).sum(), points)
        return threat.maximise(gradient, x)


@dataclass(frozen=True)
class Beyond(Attack):
    """An attack that leaves the threat set, by getting round the final projection."""

    name = "beyond"

    def search(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        goal: Goal,
        generator: torch.Generator,
    ) -> Tensor:
        return x

    def points(self, model, x, y, threat, *, generator, loss, mode="eval"):  # type: ignore[no-untyped-def]
        return x + 1.0


def project(net: TwoLayer, start: Tensor, radius: float) -> None:
    with torch.no_grad():
        step = net.weight - start
        net.weight.copy_(start + step * min(1.0, radius * (1 - 1e-9) / max(float(step.norm()), 1e-300)))


def trained(
    net: TwoLayer, x: Tensor, y: Tensor, loss: Loss, radius: float, *, steps: int = 25, rate: float = 1.0
) -> Tensor:
    """Projected gradient descent under attack; returns W0."""
    start = net.weight.detach().clone()
    noise = draws(0)
    for _ in range(steps):
        points = ATTACK.points(net, x, y, THREAT, generator=noise, loss=loss)
        net.zero_grad(set_to_none=True)
        loss(net(points), y).mean().backward()
        assert net.weight.grad is not None
        with torch.no_grad():
            net.weight -= rate * net.weight.grad
        project(net, start, radius)
    return start


def best_in_ball(
    copies: Copies, radius: float, draw: torch.Generator, *, starts: int = 6, steps: int = 80
) -> float:
    """Smallest loss at fixed points that projected descent finds in the ball, from many starts at once."""
    (u,) = random_moves(copies.start, starts, draw, low=0.1 * radius, high=radius)
    u[0] = 0.0
    u.requires_grad_()
    rate, best = 4.0 * 0.1 ** (torch.arange(starts, dtype=DOUBLE) % 3), math.inf
    for _ in range(steps):
        values = copies.loss_at([u])
        best = min(best, float(values.detach().min()))
        (gradient,) = torch.autograd.grad(values.sum(), u)
        with torch.no_grad():
            u -= rate[:, None, None] * gradient
            u *= (radius / u.flatten(1).norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)[:, None, None]
    return best


def case(
    activation: str,
    shape: str = "binary",
    *,
    loss: Loss | None = None,
    radius: float = 2.0,
    width: int = 24,
    count: int = 10,
    seed: int = 0,
) -> tuple[TwoLayer, Tensor, Tensor, Tensor, Loss]:
    loss = CrossEntropy() if loss is None else loss
    net = network(activation, shape, width=width, seed=seed)
    x, y = examples(shape, count=count, seed=seed)
    start = trained(net, x, y, loss, radius)
    return net, start, x, y, loss


def certified(
    net: TwoLayer, start: Tensor, x: Tensor, y: Tensor, radius: float, **more: object
) -> Certificate:
    return certify(net, {"weight": start}, x, y, THREAT, ATTACK, radius, **more)  # type: ignore[arg-type]


def frozen(
    net: TwoLayer, start: Tensor, x: Tensor, y: Tensor, loss: Loss, weights: Tensor | None = None
) -> FrozenPass:
    points = attacked_points(net, x, y, THREAT, ATTACK, loss, seed=0, batch_size=512)
    return frozen_pass(
        net,
        {"weight": start},
        points,
        THREAT,
        loss,
        TwoLayerCurvature(),
        weights_name="the pass",
        example_weights=weights,
    )


# The bound against every network of the ball.


NETWORKS = [
    ("softplus", "binary", "cross-entropy"),
    ("softplus", "dense", "smoothed"),
    ("relu", "binary", "hinge"),
    ("relu", "signed", "cross-entropy"),
    ("leaky-relu", "binary", "huber"),
    ("relu2", "binary", "cross-entropy"),
    ("gelu", "signed", "squared"),
    ("tanh", "binary", "squared"),
    ("erf", "signed", "hinge"),
    ("silu", "dense", "huber"),
    ("elu", "binary", "smoothed"),
    ("sigmoid", "signed", "huber"),
]
# Only these have a curvature known unit by unit.
PER_UNIT = ("softplus", "relu", "leaky-relu")


@pytest.mark.parametrize(
    ("activation", "shape", "loss", "per_unit"),
    [(*row, False) for row in NETWORKS] + [(*row, True) for row in NETWORKS if row[0] in PER_UNIT],
)
def test_lower_bound_is_below_every_network_of_the_ball(
    activation: str, shape: str, loss: str, per_unit: bool
) -> None:
    net, start, x, y, used = case(activation, shape, loss=LOSSES[loss])
    found = certified(net, start, x, y, 2.0, loss=used, per_unit=per_unit, tighten=15)
    assert found.status == "certified"
    assert found.lower_bound <= found.surrogate_loss
    if found.informative:
        assert found.gap == pytest.approx(max(0.0, found.surrogate_loss - found.lower_bound))
    else:
        assert found.lower_bound == found.floor
    # The loss at the fixed attacked points is below the robust loss, and the bound must be below even that.
    passed = frozen(net, start, x, y, used)
    copies = Copies(net, {"weight": start}, passed.points.points, y, used)
    assert found.surrogate_loss == pytest.approx(passed.surrogate_loss, rel=1e-10)
    assert found.lower_bound <= best_in_ball(copies, 2.0, draws(0))
    sampled = copies.loss_at(random_moves(copies.start, 300, draws(5), low=1e-3, high=2.0))
    assert found.lower_bound <= float(sampled.min())


def test_other_trainings_under_attack_do_not_get_below_the_bound() -> None:
    """PGD-trained rivals, scored at the union of strong attacks: their robust loss is at least that."""
    net, start, x, y, loss = case("softplus", radius=3.0)
    found = certified(net, start, x, y, 3.0)
    strong = PGD(steps=20, restarts=2, keep_best=True)
    for seed in range(2):
        rival = copy.deepcopy(net)
        with torch.no_grad():
            rival.weight.copy_(start + normal(draws(seed), *start.shape) * 0.2)
        project(rival, start, 3.0)
        noise = draws(seed)
        for _ in range(40):
            points = ATTACK.points(rival, x, y, THREAT, generator=noise, loss=loss)
            rival.zero_grad(set_to_none=True)
            loss(rival(points), y).mean().backward()
            assert rival.weight.grad is not None
            with torch.no_grad():
                rival.weight -= 2.0 * rival.weight.grad
            project(rival, start, 3.0)
        assert float(strong.run(rival, x, y, THREAT, loss=loss, seed=seed).loss.mean()) >= found.lower_bound


def test_wide_softplus_network_at_a_small_radius_leaves_no_gap() -> None:
    net, start, x, y, _ = case("softplus", radius=0.5, width=2000)
    for _ in range(3):
        net_start = start
        with torch.no_grad():
            direction = net.weight - net_start
            net.weight.copy_(net_start + direction * (0.5 * (1 - 1e-9) / float(direction.norm())))
    found = certified(net, start, x, y, 0.5)
    assert found.gap < 2e-3
    assert found.lower_bound > 0.1


# The linear model: the optimum is known.


def linear_optimum(
    x: Tensor, y: Tensor, constant: float, norm: float, epsilon: float, radius: float
) -> tuple[float, np.ndarray]:
    """Robust logistic regression over ``||w|| <= R`` by SLSQP: ``sup`` over the ball is ``epsilon`` times the dual norm."""
    z = np.concatenate([x.numpy(), np.full((len(x), 1), constant)], 1)
    sign = 2.0 * y.numpy() - 1

    def objective(w: np.ndarray) -> float:
        dual = np.linalg.norm(w[:-1], 2 if norm == 2 else 1)
        return float(np.logaddexp(0.0, -(sign * (z @ w) - epsilon * dual)).mean())

    best, at = math.inf, np.zeros(z.shape[1])
    for seed in range(8):
        w = np.random.default_rng(seed).standard_normal(z.shape[1])
        found = minimize(
            objective,
            w,
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda w: radius**2 - w @ w},
            options={"maxiter": 500, "ftol": 1e-13},
        )
        w = found.x * min(1.0, radius / np.linalg.norm(found.x))
        if objective(w) < best:
            best, at = objective(w), w
    return best, at


@pytest.mark.parametrize("radius", [0.5, 2.0, 50.0])
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_linear_network_is_certified_to_the_optimum(norm: str, radius: float) -> None:
    """``f = <w, z>`` with ``w = m^(-1/2) sum_r a_r w_r``: the ball of W is the ball of w, and curvature is 0."""
    epsilon = 0.3 if norm == "2" else 0.05
    threat = LpBall(norm, epsilon)
    net = network("identity", width=8)
    x, y = examples("binary", count=24, seed=3)
    x = x + 0.8 * normal(draws(9), *x.shape)
    optimum, w = linear_optimum(x, y, 0.5, 2 if norm == "2" else math.inf, epsilon, radius)
    assert (
        np.abs(w[:-1]).min() > 0.02
    )  # away from the kinks of the dual norm the adversary's answer is the saddle's
    start = net.weight.detach().clone()
    with torch.no_grad():
        net.weight += net.output_weight @ torch.from_numpy(w)[None] / math.sqrt(8) * (1 - 1e-9)
    found = certify(net, {"weight": start}, x, y, threat, Linear(), radius, tighten=1)
    assert found.status == "certified"
    assert found.max_eigenvalue == 0
    assert found.lower_bound <= optimum + 1e-7
    # The attacked points are shrunk by 1e-5 of the radius; SLSQP is good to about 1e-6.
    assert found.lower_bound == pytest.approx(optimum, abs=2e-4 if radius < 50 else 2e-2)
    assert found.surrogate_loss == pytest.approx(optimum, abs=1e-4)
    if radius < 50:
        assert found.gap < 3e-4


def anchors_at(passed: FrozenPass, reach: float, *, per_unit: bool) -> Callable[[float], Anchor]:
    return anchors_of(passed.core.network, passed.given(passed.core), reach, per_unit=per_unit)


def test_linear_window_of_a_frozen_pass_equals_the_anchors() -> None:
    """Two routes: the recorder's sums and the anchors' formula, at the pass's own weights."""
    for activation in ("identity", "softplus", "relu", "relu2", "gelu"):
        net, start, x, y, loss = case(activation, "signed", loss=LOSSES["smoothed"])
        passed = frozen(net, start, x, y, loss)
        anchor = anchors_at(passed, 2.0, per_unit=False)(1.0)
        direct = anchor.lower_model(anchor.start(passed.outputs))
        recorder = TraceRecorder(
            passed.model, passed.points.x, y, THREAT, loss, curvature=TwoLayerCurvature(), radius=2.0
        )
        recorder.initial = dict(passed.initial)
        recorder.open()
        record_round(recorder, torch.arange(len(y)), passed.points.points)
        window = recorder.close()
        assert window.lower is not None
        moves = random_moves([start], 30, draws(1))
        torch.testing.assert_close(
            lower_at(direct, moves), lower_at(window.lower, moves), rtol=1e-10, atol=1e-11
        )


# Anchors and tightening.


def anchored(
    activation: str, shape: str, loss: str, *, theta: float, per_unit: bool
) -> tuple[Anchor, FrozenPass, Copies]:
    net, start, x, y, used = case(activation, shape, loss=LOSSES[loss], count=7)
    passed = frozen(net, start, x, y, used)
    copies = Copies(net, {"weight": start}, passed.points.points, y, used)
    return anchors_at(passed, 2.0, per_unit=per_unit)(theta), passed, copies


def random_duals(anchor: Anchor, outputs: Tensor, draw: torch.Generator, spread: float) -> Duals:
    """Any outputs and any half-widths are allowed."""
    first = anchor.start(outputs)
    h = first.h + spread * normal(draw, *first.h.shape)
    return Duals(
        h=h, tau=None if first.tau is None else first.tau * (spread * normal(draw, *first.tau.shape)).exp()
    )


ANCHORS = [
    ("softplus", "binary", "cross-entropy", False),
    ("softplus", "signed", "huber", True),
    ("relu", "binary", "squared", False),
    ("relu", "signed", "smoothed", True),
    ("leaky-relu", "signed", "hinge", True),
    ("relu2", "dense", "cross-entropy", False),
    ("gelu", "signed", "squared", False),
]


@pytest.mark.parametrize(("activation", "shape", "loss", "per_unit"), ANCHORS)
@pytest.mark.parametrize("theta", [0.0, 0.25, 0.5, 1.0])
def test_any_anchor_with_any_duals_is_below_the_loss(
    activation: str, shape: str, loss: str, per_unit: bool, theta: float
) -> None:
    anchor, passed, copies = anchored(activation, shape, loss, theta=theta, per_unit=per_unit)
    draw = draws(11)
    for spread in (0.0, 1.0, 3.0):
        lower = anchor.lower_model(random_duals(anchor, passed.outputs, draw, spread))
        assert hunted_slack(copies, lower, 2, climbing=6, steps=20) >= -1e-12


@pytest.mark.parametrize(("activation", "shape", "loss", "per_unit"), ANCHORS)
def test_value_through_the_response_equals_the_lower_model(
    activation: str, shape: str, loss: str, per_unit: bool
) -> None:
    anchor, passed, _ = anchored(activation, shape, loss, theta=0.7, per_unit=per_unit)
    draw = draws(3)
    for spread in (0.0, 1.0):
        duals = random_duals(anchor, passed.outputs, draw, spread)
        lower = anchor.lower_model(duals)
        for u in random_moves([anchor.move], 6, draw, high=10.0)[0]:
            response = anchor.response(u - anchor.move, duals.tau)
            assert float(anchor.value(duals, response)) == pytest.approx(
                lower.value(((u,),)), rel=1e-9, abs=1e-10
            )


@pytest.mark.parametrize(
    ("activation", "shape", "loss", "per_unit"), [row for row in ANCHORS if row[2] != "hinge"]
)
def test_gradient_of_the_bound_against_differences(
    activation: str, shape: str, loss: str, per_unit: bool
) -> None:
    """Danskin: the bound's gradient in ``h`` and ``log tau`` is the lower model's at its own minimiser."""
    anchor, passed, _ = anchored(activation, shape, loss, theta=0.5, per_unit=per_unit)
    duals = random_duals(anchor, passed.outputs, draws(4), 0.3)
    found = evaluate(anchor, duals, 2.0)
    (minimum,) = found.bound.minima
    assert minimum.multiplier > minimum.max_eigenvalue * (1 + 1e-6)
    step = found.lower.balls[0][0].minimiser(minimum.multiplier) - anchor.move
    leaves = [duals.h.clone().requires_grad_()]
    if duals.tau is not None:
        leaves.append(duals.tau.log().requires_grad_())
    value = anchor.value(
        Duals(h=leaves[0], tau=leaves[1].exp() if duals.tau is not None else None),
        anchor.response(step, duals.tau),
    )
    assert float(value.detach()) == pytest.approx(found.bound.value, abs=1e-8)
    gradients = torch.autograd.grad(value, leaves)

    def bound(shift: list[Tensor]) -> float:
        h = duals.h + shift[0]
        tau = None if duals.tau is None else duals.tau * shift[1].exp()
        return evaluate(anchor, Duals(h=h, tau=tau), 2.0).bound.value

    draw = draws(8)
    for _ in range(3):
        direction = [normal(draw, *leaf.shape) for leaf in leaves]
        slope = (bound([1e-5 * d for d in direction]) - bound([-1e-5 * d for d in direction])) / 2e-5
        expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert slope == pytest.approx(expected, rel=2e-3, abs=2e-6)


@pytest.mark.parametrize(("activation", "shape", "loss", "per_unit"), ANCHORS)
def test_tightening_never_lowers_the_bound_and_stays_valid(
    activation: str, shape: str, loss: str, per_unit: bool
) -> None:
    anchor, passed, copies = anchored(activation, shape, loss, theta=1.0, per_unit=per_unit)
    first = tighten(anchor, anchor.start(passed.outputs), 2.0, evaluations=1)
    values = [first.bound.value]
    for evaluations in (5, 20):
        found = tighten(anchor, anchor.start(passed.outputs), 2.0, evaluations=evaluations)
        values.append(found.bound.value)
        assert hunted_slack(copies, found.lower, 2, climbing=6, steps=20) >= -1e-12
        assert found.bound.value <= best_in_ball(copies, 2.0, draws(0), steps=60)
    assert values == sorted(values)


def test_tightening_does_raise_the_bound() -> None:
    net, start, x, y, _ = case("relu", radius=3.0)
    plain, raised = (certified(net, start, x, y, 3.0, tighten=k) for k in (1, 40))
    assert raised.lower_bound > plain.lower_bound + 1e-3
    own = certified(net, start, x, y, 3.0, tighten=40, per_unit=True)
    assert own.lower_bound > raised.lower_bound


def test_search_for_the_anchor_never_ends_below_its_start() -> None:
    net, start, x, y, loss = case("softplus", radius=4.0)
    passed = frozen(net, start, x, y, loss)
    at = anchors_at(passed, 4.0, per_unit=False)
    own, nearer = (evaluate(at(theta), Duals(h=passed.outputs), 4.0).bound.value for theta in (1.0, 0.85))
    assert best_anchor(at, passed.outputs, 4.0, 1).bound.value == own
    assert best_anchor(at, passed.outputs, 4.0, 30).bound.value >= max(own, nearer)


# Radii, traces, passes.


def test_bounds_fall_with_the_radius() -> None:
    net, start, x, y, _ = case("softplus", radius=1.0)
    bounds = [certified(net, start, x, y, radius, tighten=1).lower_bound for radius in (1.0, 2.0, 4.0, 8.0)]
    assert bounds == sorted(bounds, reverse=True)


def test_trace_without_windows_is_the_frozen_pass() -> None:
    net, start, x, y, loss = case("softplus")
    passed = frozen(net, start, x, y, loss)
    trace = Trace(
        names=(("weight",),),
        initial={"weight": start},
        windows=(),
        rigorous=True,
        reason="a proof",
        fixed=fingerprints(fixed_parts(net, ("weight",))),
    )
    from_trace = certify_trace(trace, passed, 2.0, evaluations=10)
    alone = certified(net, start, x, y, 2.0, tighten=10)
    assert from_trace.lower_bound == alone.lower_bound
    assert from_trace.surrogate_loss == alone.surrogate_loss
    assert from_trace.drift == alone.drift


def test_windows_compete_with_the_pass_and_void_ones_void_all() -> None:
    net, start, x, y, loss = case("softplus")
    passed = frozen(net, start, x, y, loss)
    window, _ = one_round(network("softplus", width=24), x, y, x, loss, radius=2.0)
    trace = Trace(
        names=(("weight",),),
        initial={"weight": start},
        windows=(window,),
        rigorous=True,
        reason="a proof",
        fixed=fingerprints(fixed_parts(net, ("weight",))),
    )
    plain = certify_trace(trace, passed, 2.0, evaluations=1)
    assert plain.lower_bound >= window.lower_bound
    assert window.lower is not None
    lift = (plain.lower_bound + plain.surrogate_loss) / 2 - window.bound_at(2.0)
    better = dataclasses.replace(
        window, lower=dataclasses.replace(window.lower, constant=lift + window.lower.constant)
    )
    raised = certify_trace(dataclasses.replace(trace, windows=(window, better)), passed, 2.0, evaluations=1)
    assert raised.lower_bound == better.bound_at(2.0)
    assert raised.source == "rounds 1 to 1"
    broken = dataclasses.replace(window, void="dropout", lower=None)
    void = certify_trace(dataclasses.replace(trace, windows=(window, broken)), passed, 2.0, evaluations=1)
    assert void.status == "void"
    assert "dropout" in void.reason
    assert math.isnan(void.gap)


def test_best_of_several_passes_in_the_ball_is_the_surrogate_loss() -> None:
    bound = LowerBound(value=0.1, source="", width_factor=1.0, max_eigenvalue=1.0, slope=1.0)
    passes = [
        Evaluated(weights="far", surrogate_loss=0.15, allowance=0.0, distance=(3.0,)),
        Evaluated(weights="near", surrogate_loss=0.4, allowance=0.01, distance=(1.0,)),
        Evaluated(weights="nearer", surrogate_loss=0.3, allowance=0.02, distance=(0.5,)),
    ]
    found = conclude([bound], passes, 2.0, rigorous=True, reason="")
    assert found.surrogate_loss == pytest.approx(0.32)
    assert found.gap == pytest.approx(0.22)
    assert found.drift == (0.5,)
    assert found.weights == "nearer"
    assert conclude([bound], passes, 3.0, rigorous=True, reason="").surrogate_loss == 0.15
    assert conclude([], passes, 3.0, rigorous=True, reason="").status == "void"


def test_a_bound_above_the_loss_by_rounding_gives_gap_zero() -> None:
    bound = LowerBound(value=0.3, source="", width_factor=1.0, max_eigenvalue=1.0, slope=1.0)
    passed = Evaluated(weights="", surrogate_loss=0.2999, allowance=0.0, distance=(1.0,))
    assert conclude([bound], [passed], 2.0, rigorous=True, reason="").gap == 0.0


def test_weights_outside_the_ball_are_void_with_the_radius_that_would_do() -> None:
    net, start, x, y, _ = case("softplus", radius=2.0)
    distance = float((net.weight.detach() - start).norm())
    found = certified(net, start, x, y, 0.5 * distance)
    assert found.status == "void"
    assert "outside the ball" in found.reason
    asked = float(found.reason.rsplit(" ", 1)[1])
    assert distance < asked < distance * 1.0001
    assert certified(net, start, x, y, asked, tighten=1).status == "certified"
    assert certified(net, start, x, y, distance * (1 + 1e-9), tighten=1).status == "certified"
    assert certified(net, start, x, y, distance * (1 - 1e-9), tighten=1).status == "void"


def test_example_weights_are_those_of_the_claim() -> None:
    net, start, x, y, loss = case("softplus")
    weights = torch.rand(len(y), dtype=DOUBLE, generator=draws(0))
    weights /= weights.sum()
    found = certified(net, start, x, y, 2.0, example_weights=weights, tighten=10)
    passed = frozen(net, start, x, y, loss)
    copies = Copies(net, {"weight": start}, passed.points.points, y, loss, weights)
    assert found.surrogate_loss == pytest.approx(
        float(copies.loss_at([(net.weight.detach() - start)[None]])), rel=1e-10
    )
    assert found.lower_bound <= best_in_ball(copies, 2.0, draws(1))


def test_trained_outputs_are_certified_in_their_joint_ball() -> None:
    net = network("tanh", "signed", width=12, train_output=True)
    x, y = examples("signed")
    initial = {name: p.detach().clone() for name, p in net.named_parameters()}
    move(net, initial, 1.0, draws(0))
    found = certify(net, initial, x, y, THREAT, ATTACK, 1.5)
    assert found.status == "certified"
    assert found.drift == (pytest.approx(1.0),)
    points = attacked_points(net, x, y, THREAT, ATTACK, CrossEntropy(), seed=0, batch_size=512)
    copies = Copies(net, initial, points.points, y, CrossEntropy())
    assert found.lower_bound <= float(
        copies.loss_at(random_moves(copies.start, 500, draws(1), low=0.1, high=1.5)).min()
    )


def test_certify_leaves_the_network_alone() -> None:
    net, start, x, y, _ = case("softplus")
    net = net.float().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradient = torch.ones_like(net.weight)
    net.weight.grad = gradient.clone()
    certified(net, start.float(), x.float(), y, 2.5, tighten=1)
    assert all(
        torch.equal(value, before[name]) and value.dtype == before[name].dtype
        for name, value in net.state_dict().items()
    )
    assert net.weight.grad is not None
    assert torch.equal(net.weight.grad, gradient)
    assert net.training
    assert net.weight.requires_grad


def test_points_in_float32_at_the_edge_of_a_box_are_inside_in_float64() -> None:
    net = network("softplus").float()
    threat = LpBall("inf", 0.3, bounds=(0.1, 0.7))
    x, y = examples("binary", count=20)
    x = x.float().sigmoid() * 0.59 + 0.105
    found = certify(net, net, x, y, threat, ATTACK, 1.0, tighten=1)
    assert found.status == "certified"


# Void.


@dataclass(frozen=True)
class Focal(CrossEntropy):
    convex = False


def test_loss_that_is_not_convex_is_void() -> None:
    net, start, x, y, _ = case("softplus")
    found = certified(net, start, x, y, 2.0, loss=Focal())
    assert found.status == "void"
    assert "convex" in found.reason


def test_attack_that_leaves_the_threat_set_is_void() -> None:
    net, start, x, y, _ = case("softplus")
    found = certify(net, {"weight": start}, x, y, THREAT, Beyond(), 2.0)
    assert found.status == "void"
    assert f"{len(y)} of {len(y)} attacked points lie outside" in found.reason


# Estimates.


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh()


class Wrapped(TwoLayer):
    """Not the network its attributes describe."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh() * 5


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "deep relu": lambda: Dense(3, 2, 16, 3, "relu"),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    ),
    "custom": Custom,
    "subclass": lambda: Wrapped(3, 2, 8),
    "trained kinks": lambda: network("relu", train_output=True),
    "frozen batch norm": lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_get_estimates_only(name: str) -> None:
    torch.manual_seed(0)
    net = OTHERS[name]().double()
    x, y = examples("binary")
    initial = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    CrossEntropy()(net(x), y).mean().backward()
    optimizer.step()
    found = certify(net, initial, x, y, THREAT, ATTACK, 3.0)
    assert found.status == "estimate", found.reason
    assert "linear" in found.reason or "bound" in found.reason
    assert found.lower_bound >= found.floor == 0
    assert math.isnan(found.gap) == (not found.informative)


def test_a_two_layer_network_treated_as_linear_is_an_estimate() -> None:
    net, start, x, y, _ = case("softplus")
    found = certified(net, start, x, y, 2.0, curvature=LocalLinearity())
    assert found.status == "estimate"
    assert not found.reason.startswith("proved")


def test_random_networks_are_void() -> None:
    class Noisy(Custom):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(len(x), 1, dtype=x.dtype)

    net = Noisy().double()
    x, y = examples("binary")
    found = certify(net, net, x, y, THREAT, ATTACK, 1.0)
    assert found.status == "void"
    assert "randomness" in found.reason


# Input.


def test_input_errors_name_the_remedy() -> None:
    net, start, x, y, _ = case("softplus")
    for radius in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="radius"):
            certified(net, start, x, y, radius)
    with pytest.raises(InputError, match="initial"):
        certify(net, {}, x, y, THREAT, ATTACK, 2.0)
    with pytest.raises(InputError, match="initial"):
        certify(net, {"weight": start[:4]}, x, y, THREAT, ATTACK, 2.0)
    with pytest.raises(InputError, match="example_weights"):
        certified(net, start, x, y, 2.0, example_weights=torch.ones(3, dtype=DOUBLE))
    with pytest.raises(InputError, match="example_weights"):
        certified(net, start, x, y, 2.0, example_weights=torch.linspace(-1, 1, len(y), dtype=DOUBLE))
    with pytest.raises(InputError, match="labels"):
        certified(net, start, x, y + 1, 2.0)
    with pytest.raises(InputError, match="finite"):
        certified(net, start, x / 0, y, 2.0)
    with pytest.raises(InputError, match="one label per example"):
        certified(net, start, x, y[:-1], 2.0)


def test_linearisation_error_is_zero_for_a_linear_network() -> None:
    net, start, x, y, _ = case("identity")
    assert certified(net, start, x, y, 2.0, tighten=1).linearisation_error == pytest.approx(0.0, abs=1e-13)
    net, start, x, y, _ = case("relu2")
    assert certified(net, start, x, y, 2.0, tighten=1).linearisation_error > 1e-3


def test_source_of_a_pass_tells_where_the_bound_came_from() -> None:
    net, start, x, y, loss = case("softplus")
    candidate = pass_candidate(frozen(net, start, x, y, loss), 2.0, evaluations=1)
    assert candidate.source.startswith("a pass at the pass, as it stands")


def test_bounds_at_other_radii_fall_and_hold_what_certifying_there_finds() -> None:
    net, start, x, y, _ = case("softplus", radius=1.0)
    found = certified(net, start, x, y, 2.0, tighten=10)
    radii, bounds = zip(*found.at_radii, strict=True)
    assert radii == tuple(sorted(radii))
    assert radii[-1] == 4.0
    assert bounds == tuple(sorted(bounds, reverse=True))
    assert dict(found.at_radii)[2.0] == found.lower_bound
    for radius, bound in found.at_radii[-7:]:  # the weights lie outside the smaller balls
        # tightened for that radius from the same pass it is no lower, up to where the search stops
        assert certified(net, start, x, y, radius, tighten=40).lower_bound >= bound - 2e-3


def test_trace_and_pass_of_different_starts_are_refused() -> None:
    net, start, x, y, loss = case("softplus")
    trace = Trace(
        names=(("weight",),),
        initial={"weight": start + 1e-9},
        windows=(),
        rigorous=True,
        reason="a proof",
        fixed=fingerprints(fixed_parts(net, ("weight",))),
    )
    with pytest.raises(InputError, match="same weights"):
        certify_trace(trace, frozen(net, start, x, y, loss), 2.0, evaluations=1)


def test_tightened_slopes_count_in_the_allowance() -> None:
    """Beyond the margin the hinge's own slopes are 0; the tightened outputs' are not, and neither is their rounding."""
    net, start, x, y, _ = case("softplus", loss=LOSSES["hinge"])
    passed = frozen(net, start, x, y, LOSSES["hinge"])
    signs = (2 * y - 1).double()[:, None]
    assert passed.rounding_at(2 * signs).slope == 0
    assert passed.rounding_at(0 * signs).slope == pytest.approx(1.0)
    assert passed.rounding == passed.rounding_at(passed.outputs)
