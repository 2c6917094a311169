"""Smallest widths and the bounds below them: exact margins against sampling and other routes, and the gap on forced data."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast._tensors import generator
from holdfast.errors import InputError
from holdfast.lab.capacity.exact import Hinges, least
from holdfast.lab.capacity.nets import Shape, drawn, stacked
from holdfast.lab.capacity.proof import prove
from holdfast.lab.capacity.training import margins_of, relaxed_margins
from holdfast.theory import capacity as theory
from holdfast.theory.projected import excluded, projected_width
from holdfast.theory.sign_patterns import log2_labellings, parameters, shattering_width


def hinges(seed, units=6, features=3):
    random = np.random.default_rng(seed)
    return Hinges(
        a=random.normal(size=units),
        w=random.normal(size=(units, features)),
        b=0.4 * random.normal(size=units),
        c=float(random.normal() + 1.5),
    )


def lowest_sampled(f, norm, radius, count=20_000, seed=0):
    """Least value over many points of the ball around 0, half of them on its edge."""
    ball = hf.LpBall(norm, radius)
    points = ball.sample(torch.zeros(count, f.w.shape[1], dtype=torch.float64), generator=generator(seed))
    directions = torch.nn.functional.normalize(
        torch.randn(count, f.w.shape[1], generator=generator(seed + 1)).double()
    )
    edge = ball.project(10 * directions, torch.zeros_like(directions))
    x = torch.cat([points, edge]).numpy()
    return float((np.maximum(x @ f.w.T + f.b, 0) @ f.a + f.c).min())


@pytest.mark.parametrize("norm", ["2", "inf", "1"])
@given(seed=st.integers(0, 10_000), shift=st.floats(-0.4, 0.4))
@settings(max_examples=12, deadline=None)
def test_exact_margins_decide_and_agree_with_sampling(norm, seed, shift):
    f = hinges(seed)
    below = lowest_sampled(f, norm, 0.7)
    f = dataclasses.replace(f, c=f.c - below + shift)  # now about the least value is the shift
    found = least(f, np.zeros(3), 0.7, norm, 5000)
    assert found.bound <= shift + 1e-9
    if found.point is not None:
        assert f(found.point) <= 0
        assert np.linalg.norm(found.point, ord={"2": 2, "inf": np.inf, "1": 1}[norm]) <= 0.7
        assert not found.bound > 0
    if shift <= 0:
        assert not found.bound > 0
    if shift > 0.2:  # sampling comes that near to the least value in three dimensions
        assert found.bound > 0
    assert found.decided or abs(shift) < 0.2


def test_exact_margins_agree_with_branch_and_bound_for_boxes():
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    ).double()
    x, threat = torch.randn(12, 4).double(), hf.LpBall("inf", 0.5)
    y = model(x).argmax(1)
    other = hf.verify(model, x, y, threat, method="branch", seconds=30.0)
    for k in range(12):
        one = prove(model, x[k : k + 1], y[k : k + 1], threat, parts=2000)
        assert one.outcome != "undecided"
        assert (one.outcome == "verified") == bool(other.verified[k])
    assert 0 < int(other.verified.sum()) < 12


def test_branching_decides_euclidean_balls_too():
    """The dual at the leaves of `holdfast.verification.branching` against the exact search."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)
    ).double()
    x, threat = 0.5 * torch.randn(16, 3).double(), hf.LpBall("2", 0.4)
    y = (model(x)[:, 0] > 0).long()
    exact = [prove(model, x[k : k + 1], y[k : k + 1], threat, parts=2000).outcome for k in range(16)]
    other = hf.verify(model, x, y, threat, method="branch", seconds=60.0)
    refuted = other.counterexample.isfinite().all(1)
    assert [
        "verified" if v else "refuted" if r else "undecided"
        for v, r in zip(other.verified, refuted, strict=True)
    ] == exact
    assert {"verified", "refuted"} == set(exact)


