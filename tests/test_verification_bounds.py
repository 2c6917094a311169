"""Bounds hold at sampled and attacked points, get tighter from method to method, and are exact where they can be."""

import math

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast import _deadline
from holdfast.errors import InputError
from holdfast.verification import crown, methods, verify
from holdfast.verification.region import region_of
from verification_cases import BALLS, NETWORKS, examples, margins, network, predictions

METHODS = ("ibp", "crown-ibp", "crown", "alpha")
# Drawn, and as many extreme ones, for each of 13 networks, 4 threats and 4 examples: 104,000 points.
SAMPLES = 250


@pytest.mark.parametrize("name", NETWORKS)
def test_no_point_falls_below_its_bound_and_dearer_methods_are_tighter(name):
    net, x = network(name), examples()
    y = predictions(net, x)
    for threat in BALLS:
        generator = torch.Generator().manual_seed(4)
        wide = x.repeat_interleave(SAMPLES, 0)
        points = torch.cat(
            [
                threat.sample(wide, generator=generator),
                threat.maximise(torch.randn(wide.shape, dtype=x.dtype, generator=generator), wide),
            ]
        )
        sampled = net(points).detach().reshape(2, len(x), SAMPLES, -1)
        adversarial = hf.PGD(steps=10).run(net, x, y, threat).x
        attacked = margins(net(adversarial).detach(), y)
        least = margins(sampled.transpose(1, 2).flatten(0, 2), y.repeat(2 * SAMPLES))
        least = torch.minimum(least.reshape(2 * SAMPLES, len(x), -1).amin(0), attacked)
        before = None
        for method in METHODS:
            proof = verify(net, x, y, threat, method, steps=2)
            assert (proof.margins <= least).all(), (threat.spec, method)
            assert (proof.outputs_lower <= sampled.amin((0, 2))).all()
            assert (proof.outputs_upper >= sampled.amax((0, 2))).all()
            if before is not None:
                assert (proof.margin_lower_bound >= before - 1e-9).all(), (threat.spec, method)
            before = proof.margin_lower_bound


