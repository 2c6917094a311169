"""Deep certificates: lower models against the losses of networks in the ball, windows of training, and whole certificates."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import holdfast as hf
from certificate_cases import LOSSES, record_round
from deep_cases import DOUBLE, climbed, draws, lower_at, move, normal, starts
from holdfast.curvature import Curvature
from holdfast.curvature.lower_model import Radius, per_ball
from holdfast.data.selection import keep_examples
from holdfast.errors import InputError
from holdfast.families import DeepCurvature, Pass
from holdfast.families.dense.lower_model import CENTRES, deep_lower_model
from holdfast.jobs.certify import certify_run
from holdfast.losses import CrossEntropy, Loss
from holdfast.networks import Dense
from holdfast.threats import LpBall
from holdfast.trace import LowerModel, TraceRecorder
from holdfast.trace.trace import Trace, load_trace, save_trace

THREAT = LpBall("2", 10.0)


def examples(classes: int, *, count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = draws(seed + 50)
    y = torch.arange(count) % classes
    return normal(draw, classes, 3)[y] + 0.5 * normal(draw, count, 3), y


def loss_of(
    net: Dense,
    initial: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    loss: Loss,
    moves: list[Tensor],
    weights: Tensor | None = None,
) -> Tensor:
    named = {name: start + u for (name, start), u in zip(initial.items(), moves, strict=True)}
    each = loss(torch.func.functional_call(net, named, (x,)), y)
    return each.mean() if weights is None else each @ weights


def worst_excess(
    net: Dense,
    initial: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    loss: Loss,
    lower: LowerModel,
    radius: Radius,
    seed: int,
    *,
    climbing: int = 3,
    steps: int = 25,
    weights: Tensor | None = None,
) -> float:
    """The largest ``lower(W) - phi(W)`` in the ball: random networks, networks found by ascent on it, and trained ones."""
    draw, radii = draws(seed), per_ball(radius, len(initial))

    def excess(moves: list[Tensor]) -> Tensor:
        return lower_at(lower, moves) - loss_of(net, initial, x, y, loss, moves, weights)

    def trained(moves: list[Tensor]) -> Tensor:
        return -loss_of(net, initial, x, y, loss, moves, weights)

    def random(scale: float) -> list[Tensor]:
        moves = [normal(draw, *w.shape) for w in initial.values()]
        return [scale * r * u / u.norm() for u, r in zip(moves, radii, strict=True)]

    worst = max(float(excess(random(scale)).detach()) for scale in (1.0, 0.5, 0.1) * 10)
    for k in range(climbing):
        start = random((1.0, 0.3, 0.03)[k % 3])
        worst = max(worst, climbed(excess, start, radius, steps=steps, rate=0.05 * min(radii)))
    found = [u.requires_grad_() for u in random(0.1)]
    for _ in range(10):
        gradients = torch.autograd.grad(trained(found), found)
        with torch.no_grad():
            for u, g, r in zip(found, gradients, radii, strict=True):
                u.add_(g * (0.3 * r / (g.norm() + 1e-12)))
                u.mul_(min(1.0, r / float(u.norm())))
        worst = max(worst, float(excess(found).detach()))
    return worst


def window_of(
    net: Dense,
    x: Tensor,
    y: Tensor,
    loss: Loss,
    radius: float,
    *,
    batches: int,
    rate: float,
    curvature: DeepCurvature | None = None,
    distance: float = 0.0,
):
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
    for seed, (name, act) in enumerate(
        zip([*LOSSES, "cross-entropy"], ("csp1", "tanh", "softplus", "gelu", "csp0.5", "erf"), strict=True)
    )
]


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


PASSES = [
    (
        depth,
        act,
        (2, 3, 4)[seed % 3],
        ("signed", "gaussian")[seed % 2],
        list(LOSSES)[seed % len(LOSSES)],
        tuple((0.3, 1.0, 2.0, 4.0)[(seed + 3 * h) % 4] for h in range(depth)),
    )
    for seed, (depth, act) in enumerate(
        (d, a) for d in (2, 3, 4) for a in ("csp1", "tanh", "softplus", "gelu")
    )
]


@pytest.mark.parametrize(("depth", "act", "classes", "output", "loss", "radii"), PASSES)
def test_passes_with_a_radius_a_layer_lie_below_the_loss_at_every_centre(
    depth: int, act: str, classes: int, output: str, loss: str, radii: tuple[float, ...]
) -> None:
    width = 24 if classes == 4 else 12
    net = Dense(3, classes, width, depth, act, seed=depth, output=output, input_layer=classes == 3).double()
    initial = starts(net)
    move(net, initial, 0.3, draws(1))
    x, y = examples(classes, count=5, seed=depth)
    weights = torch.softmax(normal(draws(4), len(y)), 0)
    for centre in CENTRES:
        passed = passed_at(net, initial, x, y, weights, LOSSES[loss], DeepCurvature(tune=False))
        lower = deep_lower_model(net, DeepCurvature(tune=False), passed, radii, centres=(centre,))
        assert lower.radii == radii
        excess = worst_excess(
            net, initial, x, y, LOSSES[loss], lower, radii, depth, climbing=1, steps=15, weights=weights
        )
        assert excess <= 1e-12


def passed_at(
    net: Dense,
    initial: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    loss: Loss,
    curvature: Curvature,
) -> Pass:
    with torch.no_grad():
        outputs = net(x)
    return Pass(
        initial=initial,
        points=x,
        labels=y,
        weights=weights,
        outputs=outputs,
        loss=loss,
        curvature=curvature,
        proved=True,
    )


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize(("depth", "classes"), [(1, 3), (2, 2), (2, 3), (3, 2)])
def test_a_pass_expanded_anywhere_lies_below_the_loss(depth: int, classes: int, centre: float) -> None:
    radius = 1.0
    net = Dense(3, classes, 12, depth, "csp1", seed=depth, output="signed", input_layer=False).double()
    initial = starts(net)
    move(net, initial, 0.9, draws(1))
    x, y = examples(classes, seed=depth)
    weights = torch.full((len(y),), 1 / len(y), dtype=DOUBLE)
    passed = passed_at(net, initial, x, y, weights, CrossEntropy(), DeepCurvature())
    lower = deep_lower_model(net, DeepCurvature(), passed, radius, centres=(centre,))
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
    assert window.bound_at((0.25, 0.5)) >= window.bound_at(0.5)
    assert window.bound_at((0.5, 0.51)) == -math.inf
    trace = Trace(
        names=(("weights.0",), ("weights.1",)),
        initial=initial,
        windows=(window,),
        rigorous=True,
        reason="",
        fixed={},
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
    own = hf.certify(net, initial, x, y, LpBall("2", 0.0), attack, 0.05, tighten=1)
    assert own.lower_bound <= best
    assert own.lower_bound > 0.8 * best


def test_rounding_is_allowed_for() -> None:
    """Rounds are computed anew in float64, so that training in float32 costs a window nothing: both have the same allowance."""
    x, y = examples(2)
    x = x.float()
    bounds, allowances = [], []
    for dtype in (torch.float32, torch.float64):
        net = Dense(3, 2, 16, 2, "csp1", output="signed").to(dtype)
        window = window_of(net, x.to(dtype), y, CrossEntropy(), 0.5, batches=1, rate=0.0)
        assert window.lower is not None
        bound = window.lower.bound(0.5)
        allowances.append(window.rounding.allowance(0.5, max(m.max_eigenvalue for m in bound.minima)))
        bounds.append(bound.value)
        assert window.lower_bound == pytest.approx(bound.value - allowances[-1], rel=1e-12)
    assert 0 < allowances[0] < 1e-10
    assert abs(bounds[0] - bounds[1]) < allowances[1]


def test_windows_of_wide_networks_trained_in_float32_keep_their_bound() -> None:
    """At 1,000 units an allowance for float32 would exceed the loss itself."""
    x, y = examples(2)
    x = x.float() / 4
    net = Dense(3, 2, 1000, 2, "csp1", output="signed", input_layer=False)
    window = window_of(net, x, y, CrossEntropy(), 0.5, batches=2, rate=1.0)
    assert window.lower is not None
    assert window.lower.balls[1][0].basis is not None  # of the six examples
    assert 0.6 * window.online_loss < window.lower_bound < window.online_loss
    assert window.lower.bound(0.5).value - window.lower_bound < 1e-6


def test_windows_are_expanded_nearer_to_the_start_where_curvature_costs() -> None:
    net = Dense(3, 2, 12, 2, "csp1", output="signed").double()
    initial = starts(net)
    x, y = examples(2)
    recorder = TraceRecorder(net, x, y, THREAT, CrossEntropy(), curvature=DeepCurvature(), radius=2.0)
    move(net, initial, 1.5, draws(1))
    bounds = []
    for _ in range(2):
        recorder.open()
        record_round(recorder, torch.arange(len(y)), x)
        window = recorder.close()
        assert window.lower is not None
        assert worst_excess(net, initial, x, y, CrossEntropy(), window.lower, 2.0, 0) <= 1e-12
        bounds.append(window.lower_bound)
    assert bounds[1] > bounds[0] + 0.1


def test_unsound_rounds_stay_void() -> None:
    net = Dense(3, 2, 8, 2, "csp1", output="signed").double()
    x, y = examples(2)
    recorder = TraceRecorder(
        net, x, y, LpBall("2", 0.01), CrossEntropy(), curvature=DeepCurvature(), radius=0.5
    )
    recorder.open()
    record_round(recorder, torch.arange(len(y)), x + 1)
    assert "outside their threat sets" in recorder.close().void


def test_certificates_with_a_radius_a_layer() -> None:
    net = Dense(3, 4, 24, 2, "csp1", output="signed", input_layer=False).double()
    initial = starts(net)
    x, y = examples(4, count=8)
    move(net, initial, 0.04, draws(0))
    threat, attack = LpBall("2", 0.05), hf.PGD(steps=3, start="example")
    equal, small, unequal = (
        hf.certify(net, initial, x, y, threat, attack, radius, tighten=1)
        for radius in (0.1, 0.05, [0.05, 0.1])
    )
    assert unequal.status == "certified"
    assert (unequal.radius, unequal.radii, equal.radii) == (0.1, (0.05, 0.1), ())
    assert equal.lower_bound < unequal.lower_bound < small.lower_bound
    assert hf.certify(net, initial, x, y, threat, attack, [0.03, 0.1]).status == "void"
    with pytest.raises(InputError, match="one number or 2"):
        hf.certify(net, initial, x, y, threat, attack, [0.1, 0.1, 0.1])
    with pytest.raises(InputError, match="> 0"):
        hf.certify(net, initial, x, y, threat, attack, [0.1, 0.0])


def test_a_run_of_a_deep_network_is_certified_over_windows(tmp_path: Path) -> None:
    """Float32 training in minibatches: recorded epochs are windows of their own, the last one kept, and the folder gives the same again."""
    data = keep_examples(hf.data.digits(classes=(3, 8)), 60)
    data = replace(data, x=data.x / 4)
    net = Dense(data.features, 2, 64, 2, "csp4", output="signed", input_layer=False)
    run = hf.train(
        net,
        data,
        LpBall("2", 0.05),
        attack=hf.PGD(steps=2, start="example"),
        out=tmp_path,
        epochs=4,
        batch_size=20,
        learning_rate=0.5,
        parameter_radius=0.3,
        closing="none",
        certificate=hf.CertificateSettings(trace_every=2, tighten=1),
        progress=False,
    )
    trace = load_trace(tmp_path / "trace")
    assert [(w.first, w.last) for w in trace.windows] == [(4, 6), (10, 12)]
    assert trace.rigorous
    assert not trace.void
    for window in trace.windows:
        assert 0.5 * window.online_loss < window.lower_bound < window.online_loss
    assert run.certificate.status == "certified"
    assert run.certificate.lower_bound >= max(w.lower_bound for w in trace.windows)
    again = certify_run(tmp_path, tighten=1, progress=False)
    assert (again.status, again.gap) == ("certified", pytest.approx(run.certificate.gap, rel=1e-9))
    assert certify_run(tmp_path, radius=0.6, tighten=1, progress=False).lower_bound < again.lower_bound


def test_rounds_that_are_not_finite_void_the_window() -> None:
    net = Dense(3, 2, 8, 3, "csp1", output="signed").double()
    x, y = examples(2)
    recorder = TraceRecorder(net, x, y, THREAT, CrossEntropy(), curvature=DeepCurvature(), radius=0.5)
    with torch.no_grad():
        net.weights[1][0, 0] = math.inf
    recorder.open()
    record_round(recorder, torch.arange(len(y)), x)
    assert recorder.close().void
