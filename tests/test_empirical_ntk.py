"""Empirical tangent kernels: structured contractions against full Jacobians, wide networks against the analytic kernel."""

import pytest
import torch
from torch import nn

from holdfast.errors import InputError
from holdfast.networks import Dense, TwoLayer
from holdfast.theory import empirical_ntk, empirical_ntk_product, ntk
from opaque_cases import OpaqueScale


class Twice(nn.Module):
    """One layer used two times, and a parameter of no layer."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.last(torch.tanh(self.inner(torch.tanh(self.inner(x)))) * self.gain)


class Residual(nn.Module):
    """Convolutions around a shortcut, batch norm, a grouped convolution that is not known, and one layer at two resolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.strided = nn.Conv2d(4, 4, 2, stride=2, dilation=1)
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.last = nn.Linear(4, 3)
        with torch.no_grad():
            for buffer in (self.norm.running_mean, self.norm.running_var):
                buffer.add_(torch.rand(4, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x.reshape(-1, 1, 2, 2))))
        x = x + torch.tanh(self.inner(x))
        x = torch.relu_(self.inner(self.strided(x)))
        return self.last(self.grouped(x).flatten(1))


class Tokens(nn.Module):
    """A linear layer and a one-dimensional convolution along a sequence, and layer norm, which only `torch.func` knows here."""

    def __init__(self):
        super().__init__()
        self.mix, self.along = nn.Linear(2, 5), nn.Conv1d(5, 3, 2, padding=1, dilation=1)
        self.norm, self.along_norm, self.last = nn.LayerNorm(5), nn.BatchNorm1d(3), nn.Linear(9, 2)

    def forward(self, x):
        x = self.norm(torch.tanh(self.mix(x.reshape(-1, 2, 2))))
        return self.last(self.along_norm(self.along(x.transpose(1, 2))).flatten(1))


def frozen_first():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    model[0].weight.requires_grad_(False)
    return model


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    return model


MODELS = {
    "linear": lambda: nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 3)),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 7, bias=False), nn.Tanh(), nn.Linear(7, 2)),
    "in place": lambda: nn.Sequential(nn.Linear(4, 7), nn.ReLU(inplace=True), nn.Linear(7, 2)),
    "frozen": frozen_first,
    "tied": tied,
    "twice": Twice,
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)
    ),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2)),
    "residual": Residual,
    "tokens": Tokens,
    "dense": lambda: Dense(4, 3, 8, 3),
    "dense, direct": lambda: Dense(4, 2, 8, 2, "relu", input_layer=False, zero_start=False),
    "two-layer": lambda: TwoLayer(4, 3, 12, constant=0.5),
    "two-layer, both": lambda: TwoLayer(4, 2, 8, "relu", train_output=True),
}


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().double()


def points(count, seed=0):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_jacobians(model, x, y):
    """(n, m, C, C) from every parameter's whole gradient, an output of a point at a time."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(output):
        found = torch.autograd.grad(output, parameters, retain_graph=True)
        return torch.cat([part.flatten() for part in found])

    left, right = (torch.stack([torch.stack([gradient(c) for c in row]) for row in model(z)]) for z in (x, y))
    return torch.einsum("icp,jdp->ijcd", left, right)


@pytest.mark.parametrize("name", MODELS)
def test_kernel_is_the_product_of_jacobians(name):
    model, x, y = made(name), points(5), points(3, seed=1)
    model.eval()
    wanted = by_jacobians(model, x, y)
    assert wanted.abs().max() > 0
    full = empirical_ntk(model, x, y, outputs="full", block=2)
    torch.testing.assert_close(full, wanted, rtol=1e-10, atol=1e-12)
    trace = torch.einsum("ijcc->ij", wanted)
    torch.testing.assert_close(empirical_ntk(model, x, y), trace, rtol=1e-10, atol=1e-12)
    mean = empirical_ntk(model, x, y, outputs="mean", block=3)
    torch.testing.assert_close(mean, trace / wanted.shape[-1], rtol=1e-10, atol=1e-12)
    vector = torch.linspace(-1, 1, 3 * wanted.shape[-1], dtype=torch.float64).reshape(3, -1)
    product = empirical_ntk_product(model, x, y, vector, block=2)
    torch.testing.assert_close(product, torch.einsum("ijcd,jd->ic", wanted, vector), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "conv", "residual", "dense", "two-layer"])
def test_symmetric_blocks_are_the_whole(monkeypatch, name):
    monkeypatch.setattr("holdfast.theory.empirical.COLUMNS", 2)
    model, x = made(name), points(7)
    for outputs in ("trace", "full"):
        half, whole = (empirical_ntk(model, x, y, outputs=outputs, block=3) for y in (None, x.clone()))
        torch.testing.assert_close(half, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        TwoLayer(4, 2, 65_536, "softplus", constant=0.5),
        TwoLayer(4, 3, 65_538, "relu", train_output=True, paired=False),
        Dense(4, 3, 2048, 2, "relu", zero_start=False),
        Dense(4, 2, 2048, 2, "softplus"),
    ],
    ids=["two-layer softplus", "two-layer relu", "dense relu", "dense softplus"],
)
def test_wide_networks_have_the_analytic_kernel(model):
    x = points(6).float()
    wanted = ntk(model)(x)
    found = empirical_ntk(model, x, outputs="mean")
    assert float((found - wanted).norm() / wanted.norm()) < 0.12


def test_the_model_is_left_as_it_was():
    model = made("batch norm").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    empirical_ntk(model, points(4))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_input_is_refused(monkeypatch):
    model, x = made("linear"), points(3)
    with pytest.raises(InputError, match="outputs must be one of"):
        empirical_ntk(model, x, outputs="sum")
    with pytest.raises(InputError, match="block must be a whole number >= 1"):
        empirical_ntk(model, x, block=0)
    with pytest.raises(InputError, match="require a gradient"):
        empirical_ntk(nn.Sequential(nn.ReLU()), x)
    with pytest.raises(InputError, match="batch, outputs"):
        empirical_ntk(nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2))).double(), x)
    with pytest.raises(InputError, match="reshape it"):
        empirical_ntk_product(model, x, x, x)
    with pytest.raises(InputError, match=r"got 0 \(OpaqueScale\), where it fails"):
        empirical_ntk(nn.Sequential(OpaqueScale(), nn.Linear(4, 2)).double(), x)
    monkeypatch.setattr("holdfast._memory.free_bytes", lambda device: 2**10)
    with pytest.raises(InputError, match="an empirical kernel of 3 x 3 points must fit into the free memory"):
        empirical_ntk(model, x)
