"""Extra examples of training: a fixed share of each batch, against a plain loop, resumed, refused, on the command line."""

import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import holdfast as hf
from holdfast.cli.main import main
from holdfast.config.build import build
from holdfast.config.reading import read_config
from holdfast.config.schema import DataConfig, RunConfig, from_dict, names_code
from holdfast.errors import InputError
from holdfast.training.batches import Mix, epoch_batches

N, M, FEATURES = 26, 17, 8


def rows(n, seed, shape=(FEATURES,)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 3


def data(shape=(FEATURES,)):
    return hf.data.from_tensors(*rows(N, 0, shape), bounds=(0.0, 1.0), validation=0.0, test=0.0)


def extra(share=0.4, shape=(FEATURES,)):
    return hf.data.Extra(*rows(M, 1, shape), share=share)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def trained(model=None, *, of=None, **settings):
    model = net() if model is None else model
    settings = {"epochs": 3, "batch_size": 10, "learning_rate": 0.05, "extra": extra()} | settings
    quick = {"closing": "none", "allow_incompatible": True, "progress": False, "attack": hf.PGD(steps=2)}
    quick["certificate"] = hf.CertificateSettings(tighten=0, trace_every=1)
    threat = hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))
    run = hf.train(model, of or data(), threat, **{**quick, **settings})
    return run, {name: value.clone() for name, value in model.state_dict().items()}


# ---- the order


@pytest.mark.parametrize(
    ("examples", "extra_ones", "own", "beside"), [(26, 17, 6, 4), (10, 3, 4, 9), (7, 40, 7, 2)]
)
def test_each_batch_has_its_share_and_extra_examples_come_round_evenly(examples, extra_ones, own, beside):
    mix, drawn = Mix(own=own, extra=beside, examples=extra_ones), []
    for epoch in range(5):
        batches = list(epoch_batches(examples, mix, seed=3, epoch=epoch))
        assert sorted(torch.cat([b.rows for b in batches]).tolist()) == list(range(examples))
        for b in batches:
            full = len(b.rows) == own
            assert len(b.extra) == (beside if full else max(1, round(len(b.rows) * beside / own)))
            assert (b.round_size, b.total) == (len(b.rows), len(b.rows) + len(b.extra))
        drawn += torch.cat([b.extra for b in batches]).tolist()
        assert mix.smallest(examples) == min(b.total for b in batches)
    whole = [drawn[at : at + extra_ones] for at in range(0, len(drawn), extra_ones)]
    assert all(sorted(turn) == list(range(extra_ones)) for turn in whole[:-1])
    assert len(set(whole[-1])) == len(whole[-1])
    if len(whole) > 2:
        assert whole[0] != whole[1]  # shuffled anew


def test_processes_share_both_kinds_of_examples():
    mix = Mix(own=6, extra=5, examples=M)
    whole = list(epoch_batches(N, mix, seed=0, epoch=1))
    parts = [list(epoch_batches(N, mix, seed=0, epoch=1, rank=rank, processes=2)) for rank in range(2)]
    for b, first, second in zip(whole, *parts, strict=True):
        assert sorted([*first.extra.tolist(), *second.extra.tolist()]) == sorted(b.extra.tolist())
        assert len(first.extra) - len(second.extra) in (0, 1)
        assert first.total == second.total == b.total


def test_without_extra_examples_none_are_drawn():
    assert all(
        len(b.extra) == 0 and b.total == b.round_size for b in epoch_batches(9, Mix(own=4), seed=0, epoch=0)
    )


# ---- training


