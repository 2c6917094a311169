"""``holdfast evaluate`` from the command line: runs, models' files, what is written, what is refused."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from holdfast.cli.main import main
from holdfast.evaluation.store import load_attacked, recheck
from holdfast.record.reload import run_parts
from sealed_cases import sealed

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "small")


def evaluated(capsys, *argv):
    """Status 0, and what the terminal showed."""
    status = main(["evaluate", *map(str, argv), "--quiet"])
    seen = capsys.readouterr()
    assert status == 0, seen.err
    return seen.out


def refusal(capsys, *argv):
    assert main(["evaluate", *map(str, argv), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_a_run_is_evaluated_and_its_figures_are_kept(capsys, run):
    page = (run / "report.html").read_text()
    shown = evaluated(capsys, run, "--attacks", "fast", "--radii", "0.1,0.5", "--verify", "crown")
    for word in ("verified", "not broken", "crown", "apgd", "Radius", "trust", "evaluation.json"):
        assert word in shown
    record = json.loads((run / "evaluation" / "evaluation.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert summary["evaluation"] == record
    assert summary["robust_accuracy"] == record["robust_accuracy"]
    assert summary["robust_accuracy_verified"] == record["robust_accuracy_verified"]
    assert record["robust_accuracy_verified"] <= record["robust_accuracy"] <= record["clean_accuracy"]
    assert record["robust_loss"]["attacked"] <= record["robust_loss"]["verified"]
    assert [point["radius"] for point in record["curve"]] == [0.1, 0.3, 0.5]
    assert record["recheck"]["sound"]
    assert (run / "report.html").read_text() != page
    assert not (run / "evaluation" / "unfinished.safetensors").exists()

    model, threat, _, _ = run_parts(run)
    result, _ = load_attacked(run / "evaluation" / "attacked.safetensors")
    assert float(result.robust.double().mean()) == record["robust_accuracy"]
    with pytest.raises(AssertionError):  # other weights do not bear the figures out
        assert recheck(run / "evaluation" / "attacked.safetensors", model, threat).sound
    assert (run / "evaluation" / "examples.csv").read_text().count("\n") == record["examples"] + 1


def test_other_threats_and_samples_leave_the_run_s_own_figures(capsys, run):
    before = json.loads((run / "summary.json").read_text())
    shown = evaluated(
        capsys, run, "--attacks", "pgd", "--threat", "linf:0.02", "--examples", "20", "--verify", "none"
    )
    assert "95 % interval" in shown
    after = json.loads((run / "summary.json").read_text())
    assert after.pop("evaluation")["threat"] == "linf:0.02"
    assert after == before


NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    def forward(self, x):
        return self.body(x)
"""


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of weights beside the module it belongs to."""
    (tmp_path / "own_nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    save_file(
        {f"body.{name}": tensor for name, tensor in body.state_dict().items()}, tmp_path / "net.safetensors"
    )
    yield tmp_path / "net.safetensors"
    sys.modules.pop("own_nets", None)


def test_a_file_of_weights_is_evaluated(capsys, weights, tmp_path):
    shown = evaluated(
        capsys,
        weights,
        "--network",
        "own_nets:Net",
        "--data",
        "digits",
        "--classes",
        "3,8",
        "--threat",
        "linf:0.05",
        "--attacks",
        "fast",
        "--out",
        tmp_path / "out",
    )
    assert "void" in shown  # untrained: no better than guessing
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert record["threat"] == "linf:0.05"
    assert {sign["name"] for sign in record["verdict"]["warnings"]} == {"labels"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere"], "which does not exist"),
        (
            ["RUN", "--attacks", "standrad"],
            "attacks must be standard, fast, strong, pgd, clean, got 'standrad'; did you mean standard?",
        ),
        (["RUN", "--part", "tset"], "part must be test, validation, train, all, got 'tset'"),
        (["RUN", "--verify", "crwon"], "verify must be auto, ibp"),
        (["RUN", "--radii", "0.1,x"], "radii must be a list of numbers such as [0.1,0.2], got 'x'"),
        (["RUN", "--data", "digits"], "--data must go with a file of weights"),
        (["RUN", "--examples", "0"], "examples must be >= 1, got 0"),
        (["RUN", "--threat", "l3:1"], "did you mean"),
        (["RUN", "--atacks", "fast"], "did you mean --attacks"),
        (["RUN", "--accelerator", "warp"], "accelerator must be a device of this machine"),
        (["WEIGHTS", "--data", "digits"], "needs --threat"),
        (["WEIGHTS", "--threat", "l2:1"], "needs --data"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(capsys, run, weights, argv, words):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    given = [{"RUN": run, "WEIGHTS": weights}.get(word, word) for word in argv]
    assert words in refusal(capsys, *given)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_a_run_started_from_python_names_the_remedy(capsys, run):
    (run / "config.yaml").write_text("started_from: python\n")
    sealed(run)
    assert "no file says which data it had" in refusal(capsys, run)
