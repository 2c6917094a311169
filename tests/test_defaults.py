"""What is left out means the same on the command line and in Python, and a learning rate that is left out comes from the theory."""

import inspect
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.attacks import PGD
from holdfast.config.build import build, build_attack, build_tagged
from holdfast.config.schema import RunConfig
from holdfast.errors import InputError
from holdfast.losses import CrossEntropy, Hinge
from holdfast.training.automatic import BATCH, RATES, chosen_for, chosen_rate
from holdfast.training.optimizers import SGD, Adam, AdamW, Auto
from holdfast.training.schedules import ScheduleSettings
from holdfast.training.step_size import ADAM, USUAL, chosen_step, largest_eigenvalue


def test_training_has_the_same_defaults_from_the_command_line_and_from_python():
    options = build(RunConfig()).options
    defaults = {name: one.default for name, one in inspect.signature(hf.train).parameters.items()}
    attacks = {"attack": "attack", "final_attack": "final"}
    defaults["schedule"] = ScheduleSettings()
    for part in ("objective", "augmentation", "weight_perturbation", "averaging"):
        defaults[part] = build_tagged(getattr(RunConfig(), part), object)
    assert defaults["optimizer"] is defaults["start"] is None  # the recipe's, which without one are these
    defaults["optimizer"], defaults["start"] = Auto(), RunConfig().training.start
    defaults["validation"] = replace(defaults["validation"], attack=build_attack(RunConfig().evaluation))
    for name, value in options.items():
        if name in attacks:
            assert defaults[name] is None
            assert value == build_attack(getattr(RunConfig(), attacks[name]))
        elif name == "loss":
            assert (defaults[name], value) == (None, CrossEntropy())
        else:
            assert defaults[name] == value, name


def two_layer(width=64):
    return hf.networks.TwoLayer(4, 2, width, scale=0.5, constant=0.5)


X = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", [two_layer(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))])
def test_the_eigenvalue_is_that_of_the_tangent_kernel(model):
    kernel = hf.theory.empirical_ntk(model, X, outputs="full").double()
    n, outputs = len(X), kernel.shape[2]
    matrix = kernel.permute(0, 2, 1, 3).reshape(n * outputs, n * outputs)
    top = float(torch.linalg.eigvalsh(matrix)[-1]) / n
    assert largest_eigenvalue(model, X, iterations=100) == pytest.approx(top, rel=1e-3)


