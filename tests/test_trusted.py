"""Opening what somebody else wrote executes nothing, unless the user trusts it."""

import copy
import json
import os
import pickle
import shutil
import sys

import pytest
import yaml

from holdfast import _imports
from holdfast._imports import Trusted
from holdfast.cli.main import main
from holdfast.config.reading import read_config
from holdfast.errors import InputError, RunFolderError
from holdfast.trace import load_trace
from sealed_cases import sealed

TRAP = "raise SystemExit('executed')\n"
PLACES = {
    "data": "name",
    "network": "name",
    "threat": "spec",
    "attack": "name",
    "evaluation": "name",
    "final": "name",
    "training": "optimizer",
}


@pytest.fixture
def trap(monkeypatch, tmp_path):
    """The working directory holds a module that must not run."""
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    assert "trap" not in sys.modules
    assert sys.path == before


def refused(capsys, *argv):
    assert main([str(argument) for argument in argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("section", PLACES)
def test_a_configuration_of_somebody_else_runs_nothing(capsys, trap, section):
    (trap / "theirs.yaml").write_text(yaml.safe_dump({section: {PLACES[section]: "trap:Thing"}}))
    commands = [["train", "theirs.yaml", "--quiet"], ["sweep", "theirs.yaml", "--seeds", "2"]]
    if section == "data":
        commands.append(["doctor", "theirs.yaml"])
    for command in commands:
        assert "trap:Thing is named by a file" in refused(capsys, *command, "--data.examples=20")


@pytest.mark.parametrize("section", ["data", "network", "threat"])
def test_a_run_of_somebody_else_runs_nothing(capsys, trap, trained, section):
    run = shutil.copytree(trained[0], trap / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    if section == "network":  # whose other entries belong to the network that it named
        config[section] = {}
    config[section][PLACES[section]] = "trap:Thing"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    setting = json.loads((run / "trace" / "setting.json").read_text())
    if section in setting:
        setting[section] = None
        (run / "trace" / "setting.json").write_text(json.dumps(setting))
    sealed(run)
    commands = [["evaluate", run], ["train", run / "config.yaml", "--resume"], ["train", run / "config.yaml"]]
    if section != "data":
        commands.append(["certify", run])
    for command in commands:
        assert "trap:Thing is named by a file" in refused(capsys, *command, "--quiet")


def test_what_the_user_wrote_or_stands_for_runs(monkeypatch, tmp_path):
    (tmp_path / "fine.py").write_text("class Thing:\n    pass\n")
    (tmp_path / "mine.yaml").write_text("network: {name: fine.Thing}\nattack: fine:Attack\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])
    written, _ = read_config(["mine.yaml", "--network", "fine:Thing"])
    assert _imports.find(written.network.name).__name__ == "Thing"
    assert (
        sys.path.index(str(tmp_path)) == len(sys.path) - 1
    )  # nothing there stands in for an installed package
    with pytest.raises(InputError, match="is named by a file"):
        _imports.find(written.attack.name)
    stood_for, _ = read_config(["mine.yaml"], trusted=True)
    assert isinstance(stood_for.attack.name, Trusted)
    assert _imports.find(stood_for.network.name).__name__ == "Thing"
    sys.modules.pop("fine")


def test_trust_goes_with_copies_and_to_other_processes():
    path = Trusted("a.b:Net")
    assert isinstance(pickle.loads(pickle.dumps(path)), Trusted)
    assert isinstance(copy.deepcopy({"name": path})["name"], Trusted)
    assert not isinstance(json.loads(json.dumps(path)), Trusted)  # what a file says is text


def test_optimisers_of_torch_need_no_trust():
    assert _imports.find("torch.optim.RMSprop").__name__ == "RMSprop"
    for path in ("torch.optim.lr_scheduler:sys", "torch.os:system", "os:system", "torch.optim:sys"):
        with pytest.raises(InputError, match="is named by a file"):
            _imports.find(path)


@pytest.mark.parametrize(
    "name", ["../window-00000001-00000000.safetensors", "/etc/passwd", "link", "initial.safetensors"]
)
def test_a_trace_leads_nowhere_else(trained, tmp_path, name):
    run = shutil.copytree(trained[0], tmp_path / "run")
    record = json.loads((run / "trace" / "trace.json").read_text())
    if name == "link":
        name = "window-00000001-00000000.safetensors"
        shutil.copy(run / "last.safetensors", tmp_path / name)
        (run / "trace" / name).symlink_to(tmp_path / name)
    record["windows"].append({"file": name})
    (run / "trace" / "trace.json").write_text(json.dumps(record))
    sealed(run)
    with pytest.raises(RunFolderError, match="which leads elsewhere"):
        load_trace(run / "trace")
