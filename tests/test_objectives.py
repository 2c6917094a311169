"""Objectives, perturbations of the weights, averages and schedules, against formulas written out here and plain loops."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import holdfast as hf
from holdfast import objectives
from holdfast._tensors import generator
from holdfast.attacks import NoiseFGSM, RandomStartFGSM
from holdfast.config.build import build, build_recipe
from holdfast.config.reading import read_config
from holdfast.config.recipes import RECIPES
from holdfast.config.schema import RunConfig, from_dict, to_dict
from holdfast.errors import InputError
from holdfast.training.averaging import Average, refresh_statistics
from holdfast.training.batches import Mix, epoch_batches
from holdfast.training.objectives.base import divergence, log_probabilities
from holdfast.training.perturbation import NoPerturbation
from holdfast.training.schedules import as_schedule


def conv(classes=3):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def examples(n=24, classes=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, 16, generator=draw), torch.randint(0, classes, (n,), generator=draw)


def batch(model, *, classes=3, seed=0):
    x, y = examples(classes=classes, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    return objectives.Batch(
        model=model,
        clean=x,
        attacked=x + 0.1 * torch.randn(x.shape, generator=draw),
        y=y,
        threat=hf.LpBall("inf", 0.1),
        loss=hf.CrossEntropy(),
        generator=draw,
    )


def data(n=60):
    return hf.data.from_tensors(*examples(n), bounds=(0.0, 1.0))


def trained(model=None, of=None, **settings):
    model = conv() if model is None else model
    settings = {
        "epochs": 2,
        "batch_size": 12,
        "optimizer": "adam",
        "learning_rate": 0.01,
        "progress": False,
    } | settings
    run = hf.train(
        model,
        of or data(),
        hf.LpBall("inf", 0.05, bounds=(0.0, 1.0)),
        closing="none",
        allow_incompatible=True,
        **{"certificate": hf.CertificateSettings(tighten=0)} | settings,
    )
    return run, {name: value.clone() for name, value in model.state_dict().items()}


# ---- formulas


@pytest.mark.parametrize("classes", [2, 3])
def test_trades_is_its_formula(classes):
    model = nn.Linear(16, classes)
    found = batch(model, classes=classes)
    clean, attacked = model(found.clean), model(found.attacked)
    kl = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
    expected = F.cross_entropy(clean, found.y, reduction="none") + 4.0 * kl
    torch.testing.assert_close(objectives.TRADES(beta=4.0).losses(found), expected)


def test_mart_is_its_formula():
    model = nn.Linear(16, 3)
    found = batch(model)
    p, q = model(found.clean).softmax(1), model(found.attacked).softmax(1)
    rows = torch.arange(len(found.y))
    others = torch.stack([q[row, [c for c in range(3) if c != int(found.y[row])]].max() for row in rows])
    bce = -q[rows, found.y].log() - (1 - others).log()
    kl = (p * (p.log() - q.log())).sum(1)
    expected = bce + 2.0 * (1 - p[rows, found.y]) * kl
    torch.testing.assert_close(objectives.MART(weight=2.0).losses(found), expected, rtol=1e-4, atol=1e-5)


def test_mixed_and_pairing_are_their_formulas():
    model = nn.Linear(16, 3)
    found = batch(model)
    clean, attacked = model(found.clean), model(found.attacked)
    losses = [F.cross_entropy(outputs, found.y, reduction="none") for outputs in (clean, attacked)]
    torch.testing.assert_close(objectives.Mixed(0.25).losses(found), 0.25 * losses[0] + 0.75 * losses[1])
    apart = (clean - attacked).square().mean(1)
    torch.testing.assert_close(objectives.LogitPairing(3.0).losses(found), losses[1] + 3.0 * apart)
    torch.testing.assert_close(objectives.RobustLoss().losses(found), losses[1])


def test_aligned_gradients_cost_nothing_and_others_do():
    binary = nn.Linear(16, 1)  # the gradient of one linear output has one direction everywhere
    found = replace(batch(binary, classes=2), loss=hf.CrossEntropy())
    plain = found.loss(found.outputs, found.y)
    torch.testing.assert_close(objectives.GradAlign(weight=7.0).losses(found), plain)
    torch.manual_seed(0)
    bent = batch(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)))
    value = objectives.GradAlign(weight=7.0).losses(bent) - bent.loss(bent.outputs, bent.y)
    assert (value >= -1e-6).all()
    assert value.mean() > 0.01
    (slope,) = torch.autograd.grad(value.sum(), bent.model[0].weight)
    assert slope.norm() > 0  # through the gradient of the gradient


@given(st.integers(0, 10**6), st.floats(0.1, 30.0))
def test_a_divergence_is_at_least_0_and_0_for_equals(seed, scale):
    draw = torch.Generator().manual_seed(seed)
    p, q = (
        log_probabilities(scale * torch.randn(5, 4, generator=draw, dtype=torch.float64)) for _ in range(2)
    )
    assert (divergence(p, q) >= -1e-12).all()
    assert divergence(p, p).abs().max() == 0


def test_one_signed_output_is_two_classes():
    f = torch.tensor([[0.3], [-2.0]])
    torch.testing.assert_close(log_probabilities(f).exp()[:, 1:], f.sigmoid())


def test_the_inner_attack_of_trades_raises_the_divergence_within_the_ball():
    model, (x, y), threat = conv().train(), examples(), hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack = build_recipe("trades").attack
    points = objectives.TRADES().attacked(
        model, x, y, threat, attack, loss=hf.CrossEntropy(), generator=torch.Generator().manual_seed(0)
    )
    assert threat.contains(points, x).all()
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    at = [
        divergence(log_probabilities(model(x)), log_probabilities(model(of)))
        for of in (points, threat.sample(x, generator=torch.Generator().manual_seed(1)))
    ]
    assert at[0].mean() > 3 * at[1].mean() > 0


def test_an_attack_that_takes_the_batch_apart_is_refused_by_trades():
    attack = hf.PGD(steps=1, restarts=3, drop_broken=True)
    with pytest.raises(InputError, match="must search the whole batch at once"):
        trained(objective="trades", attack=attack)


# ---- in the loop


def test_a_run_of_trades_takes_the_steps_of_a_plain_loop():
    """The loop of the paper's code: attack in evaluation mode, clean and attacked pass in training mode."""
    of, threat, plain, noise = data(), hf.LpBall("inf", 0.05, bounds=(0.0, 1.0)), conv(), generator(0)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    n = len(of.train.y)
    for epoch in range(3):
        [order] = epoch_batches(n, Mix(own=n), seed=0, epoch=epoch, rank=0, processes=1)
        x, y = of.train.x[order.rows], of.train.y[order.rows]
        plain.eval()
        reference = plain(x).log_softmax(1).detach()
        points = threat.sample(x, generator=noise)
        for _ in range(3):
            points.requires_grad_(True)
            kl = (reference.exp() * (reference - plain(points).log_softmax(1))).sum()
            (slope,) = torch.autograd.grad(kl, points)
            points = (points + 2.5 * 0.05 / 3 * slope.sign()).detach()
            points = (x + (points - x).clamp(-0.05, 0.05)).clamp(0, 1)
        plain.train()
        clean, attacked = plain(x), plain(points)
        kl = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="batchmean")
        optimizer.zero_grad()
        (F.cross_entropy(clean, y) + 6.0 * kl).backward()
        optimizer.step()
    settings = {
        "optimizer": hf.optimizers.SGD(momentum=0.0),
        "learning_rate": 0.1,
        "epochs": 3,
        "batch_size": n,
    }
    _, weights = trained(of=of, objective="trades", attack=hf.PGD(steps=3), **settings)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)


