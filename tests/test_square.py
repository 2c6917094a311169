"""Square: windows, budgets, what it keeps in place, and what it promises of every search."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attack_cases import (
    CASES,
    FEATURES,
    NORMS,
    RADII,
    Case,
    check_contract,
    check_nothing_lost,
    check_towards_a_class,
    network,
    threat_of,
)
from holdfast.attacks._windows import HALVINGS, Patterns, draws, moves, pattern
from holdfast.attacks.square import Square
from holdfast.errors import InputError
from holdfast.threats.lp import LpBall
from holdfast.threats.sphere import SphereSlice


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_contract(case: Case) -> None:
    check_contract(Square(queries=50), case, scale=3.0)


@pytest.mark.parametrize("image", [(1, 1, 9), (3, 1, 3), (9, 1, 1), (1, 9, 1)])
@pytest.mark.parametrize("norm", NORMS)
def test_any_shape_of_image_keeps_the_contract(norm: str, image: tuple[int, int, int]) -> None:
    check_contract(
        Square(queries=25, restarts=2, image=image),
        Case(norm=norm, kind="fixed", outputs=3, dtype=torch.float32),
        scale=3.0,
    )


@pytest.mark.parametrize("norm", NORMS)
def test_no_misclassified_point_inside_is_lost(norm: str) -> None:
    seen = 0
    for kind in ("box", "fixed", "own"):
        case = Case(norm=norm, kind=kind, outputs=3, dtype=torch.float32)
        seen += check_nothing_lost(Square(queries=40), case, 2.5)
    assert seen > 0


@given(
    queries=st.integers(1, 60),
    share=st.floats(0.01, 1.0),
    norm=st.sampled_from(NORMS),
    channels=st.integers(1, 3),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
)
def test_windows_lie_in_the_image_and_shrink(
    queries: int, share: float, norm: str, channels: int, height: int, width: int
) -> None:
    grid = (channels, height, width)
    areas = []
    for draw in draws(queries, share, norm, grid, torch.Generator().manual_seed(0)):
        for window in (draw.first, draw.second):
            _, _, rows, columns = window
            assert 0 <= rows.start < rows.stop <= height
            assert 0 <= columns.start < columns.stop <= width
        areas.append((rows.stop - rows.start) * (columns.stop - columns.start))
        assert len(draw.signs) == channels
        assert set(draw.signs) <= {-1.0, 1.0}
    assert len(areas) == queries
    assert areas == sorted(areas, reverse=True)


def test_windows_follow_the_schedule_of_the_paper() -> None:
    """For 10,000 queries: 0.8 of the area up to query 10, and half as much after 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000."""
    sides = [
        draw.first[2].stop - draw.first[2].start
        for draw in draws(10000, 0.8, "inf", (1, 256, 256), torch.Generator().manual_seed(0))
    ]
    after = [0, 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    for halvings, query in enumerate(after):
        assert sides[query + 1] == round(256 * math.sqrt(0.8 / 2**halvings))
        assert sides[query] == round(256 * math.sqrt(0.8 / 2 ** max(0, halvings - 1)))
    assert len(HALVINGS) == len(after) - 1


def test_a_line_has_windows_of_consecutive_features() -> None:
    lengths = {
        draw.first[3].stop - draw.first[3].start
        for draw in draws(10000, 0.8, "inf", (1, 1, 100), torch.Generator().manual_seed(0))
    }
    assert lengths == {80, 40, 20, 10, 5, 2, 1}


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("tall", [1, 2, 3, 7])
@pytest.mark.parametrize("wide", [1, 2, 3, 8])
def test_patterns_have_two_signs_and_norm_one(power: int, tall: int, wide: int) -> None:
    for turned in (False, True):
        peaks = pattern(tall, wide, turned, power)
        assert peaks.shape == (tall, wide)
        assert float(torch.linalg.vector_norm(peaks, ord=power)) == pytest.approx(1.0)
        assert bool((peaks != 0).all())
        assert tall * wide == 1 or (bool((peaks > 0).any()) and bool((peaks < 0).any()))


def test_the_peak_of_a_pattern_is_the_paper_s() -> None:
    """Over a 5 x 5 half: 1 at the rim, 1 + 1/4 ... summed over nested squares, ``sum_{k >= ring} 1 / (k + 1)^2``."""
    lower = -pattern(10, 5, False, 2)[5:]
    ring = torch.tensor([[max(abs(i - 2), abs(j - 2)) for j in range(5)] for i in range(5)])
    expected = torch.tensor([1 + 1 / 4 + 1 / 9, 1 / 4 + 1 / 9, 1 / 9], dtype=torch.float64)[ring]
    torch.testing.assert_close(lower / lower[0, 0], expected / expected[0, 0])


@pytest.mark.parametrize("norm", ["2", "1"])
@pytest.mark.parametrize("kind", ["box", "none", "fixed"])
def test_the_budget_is_counted_as_the_points_stand(norm: str, kind: str, rng: torch.Generator) -> None:
    """What is counted as spent is the points' own, the set is never left, and without a box nothing stays unspent."""
    x = torch.rand(20, 1, 3, 3, generator=rng)
    threat = threat_of(norm, kind)
    windows = moves(x, threat, torch.Size([FEATURES]))
    assert isinstance(windows, Patterns)
    now = windows.start(rng)
    for draw in draws(200, 0.8, norm, (1, 3, 3), rng):
        before, old = now.clone(), windows.change(now, draw)
        better = torch.rand(20, generator=rng) < 0.5
        for window, content in old:
            now[window] = torch.where(better[:, None, None, None], now[window], content)
        windows.keep(better)
        assert torch.equal(now[~better], before[~better])
    delta = (now - x).double().flatten(1)
    power = int(norm)
    torch.testing.assert_close(windows.spent, delta.abs().pow(power).sum(1), rtol=1e-9, atol=1e-12)
    assert torch.equal(threat.project_inside(now.flatten(1), x.flatten(1)), now.flatten(1))
    if kind == "none":
        torch.testing.assert_close(
            delta.norm(p=power, dim=1), torch.full((20,), threat.radius).double(), rtol=1e-4, atol=0
        )


