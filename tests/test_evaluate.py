"""Evaluation: clean and robust accuracy of a cascade, against what can be worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from holdfast.attacks import FGSM, PGD, CleanAttack, RandomAttack
from holdfast.errors import InputError
from holdfast.evaluation import Evaluation, evaluate
from holdfast.losses import CrossEntropy, Hinge, correct
from holdfast.threats.lp import LpBall


def line() -> nn.Linear:
    """Class 1 where the first coordinate is above 0: an example is robust when farther than the radius from there."""
    model = nn.Linear(2, 1).double()
    model.weight.data = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    model.bias.data.zero_()
    return model


def points(count: int = 41) -> tuple[Tensor, Tensor]:
    """First coordinates -1 .. 1; the label is their sign, except for the outermost two, which are mislabelled."""
    first = torch.linspace(-1, 1, count, dtype=torch.float64) + 0.003
    x = torch.stack([first, torch.zeros_like(first)], 1)
    y = (first > 0).long()
    y[0], y[-1] = 1 - y[0], 1 - y[-1]
    return x, y


@pytest.mark.parametrize(
    "attacks",
    ["pgd", [FGSM()], [RandomAttack(samples=1), PGD(steps=10, step_size=1.0)]],
    ids=["pgd", "fgsm", "cascade"],
)
@pytest.mark.parametrize("batch_size", [16, 256])
def test_accuracies_are_those_of_the_line(attacks: str | list, batch_size: int) -> None:
    (x, y), radius = points(), 0.25
    result = evaluate(line(), x, y, LpBall("2", radius), attacks, batch_size=batch_size, verify=None)
    right = torch.ones(len(x), dtype=torch.bool)
    right[0] = right[-1] = False
    robust = right & (x[:, 0].abs() > radius)
    assert torch.equal(result.clean, right)
    assert torch.equal(result.robust, robust)
    assert result.clean_accuracy == pytest.approx(39 / 41)
    assert result.robust_accuracy == pytest.approx(float(robust.double().mean()))
    assert 0 < result.robust_accuracy < result.clean_accuracy


def test_losses_points_and_flags_agree() -> None:
    (x, y), model, threat = points(), line(), LpBall("2", 0.25)
    result = evaluate(model, x, y, threat, [FGSM(), PGD(steps=5)], verify=None)
    assert threat.contains(result.x, x).all()
    torch.testing.assert_close(result.loss, CrossEntropy()(model(result.x), y).detach())
    torch.testing.assert_close(result.clean_loss, CrossEntropy()(model(x), y).detach())
    assert torch.equal(result.robust, correct(model(result.x), y))
    assert (result.loss >= result.clean_loss).all()
    assert torch.equal(result.y, y)


def test_the_loss_asked_for_is_the_loss_reported() -> None:
    (x, y), model = points(), line()
    result = evaluate(model, x, y, LpBall("2", 0.25), "clean", loss=Hinge(), verify=None)
    torch.testing.assert_close(result.loss, Hinge()(model(x), y).detach())
    assert result.left == ()
    assert result.robust_accuracy == result.clean_accuracy


class Seen(nn.Module):
    """Remembers the rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.rows = line(), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(x.detach()[:, 1])
        return self.inner(x)


def test_broken_examples_are_not_attacked_again() -> None:
    (x, y), model, threat = points(), Seen(), LpBall("2", 0.25)
    calls = []
    record = {"progress": lambda *call: calls.append(call), "examine": False, "verify": None}
    evaluate(model, x, y, threat, [FGSM(), CleanAttack()], **record)
    standing = int(evaluate(line(), x, y, threat, [FGSM()], verify=None).robust.sum())
    assert calls == [("clean", 41, 41), ("fgsm", 39, 39), ("clean", standing, standing)]
    assert max(len(rows) for rows in model.rows[-2:]) == standing
    calls.clear()
    evaluate(model, x, y, threat, [FGSM()], drop_broken=False, batch_size=30, **record)
    assert calls == [("clean", 30, 41), ("clean", 41, 41), ("fgsm", 30, 41), ("fgsm", 41, 41)]


