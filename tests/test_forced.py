"""Data that force capacity: what each says of itself, checked by the exact separation and by networks built by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast as hf
from holdfast.data.named import load
from holdfast.errors import InputError


@given(dimension=st.integers(1, 12), extra=st.integers(-3, 3), norm=st.sampled_from(["1", "2", "inf"]))
@settings(max_examples=30, deadline=None)
def test_forced_data_are_one_apart_in_every_norm(dimension, extra, norm):
    examples = max(2, dimension + 1 + extra)
    data = hf.data.forced(examples, dimension)
    assert len(data.y) == examples
    assert int((data.y == 1).sum()) == 1
    assert hf.data.separation(data.x, data.y, norm=norm).distance == 1.0


def test_forced_data_are_fitted_by_a_unit_a_direction_at_any_ratio_below_one():
    data = hf.data.forced(dimension=5)
    net = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(5))
        net[0].bias.fill_(-0.5)
        net[2].weight.fill_(-1.0)
        net[2].bias.fill_(0.002)
    proof = hf.verify(net, data.x.double(), data.y, hf.LpBall("2", 0.49), method="crown")
    assert proof.verified.all()


@given(
    pairs=st.integers(1, 3), dimension=st.integers(2, 5), number=st.integers(0, 2**15), seed=st.integers(0, 5)
)
@settings(max_examples=40, deadline=None)
def test_shattered_points_lie_in_balls_of_their_own_label(pairs, dimension, number, seed):
    labelling = number % 2 ** (pairs * dimension)
    data = hf.data.shattering(pairs, dimension, labelling=labelling, distance=0.7, dtype=torch.float64)
    distance = hf.data.separation(data.x, data.y, norm="2").distance
    assert distance == pytest.approx(0.7, rel=1e-9)
    points, labels = hf.data.shattered_points(pairs, dimension, labelling=labelling, distance=0.7)
    radius = math.sqrt(1 - 1 / dimension) * distance / 2
    inside = torch.cdist(points, data.x) <= radius * (1 + 1e-9)
    for point, label in zip(inside, labels, strict=True):
        assert set(data.y[point].tolist()) == {int(label)}
    assert labels.tolist() == [labelling >> k & 1 for k in range(pairs * dimension)]


def test_a_smaller_ratio_does_not_reach_the_shattered_points():
    data = hf.data.shattering(1, 4, labelling=5, dtype=torch.float64)
    points, _ = hf.data.shattered_points(1, 4, labelling=5)
    radius = 0.99 * math.sqrt(3 / 4) / 2
    assert not (torch.cdist(points, data.x) <= radius).any()


def test_separated_points_are_apart_and_take_any_labelling():
    data = hf.data.separated(12, 5, separation=0.6, labelling=1365)
    assert data.y.tolist() == [1365 >> k & 1 for k in range(12)]
    distances = torch.cdist(data.x.double(), data.x.double()) + 9 * torch.eye(12)
    assert float(distances.min()) >= 0.6
    assert not torch.equal(data.x, hf.data.separated(12, 5, separation=0.6, seed=1).x)
    assert torch.equal(hf.data.separated(9, 4, seed=3).y, hf.data.separated(9, 4, seed=3).y)


def test_they_go_by_word():
    assert load("forced", dimension=3, seed=1).x.shape == (4, 3)
    assert load("shattering", pairs=1, dimension=2, features="pixels").classes == 2
    assert load("separated", examples=5, classes=3).classes == 3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: hf.data.forced(1, 3), "examples must be a whole number >= 2"),
        (lambda: hf.data.shattering(0, 3), "pairs must be a whole number >= 1"),
        (lambda: hf.data.shattering(1, 2, labelling=4), r"0 to 2\^2 - 1, got 4"),
        (lambda: hf.data.separated(4, 3, labelling=0), "every one of 2 classes"),
        (lambda: hf.data.separated(60, 2, separation=1.0), "room for 60 points"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(make, said):
    with pytest.raises(InputError, match=said) as caught:
        make()
    assert str(caught.value).count(". ") == 0
