"""APGD and the quantities it climbs: the paper's formulas, the contract of attacks, and optima known in closed form."""

from collections.abc import Iterator
from dataclasses import replace

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from holdfast.attacks._ascent import Halving, Sparse
from holdfast.attacks.apgd import APGD
from holdfast.attacks.base import Attack, Goal
from holdfast.attacks.margins import (
    DLR,
    Margin,
    TargetedDLR,
    difference,
    dlr,
    margin,
    targeted_dlr,
    wrong_classes,
)
from holdfast.attacks.minimal_norm import CarliniWagner, DeepFool
from holdfast.attacks.pgd import PGD
from holdfast.attacks.transformed import ExpectedGradient
from holdfast.errors import InputError
from holdfast.evaluation import evaluate
from holdfast.evaluation.suites import suite
from holdfast.losses import CrossEntropy, Hinge, Loss, Squared, correct
from holdfast.threats import CustomThreat, LpBall, SphereSlice
from holdfast.threats.base import Threat

FEATURES = 6
FIXED = torch.tensor([False, True, False, False, False, True])

ATTACKS = [
    APGD(steps=4),
    APGD(steps=10, loss="cross-entropy", restarts=2, drop_broken=True),
    APGD(steps=4, loss="dlr", start="example", restarts=2),
    APGD(steps=4, targets=2, drop_broken=True),
    APGD(steps=3, targets=9, loss="margin"),
    APGD(steps=3, targets=1, loss=Squared(), wide=False),
    CarliniWagner(steps=6, searches=3),
    DeepFool(steps=3),
    DeepFool(steps=2, classes=1),
    ExpectedGradient(attack=APGD(steps=2), samples=2),
]

THREATS = [
    LpBall("inf", 0.2, bounds=(0.0, 1.0)),
    LpBall("inf", 0.2, fixed=FIXED),
    LpBall("2", 0.4, bounds=(0.0, 1.0), fixed=FIXED),
    LpBall("2", 0.4),
    LpBall("1", 0.7, bounds=(0.0, 1.0)),
    LpBall("1", 0.7, bounds=(0.0, 1.0), fixed=FIXED),
    LpBall("1", 0.7),
    LpBall("inf", 0.0),
    SphereSlice(0.4, fixed=FIXED),
    CustomThreat(lambda points, x: torch.clamp(points, x, x + 0.3), radius_hint=1.0),
]


def network(outputs: int, dtype: torch.dtype = torch.float32, features: int = FEATURES) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, outputs)).to(dtype)


