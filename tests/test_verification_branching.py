"""Branch and bound decides as an integer programme does, its parts' bounds hold where their signs do, and refuting points refute."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

import holdfast as hf
from holdfast.verification import branching, crown, methods, verify
from holdfast.verification.alpha import optimised_margins
from holdfast.verification.branching import branch, kinks
from holdfast.verification.margins import margin_rows
from holdfast.verification.region import region_of
from holdfast.verification.tracing import trace
from verification_cases import margins, predictions


def _network(seed, widths=(3, 7, 6, 3), activation=nn.ReLU):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        net = nn.Sequential(*layers[:-1]).double()
        with torch.no_grad():
            for value in net.parameters():
                value.mul_(2)
            middle = torch.rand(64, widths[0], dtype=torch.float64)
            net[-1].bias -= net(middle).mean(0)
    return net


def _examples(count, features=3, seed=3):
    return torch.rand(count, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _exact(net, x, threat, row):
    """The least value of ``<row, net>`` over a box by an integer programme: a binary number for the side of each ReLU."""
    box = [threat.maximise(sign * torch.ones_like(x), x)[0].numpy() for sign in (-1, 1)]
    layers = [
        (each.weight.detach().numpy(), each.bias.detach().numpy())
        for each in net
        if isinstance(each, nn.Linear)
    ]
    hidden = [len(bias) for _, bias in layers[:-1]]
    total = len(box[0]) + 2 * sum(hidden)
    low, high = np.zeros(total), np.full(total, np.inf)
    low[: len(box[0])], high[: len(box[0])] = box
    whole = np.zeros(total)
    kept, begin, at = [], 0, len(box[0])
    before = (box[0], box[1])
    for weight, bias in layers[:-1]:
        size = len(bias)
        centre, radius = (before[0] + before[1]) / 2, (before[1] - before[0]) / 2
        under, over = (
            weight @ centre + bias - np.abs(weight) @ radius,
            weight @ centre + bias + np.abs(weight) @ radius,
        )
        for unit in range(size):
            row_u = np.zeros(total)
            row_u[begin : begin + weight.shape[1]] = weight[unit]
            z, d = at + unit, at + size + unit
            high[d], whole[d] = 1, 1
            least, most = np.zeros(total), np.zeros(total)
            least[z], most[z] = 1, 1
            span = max(over[unit], 0)
            most[d] = -span
            kept.append(LinearConstraint(least - row_u, bias[unit], np.inf))
            kept.append(LinearConstraint(most, -np.inf, 0))
            slack = least - row_u
            slack[d] = -min(under[unit], 0)
            kept.append(LinearConstraint(slack, -np.inf, bias[unit] - min(under[unit], 0)))
        begin, at = at, at + 2 * size
        before = (np.maximum(under, 0), np.maximum(over, 0))
    objective = np.zeros(total)
    weight, bias = layers[-1]
    objective[begin : begin + weight.shape[1]] = row.numpy() @ weight
    solved = milp(
        objective, constraints=kept, integrality=whole, bounds=Bounds(low, high), options={"mip_rel_gap": 0}
    )
    return solved.fun + float(row.numpy() @ bias)


@pytest.mark.parametrize("seed", range(3))
def test_the_decision_is_that_of_an_integer_programme(seed, monkeypatch):
    net, x = _network(seed), _examples(4)
    y = predictions(net, x)
    seen = set()
    # With no more than the bounds' own points to refute by, so that parts are searched.
    monkeypatch.setattr(methods, "ATTACK", hf.PGD(steps=1, step_size=1e-9))
    for radius in (0.05, 0.15, 0.4):
        threat = hf.LpBall("inf", radius, bounds=(0.0, 1.0))
        exact = torch.tensor(
            [
                min(_exact(net, x[i : i + 1], threat, row) for row in margin_rows(y[i : i + 1], 3)[0])
                for i in range(len(x))
            ],
            dtype=torch.float64,
        )
        proof = verify(net, x, y, threat, "branch")
        assert torch.equal(proof.verified, exact > 0), (radius, exact)
        refuted = ~proof.counterexample.isnan().any(1)
        assert torch.equal(refuted, exact <= 0)
        assert (proof.margin_lower_bound <= exact + 1e-7).all()
        assert threat.contains(proof.counterexample[refuted], x[refuted]).all()
        wrong = net(proof.counterexample[refuted]).argmax(1)
        assert (wrong != y[refuted]).all()
        seen.update(proof.verified.tolist())
    assert seen == {True, False}


def test_a_claim_as_tight_as_can_be_is_decided_on_either_side():
    """The outputs are shifted so that the least value is just above or below 0: only the last leaves can tell."""
    net, x = _network(5), _examples(1)
    threat = hf.LpBall("inf", 0.3, bounds=(0.0, 1.0))
    row = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    least = _exact(net, x, threat, row)
    for shift in (1e-5, -1e-5):
        moved = _network(5)
        with torch.no_grad():
            moved[-1].bias[0] += shift - least
        graph, region = trace(moved, x), region_of(threat, x)
        outcome = branch(graph, region, row, x, -torch.inf)
        assert (outcome.bound > 0) == (shift > 0)
        assert (outcome.point is None) == (shift > 0)
        assert outcome.bound <= shift + 1e-7


@pytest.mark.parametrize("activation", [nn.ReLU, lambda: nn.LeakyReLU(0.2)])
@pytest.mark.parametrize("norm", ["inf", "2"])
def test_bounds_of_parts_hold_where_their_signs_do(activation, norm):
    net, x = _network(7, activation=activation), _examples(1)
    threat = hf.LpBall(norm, 0.4, bounds=(0.0, 1.0))
    graph = trace(net, x)
    generator = torch.Generator().manual_seed(0)
    points = threat.sample(x.expand(4000, -1), generator=generator)
    inputs = {0: net[0](points), 1: net[2](net[1](net[0](points)))}
    row = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    values = (net(points) @ row[0]).detach()
    for _ in range(12):
        one = int(torch.randint(len(points), (1,), generator=generator))
        signs = torch.cat([value[one : one + 1].sign() for value in inputs.values()], 1).to(torch.int8)
        signs[torch.rand(1, 13, generator=generator) < 0.5] = 0
        there = torch.ones(len(points), dtype=torch.bool)
        for piece, value in zip(torch.split(signs, [7, 6], 1), inputs.values(), strict=True):
            there &= (value * piece[0] >= 0).all(1)
        part = branching._Part.of(graph, region_of(threat, x), row[0], signs, kinks(graph))
        longer = optimised_margins(part.state, part.rows, 12, part.signs)
        assert there[one]
        assert float(part.bounds) <= float(values[there].min())
        assert float(longer) <= float(values[there].min())


def test_signs_that_no_point_has_leave_an_empty_part():
    net, x = _network(1), _examples(1)
    graph, threat = trace(net, x), hf.LpBall("inf", 0.01)
    known = crown.analyse(graph, region_of(threat, x)).bounds[next(iter(kinks(graph)))]
    signs = torch.zeros(1, 13, dtype=torch.int8)
    unit = int(known.lower[0].abs().argmax())
    signs[0, unit] = -1 if float(known.lower[0, unit]) > 0 else 1
    assert not float(known.lower[0, unit]) <= 0 <= float(known.upper[0, unit])
    row = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    part = branching._Part.of(graph, region_of(threat, x), row, signs, kinks(graph))
    assert float(part.bounds) == torch.inf


def test_other_networks_and_sets_are_cut_soundly():
    """l2 sets and smooth units are never decided in the end; what is said still holds."""
    for activation, norm in ((nn.ReLU, "2"), (nn.Tanh, "inf")):
        net, x = _network(2, activation=activation), _examples(3)
        y = predictions(net, x)
        threat = hf.LpBall(norm, 0.2, bounds=(0.0, 1.0))
        proof = verify(net, x, y, threat, "branch", seconds=20.0)
        points = threat.sample(x.repeat_interleave(2000, 0), generator=torch.Generator().manual_seed(0))
        least = margins(net(points).detach(), y.repeat_interleave(2000)).reshape(3, 2000, -1).amin(1)
        assert (proof.margins <= least).all()
        assert (proof.margins >= verify(net, x, y, threat, "crown").margins - 1e-9).all()


def test_auto_branches_where_the_time_is_limited_and_the_network_small(monkeypatch):
    net, x = _network(0), _examples(6)
    y, threat = predictions(net, x), hf.LpBall("inf", 0.15, bounds=(0.0, 1.0))
    auto = verify(net, x, y, threat, "auto", seconds=60.0)
    full = verify(net, x, y, threat, "branch")
    assert torch.equal(auto.verified, full.verified)
    assert "branch" in auto.methods
    assert "branch" not in verify(net, x, y, threat, "auto").methods
    monkeypatch.setattr(methods, "UNITS", 12)
    assert "branch" not in verify(net, x, y, threat, "auto", seconds=60.0).methods


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
def test_networks_without_a_kink_are_answered(norm):
    """Affine ones are decided, by a proof or by a point; smooth ones get CROWN's bounds and an attack."""
    torch.manual_seed(0)
    threat = hf.LpBall(norm, 0.3, bounds=(0.0, 1.0))
    x = _examples(6)
    for last in (nn.Identity(), nn.Tanh(), nn.Softplus()):
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3), last).double()
        y = predictions(net, x)
        proof, plain = verify(net, x, y, threat, "branch"), verify(net, x, y, threat, "crown")
        refuted = ~proof.counterexample.isnan().any(1)
        assert not (proof.verified & refuted).any()
        assert (proof.margins >= plain.margins - 1e-12).all()
        assert (net(proof.counterexample[refuted]).argmax(1) != y[refuted]).all()
        if isinstance(last, nn.Identity):
            assert (proof.verified | refuted).all()


