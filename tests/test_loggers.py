"""What goes to the loggers of a run: the lines of ``metrics.jsonl``, once each, whatever happens in between."""

import csv
import json
import os
import signal
import sys
from types import ModuleType

import pytest
import torch

import holdfast as hf
from holdfast.cli.main import main
from holdfast.errors import InputError
from holdfast.jobs.loggers import figures
from holdfast.record.schema import EpochFigures


def trained(out=None, *, epochs=2, loggers=(), radius=5.0, data=None, **settings):
    torch.manual_seed(0)
    data = data or hf.data.spheres(24, dimension=3, clusters=2)
    net = hf.networks.TwoLayer(3, 2, width=8)
    return hf.train(
        net,
        data,
        "l2:0.1",
        attack="fgsm",
        final_attack="fgsm",
        closing="none",
        epochs=epochs,
        parameter_radius=radius,
        out=out,
        loggers=loggers,
        progress=False,
        **settings,
    )


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def table(folder):
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scalars(folder, name):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


class Kept:
    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step):
        self.rows.append((step, metrics))


class Stops(Kept):
    """Sends this process a signal when an epoch is over."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def log_metrics(self, metrics, step):
        super().log_metrics(metrics, step)
        if step == self.epoch:
            os.kill(os.getpid(), signal.SIGINT)


def test_every_line_goes_to_every_logger_and_changes_nothing(tmp_path):
    kept = Kept()
    run = trained(tmp_path / "run", loggers=(kept, "csv", "tensorboard"))
    alone = trained()
    assert all(torch.equal(run.weights()[name], tensor) for name, tensor in alone.weights().items())
    wanted = {row["epoch"]: row["online_loss"] for row in lines(run.folder)}
    assert wanted.keys() == {1, 2}
    assert {step: row["online_loss"] for step, row in kept.rows} == wanted
    assert {int(row["step"]): float(row["online_loss"]) for row in table(run.folder)} == pytest.approx(wanted)
    assert scalars(run.folder, "online_loss") == pytest.approx(wanted)
    first = kept.rows[0][1]
    assert first["robust_accuracy"] == lines(run.folder)[0]["robust_accuracy"]
    assert first["drift/weight"] == lines(run.folder)[0]["drift"]["weight"]
    assert hf.Run.load(run.folder).metrics == lines(run.folder)


def test_what_loggers_write_has_the_mode_of_any_file_and_no_digest(tmp_path):
    run = trained(tmp_path / "run", epochs=1, loggers=("csv", "tensorboard"))
    names = json.loads((run.folder / "digests.json").read_text())["files"]
    assert not any(name.startswith(("csv", "tensorboard")) for name in names)
    usual = (run.folder / "summary.json").stat().st_mode
    written = [*run.folder.glob("csv/*"), *run.folder.glob("tensorboard/*")]
    assert len(written) == 2
    assert all(path.stat().st_mode == usual for path in written)
    (run.folder / "csv" / "metrics.csv").write_text("edited")  # nobody's figures hang on it
    assert hf.Run.load(run.folder).epochs


def test_a_resumed_run_goes_on_in_the_same_logs_with_each_epoch_once(tmp_path):
    from lightning_fabric.loggers import TensorBoardLogger

    out, names, early, late = tmp_path / "run", ("csv", "tensorboard"), Stops(2), Kept()
    with pytest.raises(KeyboardInterrupt):
        trained(out, epochs=6, loggers=(*names, early))
    reached = [step for step, _ in early.rows][-1]
    assert 2 <= reached < 6
    # of a run that was killed the log holds epochs after its checkpoint, which come again
    killed = TensorBoardLogger(out, name="tensorboard", version="")
    killed.log_metrics({"online_loss": 99.0}, reached + 1)
    killed.finalize("failed")
    with (out / "csv" / "metrics.csv").open("a") as file:
        file.write(f"99,99,99,{reached + 1}\n")
    run = trained(out, epochs=6, loggers=(*names, late), resume=True)
    assert [step for step, _ in early.rows + late.rows] == [1, 2, 3, 4, 5, 6]
    wanted = {row["epoch"]: row["online_loss"] for row in lines(run.folder)}
    assert [int(row["step"]) for row in table(out)] == [1, 2, 3, 4, 5, 6]
    assert {int(row["step"]): float(row["online_loss"]) for row in table(out)} == pytest.approx(wanted)
    assert scalars(out, "online_loss") == pytest.approx(wanted)


def test_a_new_run_in_the_folder_takes_the_logs_of_the_old_one_away(tmp_path):
    out = tmp_path / "run"
    trained(out, epochs=3, loggers=("csv", "tensorboard"))
    run = trained(out, epochs=1, loggers=("csv",), overwrite=True)
    assert run.folder == out
    assert [int(row["step"]) for row in table(out)] == [1]
    assert not (out / "tensorboard").exists()
    assert not (out / "replacement").exists()
    trained(out, epochs=1, overwrite=True)
    assert not (out / "csv").exists()


def test_a_folder_beside_the_logs_is_left_alone(tmp_path):
    out = tmp_path / "run"
    trained(out, epochs=1, loggers=("csv",))
    (out / "csv" / "mine.csv").write_text("a,b")
    trained(out, epochs=1, overwrite=True)
    assert [path.name for path in (out / "csv").iterdir()] == ["mine.csv"]


def test_a_bound_that_is_known_only_at_the_end_is_left_out():
    row = EpochFigures(epoch=3, rounds=3, lower_bound=0.25, void="", drift={"inner": 0.5, "outer": None})
    assert figures(row, radius=1.0) == {"rounds": 3, "lower_bound": 0.25, "drift/inner": 0.5}
    assert figures(row, radius=None) == {"rounds": 3, "drift/inner": 0.5}


def test_a_run_is_the_same_one_at_weights_and_biases_when_it_goes_on(tmp_path, monkeypatch):
    made = []

    class WandbLogger(Kept):
        def __init__(self, **settings):
            super().__init__()
            made.append((settings, self))

    package, inner = ModuleType("wandb"), ModuleType("wandb.integration.lightning.fabric")
    package.__spec__ = sys.__spec__
    inner.WandbLogger = WandbLogger
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setitem(sys.modules, "wandb.integration.lightning.fabric", inner)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        trained(out, epochs=6, loggers=("wandb", Stops(2)))
    trained(out, epochs=6, loggers=("wandb",), resume=True)
    (first, early), (second, late) = made
    assert first == second
    assert first["project"] == "holdfast"
    assert first["name"] == "run"
    assert [step for step, _ in early.rows + late.rows] == [1, 2, 3, 4, 5, 6]
    trained(out, epochs=1, loggers=("wandb",), overwrite=True)
    assert made[2][0]["id"] != first["id"]


def test_the_first_process_alone_speaks(tmp_path, monkeypatch):
    from holdfast.training.devices import OneProcess

    monkeypatch.setattr(OneProcess, "is_global_zero", False)
    kept = Kept()
    trained(epochs=1, loggers=(kept,))
    assert kept.rows == []


@pytest.mark.parametrize(
    ("loggers", "said"),
    [
        (("tensorbord",), "csv, tensorboard, wandb, or objects with log_metrics"),
        ("tensorbord", "did you mean 'tensorboard'"),
        ((object(),), "log_metrics"),
        (3, "log_metrics"),
        ("csv", "pass out="),
        (["tensorboard"], "pass out="),
    ],
)
def test_what_is_no_logger_is_refused_before_anything_is_spent(loggers, said):
    with pytest.raises(InputError, match="loggers") as error:
        trained(loggers=loggers)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(InputError, match="pip install .*" + name):
        trained(tmp_path / "run", loggers=(name,))
    assert not (tmp_path / "run").exists()


def test_the_command_line_and_its_file_name_loggers(tmp_path, capsys):
    out = tmp_path / "run"
    words = [
        "--data",
        "spheres",
        "--data.init-args",
        "{examples: 24, dimension: 3, clusters: 2}",
        "--threat",
        "l2:0.1",
    ]
    words += ["--width", "8", "--epochs", "1", "--training.closing", "none", "--quiet", "--out", str(out)]
    assert main(["train", *words, "--loggers", "csv,tensorboard"]) == 0
    assert len(table(out)) == 1
    assert len(scalars(out, "online_loss")) == 1
    assert main(["train", str(out / "config.yaml"), "--quiet", "--out", str(tmp_path / "again")]) == 0
    assert table(tmp_path / "again")[0]["online_loss"] == table(out)[0]["online_loss"]
    assert main(["train", *words, "--loggers", "csw", "--overwrite"]) == 2
    assert "did you mean csv?" in capsys.readouterr().err
