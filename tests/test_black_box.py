"""Transfer: attacks on a surrogate, judged on the model."""

import pytest
import torch
from torch import Tensor, nn

from attack_cases import CASES, FEATURES, Case, check_contract, examples, network, threat_of
from holdfast.attacks import PGD
from holdfast.attacks.black_box import Transfer
from holdfast.errors import InputError
from holdfast.losses import correct


def surrogate(case: Case) -> nn.Module:
    """The case's own net, a little off."""
    model = network(case.outputs, case.dtype, case.kind)
    with torch.no_grad():
        model[-1].weight.mul_(1.1)
    return model


@pytest.mark.parametrize("case", CASES[::2], ids=str)
def test_the_contract(case: Case) -> None:
    check_contract(Transfer(surrogate=surrogate(case), attack=PGD(steps=10)), case)


def test_points_are_the_surrogate_s_and_the_verdict_the_model_s() -> None:
    case = Case(norm="2", kind="box", outputs=3, dtype=torch.float64)
    model, other, threat = network(3, torch.float64), network(10, torch.float64)[:2], threat_of("2", "box")
    other = nn.Sequential(*other, nn.Linear(32, 3).double())
    x, y = examples(case)
    attack = PGD(steps=5)
    direct = attack.run(other, x, y, threat, seed=5)
    moved = Transfer(surrogate=other, attack=attack).run(model, x, y, threat, seed=5)
    with torch.no_grad():
        broken = ~correct(model(direct.x), y)
        clean = ~correct(model(x), y)
    ours = (direct.x == moved.x).all(1)
    assert bool(ours.any())
    assert torch.equal(moved.success[ours], broken[ours])
    assert bool((moved.success | ~clean).all())


def test_a_model_without_gradient_is_broken_through_a_likeness_of_it() -> None:
    case = Case(norm="inf", kind="box", outputs=3, dtype=torch.float32)
    smooth, threat = network(3, torch.float32), threat_of("inf", "box", 2.0)

    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return smooth((x * 255).round() / 255)

    x, y = examples(case)
    own = PGD(steps=10, start="example").run(Masked(), x, y, threat)
    through = Transfer(surrogate=smooth, attack=PGD(steps=10, start="example")).run(Masked(), x, y, threat)
    assert int(through.success.sum()) > int(own.success.sum())


def test_the_surrogate_is_left_as_it_was() -> None:
    case = Case(norm="2", kind="box", outputs=3, dtype=torch.float32)
    other = nn.Sequential(network(3, torch.float32), nn.Dropout(0.5)).train()
    x, y = examples(case)
    Transfer(surrogate=other, attack=PGD(steps=2)).run(network(3, torch.float32), x, y, threat_of("2", "box"))
    assert other.training
    assert other[1].training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in other.parameters())


def test_a_surrogate_of_other_classes_is_refused() -> None:
    case = Case(norm="2", kind="box", outputs=10, dtype=torch.float32)
    x, _ = examples(case)
    y = torch.arange(len(x)) % 10
    attack = Transfer(surrogate=network(3, torch.float32), attack=PGD(steps=2))
    with pytest.raises(InputError, match=r"labels must lie in 0\.\.2"):
        attack.run(network(10, torch.float32), x, y, threat_of("2", "box"))


def test_name_and_passes() -> None:
    attack = Transfer(surrogate=nn.Linear(FEATURES, 2), attack=PGD(steps=7))
    assert attack.name == "transfer-pgd-7"
    assert attack.passes == 7
