"""Bounds of convolutions by receptive fields are those by whole images, for every shape of kernel, stride and padding."""

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.verification import crown, verify
from holdfast.verification.patches import chain_to
from holdfast.verification.tracing import trace
from verification_cases import margins


class Flattened(nn.Module):
    """A conv net that takes rows."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x.reshape(len(x), 1, 12, 12))


def _last(features):
    return nn.Flatten(), nn.Linear(features, 3)


NETWORKS = {
    "pooled": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *_last(27),
    ),
    "padded pool": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Tanh(),
        *_last(100),
    ),
    "strided, dilated, grouped": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, (3, 2), dilation=(1, 2), padding=(2, 1), groups=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 2, stride=3),
        nn.ReLU(),
        *_last(18),
    ),
}


def _network(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Flattened(NETWORKS[name]().double().eval())
        with torch.no_grad():
            for value in (*net.parameters(), *net.buffers()):
                if value.is_floating_point() and value.ndim:
                    value.add_(0.1 * torch.rand_like(value))
    x = torch.rand(2, 144, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@pytest.mark.parametrize("method", ["crown", "crown-ibp"])
def test_patches_and_whole_images_give_the_same_bounds(monkeypatch, name, norm, method):
    net, x, y = _network(name)
    threat = hf.LpBall(norm, {"inf": 0.02, "2": 0.3, "1": 1.0}[norm], bounds=(0, 1))
    monkeypatch.setattr(crown, "WORTHWHILE", 2.0)
    used = []
    inner = crown.cut
    monkeypatch.setattr(crown, "cut", lambda *given: used.append(1) or inner(*given))
    patches = verify(net, x, y, threat, method)
    assert used or (norm == "inf" and method == "crown-ibp")
    monkeypatch.setattr(crown, "chain_to", lambda *_: None)
    whole = verify(net, x, y, threat, method)
    torch.testing.assert_close(patches.margins, whole.margins, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_by_patches_hold_at_sampled_and_attacked_points(monkeypatch, name):
    net, x, y = _network(name)
    monkeypatch.setattr(crown, "WORTHWHILE", 2.0)
    for norm, radius in (("inf", 0.05), ("2", 0.5), ("1", 3.0)):
        threat = hf.LpBall(norm, radius, bounds=(0, 1))
        generator = torch.Generator().manual_seed(0)
        wide = x.repeat_interleave(1000, 0)
        points = [
            threat.sample(wide, generator=generator),
            threat.maximise(torch.randn(wide.shape, dtype=x.dtype, generator=generator), wide),
            hf.PGD(steps=10).run(net, x, y, threat).x.repeat_interleave(1000, 0),
        ]
        low = verify(net, x, y, threat, "crown").margins.repeat_interleave(1000, 0)
        for each in points:
            assert (margins(net(each).detach(), y.repeat_interleave(1000)) >= low).all()


def test_what_patches_do_not_serve_is_left_to_whole_images():
    """Two convolutions in a row with padding between (0 there is no value of the first), averages, sums of two ways."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(2, 2, 3),
        nn.ReLU(),
        *_last(18),
    )
    x = torch.rand(1, 1, 12, 12)
    graph = trace(net, x)
    images = [k for k, step in enumerate(graph.steps) if len(step.shape) == 3]
    served = [k for k in images if chain_to(graph, k) is not None]
    assert [graph.steps[k].shape for k in served] == [(2, 10, 10)]
