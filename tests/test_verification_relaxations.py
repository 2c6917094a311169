"""Lines and intervals around scalar functions and maxima hold everywhere on the interval, and touch where they should."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.networks.activations import ACTIVATIONS
from holdfast.verification import relaxations, scalars
from holdfast.verification.graph import Maximum
from holdfast.verification.pooling import pool_lines

SCALARS = {
    "relu": scalars.RELU,
    "leaky": scalars.kinked("leaky-relu", 0.1, 1.0),
    "steep": scalars.kinked("leaky-relu", 2.0, 0.5),
    "abs": scalars.ABS,
    "square": scalars.SQUARE,
    "relu2": scalars.SQUARED_RELU,
    "exp": scalars.EXP,
    "sigmoid": scalars.SIGMOID,
    "tanh": scalars.TANH,
    "erf": scalars.ERF,
    "gelu": scalars.GELU,
    "silu": scalars.SILU,
    "softplus": scalars.softplus(),
    "sharp softplus": scalars.softplus(beta=5.0, threshold=20.0),
    "elu": scalars.elu(0.7),
}
ends = st.floats(-12, 12)


@pytest.mark.parametrize("name", SCALARS)
@settings(max_examples=25)
@given(first=ends, second=ends)
def test_lines_and_intervals_hold_on_the_whole_interval(name, first, second):
    scalar = SCALARS[name]
    low, high = (torch.tensor([edge], dtype=torch.float64) for edge in sorted((first, second)))
    x = torch.lerp(low, high, torch.linspace(0, 1, 2001, dtype=torch.float64)).clamp(low, high)
    value = scalar.value(x)
    around = relaxations.lines(scalar, low, high)
    assert (around.lower_slope * x + around.lower_height <= value).all()
    assert (around.upper_slope * x + around.upper_height >= value).all()
    least, most = relaxations.interval(scalar, low, high)
    assert (least <= value).all()
    assert (value <= most).all()
    assert float(least) >= float(value.min()) - 1e-3 * (1 + float(value.abs().max()))
    assert float(most) <= float(value.max()) + 1e-3 * (1 + float(value.abs().max()))


@pytest.mark.parametrize("name", SCALARS)
def test_lines_touch_the_function_and_are_nearly_the_best_in_the_middle(name):
    """Against the convex hull of a fine grid: no line can be higher over the middle of the interval than the hull."""
    scalar = SCALARS[name]
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        low, high = (torch.rand(2, generator=generator, dtype=torch.float64) * 12 - 6).sort().values.split(1)
        x = torch.linspace(float(low), float(high), 401, dtype=torch.float64)
        value, middle = scalar.value(x), (low + high) / 2
        left, right = x <= middle, x > middle
        share = (x[right] - middle) / (x[right] - x[left][:, None])
        bridges = share * value[left][:, None] + (1 - share) * value[right]
        around = relaxations.lines(scalar, low, high)
        below = float(around.lower_slope * middle + around.lower_height)
        above = float(around.upper_slope * middle + around.upper_height)
        size = 1 + float(value.abs().max())
        if scalar.kinked is None:
            assert below >= float(torch.minimum(bridges.min(), scalar.value(middle))) - 1e-3 * size
            assert above <= float(torch.maximum(bridges.max(), scalar.value(middle))) + 1e-3 * size
        assert float((value - around.lower_slope * x - around.lower_height).min()) <= 1e-3 * size
        assert float((around.upper_slope * x + around.upper_height - value).min()) <= 1e-3 * size


@pytest.mark.parametrize(("low", "high", "slope"), [(0.5, 2.0, 1.0), (-2.0, -0.5, 0.0)])
def test_a_relu_off_its_kink_is_exact(low, high, slope):
    around = relaxations.lines(scalars.RELU, torch.tensor([low]).double(), torch.tensor([high]).double())
    for value in (around.lower_slope, around.upper_slope):
        assert float(value) == slope
    assert float(around.lower_height) == float(around.upper_height) == 0.0


def test_scalars_are_the_activations_of_the_networks():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    pairs = {"softplus": "softplus", "relu": "relu", "relu2": "relu2", "sigmoid": "sigmoid", "silu": "silu"}
    pairs |= {"tanh": "tanh", "erf": "erf", "gelu": "gelu"}
    for ours, theirs in pairs.items():
        torch.testing.assert_close(SCALARS[ours].value(x), ACTIVATIONS[theirs].value(x), rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(
            SCALARS[ours].slope(x), ACTIVATIONS[theirs].slope(x), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("name", [name for name in SCALARS if SCALARS[name].kinked is None])
def test_the_function_bends_as_stated(name):
    scalar = SCALARS[name]
    edges = (-8.0, *scalar.bends, 8.0)
    for place, (start, stop) in enumerate(itertools.pairwise(edges)):
        slope = scalar.slope(torch.linspace(start, stop, 501, dtype=torch.float64))
        convex = scalar.convex_first == (place % 2 == 0)
        assert ((slope.diff() if convex else -slope.diff()) >= -1e-15).all()


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 1, 1), (3, 2, 1)])
def test_lines_around_a_maximum_hold(kernel, stride, padding):
    generator = torch.Generator().manual_seed(1)
    low = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=generator)
    high = low + torch.rand(low.shape, dtype=torch.float64, generator=generator) ** 3 * 2
    expected = torch.nn.functional.max_pool2d(low, kernel, stride, padding)
    step = Maximum(
        shape=tuple(expected.shape[1:]),
        inputs=(0,),
        source=(3, 6, 6),
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(1, 1),
    )
    lines = pool_lines(step, low, high)
    rows = torch.randn(1, 5, *step.shape, dtype=torch.float64, generator=generator)
    passed, constant, size = lines.substitute(rows, torch.maximum(low.abs(), high.abs()))
    for _ in range(300):
        share = torch.rand(low.shape, dtype=torch.float64, generator=generator).round(decimals=0)
        v = low + (high - low) * share
        value = torch.nn.functional.max_pool2d(v, kernel, stride, padding)
        exact = (rows * value[:, None]).flatten(2).sum(2)
        bound = (passed * v[:, None]).flatten(2).sum(2) + constant
        assert (bound <= exact + 1e-12).all()
        assert (bound.abs() <= size + 1e-12).all()