def test_attacking_all_finds_higher_losses_and_the_same_accuracy() -> None:
    (x, y), model, threat = points(), line(), LpBall("2", 0.25)
    cascade = [RandomAttack(samples=3), PGD(steps=10, step_size=1.0)]
    spared, every = (
        evaluate(model, x, y, threat, cascade, drop_broken=drop, verify=None) for drop in (True, False)
    )
    assert torch.equal(spared.robust, every.robust)
    assert (every.loss >= spared.loss - 1e-6).all()
    best = CrossEntropy()(model(threat.maximise((1 - 2 * y)[:, None] * model.weight.detach(), x)), y).detach()
    torch.testing.assert_close(every.loss, best, atol=1e-4, rtol=0)
    assert (spared.loss < best - 1e-3)[~spared.clean].all()


def test_each_attack_reports_what_it_left() -> None:
    (x, y), threat = points(), LpBall("2", 0.25)
    result = evaluate(
        line(), x, y, threat, [RandomAttack(samples=1), FGSM(), RandomAttack(samples=2)], verify=None
    )
    names, left = zip(*result.left, strict=True)
    assert names == ("random-1", "fgsm", "random-2")
    assert result.clean_accuracy >= left[0] > left[1] == left[2] == result.robust_accuracy


def test_the_same_seed_gives_the_same_evaluation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    (x, _), threat = points(), LpBall("2", 0.4)
    y = torch.arange(len(x)) % 3

    def run(seed: int) -> Evaluation:
        return evaluate(model, x, y, threat, [RandomAttack(samples=1)], seed=seed, batch_size=8, verify=None)

    assert torch.equal(run(1).x, run(1).x)
    assert not torch.equal(run(1).x, run(2).x)


def test_evaluation_is_in_eval_mode_and_restores_training_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.9), line()).train()
    x, y = points()
    result = evaluate(model, x, y, LpBall("2", 0.25), [FGSM()], verify=None)
    assert result.clean_accuracy == pytest.approx(39 / 41)
    assert model.training
    assert model[0].training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_class_table_has_a_row_for_each_label_and_adds_up() -> None:
    (x, y), threat = points(), LpBall("2", 0.25)
    result = evaluate(line(), x, y, threat, [FGSM()], verify=None)
    rows = result.per_class()
    assert [row.label for row in rows] == [0, 1]
    assert [row.examples for row in rows] == [int((y == label).sum()) for label in (0, 1)]
    assert sum(row.examples * row.robust_accuracy for row in rows) == pytest.approx(int(result.robust.sum()))
    assert sum(row.examples * row.clean_accuracy for row in rows) == pytest.approx(int(result.clean.sum()))
    assert rows[0].clean_accuracy == pytest.approx(float(result.clean[y == 0].double().mean()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"attacks": "standrad"},
            "attacks must be one of standard, fast, strong, pgd, clean, or a sequence of at least one attack, got 'standrad'",
        ),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, or None, got 0"),
        ({"y": torch.zeros(3, dtype=torch.long)}, "got 41 rows and 3 labels"),
        ({"x": torch.zeros(0, 2), "y": torch.zeros(0, dtype=torch.long)}, "with at least one of each"),
        ({"y": torch.full((41,), 2)}, "labels must lie in 0..1"),
    ],
    ids=["name", "batch", "rows", "empty", "labels"],
)
def test_bad_input_is_named_in_one_sentence(options: dict[str, object], sentence: str) -> None:
    x, y = points()
    given = {"x": x, "y": y, **options}
    with pytest.raises(InputError, match=sentence):
        evaluate(line(), threat=LpBall("2", 0.25), **given)


class Rounded(nn.Module):
    """Its outputs are read from a table: no bounds are known for that."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], torch.tensor(x[:, 1].tolist())], 1)


@pytest.mark.parametrize("model", [Rounded(), line().bfloat16()], ids=["no bounds known", "half precision"])
def test_a_model_that_nothing_is_proved_of_is_attacked_all_the_same(model: nn.Module) -> None:
    (x, y), said = points(), []
    result = evaluate(model, x, y, LpBall("2", 0.01), [CleanAttack()], notice=said.append, examine=False)
    assert [stage.kind for stage in result.stages] == ["attack", "bound"]
    assert "nothing proved: model" in result.stages[1].note
    assert said == [result.stages[1].note.replace("nothing proved", "nothing is proved")]
    assert not result.verified.any()
    with pytest.raises(InputError, match="to be verified"):
        evaluate(model, x, y, LpBall("2", 0.01), [CleanAttack()], verify="crown", examine=False)
