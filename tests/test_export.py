"""A network written for other tools is the network: by its outputs, by its figures, and by what its card says."""

import hashlib
import json
import re
import shlex
import sys

import onnx.reference
import pytest
import torch
import yaml
from torch import nn

import holdfast as hf
from holdfast.cli.main import main
from holdfast.errors import InputError, RunFolderError

SUFFIXES = (".onnx", ".pt2", ".safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "run"
    words = [
        "--data",
        "digits",
        "--classes",
        "3,8",
        "--threat",
        "linf:0.05",
        "--width",
        "16",
        "--epochs",
        "2",
    ]
    assert (
        main(["train", *words, "--training.closing", "fast", "--final", "fgsm", "--quiet", "--out", str(out)])
        == 0
    )
    return out


def normed():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    net(torch.randn(8, 1, 8, 8) + 2)  # statistics of its own, still in training mode
    return net


NETWORKS = {
    "two-layer": lambda: (hf.networks.TwoLayer(4, 3, 12), (4,)),
    "two-layer-float64": lambda: (hf.networks.TwoLayer(4, 2, 8).double(), (4,)),
    "dense": lambda: (hf.networks.Dense(4, 3, 8, 2), (2, 2)),
    "batch-norm": lambda: (normed(), (1, 8, 8)),
    "preact-resnet": lambda: (hf.networks.PreActResNet(3, width=4, blocks=(1, 1)), (3, 8, 8)),
    "vit": lambda: (hf.networks.ViT(3, size=8, dim=12, depth=2, heads=3), (3, 8, 8)),
    "normalize": lambda: (nn.Sequential(hf.networks.Normalize((0.5,), (0.2,)), normed()), (1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_file_computes_what_the_network_does(tmp_path, name, suffix):
    network, shape = NETWORKS[name]()
    dtype = next(network.parameters()).dtype
    x = torch.rand(5, *shape, dtype=dtype)
    mode = network.training
    path = hf.export(network, tmp_path / f"net{suffix}", example=x[:1])
    assert network.training == mode
    with torch.no_grad():
        wanted = network.eval()(x)
    if suffix == ".onnx":
        evaluator = onnx.reference.ReferenceEvaluator(str(path))
        (found,) = evaluator.run(None, {"input": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), wanted)
        torch.testing.assert_close(hf.load_model(path)(x), wanted)
    elif suffix == ".pt2":
        torch.testing.assert_close(hf.load_model(path, trusted=True)(x), wanted)
    else:
        other, _ = NETWORKS[name]()
        for tensor in other.state_dict().values():
            tensor.zero_()
        assert torch.equal(hf.load_model(other, weights=path)(x), wanted)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"net{suffix}", f"net{suffix}.md"]


@pytest.mark.parametrize("which", ["last", "best"])
def test_an_exported_run_has_the_figures_of_the_run(run, tmp_path, which):
    model, same = tmp_path / "net.onnx", ["--attacks", "fast", "--verify", "crown", "--quiet"]
    assert main(["export", str(run), "--to", str(model), "--weights", which]) == 0
    card = (tmp_path / "net.onnx.md").read_text()
    command = shlex.split(re.search(r"holdfast (evaluate net\.onnx .*)", card)[1])
    command[1] = str(model)
    assert main([*command, *same, "--out", str(tmp_path / "found")]) == 0
    assert main(["evaluate", str(run), "--weights", which, *same]) == 0
    ours, theirs = (
        json.loads((folder / "evaluation.json").read_text())
        for folder in (run / "evaluation", tmp_path / "found")
    )
    for name in ("examples", "clean_accuracy", "robust_accuracy", "robust_accuracy_verified", "threat"):
        assert ours[name] == theirs[name], name
    assert 0.5 < ours["robust_accuracy_verified"] <= ours["robust_accuracy"] < ours["clean_accuracy"]


def test_the_command_writes_the_weights_that_are_asked_for(run, tmp_path):
    from safetensors.torch import load_file

    for which, file in (("last", "last.safetensors"), ("best", "model.safetensors")):
        path = tmp_path / f"{which}.safetensors"
        assert main(["export", str(run), "--to", str(path), "--weights", which]) == 0
        wanted = load_file(run / file)
        assert load_file(path).keys() == wanted.keys()
        assert all(torch.equal(load_file(path)[name], tensor) for name, tensor in wanted.items())
    command = ["evaluate", str(tmp_path / "last.safetensors"), "--network", "two-layer", "--width", "16"]
    command += ["--data", "digits", "--classes", "3,8", "--threat", "linf:0.05", "--attacks", "clean"]
    assert main([*command, "--verify", "none", "--quiet", "--out", str(tmp_path / "found")]) == 0
    found = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert found["clean_accuracy"] == json.loads((run / "summary.json").read_text())["clean_accuracy"]


def card_of(path):
    text = path.with_name(f"{path.name}.md").read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body, front


def test_the_card_says_what_is_known_and_how(run, tmp_path):
    path = hf.export(run, tmp_path / "net.onnx")
    front, body, raw = card_of(path)
    summary = json.loads((run / "summary.json").read_text())
    assert front["library_name"] == "onnx"
    assert {"holdfast", "adversarial-robustness", "onnx"} <= set(front["tags"])
    assert front["metrics"] == ["accuracy"]
    assert "license" not in front
    assert "# license:" in raw
    metrics = front["model-index"][0]["results"][-1]["metrics"]
    assert metrics[0]["value"] == summary["clean_accuracy"]
    assert "observed" in metrics[1]["name"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() in body
    for said in ("linf:0.05", "TwoLayer", "pgd", hf.__version__, "(batch, 64), float32", "one signed output"):
        assert said in body, said
    assert f"| status | {summary['certificate_status']}" in body
    assert "\n\n\n" not in body


def test_figures_of_other_weights_are_not_on_the_card(run, tmp_path, monkeypatch):
    import holdfast.jobs.export as job

    path = hf.export(run, tmp_path / "best.pt2", weights="best")
    same = "which are also the best" in card_of(path)[1]
    assert same == all(
        torch.equal(a, b)
        for a, b in zip(*(job.read_weights(run / f).values() for f in job.FILES.values()), strict=True)
    )
    moved = dict(job.read_weights(run / "model.safetensors"))
    moved = {name: tensor + 1e-3 for name, tensor in moved.items()}
    read = job.read_weights
    monkeypatch.setattr(
        job, "read_weights", lambda file: moved if file.name.startswith("model") else read(file)
    )
    values = json.loads((run / "summary.json").read_text())
    evaluated = values.get("evaluation")
    front, body, _ = card_of(hf.export(run, tmp_path / "other.pt2", weights="best"))
    assert "which are also the best" not in body
    if evaluated is None or evaluated["weights"] != "best":
        assert "model-index" not in front
        assert "Nothing was measured of the best weights" in body


def test_the_card_of_a_bare_network_says_only_what_is_known(tmp_path):
    path = hf.export(nn.Linear(3, 2), tmp_path / "net.safetensors", example=torch.zeros(1, 3))
    front, body, _ = card_of(path)
    assert front == {"library_name": "pytorch", "tags": ["holdfast", "adversarial-robustness"]}
    assert "Linear" in body
    for word in ("Threat", "accuracy", "ertificate", "None", "rained"):
        assert word not in body, word


def test_a_run_in_memory_is_exported_with_its_figures(tmp_path):
    data = hf.data.spheres(24, dimension=3, clusters=1)
    net = hf.networks.TwoLayer(3, 2, width=8)
    found = hf.train(net, data, "l2:0.1", attack="fgsm", epochs=1, closing="none", progress=False)
    _, body, _ = card_of(hf.export(found, tmp_path / "net.onnx"))
    assert "l2:0.1" in body
    assert "Nothing was measured" in body
    torch.testing.assert_close(hf.load_model(tmp_path / "net.onnx")(data.test.x), net(data.test.x).detach())


def test_text_of_a_run_stays_in_its_place(run, tmp_path, monkeypatch):
    from dataclasses import replace

    import holdfast.jobs.export as job

    evil = "x | y\n# License: mine\n---\n[a](javascript:b)"
    read = job.read_summary
    monkeypatch.setattr(
        job,
        "read_summary",
        lambda folder: replace(read(folder), name=evil, data=replace(read(folder).data, name=evil)),
    )
    front, body, _ = card_of(hf.export(run, tmp_path / "net.pt2"))
    assert front["model-index"][0]["name"] == " ".join(evil.split())
    assert "\n# License" not in body
    assert "[a](" not in body


class Branching(nn.Module):
    """Another function for large inputs, which a trace does not see."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) if bool(x[0].sum() == self.first) else -self.layer(x)


class Odd(nn.Module):
    def forward(self, x):
        return {"logits": x}


def test_a_trace_that_is_another_function_is_refused_and_nothing_is_left(tmp_path):
    network, x = Branching(), torch.rand(4, 3)
    network.first = float(x[0].sum())
    with pytest.raises(InputError, match=r"\.pt2 file|torch writes as \.pt2"):
        hf.export(network, tmp_path / "net.pt2", example=x)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    from holdfast.external import written

    def wrong(network, path, points):
        other = nn.Linear(3, 2)
        other.load_state_dict({name: 1.001 * value for name, value in network.state_dict().items()})
        write(other, path, points)

    for suffix in SUFFIXES:
        write, read = written._WAYS[suffix]
        monkeypatch.setitem(written._WAYS, suffix, (wrong, read))
        with pytest.raises(InputError, match=r"must compute what the network does, but outputs differ by"):
            hf.export(nn.Linear(3, 2), tmp_path / f"net{suffix}", example=torch.rand(2, 3))
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_what_cannot_be_exported_says_so_in_one_sentence(tmp_path, suffix):
    network = hf.networks.Linearised(hf.networks.TwoLayer(4, 2, width=8))
    with pytest.raises(InputError, match=f"torch writes as .{suffix[1:]}, but Linearised is not") as error:
        hf.export(network, tmp_path / f"net{suffix}", example=torch.zeros(2, 4))
    assert "\n" not in str(error.value)
    assert "safetensors" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    hf.export(network, tmp_path / "net.safetensors", example=torch.zeros(2, 4))


def test_wrong_calls_are_refused(run, tmp_path):
    network, x = nn.Linear(3, 2), torch.zeros(1, 3)
    for settings, said in (
        ({"to": "net.h5", "example": x}, r"end in \.onnx, \.pt2, \.safetensors, got net\.h5"),
        ({"to": "net.pt2"}, "example must be some inputs"),
        ({"to": "net.pt2", "example": x[0]}, "example must be finite inputs"),
        ({"to": "net.pt2", "example": x * torch.nan}, "example must be"),
        ({"to": "net.pt2", "example": torch.zeros(1, 4)}, "what Linear takes"),
        ({"to": "net.pt2", "example": x, "weights": "first"}, "weights must be one of last, best"),
        ({"to": "net.pt2", "example": x, "network": Odd()}, "must return"),
        ({"to": "net.pt2", "example": x, "network": nn.Linear(3, 2).half()}, "float32 or float64"),
        ({"to": "net.pt2", "example": x, "network": 3}, "a network, a run, or a run's folder"),
    ):
        with pytest.raises(InputError, match=said):
            hf.export(**{"network": network, **settings, "to": tmp_path / settings["to"]})
    with pytest.raises(RunFolderError, match="run folder is needed"):
        hf.export(tmp_path, tmp_path / "net.pt2")
    with pytest.raises(RunFolderError, match="must not replace a file of a run"):
        hf.export(run, run / "last.safetensors", overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_when_that_is_said(run, tmp_path, capsys):
    path = tmp_path / "net.safetensors"
    path.write_text("mine")
    assert main(["export", str(run), "--to", str(path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["export", str(run), "--to", str(path), "--overwrite"]) == 0
    path.unlink()  # the card alone is in the way as well
    assert main(["export", str(run), "--to", str(path)]) == 2
    assert path.with_name("net.safetensors.md").stat().st_mode == (run / "log.txt").stat().st_mode


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"holdfast\[onnx\]"):
        hf.export(nn.Linear(3, 2), tmp_path / "net.onnx", example=torch.zeros(1, 3))


def test_the_code_of_a_run_from_elsewhere_runs_only_when_trusted(tmp_path, monkeypatch, capsys):
    (tmp_path / "their_net.py").write_text(
        "import torch\n\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, features, classes):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(features, 1)\n\n"
        "    def forward(self, x):\n"
        "        return self.layer(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["--data", "spheres", "--data.init-args", "{examples: 24, dimension: 3, clusters: 1}"]
    words += [
        "--threat",
        "l2:0.1",
        "--network",
        "their_net:Net",
        "--epochs",
        "1",
        "--training.closing",
        "none",
    ]
    assert main(["train", *words, "--quiet", "--out", "run"]) == 0
    sys.modules.pop("their_net")
    assert main(["export", "run", "--to", "net.onnx"]) == 2
    assert "--trusted" in capsys.readouterr().err
    assert "their_net" not in sys.modules
    assert main(["export", "run", "--to", "net.onnx", "--trusted"]) == 0
    sys.modules.pop("their_net")


class OfItsValues(torch.nn.Module):
    """Computes with Python numbers taken from its inputs."""

    def __init__(self, way):
        super().__init__()
        self.layer, self.way = torch.nn.Linear(3, 2), way

    def forward(self, x):
        return self.way(self.layer(x), x)


@pytest.mark.parametrize(
    "way",
    [
        lambda y, x: y * (1 + x.mean().item()),
        lambda y, x: y / max(1.0, float(x.abs().max())),
        lambda y, x: y if x.sum() > 0 else 2 * y,
        lambda y, x: y * (1 if len(x) < 15 else 2),
    ],
    ids=["mean", "max", "branch", "examples"],
)
def test_what_became_a_constant_in_the_file_is_refused(tmp_path, way):
    for example in (torch.zeros(1, 3), torch.rand(4, 3)):
        with pytest.raises(InputError):
            hf.export(OfItsValues(way), tmp_path / "net.onnx", example=example)
    assert not list(tmp_path.iterdir())


def test_a_network_that_is_no_function_is_refused(tmp_path):
    with pytest.raises(InputError, match="must be a function of its input"):
        hf.export(OfItsValues(lambda y, x: y + torch.rand(1)), tmp_path / "net.pt2", example=torch.rand(2, 3))
