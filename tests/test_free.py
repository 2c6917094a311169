"""Adversarial training for free: against a plain loop, resumed within a replay, on the command line."""

import math
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import holdfast as hf
from holdfast.cli.main import main
from holdfast.errors import InputError
from holdfast.training.batches import Mix, epoch_batches
from holdfast.training.objectives import Free

DOUBLE = torch.float64


def data(n=26, shape=(8,)):
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, *shape, generator=draw), torch.arange(n) % 3
    return hf.data.from_tensors(x, y, bounds=(0.0, 1.0), validation=0.0, test=0.0)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def trained(model, *, radius=0.1, norm="inf", of=None, **settings):
    settings = {"epochs": 2, "batch_size": 10, "learning_rate": 0.05, "objective": Free(replays=3)} | settings
    quick = {"closing": "none", "allow_incompatible": True, "progress": False, "attack": "fgsm"}
    quick["certificate"] = hf.CertificateSettings(tighten=0)
    run = hf.train(model, of or data(), hf.LpBall(norm, radius, bounds=(0.0, 1.0)), **{**quick, **settings})
    return run, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("norm", "step"), [("inf", 1.0), ("2", 0.5)])
def test_a_run_takes_the_steps_of_a_plain_loop(norm, step):
    of, radius, m, plain = data(), 0.1, 3, net().double()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    move = torch.zeros(10, 8, dtype=DOUBLE)

    def into_ball(d):
        if norm == "inf":
            return d.clamp(-radius, radius)
        return d * (radius / d.norm(dim=1, keepdim=True)).clamp_max(1.0)

    losses = []
    for epoch in range(2):
        for batch in epoch_batches(len(of.train), Mix(own=10), seed=0, epoch=epoch):
            x, y = of.train.x[batch.rows].double(), of.train.y[batch.rows]
            n = len(x)
            for _ in range(m):
                points = (x + into_ball(move[:n])).requires_grad_(True)
                loss = F.cross_entropy(plain(points), y)
                optimizer.zero_grad()
                loss.backward()
                slope = points.grad
                along = slope.sign() if norm == "inf" else slope / slope.norm(dim=1, keepdim=True)
                move[:n] = into_ball(points.detach() - x + step * radius * along)
                optimizer.step()
                losses.append(float(loss.detach()) * n / (len(of.train) * m))
    model = net().double()
    quick = {"objective": Free(replays=m, step=step), "optimizer": hf.optimizers.SGD(momentum=0.0)}
    # Without a box: Dykstra's projection onto ball and box is no plain formula for every norm.
    threat = hf.LpBall(norm, radius)
    run = hf.train(
        model,
        of,
        threat,
        attack="fgsm",
        epochs=2,
        batch_size=10,
        learning_rate=0.05,
        closing="none",
        allow_incompatible=True,
        progress=False,
        device=hf.DeviceSettings(precision="64-true"),
        certificate=hf.CertificateSettings(tighten=0),
        **quick,
    )
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-6)
    assert [row["rounds"] for row in run.metrics] == [9, 18]
    assert run.metrics[-1]["online_loss"] == pytest.approx(sum(losses[9:]), rel=1e-5)
    start = net().double().state_dict()
    assert all(
        not torch.allclose(start[name], value, atol=1e-3) for name, value in plain.state_dict().items()
    )


class Watched(Free):
    """Looks at the points of each step."""

    def losses(self, batch):
        SEEN.append((batch.clean.clone(), batch.attacked.detach().clone(), batch.threat))
        return super().losses(batch)


