"""The settings of all commands: one declaration for options, help and refusals, and the same sections in each of them."""

import importlib
import json
import shutil
import sys
from typing import get_args

import pytest

from holdfast.cli.main import main
from holdfast.config.commands import BOUNDS, COMMANDS, PARTS, SUITES, EvaluateCommand, PlanCommand
from holdfast.config.options import options_of
from holdfast.config.reading import read
from holdfast.config.schema import DataConfig, NetworkConfig, ThreatConfig
from holdfast.data import Dataset
from holdfast.errors import InputError
from holdfast.evaluation import suites
from holdfast.verification.methods import Method

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def test_the_names_written_out_are_those_there_are():
    assert set(SUITES) == set(suites.SUITES)
    assert set(BOUNDS) == set(get_args(Method))
    assert all(hasattr(Dataset, part) for part in PARTS if part != "all")
    assert all(hasattr(importlib.import_module(f"holdfast.cli.{name}"), "run") for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text_and_no_two_share_a_name(command):
    options = options_of(COMMANDS[command])
    shown = options.page().replace(",", " ").split()
    assert not set(options.short) & set(options.long)
    assert set(options.short.values()) <= set(options.long)
    assert {name for name in options.short if name not in shown} == set()
    assert all(entry.metadata["help"] for entry, _ in options.leaves.values())
    assert all(entry.metadata["place"] in shown for entry in options.places)


def test_sections_are_read_as_those_of_a_run():
    words = [
        "--data=digits",
        "--classes",
        "3,8",
        "--data.flatten",
        "--data.features=sphere",
        "--threat",
        "l2:0.3",
    ]
    words += [
        "--threat.fixed",
        "0,5",
        "--network=my.Net",
        "--network.init-args.hidden_size",
        "5",
        "--radii",
        "1,2.5",
    ]
    plan, given = read(PlanCommand, words)
    assert plan.data == DataConfig(classes=(3, 8), flatten=True, features="sphere")
    assert plan.threat == ThreatConfig(fixed=(0, 5))
    assert plan.network == NetworkConfig.section("my.Net", init_args={"hidden_size": 5})
    assert plan.radii == (1.0, 2.5)
    assert given["threat"] == {"spec": "l2:0.3", "fixed": (0, 5)}


def test_an_option_of_the_command_itself_comes_before_the_short_name_of_a_section(tmp_path):
    words = [str(tmp_path), "--examples", "20"]
    evaluation, given = read(EvaluateCommand, words)
    assert (evaluation.examples, evaluation.data, evaluation.network) == (20, None, None)
    assert "data" not in given
    plan, _ = read(
        PlanCommand, ["--data", "digits", "--threat", "l2:1", "--examples=20", "--data.examples=99"]
    )
    assert (plan.examples, plan.data.examples) == (20, 99)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["plan", "--threat", "l2:1"], "--data is needed, got none; see `holdfast plan --help`"),
        (["plan", "--classes", "3,8", "--threat", "l2:1"], "--data is needed"),
        (["verify", "--model", "net.onnx"], "PROPERTY is needed"),
        (["verify", "prop.vnnlib"], "--model is needed"),
        (["certify", "one", "two"], "at most one RUN is allowed beside the options, got also 'two'"),
        (["plan", "one"], "no word is allowed beside the options"),
        (["reproduce", "--seeds", "two"], "seeds must be a whole number or null, got 'two'"),
        (["certify", "run", "--quiet=perhaps"], "quiet must be true or false, got 'perhaps'"),
        (["certify", "run", "--radius"], "--radius needs a value, got none"),
        (["plan", "--epochs", "3"], "option --epochs is one of `holdfast train`"),
        (["plan", "--network.widht", "3"], "did you mean --network.width?"),
    ],
)
def test_what_is_wrong_is_one_sentence(argv, said):
    with pytest.raises(InputError) as refused:
        read(COMMANDS[argv[0]], argv[1:])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_options_of_the_threat_go_over_that_of_the_run(trained, tmp_path, capsys):
    run = shutil.copytree(trained[0], tmp_path / "run")
    quick = ["evaluate", str(run), "--attacks", "pgd", "--verify", "none", "--examples", "10", "--quiet"]
    assert main([*quick, "--threat.fixed", "0,5", "--threat.box", "false"]) == 0
    record = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert record["threat"] == "l2:0.3"
    assert main([*quick, "--threat.fixed", "99"]) == 2
    assert "threat.fixed must hold feature numbers from 0 to 63" in capsys.readouterr().err


def test_a_file_of_weights_may_belong_to_one_of_the_library_s_networks(trained, tmp_path, capsys):
    words = [
        "evaluate",
        str(trained[0] / "last.safetensors"),
        "--data",
        "digits",
        "--classes",
        "3,8",
        "--quiet",
    ]
    words += ["--threat", "l2:0.3", "--attacks", "clean", "--verify", "none", "--network", "two-layer"]
    assert main([*words, "--width", "40", "--out", str(tmp_path / "out")]) == 0
    evaluated = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert evaluated["clean_accuracy"] > 0.6
    assert main([*words, "--width", "20", "--out", str(tmp_path / "other")]) == 2
    assert "last.safetensors" in capsys.readouterr().err


def test_a_counterexample_replaces_no_file_unless_asked_to(tmp_path, capsys):
    for name in ("prop.vnnlib", "net.onnx"):
        (tmp_path / name).write_text("")
    found = tmp_path / "thesis.txt"
    found.write_text("years of work")
    words = ["verify", str(tmp_path / "prop.vnnlib"), "--model", str(tmp_path / "net.onnx")]
    assert main([*words, "--counterexample", str(found)]) == 2
    assert "add --overwrite to replace it" in capsys.readouterr().err
    assert (
        main([*words, "--counterexample", str(found), "--overwrite"]) == 2
    )  # for the network, which is none
    assert "exists" not in capsys.readouterr().err
    assert found.read_text() == "years of work"


@pytest.mark.parametrize(
    ("command", "threat"),
    [
        ("train", "l3:0.1"),
        ("train", "linf:0.6"),
        ("train", "not_there:Threat"),
        ("sweep", "l3:0.1"),
        ("sweep", "not_there:Threat"),
    ],
)
def test_nothing_is_announced_that_is_refused(command, threat, tmp_path, capsys):
    assert main([command, "--data", "digits", "--threat", threat, "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr()
    assert "into" not in shown.out + shown.err
    assert not (tmp_path / "run").exists()


def test_reading_a_command_imports_no_torch():
    import subprocess

    check = (
        "import sys; from holdfast.config.commands import PlanCommand; from holdfast.config.reading import read;"
        "read(PlanCommand, ['--data', 'digits', '--threat', 'l2:1']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