def test_a_function_of_the_users_is_an_objective():
    def robust(model, clean, attacked, y):
        return F.cross_entropy(model(attacked), y, reduction="none")

    assert all(
        torch.equal(a, b)
        for a, b in zip(trained(objective=robust)[1].values(), trained()[1].values(), strict=True)
    )
    with pytest.raises(
        InputError, match=r"objective must return a loss per example, of shape \(12,\), got shape \(\)"
    ):
        trained(objective=lambda model, clean, attacked, y: F.cross_entropy(model(attacked), y))
    with pytest.raises(InputError, match="did you mean 'trades'"):
        trained(objective="trade")
    with pytest.raises(InputError, match=r"write TRADES\(\)"):
        trained(objective=objectives.TRADES)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"objective": "trades"}, "a step of trades is not one of the robust loss"),
        ({"weight_perturbation": hf.AWP()}, "with awp a step's gradient is taken at other weights"),
        ({"attack": NoiseFGSM()}, "points of n-fgsm may lie outside the threat set"),
        ({"device": hf.DeviceSettings(accelerator="cpu", precision="bf16-mixed")}, "training in bf16-mixed"),
    ],
)
def test_rounds_that_are_none_of_the_robust_loss_are_not_recorded_and_the_record_says_why(
    settings, why, tmp_path
):
    model = hf.networks.TwoLayer(16, 3, 12)
    run, _ = trained(model, out=tmp_path, parameter_radius=2.0, **settings)
    assert all(row["lower_bound"] is None for row in run.metrics)
    assert why in (tmp_path / "log.txt").read_text()
    assert run.certificate.status == "certified"  # by the pass after training
    recorded = hf.CertificateSettings(tighten=0, trace_every=1)
    plain, _ = trained(hf.networks.TwoLayer(16, 3, 12), parameter_radius=2.0, certificate=recorded)
    assert any(row["lower_bound"] is not None for row in plain.metrics)


