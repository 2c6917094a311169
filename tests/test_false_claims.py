"""Claims that must not be made, however the model or the threat is put together: found by trying to break them."""

import pytest
import torch
from torch import Tensor, nn

import holdfast as hf
from holdfast.errors import InputError


def test_a_threat_whose_maximiser_misses_takes_its_error_off_the_bound() -> None:
    threat = hf.CustomThreat(lambda p, x: torch.minimum(torch.maximum(p, x - 1), x + 1), radius_hint=2.0)
    model = nn.Linear(2, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1e-7]]))
        model.bias.fill_(1 + 5e-8)
    x, y = torch.zeros(1, 2).double(), torch.tensor([1])
    for method in ("ibp", "crown", "alpha"):
        assert not bool(hf.verify(model, x, y, threat, method).verified.any())


class Rounded(nn.Module):
    """Rounds its input, and masks a class with a large number that must not hide the rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.0], [1.0], [0.0]]))
            self.layer.bias.copy_(torch.tensor([0.522, 0.0, -1e4]))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.bfloat16().to(x.dtype))


def test_a_conversion_that_rounds_is_named_and_refused() -> None:
    with pytest.raises(InputError, match="bfloat16"):
        hf.verify(Rounded(), torch.tensor([[0.5]]), torch.tensor([0]), hf.LpBall("inf", 0.0216))


class Other(nn.Module):
    """In float32 another function than in float64, by an amount that a masked class hides."""

    def forward(self, x: Tensor) -> Tensor:
        shift = 0.5 if x.dtype == torch.float32 else 0.0
        return torch.cat([x + shift, -x, torch.full_like(x, -1e4)], 1)


def test_a_masked_class_hides_no_difference_between_model_and_graph() -> None:
    with pytest.raises(InputError, match="float64 copy"):
        hf.verify(Other(), torch.tensor([[0.5]]), torch.tensor([0]), hf.LpBall("inf", 0.01))


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean(0, keepdim=True).expand_as(x))


def test_smoothing_refuses_votes_that_are_not_independent() -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match="rest of the batch"):
        hf.smooth(Mixing(), torch.tensor([[0.1]]), torch.tensor([1]), sigma=1.0, samples=100)


@pytest.mark.parametrize("part", ["the caller's tensor", "the threat's own"])
def test_a_box_that_is_written_into_is_one_box_for_attack_and_proof(part: str) -> None:
    low = torch.tensor([0.2, 0.0])
    threat = hf.LpBall("2", 0.5, bounds=(low, torch.ones(2)))
    x, below = torch.tensor([[0.25, 0.5]]), torch.tensor([[-0.2, 0.5]])
    assert not bool(threat.contains(below, x))
    if part == "the caller's tensor":
        low[:] = -1.0
        assert not bool(threat.contains(below, x))  # the threat is what it was when it was made
    else:
        assert threat.bounds is not None
        inner = threat.bounds[0]
        assert isinstance(inner, Tensor)
        inner[:] = -1.0
        assert bool(threat.contains(below, x))


class Elsewhere(nn.Module):
    """Answers in another form away from the example."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> object:
        right = torch.cat([x, -x], 1)
        if bool((x == 0.5).all()):
            return right
        forms = {
            "flat": right[:, 0],
            "complex": right.to(torch.complex64),
            "whole": right.long(),
            "none": None,
            "rows": right[:0],
        }
        return forms[self.form]


@pytest.mark.parametrize("form", ["flat", "complex", "whole", "none", "rows"])
def test_a_model_that_answers_otherwise_away_from_the_examples_is_one_sentence(form: str) -> None:
    x, y = torch.full((4, 1), 0.5), torch.zeros(4, dtype=torch.long)
    with pytest.raises(InputError, match=r"every point of the threat sets|must return|must keep"):
        hf.evaluate(Elsewhere(form), x, y, hf.LpBall("inf", 0.1), attacks="fast", examine=False, verify=None)
