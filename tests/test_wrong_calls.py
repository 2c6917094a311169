"""Wrong calls are refused in one sentence before anything is spent; calls whose meaning is clear are taken."""

import pytest
import torch

import holdfast as hf
from holdfast.errors import HoldfastError
from wrong_calls import batch_norm, frozen, unusual, wrong

WRONG = wrong()


def test_there_are_many():
    assert len(WRONG) >= 400


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_refused_in_one_sentence(name):
    _ = batch_norm(), frozen()  # made before, as torch draws their weights
    before = torch.get_rng_state()
    with pytest.raises(HoldfastError) as caught:
        WRONG[name]()
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith((".", "?"))
    assert len(said) < 600
    assert torch.equal(torch.get_rng_state(), before)


def test_clear_calls_mean_the_plain_ones(tmp_path):
    for name, (call, plain) in unusual(tmp_path).items():
        given, meant = (torch.as_tensor(function()).double() for function in (call, plain))
        assert torch.equal(given, meant), name


@pytest.mark.parametrize("settings", [{"epochs": 1.5}, {"loss": torch.nn.CrossEntropyLoss()}, {"seed": -1}])
def test_nothing_is_written_for_a_wrong_call(settings, tmp_path):
    data = hf.data.digits(classes=(3, 8))
    with pytest.raises(HoldfastError):
        hf.train(hf.networks.TwoLayer(64, 2, 8), data, "linf:0.01", out=tmp_path / "run", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_keyword_names_the_function_and_the_argument_meant():
    with pytest.raises(TypeError, match=r"^train\(\) has no argument 'epoch'; did you mean epochs\?$"):
        hf.train(None, None, "l2:0.1", epoch=2)
    with pytest.raises(
        TypeError,
        match=r"^train\(\) has no argument 'tighten'; write certificate=CertificateSettings\(tighten=...\)\.$",
    ):
        hf.train(None, None, "l2:0.1", tighten=2)
    with pytest.raises(TypeError, match=r"^certify\(\): missing a required argument: 'radius'$"):
        hf.certify(None, {}, None, None, "l2:0.1", hf.PGD())
    with pytest.raises(TypeError, match=r"^PGD\(\) has no argument 'stesp'; did you mean steps\?$"):
        hf.PGD(stesp=3)


def test_an_optimizer_that_makes_none_is_refused():
    data = hf.data.digits(classes=(3, 8))
    with pytest.raises(hf.InputError, match=r"optimizer must be a function .* but it returned NoneType"):
        hf.train(
            torch.nn.Linear(64, 2),
            data,
            "l2:0.1",
            optimizer=lambda parameters: None,
            epochs=1,
            progress=False,
        )