def test_branching_stops_when_the_time_is_over(monkeypatch):
    net, x = _network(4, (10, 60, 60, 3)), _examples(1, 10)
    y, threat = predictions(net, x), hf.LpBall("inf", 0.5, bounds=(0.0, 1.0))
    monkeypatch.setattr(methods, "refuting", lambda *_: None)
    monkeypatch.setattr(branching, "refuting", lambda *_: None)
    proof = verify(net, x, y, threat, "branch", seconds=0.5)
    assert proof.methods == ("branch",)
    assert not proof.verified.any()
    assert proof.margin_lower_bound.isfinite().all()
    assert proof.counterexample.isnan().all()


def test_signed_outputs_are_decided_too():
    net, x = _network(6, (3, 8, 6, 1)), _examples(4)
    y = predictions(net, x)
    for radius in (0.02, 0.3):
        threat = hf.LpBall("inf", radius, bounds=(0.0, 1.0))
        proof = verify(net, x, y, threat, "branch")
        refuted = ~proof.counterexample.isnan().any(1)
        exact = torch.tensor(
            [
                _exact(net, x[i : i + 1], threat, torch.tensor([2.0 * y[i] - 1], dtype=torch.float64))
                for i in range(4)
            ],
            dtype=torch.float64,
        )
        assert torch.equal(proof.verified, exact > 0)
        assert torch.equal(refuted, exact <= 0)
