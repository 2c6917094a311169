"""The command line: quick answers, one sentence and status 2 for what is wrong, and the whole way from train to report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

import holdfast
from holdfast._record import belongings
from holdfast.cli.main import main
from holdfast.cli.train import _interrupted
from holdfast.config.commands import COMMANDS
from holdfast.config.schema import NetworkConfig, RunConfig, to_dict
from holdfast.record.folder import output_folder

# torch's own forward-mode derivatives still script a function when first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

QUICK = ["--classes", "3,8", "--width", "40", "--epochs", "2", "--final.restarts", "1", "--final.steps", "5"]
QUICK += ["--certificate.tighten", "2", "--quiet", "--parameter-radius", "60"]


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that run, to be harmed."""
    return shutil.copytree(trained[0], tmp_path / "small")


@pytest.fixture
def never_trains(monkeypatch):
    """Fails where training begins."""
    import holdfast.jobs.train

    def refuse(*args, **settings):
        raise AssertionError("training began")

    monkeypatch.setattr(holdfast.jobs.train, "train", refuse)


def refusal(capsys, *argv):
    """The sentence a command refuses with."""
    assert main([str(argument) for argument in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("holdfast: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    "argv", [[], ["--help"], ["-h"], *([command, "--help"] for command in COMMANDS), ["--version"]]
)
def test_help_comes_without_heavy_packages(argv):
    check = (
        "import sys; from holdfast.cli.main import main\n"
        f"try: status = main({argv!r})\n"
        "except SystemExit as stop: status = stop.code\n"
        "heavy = {'torch', 'jsonargparse', 'numpy', 'scipy', 'rich', 'yaml'} & set(sys.modules)\n"
        "print('status', status, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "status 0 []", done.stderr
    if argv[0:] and argv[0] in COMMANDS:
        assert f"holdfast {argv[0]} " in done.stdout
        assert "examples:" in done.stdout


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["trian"], "did you mean train?"),
        (["raport", "x"], "did you mean report?"),
        (["train", "--epocs", "3"], "did you mean --epochs?"),
        (["certify", "--radios", "3"], "did you mean --radius?"),
        (["report", "--ot", "x"], "did you mean --out?"),
        (["doctor", "--thread", "l2:1"], "did you mean --threat?"),
    ],
)
def test_mistyped_words_find_their_likeness_without_heavy_packages(argv, meant):
    check = (
        "import sys; from holdfast.cli.main import main\n"
        f"print('status', main({argv!r}), sorted({{'torch', 'jsonargparse', 'numpy'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "status 2 []"
    assert meant in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_command_names_all_there_are(capsys):
    assert f"must be one of {', '.join(COMMANDS)}, got 'quantise'" in refusal(capsys, "quantise")


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--data", "digit"], "did you mean 'digits'?"),
        (["--threat", "l3:0.1"], "did you mean l2:0.1?"),
        (["--threat", "linf:-1"], "radius"),
        (["--threat.fixed", "99"], "threat.fixed"),
        (["--network", "two_layer"], "did you mean two-layer?"),
        (["--network", "not_there.module:Net"], "not_there.module"),
        (["--network", "holdfast.errors:Net"], "has no Net"),
        (["--network", "builtins:dict"], "torch.nn"),
        (["--activation", "relo"], "did you mean 'relu'?"),
        (["--attack", "pdg"], "did you mean pgd?"),
        (["--loss", "hing"], "loss must be cross-entropy, logistic"),
        (["--epochs", "0"], "epochs must be >= 1, got 0"),
        (["--classes", "3"], "classes"),
        (["--examples", "100000"], "at most 1797"),
        (["missing.yaml"], "missing.yaml"),
        (["--out", "/proc/run"], "cannot be written"),
        (["--out", "run", "--resume"], "holds none"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    capsys, monkeypatch, tmp_path, never_trains, argv, what
):
    monkeypatch.chdir(tmp_path)
    assert what in refusal(capsys, "train", *argv)
    assert list(tmp_path.iterdir()) == []


def test_meeting_threat_sets_are_refused_before_anything_is_written(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", "digits", "--threat", "linf:0.6", "--quiet"]) == 2
    assert "use a radius below 0.2188" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_found_before_training(capsys, tmp_path, never_trains):
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refusal(capsys, "train", "--out", tmp_path / "file" / "run")


def test_a_traceback_comes_when_asked_for(monkeypatch):
    monkeypatch.setenv("HOLDFAST_DEBUG", "1")
    with pytest.raises(holdfast.InputError):
        main(["train", "--epocs", "3"])


@pytest.mark.parametrize(
    ("problem", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143), (SystemExit(129), 129)]
)
def test_an_interrupt_ends_with_its_status_and_a_sentence(capsys, monkeypatch, tmp_path, problem, status):
    import holdfast.jobs.train

    def interrupted(*args, **settings):
        raise problem

    monkeypatch.setattr(holdfast.jobs.train, "train", interrupted)
    assert main(["train", "--out", str(tmp_path / "run"), "--quiet"]) == status
    error = capsys.readouterr().err
    assert error.startswith("holdfast: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("network", "end"), [("two-layer", "--resume`."), ("my_package.module:Net", "--resume --trusted`.")]
)
def test_the_command_that_goes_on_is_one_that_works(tmp_path, network, end):
    """A file's import paths run only where it is trusted, so the command says so."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    config = RunConfig(network=NetworkConfig.section(network))
    assert _interrupted(tmp_path, config, overwrite=False).endswith(
        f"`holdfast train {tmp_path / 'config.yaml'} {end}"
    )


def test_of_a_run_that_was_to_replace_another_and_reached_nothing_the_old_one_is_not_resumed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    assert _interrupted(tmp_path, RunConfig(), overwrite=True).endswith("start the command again.")


def test_print_config_shows_the_whole_configuration_and_stops(capsys, never_trains):
    assert main(["train", "--seed", "3", "--print-config"]) == 0
    expected = to_dict(RunConfig(seed=3))
    assert yaml.safe_load(capsys.readouterr().out) == expected


# The whole way.


def test_train_ends_with_the_bracket_and_the_path_of_the_page(trained):
    folder, shown = trained
    summary = json.loads((folder / "summary.json").read_text())
    assert shown.splitlines()[-1] == str(folder / "report.html")
    for word in (
        "lower bound",
        "surrogate",
        "strongest attack",
        "optimisation",
        "attack",
        "capacity",
        "robust",
    ):
        assert word in shown
    assert summary["certificate_status"] == "certified"
    assert "proved" in shown
    assert f"{summary['surrogate_loss']:.4g}" in shown
    assert f"{100 * summary['robust_accuracy']:.4g}" in shown
    assert (folder / "report.html").stat().st_size > 1000


def test_the_written_configuration_trains_the_same_run_again_beside_it(capsys, trained, run):
    before = json.loads((trained[0] / "summary.json").read_text())
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["out"] = str(run)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", str(run / "config.yaml"), "--quiet"]) == 0
    again = run.with_name("small-2")
    after = json.loads((again / "summary.json").read_text())
    for figure in ("surrogate_loss", "robust_loss_lower_bound", "gap", "clean_accuracy", "robust_accuracy"):
        assert after[figure] == before[figure]
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    written = yaml.safe_load((again / "config.yaml").read_text())
    assert written == {**config, "out": str(again)}


def test_an_occupied_folder_is_refused_and_a_run_in_it_replaced_only_when_asked(capsys, run, never_trains):
    assert "--overwrite" in refusal(capsys, "train", "--out", run)
    other = run.with_name("other")
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    assert "holds something else" in refusal(capsys, "train", "--out", other, "--overwrite")
    assert (other / "thesis.tex").exists()
    assert "exclude each other" in refusal(capsys, "train", "--out", run, "--overwrite", "--resume")


def test_overwriting_keeps_the_old_run_until_the_new_one_has_begun(capsys, run):
    files = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["train", "--out", str(run), "--overwrite", "--threat", "linf:0.6", "--quiet"]) == 2
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == files
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    (run / "notes.txt").write_text("mine")
    assert main(["train", "--data", "digits", *QUICK, "--seed", "5", "--out", str(run), "--overwrite"]) == 0
    assert json.loads((run / "summary.json").read_text())["seed"] == 5
    assert (run / "notes.txt").read_text() == "mine"
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_a_run_writes_nothing_that_overwriting_does_not_know(trained):
    every = {str(path.relative_to(trained[0])) for path in trained[0].rglob("*") if path.is_file()}
    assert every == {*belongings(trained[0]), "digests.json", "log.txt"}


def test_own_classes_are_trained_by_import_path(capsys, monkeypatch, tmp_path):
    (tmp_path / "my_own_nets.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, features, classes, hidden):\n"
        "        super().__init__()\n"
        "        self.body = torch.nn.Sequential(torch.nn.Linear(features, hidden), torch.nn.Tanh(),"
        " torch.nn.Linear(hidden, classes))\n"
        "    def forward(self, x):\n"
        "        return self.body(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("network: {class_path: my_own_nets.Net, init_args: {hidden: 8}}\n")
    quick = [word for word in QUICK if word not in ("--width", "40")]
    assert "add --trusted" in refusal(capsys, "train", "run.yaml", *quick, "--out", "own")
    assert "my_own_nets" not in sys.modules
    argv = [
        "train",
        "run.yaml",
        "--trusted",
        *quick,
        "--optimizer",
        "torch.optim.RMSprop",
        "--learning-rate",
        "0.01",
        "--out",
        "own",
    ]
    assert main(argv) == 0
    summary = json.loads((tmp_path / "own" / "summary.json").read_text())
    assert summary["certificate_status"] == "estimate"
    assert "is an estimate, nothing is proved" in " ".join(capsys.readouterr().out.split())
    sys.modules.pop("my_own_nets")


def test_certify_computes_the_certificate_at_another_radius(capsys, run):
    summary = (run / "summary.json").read_bytes()
    assert main(["certify", str(run), "--radius", "5", "--tighten", "2", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "proved" in shown
    assert shown.splitlines()[-1] == str(run / "certificate.json")
    assert json.loads((run / "certificate.json").read_text())["radius"] == 5
    assert (run / "summary.json").read_bytes() == summary


def test_report_puts_runs_side_by_side(capsys, monkeypatch, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    page = tmp_path / "both.html"
    assert main(["report", str(run), str(other), "--out", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert "small" in page.read_text()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").exists()


def test_doctor_examines_a_run_the_machine_and_the_data(capsys, run):
    assert main(["doctor", str(run)]) in (0, 1)
    assert "certificate" in capsys.readouterr().out
    assert main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out
    assert main(["doctor", "--data", "digits", "--threat", "linf:0.6"]) == 1
    assert "choose a radius below 0.2188" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["certify", "report", "doctor"])
def test_what_is_no_run_or_is_cut_short_is_refused(capsys, tmp_path, run, command):
    assert "check the path" in refusal(capsys, command, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    refusal(capsys, command, tmp_path / "empty")
    whole = (run / "summary.json").read_text()
    (run / "summary.json").write_text(whole[: len(whole) // 2])
    if command != "certify":
        refusal(capsys, command, run)


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["certify"], "RUN"),
        (["certify", "run", "--radius", "-1"], "radius must be > 0 and <= 1e+15, got -1"),
        (["certify", "run", "--radius", "wide"], "radius"),
        (["certify", "run", "--tighten", "-1"], "tighten must be >= 0, got -1"),
        (["report"], "RUN"),
        (["doctor", "run", "--seed", "1"], "leave that out"),
    ],
)
def test_wrong_arguments_of_the_small_commands_are_refused(capsys, argv, what):
    assert what in refusal(capsys, *argv)


def test_the_page_must_be_writable_before_it_is_made(capsys, run):
    assert "is a folder" in refusal(capsys, "report", run, "--out", run)


# Where a run goes.


def test_an_unasked_folder_is_the_next_free_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = RunConfig()
    first = output_folder(config, asked=None)
    assert str(first) == "runs/digits-l2-0.3"
    first.mkdir(parents=True)
    assert output_folder(config, asked=None) == first  # empty is free
    (first / "x").write_text("")
    second = output_folder(config, asked=None)
    assert str(second) == "runs/digits-l2-0.3-2"
    assert output_folder(config, asked=None, check=False) == first
    assert not second.exists()


# The package itself.


def test_every_public_name_can_be_had_and_is_documented():
    for name in holdfast.__all__:
        value = getattr(holdfast, name)
        assert name.startswith("__") or value.__doc__, name
    assert set(holdfast.__all__) == set(dir(holdfast))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = holdfast.nothing


def test_the_version_is_that_of_the_package():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert holdfast.__version__ == project["version"]
    citation = (Path(__file__).parents[1] / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation


def documents():
    """The README, CONTRIBUTING and every handwritten page of the site, by name."""
    from pathlib import Path

    root = Path(__file__).parents[1]
    paths = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    return root, {str(path.relative_to(root)): path.read_text() for path in paths}


def test_the_documents_name_files_that_exist_and_options_that_are_understood(monkeypatch, tmp_path):
    import re
    import shlex

    from holdfast.config.reading import read_config

    root, texts = documents()
    files = re.findall(r"^\d\. `(src/holdfast/[\w/]+\.py)`:", texts["CONTRIBUTING.md"], flags=re.MULTILINE)
    assert len(files) == 3
    for text in texts.values():
        assert all((root / name).is_file() for name in re.findall(r"`(src/holdfast/[\w/]+\.py)`", text))
    commands = [
        command
        for text in texts.values()
        for command in re.findall(r"^holdfast train (.*?)(?:\s+#.*)?$", text, flags=re.MULTILINE)
    ]
    assert len(commands) > 3
    for command in commands:
        read_config([word for word in shlex.split(command) if not word.endswith(".yaml")])
    example = texts["docs/howto/command-line.md"]
    (tmp_path / "example.yaml").write_text(re.search(r"```yaml\n(.*?)```", example, flags=re.DOTALL).group(1))
    assert read_config([str(tmp_path / "example.yaml")])[0].network.init_args == {"hidden": 64}


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--momentum", "did you mean --training.momentum?"),
        ("--schedule", "did you mean --training.schedule?"),
        ("--bogus", "add --help for all of them."),
    ],
)
def test_an_option_goes_by_its_last_part_first_and_nothing_far_fetched_is_named(capsys, option, meant):
    assert main(["train", option, "1"]) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("abc", "a number or null, got 'abc'"),
        ("-3", "> 0 and <= 1e+15, got -3"),
        ("nan", "a number or null, got 'nan'"),
        (".nan", "> 0 and <= 1e+15, got nan"),
        (".inf", "> 0 and <= 1e+15, got inf"),
    ],
)
def test_a_radius_that_is_no_number_above_zero_is_refused_in_one_sentence(capsys, text, said):
    assert f"radius must be {said}" in refusal(capsys, "certify", "nowhere", "--radius", text)


def test_the_upper_end_of_the_bracket_is_shown_as_observed(trained):
    rows = {line.split("  ")[0]: line for line in trained[1].splitlines()}
    assert "observed" in rows["strongest attack"]
    text = " ".join(trained[1].split())
    findings = holdfast.Run.load(trained[0]).findings
    assert all(" ".join(finding.sentence.split()) in text for finding in findings)


def test_sigterm_ends_any_command_with_its_status_and_the_handler_is_put_back(capsys, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def killed(arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0

    monkeypatch.setattr("holdfast.cli.main._dispatch", killed)
    assert main(["train"]) == 143
    assert "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before
