"""Every indicator fires on a model built to deserve it, and none on healthy ones."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast import data as datasets
from holdfast.attacks import FGSM, PGD
from holdfast.evaluation import cascade, evaluate
from holdfast.evaluation.warning_signs import INDICATORS, examined
from holdfast.threats import LpBall


@pytest.fixture(scope="module")
def digits():
    part = datasets.load("digits", classes=(3, 8, 5)).train
    return part.x[:300], part.y[:300].long()


def trained(x: Tensor, y: Tensor, outputs: int = 3) -> nn.Module:
    """A small network fitted to the examples."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, outputs))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(80):
        noise = 0.1 * torch.randn(x.shape)
        loss = nn.functional.cross_entropy(net(x + noise), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def net(digits):
    return trained(*digits)


WIDE = LpBall("inf", 0.15, bounds=(0.0, 1.0))  # wide enough for a pixel to change its level
THREAT = LpBall("2", 0.2, bounds=(0.0, 1.0))


def signs(model: nn.Module, x: Tensor, y: Tensor, attacks="fast", threat=THREAT, **options) -> dict[str, str]:
    result = evaluate(model, x, y, threat, attacks, verify=None)
    if options:
        result = examined(model, x, y, threat, result, **options)
    assert (result.verdict == "trust") == (not result.warnings)
    assert all(sign.remedy for sign in result.warnings)
    assert not any("--" in sign.remedy or "=" in sign.at_terminal().remedy for sign in result.warnings)
    return {sign.name: sign.level for sign in result.warnings}


@pytest.mark.parametrize(
    "threat", [THREAT, LpBall("inf", 0.05, bounds=(0.0, 1.0)), LpBall("1", 0.5), LpBall("2", 0.2)]
)
def test_a_healthy_model_is_trusted(net, digits, threat):
    assert signs(net, *digits, threat=threat) == {}


def test_a_linear_model_is_trusted(digits):
    x, y = digits
    torch.manual_seed(1)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(linear(x), y).backward()
        optimizer.step()
    assert signs(linear.eval(), x, y) == {}


class Through(nn.Module):
    """A healthy network behind something that spoils it."""

    def __init__(self, net: nn.Module, before=None, after=None) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.before is None else self.before(x)
        outputs = self.net(x)
        return outputs if self.after is None else self.after(outputs)


def straight_through(x: Tensor) -> Tensor:
    """Rounded to about eight levels, none of which the data stands between, and the identity backward."""
    return x + ((x * 8.3).round() / 8.3 - x).detach()


def rough(x: Tensor) -> Tensor:
    """Ripples far finer than a step: the gradient points anywhere."""
    return x + 2e-3 * torch.sin(5e4 * x)


def test_labels_that_do_not_fit_make_the_figure_void(net, digits):
    x, y = digits
    found = signs(net, x, (y + 1) % 3)
    assert found["labels"] == "bad"


def test_a_model_left_in_training_mode(digits):
    x, y = digits
    torch.manual_seed(0)
    model = nn.Sequential(trained(x, y), nn.Dropout(0.5)).train()
    assert "training mode" in signs(model, x, y, training=True)
    model.eval()
    assert "training mode" not in signs(model, x, y, training=False)
    plain = trained(x, y).train()
    assert signs(plain, x, y, training=True) == {}


def test_randomness(net, digits):
    model = Through(net, before=lambda x: x + 0.05 * torch.randn_like(x))
    assert "randomness" in signs(model, *digits)


def test_outputs_that_depend_on_the_batch(net, digits):
    model = Through(net, after=lambda z: z - 0.5 * z.mean(0, keepdim=True))
    found = signs(model, *digits)
    assert "batch dependence" in found
    assert "randomness" not in found


def test_gradients_that_are_exactly_zero(net, digits):
    model = Through(net, before=lambda x: (x * 8.3).round() / 8.3)
    found = signs(model, *digits, threat=WIDE)
    assert "zero gradients" in found
    assert "black box stronger" in found


def test_outputs_without_gradient(net, digits):
    model = Through(net, after=lambda z: z.detach())
    assert "zero gradients" in signs(model, *digits, attacks="clean")


def test_saturated_loss(net, digits):
    model = Through(net, after=lambda z: 1e4 * z)
    found = signs(model, *digits, attacks=[PGD(steps=10)])
    assert "zero gradients" in found


def test_rounding_behind_a_straight_through_gradient(net, digits):
    found = signs(Through(net, before=straight_through), *digits)
    assert "quantisation" in found
    assert "zero gradients" not in found


def test_gradients_that_lead_nowhere(net, digits):
    assert "loss not rising" in signs(Through(net, before=rough), *digits)


def test_masked_gradients_do_not_reach_zero_accuracy(net, digits):
    found = signs(Through(net, before=lambda x: (x * 8.3).round() / 8.3), *digits)
    assert "unlimited radius" in found


def test_without_an_attack_nothing_is_said_of_attacks(net, digits):
    assert signs(net, *digits, attacks="clean") == {"no attack": "warning"}


def test_an_attack_that_stops_early(net, digits):
    threat = LpBall("2", 0.6, bounds=(0.0, 1.0))
    weak = [PGD(steps=2, step_size=0.02, start="example")]
    assert "stopped early" in signs(net, *digits, attacks=weak, threat=threat)
    assert "stopped early" not in signs(net, *digits, attacks="fast", threat=threat)


def test_every_indicator_was_made_to_fire():
    """Names in this file: an indicator added without a case of its own fails here."""
    text = Path(__file__).read_text()
    assert all(f'"{name}"' in text for name in INDICATORS)


def test_progress_counts_every_indicator(net, digits):
    x, y = digits
    seen = []
    result = evaluate(net, x, y, THREAT, [FGSM()], examine=False, verify=None)
    assert result.warnings is result.verdict is None
    examined(net, x, y, THREAT, result, progress=lambda *call: seen.append(call))
    assert [done for _, done, _ in seen] == list(range(1, len(INDICATORS) + 1))


def test_a_bound_that_an_attack_contradicts_makes_the_figures_void(monkeypatch):
    model, y = nn.Linear(2, 2), torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        model.bias.zero_()
    x = torch.full((4, 2), 0.1)
    real = cascade.verified_bounds

    def wrong(*args, **settings):
        proof = real(*args, **settings)
        return replace(proof, margins=torch.ones_like(proof.margins))

    monkeypatch.setattr(cascade, "verified_bounds", wrong)
    result = evaluate(model, x, y, LpBall("inf", 0.5), "fast", verify="crown")
    assert result.verdict == "void"
    assert "contradiction" in {sign.name for sign in result.warnings}
    assert result.verified_accuracy == 0.0
    assert result.loss_bound.isinf().all()
