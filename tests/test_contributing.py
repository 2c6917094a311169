"""What CONTRIBUTING.md says of adding an attack, a loss, an objective, a network, a data source, an operator and a figure is enough, and all there is to do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.report import figures
from holdfast.report.html import write_report
from holdfast.verification.scalar_operations import NONLINEAR
from report_folders import digits_run

ROOT = Path(__file__).parents[1]
SECTIONS = dict(
    re.findall(
        r"^### An? ([\w ]+)\n(.*?)(?=^##)", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE
    )
)


def code(section):
    """The one block of code of a section."""
    [found] = re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)
    return found


def line(section):
    """The registry a section names, and the line for it."""
    [found] = re.findall(r"a line of\s+`(\w+)` in\s+`_registry.py`: `([^`]+)`", SECTIONS[section])
    return found


USE = """
import holdfast as hf
from holdfast.cli.main import main
from holdfast.losses import as_loss, broken_claim

words = ["--data", "moons", "--threat", "l2:0.2", "--attack", "corners", "--attack.tries", "3", "--loss", "smooth-hinge"]
words += ["--objective", "worse"]
assert main(["train", *words, "--epochs", "2", "--network", "bumps", "--network.units", "4", "--out", "run", "--quiet"]) == 0
assert hf.Run.load("run").weights("last")["centers"].shape == (4, 2)
assert main(["train", "--attack", "corners", "--help"]) == 0
assert main(["train", "--attack", "corners", "--attack.tries", "0"]) == 2
data = hf.data.load("moons", examples=60)
model, threat = hf.networks.TwoLayer(2, 2, 32, paired=False, seed=0), hf.LpBall("2", 0.3)
few, many, none = (
    hf.attacks.as_attack(attack).run(model, data.x, data.y, threat, seed=0).loss.mean()
    for attack in ("corners", hf.attacks.by_name.ATTACKS["corners"](tries=64), "clean")
)
assert none < few <= many
assert broken_claim(as_loss("smooth-hinge"), 1) == ""
"""


def test_an_attack_a_loss_an_objective_a_network_and_a_data_source_are_one_definition_and_one_line(tmp_path):
    """In a copy of the package with the definitions and the lines, all commands and functions know them."""
    package = tmp_path / "holdfast"
    shutil.copytree(Path(hf.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    registry = (package / "_registry.py").read_text()
    for section in ("attack", "loss", "objective of training", "network", "data source"):
        name, entry = line(section)
        assert f"{name} = Registry(\n" in registry
        registry = registry.replace(f"{name} = Registry(\n", f"{name} = Registry(\n    {entry},\n")
        module = re.search(r'="([\w.]+):', entry).group(1)
        with (package / f"{module.replace('.', '/')}.py").open("a") as file:
            file.write(code(section))
    (package / "_registry.py").write_text(registry)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "steps tried per example (4)" in " ".join(done.stdout.split())
    assert "attack.tries must be a whole number >= 1, got 0" in done.stderr
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "name: corners" in config
    assert "tries: 3" in config


class Angles(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(torch.atan(2 * self.first(x)))


def test_an_operator_of_the_verifier_is_one_entry():
    """What is proved with it holds where it is tried, and is no empty statement."""
    model = Angles().double()
    x = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, ball = model(x).argmax(1), hf.LpBall("inf", 0.05)
    with pytest.raises(hf.InputError, match="atan"):
        hf.verify(model, x, y, ball)
    try:
        exec(code("operator of the verifier"), {})
        found = hf.verify(model, x, y, ball)
    finally:
        NONLINEAR.pop("atan", None)
    broken = hf.PGD(steps=50, restarts=4).run(model, x, y, ball).success
    assert bool(found.verified.any())
    assert not bool((found.verified & broken).any())


def test_a_figure_of_the_page_is_one_function_and_its_name(tmp_path, monkeypatch):
    scope = {}
    exec(code("figure of the page"), scope)
    monkeypatch.setattr("holdfast.report.html.FIGURES", (*figures.FIGURES, scope["rate_figure"]))
    page = write_report([digits_run(tmp_path / "run")], tmp_path / "page.html").read_text()
    assert "Learning rate over epochs" in page
    assert "The learning rate ends at" in page