def examples(outputs: int, dtype: torch.dtype = torch.float32, batch: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, FEATURES, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(max(2, outputs), (batch,), generator=generator)


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        outputs = model(x)
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not enforced, as in use: what a type checker would refuse must be refused by Holdfast too."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# --- the contract ---


# Each attack meets every threat and every net, though not each net under each threat.
NETS = [(1, torch.float32), (3, torch.float64), (10, torch.float32)]
CASES = [
    pytest.param(attack, threat, *NETS[(i + j) % 3], id=f"{attack.name}-{threat.spec}-{j}")
    for i, attack in enumerate(ATTACKS)
    for j, threat in enumerate(THREATS)
]


@pytest.mark.parametrize(("attack", "threat", "outputs", "dtype"), CASES)
def test_points_lie_in_the_set_are_scored_as_they_are_and_repeat_with_their_seed(
    attack: Attack, threat: Threat, outputs: int, dtype: torch.dtype
) -> None:
    model, (x, y) = network(outputs, dtype), examples(outputs, dtype)
    y = torch.where(torch.arange(len(y)) < 12, predicted(model, x), y)  # most are right, some wrong
    result = attack.run(model, x, y, threat, seed=3)
    assert result.x.dtype == result.loss.dtype == dtype
    assert threat.contains(result.x, x).all()
    clean, attacked = model(x).detach(), model(result.x).detach()
    torch.testing.assert_close(result.loss, CrossEntropy()(attacked, y), atol=1e-6, rtol=1e-5)
    assert (result.success == ~correct(attacked, y)).all()
    assert (result.success | correct(clean, y)).all()
    again = attack.run(model, x, y, threat, seed=3)
    assert torch.equal(result.x, again.x)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("outputs", [1, 2, 3, 10])
def test_targeted_runs_reach_their_targets_and_say_so(attack: Attack, outputs: int) -> None:
    model, (x, _) = network(outputs), examples(outputs)
    y = predicted(model, x)
    targets = (y + 1) % max(2, outputs)
    result = attack.run(model, x, y, LpBall("2", 3.0), targets=targets)
    assert (result.success == correct(model(result.x).detach(), targets)).all()
    assert result.success.any()


@pytest.mark.parametrize("loss", ["cross-entropy", "dlr", "margin"])
@pytest.mark.parametrize("outputs", [2, 3, 10])
def test_a_targeted_climb_reaches_what_plain_ascent_reaches(outputs: int, loss: str) -> None:
    model, (x, _) = network(outputs), examples(outputs, batch=64)
    y = predicted(model, x)
    targets = (y + 1) % outputs
    threat = LpBall("2", 2.0 if outputs == 10 else 0.8)
    plain = PGD(steps=40, restarts=2, keep_best=True).run(model, x, y, threat, targets=targets)
    climb = APGD(steps=20, loss=loss, drop_broken=True).run(model, x, y, threat, targets=targets)
    assert 0 < int(plain.success.sum()) < 64
    assert int(climb.success.sum()) >= int(plain.success.sum()) - 1


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_inputs_far_from_the_unit_box_meet_their_own_bounds(attack: Attack) -> None:
    low, high = torch.full((FEATURES,), -200.0), torch.linspace(100.0, 300.0, FEATURES)
    model, (x, _) = nn.Sequential(nn.BatchNorm1d(FEATURES), network(3)), examples(3)
    x = low + x * (high - low)
    model[0].running_mean.copy_(x.mean(0))
    model[0].running_var.copy_(x.var(0))
    y = predicted(model.eval(), x)
    for norm, radius in (("inf", 40.0), ("2", 120.0), ("1", 300.0)):
        threat = LpBall(norm, radius, bounds=(low, high))
        result = attack.run(model, x, y, threat)
        assert threat.contains(result.x, x).all()
        assert (result.x >= low).all()
        assert (result.x <= high).all()
        assert result.success.any()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_images_keep_their_shape_and_an_empty_move_is_no_error(attack: Attack) -> None:
    model = nn.Sequential(nn.Flatten(), network(3))
    x = examples(3)[0].reshape(-1, 1, 2, 3)
    y = predicted(model, x)
    result = attack.run(model, x, y, LpBall("1", 0.5, bounds=(0.0, 1.0)))
    assert result.x.shape == x.shape
    flat = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 3))
    flat[1].weight.data.zero_()
    assert torch.equal(
        attack.run(flat, x, predicted(flat, x), LpBall("2", 0.5)).x.isfinite().all(), torch.tensor(True)
    )


def test_gradients_that_overflow_leave_a_point_where_it_is() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.sum(1, keepdim=True) - 3) * torch.tensor([[1e30, -1e30, 0.0]]) * 1e8 * 0 + x[
                :, :3
            ].sqrt()

    x = torch.zeros(4, 4)  # the root's slope is infinite here
    y = torch.zeros(4, dtype=torch.long)
    for attack in (APGD(steps=5), DeepFool(steps=3), CarliniWagner(steps=3, searches=2)):
        assert attack.run(Root(), x, y, LpBall("inf", 0.1, bounds=(0, 1))).x.isfinite().all()


# --- margins ---


def by_hand(row: list[float], y: int, target: int | None) -> float:
    """DLR and targeted DLR of one row with at least three and four outputs, as the paper states them."""
    ordered = sorted(row, reverse=True)
    if target is None:
        return -(row[y] - max(v for j, v in enumerate(row) if j != y)) / (ordered[0] - ordered[2])
    return -(row[y] - row[target]) / (ordered[0] - (ordered[2] + ordered[3]) / 2)