SEEN: list = []


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_points_lie_in_the_threat_set_and_each_minibatch_is_shown_in_a_row(norm):
    SEEN.clear()
    settings = {"augmentation": "images", "schedule": hf.ScheduleSettings(radius_ramp=0.5)}
    run, _ = trained(net(), norm=norm, of=data(shape=(1, 2, 4)), objective=Watched(replays=4), **settings)
    assert len(SEEN) == 24 == run.metrics[-1]["rounds"]
    for clean, points, threat in SEEN:
        assert threat.contains(points, clean).all()
        assert points.min() >= 0
        assert points.max() <= 1
    for first in range(0, 24, 4):
        shown = SEEN[first : first + 4]
        assert all(torch.equal(clean, shown[0][0]) for clean, _, _ in shown)  # augmented once
    batches = [SEEN[first][0] for first in range(0, 24, 4)]
    assert all(not torch.equal(a, b) for a, b in pairwise(batches) if a.shape == b.shape)
    radii = [float(threat.radius) for _, _, threat in SEEN]
    assert radii[:12] == pytest.approx([0.1 * step / 12 for step in range(12)])
    assert radii[12:] == pytest.approx([0.1] * 12)
    # The perturbation goes on: only the first step is at the examples themselves.
    assert torch.equal(SEEN[0][1], SEEN[0][0])
    moves = [(points - clean).abs().max() for clean, points, _ in SEEN[13:]]
    assert min(moves) > 0.02


@pytest.mark.parametrize("rounds", [1, 4, 6, 9, 11])
def test_a_run_stopped_within_a_replay_goes_on_bit_for_bit(rounds, tmp_path, signal_at):
    settings = {
        "augmentation": "images",
        "of": data(shape=(1, 2, 4)),
        "optimizer": "adam",
        "averaging": hf.EMA(0.9),
    }
    whole, weights = trained(net(), **settings)
    signal_at(rounds, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trained(net(), out=tmp_path, **settings)
    saved = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert saved["rounds"] == rounds
    run, again = trained(net(), out=tmp_path, resume=True, **settings)
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert [row["online_loss"] for row in run.metrics] == [row["online_loss"] for row in whole.metrics]


def test_the_schedule_counts_replays_as_steps():
    seen = []

    def factor(progress):
        seen.append(progress)
        return 1.0

    trained(net(), schedule=factor, optimizer="sgd")
    assert seen[-1] == pytest.approx(17 / 18)
    assert max(seen) < 1


def test_steps_are_not_recorded_and_the_pass_after_training_certifies(tmp_path):
    model = hf.networks.TwoLayer(8, 3, 12)
    certificate = hf.CertificateSettings(tighten=0, trace_every=1)
    run, _ = trained(model, out=tmp_path, certificate=certificate)
    assert "points of free were found at earlier weights" in (tmp_path / "log.txt").read_text()
    assert all(row["lower_bound"] is None for row in run.metrics)
    assert run.certificate.status == "certified"


def test_it_is_watched_for_catastrophic_overfitting():
    attack = hf.PGD(steps=2)
    probed = [
        trained(net(), objective=o, attack=attack)[0].metrics[-1].get("probe_accuracy")
        for o in (Free(2), "robust-loss")
    ]
    assert 0 <= probed[0] <= 1
    assert probed[1] is None


def test_one_replay_is_allowed_and_others_are_refused():
    assert trained(net(), objective=Free(replays=1))[0].metrics[-1]["rounds"] == 6
    for wrong in ({"replays": 0}, {"replays": 1.5}, {"step": 0.0}, {"step": math.nan}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            replace(Free(), **wrong)
    with pytest.raises(InputError, match=r"train with hf.train\(..., objective=...\)"):
        Free()(net(), data().x, data().y, "linf:0.1")


def test_the_recipe_on_the_command_line(tmp_path):
    words = "train --data spheres --recipe free --objective.replays 2 --epochs 1 --batch-size 40 --training.closing none"
    words += (
        f" --data.examples 60 --threat l2:0.05 --width 8 --certificate.tighten 0 --out {tmp_path / 'run'}"
    )
    assert main(words.split()) == 0
    run = hf.Run.load(tmp_path / "run")
    assert run.summary["objective"] == "free"
    steps = -(-run.summary["data"]["train"] // 40)
    assert run.metrics[-1]["rounds"] == 2 * steps