def test_features_that_may_not_change_do_not():
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(2, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1)
    ).double()
    with torch.no_grad():
        for parameter, value in zip(
            model.parameters(), (torch.tensor([[1.0, 9.0]]), 0.5, 1.0, -0.1), strict=True
        ):
            parameter.copy_(torch.as_tensor(value))
    x, y = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([1])
    free = hf.LpBall("2", 0.3)
    held = hf.LpBall("2", 0.3, fixed=torch.tensor([False, True]))
    assert prove(model, x, y, free, parts=100).outcome == "refuted"
    assert prove(model, x, y, held, parts=100).outcome == "verified"


@pytest.mark.parametrize("classes", [2, 3])
def test_relaxed_margins_are_below_margins_at_attacked_points(classes):
    x, y = torch.randn(6, 4, generator=generator(0)), torch.arange(6) % classes
    shape = Shape(features=4, width=7, hidden=1, outputs=1 if classes == 2 else classes)
    nets = stacked([drawn(shape, 4, x, y, generator(1))])
    ball = hf.LpBall("2", 0.3)
    bound = relaxed_margins(nets, x, y, ball).amin(2)
    for seed in range(20):
        points = ball.sample(x.repeat(4, 1), generator=generator(seed)).reshape(4, 6, 4)
        assert (bound <= margins_of(nets(points), y).amin(2) + 1e-4).all()
    for number in range(4):
        module = nets.module(number)
        torch.testing.assert_close(
            module(x.double()).float(), nets(x.expand(4, -1, -1))[number], atol=1e-4, rtol=1e-4
        )


def test_the_bound_on_forced_data_is_that_of_the_paper_by_two_routes():
    for dimension, ratio in ((8, 0.3), (8, 0.9), (12, 0.8), (16, 0.55)):
        data = hf.data.forced(dimension=dimension)
        threat = hf.LpBall("2", ratio / 2)
        expected = math.floor(ratio**2 * dimension) + 1
        assert theory.forced_width(ratio, dimension + 1, dimension).value == expected
        found = theory.first_hidden_width(data, threat)
        assert found.value == expected
        assert found.kind == "proved"
        assert theory.robustness_ratio(data, threat) == pytest.approx(ratio)