@pytest.mark.parametrize("weighted", [False, True])
def test_a_run_takes_the_steps_of_a_plain_loop(weighted):
    """Of 10 examples a step, 4 are extra; with weights only those of the training part count otherwise than evenly."""
    of, more, plain = data(), extra(), net()
    weights = (
        torch.arange(1.0, N + 1, dtype=torch.float64) / (N * (N + 1) / 2)
        if weighted
        else torch.full((N,), 1 / N)
    )
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    sizes, losses = [], []
    for epoch in range(3):
        for batch in epoch_batches(N, Mix(own=6, extra=4, examples=M), seed=0, epoch=epoch):
            x = torch.cat([of.train.x[batch.rows], more.x[batch.extra]])
            y = torch.cat([of.train.y[batch.rows], more.y[batch.extra]])
            size = len(batch.rows) + len(batch.extra)
            share = torch.cat([weights[batch.rows] * N, torch.ones(len(batch.extra))]) / size
            optimizer.zero_grad()
            loss = (share.float() * F.cross_entropy(plain(x), y, reduction="none")).sum()
            loss.backward()
            optimizer.step()
            sizes.append((len(batch.rows), len(batch.extra)))
            losses.append(float(loss.detach()) * len(batch.rows) / N)
    assert sizes[:5] == [(6, 4)] * 4 + [(2, 1)]
    given = {"example_weights": weights} if weighted else {}
    run, found = trained(attack="clean", optimizer=hf.optimizers.SGD(momentum=0.0), **given)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert [row["rounds"] for row in run.metrics] == [5, 10, 15]
    assert run.metrics[-1]["online_loss"] == pytest.approx(sum(losses[10:]), rel=1e-5)
    without = trained(attack="clean", optimizer=hf.optimizers.SGD(momentum=0.0), extra=None, **given)[1]
    assert not torch.allclose(without["1.weight"], found["1.weight"], atol=1e-3)


def test_a_batch_of_everything_has_the_whole_training_part_and_its_share():
    seen = []

    class Watched(hf.objectives.RobustLoss):
        def losses(self, batch):
            seen.append(batch.clean)
            return super().losses(batch)

    run, _ = trained(objective=Watched(), batch_size=None, optimizer="sgd", epochs=1)
    assert len(seen) == 1
    assert torch.equal(seen[0][:N], data().train.x)  # in their order
    assert len(seen[0]) - N == round(N * 0.4 / 0.6) == 17
    assert run.summary["batch_size"] == N + 17
    assert (run.summary["data"]["extra"], run.summary["data"]["extra_share"]) == (M, 0.4)


def test_extra_examples_are_augmented_and_attacked_as_the_others():
    shape, seen = (1, 2, 4), []

    def darker(x, generator):
        return x * torch.rand(len(x), 1, 1, 1, generator=generator)

    class Watched(hf.objectives.RobustLoss):
        def losses(self, batch):
            seen.append((batch.clean, batch.attacked.detach(), batch.threat))
            return super().losses(batch)

    trained(of=data(shape), extra=extra(shape=shape), augmentation=darker, objective=Watched(), epochs=1)
    x = torch.cat([data(shape).x, extra(shape=shape).x]).flatten(1)
    for clean, points, threat in seen:
        assert threat.contains(points, clean).all()
        assert not (points == clean).flatten(1).all(1).any()
        assert torch.cdist(clean.flatten(1), x).min(1).values.min() > 1e-4  # none is as it was