# ---- a loop of one's own


def test_a_called_attack_is_fresh_each_time_and_repeats_where_asked():
    model, (x, y), threat = conv().eval(), examples(), hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))
    attack = hf.PGD(steps=1)
    torch.manual_seed(3)
    first, second = attack(model, x, y, threat), attack(model, x, y, threat)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(attack(model, x, y, threat), first)
    assert torch.equal(
        attack(model, x, y, threat, seed=4), attack(model, x.numpy(), y.numpy(), threat, seed=4)
    )
    again = [attack(model, x, y, threat, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*again)
    assert threat.contains(first, x).all()
    assert not attack(model, x, y, "linf:0.1").requires_grad
    with pytest.raises(InputError, match="outside"):
        attack(model, x + 2, y, threat)
    with pytest.raises(InputError, match="y must hold integer labels"):
        attack(model, x, y.double(), threat)


def test_a_loop_of_ones_own_trains_with_trades():
    model, (x, y), threat = conv().train(), examples(), hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))
    trades = objectives.TRADES(beta=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(0)
    losses = []
    for _ in range(20):
        loss = trades(model, x, y, threat).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]
    # of two copies, since every pass in training mode moves the averages of batch norm
    again = [trades(copy.deepcopy(model), x, y, threat, seed=1) for _ in range(2)]
    assert torch.equal(*again)
    robust = objectives.RobustLoss()(model, x, y, threat, hf.attacks.CleanAttack())
    torch.testing.assert_close(robust, F.cross_entropy(model(x), y, reduction="none"))


# ---- perturbations of the weights


def test_a_perturbation_has_its_length_along_the_gradient_and_is_taken_back():
    model, (x, y) = conv().train(), examples()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def value():
        return F.cross_entropy(model(x), y)

    with torch.no_grad():
        held = float(value())
    model.load_state_dict(before)
    weights = {name: w for name, w in model.named_parameters() if w.ndim > 1}
    slopes = torch.autograd.grad(value(), list(weights.values()))
    model.load_state_dict(before)
    with hf.AWP(0.03).moved(model, value, lambda values: values):
        for (name, weight), slope in zip(weights.items(), slopes, strict=True):
            moved = weight.detach() - before[name]
            assert float(moved.norm() / before[name].norm()) == pytest.approx(0.03, rel=1e-4)
            assert float(F.cosine_similarity(moved.flatten(), slope.flatten(), dim=0)) == pytest.approx(
                1, abs=1e-4
            )
        assert torch.equal(model[1].bias, before["1.bias"])
        with torch.no_grad():
            assert float(value()) > held
    assert all(torch.equal(w, before[name]) for name, w in model.named_parameters())


def test_statistics_stay_while_the_perturbation_is_sought():
    model, (x, y) = conv().train(), examples()
    before = {name: value.clone() for name, value in model.named_buffers()}
    with hf.AWP().moved(model, lambda: F.cross_entropy(model(x), y), lambda values: values):
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_a_step_with_a_perturbation_uses_the_gradient_there():
    model, plain, (x, y) = nn.Linear(16, 3), nn.Linear(16, 3), examples()
    plain.load_state_dict(model.state_dict())
    (slope,) = torch.autograd.grad(F.cross_entropy(plain(x), y), plain.weight)
    there = (plain.weight + 0.5 * plain.weight.norm() * slope / slope.norm()).detach().requires_grad_(True)
    outputs = F.linear(x, there, plain.bias)
    gradients = torch.autograd.grad(F.cross_entropy(outputs, y), [there, plain.bias])
    of = hf.data.from_tensors(x, y, validation=0.0, test=0.0)
    trained(
        model,
        of,
        attack="clean",
        weight_perturbation=hf.AWP(0.5),
        optimizer=hf.optimizers.SGD(momentum=0.0),
        learning_rate=0.1,
        epochs=1,
        batch_size=len(y),
    )
    for weight, start, gradient in zip(model.parameters(), plain.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight, start - 0.1 * gradient)


