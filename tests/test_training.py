"""The loop: batches, ball, optimisers, and that a run is a function of its seed, resumed or not."""

import io
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import nn

from holdfast.attacks import PGD, CleanAttack
from holdfast.errors import InputError, NonFiniteLossError
from holdfast.families import curvature_for
from holdfast.losses import CrossEntropy, Loss, Squared
from holdfast.networks import Dense, TwoLayer
from holdfast.record.run import Run
from holdfast.threats import LpBall
from holdfast.trace import TraceRecorder
from holdfast.training import Hooks, ParameterBall, Training, TrainingState, fit
from holdfast.training.batches import Mix, epoch_batches
from holdfast.training.devices import OneProcess, devices_for
from holdfast.training.objectives import RobustLoss
from holdfast.training.optimizers import (
    OPTIMIZERS,
    SGD,
    Adam,
    AdamW,
    as_optimizer,
    make_optimizer,
)
from holdfast.training.schedules import SCHEDULES, as_schedule

# ---- batches


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("examples", "size"), [(10, 3), (10, 10), (7, 100), (13, 4), (5, 1)])
def test_every_example_once_an_epoch_over_all_processes(examples, size, processes):
    shares = [
        list(epoch_batches(examples, Mix(own=size), seed=1, epoch=2, rank=rank, processes=processes))
        for rank in range(processes)
    ]
    rounds = list(zip(*shares, strict=True))
    assert len(rounds) == math.ceil(examples / size)
    for parts in rounds:
        assert {part.round_size for part in parts} == {sum(len(part.rows) for part in parts)}
        assert max(len(p.rows) for p in parts) - min(len(p.rows) for p in parts) <= 1
    seen = torch.cat([part.rows for parts in rounds for part in parts])
    assert seen.sort().values.tolist() == list(range(examples))
    sizes = [parts[0].round_size for parts in rounds]
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    assert 1 <= sizes[-1] <= size


def test_the_processes_share_the_batches_of_one():
    whole = list(epoch_batches(10, Mix(own=4), seed=0, epoch=0))
    shares = [
        list(epoch_batches(10, Mix(own=4), seed=0, epoch=0, rank=rank, processes=2)) for rank in range(2)
    ]
    for one, first, second in zip(whole, *shares, strict=True):
        assert set(one.rows.tolist()) == set(first.rows.tolist()) | set(second.rows.tolist())


def test_the_order_is_fixed_by_seed_and_epoch_alone():
    def order(seed, epoch):
        return torch.cat([b.rows for b in epoch_batches(50, Mix(own=7), seed=seed, epoch=epoch)]).tolist()

    torch.manual_seed(1)
    first = order(3, 5)
    torch.manual_seed(2)
    assert order(3, 5) == first
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0) != list(range(50))
    assert [b.rows.tolist() for b in epoch_batches(4, Mix(own=4), seed=0, epoch=1)] == [[0, 1, 2, 3]]


# ---- the ball


def ball_of(model, radius, grouped=False):
    names = [name for name, _ in model.named_parameters()]
    balls = (tuple(names),) if grouped else tuple((name,) for name in names)
    initial = {name: w.detach().clone() for name, w in model.named_parameters()}
    return ParameterBall(names=balls, initial=initial, radius=radius)


def exact_distances(model, ball):
    parameters = dict(model.named_parameters())
    return [
        math.sqrt(
            sum(
                float(((parameters[n].detach().double() - ball.initial[n].double()) ** 2).sum())
                for n in names
            )
        )
        for names in ball.names
    ]


