"""What must never pass for robustness: outputs that are no numbers, models that write on their input, probabilities."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import holdfast as hf
from holdfast.attacks import APGD, FAB, PGD, Attack, CarliniWagner, DeepFool, RandomAttack, Square
from holdfast.errors import InputError
from holdfast.evaluation import evaluate
from holdfast.evaluation.memory import kept_bytes
from holdfast.evaluation.store import recheck, save_attacked
from holdfast.losses import Squared, correct
from holdfast.networks import LogOutputs
from holdfast.threats import CustomThreat, LpBall
from holdfast.verification import smooth, verify

BALL = LpBall("inf", 0.2, bounds=(0.0, 1.0))


def points(batch: int = 12, features: int = 6) -> Tensor:
    return 0.3 + 0.4 * torch.rand(batch, features, generator=torch.Generator().manual_seed(1))


class Hole(nn.Module):
    """Right by a wide margin, but for half of each ball, where it answers ``wild``."""

    def __init__(self, x: Tensor, wild: list[float]) -> None:
        super().__init__()
        self.x, self.wild = x, torch.tensor(wild)

    def forward(self, points: Tensor) -> Tensor:
        nearest = torch.cdist(points, self.x).argmin(1)
        moved = (points - self.x[nearest]).sum(1, keepdim=True)
        tame = torch.cat([3 + 0.01 * moved, 0 * moved, -3 - 0.01 * moved], 1)
        return torch.where(moved > 1e-3, self.wild, tame)


NAN, INF = float("nan"), float("inf")
WILD = {
    "nan": [NAN, NAN, NAN],
    "one nan": [3.0, 0.0, NAN],
    "inf at the label": [INF, 0.0, 0.0],
    "-inf elsewhere": [3.0, -INF, 0.0],
    "difference overflows": [3e38, -3e38, 0.0],
    "wrong, difference overflows": [-3e38, 3e38, 0.0],
}


@pytest.mark.parametrize("wild", WILD.values(), ids=list(WILD))
def test_outputs_or_differences_that_are_not_finite_are_broken_by_every_suite(wild: list[float]) -> None:
    x = points(4)
    y = torch.zeros(len(x)).long()
    for suite in ("fast", [RandomAttack(samples=9), APGD(steps=10), FAB(steps=5, targets=2)]):
        result = evaluate(Hole(x, wild), x, y, BALL, suite, verify=None)
        assert result.clean_accuracy == 1
        assert result.robust_accuracy == 0
        assert result.loss.isinf().all()
        assert BALL.contains(result.x, x).all()


@pytest.mark.parametrize(
    "attack",
    [
        RandomAttack(samples=9),
        PGD(steps=3, restarts=5, keep_best=True),
        PGD(steps=3, restarts=5, drop_broken=True, keep_best=True),
        APGD(steps=5, restarts=5),
        APGD(steps=5, restarts=5, drop_broken=True, loss="margin"),
        FAB(steps=5, restarts=5, targets=2),
        Square(queries=60),
        CarliniWagner(steps=20),
    ],
    ids=lambda attack: attack.name,
)
def test_every_attack_counts_what_is_not_a_number(attack: Attack) -> None:
    x = points(4)
    result = attack.run(Hole(x, WILD["nan"]), x, torch.zeros(len(x)).long(), BALL)
    assert result.success.all()
    assert result.loss.isinf().all()


@pytest.mark.parametrize(
    "attack",
    [
        RandomAttack(samples=9),
        PGD(steps=3),
        APGD(steps=5),
        APGD(steps=5, targets=2),
        FAB(steps=5),
        Square(queries=60),
        CarliniWagner(steps=20),
    ],
    ids=lambda attack: attack.name,
)
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_another_number_of_outputs_away_from_the_examples_is_an_error(attack: Attack, outputs: int) -> None:
    """And no broken example, nor a raw error of a search that looks for a class that is not there."""
    x = points(4)
    away = torch.linspace(1.0, 0.0, outputs)

    class Changing(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            at = torch.stack([3 + v[:, 0], v[:, 1], v[:, 0] * 0], 1)
            if len(v) == len(x) and torch.equal(v.detach(), x):
                return at
            return away + v.sum(1, keepdim=True)

    with pytest.raises(InputError, match="3 outputs at every point") as caught:
        attack.run(Changing(), x, torch.zeros(4).long(), BALL)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="3 outputs at every point"):
        evaluate(Changing(), x, torch.zeros(4).long(), BALL, [attack], batch_size=4)


def test_a_loss_that_is_not_finite_is_broken_though_the_class_is_right() -> None:
    x = points(4)
    model = Hole(x, [1e30, 0.0, 0.0])  # whose square is not finite
    result = RandomAttack(samples=9).run(model, x, torch.zeros(4).long(), BALL, loss=Squared())
    assert result.success.all()
    assert correct(model(result.x), torch.zeros(4).long()).all()


def test_no_class_is_reached_where_outputs_are_not_finite() -> None:
    x = points(4)
    result = RandomAttack(samples=9).run(
        Hole(x, [INF, 0.0, 0.0]), x, torch.full((4,), 2), BALL, targets=torch.zeros(4).long()
    )
    assert result.success.all()  # the clean example is of that class, and is kept
    assert result.x.equal(x)


def test_stored_points_without_a_finite_loss_are_rechecked(tmp_path) -> None:
    x = points(4)
    y, model = torch.zeros(4).long(), Hole(x, WILD["nan"])
    save_attacked(evaluate(model, x, y, BALL, "fast", verify=None), x, tmp_path / "attacked.safetensors")
    assert recheck(tmp_path / "attacked.safetensors", model, BALL).sound
    assert recheck(tmp_path / "attacked.safetensors", Hole(x, [3.0, 0.0, 0.0]), BALL).wrong_flags == 4


@pytest.mark.parametrize("wild", [*WILD.values(), [1.0, 1.0, 0.0]], ids=[*WILD, "tie"])
def test_smoothing_counts_no_vote_that_is_none(wild: list[float]) -> None:
    x = points(2)
    found = smooth(Hole(x, wild), x, torch.zeros(2).long(), sigma=0.1, samples=100)
    assert (found.predicted == -1).all()
    assert (found.radius == 0).all()


# ---- the caller's own storage


class InPlace(nn.Module):
    """Scales its input where it lies."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.layer = change, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.change(x))


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A model that works in place, and the same one that does not."""
    changes: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "mul": (lambda x: x.mul_(10), lambda x: x * 10),
        "relu": (nn.ReLU(inplace=True), nn.ReLU()),
        "clamp": (lambda x: x.clamp_(0.4, 0.6), lambda x: x.clamp(0.4, 0.6)),
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        models = [InPlace(change) for change in changes[name]]
    models[1].layer.load_state_dict(models[0].layer.state_dict())
    return models[0], models[1]


@pytest.mark.parametrize("name", ["mul", "relu", "clamp"])
def test_a_model_that_works_in_place_is_judged_as_one_that_does_not(name: str) -> None:
    model, plain = pair(name)
    x = points(6) - (0.5 if name == "relu" else 0.0)
    kept, y = x.clone(), plain(x).argmax(1)
    ball = LpBall("inf", 0.1)
    assert kept_bytes(model, x) == kept_bytes(plain, x)
    attacks = [
        RandomAttack(samples=3),
        PGD(steps=3),
        APGD(steps=5, targets=2),
        FAB(steps=3),
        Square(queries=20),
        CarliniWagner(steps=3, searches=2),
        DeepFool(steps=3),
    ]
    for attack in attacks:
        one, other = (
            evaluate(model, x, y, ball, [attack], verify=None),
            evaluate(plain, x, y, ball, [attack], verify=None),
        )
        assert x.equal(kept)
        assert one.robust.equal(other.robust)
        torch.testing.assert_close(one.x, other.x)
    same = [smooth(m, x[:3], y[:3], sigma=0.3, samples=50) for m in (model, plain)]
    assert same[0].radius.equal(same[1].radius)
    verify(model.double(), x.double(), y, ball, method="ibp")
    assert x.equal(kept)


def test_models_are_called_in_one_place_alone() -> None:
    """Training, certificates and kernels included: no module calls ``model(...)`` itself, on storage that may be the caller's."""
    package = Path(hf.__file__).parent
    # Networks call what they wrap, tracing calls its own copy, and these two call networks of the library on their own points.
    own = {"_tensors.py", "networks", "verification/tracing.py", "certificates/frozen.py", "lab/reproduce"}
    found = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if name in own or any(name.startswith(f"{place}/") for place in own):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func
                word = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                if word in ("model", "surrogate", "net"):
                    found.append(f"{name}:{node.lineno}")
    assert found == []