@pytest.mark.parametrize("norm", NORMS)
def test_enough_queries_break_what_a_linear_model_allows(norm: str, rng: torch.Generator) -> None:
    """At 1.5 times the least distance to the boundary, known in closed form, nearly every example breaks; below it none."""
    features = 25
    model = nn.Linear(features, 1)
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, features, generator=rng))
        model.bias.zero_()
        x = torch.randn(40, features, generator=rng)
        outputs = model(x)[:, 0]
    y = (outputs > 0).long()
    dual = torch.linalg.vector_norm(model.weight.detach(), ord={"inf": 1, "2": 2, "1": math.inf}[norm])
    radius = 0.5
    x = x * (radius / (outputs.abs() / dual))[:, None]  # no bias: all at the same distance from the boundary
    assert int(Square(queries=300).run(model, x, y, LpBall(norm, 0.99 * radius)).success.sum()) == 0
    factor = {"inf": 1.2, "2": 2.0, "1": 3.0}[norm]
    assert int(Square(queries=1500).run(model, x, y, LpBall(norm, factor * radius)).success.sum()) >= 36


def test_only_open_rows_are_asked() -> None:
    """Rows leave once broken: far fewer forward rows than queries times examples."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = 0

        def forward(self, x: Tensor) -> Tensor:
            self.rows += len(x)
            return torch.stack([x[:, 0] - 0.5, 0.5 - x[:, 0]], 1)

    model = Counting()
    x = torch.linspace(0.501, 0.999, 64)[:, None].expand(64, FEATURES).contiguous()
    result = Square(queries=200).run(model, x, torch.zeros(64).long(), LpBall("inf", 0.25, bounds=(0, 1)))
    assert torch.equal(result.success, x[:, 0] - 0.5 <= 0.25 * (1 - 1e-4))
    assert model.rows < 0.6 * 200 * 64


def test_outputs_that_are_no_numbers_are_broken() -> None:
    class Holes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            wild = torch.where((x - x.round(decimals=1)).abs().sum(1, keepdim=True) > 1e-5, torch.nan, 1.0)
            return torch.cat([wild, 0 * x[:, :1]], 1)

    x = torch.full((4, FEATURES), 0.5)
    for norm in NORMS:
        result = Square(queries=5).run(Holes(), x, torch.zeros(4).long(), LpBall(norm, 0.21))
        assert bool(result.success.all())
        assert bool(result.loss.isinf().all())


@pytest.mark.parametrize("outputs", [1, 3])
def test_towards_a_given_class(outputs: int) -> None:
    check_towards_a_class(Square(queries=200), "inf", 4.0, outputs)


@pytest.mark.parametrize(("shape", "grid"), [((2, 4, 6), None), ((4, 6), None), ((16,), None), ((7,), None)])
def test_examples_of_any_shape(shape: tuple[int, ...], grid: None, rng: torch.Generator) -> None:
    x = torch.rand(5, *shape, generator=rng)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3))
    for norm in NORMS:
        threat = LpBall(norm, RADII[norm], bounds=(0.0, 1.0))
        result = Square(queries=10).run(model, x, torch.zeros(5).long(), threat)
        assert result.x.shape == x.shape
        assert bool(threat.contains(result.x, x).all())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"queries": 0}, "queries"),
        ({"restarts": 0}, "restarts"),
        ({"share": 0.0}, "share"),
        ({"share": math.nan}, "share"),
        ({"image": (0, 3, 3)}, "image"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], word: str) -> None:
    with pytest.raises(InputError, match=f"{word} must"):
        Square(**options)


def test_an_image_of_another_size_is_refused() -> None:
    threat = threat_of("inf", "box")
    with pytest.raises(InputError, match="as many features as an example, 9"):
        Square(image=(1, 2, 3)).run(
            network(3, torch.float32), torch.rand(2, FEATURES), torch.tensor([0, 1]), threat
        )


def test_other_threats_are_refused() -> None:
    with pytest.raises(InputError, match=r"threat must be .* SphereSlice; use RandomAttack"):
        Square().run(
            network(3, torch.float32), torch.rand(2, FEATURES), torch.tensor([0, 1]), SphereSlice(0.1)
        )


def test_names_and_passes() -> None:
    assert Square().name == "square-5000"
    assert Square(restarts=2).name == "square-5000x2"
    assert Square().passes == 2500
    assert Square(queries=1).passes == 1
