"""Networks become steps: the same function, unknown layers named, everything that is no fixed function refused."""

import pytest
import torch
from torch import nn

from holdfast.errors import InputError
from holdfast.verification.graph import Affine, Unit
from holdfast.verification.tracing import trace
from verification_cases import NETWORKS, examples, network


@pytest.mark.parametrize("name", NETWORKS)
def test_the_steps_compute_the_network(name):
    net = network(name)
    graph = trace(net, examples(1))
    x = examples(7, seed=5) * 3 - 1
    torch.testing.assert_close(graph(x), net(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_transposed_and_absolute_maps_agree_with_the_map(name):
    """``<a, L v> = <L^T a, v>``, and ``|L|`` by adding up the absolute values of its rows."""
    generator = torch.Generator().manual_seed(3)
    seen = 0
    for step in trace(network(name), examples(1)).steps:
        for _, linear in step.terms if isinstance(step, Affine) else ():
            seen += 1
            v = torch.randn(2, *linear.source, dtype=torch.float64, generator=generator)
            a = torch.randn(2, *linear.target, dtype=torch.float64, generator=generator)
            forward = (a * linear.apply(v)).flatten(1).sum(1)
            torch.testing.assert_close(forward, (linear.transpose(a) * v).flatten(1).sum(1))
            size = torch.Size(linear.target).numel()
            rows = linear.rows(torch.arange(size), v).flatten(1)
            torch.testing.assert_close(rows @ v[0].flatten(), linear.apply(v)[0].flatten())
            torch.testing.assert_close(rows.abs() @ v[0].flatten(), linear.apply_abs(v)[0].flatten())
    assert seen


def test_steps_that_do_not_reach_the_output_are_left_out():
    class Extra(nn.Module):
        def forward(self, x):
            torch.sigmoid(x)
            return x.flatten(1) * 2

    graph = trace(Extra(), examples(1))
    assert not any(isinstance(step, Unit) for step in graph.steps)


def test_a_float32_model_is_left_as_it_is():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Dropout(0.5)).train()
    trace(net, examples(1).float())
    assert net.training
    assert net[1].weight.dtype == torch.float32
    assert net[1].weight.requires_grad


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.LayerNorm(8), r"1 \(LayerNorm\)"),
        (nn.Softmax(1), r"1 \(Softmax\)"),
        (nn.ConvTranspose2d(1, 1, 2), r"1 \(ConvTranspose2d\)"),
        (nn.GELU(approximate="tanh"), r"1 \(GELU\)"),
    ],
)
def test_an_unknown_layer_is_named(layer, named):
    first = nn.Linear(16, 8) if not isinstance(layer, nn.ConvTranspose2d) else nn.Identity()
    x = examples(1) if isinstance(layer, nn.ConvTranspose2d) else examples(1).flatten(1)
    with pytest.raises(InputError, match=named):
        trace(nn.Sequential(first, layer), x)


class Branching(nn.Module):
    def forward(self, x):
        return x.flatten(1) * (1.0 if float(x.sum()) > 0 else 2.0)


class AcrossRows(nn.Module):
    def forward(self, x):
        return x.flatten(1) - x.flatten(1).mean(0, keepdim=True)


class HiddenBranch(nn.Module):
    def forward(self, x):
        return x.flatten(1) * (1.0 if float(x.detach().numpy().sum()) > 0 else 2.0)


class Product(nn.Module):
    def forward(self, x):
        return x.flatten(1) * torch.relu(x.flatten(1))


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 2, dtype=x.dtype)


class Random(nn.Module):
    def forward(self, x):
        return x.flatten(1) + torch.randn(16, dtype=x.dtype)


@pytest.mark.parametrize("module", [Branching, AcrossRows, HiddenBranch, Product, Constant, Random])
def test_what_is_no_fixed_function_of_an_example_is_refused(module):
    with pytest.raises(InputError):
        trace(module(), examples(2))


def test_tensor_code_of_every_allowed_kind():
    class Code(nn.Module):
        def forward(self, x):
            rows = x.flatten(1)
            a = torch.stack([rows[:, :4], rows[:, 4:8]], 1).permute(0, 2, 1)
            b = nn.functional.pad(a, (1, 1), value=0.5).sum(2) + a.mean((1, 2)).unsqueeze(1)
            c = torch.cat([1 - b, -b.abs(), b.square(), rows.clamp(-0.3, 0.6), rows.clamp_max(0.2)], 1)
            return (c * torch.linspace(-1, 1, c.shape[1], dtype=x.dtype)).exp() * 2 / 3

    x = examples(5, seed=8) * 2 - 1
    torch.testing.assert_close(trace(Code(), x)(x), Code()(x))
