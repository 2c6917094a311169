"""Separation against brute force in float64 on every pair, with blocks small enough that screens and halving all act."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from holdfast.data import digits, separation, spheres
from holdfast.data.screens import SCREENS, Members, product_dtype
from holdfast.errors import InputError

ORDER = {"1": 1, "2": 2, "inf": np.inf}


def brute(x, y, norm, radius, fixed=None):
    """Smallest distance and the set of meeting pairs, one pair at a time with numpy."""
    x, y = x.reshape(len(x), -1).double().numpy(), y.numpy()
    held = np.zeros(x.shape[1], bool) if fixed is None else fixed.reshape(-1).numpy()
    best, meeting = math.inf, {}
    for i in range(len(y)):
        for j in range(i + 1, len(y)):
            if y[i] != y[j] and (x[i, held] == x[j, held]).all():
                distance = (
                    float(np.linalg.norm(x[i, ~held] - x[j, ~held], ORDER[norm])) if (~held).any() else 0.0
                )
                best = min(best, distance)
                if distance <= 2 * radius:
                    meeting[i, j] = distance
    return best, meeting


def sets(seed, kind, n, d, classes):
    """Data that provoke ties (a grid), duplicates, wide offsets, and constant features."""
    random = np.random.default_rng(seed)
    if kind == "grid":
        x = random.integers(0, 5, (n, d)) / 4
    elif kind == "binary":
        x = random.integers(0, 2, (n, d)).astype(float)
    elif kind == "offset":
        x = 1000 + random.integers(-64, 64, (n, d)) / 128
    else:
        x = np.round(random.normal(size=(n, d)) * 2**16) / 2**16
        x[:, 0] = 0.5
    y = random.integers(0, classes, n)
    y[:2] = 0, 1
    if seed % 2:
        x[n // 2 :] = x[: n - n // 2]
    return torch.tensor(x), torch.tensor(y)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["grid", "binary", "offset", "normal"]),
    norm=st.sampled_from(["1", "2", "inf"]),
    n=st.integers(2, 40),
    d=st.integers(1, 12),
    classes=st.integers(2, 4),
    radius=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]),
    block=st.sampled_from([1, 3, 8, 4096]),
    hold=st.booleans(),
    single=st.booleans(),
)
def test_distance_pairs_and_count_equal_brute_force(
    seed, kind, norm, n, d, classes, radius, block, hold, single
):
    x, y = sets(seed, kind, n, d, classes)
    x = x.float() if single else x  # every value is dyadic and short, so this changes none
    fixed = torch.arange(d) == d - 1 if hold and d > 1 else None
    best, meeting = brute(x, y, norm, radius, fixed)
    found = separation(x, y, norm=norm, radius=radius, fixed=fixed, block=block, listed=10**6)
    assert found.distance == pytest.approx(best, rel=1e-14, abs=0)
    assert found.complete
    assert found.count == len(meeting)
    assert {tuple(pair) for pair in found.pairs.tolist()} == set(meeting)
    listed = [meeting[tuple(pair)] for pair in found.pairs.tolist()]
    assert listed == pytest.approx(sorted(meeting.values()))
    assert found.compatible() == (not meeting)
    if best < math.inf:
        i, j = found.closest
        assert y[i] != y[j]
        assert brute(x[[i, j]], y[[i, j]], norm, 0.0, fixed)[0] == pytest.approx(best, rel=1e-14, abs=0)
    else:
        assert found.closest is None


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_screen_drops_a_pair_nearer_than_the_cut(norm, scale, dtype):
    generator = torch.Generator().manual_seed(7)
    x = (torch.randn(300, 20, generator=generator, dtype=torch.float64) * scale).to(dtype)
    x[150:] = x[:150] + (1e-4 * scale * torch.randn(150, 20, generator=generator, dtype=torch.float64)).to(
        dtype
    )
    a, b = x[:150], x[150:]
    lengths = torch.cdist(a.double(), b.double(), p=ORDER[norm], compute_mode="donot_use_mm_for_euclid_dist")
    for share in (0.0, 0.01, 0.3, 0.9):
        cut = float(lengths.flatten().quantile(share)) * (1 + 1e-9)
        kept = {
            tuple(pair) for pair in SCREENS[norm](Members(x, torch.arange(len(x)))).near(a, b, cut).tolist()
        }
        assert {tuple(pair) for pair in (lengths < cut).nonzero().tolist()} <= kept
    nearest = SCREENS[norm](Members(x, torch.arange(len(x)))).near(
        a, b, float(lengths.diagonal().min()) * 1.001
    )
    assert 1 <= len(nearest) < 0.3 * lengths.numel(), "a screen that keeps everything is none"


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_rounding_of_the_product_drops_no_pair(norm):
    """Two far clouds: squared norms near 1 hide squared distances of 1e-10 from a product in float32."""
    generator = torch.Generator().manual_seed(3)
    x = torch.where(torch.arange(200)[:, None] % 2 == 0, 1.0, -1.0) * torch.rand(
        200, 30, generator=generator, dtype=torch.float64
    ).mean(0)
    x = x + 1e-5 * torch.randn(200, 30, generator=generator, dtype=torch.float64)
    a, b = x[:100], x[100:]
    lengths = torch.cdist(a, b, p=ORDER[norm], compute_mode="donot_use_mm_for_euclid_dist")
    cut = float(lengths.flatten().quantile(0.2))
    kept = {tuple(pair) for pair in SCREENS[norm](Members(x, torch.arange(len(x)))).near(a, b, cut).tolist()}
    assert {tuple(pair) for pair in (lengths < cut).nonzero().tolist()} <= kept
    assert len(kept) <= 5000, "pairs of opposite clouds are far apart"


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_digits_equal_brute_force_through_the_screens(norm):
    data = digits(validation=0.0, test=0.0)
    x = data.x.double()
    lengths = torch.cdist(x, x, p=ORDER[norm], compute_mode="donot_use_mm_for_euclid_dist")
    lengths[data.y[:, None] == data.y] = math.inf
    radius = float(lengths.min()) * 0.55
    found = separation(data.x, data.y, norm=norm, radius=radius, block=512, listed=5)
    assert found.distance == pytest.approx(float(lengths.min()), rel=1e-12)
    assert found.largest_compatible_radius == found.distance / 2
    assert found.count == int((lengths <= 2 * radius).sum()) // 2 > 0
    assert found.pairs.shape == (min(5, found.count), 2)
    assert not found.compatible()
    assert found.compatible(found.distance * 0.499)
    assert not found.compatible(found.distance / 2), "balls that touch meet"


def test_equal_examples_of_different_labels_meet_at_radius_zero():
    x = torch.tensor([[0.0, -0.0], [1.0, 2.0], [0.0, 0.0]])
    found = separation(x, torch.tensor([0, 0, 1]), norm="linf")
    assert (found.distance, found.closest, found.count) == (0.0, (0, 2), 1)
    assert not found.compatible()


def test_rows_that_differ_in_a_fixed_feature_never_meet():
    x = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    found = separation(x, torch.tensor([0, 1]), norm="2", radius=9.0, fixed=torch.tensor([False, True]))
    assert (found.distance, found.closest, found.count) == (math.inf, None, 0)
    assert found.compatible(1e9)


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_counting_stops_at_its_limit_while_the_distance_stays_exact(norm):
    data = digits(validation=0.0, test=0.0)
    whole = separation(data.x, data.y, norm=norm)
    hopeless = separation(data.x, data.y, norm=norm, radius=1e3, counted=1000, block=256)
    assert hopeless.distance == whole.distance
    assert hopeless.count > 1000
    assert not hopeless.complete
    assert len(hopeless.pairs) == 100


@pytest.mark.parametrize("norm", ["1", "2", "inf"])
@pytest.mark.parametrize("block", [1, 4096])
def test_with_every_feature_fixed_only_equal_examples_meet(norm, block):
    x = torch.tensor([[0.0], [1.0], [0.0], [2.0]])
    found = separation(
        x, torch.tensor([0, 0, 1, 1]), norm=norm, radius=5.0, fixed=torch.tensor([True]), block=block
    )
    assert (found.distance, found.count, found.pairs.tolist()) == (0.0, 1, [[0, 2]])


def test_progress_rises_to_one():
    data = digits(validation=0.0, test=0.0)
    seen = []
    separation(data.x, data.y, norm="2", block=256, progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) > 10
    assert seen[-1] == 1.0


def test_screens_leave_reduced_matrix_precision_alone():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert product_dtype() == torch.float64
    finally:
        torch.set_float32_matmul_precision(before)
    assert product_dtype() == torch.float32


@pytest.mark.parametrize("apart", [0.3, 0.7])
def test_spheres_are_at_least_as_far_apart_as_promised(apart):
    data = spheres(300, 6, classes=3, clusters=2, separation=apart, spread=0.1, seed=4)
    found = separation(data.x, data.y, norm="2", radius=apart / 2)
    assert apart < found.distance < 2
    assert torch.allclose(data.x.norm(dim=1), torch.ones(300), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "3"}, "norm must be one of"),
        ({"norm": "2", "radius": -0.1}, "radius must be"),
        ({"norm": "2", "radius": math.nan}, "radius must be"),
        ({"norm": "2", "fixed": torch.zeros(3, dtype=torch.bool)}, "fixed must have the shape"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(options, words):
    with pytest.raises(InputError, match=words):
        separation(torch.zeros(2, 2), torch.tensor([0, 1]), **options)