# ---- averages


def test_averages_are_those_of_their_formulas():
    module = nn.Linear(1, 1, bias=False)
    values = torch.randn(40, generator=torch.Generator().manual_seed(3)).tolist()
    ema, swa = Average(weights={}), Average(weights={})
    expected = None
    for t, value in enumerate(values):
        nn.init.constant_(module.weight, value)
        done, ends = (t + 1) / 40, (t + 1) % 4 == 0
        hf.EMA(0.8).update(ema, module, done, epoch_ends=ends)
        hf.SWA(0.5).update(swa, module, done, epoch_ends=ends)
        d = min(0.8, (1 + t) / (10 + t))
        expected = value if expected is None else d * expected + (1 - d) * value
    assert float(ema.weights["weight"]) == pytest.approx(expected, rel=1e-5)
    late = [value for t, value in enumerate(values) if (t + 1) % 4 == 0 and (t + 1) / 40 >= 0.5]
    assert float(swa.weights["weight"]) == pytest.approx(sum(late) / len(late), rel=1e-5)
    assert (ema.taken, swa.taken) == (40, len(late))


def test_refreshed_statistics_are_those_of_the_examples():
    model, (x, _) = conv(), examples(25)
    model(x + 3)
    model.eval()
    refresh_statistics(model, x, 25)
    inner = model[:2](x)
    norm = model[2]
    torch.testing.assert_close(norm.running_mean, inner.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, inner.var((0, 2, 3)))
    assert (norm.momentum, norm.training, model.training) == (0.1, False, False)
    refresh_statistics(model, x, 8)  # the last batch of one example is left out
    torch.testing.assert_close(norm.running_mean, inner[:24].mean((0, 2, 3)))


def test_the_average_is_what_is_kept_and_returned(tmp_path):
    model = conv()
    run, weights = trained(model, averaging=hf.EMA(0.9), out=tmp_path)
    last = hf.Run.load(tmp_path).weights("last")
    assert all(torch.equal(last[name], weights[name]) for name in last)
    plain = trained()[1]
    assert not torch.equal(plain["5.weight"], weights["5.weight"])
    x = data().train.x
    fresh = conv()
    fresh.load_state_dict(weights)
    refresh_statistics(fresh, x, 12)
    torch.testing.assert_close(fresh[2].running_mean, weights["2.running_mean"])
    assert run.summary["averaging"] == "ema"


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_resumed_run_of_a_recipe_ends_bit_for_bit_like_one_that_was_not(epochs, tmp_path):
    settings = {
        "recipe": "trades-awp",
        "averaging": hf.EMA(0.9),
        "attack": hf.PGD(steps=2),
        "parameter_radius": 30.0,
    }
    _, whole = trained(epochs=4, out=tmp_path / "whole", **settings)
    trained(epochs=epochs, out=tmp_path / "parts", **settings)
    _, parts = trained(epochs=4, out=tmp_path / "parts", resume=True, **settings)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


# ---- schedules


def test_a_ramp_attacks_within_a_ball_that_grows():
    seen = []

    class Watched(hf.PGD):
        def search(self, model, x, y, threat, **more):
            seen.append(threat.radius)
            return super().search(model, x, y, threat, **more)

    schedule = hf.ScheduleSettings(radius_ramp=0.5)
    trained(
        attack=Watched(steps=1),
        schedule=schedule,
        epochs=2,
        batch_size=len(data().train.y),
        validation=hf.ValidationSettings(attack="clean"),
    )
    training = seen[:2]
    assert training == pytest.approx([0.0, 0.05])
    with pytest.raises(InputError, match="radius_ramp needs a threat with a radius"):
        hf.train(conv(), data(), hf.SphereSlice(0.1), schedule=schedule, progress=False)


def test_a_warm_up_rises_and_a_function_is_followed():
    schedule = hf.ScheduleSettings(learning_rate="linear", warm_up=0.2)
    assert [schedule.rate_factor(p) for p in (0.0, 0.1, 0.2, 0.5)] == pytest.approx([0.0, 0.45, 0.8, 0.5])
    assert as_schedule(lambda p: 1 - p**2).rate_factor(0.5) == 0.75
    with pytest.raises(InputError, match="did you mean"):
        as_schedule("cosin")