@given(
    seed=st.integers(0, 1000),
    radius=st.sampled_from([1e-3, 0.02, 1.0, 50.0]),
    size=st.sampled_from([1e-2, 1.0, 1e3]),
    grouped=st.booleans(),
    double=st.booleans(),
)
def test_projected_weights_lie_in_the_ball_after_rounding(seed, radius, size, grouped, double):
    random = torch.Generator().manual_seed(seed)
    model = Dense(features=4, classes=3, width=30, depth=2, seed=seed)
    model = model.double() if double else model
    ball = ball_of(model, radius, grouped)
    with torch.no_grad():
        for w in model.parameters():
            w += size * torch.randn(w.shape, generator=random, dtype=w.dtype)
    before = {name: w.detach().clone() for name, w in model.named_parameters()}
    moved = exact_distances(model, ball)
    ball.project(model)
    after = exact_distances(model, ball)
    assert [float(d) for d in ball.distances(model)] == pytest.approx(after, rel=1e-12)
    for names, was, now in zip(ball.names, moved, after, strict=True):
        assert now <= radius
        unit = 2.0**-53 if double else 2.0**-24
        assert (
            now >= min(was, radius) * (1 - 1e-6) - 4 * unit * 60
        )  # nearest: no deeper than rounding asks for
        for name in names:
            start = ball.initial[name].double()
            expected = start + (before[name].double() - start) * min(1.0, radius / was)
            torch.testing.assert_close(
                model.get_parameter(name).detach().double(),
                expected,
                rtol=1e-5,
                atol=1e-5 * radius + 8 * unit,
            )


def projected_from_nothing(weight: torch.Tensor, radius: float) -> torch.Tensor:
    """These weights projected onto the ball around 0."""
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(weight.clone())
    ParameterBall(names=(("weight",),), initial={"weight": torch.zeros_like(weight)}, radius=radius).project(
        module
    )
    return module.weight.detach()


def test_radii_that_float32_rounds_up_are_kept_by_weights_that_start_at_nothing() -> None:
    """One weight: its distance is its size, and nothing averages out; the start adds nothing to the margin."""
    for tenths in range(1, 100):
        radius = tenths / 10
        for weight in (1.0, 0.7, 11.0, 1e4):
            [found] = projected_from_nothing(torch.tensor([weight * radius]), radius).tolist()
            assert abs(found) <= radius
            assert abs(found) >= min(1.0, weight) * radius * (1 - 1e-6)


def test_a_rough_length_does_not_pass_for_the_exact_one() -> None:
    """Equal squares, whose sum in float32 rounds the same way time and again, a little outside the ball."""
    for value in torch.linspace(0.1, 0.2, 40):
        weight = value.expand(2**16)
        length = 2**8 * float(value)  # exact: a float32 number times a power of 2
        for outside in (4e-6, 1e-5, 1e-3, 9e-3):
            radius = length * (1 - outside)
            found = projected_from_nothing(weight, radius)
            assert float(found.double().norm()) <= radius


