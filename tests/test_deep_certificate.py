"""Deep certificates: lower models against the losses of networks in the ball, windows of training, and whole certificates."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import holdfast as hf
from certificate_cases import LOSSES, record_round
from deep_cases import DOUBLE, climbed, draws, lower_at, move, normal, starts
from holdfast.certificates.deep import CENTRES, deep_lower_model
from holdfast.curvature import DeepCurvature
from holdfast.losses import CrossEntropy, Loss
from holdfast.networks import Dense
from holdfast.threats import LpBall
from holdfast.trace import FrozenPoints, LowerModel, TraceRecorder
from holdfast.trace.trace import Trace, load_trace, save_trace

THREAT = LpBall("2", 10.0)


def examples(classes: int, *, count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = draws(seed + 50)
    y = torch.arange(count) % classes
    return normal(draw, classes, 3)[y] + 0.5 * normal(draw, count, 3), y


def loss_of(
    net: Dense, initial: dict[str, Tensor], x: Tensor, y: Tensor, loss: Loss, moves: list[Tensor]
) -> Tensor:
    named = {name: start + u for (name, start), u in zip(initial.items(), moves, strict=True)}
    return loss(torch.func.functional_call(net, named, (x,)), y).mean()


def worst_excess(
    net: Dense, initial: dict[str, Tensor], x: Tensor, y: Tensor, loss: Loss, lower: LowerModel, radius: float, seed: int,
    *, climbing: int = 3, steps: int = 25,
) -> float:  # fmt: skip
    """The largest ``lower(W) - phi(W)`` in the ball: random networks, networks found by ascent on it, and trained ones."""
    draw = draws(seed)

    def excess(moves: list[Tensor]) -> Tensor:
        return lower_at(lower, moves) - loss_of(net, initial, x, y, loss, moves)

    def trained(moves: list[Tensor]) -> Tensor:
        return -loss_of(net, initial, x, y, loss, moves)

    def random(scale: float) -> list[Tensor]:
        moves = [normal(draw, *w.shape) for w in initial.values()]
        return [scale * radius * u / u.norm() for u in moves]

    worst = max(float(excess(random(scale)).detach()) for scale in (1.0, 0.5, 0.1) * 10)
    for k in range(climbing):
        start = random((1.0, 0.3, 0.03)[k % 3])
        worst = max(worst, climbed(excess, start, radius, steps=steps, rate=0.05 * radius))
    found = [u.requires_grad_() for u in random(0.1)]
    for _ in range(10):
        gradients = torch.autograd.grad(trained(found), found)
        with torch.no_grad():
            for u, g in zip(found, gradients, strict=True):
                u.add_(g * (0.3 * radius / (g.norm() + 1e-12)))
                u.mul_(min(1.0, radius / float(u.norm())))
        worst = max(worst, float(excess(found).detach()))
    return worst


def window_of(net: Dense, x: Tensor, y: Tensor, loss: Loss, radius: float, *, batches: int, rate: float,
              curvature: DeepCurvature | None = None, distance: float = 0.0):  # fmt: skip
    """A window of training rounds: batches in turn, a step of descent after each."""
    recorder = TraceRecorder(net, x, y, THREAT, loss, curvature=curvature or DeepCurvature(), radius=radius)
    if distance:
        move(net, recorder.initial, distance, draws(3))
    recorder.open()
    for rows in torch.arange(len(y)).chunk(batches):
        record_round(recorder, rows, x[rows])
        with torch.no_grad():
            for w in net.weights:
                w.sub_(rate * w.grad)
    return recorder.close()


WINDOWS = [
    (seed, name, act, 1 + seed % 3, (2, 3)[seed % 2], ("signed", "gaussian")[seed // 2 % 2])
    for seed, (name, act) in enumerate(zip([*LOSSES, "cross-entropy"], ("csp1", "tanh", "softplus", "gelu", "csp0.5", "erf"), strict=True))
]  # fmt: skip


@pytest.mark.parametrize(("seed", "loss", "act", "depth", "classes", "output"), WINDOWS)
def test_windows_of_training_lie_below_the_loss_of_every_network_in_the_ball(
    seed: int, loss: str, act: str, depth: int, classes: int, output: str
) -> None:
    radius = (0.5, 2.0)[seed % 2]
    net = Dense(3, classes, 12, depth, act, seed=seed, output=output, input_layer=seed % 2 == 0).double()
    initial = starts(net)
    x, y = examples(classes, seed=seed)
    window = window_of(net, x, y, LOSSES[loss], radius, batches=2, rate=0.3)
    assert not window.void
    assert window.lower is not None
    assert worst_excess(net, initial, x, y, LOSSES[loss], window.lower, radius, seed) <= 1e-12
    assert window.lower_bound <= window.online_loss + 0.5


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize(("depth", "classes"), [(1, 3), (2, 2), (2, 3), (3, 2)])
def test_a_pass_expanded_anywhere_lies_below_the_loss(depth: int, classes: int, centre: float) -> None:
    radius = 1.0
    net = Dense(3, classes, 12, depth, "csp1", seed=depth, output="signed", input_layer=False).double()
    initial = starts(net)
    move(net, initial, 0.9, draws(1))
    x, y = examples(classes, seed=depth)
    weights = torch.full((len(y),), 1 / len(y), dtype=DOUBLE)
    points = FrozenPoints(x=x, points=x, y=y)
    with torch.no_grad():
        outputs = net(x)
    lower = deep_lower_model(
        net, DeepCurvature(), initial, points, outputs, weights, CrossEntropy(), radius, centres=(centre,)
    )
    assert worst_excess(net, initial, x, y, CrossEntropy(), lower, radius, 0, climbing=2) <= 1e-12
    if centre == 1.0:
        here = [net.get_parameter(n).detach() - initial[n] for n in initial]
        phi = loss_of(net, initial, x, y, CrossEntropy(), here)
        torch.testing.assert_close(lower_at(lower, here), phi.detach(), rtol=1e-10, atol=1e-12)


def test_a_window_five_per_cent_too_low_in_curvature_is_caught() -> None:
    """Two linear layers of one unit and a a hinge loss on its slope: the lower model reaches the loss, and a smaller one crosses it."""
    net = Dense(3, 2, 1, 2, "identity", output="gaussian", input_layer=False, seed=3).double()
    initial = starts(net)
    x, y = examples(2, count=1)
    loss = LOSSES["hinge"]
    excess = []
    for safety in (1.0, 0.95):
        window = window_of(net, x, y, loss, 0.2, batches=1, rate=0.0, curvature=DeepCurvature(safety=safety))
        assert window.lower is not None
        excess.append(worst_excess(net, initial, x, y, loss, window.lower, 0.2, 0, climbing=6, steps=80))
    assert excess[0] <= 1e-12
    assert excess[1] > 1e-6


def test_nothing_is_claimed_beyond_the_ball_a_bound_was_made_for(tmp_path: Path) -> None:
    net = Dense(3, 2, 8, 2, "csp1", output="signed").double()
    initial = starts(net)
    x, y = examples(2)
    window = window_of(net, x, y, CrossEntropy(), 0.5, batches=1, rate=0.0)
    assert math.isfinite(window.bound_at(0.5))
    assert window.bound_at(0.25) >= window.bound_at(0.5)
    assert window.bound_at(0.51) == -math.inf
    trace = Trace(
        names=(("weights.0",), ("weights.1",)), initial=initial, windows=(window,), rigorous=True, reason=""
    )
    save_trace(trace, tmp_path)
    (loaded,) = load_trace(tmp_path).windows
    assert loaded.bound_at(0.5) == window.bound_at(0.5)
    assert loaded.bound_at(0.51) == -math.inf


@pytest.mark.parametrize(("classes", "depth"), [(2, 2), (3, 2), (2, 3)])
def test_certificates_of_deep_networks(classes: int, depth: int) -> None:
    net = Dense(3, classes, 24, depth, "csp2", output="signed", seed=classes).double()
    initial = starts(net)
    x, y = examples(classes, count=9)
    threat, attack = LpBall("2", 0.05), hf.PGD(steps=3, start="example")
    move(net, initial, 0.04, draws(0))
    found = hf.certify(net, initial, x, y, threat, attack, 0.05)
    assert found.status == "certified"
    assert found.gap > 0
    assert all(radius <= 0.05 for radius, _ in found.at_radii)
    # No network of the ball has a clean loss below it, since clean points are in their threat sets; trained ones least of all.
    moves = [normal(draws(1), *w.shape) * 1e-4 for w in initial.values()]
    best = -climbed(
        lambda u: -loss_of(net, initial, x, y, CrossEntropy(), u), moves, 0.05, steps=60, rate=0.003
    )
    own = hf.certify(net, initial, x, y, LpBall("2", 0.0), attack, 0.05)
    assert own.lower_bound <= best
    assert own.lower_bound > 0.8 * best


def test_rounding_is_allowed_for() -> None:
    """The same window in float32 and float64: the bounds differ by less than what was taken off."""
    x, y = examples(2)
    bounds, allowances = [], []
    for dtype in (torch.float32, torch.float64):
        net = Dense(3, 2, 16, 2, "csp1", output="signed").to(dtype)
        window = window_of(net, x.to(dtype), y, CrossEntropy(), 0.5, batches=1, rate=0.0)
        assert window.lower is not None
        bound = window.lower.bound(0.5)
        allowances.append(window.rounding.allowance(0.5, max(m.max_eigenvalue for m in bound.minima)))
        bounds.append(bound.value)
        assert window.lower_bound == pytest.approx(bound.value - allowances[-1], rel=1e-12)
    assert 0 < allowances[1] < 1e-10
    assert 0 < abs(bounds[0] - bounds[1]) < allowances[0]


def test_unsound_rounds_stay_void() -> None:
    net = Dense(3, 2, 8, 2, "csp1", output="signed").double()
    x, y = examples(2)
    recorder = TraceRecorder(
        net, x, y, LpBall("2", 0.01), CrossEntropy(), curvature=DeepCurvature(), radius=0.5
    )
    recorder.open()
    record_round(recorder, torch.arange(len(y)), x + 1)
    assert "outside their threat sets" in recorder.close().void