@pytest.mark.parametrize("threat", BALLS, ids=lambda threat: threat.spec)
@pytest.mark.parametrize("method", METHODS)
def test_a_linear_network_is_bounded_exactly(threat, method):
    """Two affine layers in a row; the least margin by the threat's own linear maximiser."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3)).double()
    x = examples()
    y = torch.tensor([0, 1, 2, 0])
    weight = net[2].weight @ net[1].weight
    for j in range(3):
        towards = (weight[j] - weight[y]).detach().reshape(x.shape)
        worst = threat.maximise(towards, x)
        exact = margins(net(worst).detach(), y)[:, j]
        found = verify(net, x, y, threat, method).margins[:, j]
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-11)
        assert (found <= exact + 1e-14).all()


def test_one_hidden_relu_layer_by_hand():
    """``f = relu(x) - relu(-x + 1/2)`` on [-1, 1]: lines by hand, lower slopes 1 at a tie and for the wider side."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[0].bias.copy_(torch.tensor([0.0, 0.5]))
        net[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
        net[2].bias.zero_()
    proof = verify(net, torch.zeros(1, 1).double(), torch.tensor([1]), hf.LpBall("inf", 1.0), "crown")
    # relu(u) >= u; relu(v) <= 0.75 (v + 0.5) for v = 0.5 - x in [-0.5, 1.5]: f >= x - 0.75 (1 - x), least at -1
    assert float(proof.margin_lower_bound) == pytest.approx(-2.5, abs=1e-12)


@pytest.mark.parametrize("name", ["relu", "smooth", "max pool", "two-layer"])
@pytest.mark.parametrize("norm", ["inf", "2", "1"])
def test_bounds_fall_with_the_radius_and_meet_the_network_at_0(name, norm):
    net, x = network(name), examples()
    y = predictions(net, x)
    before = torch.full((len(x),), math.inf, dtype=torch.float64)
    for radius in (0.0, 0.02, 0.1, 0.4):
        threat = hf.LpBall(norm, radius, bounds=(0, 1))
        now = verify(net, x, y, threat, "crown").margin_lower_bound
        if radius == 0:
            clean = margins(net(x).detach(), y)
            clean = clean.scatter(1, y[:, None], math.inf).amin(1) if clean.shape[1] > 1 else clean[:, 0]
            torch.testing.assert_close(now, clean, rtol=1e-9, atol=1e-9)
        assert (now <= before + 1e-9).all()
        before = now


@pytest.mark.parametrize("name", ["relu", "smooth", "max pool"])
@pytest.mark.parametrize("method", METHODS)
def test_an_example_is_bounded_alike_alone_and_in_a_batch(name, method):
    net, x, threat = network(name), examples(5), BALLS[1]
    y = predictions(net, x)
    together = verify(net, x, y, threat, method, steps=3).margins
    apart = torch.cat(
        [verify(net, x[i : i + 1], y[i : i + 1], threat, method, steps=3).margins for i in range(5)]
    )
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@pytest.mark.parametrize("norm", ["inf", "2", "1"])
def test_the_least_value_over_a_set_is_the_maximisers(norm, bounds):
    """Two routes: the dual split against the primal maximiser; fixed features count."""
    fixed = torch.zeros(1, 4, 4, dtype=torch.bool)
    fixed[0, 1] = True
    threat = hf.LpBall(norm, 0.7, bounds=bounds, fixed=fixed)
    x = examples()
    region = region_of(threat, x)
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(len(x), 6, 16, dtype=torch.float64, generator=generator)
    rows[:, :, 3] = 0
    primal = (rows * region.minimiser(rows)).sum(2)
    bound = region.minimum(rows)
    assert (bound <= primal + 1e-13).all()
    torch.testing.assert_close(bound, primal, rtol=0, atol=1e-8)
    assert (region.lower <= x.flatten(1)).all()
    assert (region.upper >= x.flatten(1)).all()


def test_other_threats_hold_too():
    net, x = network("relu"), examples()
    y = predictions(net, x)
    threat = hf.SphereSlice(0.2)
    proof = verify(net, x, y, threat, "crown")
    wide = x.repeat_interleave(300, 0)
    points = threat.sample(wide, generator=torch.Generator().manual_seed(0))
    least = margins(net(points).detach(), y.repeat_interleave(300)).reshape(len(x), 300, -1).amin(1)
    assert (proof.margins <= least).all()
    ball = verify(net, x, y, hf.LpBall("2", 0.2), "crown").margin_lower_bound
    assert (proof.margin_lower_bound >= ball - 1e-9).all()


def test_auto_stops_where_a_cheaper_method_suffices_and_agrees_with_the_dearest():
    net, x = network("relu"), examples(12, seed=9)
    y = predictions(net, x)
    y[0] = (y[0] + 1) % 3
    threat = hf.LpBall("inf", 0.12, bounds=(0, 1))
    auto = verify(net, x, y, threat, "auto", steps=10)
    alpha = verify(net, x, y, threat, "alpha", steps=10)
    assert (auto.verified | ~alpha.verified).all()
    assert auto.methods[0] == "ibp"
    assert not auto.verified[0]
    assert len(set(auto.methods)) > 1
    for proof in (auto, alpha):
        assert torch.equal(proof.verified, proof.margin_lower_bound > 0)
        assert proof.verified_accuracy == float(proof.verified.double().mean())


def test_losses_are_bounded_through_margins():
    x = examples()
    for name in ("relu", "two-layer erf"):
        net = network(name)
        y = predictions(net, x)
        proof = verify(net, x, y, BALLS[0])
        for loss in (hf.CrossEntropy(), hf.Hinge()):
            worst = hf.PGD(steps=20).run(net, x, y, BALLS[0], loss=loss).loss
            assert (proof.loss_upper_bound(loss) >= worst).all()
        point = verify(net, x, y, BALLS[0].with_radius(0.0))
        torch.testing.assert_close(
            point.loss_upper_bound(), hf.CrossEntropy()(net(x).detach(), y), rtol=1e-6, atol=1e-9
        )
        with pytest.raises(InputError, match="squared"):
            proof.loss_upper_bound(hf.Squared())


def test_float32_models_are_bounded_as_real_functions():
    net, x = network("relu").float(), examples().float()
    y = predictions(net, x)
    single = verify(net, x, y, BALLS[0])
    double = verify(network("relu"), x.double(), y, BALLS[0])
    assert single.margins.dtype == torch.float64
    torch.testing.assert_close(single.margins, double.margins, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"method": "exact"}, "method"),
        ({"steps": 0}, "steps"),
        ({"seconds": -1.0}, "seconds"),
        ({"y": torch.tensor([0, 1])}, "labels"),
    ],
)
def test_bad_arguments_are_refused(change, word):
    x = examples()
    arguments = {"y": torch.tensor([0, 1, 2, 0]), "method": "crown"} | change
    with pytest.raises(InputError, match=word):
        verify(network("relu"), x, threat=BALLS[0], **arguments)


