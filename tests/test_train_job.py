"""The main job from end to end on a few digits: what it writes, what it claims, what it refuses, and how it goes on."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from torch import nn

import holdfast as hf
from holdfast._files import without_nan
from holdfast.data.selection import keep_examples
from holdfast.errors import InputError, NonFiniteLossError, RunFolderError
from holdfast.evaluation.closing import closing_attacks
from holdfast.jobs.certify import certify_run
from holdfast.record.run import Run, read_weights
from settings import grouped

# torch's own forward-mode derivatives still script a function when first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

PROMISED = {
    "clean_accuracy",
    "robust_accuracy",
    "robust_accuracy_verified",
    "surrogate_loss",
    "robust_loss_lower_bound",
    "gap",
    "certificate_status",
    "certificate_reason",
    "parameter_radius",
    "threat",
    "seed",
    "seconds",
    "versions",
}
FILES = {
    "config.yaml",
    "summary.json",
    "metrics.jsonl",
    "model.safetensors",
    "last.safetensors",
    "initial.safetensors",
    "gallery.safetensors",
    "log.txt",
    "digests.json",
    "identity.json",
    "trace/trace.json",
    "trace/initial.safetensors",
    "trace/final_pass.safetensors",
    "trace/setting.json",
    "trace/setting.safetensors",
    "checkpoints/last.pt",
}


@pytest.fixture(scope="module")
def data():
    return keep_examples(hf.data.digits(classes=(3, 8), features="sphere"), 80)


@pytest.fixture(scope="module")
def threat(data):
    return hf.LpBall("2", 0.1, fixed=data.fixed)


def two_layer(data, **options):
    return hf.networks.TwoLayer(data.features, data.classes, **{"width": 40, **options})


class Constant(torch.nn.Module):
    """Has the weights of a network, and cuts its gradient."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).detach()


def train(model, data, threat, **options):
    quick = {
        "attack": hf.PGD(steps=2),
        "evaluation_attack": hf.PGD(steps=1),
        "final_attack": hf.PGD(steps=2),
        "epochs": 4,
        "batch_size": 20,
        "learning_rate": 1.0,
        "parameter_radius": 2.0,
        "tighten": 3,
        "trace_every": 1,
        "closing": "none",
        "progress": False,
    }
    return hf.train(model, data, threat, **grouped(quick | options))


@pytest.fixture(scope="module")
def done(data, threat, tmp_path_factory):
    """One finished run in a folder."""
    return train(
        two_layer(data), data, threat, closing="standard", out=tmp_path_factory.mktemp("runs") / "small"
    )


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ---- what a run leaves


def test_the_run_folder_is_complete(done):
    windows = {name for name in files(done.folder) if name.startswith("trace/window-")}
    assert files(done.folder) - windows - {"certificate.json"} == FILES
    assert len(windows) == 4
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["threat"] == "l2:0.1"
    assert config["epochs"] == 4


def test_the_summary_has_what_is_promised_and_agrees_with_the_certificate(done, data):
    summary = json.loads((done.folder / "summary.json").read_text())
    assert summary.keys() >= PROMISED
    assert summary["certificate_status"] == "certified"
    assert (
        summary["gap"]
        == done.certificate.gap
        == pytest.approx(summary["surrogate_loss"] - summary["robust_loss_lower_bound"])
    )
    assert 0 < summary["gap"] < math.log(2)
    assert summary["parameter_radius"] == 2.0
    assert summary["versions"].keys() >= {"torch", "python"}
    assert summary["data"]["train"] + summary["data"]["validation"] + summary["data"]["test"] == 80
    assert summary["robust_loss_upper_bound"] >= summary["surrogate_loss"] - 1e-6
    assert summary["robust_accuracy"] <= summary["clean_accuracy"]
    assert not summary["interrupted"]
    assert sum(row["examples"] for row in summary["per_class"]) == len(data.test)
    radii = {row["radius"]: row["lower_bound"] for row in summary["bounds_at_radii"]}
    assert list(radii.values()) == sorted(radii.values(), reverse=True)
    assert radii[2.0] == summary["robust_loss_lower_bound"]