@pytest.mark.parametrize("rounds", [3, 5, 8])
@pytest.mark.parametrize("objective", ["robust-loss", "free"])
def test_a_stopped_run_goes_on_bit_for_bit(objective, rounds, tmp_path, signal_at):
    settings = {"optimizer": "adam", "objective": objective, "epochs": 2}
    whole, weights = trained(**settings)
    signal_at(rounds, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trained(out=tmp_path, **settings)
    run, again = trained(out=tmp_path, resume=True, **settings)
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert [row["online_loss"] for row in run.metrics] == [row["online_loss"] for row in whole.metrics]


def test_a_run_is_resumed_with_the_extra_examples_it_began_with(tmp_path):
    trained(out=tmp_path, epochs=1)
    other = replace(extra(), y=(extra().y + 1) % 3)
    for came in (other, extra(share=0.5), None):
        with pytest.raises(InputError, match="extra was "):
            trained(out=tmp_path, resume=True, epochs=2, extra=came)
    trained(out=tmp_path / "without", epochs=1, extra=None)
    with pytest.raises(InputError, match="extra was not set"):
        trained(out=tmp_path / "without", resume=True, epochs=2)


def test_rounds_are_not_recorded_and_the_pass_over_the_training_part_certifies(tmp_path):
    run, _ = trained(hf.networks.TwoLayer(FEATURES, 3, 12), out=tmp_path)
    assert "extra examples are not those of the training part" in (tmp_path / "log.txt").read_text()
    assert all(row["lower_bound"] is None for row in run.metrics)
    assert run.certificate.status == "certified"
    plain, _ = trained(hf.networks.TwoLayer(FEATURES, 3, 12), extra=None)
    assert any(row["lower_bound"] is not None for row in plain.metrics)


# ---- wrong calls


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: {"extra": extra(shape=(4, 2))}, r"must have the shape of the data's, \(8,\), got \(4, 2\)"),
        (lambda: {"extra": replace(extra(), y=torch.full((M,), 3))}, r"must lie in 0\.\.2, .*, got 3\.\.3"),
        (lambda: {"extra": replace(extra(), y=torch.full((M,), -1))}, "label what has no label"),
        (
            lambda: {"extra": replace(extra(), x=extra().x + 0.5)},
            "must be as the data are, but of them: x must lie in",
        ),
        (lambda: {"batch_size": 1}, "batch_size must leave room for both kinds .* choose at least 2"),
        (
            lambda: {"batch_size": 4, "extra": extra(share=0.05)},
            "with none that is extra; choose at least 11",
        ),
        (
            lambda: {"batch_size": 4, "extra": extra(share=0.95)},
            "none of the training part; choose at least 11",
        ),
        (lambda: {"extra": rows(M, 1)}, r"extra must be extra examples such as .*Extra\(x, y, share=0.5\)"),
        (
            lambda: {"augmentation": lambda x, g: x + 2},
            "augmentation must return examples like those of the data",
        ),
    ],
)
def test_what_does_not_go_with_the_data_is_refused_before_anything_is_written(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        trained(out=tmp_path / "run", **change())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan"), "half"])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(InputError, match=r"share must be a number >= 0\.001 and <= 0\.999"):
        extra(share=share)


def test_examples_and_labels_must_be_as_many():
    with pytest.raises(InputError, match="one row and one label per example, got 17 rows and 3 labels"):
        hf.data.Extra(rows(M, 1)[0], torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="integer labels"):
        hf.data.Extra(*rows(M, 1)[:1], torch.rand(M))


# ---- the command line


def test_a_data_set_named_on_the_command_line(tmp_path):
    for name, n, seed in (("mine", N, 0), ("more", M, 1)):
        x, y = rows(n, seed)
        np.savez(tmp_path / f"{name}.npz", x=x.numpy(), y=y.numpy(), low=0.0, high=1.0)
    config = from_dict({"data": {"name": str(tmp_path / "mine.npz"), "extra": str(tmp_path / "more.npz")}})
    made = build(config).options["extra"]
    assert torch.equal(made.x, rows(M, 1)[0])
    assert torch.equal(made.y, rows(M, 1)[1])
    assert made.share == 0.5
    words = (
        f"train --data {tmp_path / 'mine.npz'} --data.extra {tmp_path / 'more.npz'} --data.extra-share 0.25"
    )
    words += f" --threat linf:0.001 --batch-size 8 --epochs 1 --training.closing none --width 8 --out {tmp_path / 'run'}"
    assert main([*words.split(), "--certificate.tighten", "0"]) == 0
    run = hf.Run.load(tmp_path / "run")
    assert (run.summary["data"]["extra"], run.summary["data"]["extra_share"]) == (M, 0.25)
    assert run.metrics[-1]["rounds"] == -(-run.summary["data"]["train"] // 6)


def test_extra_examples_are_prepared_as_the_data_are(tmp_path):
    x, y = rows(M, 1, (2, 4))
    np.savez(tmp_path / "more.npz", x=x.numpy(), y=y.numpy(), low=0.0, high=1.0)
    np.savez(
        tmp_path / "mine.npz", x=rows(N, 0, (2, 4))[0].numpy(), y=rows(N, 0)[1].numpy(), low=0.0, high=1.0
    )
    section = {"name": str(tmp_path / "mine.npz"), "extra": str(tmp_path / "more.npz"), "classes": (2, 0)}
    job = build(from_dict({"data": section | {"features": "sphere"}}))
    made, kept = job.options["extra"], y != 1
    assert made.y.tolist() == [0 if label == 2 else 1 for label in y[kept].tolist()]
    assert made.x.shape[1:] == job.data.shape == (9,)
    torch.testing.assert_close(made.x.norm(dim=1), torch.ones(int(kept.sum())))
    assert build(from_dict({"data": section | {"flatten": True}})).options["extra"].x.shape[1:] == (8,)
    with pytest.raises(InputError, match="must go with features pixels or sphere, got centred-sphere"):
        build(from_dict({"data": section | {"features": "centred-sphere"}}))


def test_a_cache_gives_its_training_part(tmp_path):
    pairs = list(zip(*rows(M, 1), strict=True))
    written = hf.data.from_dataset(pairs, validation=0.2, cache=tmp_path / "cache")
    np.savez(tmp_path / "mine.npz", x=rows(N, 0)[0].numpy(), y=rows(N, 0)[1].numpy())
    section = {"name": str(tmp_path / "mine.npz"), "extra": str(tmp_path / "cache")}
    made = build(from_dict({"data": section})).options["extra"]
    assert torch.equal(made.x, written.train.x)
    assert 0 < len(made) < M


def test_a_function_of_ones_own_is_named_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "own_rows.py").write_text(
        "import torch\ndef rows():\n    return torch.utils.data.TensorDataset(torch.rand(30, 64), torch.arange(30) % 10)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--data", "digits", "--data.extra", "own_rows:rows"]
    config, _ = read_config(words)
    assert len(build(config).options["extra"]) == 30
    file = tmp_path / "run.yaml"
    file.write_text("data: {extra: own_rows:rows}\n")
    with pytest.raises(InputError, match="--trusted"):
        build(read_config([str(file)])[0])


def test_a_share_needs_extra_examples_and_code_of_ones_own_needs_trust():
    with pytest.raises(InputError, match="extra_share must go with extra"):
        DataConfig(extra_share=0.3)
    with pytest.raises(InputError, match="extra_share must be > 0 and < 1"):
        DataConfig(extra="more.npz", extra_share=1.0)
    assert names_code(RunConfig(data=DataConfig(extra="my_package:rows")))
    assert not names_code(RunConfig(data=DataConfig(extra="more.npz")))


# ---- several processes

SCRIPT = """
import sys
import torch
import holdfast as hf

devices, objective, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
x, z = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) * 2 for n in (27, 11))
data = hf.data.from_tensors(x, (x[:, 0] > 0).long(), validation=0.0, test=0.0)
hf.train(
    hf.networks.TwoLayer(4, 2, 40, paired=False), data, hf.LpBall("2", 0.1), attack=hf.PGD(steps=2, start="example"),
    objective=objective, extra=hf.data.Extra(z, (z[:, 0] > 0).long(), share=0.3), allow_incompatible=True, epochs=3,
    batch_size=13, learning_rate=0.5, closing="none", certificate=hf.CertificateSettings(tighten=0),
    device=hf.DeviceSettings(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto"),
    progress=False, out=out,
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["robust-loss", "free"])
def test_two_processes_train_as_one_does(objective, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for devices in ("1", "2"):
        command = [sys.executable, str(script), devices, objective, str(tmp_path / devices)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    one, two = (hf.Run.load(tmp_path / devices) for devices in ("1", "2"))
    torch.testing.assert_close(two.weights()["weight"], one.weights()["weight"], rtol=1e-5, atol=1e-5)
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert b["online_loss"] == pytest.approx(a["online_loss"], abs=2e-6)