@given(st.integers(4, 10), st.integers(0, 2**32))
def test_dlr_is_the_papers_for_four_outputs_and_more(outputs: int, seed: int) -> None:
    z = torch.randn(3, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y, target = torch.tensor([0, 1, 2]), torch.tensor([1, 3, 0])
    expected = [by_hand(row, label, None) for row, label in zip(z.tolist(), y.tolist(), strict=True)]
    torch.testing.assert_close(dlr(z, y), torch.tensor(expected, dtype=torch.float64))
    triples = zip(z.tolist(), y.tolist(), target.tolist(), strict=True)
    torch.testing.assert_close(
        targeted_dlr(z, y, target), torch.tensor([by_hand(*each) for each in triples], dtype=torch.float64)
    )


@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("loss", [DLR(), TargetedDLR(), Margin()], ids=lambda loss: loss.name)
def test_margin_losses_have_the_slope_of_autograd_and_the_sign_of_success(
    outputs: int, loss: Loss, rng: torch.Generator
) -> None:
    z = torch.randn(200, outputs, generator=rng, dtype=torch.float64).requires_grad_(True)
    y = torch.randint(max(2, outputs), (200,), generator=rng)
    value = loss(z, y)
    (slope,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(loss.slope(z.detach(), y), slope)
    assert ((value < 0) == correct(z.detach(), y)).all()
    assert ((margin(z.detach(), y) > 0) == correct(z.detach(), y)).all()
    right = correct(z.detach(), y)
    assert (slope[right].abs().sum(1) > 0).all()  # nothing vanishes where there is still something to break
    if outputs > 2:
        scaled = loss(3.0 * z.detach() + 7.0, y)
        factor = 3.0 if isinstance(loss, Margin) else 1.0
        torch.testing.assert_close(scaled, factor * value.detach())


@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 5])
def test_targeted_dlr_and_difference_always_have_a_slope_towards_the_target(
    outputs: int, rng: torch.Generator
) -> None:
    z = torch.randn(300, outputs, generator=rng, dtype=torch.float64)
    y = torch.randint(max(2, outputs), (300,), generator=rng)
    for target in wrong_classes(z, y).unbind(1):
        leaf = z.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(targeted_dlr(leaf, y, target).sum(), leaf)
        sign = 2 * target - 1 if outputs == 1 else 1
        column = 0 * target if outputs == 1 else target
        behind = difference(z, y, target) < 0
        gain = sign * slope.gather(1, column[:, None]).squeeze(1)
        # Near the front the divisor may grow as fast as the target: raising it never lowers the value, however.
        assert (gain[behind] >= -1e-12).all()
        assert (slope[behind].abs().sum(1) > 0).all()


def test_wrong_classes_come_in_order_without_the_label() -> None:
    z = torch.tensor([[1.0, 3.0, 2.0, 0.0], [4.0, 4.0, 5.0, 1.0]])
    assert wrong_classes(z, torch.tensor([1, 0])).tolist() == [[2, 0, 3], [2, 1, 3]]
    assert wrong_classes(z[:, :1], torch.tensor([1, 0])).tolist() == [[0], [1]]


def test_equal_outputs_do_not_divide_by_zero() -> None:
    z, y = torch.zeros(2, 5), torch.tensor([0, 1])
    assert dlr(z, y).tolist() == targeted_dlr(z, y, 1 - y).tolist() == [0.0, 0.0]
    assert DLR().slope(z, y).isfinite().all()


# --- step sizes ---


