"""Linearised networks: the tangent itself, its training against the kernel's recursion, attacks, and what cannot be linearised."""

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.config.build import build_network
from holdfast.config.schema import from_dict
from holdfast.errors import InputError
from holdfast.networks import Dense, Linearised, MNISTConv, TwoLayer
from holdfast.theory import empirical_ntk, empirical_ntk_product
from opaque_cases import OpaqueScale

MODELS = {
    "plain": lambda: nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)),
    "batch norm": lambda: nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2)
    ),
    "two-layer": lambda: TwoLayer(4, 3, 12, constant=0.5),
    "dense": lambda: Dense(4, 2, 8, 2),
}


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().double().eval()


def points(count=5, seed=0):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(model, seed=1):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype) / 3)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_first_order_expansion(name):
    """Against the whole gradient of every output at the start."""
    model, x = made(name), points()
    linear = Linearised(model)
    torch.testing.assert_close(linear(x), model(x), rtol=1e-12, atol=1e-12)
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert linear.names == tuple(weights)
    moved(linear)
    found, wanted = linear(x), model(x).detach().clone()
    current = dict(linear.model.named_parameters())
    for i, row in enumerate(model(x)):
        for c, output in enumerate(row):
            gradients = torch.autograd.grad(output, list(weights.values()), retain_graph=True)
            for (n, start), gradient in zip(weights.items(), gradients, strict=True):
                wanted[i, c] += (gradient * (current[n] - start)).sum()
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found, model(x))


@pytest.mark.parametrize("name", MODELS)
def test_its_gradient_in_the_weights_is_constant(name):
    linear, x = Linearised(made(name)), points()

    def gradient():
        trained = [p for p in linear.parameters() if p.requires_grad]
        return torch.autograd.grad(linear(x)[:, 0].sum(), trained)

    before = gradient()
    moved(linear)
    for a, b in zip(before, gradient(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_its_kernel_stays_that_of_the_model(name):
    model, x = made(name), points()
    linear = moved(Linearised(model))
    wanted = empirical_ntk(model, x, outputs="full")
    torch.testing.assert_close(empirical_ntk(linear, x, outputs="full"), wanted, rtol=1e-12, atol=1e-12)
    # by another route: its own gradients, through the derivative
    trained = [p for p in linear.parameters() if p.requires_grad]
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(output, trained, retain_graph=True)])
        for row in linear(x)
        for output in row
    ]
    jacobian = torch.stack(rows)
    whole = (jacobian @ jacobian.T).reshape(*wanted.permute(0, 2, 1, 3).shape).permute(0, 2, 1, 3)
    torch.testing.assert_close(whole, wanted, rtol=1e-9, atol=1e-11)


def test_gradient_descent_on_it_is_the_recursion_of_its_kernel():
    """``f_{t+1} = f_t - rate K (f_t - y)`` on the training points, exactly, for the squared loss."""
    linear, x = Linearised(made("plain")), points(6)
    targets = points(6, seed=3)[:, :3]
    kernel = empirical_ntk(linear, x, outputs="full")
    values, rate = linear(x).detach(), 0.02
    optimizer = torch.optim.SGD([p for p in linear.parameters() if p.requires_grad], lr=rate)
    for _ in range(150):
        optimizer.zero_grad()
        (0.5 * (linear(x) - targets).square().sum()).backward()
        optimizer.step()
        values = values - rate * torch.einsum("ijcd,jd->ic", kernel, values - targets)
    assert float((values - targets).norm()) < 0.7 * float(targets.norm())
    torch.testing.assert_close(linear(x).detach(), values, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_its_forward_derivative_in_the_weights_is_its_gradient(name):
    """A forward derivative within another, which certificates take."""
    model = made(name)
    linear, x = moved(Linearised(model)), points()
    weights = {f"model.{n}": dict(linear.model.named_parameters())[n].detach() for n in linear.names}
    along = {n: torch.ones_like(w) for n, w in weights.items()}
    call = lambda w: torch.func.functional_call(linear, w, (x,))  # noqa: E731
    _, change = torch.func.jvp(call, (weights,), (along,))
    step = {n: w + along[n] for n, w in weights.items()}
    torch.testing.assert_close(change, call(step) - call(weights), rtol=1e-9, atol=1e-11)


def test_gradients_in_the_input_are_those_of_differences():
    linear = moved(Linearised(made("plain")))
    torch.autograd.gradcheck(linear, points(2).requires_grad_(True), atol=1e-6)


def test_it_trains_under_attack_and_evaluates_like_any_network():
    data = hf.data.digits(classes=(3, 8), seed=0)
    model = TwoLayer(data.features, 2, 64, constant=0.5, scale=0.2)
    linear = Linearised(model)
    run = hf.train(
        linear,
        data,
        hf.threats.LpBall("l2", 0.2),
        attack=hf.attacks.PGD(steps=2),
        epochs=2,
        learning_rate=2.0,
        validation=hf.ValidationSettings(attack=hf.attacks.PGD(steps=2), kernel_examples=12),
        certificate=hf.CertificateSettings(tighten=0),
        device=hf.DeviceSettings(accelerator="cpu"),
        progress=False,
        parameter_radius=20.0,
        closing="none",
    )
    assert run.metrics[-1]["online_loss"] < run.metrics[0]["online_loss"]
    assert [row["kernel_drift"] for row in run.metrics] == [0.0, 0.0]
    assert run.metrics[-1]["weight_drift"] > 0
    with torch.inference_mode():
        assert linear(data.test.x).shape == (len(data.test.x), 1)


def test_convolutions_in_float32():
    model, x = MNISTConv(10, 1, 28).eval(), torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(Linearised(model)(x), model(x))


def test_what_cannot_be_linearised_is_refused():
    with pytest.raises(InputError, match=r"in forward mode, got OpaqueScale \("):
        Linearised(OpaqueScale())(torch.ones(2, 4))
    with pytest.raises(InputError, match="require a gradient"):
        Linearised(nn.ReLU())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Linearised(nn.Linear(3, 2))(torch.ones(2, 4))


def test_the_model_is_left_alone_and_evaluation_mode_stays():
    model = made("batch norm").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    linear = Linearised(model).train()
    assert linear.training
    assert not any(module.training for module in linear.model.modules())
    moved(linear)(points())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = Linearised(made("batch norm"))
    again.load_state_dict(linear.state_dict())
    assert torch.equal(again(points()), linear(points()))


def test_matrix_free_products_are_with_its_kernel():
    linear, x, y = moved(Linearised(made("plain"))), points(), points(4, seed=2)
    vector = points(4, seed=5)[:, :3]
    wanted = torch.einsum("ijcd,jd->ic", empirical_ntk(linear, x, y, outputs="full"), vector)
    torch.testing.assert_close(empirical_ntk_product(linear, x, y, vector), wanted, rtol=1e-10, atol=1e-12)


def test_a_configuration_asks_for_it():
    config = from_dict(
        {
            "network": {"name": "two-layer", "width": 8, "linearised": True},
            "training": {"kernel_examples": 16},
        }
    )
    data = hf.data.digits(classes=(3, 8), seed=0)
    linear = build_network(config.network, data, seed=1)
    plain = build_network(from_dict({"network": {"name": "two-layer", "width": 8}}).network, data, seed=1)
    assert isinstance(linear, Linearised)
    torch.testing.assert_close(linear(data.x[:3]), plain(data.x[:3]))
    assert config.training.kernel_examples == 16
    with pytest.raises(InputError, match="kernel_examples must be >= 2"):
        from_dict({"training": {"kernel_examples": 1}})
