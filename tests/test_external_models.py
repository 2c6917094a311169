"""Networks by import path with weights, TorchScript and torch.export files; and that nothing in a file of weights is executed."""

import copy
import os
import sys
import textwrap
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from holdfast.errors import InputError
from holdfast.external import load_model, read_weights


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module ``nets_from_outside`` in the working directory."""
    (tmp_path / "nets_from_outside.py").write_text(
        textwrap.dedent(
            """
            from torch import nn

            class Net(nn.Module):
                def __init__(self, width=4):
                    super().__init__()
                    self.first, self.drop, self.last = nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 2)

                def forward(self, x):
                    return self.last(self.drop(self.first(x).relu()))

            made = Net(6)
            number = 3

            def wrong():
                return "text"
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("nets_from_outside", None)


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("source", ["nets_from_outside:Net", "nets_from_outside.Net"])
def test_a_class_by_import_path(package, source):
    model = load_model(source, init_args={"width": 7})
    assert model.first.out_features == 7
    assert not model.training
    assert not model.drop.training


def test_a_network_by_import_path_is_taken_as_it_is(package):
    assert load_model("nets_from_outside:made").first.out_features == 6


def network(package, **options):
    return load_model("nets_from_outside:Net", **options)


def saved_weights(package, how):
    """A network's outputs, and its weights in a file."""
    torch.manual_seed(1)
    other = network(package)
    state, path = other.state_dict(), package / "weights.pt"
    match how:
        case "safetensors":
            path = package / "weights.safetensors"
            save_file(state, path)
        case "torch":
            torch.save(state, path)
        case "old torch":
            torch.save(state, path, _use_new_zipfile_serialization=False)
        case "checkpoint":
            torch.save({"epoch": 3, "state_dict": state}, path)
        case "parallel":
            torch.save({f"module.{name}": value for name, value in state.items()}, path)
        case "compiled, wrapped and nested":
            inner = {f"_orig_mod.module.model.{name}": value for name, value in state.items()}
            torch.save({"epoch": 3, "best": 0.5, "model_state_dict": inner}, path)
        case "under model":
            torch.save({"model": {f"model.{name}": value for name, value in state.items()}}, path)
    return other(X), path


@pytest.mark.parametrize(
    "how",
    [
        "safetensors",
        "torch",
        "old torch",
        "checkpoint",
        "parallel",
        "compiled, wrapped and nested",
        "under model",
    ],
)
def test_weights_are_loaded_into_it(package, how):
    outputs, path = saved_weights(package, how)
    torch.manual_seed(2)
    assert not torch.allclose(network(package)(X), outputs)
    torch.testing.assert_close(network(package, weights=path)(X), outputs, rtol=0, atol=0)


def test_weights_are_loaded_into_a_network_that_is_there(package):
    outputs, path = saved_weights(package, "parallel")
    own = network(package).train()
    found = load_model(own, weights=path)
    assert found is own
    assert not found.training
    torch.testing.assert_close(found(X), outputs, rtol=0, atol=0)
    with pytest.raises(InputError, match="init_args must go with a class or function, but Net is a network"):
        load_model(own, init_args={"width": 3})


def test_names_of_which_only_some_have_a_prefix_are_refused_as_they_are(package):
    state = network(package).state_dict()
    mixed = {
        f"module.{name}" if number else name: value for number, (name, value) in enumerate(state.items())
    }
    torch.save(mixed, package / "w.pt")
    with pytest.raises(InputError, match=r"it has besides module\."):
        network(package, weights=package / "w.pt")


