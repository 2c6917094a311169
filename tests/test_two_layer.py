"""The two-layer network against its formula, entry by entry."""

import math

import pytest
import torch

from holdfast.errors import InputError
from holdfast.networks import TwoLayer
from holdfast.networks.activations import activation_named

SHAPES = [
    {"classes": 2},
    {"classes": 2, "paired": False},
    {"classes": 3},
    {"classes": 3, "paired": False},
    {"classes": 3, "outputs": "dense"},
    {"classes": 3, "outputs": "dense", "paired": False},
    {"classes": 2, "train_output": True},
]


def value(act, u):
    return float(act(torch.tensor([u], dtype=torch.float64)))


def made(classes=3, width=24, features=5, **options):
    return TwoLayer(features, classes, width, options.pop("activation", "softplus"), **options)


@pytest.mark.parametrize("activation", ["softplus", "relu", "relu2", "erf"])
@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_the_formula_entry_by_entry(options, activation, rng):
    net = made(activation=activation, scale=0.7, center=torch.arange(5.0), constant=0.5, **options).double()
    x = torch.randn(4, 5, generator=rng, dtype=torch.float64)
    act, w, a = activation_named(activation).value, net.weight.detach(), net.output_weight.detach()
    scale, outputs = float(net.scale), net(x).detach()
    for i, row in enumerate(x):
        z = [scale * (float(v) - k) for k, v in enumerate(row)] + [0.5]
        for c in range(net.outputs):
            total = sum(
                float(a[r, c]) * value(act, sum(float(w[r, d]) * z[d] for d in range(6))) for r in range(24)
            )
            assert float(outputs[i, c]) == pytest.approx(total / math.sqrt(24), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("options", [o for o in SHAPES if o.get("paired", True)], ids=str)
def test_a_paired_network_starts_at_zero(options, rng):
    net = made(**options)
    x = torch.randn(6, 5, generator=rng)
    assert net(x).shape == (6, net.outputs)
    assert net(x).abs().max() < 1e-6
    assert made(**{**options, "paired": False})(x).abs().max() > 1e-2


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_groups_are_equal_slices_with_one_output_row_each(options):
    net = made(**options)
    if net.groups == 1:
        assert net.output_weight.abs().eq(1).all()
        return
    slices = net.output_weight.reshape(net.groups, -1, net.outputs)
    assert torch.equal(slices, slices[:, :1].expand_as(slices))
    rows = slices[:, 0]
    assert net.groups == 2 * net.outputs == len(torch.unique(rows, dim=0))
    assert rows.abs().sum(1).eq(1).all()
    assert rows.sum(0).eq(0).all()


def test_the_inputs_are_an_affine_map(rng):
    x = torch.randn(3, 5, generator=rng)
    center = torch.randn(5, generator=rng)
    plain, mapped = made(), made(scale=2.0, center=center, constant=0.25)
    assert torch.equal(plain.inputs(x), x)
    z = mapped.inputs(x.reshape(3, 1, 5))
    torch.testing.assert_close(z[:, :5], 2.0 * (x - center))
    assert z[:, 5].eq(0.25).all()
    assert mapped.input_size == 6 == mapped.weight.shape[1]
    torch.testing.assert_close(mapped.preactivations(x), z @ mapped.weight.T)


def test_weights_start_standard_gaussian():
    weight = made(width=6000, paired=False).weight.detach()
    assert abs(float(weight.mean())) < 0.02
    assert abs(float(weight.std()) - 1) < 0.02


@pytest.mark.parametrize(
    ("options", "wrong", "ask"),
    [
        ({"classes": 2, "width": 3}, "multiple of 2", "ask for 4"),
        ({"classes": 3, "width": 20}, "multiple of 6", "ask for 18"),
        ({"classes": 3, "width": 2}, "multiple of 6", "ask for 6"),
        ({"classes": 3, "width": 7, "outputs": "dense"}, "multiple of 2", "ask for 8"),
    ],
)
def test_a_width_that_signs_do_not_divide_is_refused_with_one_that_they_do(options, wrong, ask):
    with pytest.raises(InputError, match=wrong) as error:
        made(**options)
    assert ask in str(error.value)
    width = int(str(error.value).rpartition("ask for ")[2].rstrip("."))
    assert made(**{**options, "width": width}).width == width


@pytest.mark.parametrize(
    "options", [{"classes": 1}, {"features": 0}, {"outputs": "one-hot"}, {"center": torch.zeros(4)}], ids=str
)
def test_other_bad_arguments_are_refused(options):
    with pytest.raises(InputError, match="got"):
        made(**options)


def test_the_seed_fixes_the_weights_and_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    first, same, other = made(seed=1), made(seed=1), made(seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.weight, same.weight)
    assert not torch.equal(first.weight, other.weight)


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_the_state_dict_restores_the_network(options, rng):
    x = torch.randn(4, 5, generator=rng)
    net = made(scale=0.3, center=torch.ones(5), constant=0.5, seed=3, **options)
    other = made(scale=1.0, center=torch.zeros(5), constant=0.5, seed=4, **options)
    assert not torch.equal(other(x), net(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))


def test_only_the_layers_meant_are_trained():
    assert [name for name, _ in made().named_parameters()] == ["weight"]
    trained = made(train_output=True)
    assert sorted(name for name, _ in trained.named_parameters()) == ["output_weight", "weight"]
    assert trained.train_output
    assert not made().train_output


def test_double_computes_the_same_function_more_precisely(rng):
    net = made(width=600, scale=0.3, center=torch.ones(5), constant=0.5, paired=False)
    x = torch.randn(4, 5, generator=rng)
    wide = made(width=600, scale=0.3, center=torch.ones(5), constant=0.5, paired=False).double()
    assert wide(x.double()).dtype == torch.float64
    torch.testing.assert_close(net(x).double(), wide(x.double()), rtol=1e-4, atol=1e-5)