def test_a_gradient_is_clipped_to_its_length():
    model, (x, y) = nn.Linear(16, 3), examples()
    start = [w.detach().clone() for w in model.parameters()]
    of = hf.data.from_tensors(x, y, validation=0.0, test=0.0)
    clipped = hf.optimizers.SGD(momentum=0.0, clip_norm=0.05)
    trained(model, of, attack="clean", optimizer=clipped, learning_rate=1.0, epochs=1, batch_size=len(y))
    moved = torch.cat([(w - s).flatten() for w, s in zip(model.parameters(), start, strict=True)])
    assert float(moved.detach().norm()) == pytest.approx(0.05, rel=1e-4)


# ---- single steps


def test_noise_fgsm_leaves_the_ball_in_training_only():
    model, (x, y), threat = conv().eval(), examples(), hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    points = NoiseFGSM().points(
        model, x, y, threat, generator=generator, loss=hf.CrossEntropy(), inside=False
    )
    far = (points - x).abs().amax()
    assert 0.1 < float(far) <= 0.3 + 1e-6
    assert ((points >= 0) & (points <= 1)).all()
    assert threat.contains(NoiseFGSM().run(model, x, y, threat).x, x).all()
    fixed = hf.LpBall("inf", 0.1, fixed=torch.arange(16) < 3)
    points = NoiseFGSM().points(model, x, y, fixed, generator=generator, loss=hf.CrossEntropy(), inside=False)
    assert torch.equal(points[:, :3], x[:, :3])


def test_a_step_from_a_random_start_goes_by_the_radius():
    model, (x, y) = nn.Linear(16, 3), examples()
    for radius in (0.01, 0.3):
        threat, first, second = (
            hf.LpBall("inf", radius),
            *(torch.Generator().manual_seed(5) for _ in range(2)),
        )
        found = RandomStartFGSM().points(model, x, y, threat, generator=first, loss=hf.CrossEntropy())
        same = hf.FGSM(step_size=1.25 * radius, start="random").points(
            model, x, y, threat, generator=second, loss=hf.CrossEntropy()
        )
        assert torch.equal(found, same)


# ---- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_same_by_option_by_file_and_from_python(name, tmp_path):
    config, _ = read_config(["--recipe", name])
    file = tmp_path / "run.yaml"
    file.write_text(f"recipe: {name}\n")
    assert read_config([str(file)])[0] == config == from_dict(to_dict(config))
    options, recipe = build(config).options, build_recipe(name)
    assert [
        options[key] for key in ("attack", "objective", "weight_perturbation", "averaging", "schedule")
    ] == [
        recipe.attack,
        recipe.objective,
        recipe.perturbation,
        recipe.averaging,
        recipe.schedule,
    ]
    run, _ = trained(recipe=name, epochs=1)
    assert math.isfinite(run.metrics[-1]["online_loss"])
    assert run.summary["objective"] == recipe.objective.name
    assert run.summary["attack"] == recipe.attack.name


def test_options_stand_over_the_file_over_the_recipe(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("recipe: trades\nobjective: {name: trades, beta: 3}\n")
    config, _ = read_config([str(file), "--attack.steps", "4"])
    assert (config.objective.beta, config.attack.steps, config.attack.start) == (3.0, 4, "gaussian")
    config, _ = read_config([str(file), "--objective", "mart"])
    assert config.objective.name == "mart"
    assert build(from_dict({"recipe": "awp"})).options["weight_perturbation"] == hf.AWP(0.01)
    assert build(RunConfig()).options["weight_perturbation"] == NoPerturbation()


def test_what_is_given_stands_over_a_recipe_even_where_it_is_the_default(monkeypatch):
    config, _ = read_config(["--recipe", "ibp", "--training.start", "initial", "--objective.clean", "0.2"])
    options = build(config).options
    assert (options["start"], options["objective"].clean) == ("initial", 0.2)
    assert "recipe" not in options  # nothing is resolved a second time
    drawn = []
    monkeypatch.setattr("holdfast.jobs.start.interval_start", lambda model, seed: drawn.append(seed))
    trained(recipe="ibp", start="initial", epochs=1)
    assert not drawn
    trained(recipe="ibp", epochs=1)
    assert drawn == [0]


def test_a_recipe_that_is_none_names_the_one_meant():
    with pytest.raises(
        InputError, match=r"recipe must be pgd, trades, .*, got 'trade'; did you mean trades\?"
    ):
        read_config(["--recipe", "trade"])
    with pytest.raises(InputError, match="did you mean 'trades'"):
        trained(recipe="trade")
