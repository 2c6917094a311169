"""Deep and convolutional networks: the paper's formula, its scaling, and starts that depend on the seed alone."""

import math

import pytest
import torch
from torch.nn import functional

from holdfast.errors import InputError
from holdfast.networks.activations import ACTIVATIONS
from holdfast.networks.conv import MNISTConv
from holdfast.networks.dense import Dense


def moved(network: Dense, seed: int = 1) -> Dense:
    """The same network away from its start, where outputs are not 0."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.weights:
            weight += torch.randn(weight.shape, generator=draw)
    return network


@pytest.mark.parametrize("input_layer", [True, False])
def test_forward_is_the_papers_formula_entry_by_entry(input_layer):
    network = moved(
        Dense(3, 4, width=5, depth=2, activation="relu", seed=2, zero_start=False, input_layer=input_layer)
    ).double()
    x = torch.tensor([[0.3, -0.7, 0.5]], dtype=torch.float64)
    layer = x[0].tolist()
    if input_layer:
        layer = [sum(a * v for a, v in zip(row, layer, strict=True)) for row in network.input_weight.tolist()]
    for weight in network.weights:
        pre = [sum(w * v for w, v in zip(row, layer, strict=True)) for row in weight.tolist()]
        layer = [math.sqrt(2 / 5) * max(0.0, u) for u in pre]
    expected = [sum(a * v for a, v in zip(row, layer, strict=True)) for row in network.output_weight.tolist()]
    assert network(x)[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_zero_start_subtracts_the_initial_network():
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start, plain = (
        Dense(7, 3, width=16, depth=2, seed=5, zero_start=zero).double() for zero in (True, False)
    )
    assert torch.equal(start(x), torch.zeros(6, 3, dtype=torch.float64))
    before = plain(x)
    assert before.abs().min() > 0
    torch.testing.assert_close(moved(start)(x), moved(plain)(x) - before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["softplus", "relu", "relu2", "erf", "gelu"])
def test_layers_keep_the_norm_of_the_input(name):
    """Width 2,000 concentrates within 10 %; a wrong normaliser or a missing 1/m is off by far more."""
    network = Dense(10, 2, width=2000, depth=2, activation=name, seed=3)
    x = functional.normalize(torch.randn(4, 10, generator=torch.Generator().manual_seed(1)), dim=1)
    norms = torch.stack([layer.norm(dim=1) for layer in network.layers(x)])
    # each layer renormalises only when its own input has norm 1: relu2 squares deviations, layer by layer
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=0.35 if name == "relu2" else 0.1)


def test_initial_weights_are_standard_gaussian_and_the_fixed_maps_are_not_trained():
    network = Dense(50, 2, width=400, depth=3, seed=0)
    names = [name for name, _ in network.named_parameters()]
    assert names == ["weights.0", "weights.1", "weights.2"]
    for weight in network.weights:
        assert weight.mean().item() == pytest.approx(0, abs=0.02)
        assert weight.std().item() == pytest.approx(1, abs=0.01)
    assert network.input_weight.std().item() * math.sqrt(400) == pytest.approx(1, abs=0.03)
    assert network.output_weight.shape == (1, 400)
    assert network.output_weight.std().item() == pytest.approx(1, abs=0.12)


def test_initial_copy_stays_when_the_weights_move_and_travels_in_the_state():
    network = Dense(4, 2, width=6, depth=2, seed=1)
    first = [weight.detach().clone() for weight in network.weights]
    moved(network)
    for copy, weight, start in zip(network.initial, network.weights, first, strict=True):
        assert torch.equal(copy, start)
        assert not torch.equal(weight, start)
    other = Dense(4, 2, width=6, depth=2, seed=99)
    other.load_state_dict(network.state_dict())
    x = torch.ones(3, 4)
    assert torch.equal(other(x), network(x))


def test_input_gradient_is_that_of_the_difference():
    network = moved(Dense(5, 2, width=12, depth=2, seed=0)).double()
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,))


@pytest.mark.parametrize(
    "make", [lambda seed: Dense(16, 3, 8, 2, seed=seed), lambda seed: MNISTConv(3, 1, 4, seed=seed)]
)
def test_start_depends_on_the_seed_alone(make):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make(0).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = make(0).state_dict(), make(1).state_dict()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_two_classes_have_one_output_and_inputs_of_any_shape_are_flattened():
    network = moved(Dense(12, 2, width=6, depth=1))
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    assert network(x).shape == (5, 1)
    assert torch.equal(network(x), network(x.reshape(5, 12)))
    assert (network.features, network.classes, network.outputs, network.width, network.depth) == (
        12,
        2,
        1,
        6,
        1,
    )
    assert network.activation is ACTIVATIONS["softplus"]


@pytest.mark.parametrize("argument", ["features", "classes", "width", "depth"])
def test_sizes_below_the_least_are_refused_by_name(argument):
    sizes = {"features": 4, "classes": 3, "width": 8, "depth": 2} | {argument: 0}
    with pytest.raises(InputError, match=rf"{argument} must be a whole number >= [12], got 0"):
        Dense(**sizes)


def test_conv_is_the_mnist_challenge_network():
    network = MNISTConv()
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    assert shapes == [(32, 1, 5, 5), (32,), (64, 32, 5, 5), (64,), (1024, 3136), (1024,), (10, 1024), (10,)]
    x = torch.rand(2, 784, generator=torch.Generator().manual_seed(0))
    w = list(network.parameters())
    hidden = functional.max_pool2d(
        functional.conv2d(x.reshape(2, 1, 28, 28), w[0], w[1], padding=2).relu(), 2
    )
    hidden = functional.max_pool2d(functional.conv2d(hidden, w[2], w[3], padding=2).relu(), 2).flatten(1)
    expected = (hidden @ w[4].T + w[5]).relu() @ w[6].T + w[7]
    torch.testing.assert_close(network(x), expected)
    assert torch.equal(network(x), network(x.reshape(2, 1, 28, 28)))


def test_conv_starts_with_the_spread_torch_gives_its_layers():
    for parameter, fan_in in zip(
        MNISTConv(seed=4).parameters(), [25, 25, 800, 800, 3136, 3136, 1024, 1024], strict=True
    ):
        assert parameter.abs().max().item() <= fan_in**-0.5
        if parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"size": 30}, "size must be a multiple of 4 .* got 30"),
        ({"classes": 1}, "classes must be a whole number >= 2, got 1"),
        ({"channels": 0}, "channels must be a whole number >= 1, got 0"),
    ],
)
def test_conv_refuses_sizes_it_cannot_have(sizes, message):
    with pytest.raises(InputError, match=message):
        MNISTConv(**sizes)
