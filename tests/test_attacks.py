"""Attacks: the contract every attack keeps, and what each one promises beyond it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from holdfast.attacks import FGSM, PGD, Attack, CleanAttack, Goal, MultiTarget, RandomAttack, in_mode
from holdfast.attacks.base import Scored, stronger
from holdfast.errors import InputError
from holdfast.losses import CrossEntropy, Hinge, Labels, Squared, correct
from holdfast.threats.base import Points, Threat
from holdfast.threats.lp import LpBall

FEATURES = 6


@dataclass(frozen=True, kw_only=True)
class WildAttack(Attack):
    """A search that does everything wrong: far outside, not finite, or the example's best friend."""

    @property
    def name(self) -> str:
        return "wild"

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        points = x + 100 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        points[0] = torch.nan
        points[1] = torch.inf
        return points


ATTACKS = [
    CleanAttack(),
    RandomAttack(),
    RandomAttack(samples=5),
    FGSM(),
    FGSM(start="random", step_size=0.3),
    PGD(steps=4),
    PGD(steps=4, restarts=3),
    PGD(steps=4, restarts=3, drop_broken=True),
    PGD(steps=4, start="near", momentum=0.9, keep_best=True),
    PGD(steps=4, start="example", step_rule="gradient", restarts=2, loss=Hinge()),
    MultiTarget(attack=PGD(steps=3), classes=2),
    WildAttack(),
]

THREATS = [
    LpBall("inf", 0.2, bounds=(0.0, 1.0)),
    LpBall("2", 0.4, bounds=(0.0, 1.0)),
    LpBall("2", 0.4),
    LpBall("1", 0.7, bounds=(0.0, 1.0)),
]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not enforced, as in use: what a type checker would refuse must be refused by Holdfast too."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def network(outputs: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, outputs)).to(dtype)


def examples(outputs: int, dtype: torch.dtype = torch.float32, batch: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, FEATURES, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(max(2, outputs), (batch,), generator=generator)


def separate(model: nn.Module, x: Tensor) -> Tensor:
    """The model's own predictions as labels, so that every clean example is right."""
    with torch.no_grad():
        outputs = model(x)
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.spec)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_attack_returns_points_of_the_set_scored_as_they_are_and_never_weaker_than_clean(
    attack: Attack, threat: Threat, outputs: int, dtype: torch.dtype
) -> None:
    model, (x, y) = network(outputs, dtype), examples(outputs, dtype)
    loss = CrossEntropy()
    result = attack.run(model, x, y, threat, seed=3)
    assert result.x.shape == x.shape
    assert result.x.dtype == result.loss.dtype == dtype
    assert threat.contains(result.x, x).all()
    assert result.x.isfinite().all()
    clean, attacked = model(x).detach(), model(result.x).detach()
    torch.testing.assert_close(result.loss, loss(attacked, y), atol=1e-6, rtol=1e-5)
    assert (result.success == ~correct(attacked, y)).all()
    weaker_loss = result.loss < loss(clean, y) - 1e-6
    assert not (weaker_loss & (result.success == ~correct(clean, y))).any()
    assert (result.success | correct(clean, y)).all()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_same_seed_gives_the_same_points_and_another_seed_gives_others(attack: Attack) -> None:
    model, (x, y), threat = network(3), examples(3), LpBall("2", 0.4)
    torch.manual_seed(0)
    first = attack.run(model, x, y, threat, seed=5)
    torch.manual_seed(1)
    again = attack.run(model, x, y, threat, seed=5)
    by_generator = attack.run(model, x, y, threat, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.x, by_generator.x)
    other = attack.run(model, x, y, threat, seed=6)
    deterministic = isinstance(attack, CleanAttack) or attack == FGSM()
    assert torch.equal(first.x, other.x) == deterministic


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("entry", ["run", "points"])
def test_parameters_keep_their_gradients_and_flags(attack: Attack, entry: str) -> None:
    model, (x, y), threat = network(3), examples(3), LpBall("inf", 0.2)
    parameters = list(model.parameters())
    parameters[1].requires_grad_(False)
    parameters[2].grad = torch.full_like(parameters[2], 7.0)
    values = [parameter.detach().clone() for parameter in parameters]
    if entry == "run":
        attack.run(model, x, y, threat)
    else:
        attack.points(model, x, y, threat, generator=torch.Generator(), loss=CrossEntropy())
    assert [parameter.requires_grad for parameter in parameters] == [True, False, True, True]
    assert parameters[0].grad is None
    assert parameters[3].grad is None
    assert torch.equal(parameters[2].grad, torch.full_like(parameters[2], 7.0))
    assert all(torch.equal(parameter, value) for parameter, value in zip(parameters, values, strict=True))
    assert not x.requires_grad


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_training_points_are_detached_members_of_the_set(attack: Attack) -> None:
    model, (x, y), threat = network(1), examples(1), LpBall("1", 0.7, bounds=(0.0, 1.0))
    if isinstance(attack, WildAttack):
        x[:2] = 0.5  # its rows that are not finite stay so: `points` checks nothing
    points = attack.points(model, x, y, threat, generator=torch.Generator(), loss=CrossEntropy())
    finite = points.isfinite().all(1)
    assert not points.requires_grad
    assert finite[2:].all()
    assert threat.contains(points[finite], x[finite]).all()