def test_the_step_is_the_inverse_of_the_curvature_and_repeats():
    model = two_layer()
    before = torch.get_rng_state()
    step = chosen_step(model, X, CrossEntropy(), "sgd", seed=3)
    assert step == chosen_step(model, X, CrossEntropy(), "sgd", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert step.learning_rate == pytest.approx(4 / largest_eigenvalue(model, X, seed=3), rel=0.01)
    assert chosen_step(model, X, Hinge(), "sgd", seed=3).learning_rate == pytest.approx(
        step.learning_rate / 4, rel=0.01
    )
    assert chosen_step(model, X, CrossEntropy(), "adam").learning_rate == ADAM
    assert all(p.grad is None for p in model.parameters())


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad


class Single(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return Once.apply(self.layer(x))


def test_a_module_that_cannot_be_differentiated_twice_gets_the_usual_step():
    step = chosen_step(Single(), X, CrossEntropy(), "sgd")
    assert step.learning_rate == USUAL
    assert "no curvature could be measured" in step.reason


def test_training_with_nothing_else_ends_close_to_the_optimum(tmp_path):
    data = hf.data.digits(classes=(3, 8))
    mean = data.train.x.mean(0)
    model = hf.networks.TwoLayer(data.features, data.classes, 1000, scale=0.4, center=mean, constant=0.5)
    threat = hf.LpBall("2", 0.3, bounds=data.bounds, fixed=data.fixed)
    run = hf.train(
        model,
        data,
        threat,
        attack=PGD(steps=3),
        parameter_radius=2.0,
        epochs=15,
        closing="none",
        progress=False,
        certificate=hf.CertificateSettings(tighten=5),
        out=tmp_path,
    )
    assert run.certificate.status == "certified"
    assert run.certificate.gap < 0.002
    assert run.summary["learning_rate"] > 10
    assert "tangent kernel" in run.summary["learning_rate_reason"]
    assert "learning rate" in (tmp_path / "log.txt").read_text()


def conv(channels=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, channels, 3),
        nn.ReLU(),
        nn.Conv2d(channels, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 2),
    )


def kernel_scaled():
    return hf.networks.Dense(64, 2, 64, 2, seed=0)


@pytest.mark.parametrize("network", [conv, pytest.param(kernel_scaled, marks=pytest.mark.slow)])
def test_ordinary_networks_end_about_as_low_as_tuned_by_hand(network, tmp_path):
    """Gradient descent with the step at the start's curvature, the default before, ends several times higher."""
    data = hf.data.digits(classes=(3, 8))

    def trained(**settings):
        model = network()
        run = hf.train(
            model,
            data,
            "l2:0.3",
            attack="fgsm",
            closing="none",
            epochs=20,
            validation=hf.ValidationSettings(every=20),
            certificate=hf.CertificateSettings(trace=False, tighten=0),
            progress=False,
            **settings,
        )
        return run, float(PGD(steps=5).run(model, data.train.x, data.train.y, threat).loss.mean())

    threat = hf.LpBall("2", 0.3, bounds=data.bounds)
    run, loss = trained(out=tmp_path)
    by_hand = trained(optimizer="adam", batch_size=64, learning_rate=0.01)[1]
    plain = trained(optimizer="sgd")[1]
    assert loss < 1.2 * by_hand + 0.005
    assert loss < plain / 2
    log = (tmp_path / "log.txt").read_text()
    assert (
        f"optimizer adam with {BATCH} examples per step, chosen: adam, since the theory gives no step" in log
    )
    assert f"learning rate {run.summary['learning_rate']:g}, chosen: the best of {len(RATES)}" in log
    assert (run.summary["optimizer"], run.summary["batch_size"]) == ("adam", BATCH)


@pytest.mark.parametrize(
    ("model", "given", "optimizer", "batch", "why"),
    [
        (two_layer(), {}, "sgd", 1000, "the theory gives the step"),
        (nn.Sequential(two_layer()), {}, "sgd", 1000, "the theory gives the step"),
        (hf.networks.Linearised(nn.Linear(4, 2)), {}, "sgd", 1000, "the theory gives the step"),
        (nn.Linear(4, 2), {}, "adam", BATCH, "gives no step"),
        (nn.Linear(4, 2), {"batch_size": 7}, "adam", 7, "gives no step"),
        (nn.Linear(4, 2), {"batch_size": 5000}, "adam", 1000, "gives no step"),
        (nn.Linear(4, 2), {"learning_rate": 0.1}, "sgd", 1000, "of your own"),
        (nn.Linear(4, 2), {"optimizer": SGD(momentum=0.1)}, "sgd", 1000, ""),
        (nn.Linear(4, 2), {"optimizer": Adam()}, "adam", 1000, ""),
        (two_layer(), {"optimizer": AdamW(), "batch_size": 9}, "adamw", 9, ""),
    ],
)
def test_what_is_left_out_is_chosen_for_the_network(model, given, optimizer, batch, why):
    nothing = {"optimizer": Auto(), "batch_size": None, "learning_rate": None}
    recipe = chosen_for(model, 1000, **nothing | given)
    assert (recipe.name, recipe.batch_size) == (optimizer, batch)
    assert why in recipe.why
    assert bool(recipe.why) == bool(why)


def test_no_step_of_the_chosen_batch_has_a_single_example():
    nothing = {"optimizer": Auto(), "batch_size": None, "learning_rate": None}
    for examples in range(60, 400):
        recipe = chosen_for(nn.Linear(4, 2), examples, **nothing)
        assert examples % recipe.batch_size != 1
        assert min(examples, BATCH) <= recipe.batch_size <= BATCH + 2


def test_the_search_repeats_and_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, y, threat = torch.get_rng_state(), (X[:, 0] > 0.5).long(), hf.LpBall("inf", 0.01)
    recipe = chosen_for(model, 40, optimizer=Auto(), batch_size=16, learning_rate=None)
    first, second = (chosen_rate(model, X, y, threat, CrossEntropy(), recipe, seed=2) for _ in range(2))
    assert first == second
    assert first.learning_rate in RATES
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_that_is_finite_at_no_rate_gets_the_usual_one():
    model = nn.Sequential(nn.Linear(4, 2), nn.Flatten())
    recipe = chosen_for(model, 40, optimizer=Auto(), batch_size=16, learning_rate=None)
    with torch.no_grad():
        model[0].weight.fill_(1e38)
    step = chosen_rate(model, X, (X[:, 0] > 0.5).long(), hf.LpBall("inf", 0.01), CrossEntropy(), recipe)
    assert step.learning_rate == ADAM
    assert "did not stay finite" in step.reason


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": torch.optim.Adam, "learning_rate": 0.1}, "learning_rate is for the optimizer"),
        ({"optimizer": hf.optimizers.SGD}, "write SGD\\(\\)"),
    ],
)
def test_settings_that_do_not_apply_are_refused_in_python(settings, said):
    data = hf.data.spheres(20, 3, validation=0, test=0)
    with pytest.raises(InputError, match=said):
        hf.train(hf.networks.TwoLayer(3, 2, 8), data, "l2:0.01", progress=False, **settings)


