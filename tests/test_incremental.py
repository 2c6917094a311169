"""Outputs by changes of windows are those of whole passes, and searches by them find the same points."""

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.acceleration import Incremental, enabled, incremental, recognise
from holdfast.attacks import Square
from holdfast.losses import CrossEntropy, correct

STACKS = {
    "strided": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, stride=3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(10, 9),
        nn.ReLU(),
        nn.Linear(9, 3),
    ),
    "pooled": lambda: nn.Sequential(
        nn.Conv2d(2, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(6, 4, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    ),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(2 * 12 * 11, 9), nn.Softplus(), nn.Linear(9, 3)),
}
SHAPE = (2, 12, 11)


@pytest.fixture(autouse=True)
def any_work(monkeypatch):
    """All work is worth it, whatever the environment's switch says."""
    monkeypatch.setattr(recognise, "LEAST_WORK", 0)
    with enabled(True):
        yield


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


SEARCHED = ["strided", "mnist-conv", "flat"]
SQUARE, THREAT = Square(queries=120), hf.LpBall("inf", 0.02, bounds=(0.0, 1.0))


def searched(name):
    torch.manual_seed(1)
    if name == "strided":
        net, x = stack(name), torch.rand(20, *SHAPE, dtype=torch.float64)
    elif name == "flat":
        net = nn.Sequential(nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 3)).double()
        x = torch.rand(20, 36, dtype=torch.float64)
    else:
        net, x = hf.networks.MNISTConv(classes=3, size=8).double(), torch.rand(20, 64, dtype=torch.float64)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


@pytest.mark.parametrize("name", SEARCHED)
def test_each_step_of_a_search_has_the_outputs_of_a_whole_pass(name, monkeypatch):
    """Every decision of a search hangs on two numbers that may differ in the last bit alone, so no search by one route need go where the
    other goes. Here whole passes decide, and the changes of windows are held against them at every step."""
    net, x, y = searched(name)
    with enabled(False):
        plain = SQUARE.run(net, x, y, THREAT)
    steps, propose = [], Incremental.propose

    def checked(self, area):
        whole = net(self._images.reshape(-1, *x.shape[1:]))
        torch.testing.assert_close(propose(self, area), whole, rtol=1e-11, atol=1e-11)
        steps.append(area)
        return whole

    monkeypatch.setattr(Incremental, "propose", checked)
    monkeypatch.setattr("holdfast.attacks.square.outputs_of", lambda model, points: model(points))
    guided = SQUARE.run(net, x, y, THREAT)
    assert len(steps) > 100
    assert torch.equal(guided.x, plain.x)
    assert torch.equal(guided.success, plain.success)


@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_by_changes_of_windows_says_what_is_true(name):
    net, x, y = searched(name)
    quick = SQUARE.run(net, x, y, THREAT)
    with torch.no_grad():
        outputs = net(quick.x)
    assert THREAT.contains(quick.x, x).all()
    assert torch.equal(quick.success, ~correct(outputs, y))
    torch.testing.assert_close(quick.loss, CrossEntropy()(outputs, y))
    assert (quick.loss > CrossEntropy()(net(x), y)).all(), "the search did nothing"


def test_what_has_no_closed_form_is_left_alone():
    images = torch.rand(4, *SHAPE, dtype=torch.float64)
    with enabled(False):
        assert incremental(stack("strided"), images, torch.Size(SHAPE)) is None
    odd = nn.Sequential(nn.Conv2d(2, 6, 3), nn.MaxPool2d(3, padding=1), nn.Flatten(), nn.Linear(72, 3))
    assert incremental(odd.double(), images, torch.Size(SHAPE)) is None
    assert incremental(hf.networks.TwoLayer(264, 3, 30).double(), images, torch.Size((264,))) is None