def test_leaving_out_columns_of_units_that_are_off_changes_nothing(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 100), nn.ReLU(), nn.Linear(100, 80), nn.ReLU(), nn.Linear(80, 3)
    )
    with torch.no_grad():
        net[1].bias -= 0.6
    x, y = examples().float(), torch.tensor([0, 1, 2, 0])
    short = verify(net, x, y, BALLS[0])
    monkeypatch.setattr(crown, "WORTHWHILE", 0.0)
    passes = []
    monkeypatch.setattr(crown, "_passed_columns", lambda *_: passes.append(1))
    torch.testing.assert_close(verify(net, x, y, BALLS[0]).margins, short.margins, rtol=0, atol=1e-12)
    assert not passes
    monkeypatch.setattr(crown, "WORTHWHILE", 0.8)
    with pytest.raises(TypeError):
        verify(net, x, y, BALLS[0])


def test_a_network_that_is_not_finite_or_batches_that_do_not_fit_are_refused():
    x, threat = examples(), BALLS[0]
    net = network("relu")
    with pytest.raises(InputError, match="finite"):
        verify(net, x * math.nan, torch.zeros(4, dtype=torch.long), threat)
    with pytest.raises(InputError, match="outside"):
        verify(net, x + 5, torch.zeros(4, dtype=torch.long), threat)


def test_inference_mode_changes_nothing():
    net = network("softplus")
    with torch.inference_mode():
        x = examples()
        inside = verify(net, x, torch.tensor([0, 1, 2, 0]), BALLS[1], "alpha", steps=2)
    outside = verify(net, examples(), torch.tensor([0, 1, 2, 0]), BALLS[1], "alpha", steps=2)
    assert torch.equal(inside.margins, outside.margins)


def test_no_block_begins_after_the_time_is_over(monkeypatch):
    net, x = network("relu"), examples(6)
    y, threat = predictions(net, x), BALLS[0]
    none = verify(net, x, y, threat, "crown", seconds=0.0)
    assert none.methods == ("none",) * 6
    assert not none.verified.any()
    assert (none.margin_lower_bound == -math.inf).all()
    assert verify(net, x, y, threat, "crown", seconds=1e6).methods == ("crown",) * 6
    # Two blocks of two fit in the time; a clock that a block moves on by a second.
    clock = [0.0]
    monkeypatch.setattr(_deadline.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(methods, "block_size", lambda graph: 2)
    calls = []

    def progress(*call):
        calls.append(call)
        clock[0] += 1

    partly = verify(net, x, y, threat, "crown", seconds=1.5, progress=progress)
    assert partly.methods == ("crown",) * 4 + ("none",) * 2
    assert calls == [("crown", 2, 6), ("crown", 4, 6)]
    full = verify(net, x, y, threat, "crown")
    torch.testing.assert_close(partly.margins[:4], full.margins[:4], rtol=1e-12, atol=1e-12)


def test_auto_reaches_all_examples_with_a_cheap_method_before_a_dearer_one_begins(monkeypatch):
    net, x = network("relu"), examples(12, seed=9)
    monkeypatch.setattr(methods, "block_size", lambda graph: 3)
    calls = []
    verify(
        net,
        x,
        predictions(net, x),
        hf.LpBall("inf", 0.6, bounds=(0, 1)),
        "auto",
        progress=lambda *c: calls.append(c),
    )
    order = [name for name, _, _ in calls]
    assert [name for name, before in zip(order, [None, *order], strict=False) if name != before] == list(
        methods.CASCADE
    )
    assert calls[3] == ("ibp", 12, 12)
