"""Outputs by changes of windows are those of whole passes, and searches by them find the same points."""

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.acceleration import Incremental, enabled, incremental, recognise
from holdfast.attacks import Square

STACKS = {
    "strided": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=3), nn.Tanh(),
        nn.Flatten(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 3),
    ),
    "pooled": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 4, 3, padding=2, dilation=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    ),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(2 * 12 * 11, 9), nn.Softplus(), nn.Linear(9, 3)),
}  # fmt: skip
SHAPE = (2, 12, 11)


@pytest.fixture(autouse=True)
def any_work(monkeypatch):
    monkeypatch.setattr(recognise, "LEAST_WORK", 0)


def stack(name):
    torch.manual_seed(0)
    net = STACKS[name]().double().eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net


@pytest.mark.parametrize("name", STACKS)
def test_outputs_are_those_of_whole_passes(name):
    net, draw = stack(name), torch.Generator().manual_seed(0)
    images = torch.rand(7, *SHAPE, dtype=torch.float64, generator=draw)
    known = incremental(net, images, torch.Size(SHAPE))
    torch.testing.assert_close(known.outputs, net(images))
    for turn in range(250):
        top, left = (int(torch.randint(0, side, (1,), generator=draw)) for side in SHAPE[1:])
        tall, wide = (int(torch.randint(1, side + 1, (1,), generator=draw)) for side in SHAPE[1:])
        rows, columns = slice(top, min(12, top + tall)), slice(left, min(11, left + wide))
        old = images[:, :, rows, columns].clone()
        images[:, :, rows, columns] = torch.rand(old.shape, dtype=old.dtype, generator=draw)
        area = (rows.start, rows.stop), (columns.start, columns.stop)
        torch.testing.assert_close(known.propose(area), net(images), rtol=1e-11, atol=1e-11)
        better = torch.rand(len(images), generator=draw) < 0.4
        images[:, :, rows, columns] = torch.where(
            better[:, None, None, None], images[:, :, rows, columns], old
        )
        known.keep(better)
        torch.testing.assert_close(known.outputs, net(images), rtol=1e-11, atol=1e-11)
        if turn % 100 == 50:
            kept = torch.arange(len(images))[1:]
            images = images[kept]
            known.take(kept, images)


@pytest.mark.parametrize("model", ["strided", "mnist-conv", "flat"])
def test_a_search_finds_the_same_points(model, monkeypatch):
    torch.manual_seed(1)
    if model == "strided":
        net, x = stack(model), torch.rand(20, *SHAPE, dtype=torch.float64)
    elif model == "flat":
        net = nn.Sequential(nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 3)).double()
        x = torch.rand(20, 36, dtype=torch.float64)
    else:
        net, x = hf.networks.MNISTConv(classes=3, size=8).double(), torch.rand(20, 64, dtype=torch.float64)
    with torch.no_grad():
        y = net(x).argmax(1)
    threat, square = hf.LpBall("inf", 0.02, bounds=(0.0, 1.0)), Square(queries=120)
    proposed, inner = [], Incremental.propose
    monkeypatch.setattr(Incremental, "propose", lambda self, area: proposed.append(1) or inner(self, area))
    quick = square.run(net, x, y, threat)
    assert proposed
    proposed.clear()
    with enabled(False):
        plain = square.run(net, x, y, threat)
    assert not proposed
    assert torch.equal(quick.x, plain.x)
    assert torch.equal(quick.success, plain.success)


def test_what_has_no_closed_form_is_left_alone():
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    with enabled(False):
        assert incremental(stack("strided"), images, torch.Size(SHAPE)) is None
    odd = nn.Sequential(nn.Conv2d(2, 6, 3), nn.MaxPool2d(3, padding=1), nn.Flatten(), nn.Linear(72, 3))
    assert incremental(odd.double(), images, torch.Size(SHAPE)) is None
    assert incremental(hf.networks.TwoLayer(264, 3, 30).double(), images, torch.Size((264,))) is None
