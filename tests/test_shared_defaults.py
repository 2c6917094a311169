"""Every option of a command has the default of the Python parameter it sets: a new option that is not listed here fails."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import holdfast as hf
from holdfast import _defaults
from holdfast.cli.sweep import _backend
from holdfast.cli.train import FLAGS
from holdfast.config.schema import NetworkConfig, RunConfig, ThreatConfig, to_dict
from holdfast.jobs.certify import certify_run
from holdfast.jobs.evaluate import Plan, evaluate_model, evaluate_run
from holdfast.jobs.plan import plan
from holdfast.jobs.verify import verify_property
from holdfast.lab.sweep.backends import in_turn
from holdfast.lab.sweep.grid import OWN, read_grid

NONE = object()  # an option that Python has no parameter for
NETWORK, DENSE = NetworkConfig.section("two-layer"), NetworkConfig.section("dense")
THREAT = ThreatConfig()


def default(function, name):
    return inspect.signature(function).parameters[name].default


# By option, what it must agree with: one value, or several that must all be the same.
OPTIONS = {
    "evaluate": {
        "attacks": [default(hf.evaluate, "attacks"), Plan().attacks],
        "verify": [default(hf.evaluate, "verify"), Plan().verify],
        "verify_seconds": [default(hf.evaluate, "verify_seconds"), Plan().verify_seconds],
        "threat": [default(evaluate_run, "threat")],
        "part": [Plan().part],
        "examples": [default(hf.evaluate, "sample"), Plan().sample],
        "radii": [Plan().radii or None],
        "weights": [default(evaluate_run, "which")],
        "trusted": [default(evaluate_run, "trusted")],
        "threat.box": [default(evaluate_run, "box"), THREAT.box],
        "batch_size": [default(hf.evaluate, "batch_size"), Plan().batch_size],
        "processes": [Plan().processes],
        "accelerator": [default(evaluate_run, "accelerator")],
        "seed": [default(hf.evaluate, "seed"), Plan().seed, RunConfig().seed],
        "quiet": [not default(evaluate_run, "progress"), not default(evaluate_model, "progress")],
        "data": [NONE],
        "classes": [NONE],
        "network": [NONE],
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
    "plan": {
        "network": [NETWORK.name],
        "activation": [NETWORK.activation],
        "network.depth": [DENSE.depth],
        "network.center": [NETWORK.center],
        "radii": [default(plan, "radii")],
        "target_loss": [default(plan, "target_loss")],
        "target_gap": [default(plan, "target_gap")],
        "examples": [default(plan, "examples")],
        "threat.box": [THREAT.box],
        "seed": [default(plan, "seed"), RunConfig().seed],
        "out": [default(plan, "out")],
        "overwrite": [default(plan, "overwrite")],
        "quiet": [not default(plan, "progress")],
        "data": [NONE],
        "threat": [NONE],
        "classes": [RunConfig().data.classes],
    },
    "verify": {
        "seconds": [default(verify_property, "seconds")],
        "seed": [default(verify_property, "seed"), RunConfig().seed],
        "quiet": [not default(verify_property, "progress")],
        "model": [NONE],
        "counterexample": [NONE],
    },
}


def parser(command):
    return importlib.import_module(f"holdfast.cli.{command}")._parser()


@pytest.mark.parametrize("command", OPTIONS)
def test_an_option_has_the_default_of_the_parameter_it_sets(command):
    actions = {a.dest: a.default for a in parser(command)._actions if a.option_strings and a.dest != "help"}
    assert actions.keys() == OPTIONS[command].keys()
    for name, wanted in OPTIONS[command].items():
        values = [actions[name]] if wanted == [NONE] else wanted
        assert all(value == actions[name] and type(value) is type(actions[name]) for value in values), name


@pytest.mark.parametrize("command", OPTIONS)
def test_help_says_the_default(command):
    said = " ".join(parser(command).format_help().split())
    for action in parser(command)._actions:
        value = action.default
        if isinstance(value, float):
            assert f"(default: {value:g})" in said
        elif isinstance(value, str | int) and not isinstance(value, bool) and action.dest != "help":
            assert f"(default: {value})" in said


def test_a_parameter_with_the_name_of_an_option_cannot_be_forgotten():
    """What both know by one name, in any function that a command calls, is compared above."""
    functions = {
        "evaluate": (hf.evaluate, evaluate_run),
        "certify": (certify_run, hf.certify),
        "plan": (plan,),
        "verify": (verify_property,),
    }
    for command, those in functions.items():
        actions = {a.dest: a.default for a in parser(command)._actions if a.option_strings}
        for function in those:
            for name, one in inspect.signature(function).parameters.items():
                if (
                    name in actions
                    and one.default is not one.empty
                    and name not in ("loss", "threat", "radii")
                ):
                    assert one.default == actions[name], (command, function.__name__, name)


def test_train_has_the_defaults_of_its_configuration_and_its_switches():
    """The configuration's entries are compared in `test_defaults`; these are what the command adds."""
    assert FLAGS.keys() == {"--resume", "--overwrite", "--trusted", "--quiet", "--print-config", "--help"}
    assert (default(hf.train, "resume"), default(hf.train, "overwrite"), default(hf.train, "progress")) == (
        False,
        False,
        True,
    )


def test_a_sweep_of_one_cell_is_the_run_that_train_makes():
    grid, own, _ = read_grid([])
    (cell,) = grid.cells
    assert own == {}
    config = RunConfig()
    assert cell.config == {k: v for k, v in to_dict(config).items() if k not in ("out", "name")}
    assert cell.hidden_layers == _defaults.HIDDEN_LAYERS
    assert f"({_defaults.HIDDEN_LAYERS})" in OWN["--hidden-layers"]
    assert f"({_defaults.BACKEND})" in OWN["--backend"]
    assert f"({_defaults.PROCESSES})" in OWN["--processes"]


def test_a_sweep_without_a_backend_runs_in_this_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    grid, own, _ = read_grid([])
    assert _backend(grid, own) == (in_turn, 3)


def test_the_library_says_what_it_wants_proved():
    """Training's own evaluations are attacks alone: a default that proves would cost minutes a run."""
    package = Path(inspect.getfile(hf)).parent
    for path in sorted([*package.glob("evaluation/*.py"), *package.glob("jobs/*.py")]):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "evaluate":
                names = {keyword.arg for keyword in call.keywords}
                assert names & {"verify", None}, f"{path.name}:{call.lineno}"
