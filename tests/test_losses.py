"""Losses: convexity, slopes and constants, which the certificate takes on trust."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import InputError
from holdfast.losses import (
    LOSSES,
    CrossEntropy,
    Hinge,
    Huber,
    Squared,
    correct,
    loss_named,
    predictions,
)

ALL = [CrossEntropy(), CrossEntropy(label_smoothing=0.1), Hinge(), Squared(), Huber(), Huber(delta=0.3)]
NAMES = [f"{loss.name}-{k}" for k, loss in enumerate(ALL)]
SIZES = (1, 2, 5)

each_loss = pytest.mark.parametrize("loss", ALL, ids=NAMES)
each_size = pytest.mark.parametrize("outputs", SIZES)


def drawn(outputs, seed, scale=3.0, rows=64):
    random = torch.Generator().manual_seed(seed)
    f, h = (scale * torch.randn(rows, outputs, generator=random, dtype=torch.float64) for _ in range(2))
    return f, h, torch.randint(0, max(2, outputs), (rows,), generator=random)


seeds = st.integers(0, 10_000)
scales = st.sampled_from([0.1, 1.0, 10.0, 300.0])


@each_size
@each_loss
@given(seed=seeds, scale=scales, share=st.floats(0, 1))
def test_convex_along_segments(loss, outputs, seed, scale, share):
    f, h, y = drawn(outputs, seed, scale)
    between = loss(share * f + (1 - share) * h, y)
    assert (between <= share * loss(f, y) + (1 - share) * loss(h, y) + 1e-9 * scale**2).all()


@each_size
@each_loss
@given(seed=seeds, scale=scales)
def test_the_slope_is_a_subgradient(loss, outputs, seed, scale):
    f, h, y = drawn(outputs, seed, scale)
    assert (loss(f, y) >= loss(h, y) + (loss.slope(h, y) * (f - h)).sum(1) - 1e-9 * scale**2).all()


@each_size
@each_loss
def test_the_slope_is_a_subgradient_at_kinks_and_ties(loss, outputs):
    f, _, y = drawn(outputs, 3)
    for value in (0.0, 1.0, -1.0):
        h = torch.full_like(f, value)
        assert (loss(f, y) >= loss(h, y) + (loss.slope(h, y) * (f - h)).sum(1) - 1e-9).all()


@each_size
@each_loss
def test_the_slope_agrees_with_autograd(loss, outputs):
    f, _, y = drawn(outputs, 5)
    f.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(f, y).sum(), f)
    torch.testing.assert_close(loss.slope(f.detach(), y), gradient, rtol=1e-12, atol=1e-12)


@each_size
@each_loss
@given(seed=seeds, scale=scales)
def test_no_loss_is_negative(loss, outputs, seed, scale):
    f, _, y = drawn(outputs, seed, scale)
    assert loss.nonnegative
    assert (loss(f, y) >= 0).all()


@each_size
@each_loss
@given(seed=seeds, scale=scales)
def test_lipschitz_constants_hold(loss, outputs, seed, scale):
    f, h, y = drawn(outputs, seed, scale)
    if loss.lipschitz is None:
        assert isinstance(loss, Squared)
        return
    moved = (f - h).norm(dim=1)
    assert ((loss(f, y) - loss(h, y)).abs() <= loss.lipschitz * moved * (1 + 1e-9) + 1e-9).all()
    assert (loss.slope(f, y).norm(dim=1) <= loss.lipschitz * (1 + 1e-12)).all()


def test_lipschitz_constants_are_not_larger_than_needed():
    sure = torch.tensor([[60.0, -60.0]], dtype=torch.float64)
    for loss in (CrossEntropy(), Hinge()):
        slope = loss.slope(sure, torch.tensor([1])).norm()
        assert float(slope) == pytest.approx(loss.lipschitz)
    assert float(Huber(delta=0.3).slope(sure, torch.tensor([1])).norm()) == pytest.approx(0.3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_signed_output_is_cross_entropy_of_outputs_zero_and_f(smoothing):
    f, _, y = drawn(1, 7, scale=20.0)
    loss = CrossEntropy(label_smoothing=smoothing)
    pair = torch.cat([torch.zeros_like(f), f], 1)
    torch.testing.assert_close(loss(f, y), loss(pair, y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss.slope(f, y)[:, 0], loss.slope(pair, y)[:, 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_that_of_torch(smoothing):
    f, _, y = drawn(5, 11)
    expected = torch.nn.functional.cross_entropy(f, y, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(CrossEntropy(label_smoothing=smoothing)(f, y), expected)


def test_values_worked_out_by_hand():
    two = torch.tensor([[2.0], [2.0], [-0.5]], dtype=torch.float64)
    y = torch.tensor([1, 0, 1])
    assert Hinge()(two, y).tolist() == [0.0, 3.0, 1.5]
    assert Squared()(two, y).tolist() == [0.5, 4.5, 1.125]
    assert Huber(delta=1.0)(two, y).tolist() == [0.5, 2.5, 1.0]
    logistic = [math.log1p(math.exp(-2)), math.log1p(math.exp(2)), math.log1p(math.exp(0.5))]
    assert CrossEntropy()(two, y).tolist() == pytest.approx(logistic, rel=1e-14)
    three = torch.tensor([[1.0, 0.5, -2.0]], dtype=torch.float64)
    assert Hinge()(three, torch.tensor([0])).tolist() == [0.5]
    assert Hinge()(three, torch.tensor([2])).tolist() == [4.0]
    assert Squared()(three, torch.tensor([0])).tolist() == [0.5 * (0.25 + 4)]


def test_the_logistic_loss_is_exact_far_out():
    far = torch.tensor([[40.0], [-800.0]], dtype=torch.float64)
    value = CrossEntropy()(far, torch.tensor([1, 1]))
    assert float(value[0]) == pytest.approx(math.exp(-40), rel=1e-12)
    assert float(value[1]) == 800.0


def test_predictions_and_correct_answers():
    one = torch.tensor([[0.1], [-0.1], [0.0], [0.0]])
    assert predictions(one).tolist() == [1, 0, 0, 0]
    assert correct(one, torch.tensor([1, 0, 1, 0])).tolist() == [True, True, False, False]
    three = torch.tensor([[0.0, 1.0, 0.5], [2.0, 2.0, 0.0], [float("nan"), 0.0, 1.0]])
    assert predictions(three[:1]).tolist() == [1]
    assert correct(three, torch.tensor([1, 0, 0])).tolist() == [True, False, False]
    assert correct(three[:1], torch.tensor([2])).tolist() == [False]


def test_names_lead_back_to_losses():
    assert all(LOSSES[loss.name] is type(loss) for loss in ALL)
    assert loss_named("logistic") == CrossEntropy()
    with pytest.raises(InputError, match="focal"):
        loss_named("focal")


@pytest.mark.parametrize("make", [lambda: CrossEntropy(label_smoothing=1.0), lambda: Huber(delta=0.0)])
def test_constants_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="must"):
        make()