def test_a_model_that_answers_into_one_storage_keeps_earlier_answers() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.held = nn.Linear(6, 3), torch.zeros(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                return self.layer(x)
            return self.held[: len(x)].copy_(self.layer(x))

    model, x = Reused(), points()
    y = model.layer(x).argmax(1)
    found = [Square(queries=40).run(m, x, y, BALL) for m in (model, model.layer)]
    assert found[0].x.equal(found[1].x)


def test_a_projection_that_works_in_place_decides_membership_all_the_same() -> None:
    threat = CustomThreat(
        lambda p, x: torch.minimum(torch.maximum(p, x - 0.1, out=p), x + 0.1, out=p), radius_hint=1.0
    )
    x = points().double()
    outside = x + 0.3
    kept = outside.clone()
    assert not threat.contains(outside, x).any()
    assert threat.contains(threat.project_inside(outside, x), x).all()
    assert outside.equal(kept)


# ---- probabilities


def classifier(last: nn.Module | None, outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs)]
    return nn.Sequential(*layers, *([] if last is None else [last]))


class Lambda(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)


PROBABILITIES = {
    "one sigmoid": (nn.Sigmoid(), 1),
    "one column of 0 and 1": (Lambda(lambda z: (z > 0).to(z.dtype)), 1),
    "one clamped column": (Lambda(lambda z: z.clamp(0, 1)), 1),
    "softmax": (nn.Softmax(1), 3),
    "percent": (Lambda(lambda z: 100 * z.softmax(1)), 3),
    "a sigmoid each": (nn.Sigmoid(), 3),
    "one-hot": (Lambda(lambda z: nn.functional.one_hot(z.argmax(1), 3).to(z.dtype)), 3),
}