@given(seed=st.integers(0, 200), rank=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_no_width_is_excluded_at_which_a_projection_keeps_every_difference_long(seed, rank):
    differences = torch.randn(20, 5, generator=generator(seed)).double()
    basis = torch.linalg.qr(torch.randn(5, rank, generator=generator(seed + 1)).double())[0]
    shortest = float((differences @ basis).square().sum(1).min())
    assert not excluded(differences, rank, 0.999 * shortest, steps=40)


def test_boxes_fixed_features_and_meeting_sets_are_heeded():
    data = hf.data.forced(dimension=8)
    assert projected_width(data.x, data.y, hf.LpBall("2", 0.45))[0] == 7
    boxed, why = projected_width(data.x, data.y, hf.LpBall("2", 0.45, bounds=(0.0, 1.0)))
    assert boxed == 1
    assert "box" in why
    assert projected_width(data.x, data.y, hf.LpBall("2", 0.45, bounds=(-1.0, 2.0)))[0] == 7
    mask = torch.zeros(8, dtype=torch.bool)
    mask[0] = True
    fewer, _ = projected_width(data.x, data.y, hf.LpBall("2", 0.45), mask)
    assert fewer == math.floor(0.81 * 7) + 1
    assert "meet" in projected_width(data.x, data.y, hf.LpBall("2", 0.6))[1]


def test_the_radius_of_a_ratio_gives_that_ratio():
    data = hf.data.spheres(examples=60, seed=2)
    radius = theory.radius_for(data, "2", 0.7)
    assert theory.robustness_ratio(data, hf.LpBall("2", radius)) == pytest.approx(0.7)
    with pytest.raises(InputError, match="rho must be"):
        theory.radius_for(data, "2", -1.0)


def test_labellings_are_counted_from_above():
    # one unit in one dimension: c + a relu(w x + b) > 0 on 3 ordered points gives an interval's end or all or none
    found = {
        tuple((c + a * np.maximum(w * np.arange(3) + b, 0) > 0).tolist())
        for a in (-1, 1)
        for w in (-1, 1)
        for b in np.linspace(-3, 3, 13)
        for c in np.linspace(-3, 3, 13)
    }
    assert len(found) <= 2 ** log2_labellings(1, 3, 1) + 1e-9
    assert shattering_width(6, 8) == 1  # as many parameters as points: nothing is excluded
    widths = [shattering_width(n, 4) for n in (10, 100, 1000)]
    assert widths == sorted(widths)
    assert widths[-1] > 1
    assert parameters(3, 4) == 3 * 5 + 4
    assert parameters(3, 4, 2) == 3 * 5 + 12 + 4


def test_bounds_say_how_they_are_known():
    data = hf.data.forced(dimension=8)
    found = theory.bounds(data, hf.LpBall("2", 0.45))
    assert {b.kind for b in found} == {"proved", "order only"}
    assert all(b.source and b.assumes and b.formula for b in found)
    orders = {b.formula: b.value for b in found if b.kind == "order only"}
    assert orders["n d"] == 72
    assert orders["sqrt(n d)"] == pytest.approx(math.sqrt(72))
    assert theory.shattered_coordinates(math.sqrt(1 - 1 / 4), 8) == 4
    assert theory.shattered_coordinates(0.1, 8) == 1


QUICK = {"seeds": 1, "steps": 400}


def test_robustness_needs_width_where_the_ratio_is_large_and_not_where_it_is_small():
    data = hf.data.forced(dimension=4)
    large = hf.capacity.smallest_width(data, hf.LpBall("2", 0.4), widths=(1, 6), **QUICK)
    assert large.rho == pytest.approx(0.8)
    assert large.plain.median == 1
    assert large.robust.brackets[0].impossible_below == 3
    assert large.robust.median == 6
    assert not any(a.width < 3 for a in large.robust.attempts)
    small = hf.capacity.smallest_width(data, hf.LpBall("2", 0.15), widths=(1,), **QUICK)
    assert small.gap == 1.0
    again = hf.capacity.smallest_width(data, hf.LpBall("2", 0.15), widths=(1,), **QUICK)
    assert again.robust.brackets == small.robust.brackets
    assert json.loads(json.dumps(large.as_dict()))["gap"] == large.gap


@pytest.mark.slow
def test_the_gap_on_forced_data_in_eight_dimensions_from_three_seeds():
    large = hf.capacity.smallest_width(hf.data.forced(dimension=8), hf.LpBall("2", 0.45))
    assert large.plain.spread == (1, 1)
    assert large.robust.complete
    assert large.robust.spread[0] >= 7
    small = hf.capacity.smallest_width(hf.data.forced(dimension=8), hf.LpBall("2", 0.15))
    assert small.robust.spread == (1, 1)


def test_two_hidden_layers_and_several_classes():
    data = hf.data.separated(6, 3, classes=3, separation=0.9, seed=1)
    radius = theory.radius_for(data, "inf", 0.2)
    found = hf.capacity.smallest_width(
        data, hf.LpBall("inf", radius), network="three-layer", widths=(8,), seeds=1, steps=400, restarts=4
    )
    assert found.plain.median == 8
    assert found.robust.attempts[0].outcome == "verified"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network": "four-layer"}, "network must be one of two-layer, three-layer"),
        ({"widths": (0,)}, "widths must be"),
        ({"seeds": 0}, "seeds"),
        ({"threat": hf.LpBall("2", 0.6)}, "must not meet"),
        ({"threat": hf.SphereSlice(0.1)}, "must be an l2, l-inf or l1 ball"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, said):
    given_ = {"threat": hf.LpBall("2", 0.2), "widths": (1,), "seeds": 1} | change
    with pytest.raises(InputError, match=said):
        hf.capacity.smallest_width(hf.data.forced(dimension=3), given_.pop("threat"), **given_)