def test_checkpoints_are_the_papers() -> None:
    half = Halving(LpBall("inf", 0.1), 0.75).checkpoints(100)
    assert list(half) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(half.values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    sparse = Sparse(LpBall("1", 1.0)).checkpoints(40)
    assert list(sparse) == list(range(1, 40))  # 0.04 of 40 steps is 1.6, which is cut to every step
    assert list(Sparse(LpBall("1", 1.0)).checkpoints(100)) == list(range(4, 100, 4))


class Counting(nn.Module):
    """Notes how many rows pass, to see who has left."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.inner(x)


def test_broken_rows_leave_and_the_others_are_broken_all_the_same() -> None:
    x = examples(10, batch=64)[0]
    model = network(10)
    y = predicted(model, x)
    threat = LpBall("inf", 0.08, bounds=(0.0, 1.0))
    attack = APGD(steps=20, restarts=2, loss="cross-entropy")
    everyone, leaving = Counting(model), Counting(model)
    kept = attack.run(everyone, x, y, threat)
    left = replace(attack, drop_broken=True).run(leaving, x, y, threat)
    assert 5 < int(kept.success.sum()) < 60
    assert (kept.success == left.success).all()
    assert sum(leaving.seen) < 0.8 * sum(everyone.seen)
    assert len(everyone.seen) <= attack.passes + 6


# --- optima ---

CLOSED = [
    LpBall("inf", 0.15, bounds=(0.0, 1.0)),
    LpBall("2", 0.5),
    LpBall("2", 0.9, bounds=(0.0, 1.0)),
    LpBall("1", 1.5),
    LpBall("1", 1.5, bounds=(0.0, 1.0)),
    LpBall("1", 1.5, bounds=(0.0, 1.0), fixed=torch.arange(30) % 3 == 0),
    SphereSlice(0.5, fixed=torch.arange(30) == 29),
]


@pytest.mark.parametrize("threat", CLOSED, ids=lambda threat: threat.spec)
def test_the_optimum_of_a_linear_model_is_reached(threat: Threat, rng: torch.Generator) -> None:
    x = torch.rand(20, 30, generator=rng, dtype=torch.float64)
    model = nn.Linear(30, 1, bias=False).double()
    model.weight.data = torch.randn(1, 30, generator=rng, dtype=torch.float64)
    y = torch.randint(2, (20,), generator=rng)
    towards = (1 - 2 * y)[:, None] * model.weight.detach()
    optimum = (towards * threat.maximise(towards, x)).sum(1)
    clean = (towards * x).sum(1)
    result = APGD(loss="margin").run(model, x, y, threat, loss=Margin())
    share = (result.loss - clean) / (optimum - clean)
    assert (share > 1 - 1e-3).all(), share.min()
    assert (share <= 1 + 1e-9).all()


def test_on_a_curved_model_the_climb_finds_the_best_point_of_a_fine_grid() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(2, 30), nn.Tanh(), nn.Linear(30, 3)).double()
        model[0].weight.data.mul_(4)
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = predicted(model, x)
    threat = LpBall("2", 0.3, bounds=(0.0, 1.0))
    side = torch.linspace(-0.3, 0.3, 101, dtype=torch.float64)
    offsets = torch.cartesian_prod(side, side)  # steps of 0.006
    loss = CrossEntropy()
    best = []
    for row, label in zip(x, y, strict=True):
        grid = row + offsets
        grid = grid[threat.contains(grid, row.expand_as(grid))]
        best.append(float(loss(model(grid).detach(), label.expand(len(grid))).max()))
    found = APGD(steps=50, restarts=3).run(model, x, y, threat).loss
    assert (found >= torch.tensor(best, dtype=torch.float64) - 1e-3).float().mean() > 0.95


def test_the_search_starts_where_it_is_told() -> None:
    x = torch.full((4, FEATURES), 0.5)
    flat = nn.Linear(FEATURES, 3)
    flat.weight.data.zero_()
    y = predicted(flat, x)
    threat, goal = LpBall("inf", 0.1), Goal(loss=CrossEntropy())
    generator = torch.Generator().manual_seed(0)
    stay = APGD(steps=2, start="example").search(flat, x, y, threat, goal=goal, generator=generator)
    assert torch.equal(stay, x)


# --- arguments ---


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"restarts": 0}, "restarts must be a whole number >= 1, got 0"),
        ({"targets": 0}, "targets must be a whole number >= 1, or None, got 0"),
        ({"rho": 1.0}, r"rho must be a number > 0 and < 1, got 1.0"),
        (
            {"loss": "clr"},
            "loss must be one of cross-entropy, .*margin, dlr, .* got 'clr'; did you mean 'dlr'",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        APGD(**options)


def test_an_unknown_start_is_refused(unchecked: None) -> None:
    with pytest.raises(InputError, match="start must be one of random, example, between, got 'near'"):
        APGD(start="near")  # type: ignore[arg-type]


def test_names_and_passes_tell_the_budget() -> None:
    assert APGD(loss="cross-entropy").name == "apgd-ce-100"
    assert APGD(targets=9).name == "apgd-100-targets-9"
    assert APGD(steps=50, restarts=5, loss=Hinge()).name == "apgd-hinge-50x5"
    assert APGD(targets=9).passes == 909


class Plateau(nn.Module):
    """Class 1 leads midway from the example towards one corner of its ball; farther away all is flat, and class 0 leads."""

    def __init__(self, x: Tensor, radius: float) -> None:
        super().__init__()
        self.x, self.radius = x, radius
        self.corner = torch.where(torch.arange(x.shape[1]) % 3 == 0, 1.0, -1.0)

    def forward(self, points: Tensor) -> Tensor:
        rows = torch.cdist(points.detach(), self.x).argmin(1)
        away = (points - self.x[rows]) / self.radius
        ahead = (away * self.corner).mean(1) - 0.3
        lead = torch.where(away.detach().abs().mean(1) < 0.42, ahead, -1.0 + 0 * ahead)
        return torch.stack([-lead, lead, -3 + 0 * lead], 1)


@pytest.mark.parametrize(
    "attack",
    [
        APGD(steps=50),
        APGD(steps=50, targets=2),
        APGD(steps=50, targets=2, start="between"),
        APGD(steps=50, loss="dlr", drop_broken=True),
    ],
    ids=lambda attack: f"{attack.name}-{attack.start}",
)
def test_flat_far_from_the_example_hides_no_counterexample_midway(attack: APGD) -> None:
    x = 5 * torch.rand(10, 60, generator=torch.Generator().manual_seed(0))
    model, y = Plateau(x, 0.3), torch.zeros(10).long()
    threat = LpBall("inf", 0.3)
    far = threat.sample(x, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    assert not torch.autograd.grad(model(far).pow(2).sum(), far)[0].any(1).all()
    result = attack.run(model, x, y, threat)
    assert threat.contains(result.x, x).all()
    assert result.success.all()


def test_starts_between_lie_at_several_depths() -> None:
    x, threat = torch.zeros(4, 500), LpBall("inf", 1.0)
    draw = torch.Generator().manual_seed(0)
    reach = [APGD(start="between")._start(threat, x, k, draw).abs().amax(1) for k in range(4)]
    for depth, found in zip((0.5, 1.0, 0.25, 0.5), reach, strict=True):
        assert ((found > 0.95 * depth) & (found <= depth)).all()


def beyond_the_middle(example: Tensor, threat: LpBall, *, below: float = 0.0) -> nn.Sequential:
    """A 784-256-256-10 network in which class 1 overtakes class 0 far from the example in the direction of the box's middle, at 0.95 of the radius.

    With ``m`` the part of the way there, class 1 is ``below * relu(0.7 - m) + relu(m - 0.7)`` against 0.25: below 0.7 flat, or sloping the other way.
    """
    inward = (0.5 - example).sign()
    toward = inward / {"inf": threat.radius * 784, "2": threat.radius * 28}[threat.norm]
    network = nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    first, second, last = (layer for layer in network if isinstance(layer, nn.Linear))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        first.weight[:2] = torch.stack([toward, -toward])
        first.bias[:2] = torch.stack([-0.7 - toward @ example, 0.7 + toward @ example])
        second.weight[0, :2] = torch.tensor([1.0, below])
        last.weight[1, 0] = 1.0
        last.bias[:] = torch.tensor([0.25, 0.0, *8 * [-1.0]])
    return network


def binary_images(rows: int) -> Tensor:
    one = (torch.rand(784, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    return one.expand(rows, 784).clone()


@pytest.mark.parametrize(
    "threat", [LpBall("inf", 0.1, bounds=(0, 1)), LpBall("2", 2, bounds=(0, 1))], ids=lambda t: t.spec
)
@pytest.mark.parametrize("name", ["fast", "standard", "strong"])
def test_flat_but_towards_the_middle_of_the_box_hides_no_counterexample(threat: LpBall, name: str) -> None:
    x, y = binary_images(8), torch.zeros(8).long()
    model = beyond_the_middle(x[0], threat)
    draw = torch.Generator().manual_seed(0)
    for depth in (0.01, 0.25, 0.5, 1.0):  # where searches used to look, they saw nothing
        near = torch.lerp(x, threat.sample(x, generator=draw), depth).requires_grad_(True)
        assert not torch.autograd.grad(model(near).sum(), near)[0].any()
    result = evaluate(model, x, y, threat, attacks=name)
    assert result.robust_accuracy == 0
    searches = [a for a in suite(name, threat) if isinstance(a, APGD)]
    assert all(search.run(model, x, y, threat).success.all() for search in searches)


def test_a_restart_from_the_box_leaves_a_slope_that_leads_away() -> None:
    threat = LpBall("inf", 0.1, bounds=(0, 1))
    x, y = binary_images(2), torch.zeros(2).long()
    model = beyond_the_middle(x[0], threat, below=0.1)
    [*_, search] = [a for a in suite("strong", threat) if isinstance(a, APGD)]
    assert search.start == "between"
    assert not replace(search, restarts=1).run(model, x, y, threat).success.any()
    assert search.run(model, x, y, threat).success.all()