class Harmful:
    """Leaves a trace where it is unpickled with code allowed."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickles_with_code_are_refused_and_not_run(package):
    path = package / "weights.pt"
    torch.save({"w": Harmful(package / "trace")}, path)
    with pytest.raises(InputError, match="would run code"):
        network(package, weights=path)
    assert not (package / "trace").exists()
    torch.save(nn.Linear(2, 2), path)  # a whole module is code too
    with pytest.raises(InputError, match="would run code"):
        read_weights(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("last.bias"), r"it lacks last\.bias:"),
        (lambda state: state.update(extra=torch.zeros(1)), "it has besides extra"),
        (lambda state: state.update({"last.bias": torch.zeros(3)}), r"last\.bias \(3,\) for \(2,\)"),
        (
            lambda state: [state.pop(name) for name in list(state)] and state.update(a=X),
            r"and 1 more; it has besides a",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_key(package, change, words):
    state = dict(network(package).state_dict())
    change(state)
    torch.save(state, package / "w.pt")
    with pytest.raises(InputError, match=words):
        network(package, weights=package / "w.pt")


def test_files_that_hold_no_weights_are_refused(package):
    path = package / "w.pt"
    torch.save([1, 2], path)
    with pytest.raises(InputError, match=r"state dict .* got list"):
        read_weights(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match="got a mapping with epoch"):
        read_weights(path)
    with pytest.raises(InputError, match="there is none"):
        read_weights(package / "absent.pt")


@pytest.mark.parametrize("how", ["safetensors", "torch", "old torch"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_weights_cut_short_are_refused(package, how, share):
    _, path = saved_weights(package, how)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"copy or save it again|save it again|cut short"):
        read_weights(path)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("nets_from_outside:Nut", {}, "has no Nut"),
        ("nets_from_elsewhere:Net", {}, "importing nets_from_elsewhere failed"),
        ("nets_from_outside:wrong", {}, "made a str"),
        ("nets_from_outside:number", {}, "must be a class or a function, got int"),
        ("nets_from_outside:Net", {"init_args": {"depth": 2}}, "takes width, got depth"),
        ("nets_from_outside:made", {"init_args": {"width": 2}}, "a network already"),
        ("net", {}, "must be a file or an import path"),
        ("folder/net.pt", {}, "there is none"),
        ("net.onnx", {}, "there is none"),
    ],
)
def test_wrong_sources_are_refused(package, source, options, words):
    with pytest.raises(InputError, match=words):
        load_model(source, **options)


def program(folder, kind, *, train=False):
    """A small network saved as a program, with itself."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).train(train)
    path = folder / f"net.{kind}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
        if kind == "pt2":
            batch = torch.export.Dim("batch")
            torch.export.save(torch.export.export(model, (X,), dynamic_shapes=({0: batch},)), path)
        else:
            torch.jit.save(torch.jit.script(model), path)
    return model, path


@pytest.mark.parametrize("kind", ["pt", "pt2"])
def test_programs_are_loaded_where_they_are_trusted(tmp_path, kind):
    model, path = program(tmp_path, kind)
    with pytest.raises(InputError, match="source you trust"):
        load_model(path)
    loaded = load_model(path, trusted=True)
    torch.testing.assert_close(loaded(X), model.eval()(X))
    torch.testing.assert_close(loaded(X[:2]), model(X[:2]))
    assert len(list(loaded.parameters())) == 4
    x = X.clone().requires_grad_()
    y = X.clone().requires_grad_()
    loaded(x).sum().backward()
    model(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("kind", ["pt", "pt2"])
def test_copies_of_programs_run_in_float64(tmp_path, kind):
    model, path = program(tmp_path, kind)
    loaded = load_model(path, trusted=True)
    exact = copy.deepcopy(loaded).double().eval().requires_grad_(False)
    torch.testing.assert_close(exact(X.double()), model.double().eval()(X.double()), rtol=0, atol=1e-14)
    assert loaded(X).dtype == torch.float32
    loaded.train()  # programs stay as they were saved
    torch.testing.assert_close(loaded(X), loaded(X), rtol=0, atol=0)


def test_scripts_saved_in_training_are_evaluated(tmp_path):
    model, path = program(tmp_path, "pt", train=True)
    torch.testing.assert_close(load_model(path, trusted=True)(X), model.eval()(X))


def test_programs_exported_in_training_are_refused(tmp_path):
    _, path = program(tmp_path, "pt2", train=True)
    with pytest.raises(InputError, match="evaluation mode, but dropout works as in training"):
        load_model(path, trusted=True)


@pytest.mark.parametrize("kind", ["pt", "pt2"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_programs_cut_short_are_refused(tmp_path, kind, share):
    _, path = program(tmp_path, kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="cut short"):
        load_model(path, trusted=True)


def test_a_damaged_program_is_refused(tmp_path):
    _, path = program(tmp_path, "pt")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, b"def" if name.endswith("Sequential.py") or "/code/" in name else content)
    with pytest.raises(InputError, match="whole TorchScript file"):
        load_model(path, trusted=True)


def test_files_of_weights_need_a_network(package):
    _, path = saved_weights(package, "torch")
    with pytest.raises(InputError, match="import path and pass the file as weights"):
        load_model(path)
    _, scripted = program(package, "pt")
    with pytest.raises(InputError, match="must go with an import path"):
        load_model(scripted, weights=path)
    with pytest.raises(InputError, match="a TorchScript program"):
        network(package, weights=scripted)