def test_weights_inside_the_ball_stay_bit_for_bit(rng):
    model = Dense(features=4, classes=3, width=20, depth=2)
    ball = ball_of(model, 10.0)
    with torch.no_grad():
        for w in model.parameters():
            w += 0.1 * torch.randn(w.shape, generator=rng)
    before = [w.detach().clone() for w in model.parameters()]
    ball.project(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_ball_for_each_layer_projects_each_for_itself(rng):
    model = Dense(features=4, classes=3, width=20, depth=3)
    ball = ball_of(model, 2.0)
    with torch.no_grad():
        for k, w in enumerate(model.parameters()):
            w += (0.01, 1.0, 5.0)[k] * torch.randn(w.shape, generator=rng)
    inside = exact_distances(model, ball)[0]
    ball.project(model)
    distances = exact_distances(model, ball)
    assert distances[0] == inside < 2
    assert distances[1:] == pytest.approx([2.0, 2.0], rel=1e-5)


# ---- optimisers and schedules


def learning_rate_factor(schedule, progress):
    return as_schedule(schedule).rate_factor(progress)


def test_schedules_start_at_the_peak_and_fall():
    for schedule in SCHEDULES:
        factors = [learning_rate_factor(schedule, k / 100) for k in range(100)]
        if schedule == "one-cycle":  # which rises first
            assert (factors[0], factors[40]) == (0.0, 1.0)
            assert factors[:41] == sorted(factors[:41])
            factors = factors[40:]
        assert factors[0] == 1.0
        assert factors == sorted(factors, reverse=True)
        assert min(factors) > 0
    assert learning_rate_factor("cosine", 0.5) == pytest.approx(0.5)
    assert learning_rate_factor("linear", 0.75) == pytest.approx(0.25)
    assert [learning_rate_factor("steps", p) for p in (0.49, 0.5, 0.75)] == pytest.approx([1, 0.1, 0.01])
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        learning_rate_factor("cosin", 0.0)


def test_optimisers_get_what_was_asked_for():
    weights = [nn.Parameter(torch.ones(2))]
    sgd = make_optimizer(SGD(momentum=0.8, weight_decay=0.01), weights, 0.3)
    assert isinstance(sgd, torch.optim.SGD)
    assert {k: sgd.defaults[k] for k in ("lr", "momentum", "weight_decay")} == {
        "lr": 0.3,
        "momentum": 0.8,
        "weight_decay": 0.01,
    }
    for choice, kind in (
        (Adam(weight_decay=0.01), torch.optim.Adam),
        (AdamW(weight_decay=0.01), torch.optim.AdamW),
    ):
        made = make_optimizer(choice, weights, 0.3)
        assert isinstance(made, kind)
        assert isinstance(made, torch.optim.AdamW) == (choice.name == "adamw")  # which is an Adam, too
        assert (made.defaults["lr"], made.defaults["weight_decay"]) == (0.3, 0.01)
    own = make_optimizer(lambda ps: torch.optim.RMSprop(ps, lr=0.5), weights, None)
    assert isinstance(own, torch.optim.RMSprop)
    assert own.defaults["lr"] == 0.5
    assert as_optimizer("sgd") == SGD(momentum=0.9, weight_decay=0.0)
    with pytest.raises(InputError, match="did you mean"):
        as_optimizer("adan")
    with pytest.raises(InputError, match="learning_rate"):
        make_optimizer(SGD(), weights, math.nan)
    with pytest.raises(InputError, match="momentum must be"):
        SGD(momentum=1.0)


# ---- the loop


def toy(examples=23, features=4, classes=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, features, generator=random)
    return x, torch.randint(0, classes, (examples,), generator=random)


def trained(
    model,
    x,
    y,
    *,
    epochs=4,
    batch_size=5,
    optimizer="sgd",
    rate=0.1,
    radius=None,
    stop=lambda: False,
    state=None,
    made=None,
    attack=None,
    threat=None,
    loss=None,
    schedule="constant",
    seed=0,
    record=True,
    observe=None,
    weights=None,
    initial=None,
    fabric=None,
):
    fabric = fabric or devices_for("cpu", 1, "32-true", "auto")
    loss, threat = loss or CrossEntropy(), threat or LpBall("2", 0.2)
    parameters = [p for p in model.parameters() if p.requires_grad]
    made = made or make_optimizer(OPTIMIZERS[optimizer](), parameters, rate)
    recorder = TraceRecorder(
        model,
        x,
        y,
        threat,
        loss,
        curvature=curvature_for(model)[0],
        radius=radius or 1.0,
        example_weights=weights,
    )
    for name, weight in (initial or {}).items():
        if name in recorder.initial:
            recorder.initial[name].copy_(weight)
    ball = ParameterBall(names=recorder.names, initial=recorder.initial, radius=radius or math.inf)
    wrapped, wrapped_optimizer = fabric.setup(model, made)
    model.train()
    training = Training(
        fabric=fabric,
        module=model,
        model=wrapped,
        optimizer=wrapped_optimizer,
        x=x,
        y=y,
        threat=threat,
        attack=attack or PGD(steps=2),
        loss=loss,
        epochs=epochs,
        batch_size=batch_size,
        schedule=as_schedule(schedule),
        objective=RobustLoss(),
        seed=seed,
        ball=ball,
        project=radius is not None,
        recorder=recorder if record else None,
        example_weights=weights,
    )
    hooks = Hooks(stop=stop) if observe is None else Hooks(observe=observe, stop=stop)
    return fit(training, state or TrainingState(), hooks)


def test_projected_gradient_descent_reaches_the_optimum_of_a_linear_model(rng):
    # min_w mean (x w - y)^2 / 2 over ||w|| <= R by the normal equations with the multiplier found by bisection.
    x = torch.randn(40, 3, generator=rng, dtype=torch.float64)
    y = (x @ torch.tensor([1.0, 0.5, -0.2], dtype=torch.float64) > 0).long()
    model = nn.Linear(3, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    radius = 0.3
    trained(
        model,
        x,
        y,
        epochs=150,
        batch_size=40,
        rate=0.1,
        radius=radius,
        attack=CleanAttack(),
        loss=Squared(),
        record=False,
    )
    a, b = x.T @ x / 40, x.T @ (2.0 * y.double() - 1) / 40
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        w = torch.linalg.solve(a + middle * torch.eye(3, dtype=torch.float64), b)
        low, high = (middle, high) if w.norm() > radius else (low, middle)
    assert low > 0.01  # the ball binds
    torch.testing.assert_close(model.weight.detach()[0], w, rtol=1e-5, atol=1e-6)
    assert float(model.weight.detach().norm()) <= radius


class Poisoned(Loss):
    """Cross-entropy that is not finite from the given call on."""

    def __init__(self, good: int, value: float) -> None:
        object.__setattr__(self, "left", [good])
        object.__setattr__(self, "value", value)

    @property
    def name(self):
        return "poisoned"

    def __call__(self, outputs, labels):
        self.left[0] -= 1
        return CrossEntropy()(outputs, labels) + (self.value if self.left[0] < 0 else 0.0)

    def slope(self, outputs, labels):
        return CrossEntropy().slope(outputs, labels)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(value):
    x, y = toy()
    healthy, model = (nn.Linear(4, 3) for _ in range(2))
    model.load_state_dict(healthy.state_dict())
    # 5 batches an epoch: the seventh round is the second of the second epoch.
    rounds = iter(range(100))
    trained(healthy, x, y, attack=CleanAttack(), record=False, stop=lambda: next(rounds) == 5)
    with pytest.raises(NonFiniteLossError, match=r"round 7 \(epoch 2\).*lower the learning rate"):
        trained(model, x, y, attack=CleanAttack(), record=False, loss=Poisoned(6, value))
    assert torch.equal(model.weight, healthy.weight)
    assert torch.equal(model.bias, healthy.bias)


class WithDropout(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(optimizer):
    x, y = toy()

    def weights(seed, disturbance):
        torch.manual_seed(0)
        model = WithDropout()
        torch.manual_seed(disturbance)  # the global state must not matter
        trained(model, x, y, optimizer=optimizer, seed=seed, record=False)
        return torch.cat([w.detach().flatten() for w in model.parameters()])

    assert torch.equal(weights(1, 10), weights(1, 20))
    assert not torch.equal(weights(1, 10), weights(2, 10))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_loop_takes_the_steps_of_a_plain_one(optimizer):
    x, y = toy()
    model, plain = nn.Linear(4, 3), nn.Linear(4, 3)
    plain.load_state_dict(model.state_dict())
    losses = []
    trained(
        model,
        x,
        y,
        attack=CleanAttack(),
        optimizer=optimizer,
        schedule="cosine",
        epochs=3,
        observe=lambda record, state: losses.append(record.online_loss),
    )
    step = make_optimizer(OPTIMIZERS[optimizer](), list(plain.parameters()), 0.1)
    expected, done = [], 0
    for epoch in range(3):
        total = 0.0
        for batch in epoch_batches(23, Mix(own=5), seed=0, epoch=epoch):
            step.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * done / 15))
            step.zero_grad()
            loss = nn.functional.cross_entropy(plain(x[batch.rows]), y[batch.rows])
            loss.backward()
            step.step()
            total += float(loss.detach()) * len(batch.rows) / 23
            done += 1
        expected.append(total)
    torch.testing.assert_close(model.weight, plain.weight, rtol=1e-6, atol=1e-7)
    assert losses == pytest.approx(expected, rel=1e-6)


def test_example_weights_count_an_example_as_often_as_they_say():
    x, y = toy(examples=6)
    times = torch.tensor([1, 2, 0, 3, 1, 1])
    rows = torch.arange(6).repeat_interleave(times)
    repeated, weighted = (TwoLayer(4, 3, 12) for _ in range(2))
    first = trained(repeated, x[rows], y[rows], batch_size=100, attack=CleanAttack())
    second = trained(weighted, x, y, batch_size=100, attack=CleanAttack(), weights=times / 8)
    torch.testing.assert_close(weighted.weight, repeated.weight, rtol=1e-5, atol=1e-6)
    for a, b in zip(first.state.windows, second.state.windows, strict=True):
        assert b.lower_bound == pytest.approx(a.lower_bound, rel=1e-5)
        assert not b.void


def test_the_attack_sees_the_model_as_it_trains_and_gives_no_parameter_gradients():
    seen = []

    class Spy(PGD):
        def search(self, model, x, y, threat, *, goal, generator):
            seen.append((model.training, any(p.requires_grad for p in model.parameters()), len(x)))
            return super().search(model, x, y, threat, goal=goal, generator=generator)

    x, y = toy()
    model = nn.Linear(4, 3)
    trained(model, x, y, attack=Spy(steps=1), epochs=1)
    assert seen == [(True, False, 5)] * 4 + [(True, False, 3)]


# ---- stopping and going on


def test_a_stop_is_answered_after_the_step_it_comes_in():
    x, y = toy()
    answers = iter([False, False, True])
    fitted = trained(nn.Linear(4, 3), x, y, stop=lambda: next(answers), record=False)
    assert fitted.interrupted
    assert (fitted.state.rounds, fitted.state.epoch) == (3, 0)


@pytest.mark.parametrize("make", [lambda: TwoLayer(4, 3, 12), WithDropout], ids=["two-layer", "dropout"])
@pytest.mark.parametrize(("optimizer", "schedule"), [("sgd", "cosine"), ("adam", "linear")])
def test_going_on_after_an_epoch_is_the_run_that_was_never_stopped(optimizer, schedule, make):
    x, y = toy()
    settings = {"schedule": schedule, "radius": 1.0, "optimizer": optimizer}
    torch.manual_seed(0)
    whole, first, second = make(), make(), make()
    start = {name: w.clone() for name, w in whole.state_dict().items()}
    straight = trained(whole, x, y, **settings)

    def optimizer_of(model):
        return make_optimizer(OPTIMIZERS[optimizer](), list(model.parameters()), 0.1)

    held, file, stepper, steps = {}, io.BytesIO(), optimizer_of(first), iter(range(100))
    first.load_state_dict(start)

    def hold(record, state):
        if record.epoch == 2:
            held.update({**vars(state), "windows": list(state.windows)})
            torch.save({"model": first.state_dict(), "optimizer": stepper.state_dict()}, file)

    stopped = trained(first, x, y, made=stepper, observe=hold, stop=lambda: next(steps) == 12, **settings)
    assert stopped.interrupted
    assert stopped.state.rounds == 13

    file.seek(0)
    saved, stepper = torch.load(file, weights_only=True), optimizer_of(second)
    second.load_state_dict(saved["model"])
    stepper.load_state_dict(saved["optimizer"])
    resumed = trained(second, x, y, made=stepper, state=TrainingState(**held), initial=start, **settings)
    assert resumed.state.rounds == straight.state.rounds == 20
    assert all(torch.equal(a, b) for a, b in zip(second.parameters(), whole.parameters(), strict=True))
    if make is not WithDropout:
        assert [w.lower_bound for w in resumed.state.windows[2:]] == [
            w.lower_bound for w in straight.state.windows[2:]
        ]


# ---- several processes

SCRIPT = """
import json, sys
import torch
import holdfast as hf

devices = int(sys.argv[1])
x = torch.randn(27, 4, generator=torch.Generator().manual_seed(0)) * 2
data = hf.data.from_tensors(x, (x[:, 0] > 0).long(), validation=0.0, test=0.0)
model = hf.networks.TwoLayer(4, 2, 40, paired=False)
run = hf.train(
    model, data, hf.LpBall("2", 0.1), attack=hf.PGD(steps=2, start="example"), final_attack=hf.PGD(steps=2),
    allow_incompatible=True, parameter_radius=2.0, epochs=3, batch_size=13, learning_rate=0.5,
    certificate=hf.CertificateSettings(trace_every=1, tighten=3),
    device=hf.DeviceSettings(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto"), progress=False, out=sys.argv[2],
)
"""


@pytest.mark.slow
def test_two_processes_give_the_certificate_of_one(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folders = [tmp_path / "one", tmp_path / "two"]
    monkeypatch.setattr(sys, "argv", [str(script), "1", str(folders[0])])
    exec(compile(SCRIPT, str(script), "exec"), {"__name__": "__main__"})
    command = [sys.executable, str(script), "2", str(folders[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = (Run.load(folder) for folder in folders)
    assert two.certificate.status == one.certificate.status == "certified"
    for figure in ("surrogate_loss", "lower_bound", "gap"):
        assert getattr(two.certificate, figure) == pytest.approx(getattr(one.certificate, figure), abs=2e-6)
    torch.testing.assert_close(two.weights()["weight"], one.weights()["weight"], rtol=1e-5, atol=1e-5)
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert b["void"] == ""
        # a window's rounding allowance (3e-5 here) goes by the longest input, which each process knows of its share
        assert b["lower_bound"] == pytest.approx(a["lower_bound"], abs=1e-4)
        assert b["online_loss"] == pytest.approx(a["online_loss"], abs=2e-6)
    assert (two.folder / "log.txt").read_text().count("certificate: certified") == 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimisers_step_as_torchs_do(rng, name):
    # to the last bit, with state handed over half-way, and hooks and schedulers of torch served
    theirs = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    own = {"momentum": 0.9} if name == "sgd" else {"fused": True}
    start = torch.randn(7, generator=rng)
    ends = []
    for ours in (True, False):
        weight = nn.Parameter(start.clone())

        def made(weight=weight, ours=ours):
            if ours:
                return make_optimizer(OPTIMIZERS[name](weight_decay=0.01), [weight], 0.05)
            return theirs([weight], lr=0.05, weight_decay=0.01, **own)

        optimizer, calls = made(), []
        optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append(1))
        for step in range(6):
            if step == 3:
                state, optimizer = optimizer.state_dict(), made()
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            (weight**4).sum().backward()
            optimizer.step()
        assert isinstance(optimizer, theirs)
        assert len(calls) == 3
        ends.append(weight.detach())
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], start)


def test_one_process_trains_as_fabric_does():
    ends = []
    for fabric in (OneProcess(), Fabric(accelerator="cpu", devices=1)):
        x, y = toy()
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(x.shape[1], 6), nn.Dropout(0.2), nn.ReLU(), nn.Linear(6, 3))
        trained(model, x, y, fabric=fabric, optimizer="adam", record=False)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_fabric_is_asked_for_all_but_the_cpu_in_full_precision(monkeypatch):
    plain = ("cpu", 1, "32-true", "auto")
    assert isinstance(devices_for(*plain), OneProcess)
    assert isinstance(devices_for("cpu", 1, "64-true", "auto"), OneProcess)
    for other in (
        ("cpu", 1, "bf16-mixed", "auto"),
        ("cpu", 1, "32-true", "ddp"),
        ("cpu", 2, "32-true", "auto"),
    ):
        assert isinstance(devices_for(*other), Fabric)
    monkeypatch.setenv("LT_PRECISION", "bf16-mixed")  # what `fabric run` sets
    assert isinstance(devices_for(*plain), Fabric)
    monkeypatch.delenv("LT_PRECISION")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert isinstance(devices_for(*plain), OneProcess)  # asked for by name
    with pytest.raises(InputError, match="must be available on this machine, got 'nonsense'"):
        devices_for("nonsense", 1, "32-true", "auto")


def test_processes_of_torchrun_that_would_each_train_alone_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"torchrun has started 2 in all, got 1; pass device=DeviceSettings"):
        devices_for("auto", 1, "32-true", "auto")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert devices_for("cpu", 1, "32-true", "auto").world_size == 1
