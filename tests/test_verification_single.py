"""Products in float32 leave bounds below those of float64, by little, and are used only where they may be."""

import pytest
import torch

import holdfast as hf
from holdfast.verification import linear_maps, relaxations, scalars, single, verify
from holdfast.verification.linear_maps import MatrixMap
from holdfast.verification.region import region_of
from holdfast.verification.tracing import trace
from verification_cases import examples, margins, network, predictions


@pytest.mark.parametrize("terms", [8, 512])
@pytest.mark.parametrize("spread", [0.0, 6.0])
@pytest.mark.parametrize("shared", [False, True])
def test_the_bound_lies_below_float64s_within_the_allowance(monkeypatch, terms, spread, shared):
    """Coefficients over many orders of size, of each example or of all; float64's rounding is nothing beside float32's."""
    for module in (single, linear_maps):
        monkeypatch.setattr(module, "TERMS", terms)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        size = 10 ** (spread * (torch.rand(shape, dtype=torch.float64, generator=generator) - 0.5))
        return torch.randn(shape, dtype=torch.float64, generator=generator) * size

    weight, offset, rows = draw(50, 40), draw(50), draw(1 if shared else 3, 200, 50)
    x = torch.rand(3, 40, dtype=torch.float64, generator=generator)
    region = region_of(hf.LpBall("inf", 0.1), x)
    linear = MatrixMap(source=(40,), target=(50,), terms=50, weight=weight)
    centre, reach = x @ weight.T + offset, 0.1 * weight.abs().sum(1).expand(3, -1)
    around = relaxations.lines(scalars.RELU, centre - reach, centre + reach)
    wanted = torch.rand(3, 200, generator=generator) < torch.tensor([[0.0], [0.3], [1.1]])
    found, _ = single.minimum(
        rows, around, linear, centre.abs() + reach, single.centred(linear, offset, region), wanted
    )
    above = rows > 0
    slope = torch.where(above, around.lower_slope[:, None], around.upper_slope[:, None])
    height = torch.where(above, around.lower_height[:, None], around.upper_height[:, None])
    passed = rows * slope
    exact = (passed * centre[:, None] + rows * height).sum(2) - 0.1 * (passed @ weight).abs().sum(2)
    size = (passed.abs() * reach[:, None]).sum(2)
    if shared:
        assert (found[~wanted] < -1e300).all()
        exact, found, size, passed = (values[wanted] for values in (exact, found, size, passed))
        centre, reach, rows, height = (
            values.expand(3, 200, 50)[wanted] for values in (centre[:, None], reach[:, None], rows, height)
        )
    else:
        centre, reach = centre[:, None], reach[:, None]
    below = exact - found
    # float64 rounding of either side, of the size of all terms
    rounding = 1e-13 * (passed.abs() * (centre.abs() + reach) + (rows * height).abs()).sum(-1)
    assert (below >= -rounding).all()
    assert (below <= 1e-4 * size + rounding).all()
    assert (below > 0).any()


@pytest.mark.parametrize("units", [1, 3, 40, 600])
def test_numbers_that_all_round_down_are_allowed_for(units):
    """Coefficients, slopes, weights and half widths just below the middle between two float32 numbers, of one sign: nothing averages out."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        size = 1 + torch.randint(0, 2**20, shape, generator=generator) * 2.0**-23
        return size.double() + 0.98 * 2.0**-24

    rows, weight, slope, half = (
        draw(1, 400, 1).expand(1, 400, units),
        draw(units, 1),
        draw(1, units),
        draw(1, 1),
    )
    none = torch.zeros(1, units, dtype=torch.float64)
    around = relaxations.Lines(lower_slope=slope, lower_height=none, upper_slope=slope, upper_height=none)
    linear = MatrixMap(source=(1,), target=(units,), terms=units, weight=weight)
    box = single.Centred(middle=none, reach=(weight[:, 0] * half).expand(1, units), half=half)
    wanted = torch.ones(1, 400, dtype=torch.bool)
    found, _ = single.minimum(rows, around, linear, none, box, wanted)
    exact = -(rows * slope[:, None]) @ weight @ half.T
    assert (found <= exact[..., 0] * (1 - 1e-12)).all()  # float64's own rounding


@pytest.mark.parametrize("name", ["relu", "smooth"])
def test_no_point_falls_below_bounds_by_float32_products(monkeypatch, name):
    net, x = network(name), examples()
    y, threat = predictions(net, x), hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))
    double = verify(net, x, y, threat, "crown").margins
    monkeypatch.setattr(single, "LEAST_WORK", 0)
    used = []
    inner = single.minimum
    monkeypatch.setattr(single, "minimum", lambda *given: used.append(1) or inner(*given))
    found = verify(net, x, y, threat, "crown").margins
    assert used
    assert (found <= double + 1e-12).all()
    torch.testing.assert_close(found, double, rtol=1e-4, atol=1e-5)
    points = threat.sample(x.repeat_interleave(2000, 0), generator=torch.Generator().manual_seed(0))
    least = margins(net(points).detach(), y.repeat_interleave(2000)).reshape(len(x), 2000, -1).amin(1)
    assert (found <= least).all()


def test_float32_is_left_alone_where_it_would_not_hold(monkeypatch):
    monkeypatch.setattr(single, "LEAST_WORK", 0)
    x = examples()
    graph = trace(network("relu"), x)
    assert single.closing(graph, region_of(hf.LpBall("inf", 0.1), x)) is not None
    assert single.closing(graph, region_of(hf.LpBall("2", 0.1), x)) is None
    assert single.closing(trace(network("residual"), x), region_of(hf.LpBall("inf", 0.1), x)) is None
    assert single.closing(trace(network("max pool"), x), region_of(hf.LpBall("inf", 0.1), x)) is None
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert single.closing(graph, region_of(hf.LpBall("inf", 0.1), x)) is None
