"""What a run folder says of its network, threat and loss: written down and made again without any code of the user's."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.networks import Dense
from holdfast.networks.activations import centred_softplus
from holdfast.record.run import RunWriter
from holdfast.record.setting import load_setting, save_setting

FIRST = {"features": 5, "classes": 2, "width": 6, "depth": 2}
OTHER = {
    "features": 7,
    "classes": 3,
    "width": 12,
    "depth": 3,
    "activation": "csp0.5",
    "zero_start": False,
    "input_layer": False,
    "output": "signed",
}


def reloaded(folder: Path, model: nn.Module) -> nn.Module | None:
    save_setting(RunWriter(folder), model, hf.LpBall("2", 0.1), hf.CrossEntropy(), None)
    return load_setting(folder / "trace").model


def same(made: nn.Module | None, model: Dense) -> bool:
    """Whether the weights of ``model`` in the network made again give the same outputs."""
    assert isinstance(made, Dense)
    made.load_state_dict(model.state_dict())
    x = torch.randn(4, model.features, generator=torch.Generator().manual_seed(0))
    return bool(torch.equal(made(x), model(x))) and made.groups == model.groups


def test_every_argument_of_dense_is_covered() -> None:
    assert set(inspect.signature(Dense).parameters) == {*OTHER, "seed"}


@pytest.mark.parametrize("name", [*OTHER, "all"])
def test_dense_networks_come_back_with_every_argument(name: str, tmp_path: Path) -> None:
    arguments = FIRST | (OTHER if name == "all" else {name: OTHER[name]})
    model = Dense(**arguments, seed=3)
    with torch.no_grad():
        for weight in model.weights:
            weight.mul_(1.5)
    assert same(reloaded(tmp_path, model), model)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0, 0.1234567, 1 / 3])
def test_centred_softplus_comes_back_by_its_name(temperature: float, tmp_path: Path) -> None:
    model = Dense(**FIRST, activation=centred_softplus(temperature))
    made = reloaded(tmp_path, model)
    assert same(made, model)
    assert made is not None
    assert made.activation == model.activation


def test_a_network_of_another_kind_is_not_made_up(tmp_path: Path) -> None:
    class Own(Dense):
        pass

    assert reloaded(tmp_path, Own(**FIRST)) is None
    assert reloaded(tmp_path, nn.Linear(3, 2)) is None