@pytest.mark.parametrize(("last", "outputs"), PROBABILITIES.values(), ids=list(PROBABILITIES))
def test_probabilities_are_refused_everywhere(last: nn.Module, outputs: int) -> None:
    model, x = classifier(last, outputs), points()
    y = torch.ones(len(x)).long()
    for work in (
        lambda: evaluate(model, x, y, BALL, "fast", verify=None),
        lambda: PGD().run(model, x, y, BALL),
        lambda: verify(model, x, y, BALL, method="ibp"),
        lambda: smooth(model, x, y, sigma=0.1, samples=10),
    ):
        with pytest.raises(InputError, match=r"must return logits.*LogOutputs"):
            work()


@pytest.mark.parametrize(
    ("last", "outputs"),
    [
        (None, 1),
        (None, 3),
        (nn.LogSoftmax(1), 3),
        (nn.Tanh(), 1),
        (nn.ReLU(), 3),
        (Lambda(lambda z: z.sigmoid() - 0.5), 1),
        (Lambda(lambda z: 0 * z), 1),  # the start of a symmetric network
        (Lambda(lambda z: 0.5 + 1e-3 * z), 3),  # in [0, 1] near the examples alone
    ],
)
def test_logits_and_signed_outputs_are_not_taken_for_probabilities(
    last: nn.Module | None, outputs: int
) -> None:
    model, x = classifier(last, outputs), points()
    PGD(steps=1).run(model, x, torch.ones(len(x)).long(), BALL)


def test_the_logarithm_of_one_probability_is_the_signed_output() -> None:
    logits, x = classifier(None, 1), points()
    wrapped = LogOutputs(classifier(nn.Sigmoid(), 1))
    torch.testing.assert_close(wrapped(x), logits(x), atol=1e-6, rtol=1e-5)
    assert torch.equal(wrapped(x) > 0, logits(x) > 0)
