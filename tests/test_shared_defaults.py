"""Every option of a command has the default of the Python parameter it sets: a new option that is not listed here fails."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest

import holdfast as hf
from holdfast import _defaults
from holdfast.cli.sweep import _backend
from holdfast.config.commands import COMMANDS, SweepCommand, TrainCommand
from holdfast.config.options import options_of
from holdfast.config.schema import RunConfig, to_dict
from holdfast.jobs.certify import certify_run
from holdfast.jobs.evaluate import Plan, evaluate_model, evaluate_run
from holdfast.jobs.plan import plan
from holdfast.jobs.verify import verify_property
from holdfast.lab.sweep.backends import in_turn
from holdfast.lab.sweep.grid import read_grid

NONE = object()  # an option that Python has no parameter for


def default(function, name):
    return inspect.signature(function).parameters[name].default


# By option, what it must agree with: one value, or several that must all be the same.
OPTIONS = {
    "evaluate": {
        "attacks": [default(hf.evaluate, "attacks"), Plan().attacks],
        "verify": [default(hf.evaluate, "verify"), Plan().verify],
        "verify_seconds": [default(hf.evaluate, "verify_seconds"), Plan().verify_seconds],
        "part": [Plan().part],
        "examples": [default(hf.evaluate, "examples"), Plan().examples],
        "radii": [Plan().radii],
        "weights": [default(evaluate_run, "which")],
        "trusted": [default(evaluate_run, "trusted")],
        "batch_size": [default(hf.evaluate, "batch_size"), Plan().batch_size],
        "processes": [Plan().processes],
        "accelerator": [default(evaluate_run, "accelerator")],
        "seed": [default(hf.evaluate, "seed"), Plan().seed, RunConfig().seed],
        "quiet": [not default(evaluate_run, "progress"), not default(evaluate_model, "progress")],
        "log_outputs": [NONE],
        "out": [NONE],
        "overwrite": [default(evaluate_model, "overwrite")],
    },
    "certify": {
        "radius": [default(certify_run, "radius")],
        "tighten": [
            default(certify_run, "tighten"),
            default(hf.certify, "tighten"),
            default(hf.train, "certificate").tighten,
        ],
        "per_unit": [default(certify_run, "per_unit"), default(hf.certify, "per_unit")],
        "trusted": [default(certify_run, "trusted")],
        "quiet": [not default(certify_run, "progress")],
    },
    "export": {
        "to": [...],
        "weights": [default(hf.export, "weights"), default(evaluate_run, "which")],
        "overwrite": [default(hf.export, "overwrite")],
        "trusted": [default(hf.export, "trusted")],
    },
    "plan": {
        "radii": [NONE],
        "target_loss": [default(plan, "target_loss")],
        "target_gap": [default(plan, "target_gap")],
        "examples": [default(plan, "examples")],
        "seed": [default(plan, "seed"), RunConfig().seed],
        "out": [default(plan, "out")],
        "overwrite": [default(plan, "overwrite")],
        "quiet": [not default(plan, "progress")],
    },
    "verify": {
        "seconds": [default(verify_property, "seconds")],
        "seed": [default(verify_property, "seed"), RunConfig().seed],
        "quiet": [not default(verify_property, "progress")],
        "model": [NONE],
        "counterexample": [NONE],
        "overwrite": [NONE],
    },
}


@pytest.mark.parametrize("command", OPTIONS)
def test_an_option_has_the_default_of_the_parameter_it_sets(command):
    kinds = options_of(COMMANDS[command])
    own = {path: default for path, (_, default) in kinds.leaves.items() if "." not in path}
    assert own.keys() == OPTIONS[command].keys()
    for name, wanted in OPTIONS[command].items():
        values = [own[name]] if wanted == [NONE] else wanted
        assert all(value == own[name] and type(value) is type(own[name]) for value in values), name


def test_a_section_has_the_entries_and_the_defaults_of_a_run():
    run = options_of(RunConfig).leaves
    for command, kind in COMMANDS.items():
        for path, (entry, default) in options_of(kind).leaves.items():
            if "." in path:
                other = (
                    _defaults.PROBE_WIDTH if (command, path) == ("plan", "network.width") else run[path][1]
                )
                assert default == other, (command, path)
                assert entry.metadata == run[path][0].metadata


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_the_default(command):
    kinds = options_of(COMMANDS[command])
    said = " ".join(kinds.page().split())
    for path, (entry, default) in kinds.leaves.items():
        if "." not in path and isinstance(default, str | int | float) and not isinstance(default, bool):
            assert f"{entry.metadata['help']} ({default})" in said, path


def test_a_parameter_with_the_name_of_an_option_cannot_be_forgotten():
    """What both know by one name, in any function that a command calls, is compared above."""
    functions = {
        "evaluate": (hf.evaluate, evaluate_run),
        "certify": (certify_run, hf.certify),
        "plan": (plan,),
        "verify": (verify_property,),
    }
    for command, those in functions.items():
        own = {path: default for path, (_, default) in options_of(COMMANDS[command]).leaves.items()}
        for function in those:
            for name, one in inspect.signature(function).parameters.items():
                if name in own and one.default is not one.empty and name not in ("loss", "threat", "radii"):
                    assert one.default == own[name], (command, function.__name__, name)


def test_train_has_the_defaults_of_its_configuration_and_its_switches():
    """The configuration's entries are compared in `test_defaults`; these are what the command adds."""
    added = {entry.name for entry in fields(TrainCommand)} - {entry.name for entry in fields(RunConfig)}
    assert added == {"config", "resume", "overwrite", "trusted", "quiet", "print_config"}
    assert TrainCommand().run == RunConfig()
    assert (default(hf.train, "resume"), default(hf.train, "overwrite"), default(hf.train, "progress")) == (
        False,
        False,
        True,
    )


def test_a_sweep_of_one_cell_is_the_run_that_train_makes():
    grid, own, _ = read_grid([])
    (cell,) = grid.cells
    assert own == SweepCommand()
    config = RunConfig()
    assert cell.config == {k: v for k, v in to_dict(config).items() if k not in ("out", "name")}
    assert cell.hidden_layers == _defaults.HIDDEN_LAYERS


def test_a_sweep_without_a_backend_runs_in_this_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    _, own, _ = read_grid([])
    assert _backend(own) == (in_turn, 3)


def test_the_library_says_what_it_wants_proved():
    """Training's own evaluations are attacks alone: a default that proves would cost minutes a run."""
    package = Path(inspect.getfile(hf)).parent
    for path in sorted([*package.glob("evaluation/*.py"), *package.glob("jobs/*.py")]):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "evaluate":
                names = {keyword.arg for keyword in call.keywords}
                assert names & {"verify", None}, f"{path.name}:{call.lineno}"
