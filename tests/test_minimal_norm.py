"""Carlini-Wagner and DeepFool: the nearest misclassified point of linear models is known, and found."""

import pytest
import torch
from torch import Tensor, nn

from holdfast.attacks.margins import Margin
from holdfast.attacks.minimal_norm import CarliniWagner, DeepFool
from holdfast.errors import InputError
from holdfast.threats import LpBall, SphereSlice
from holdfast.threats.base import Threat

BATCH, FEATURES = 30, 12
DUAL = {"inf": 1.0, "2": 2.0}


def linear(outputs: int, rng: torch.Generator) -> nn.Linear:
    model = nn.Linear(FEATURES, outputs).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return model


def examples(model: nn.Module, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.rand(BATCH, FEATURES, generator=rng, dtype=torch.float64)
    outputs = model(x).detach()
    return x, (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def nearest_boundary(model: nn.Linear, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """``min_j gap_j / ||w_j - w_y||_dual``, row by row."""
    weight, bias = model.weight.detach(), model.bias.detach()
    if len(weight) == 1:
        weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
    distances = []
    for row, label in zip(x, y.tolist(), strict=True):
        outputs = weight @ row + bias
        distances.append(
            min(
                float((outputs[label] - outputs[j]) / (weight[j] - weight[label]).norm(p=DUAL[norm]))
                for j in range(len(weight))
                if j != label
            )
        )
    return torch.tensor(distances, dtype=torch.float64)


@pytest.mark.parametrize("outputs", [1, 3, 10])
@pytest.mark.parametrize("norm", ["inf", "2"])
def test_deepfool_breaks_a_linear_model_just_beyond_its_nearest_boundary(
    outputs: int, norm: str, rng: torch.Generator
) -> None:
    model = linear(outputs, rng)
    x, y = examples(model, rng)
    nearest = nearest_boundary(model, x, y, norm)
    threat = LpBall(norm, float(nearest.median()))
    result = DeepFool(steps=5).run(model, x, y, threat)
    assert (result.success >= (1.021 * nearest < threat.radius)).all()
    assert not (result.success & (nearest > threat.radius)).any()
    # One step lands 2 % beyond the boundary, and no further.
    first = DeepFool(steps=1).run(model, x, y, LpBall(norm, 10.0 * float(nearest.max())))
    assert first.success.all()
    torch.testing.assert_close(
        LpBall(norm, 1.0).distance(first.x, x), 1.02 * nearest, rtol=1e-6, atol=1e-4 * float(nearest.max())
    )


@pytest.mark.parametrize("outputs", [1, 3, 10])
def test_carlini_wagner_breaks_a_linear_model_where_that_can_be_done(
    outputs: int, rng: torch.Generator
) -> None:
    model = linear(outputs, rng)
    x, y = examples(model, rng)
    nearest = nearest_boundary(model, x, y, "2")
    threat = LpBall("2", float(nearest.median()))
    result = CarliniWagner(steps=40, searches=5).run(model, x, y, threat)
    assert (result.success >= (1.03 * nearest < threat.radius)).all()
    assert not (result.success & (nearest > threat.radius)).any()


@pytest.mark.parametrize("attack", [CarliniWagner(steps=30, searches=5), DeepFool()], ids=lambda a: a.name)
@pytest.mark.parametrize(
    "threat",
    [
        LpBall("2", 0.5, bounds=(0.0, 1.0)),
        LpBall("2", 0.5, bounds=(0.0, 1.0), fixed=torch.arange(FEATURES) % 4 == 0),
        LpBall("inf", 0.12, bounds=(0.0, 1.0)),
        LpBall("1", 1.0, bounds=(0.0, 1.0)),
        SphereSlice(0.5),
    ],
    ids=lambda threat: threat.spec,
)
def test_what_the_set_allows_in_a_linear_binary_model_is_found(
    attack: CarliniWagner | DeepFool, threat: Threat, rng: torch.Generator
) -> None:
    model = linear(1, rng)
    x, _ = examples(model, rng)
    model.bias.data = -model(x).detach().median().reshape(1)
    y = (model(x).detach()[:, 0] > 0).long()
    towards = (1 - 2 * y)[:, None] * model.weight.detach()
    best = Margin()(model(threat.maximise(towards, x)).detach(), y)
    clean = Margin()(model(x).detach(), y)
    found = attack.run(model, x, y, threat, loss=Margin())
    sure = best > 0.15 * (best - clean)  # there is room beyond the boundary
    assert 5 < int(sure.sum()) < BATCH
    share = found.success[sure].double().mean()
    # Steps of these attacks' own shape only approach the best corner of a box.
    assert share >= (0.6 if isinstance(attack, DeepFool) and threat.spec.startswith("l1") else 0.95), share
    assert not (found.success & (best < -1e-9)).any()


class Counting(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.inner(x)


@pytest.mark.parametrize("attack", [CarliniWagner(), DeepFool()], ids=lambda a: a.name)
def test_a_search_ends_when_every_row_is_broken(
    attack: CarliniWagner | DeepFool, rng: torch.Generator
) -> None:
    model = linear(3, rng)
    x, y = examples(model, rng)
    counting = Counting(model)
    assert attack.run(counting, x, y, LpBall("2", 50.0)).success.all()
    assert counting.rows < 0.2 * BATCH * attack.passes


@pytest.mark.parametrize(
    ("attack", "options", "sentence"),
    [
        (CarliniWagner, {"steps": 0}, "steps must be a whole number >= 1, got 0"),
        (CarliniWagner, {"searches": 0}, "searches must be a whole number >= 1, got 0"),
        (CarliniWagner, {"constant": 0.0}, "constant must be a finite number > 0, got 0.0"),
        (CarliniWagner, {"rate": float("inf")}, "rate must be a finite number > 0, got inf"),
        (CarliniWagner, {"confidence": -1.0}, "confidence must be a finite number >= 0, got -1.0"),
        (DeepFool, {"steps": 0}, "steps must be a whole number >= 1, got 0"),
        (DeepFool, {"classes": 0}, "classes must be a whole number >= 1, got 0"),
        (DeepFool, {"overshoot": -0.1}, "overshoot must be a finite number >= 0, got -0.1"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(
    attack: type[CarliniWagner] | type[DeepFool], options: dict[str, float], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        attack(**options)
