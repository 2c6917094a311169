"""Randomised smoothing against the one network whose smoothed version is known: a linear one."""

import math

import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

from holdfast.errors import InputError
from holdfast.verification import smooth


def linear(bias=0.0, outputs=1):
    """``f = 3 x_0 - 4 x_1 + bias``: distance to the boundary ``f / 5``, in one output or as the gap of two."""
    net = nn.Linear(2, outputs).double()
    with torch.no_grad():
        net.weight.zero_()
        net.bias.zero_()
        net.weight[-1] = torch.tensor([3.0, -4.0])
        net.bias[-1] = bias
    return net


@pytest.mark.parametrize("outputs", [1, 2])
def test_radii_approach_the_distance_to_the_boundary_from_below(outputs):
    x = torch.tensor([[0.5, 0.0], [0.0, 0.3], [0.1, 0.0]], dtype=torch.float64)
    distance = torch.tensor([0.3, 0.24, 0.06], dtype=torch.float64)
    y = torch.tensor([1, 0, 0])
    found = smooth(linear(outputs=outputs), x, y, sigma=0.25, samples=20_000, alpha=0.001)
    assert found.predicted.tolist() == [1, 0, 1]
    assert (found.radius <= distance).all()
    assert (found.radius >= distance - 0.02).all()
    assert found.verified(0.2).tolist() == [True, True, False]
    assert found.verified_accuracy(0.0) == pytest.approx(2 / 3)
    assert found.kind == "probabilistic"
    assert found.confidence == 0.999


def test_the_probability_is_clopper_and_pearsons():
    """Against scipy's own exact interval, whose two-sided level is twice the one-sided one."""
    found = smooth(
        linear(), torch.tensor([[10.0, 0.0]]).double(), torch.tensor([1]), sigma=0.1, samples=500, alpha=0.01
    )
    interval = binomtest(500, 500).proportion_ci(confidence_level=0.98, method="exact")
    assert float(found.probability) == pytest.approx(interval.low)
    assert float(found.radius) == pytest.approx(0.1 * norm.ppf(0.01 ** (1 / 500)))


def test_it_abstains_on_the_boundary():
    found = smooth(linear(), torch.zeros(1, 2).double(), torch.tensor([0]), sigma=0.3, samples=200)
    assert found.predicted.tolist() == [-1]
    assert float(found.radius) == 0.0
    assert not found.verified(0.0).any()


def test_claims_fail_no_more_often_than_alpha():
    x = torch.tensor([[0.02, 0.0]], dtype=torch.float64).repeat(300, 1)
    found = smooth(
        linear(), x, torch.ones(300, dtype=torch.long), sigma=0.2, samples=200, selection=20, alpha=0.1
    )
    false = ((found.predicted == 1) & (found.radius > 0.012)) | (found.predicted == 0)
    assert float(false.double().mean()) <= 0.1 + 3 * math.sqrt(0.09 / 300)


@pytest.mark.parametrize("change", [{"sigma": 0.0}, {"alpha": 1.0}, {"samples": 0}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        smooth(linear(), torch.zeros(1, 2).double(), torch.tensor([0]), **{"sigma": 0.1} | change)