def lying(path, shape):
    """An archive whose header declares an array of this shape, and holds none of it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x", "y"):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "<f4", "fortran_order": False, "shape": shape}
                )
    return path


def test_an_archive_that_lies_about_its_size_is_refused(tmp_path):
    with pytest.raises(InputError, match="must hold what it declares"):
        hf.data.npz(lying(tmp_path / "lie.npz", (2**30, 2**16)))


def test_an_archive_that_inflates_beyond_measure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["holdfast.data.npz"], "LARGE", 2**16)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((2000, 100)), y=np.arange(2000) % 2)
    with pytest.raises(InputError, match="inflates from"):
        hf.data.npz(tmp_path / "bomb.npz")


def test_an_archive_beyond_memory_is_refused_with_the_figure(tmp_path, monkeypatch):
    monkeypatch.setattr("holdfast._memory.free_bytes", lambda device: 1000)
    np.savez(tmp_path / "large.npz", x=np.random.default_rng(0).random((100, 10)), y=np.arange(100) % 2)
    with pytest.raises(InputError, match="must fit into the free memory"):
        hf.data.npz(tmp_path / "large.npz")


@pytest.mark.parametrize(
    "argv",
    [
        ["--parameter-radius", "1e308"],
        ["--seed", "99999999999999999999"],
        ["--classes", "[]"],
        ["--width", "40000000000000"],
        ["--network.init-args", "{a: " * 400 + "1" + "}" * 400],
        ["--threat", "linf:1e999999999"],
    ],
)
def test_extreme_values_are_one_sentence(argv, tmp_path, capsys, monkeypatch):
    from holdfast.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", "digits", *argv, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("holdfast: ")
    assert said.count("\n") == 1


def test_a_file_nested_without_end_is_one_sentence(tmp_path, capsys):
    from holdfast.cli.main import main

    file = tmp_path / "deep.yaml"
    file.write_text("data: " + "[" * 5000 + "]" * 5000)
    assert main(["train", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_terminals_without_unicode_show_the_outcome(trained):
    words = {"PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}
    shown = subprocess.run(
        [sys.executable, "-m", "holdfast", "doctor", str(trained[0])],
        capture_output=True,
        text=True,
        env=os.environ | words,
    )
    assert shown.returncode in (0, 1), shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m holdfast train --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("usage")
    assert done.stderr == ""