class Recorder(nn.Module):
    """Notes the mode it is called in and whether its parameters ask for gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen, self.frozen = inner, set[bool](), True

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(self.training)
        self.frozen &= not any(parameter.requires_grad for parameter in self.parameters())
        return self.inner(x)


def mixed_mode_model() -> nn.Sequential:
    inner = nn.Sequential(nn.Linear(FEATURES, 8), nn.Sequential(nn.Dropout(0.5), nn.ReLU()))
    model = nn.Sequential(Recorder(inner), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    model[1].eval()
    inner[1].eval()
    return model


@pytest.mark.parametrize(("mode", "seen"), [("eval", {False}), ("train", {True}), ("keep", {True})])
@pytest.mark.parametrize("fails", [False, True])
def test_the_mode_is_as_told_during_and_as_found_after_even_when_the_attack_fails(
    mode: str, seen: set[bool], fails: bool
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class FailingAttack(CleanAttack):
        def search(self, *args: object, **options: object) -> Tensor:
            raise RuntimeError("search failed")

    model, (x, y) = mixed_mode_model(), examples(3)
    before = {name: module.training for name, module in model.named_modules()}
    attack = FailingAttack() if fails else PGD(steps=2)
    if fails:
        with pytest.raises(RuntimeError, match="search failed"):
            attack.run(model, x, y, LpBall("2", 0.4), mode=mode)
    else:
        attack.run(model, x, y, LpBall("2", 0.4), mode=mode)
    assert model[0].seen == seen
    assert model[0].frozen
    assert {name: module.training for name, module in model.named_modules()} == before
    assert len(set(before.values())) == 2
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model[1].track_running_stats


def test_keep_leaves_each_submodule_in_its_own_mode() -> None:
    model = mixed_mode_model()
    with in_mode(model, "keep"):
        assert model[0].training
        assert not model[0].inner[1].training


def test_batch_norm_in_training_mode_uses_the_batch_and_keeps_its_running_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 3)).train()
    (x, y), threat = examples(3), LpBall("2", 0.4)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    result = CleanAttack().run(model, x, y, threat, mode="train")
    by_batch = nn.functional.batch_norm(x, None, None, model[0].weight, model[0].bias, training=True)
    torch.testing.assert_close(result.loss, CrossEntropy()(model[1](by_batch), y).detach())
    PGD(steps=2).run(model, x, y, threat, mode="train")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model(x)
    assert not torch.equal(model[0].running_mean, state["0.running_mean"])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_attacks_work_where_gradients_are_switched_off(context: type[torch.no_grad]) -> None:
    model, (x, y), threat = network(3), examples(3), LpBall("2", 0.4)
    expected = PGD(steps=3).run(model, x, y, threat).x
    with context():
        assert torch.equal(PGD(steps=3).run(model, x.clone(), y.clone(), threat).x, expected)


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_pgd_reaches_the_exact_optimum_of_a_linear_model(
    norm: str, bounds: tuple[float, float] | None, outputs: int
) -> None:
    model = nn.Linear(FEATURES, outputs).double()
    torch.manual_seed(4)
    nn.init.normal_(model.weight)
    (x, y), threat = examples(outputs, torch.float64), LpBall(norm, 0.3, bounds=bounds)
    # A long step along the gradient itself: its projection is the maximiser as the length grows, in the box too.
    result = PGD(steps=100, step_size=10.0, step_rule="gradient").run(model, x, y, threat)
    weight = model.weight[0] if outputs == 1 else model.weight[1] - model.weight[0]
    uphill = (1 - 2 * y)[:, None] * weight.detach()
    best = CrossEntropy()(model(threat.maximise(uphill, x)), y).detach()
    torch.testing.assert_close(result.loss, best, atol=1e-4, rtol=1e-4)
    assert (best > CrossEntropy()(model(x), y) + 0.01).all()


def test_fgsm_is_the_optimum_of_a_linear_model_in_one_step() -> None:
    model = nn.Linear(FEATURES, 1).double()
    (x, y), threat = examples(1, torch.float64), LpBall("inf", 0.3)
    result = FGSM().run(model, x, y, threat)
    expected = x + 0.3 * (1 - 2 * y)[:, None] * model.weight.detach().sign()
    torch.testing.assert_close(result.x, expected, atol=1e-5, rtol=0)


def test_steps_follow_the_stated_rule() -> None:
    model = nn.Linear(FEATURES, 1).double()
    (x, y), threat = examples(1, torch.float64), LpBall("2", 5.0)
    weight = model.weight.detach()
    plain = PGD(steps=1, step_size=0.25, start="example", step_rule="gradient", loss=Squared()).run(
        model, x, y, threat
    )
    residual = (model(x) - (2 * y - 1)[:, None]).detach()
    torch.testing.assert_close(plain.x, x + 0.25 * residual * weight)
    steepest = PGD(steps=2, step_size=0.25, start="example").run(model, x, y, threat)
    torch.testing.assert_close(steepest.x, x + 0.5 * (1 - 2 * y)[:, None] * weight / weight.norm())
    # Momentum with a direction that never changes: steps 1 and 1 + 0.5, in units of the mean absolute gradient.
    heavy = PGD(steps=2, step_size=0.1, start="example", step_rule="gradient", momentum=0.5)
    moved = heavy.run(model, x, y, threat).x - x
    torch.testing.assert_close(moved, 0.25 * (1 - 2 * y)[:, None] * weight / weight.abs().mean())


def test_starts_are_where_they_say() -> None:
    model, (x, y), threat = network(3), examples(3), LpBall("2", 0.4)

    def starts(attack: PGD, restart: int) -> Tensor:
        return (attack._start(x, threat, torch.Generator().manual_seed(0), restart) - x).norm(dim=1)

    tiny = PGD(steps=1, step_size=1e-9)
    assert (starts(replace(tiny, start="example"), 0) == 0).all()
    far, near = starts(replace(tiny, start="random"), 0), starts(replace(tiny, start="near"), 0)
    torch.testing.assert_close(near, far / 100, rtol=1e-2, atol=1e-6)
    assert (far > 0).all()
    torch.testing.assert_close(starts(replace(tiny, start="near"), 1), far)
    moved = (
        tiny.points(model, x, y, threat, generator=torch.Generator().manual_seed(0), loss=Hinge()) - x
    ).norm(dim=1)
    torch.testing.assert_close(moved, far, rtol=1e-4, atol=1e-5)


def test_dropping_broken_examples_changes_no_success() -> None:
    model, (x, _), threat = network(3, torch.float64), examples(3, torch.float64, batch=200), LpBall("2", 0.3)
    y = separate(model, x)
    every = PGD(steps=3, restarts=4)
    kept, dropped = every.run(model, x, y, threat), replace(every, drop_broken=True).run(model, x, y, threat)
    assert torch.equal(kept.success, dropped.success)
    assert (kept.loss >= dropped.loss - 1e-9).all()
    first = replace(every, restarts=1).run(model, x, y, threat).success
    assert first.sum() < kept.success.sum() < len(x)


def test_broken_examples_leave_the_batch() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.rows = network(3), list[int]()

        def forward(self, x: Tensor) -> Tensor:
            self.rows.append(len(x))
            return self.inner(x)

    model, (x, y), threat = Counter(), examples(3), LpBall("2", 0.3)
    PGD(steps=2, restarts=3, drop_broken=True).run(model, x, y, threat)
    wrong = int((~correct(model.inner(x), y)).sum())
    assert 0 < wrong < len(x)
    searched = model.rows[2:-1]  # beside one pass to check, one to score at the start and one at the end
    assert searched[0] == len(x) - wrong
    assert searched == sorted(searched, reverse=True)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), restarts=st.integers(2, 4), radius=st.floats(0.05, 1.0))
def test_more_restarts_and_kept_iterates_never_weaken_the_attack(
    seed: int, restarts: int, radius: float
) -> None:
    model, (x, y), threat = network(3, torch.float64, seed), examples(3, torch.float64), LpBall("2", radius)
    few = PGD(steps=3, restarts=restarts)
    weak = few.run(model, x, y, threat, seed=seed)
    for strong in (replace(few, restarts=restarts + 1), replace(few, keep_best=True)):
        result = strong.run(model, x, y, threat, seed=seed)
        assert (result.success | ~weak.success).all()
        assert (result.loss >= weak.loss - 1e-9)[result.success == weak.success].all()


def test_a_targeted_attack_reaches_the_target_and_lowers_the_loss_there() -> None:
    model, (x, _), threat = network(4, torch.float64), examples(4, torch.float64), LpBall("2", 5.0)
    y = separate(model, x)
    targets = (y + 1 + torch.arange(len(y)) % 3) % 4
    result = PGD(steps=60).run(model, x, y, threat, targets=targets)
    predicted = separate(model, result.x)
    assert (result.success == (predicted == targets)).all()
    assert result.success.float().mean() > 0.8
    torch.testing.assert_close(result.loss, CrossEntropy()(model(result.x), y).detach())
    small = PGD(steps=10).run(model, x, y, LpBall("2", 0.05), targets=targets)
    before, after = (CrossEntropy()(model(points), targets).detach() for points in (x, small.x))
    assert (after < before).all()


def test_one_output_is_attacked_towards_the_other_class() -> None:
    model, (x, _), threat = network(1, torch.float64), examples(1, torch.float64), LpBall("2", 0.5)
    y = separate(model, x)
    attack = PGD(steps=20, keep_best=True)
    untargeted = attack.run(model, x, y, threat)
    targeted = attack.run(model, x, y, threat, targets=1 - y)
    assert torch.equal(untargeted.success, targeted.success)
    torch.testing.assert_close(untargeted.x, targeted.x)


def test_multi_target_finds_what_the_likeliest_class_hides() -> None:
    """Class 1 is likelier but out of reach (its output hardly moves); class 2 is unlikely and can be reached."""

    class Trap(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            likely = -0.5 + 0.01 * x[:, :1]
            return torch.cat([torch.zeros_like(likely), likely, -2.5 + 3 * x[:, 1:2]], 1)

    x, y = torch.zeros(1, FEATURES, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    x[:, 1] = 0.55
    threat = LpBall("inf", 0.3)
    attack = PGD(steps=20, start="example")
    plain = MultiTarget(attack=attack, classes=1).run(Trap(), x, y, threat)
    every = MultiTarget(attack=attack).run(Trap(), x, y, threat)
    assert not plain.success.any()
    assert every.success.all()


def test_a_tie_counts_as_broken() -> None:
    class Constant(nn.Module):
        def __init__(self, outputs: int) -> None:
            super().__init__()
            self.outputs = outputs

        def forward(self, x: Tensor) -> Tensor:
            return (0 * x[:, :1]).expand(-1, self.outputs)

    for outputs in (1, 3):
        x, y = examples(outputs)
        assert PGD(steps=1).run(Constant(outputs), x, y, LpBall("2", 0.4)).success.all()


def test_the_stronger_point_is_a_success_first_then_a_higher_loss() -> None:
    def points(values: list[float], reached: list[bool], mark: float) -> Scored:
        return Scored(
            x=torch.full((len(values), 1), mark), value=torch.tensor(values), reached=torch.tensor(reached)
        )

    first = points([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [False, False, True, True, False, True], 0.0)
    inf = float("inf")
    second = points([2.0, 0.5, 9.0, 2.0, -inf, inf], [False, True, False, True, False, True], 1.0)
    assert stronger(first, second).x.squeeze(1).tolist() == [1, 1, 0, 1, 0, 1]
    assert stronger(first, replace(second, x=second.x, value=first.value, reached=first.reached)).x.sum() == 0


def test_a_gradient_that_overflows_leaves_the_point_where_it_is() -> None:
    class Root(nn.Module):  # the slope of the root is infinite at 0
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :1].abs().sqrt() - 0.5 + x[:, 1:2]

    x, y = torch.zeros(2, 3), torch.tensor([0, 0])
    x[1, 0] = 0.5
    result = PGD(steps=5, start="example").run(Root(), x, y, LpBall("2", 0.4))
    assert result.x.isfinite().all()
    assert (result.loss > CrossEntropy()(Root()(x), y)).all()  # the other feature still climbs


def test_the_best_iterate_is_kept_where_the_last_one_overshoots() -> None:
    class Peak(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -(x[:, :1] - 0.1).abs()

    x, y = torch.zeros(1, 2), torch.tensor([0])
    there_and_back = PGD(steps=2, step_size=0.15, start="example")
    last = there_and_back.run(Peak(), x, y, LpBall("inf", 1.0))
    best = replace(there_and_back, keep_best=True).run(Peak(), x, y, LpBall("inf", 1.0))
    torch.testing.assert_close(last.x[0, 0], torch.tensor(0.0))
    torch.testing.assert_close(best.x[0, 0], torch.tensor(0.15))


def test_points_a_threat_fails_to_project_are_discarded() -> None:
    class Outside(LpBall):
        def project_inside(self, points: Points, x: Points) -> Points:
            return points

    model, (x, y), threat = network(3), examples(3), Outside("2", 0.4)
    result = WildAttack().run(model, x, y, threat)
    assert torch.equal(result.x, x)
    torch.testing.assert_close(result.loss, CrossEntropy()(model(x), y).detach())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": torch.full((24, FEATURES), torch.nan)}, "x must be finite, got NaN or infinity in 24 of 24"),
        ({"x": torch.ones(24, FEATURES, dtype=torch.long)}, r"floating-point numbers, got torch.int64"),
        ({"x": torch.ones(24)}, r"floating-point examples .* shape \(24,\)"),
        ({"x": torch.ones(0, FEATURES), "y": torch.ones(0, dtype=torch.long)}, "at least one of each"),
        ({"y": torch.full((24,), 3)}, r"labels must lie in 0..2 for a model with 3 output\(s\), got 3..3"),
        ({"y": torch.full((24,), -1)}, "labels must lie in 0..2"),
        ({"y": torch.zeros(23, dtype=torch.long)}, r"24 rows and 23 labels"),
        ({"y": torch.zeros(24)}, "y must hold integer labels, got torch.float32"),
        (
            {"y": torch.zeros(24, 3, dtype=torch.long)},
            r"y must be one label per example, .* of shape \(24, 3\)",
        ),
        ({"targets": torch.zeros(24, dtype=torch.long)}, "targets must differ from the labels, got .* of 24"),
        ({"targets": torch.full((24,), 5)}, "targets must lie in 0..2"),
        ({"x": torch.full((24, FEATURES), 2.0)}, "x must lie in the threat's bounds, got 24 of 24"),
        ({"mode": "evaluate"}, "mode must be one of eval, train, keep, got 'evaluate'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_bad_input_is_named_in_one_sentence(change: dict[str, object], sentence: str) -> None:
    x, y = examples(3)
    given = {"x": x, "y": y, **change}
    with pytest.raises(InputError, match=sentence):
        PGD(steps=1).run(network(3), threat=LpBall("2", 0.4, bounds=(0.0, 1.0)), **given)


class Shaped(nn.Module):
    """A module that returns something other than logits."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.layer = what, nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> object:
        outputs = self.layer(x)
        return {
            "flat": outputs[:, 0],
            "pair": (outputs, outputs),
            "image": outputs[:, :, None],
            "classes": outputs.argmax(1, keepdim=True),
            "short": outputs[:-1],
            "nan": outputs / 0 * 0,
            "detached": outputs.detach(),
        }[self.what]


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("flat", r"model must return floating-point logits \(batch, classes\), .* of shape \(24,\)"),
        ("pair", r"model must return floating-point logits \(batch, classes\), .* got tuple"),
        ("image", r"of shape \(24, 3, 1\)"),
        ("classes", "got torch.int64 of shape"),
        ("short", "model must keep the batch size, but changes it from 24 to 23 rows"),
        ("nan", "model must return finite outputs.* for 24 of 24"),
        ("detached", "model must be differentiable in its input"),
    ],
)
def test_a_module_that_returns_no_logits_is_refused(what: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        PGD(steps=1).run(Shaped(what), *examples(3), LpBall("2", 0.4))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("attack", "options", "sentence"),
    [
        (PGD, {"steps": 0}, "steps must be a whole number >= 1, got 0"),
        (PGD, {"restarts": 0}, "restarts must be a whole number >= 1, got 0"),
        (PGD, {"step_size": 0.0}, "step_size must be a finite number > 0"),
        (PGD, {"step_size": float("nan")}, "step_size must be a finite number > 0"),
        (PGD, {"momentum": -0.1}, "momentum must be a finite number >= 0"),
        (PGD, {"start": "zero"}, "start must be one of random, example, near, gaussian, got 'zero'"),
        (PGD, {"step_rule": "raw"}, "step_rule must be one of steepest, gradient, got 'raw'"),
        (FGSM, {"step_size": -1.0}, "step_size must be a finite number > 0"),
        (RandomAttack, {"samples": 0}, "samples must be a whole number >= 1"),
        (MultiTarget, {"attack": FGSM(), "classes": 0}, "classes must be a whole number >= 1"),
    ],
)
def test_settings_outside_what_is_allowed_are_refused(
    attack: type[Attack], options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        attack(**options)


def test_images_and_integer_labels_of_any_width_are_taken() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 9, 3))
    x, y = torch.rand(4, 1, 5, 5), torch.tensor([0, 1, 2, 0], dtype=torch.int32)
    threat = LpBall("2", 0.4, bounds=(0.0, 1.0))
    for attack in (PGD(steps=2, restarts=2, momentum=0.5), MultiTarget(attack=FGSM())):
        result = attack.run(model, x, y, threat)
        assert result.x.shape == x.shape
        assert threat.contains(result.x, x).all()