def test_a_loaded_run_is_the_one_returned(done):
    loaded = Run.load(done.folder)
    assert loaded.certificate == done.certificate
    assert loaded.summary["seconds"] == done.summary["seconds"]
    assert [row["online_loss"] for row in loaded.metrics] == [row["online_loss"] for row in done.metrics]
    assert torch.equal(loaded.weights()["weight"], done.model.weight)
    assert torch.equal(loaded.weights("best")["weight"], done.best["weight"])


def test_every_epoch_has_its_line(done):
    assert [row["epoch"] for row in done.metrics] == [1, 2, 3, 4]
    for row in done.metrics:
        assert row["void"] == ""
        assert row["lower_bound"] <= done.certificate.lower_bound
        assert 0 <= row["robust_accuracy"] <= row["clean_accuracy"] <= 1
        assert row["drift"].keys() == {"weight"}
        assert row["drift"]["weight"] <= 2.0
    best = max(done.metrics, key=lambda row: (row["robust_accuracy"], -row["robust_loss"]))
    assert done.summary["best"]["epoch"] == best["epoch"]


def test_no_file_means_no_file(data, threat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = train(two_layer(data), data, threat, epochs=1)
    assert run.folder is None
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_run(done, data, threat):
    torch.manual_seed(99)
    again = train(two_layer(data), data, threat)
    assert torch.equal(again.model.weight, done.model.weight)
    assert again.certificate == done.certificate
    assert not torch.equal(
        train(two_layer(data), data, threat, seed=1, epochs=1).model.weight, done.model.weight
    )


def test_training_leaves_the_global_random_state_alone(data, threat):
    before = torch.random.get_rng_state()
    train(two_layer(data), data, threat, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_run_in_the_folder_of_another_leaves_nothing_of_it(data, threat, tmp_path):
    train(two_layer(data), data, threat, out=tmp_path)
    certify_run(tmp_path, radius=3.0, tighten=1, progress=False)
    (tmp_path / "mine.txt").write_text("stays")
    train(two_layer(data, seed=1), data, threat, out=tmp_path, epochs=2, overwrite=True)
    assert "certificate.json" not in files(tmp_path)
    assert "mine.txt" in files(tmp_path)
    assert certify_run(tmp_path, tighten=3, progress=False) == Run.load(tmp_path).certificate


# ---- what is claimed


def flat_linear(data, *layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(data.features, 8), *layers, nn.Linear(8, 2))


def test_a_deep_smooth_network_is_certified(data, threat):
    dense = hf.networks.Dense(data.features, data.classes, 16, 2, "softplus")
    run = train(dense, data, threat, learning_rate=0.1, epochs=2, parameter_radius=0.2)
    certificate = run.certificate
    assert certificate.status == "certified"
    assert len(certificate.drift) == 2
    assert certificate.lower_bound <= certificate.surrogate_loss
    # a ball this small holds hardly more than the network itself
    assert certificate.gap < 0.5 * certificate.surrogate_loss


def test_deep_and_own_networks_get_an_estimate(data, threat):
    dense = hf.networks.Dense(data.features, data.classes, 16, 2, "relu")
    for model in (dense, flat_linear(data, nn.Tanh())):
        run = train(model, data, threat, learning_rate=0.1, epochs=2)
        assert run.certificate.status == "estimate"
        assert "no rigorous curvature bound" in run.certificate.reason
        assert math.isfinite(run.certificate.gap)


@pytest.mark.parametrize(("layer", "word"), [(nn.Dropout(0.5), "dropout"), (nn.BatchNorm1d(8), "batch norm")])
def test_rounds_that_are_none_make_the_certificate_void(data, threat, layer, word):
    run = train(flat_linear(data, nn.Tanh(), layer), data, threat, learning_rate=0.1, epochs=2)
    assert run.certificate.status == "void"
    assert word in run.certificate.reason
    assert math.isnan(run.certificate.gap)
    assert run.summary["certificate_status"] == "void"
    assert word in run.metrics[0]["void"]


def test_without_a_ball_the_radius_is_the_drift(data, threat):
    run = train(two_layer(data), data, threat, parameter_radius=None)
    (drift,) = run.certificate.drift
    assert run.certificate.status == "certified"
    assert drift <= run.certificate.radius <= drift * (1 + 1e-5)
    assert run.summary["parameter_radius"] is None
    # the bounds of the epochs are those of this ball too
    assert max(row["lower_bound"] for row in run.metrics) <= run.certificate.lower_bound


def test_weights_outside_the_ball_do_not_compete_in_it(data, threat):
    run = train(two_layer(data), data, threat, parameter_radius=0.1, project=False)
    assert run.certificate.status == "void"
    assert "outside the ball of radius 0.1" in run.certificate.reason


def test_half_precision_certifies_the_final_pass_only(data, threat):
    run = train(two_layer(data), data, threat, precision="bf16-mixed")
    assert run.certificate.status == "certified"
    assert run.certificate.source.startswith("a pass at the last weights")
    assert all(row["lower_bound"] is None for row in run.metrics)
    assert run.model.weight.dtype == torch.float32


@pytest.mark.parametrize("how", ["precision", "model"])
def test_double_precision_throughout(data, threat, how):
    model = two_layer(data).double() if how == "model" else two_layer(data)
    run = train(model, data, threat, **({"precision": "64-true"} if how == "precision" else {}))
    assert run.model.weight.dtype == torch.float64
    assert run.certificate.status == "certified"
    assert all(row["void"] == "" for row in run.metrics)


def test_example_weights_reach_the_certificate(data, threat, tmp_path):
    weights = torch.arange(1.0, len(data.train) + 1)
    weights = weights / weights.sum()
    run = train(two_layer(data), data, threat, example_weights=weights, out=tmp_path)
    assert run.certificate.status == "certified"
    assert certify_run(tmp_path, tighten=3, progress=False) == run.certificate
    assert run.certificate.surrogate_loss != train(two_layer(data), data, threat).certificate.surrogate_loss


# ---- what is refused


def spoilt(data, **changes):
    return dataclasses.replace(data, **changes)


class Halves(nn.Module):
    """Drops half of the batch, or returns something other than logits."""

    def __init__(self, data, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(data.features, 2), kind

    def forward(self, x):
        out = self.layer(x)
        return {"batch": out[: len(x) // 2], "shape": out[:, 0], "type": (out, out), "few": out}[self.kind]


REFUSALS = {
    "NaN": (
        lambda d: {"data": spoilt(d, x=d.x.clone().index_fill_(0, torch.tensor([3]), math.nan))},
        "1 of 80 rows",
    ),
    "labels": (lambda d: {"data": spoilt(d, y=d.y + 1)}, r"y must lie in 0\.\.1, got 1\.\.2"),
    "meeting sets": (
        lambda d: {"threat": hf.LpBall("2", 0.5, fixed=d.fixed)},
        r"rows \d+ and \d+, are .* apart\); use a radius below",
    ),
    "outside the box": (
        lambda d: {"threat": hf.LpBall("2", 0.1, bounds=(0.0, 0.1))},
        "must lie in the threat.s bounds",
    ),
    "batch size": (lambda d: {"model": Halves(d, "batch")}, "must keep the batch size"),
    "no logits": (lambda d: {"model": Halves(d, "type")}, "must return .* logits"),
    "one axis": (lambda d: {"model": Halves(d, "shape")}, "must return .* logits"),
    "too few outputs": (
        lambda d: {"data": spoilt(d, classes=3), "model": Halves(d, "few")},
        "3 classes .* got 2",
    ),
    "no gradient": (
        lambda d: {"model": Constant(two_layer(d))},
        "outputs must depend on its trained parameters",
    ),
    "frozen": (lambda d: {"model": two_layer(d).requires_grad_(False)}, "require gradients"),
    "half": (lambda d: {"model": two_layer(d).half()}, "float32 or float64, got torch.float16"),
    "epochs": (lambda d: {"epochs": 0}, "epochs must be"),
    "batch_size": (lambda d: {"batch_size": 0}, "batch_size must be"),
    "radius": (lambda d: {"parameter_radius": -1.0}, "parameter_radius must be"),
    "schedule": (lambda d: {"schedule": "cosin"}, "did you mean 'cosine'"),
    "optimizer": (lambda d: {"optimizer": "sdg"}, "did you mean 'sgd'"),
    "learning rate": (lambda d: {"learning_rate": 0.0}, "learning_rate must be a number > 0"),
    "precision": (lambda d: {"precision": "bf16-true"}, "precision must be one of"),
    "accelerator": (lambda d: {"accelerator": "abacus"}, "abacus"),
    "weights": (lambda d: {"example_weights": torch.ones(5)}, r"example_weights must be \d+ numbers"),
    "no training rows": (
        lambda d: {"data": spoilt(d, split=dataclasses.replace(d.split, train=d.split.train[:0]))},
        "must have training examples",
    ),
    "resume without folder": (lambda d: {"resume": True, "out": None}, "pass out="),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_refused_in_one_sentence_before_anything_is_written(case, data, threat, tmp_path):
    change, message = REFUSALS[case]
    given = {"model": two_layer(data), "data": data, "threat": threat, "out": tmp_path / "run"}
    with pytest.raises(InputError, match=message) as error:
        train(**(given | change(data)))  # a data set refuses what is wrong with it when it is made
    assert "\n" not in str(error.value)
    assert ";" in str(error.value)  # the remedy
    assert list(tmp_path.iterdir()) == []


def test_meeting_threat_sets_may_be_allowed(data):
    near = hf.LpBall("2", 0.5, fixed=data.fixed)
    run = train(two_layer(data), data, near, epochs=1, allow_incompatible=True)
    assert run.summary["compatibility"]["compatible"] is False
    assert run.summary["compatibility"]["pairs_meeting"] > 0


def test_an_output_folder_that_cannot_be_written_is_refused(data, threat, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(RunFolderError, match="choose another"):
        train(two_layer(data), data, threat, out=tmp_path / "file" / "run")
    assert files(tmp_path) == {"file"}


def test_a_loss_that_blows_up_leaves_a_loadable_run(data, threat, tmp_path):
    with pytest.raises(NonFiniteLossError, match="lower the learning rate"):
        train(
            two_layer(data),
            data,
            threat,
            out=tmp_path,
            loss=hf.Squared(),
            learning_rate=1e30,
            parameter_radius=None,
            epochs=20,
        )
    run = Run.load(tmp_path)
    assert run.certificate.status == "void"
    assert "lower the learning rate" in run.certificate.reason
    assert run.summary["interrupted"]


@pytest.mark.parametrize(("depth", "optimizer", "digits"), [(3, "sgd", 10), (3, "sgd", 30), (5, "adam", 10)])
def test_weights_that_run_away_are_the_learning_rates_fault(data, threat, depth, optimizer, digits):
    net = hf.networks.Dense(data.features, data.classes, width=8, depth=depth)
    with pytest.raises(NonFiniteLossError, match=rf"lower the learning rate \(now 1e\+{digits}\)"):
        train(
            net,
            data,
            threat,
            optimizer=optimizer,
            learning_rate=10.0**digits,
            parameter_radius=None,
            epochs=1,
        )


# ---- stopping and going on


def dropout(data):
    return flat_linear(data, nn.Tanh(), nn.Dropout(0.5))


def deep(data):
    return hf.networks.Dense(data.features, data.classes, 16, 2, "softplus")


def relu(data):
    return two_layer(data, activation="relu")


STATUS = {signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize(
    ("make", "rounds", "number"),
    [
        (two_layer, 2, signal.SIGINT),
        (two_layer, 3, signal.SIGTERM),
        (dropout, 8, signal.SIGHUP),
        (deep, 5, signal.SIGINT),
        (relu, 6, signal.SIGTERM),
    ],
)
def test_a_stopped_run_loads_and_resumes_to_the_run_that_was_never_stopped(
    make, rounds, number, data, threat, tmp_path, signal_at
):
    settings = {"schedule": "cosine", "optimizer": "adam", "learning_rate": 0.01}
    whole = train(make(data), data, threat, **settings)
    before = signal.getsignal(number)
    signal_at(rounds, number)
    with pytest.raises(SystemExit if number in STATUS else KeyboardInterrupt) as stopped:
        train(make(data), data, threat, out=tmp_path, **settings)
    if number in STATUS:
        assert stopped.value.code == STATUS[number]
    assert "go on with resume=True" in stopped.value.__notes__[-1]
    assert signal.getsignal(number) is before
    loaded = Run.load(tmp_path)
    assert loaded.summary["interrupted"]
    assert loaded.certificate.status == "void"
    assert "resume" in loaded.certificate.reason
    with pytest.raises(RunFolderError, match="resume the run"):
        certify_run(tmp_path, progress=False)
    a_round = -(-len(data.train) // 20)
    saved = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert saved["rounds"] == rounds  # not one step is lost
    assert (saved["within"] is None) == (rounds % a_round == 0)
    resumed = train(make(data), data, threat, out=tmp_path, resume=True, **settings)
    for name, weight in whole.weights().items():
        assert torch.equal(resumed.weights()[name], weight)
    # As if nothing had happened: the window that was open went on too.
    assert without_nan(resumed.certificate.as_dict()) == without_nan(whole.certificate.as_dict())
    same, kept = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics] for run in (whole, resumed)
    )
    assert without_nan(kept) == without_nan(same)
    assert f"(round {rounds})" in (tmp_path / "log.txt").read_text()
    assert not Run.load(tmp_path).summary["interrupted"]


def test_going_on_from_a_checkpoint_in_the_middle_of_training(data, threat, tmp_path, monkeypatch):
    settings = {"schedule": "cosine", "epochs": 5}
    whole = train(two_layer(data), data, threat, **settings)
    monkeypatch.setattr("holdfast.jobs.session.SAVE_EVERY", 0.0)  # every step is worth a checkpoint
    monkeypatch.setattr("holdfast.jobs.train.conclude", killed)
    with pytest.raises(Killed):
        train(two_layer(data), data, threat, out=tmp_path, **settings)
    monkeypatch.undo()
    resumed = train(two_layer(data), data, threat, out=tmp_path, resume=True, **settings)
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert resumed.certificate == whole.certificate


def test_a_window_spread_over_processes_is_not_saved_and_its_epoch_goes_on_without(
    data, threat, tmp_path, signal_at
):
    whole = train(two_layer(data), data, threat)
    signal_at(2, signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.trace.TraceRecorder.open_state", lambda recorder: None)
        with pytest.raises(KeyboardInterrupt):
            train(two_layer(data), data, threat, out=tmp_path)
    resumed = train(two_layer(data), data, threat, out=tmp_path, resume=True)
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert [row["lower_bound"] is None for row in resumed.metrics] == [True, False, False, False]
    assert "has no bound of its own" in (tmp_path / "log.txt").read_text()


def test_a_finished_run_resumes_to_more_epochs(done, data, threat, tmp_path):
    train(two_layer(data), data, threat, out=tmp_path, epochs=2)
    certify_run(tmp_path, radius=3.0, tighten=1, progress=False)
    longer = train(two_layer(data), data, threat, out=tmp_path, resume=True)
    assert torch.equal(longer.model.weight, done.model.weight)
    assert longer.certificate == done.certificate
    assert "certificate.json" not in files(tmp_path)  # it was of other weights


class Killed(BaseException):
    """As if the process were gone."""


def killed(*args, **options):
    raise Killed


def test_resuming_needs_a_run_of_the_same_network(done, data, threat, tmp_path):
    with pytest.raises(RunFolderError, match="start it without resume"):
        train(two_layer(data), data, threat, out=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    before = files(done.folder)
    with pytest.raises(InputError, match="network was TwoLayer of width 40"):
        train(two_layer(data, width=20), data, threat, out=done.folder, resume=True)
    assert files(done.folder) == before


SCRIPT = """
import sys
import holdfast as hf

class Slow(hf.PGD):
    def search(self, *args, **options):
        print("round", flush=True)
        return super().search(*args, **options)

data = hf.data.digits(classes=(3, 8), features="sphere")
model = hf.networks.TwoLayer(data.features, 2, 40)
run = hf.train(model, data, hf.LpBall("2", 0.1, fixed=data.fixed), attack=Slow(steps=2), epochs=10**6, batch_size=50,
               parameter_radius=2.0, out=sys.argv[1], progress=False)
print("went on", flush=True)
"""


def test_sigterm_to_a_process_leaves_a_loadable_run(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "round\n"
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "went on" not in shown
    assert Run.load(tmp_path).summary["interrupted"]
    assert (tmp_path / "checkpoints" / "last.pt").exists()


def test_a_stop_while_certifying_leaves_a_run_that_loads_and_resumes(
    done, data, threat, tmp_path, monkeypatch
):
    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.jobs.conclude.certify_trace", stop)
        with pytest.raises(KeyboardInterrupt):
            train(two_layer(data), data, threat, out=tmp_path)
    assert Run.load(tmp_path).summary["interrupted"]
    assert len(Run.load(tmp_path).metrics) == 4
    resumed = train(two_layer(data), data, threat, out=tmp_path, resume=True)
    assert resumed.certificate == done.certificate


# ---- certifying again


def test_certifying_again_gives_the_certificate_of_the_run(done):
    again = certify_run(done.folder, tighten=3, progress=False)
    assert again == done.certificate
    assert json.loads((done.folder / "certificate.json").read_text())["gap"] == again.gap


def test_the_best_weights_compete_with_the_last_ones(data, threat, tmp_path):
    run = train(two_layer(data), data, threat, out=tmp_path, learning_rate=10.0, epochs=6)
    assert run.summary["best"]["epoch"] < 6
    (best,) = run.summary["evaluated"]
    # rerunning their attack is no part of certifying, so their loss must have been kept
    assert run.certificate.surrogate_loss == pytest.approx(best["surrogate_loss"], abs=1e-9)
    assert run.certificate.drift == tuple(best["distance"])
    assert certify_run(tmp_path, tighten=3, progress=False) == run.certificate


def test_certifying_at_other_radii(done):
    before = (done.folder / "summary.json").read_bytes()
    bounds = [certify_run(done.folder, radius=r, tighten=3, progress=False) for r in (2.5, 4.0, 8.0)]
    lower = [done.certificate.lower_bound] + [c.lower_bound for c in bounds]
    assert lower == sorted(lower, reverse=True)
    assert all(c.status == "certified" for c in bounds)
    small = certify_run(done.folder, radius=1e-3, tighten=3, progress=False)
    assert small.status == "void"
    assert "radius of at least" in small.reason
    assert (done.folder / "summary.json").read_bytes() == before
    with pytest.raises(InputError, match="radius must be > 0"):
        certify_run(done.folder, radius=0.0, progress=False)


def test_a_tighter_certificate_at_the_run_s_radius_goes_into_its_summary(data, threat, tmp_path):
    model = two_layer(data, activation="relu")
    run = train(model, data, threat, tighten=1, parameter_radius=1.0, out=tmp_path)
    tighter = certify_run(tmp_path, tighten=15, progress=False)
    assert tighter.gap < run.certificate.gap
    summary = Run.load(tmp_path).summary
    assert summary["gap"] == tighter.gap
    assert Run.load(tmp_path).certificate == tighter
    looser = certify_run(tmp_path, tighten=1, progress=False)
    assert looser.gap > tighter.gap
    assert Run.load(tmp_path).certificate == tighter
    assert certify_run(tmp_path, tighten=15, per_unit=True, progress=False).gap <= tighter.gap + 1e-9


def built(kind, data):
    if kind == "dense":
        return hf.networks.Dense(data.features, 2, 12, 2, "tanh", zero_start=False, input_layer=False)
    center = data.train.x.mean(0)
    return two_layer(
        data, outputs="dense", paired=False, width=41 - 1, scale=2.0, center=center, constant=0.5
    )


@pytest.mark.parametrize("kind", ["dense", "two-layer"])
@pytest.mark.parametrize("name", ["box", "sphere"])
def test_built_in_networks_threats_and_losses_need_no_code_and_no_data(kind, name, tmp_path):
    data = keep_examples(hf.data.digits(classes=(3, 8)), 60)
    high = torch.ones(64)
    high[:5] = math.inf
    fixed = torch.zeros(64, dtype=torch.bool)
    fixed[0] = True
    threat = (
        hf.LpBall("inf", 0.02, bounds=(0.0, high), fixed=fixed) if name == "box" else hf.SphereSlice(0.05)
    )
    loss = hf.Huber(delta=0.7) if name == "box" else hf.CrossEntropy(label_smoothing=0.1)
    run = train(built(kind, data), data, threat, loss=loss, out=tmp_path, epochs=2, learning_rate=0.05)
    (tmp_path / "config.yaml").unlink()
    assert str(certify_run(tmp_path, tighten=3, progress=False)) == str(run.certificate)


def test_a_run_with_parts_of_its_own_points_to_certify_in_python(data, threat, tmp_path):
    train(flat_linear(data, nn.Tanh()), data, threat, out=tmp_path / "net", epochs=1, learning_rate=0.1)
    with pytest.raises(RunFolderError, match=r"a network of its own.*holdfast\.certify"):
        certify_run(tmp_path / "net", progress=False)
    own = hf.CustomThreat(
        lambda points, x: torch.minimum(torch.maximum(points, x - 0.01), x + 0.01), radius_hint=0.1
    )
    run = train(two_layer(data), data, own, out=tmp_path / "threat", epochs=1)
    assert run.certificate.status == "certified"
    assert run.summary["compatibility"]["compatible"] is None
    with pytest.raises(RunFolderError, match=r"a threat of its own.*holdfast\.certify"):
        certify_run(tmp_path / "threat", progress=False)


@pytest.mark.parametrize(
    "name",
    [
        "summary.json",
        "last.safetensors",
        "trace/trace.json",
        "trace/final_pass.safetensors",
        "trace/setting.json",
        "trace/setting.safetensors",
        "trace/initial.safetensors",
    ],
)
def test_certifying_a_run_cut_short_names_what_is_missing(name, done, tmp_path):
    import shutil

    folder = shutil.copytree(done.folder, tmp_path / "run")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunFolderError) as error:
        certify_run(folder, progress=False)
    assert "\n" not in str(error.value)
    (folder / name).unlink()
    with pytest.raises(RunFolderError):
        certify_run(folder, progress=False)


class Failing(nn.Module):
    """Its layer takes 7 features, whatever the data has."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(7, 2)

    def forward(self, x):
        return self.layer(x)


def test_a_module_whose_forward_fails_is_refused_in_one_sentence(data, threat, tmp_path):
    with pytest.raises(InputError, match=r"its forward pass failed \(RuntimeError: .*\); fix its layers"):
        train(Failing(), data, threat, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_equal_examples_of_different_labels_have_no_radius_to_propose():
    x = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    x[1] = x[0]
    twins = hf.data.from_tensors(x, torch.arange(40) % 2, validation=0.0, test=0.0)
    with pytest.raises(InputError, match="remove one of each pair"):
        train(two_layer(twins), twins, hf.LpBall("2", 0.0001))


def test_training_starts_at_the_kernels_solution_and_is_certified_around_the_initial_weights(
    data, threat, tmp_path
):
    model = two_layer(data, width=400)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kernel = hf.theory.ntk(model)
    curve = hf.theory.optimal_robust_loss(kernel, data.train.x, data.train.y, threat, [6.0], tolerance=0.01)
    options = {"parameter_radius": 6.0, "learning_rate": 1e-6, "epochs": 1}
    run = train(model, data, threat, start="kernel", out=tmp_path / "run", **options)
    assert run.certificate.status == "certified"
    assert run.certificate.surrogate_loss == pytest.approx(float(curve.upper[0]), abs=0.05)
    assert run.certificate.surrogate_loss < 0.62  # the initial weights have log 2
    initial = read_weights(tmp_path / "run" / "initial.safetensors")
    assert all(torch.equal(initial[name], value) for name, value in before.items())
    assert 3.0 < float((model.weight - before["weight"]).detach().norm()) <= 6.0
    assert "training starts there" in (tmp_path / "run" / "log.txt").read_text()

    again = two_layer(data, width=400)
    start = hf.theory.into_network(curve.solutions[0], again)
    second = train(again, data, threat, start=start, **options)
    assert second.certificate.surrogate_loss == pytest.approx(run.certificate.surrogate_loss, abs=0.02)


def test_starts_that_are_refused(data, threat):
    with pytest.raises(InputError, match="start must be one of initial, kernel"):
        train(two_layer(data), data, threat, start="random")
    with pytest.raises(InputError, match="needs a parameter_radius"):
        train(two_layer(data), data, threat, start="kernel", parameter_radius=None)
    with pytest.raises(InputError, match="whose weights do not fit"):
        train(two_layer(data), data, threat, start=two_layer(data, width=20))


def test_a_contradiction_found_later_voids_the_run(data, threat, tmp_path, monkeypatch):
    run = train(two_layer(data), data, threat, out=tmp_path)
    assert run.certificate.status == "certified"
    monkeypatch.setattr(
        "holdfast.certificates.convergence.contradiction", lambda *_: "one bound contradicts another"
    )
    assert certify_run(tmp_path, tighten=1, progress=False).status == "void"
    again = hf.Run.load(tmp_path)
    assert again.certificate.status == again.summary["certificate_status"] == "void"
    assert "contradicts" in again.summary["certificate_reason"]


def test_a_fast_closing_evaluation_attacks_samples_and_says_what_all_would_cost(
    tmp_path, monkeypatch, data, threat
):
    monkeypatch.setattr("holdfast.jobs.conclude.FAST", 8)  # of 56 and 12
    run = train(two_layer(data), data, threat, closing="fast", out=tmp_path)
    whole = train(two_layer(data), data, threat, closing="standard")
    closing, full = run.summary["closing"], whole.summary["closing"]
    assert (closing["train"]["examples"], closing["train"]["population"]) == (8, len(data.train.y))
    assert (closing["test"]["examples"], closing["test"]["population"]) == (8, len(data.test.y))
    assert "population" not in full["test"]
    assert run.figures.accuracy_of == "8 of 12 test examples, drawn at random"
    assert whole.figures.accuracy_of == "the test part"
    assert "8 of 12 test examples, drawn at random" in repr(run._repr_html_())
    page = hf.write_report(tmp_path, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "on 8 of 12 test examples, drawn at random" in page
    assert full["test"]["examples"] == len(data.test.y)
    assert run.summary["train_fitted"] is None
    # each example at its worst known point: attacked further in the sample only
    assert (
        run.summary["training_attack_loss"]
        <= run.summary["robust_loss_attacked"]
        <= whole.summary["robust_loss_attacked"] + 1e-12
    )
    assert "all of them (closing standard) take" in (tmp_path / "log.txt").read_text()
    gallery = read_weights(tmp_path / "gallery.safetensors")
    assert all(any(torch.equal(shown, x) for x in data.test.x) for shown in gallery["x"])


def test_without_a_closing_evaluation_there_is_a_certificate_and_no_accuracy(tmp_path, data, threat):
    run = train(two_layer(data), data, threat, closing="none", out=tmp_path)
    assert run.certificate.status == "certified"
    assert run.summary["robust_accuracy"] is None
    assert run.summary["closing"] is None
    assert run.certificate == train(two_layer(data), data, threat).certificate
    hf.write_report([tmp_path], tmp_path / "report.html")
    assert hf.Run.load(tmp_path).summary["robust_loss_attacked"] is None


def test_where_nothing_is_said_as_many_are_attacked_as_a_third_of_training_allows(monkeypatch, data, threat):
    monkeypatch.setattr("holdfast.evaluation.closing.SMALL", 50)  # of 56 + 12
    monkeypatch.setattr("holdfast.evaluation.closing.FEWEST", 3)
    settings = {"attack": hf.PGD(steps=9), "final_attack": hf.PGD(steps=20), "closing": "auto"}
    runs = [train(two_layer(data), data, threat, epochs=epochs, **settings) for epochs in (1, 10, 40)]
    sizes = [run.summary["closing"]["train"]["examples"] for run in runs]
    # passes of an example on both parts; a third of 10 passes an epoch for 56 examples
    further = sum(attack.passes for attack in closing_attacks(threat))
    assert sizes[0] == 3
    assert sizes[1] == int(10 * 56 * 10 / 3 / (20 + 20 + further + further))
    assert sizes[2] == 12  # as many as there are test examples: all
    assert runs[2].summary["train_fitted"] is not None


@pytest.mark.parametrize("fits", [True, False])
def test_a_batch_that_memory_cannot_hold_is_refused_with_the_largest_that_fits(
    monkeypatch, data, threat, fits
):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(data.features, 100), torch.nn.ReLU(), torch.nn.Linear(100, data.classes)
    )
    each = 4 * (data.features + 100)  # the input and the units, each kept once
    monkeypatch.setattr("holdfast.jobs.checks.free_bytes", lambda device: 30 * each + (0 if fits else -1))
    options = {"batch_size": 30, "epochs": 1, "learning_rate": 0.01, "closing": "none", "trace_every": None}
    if fits:
        assert train(net, data, threat, **options).summary["batch_size"] == 30
        return
    before = [weight.clone() for weight in net.parameters()]
    with pytest.raises(InputError, match=r"holds 29 examples.*got 30; choose a batch_size of at most 14"):
        train(net, data, threat, **options)
    assert all(map(torch.equal, before, net.parameters()))


def test_small_data_are_attacked_whole_where_nothing_is_said(data, threat):
    closing = train(two_layer(data), data, threat, epochs=1, closing="auto").summary["closing"]
    assert closing["train"]["examples"] == closing["test"]["examples"] == 12
