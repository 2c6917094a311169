"""A setting that means nothing beside the others is refused, wherever it stands, and the refusal names what does apply."""

import dataclasses
import json

import pytest
import torch
import yaml

import holdfast as hf
from holdfast._imports import Trusted
from holdfast._registry import ATTACKS, AUGMENTATIONS, AVERAGING, LOSSES, NETWORKS, OBJECTIVES, PERTURBATIONS
from holdfast.cli.main import main
from holdfast.config.build import build_threat
from holdfast.config.options import options_of
from holdfast.config.reading import read_config
from holdfast.config.schema import (
    OWN,
    NetworkConfig,
    RunConfig,
    ThreatConfig,
    applies,
    from_dict,
    to_dict,
    with_entries,
)
from holdfast.errors import InputError

LEAVES = options_of(RunConfig).leaves

# Every alternative of every entry that others depend on, by section and entry.
ALTERNATIVES = {
    ("data", "name"): {
        "digits": "digits",
        "spheres": "spheres",
        "forced": "forced",
        OWN: "my_package:data",
        "a file": "some.npz",
    },
    ("data", "extra"): {"a data set": "some.npz", OWN: "my_package:data", "null": None},
    ("threat", "spec"): {"ball": "linf:0.1", "sphere": "sphere:0.1", OWN: "my_package:Threat"},
    ("network", "name"): {name: name for name in NETWORKS} | {OWN: "my_package:Net"},
    **{
        (section, "name"): {name: name for name in ATTACKS if name != "transfer"} | {OWN: "my_package:Attack"}
        for section in ("attack", "evaluation", "final")
    },
    **{
        (section, "name"): {name: name for name in registry} | {OWN: "my_package:Own"}
        for section, registry in (
            ("objective", OBJECTIVES),
            ("augmentation", AUGMENTATIONS),
            ("weight_perturbation", PERTURBATIONS),
            ("averaging", AVERAGING),
        )
    },
    ("training", "loss"): {name: name for name in LOSSES} | {OWN: "my_package:Loss"},
    ("training", "optimizer"): {
        "auto": "auto",
        "sgd": "sgd",
        "adam": "adam",
        "adamw": "adamw",
        OWN: "torch.optim.RMSprop",
    },
    ("training", "parameter_radius"): {"a number": 5.0, "null": None},
    ("certificate", "trace"): {True: True, False: False},
}


def dependent():
    for path, (entry, default) in LEAVES.items():
        for tag, allowed in (entry.metadata["of"] or {}).items():
            words = ALTERNATIVES[path.partition(".")[0], tag].items()
            if entry.metadata["declared"]:  # there are many attacks: one that has it and one that has not
                words = [
                    next(item for item in words if (item[0] in allowed) == fits) for fits in (True, False)
                ]
            for word, value in words:
                default = to_dict(default) if dataclasses.is_dataclass(default) else default
                yield pytest.param(path, tag, value, word in allowed, default, id=f"{path} with {tag} {word}")


def test_every_alternative_named_exists():
    """A misspelt alternative would switch a setting off for good."""
    for path, (entry, _) in LEAVES.items():
        for tag, allowed in (entry.metadata["of"] or {}).items():
            known = {*ALTERNATIVES[path.partition(".")[0], tag], "shattering", "separated"}
            assert set(allowed) <= known, path


@pytest.mark.parametrize(("path", "tag", "value", "fits", "default"), list(dependent()))
def test_an_option_is_taken_exactly_where_it_applies(path, tag, value, fits, default):
    section, _, name = path.partition(".")
    values = {section: {tag: value, name: default}}
    if fits:
        assert name in to_dict(from_dict(values))[section]
        return
    with pytest.raises(InputError, match=rf"{path} must go with {section}\.{tag} ") as refused:
        from_dict(values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("path", "tag", "value", "fits", "default"), list(dependent()))
def test_the_command_line_and_a_file_say_the_same(path, tag, value, fits, default, tmp_path):
    section, _, name = path.partition(".")
    file = tmp_path / "run.yaml"
    given = list(default) if isinstance(default, tuple) else default
    file.write_text(yaml.safe_dump({section: {tag: value, name: given}}))
    words = [
        f"--{section}.{key.replace('_', '-')}={json.dumps(one)}"
        if not isinstance(one, str)
        else f"--{section}.{key.replace('_', '-')}={one}"
        for key, one in ((tag, value), (name, given))
    ]
    for argv in ([str(file)], words):
        if fits:
            read_config(argv)
        else:
            with pytest.raises(InputError, match=f"{path} must go with"):
                read_config(argv)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--network", "mnist-conv", "--width", "5000"],
            "network.width must go with network.name two-layer or dense or preact-resnet or cnn7, got it with mnist-conv",
        ),
        (
            ["--attack", "fgsm", "--attack.steps", "50"],
            "attack.steps must go with attack.name pgd or apgd or fab or carlini-wagner or deepfool, got it with fgsm, and fgsm takes step_size, start, loss",
        ),
        (["--attack.init-args.foo", "4"], "attack.init_args must go with attack.name your own"),
        (["--network.init-args.hiden", "3"], "network.init_args must go with network.name your own"),
        (
            ["--network", "dense", "--network.constant", "1"],
            "network.constant must go with network.name two-layer",
        ),
        (
            ["--optimizer", "adam", "--training.momentum", "0.5"],
            "training.momentum must go with training.optimizer auto or sgd",
        ),
        (
            ["--certificate.trace", "false", "--certificate.trace-every", "2"],
            "certificate.trace_every must go with certificate.trace true",
        ),
        (["--data", "spheres", "--classes", "0,1"], "data.classes must go with data.name"),
        (
            ["--final", "clean", "--final.restarts", "2"],
            "final.restarts must go with final.name pgd or apgd or fab or square",
        ),
    ],
)
def test_the_refusal_names_what_applies(argv, said, capsys):
    assert main(["train", *argv, "--print-config"]) == 2
    assert said in capsys.readouterr().err


def test_an_option_that_picks_another_alternative_takes_the_place_of_what_the_file_said(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("network: {name: two-layer, width: 64, paired: false}\nfinal: {name: pgd, steps: 7}\n")
    config, _ = read_config([str(file), "--network", "mnist-conv", "--final", "fgsm"])
    assert config.network == NetworkConfig.section("mnist-conv")
    assert config.final.name == "fgsm"


def test_what_is_written_reads_back_whatever_was_chosen():
    for name in NETWORKS:
        for attack in ALTERNATIVES["attack", "name"].values():
            run = RunConfig()
            run = dataclasses.replace(
                run,
                network=with_entries(run.network, {"name": name}, "network"),
                final=with_entries(run.final, {"name": attack}, "final"),
            )
            assert from_dict(to_dict(run)) == run


def test_settings_made_in_python_are_held_to_the_same():
    with pytest.raises(InputError, match=r"network\.width must go with network\.name"):
        with_entries(NetworkConfig.section("mnist-conv"), {"width": 64}, "network")
    assert not applies(NetworkConfig.section("mnist-conv"), "width")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["evaluate", "RUN", "--out", "x"], "--out must go with a file of weights"),
        (["evaluate", "RUN", "--data", "digits"], "--data must go with a file of weights"),
        (["evaluate", "RUN", "--classes", "3,8"], "--data must go with a file of weights"),
        (["evaluate", "RUN", "--log-outputs"], "--log-outputs must go with"),
        (
            ["evaluate", "RUN", "--verify", "none", "--verify-seconds", "3"],
            "--verify-seconds must go with --verify auto or ibp",
        ),
        (
            ["evaluate", "FILE.onnx", "--weights", "best", "--data", "digits", "--threat", "linf:0.1"],
            "--weights must go with a run folder, got it with an ONNX file, and an ONNX file takes --data, ",
        ),
        (
            ["evaluate", "FILE.onnx", "--trusted", "--data", "digits", "--threat", "linf:0.1"],
            "--trusted must go with a run folder or a program",
        ),
        (
            ["evaluate", "FILE.pt2", "--network", "my:Net", "--trusted", "--data", "digits"],
            "--trusted must go with a run folder or a program",
        ),
        (
            ["plan", "--data", "digits", "--threat", "l2:0.1", "--network.depth", "3"],
            "network.depth must go with network.name dense",
        ),
        (
            [
                "plan",
                "--data",
                "digits",
                "--threat",
                "l2:0.1",
                "--network",
                "dense",
                "--network.center",
                "false",
            ],
            "network.center must go with",
        ),
        (
            [
                "plan",
                "--data",
                "digits",
                "--threat",
                "l2:0.1",
                "--network",
                "mnist-conv",
                "--activation",
                "relu",
            ],
            "network.activation must go with",
        ),
        (
            ["plan", "--data", "digits", "--threat", "l2:0.1", "--no-box"],
            "option --no-box does not exist; write --threat.box false.",
        ),
        (
            ["plan", "--data", "digits", "--threat", "l2:0.1", "--loss=0.2"],
            "option --loss does not exist; write --target-loss.",
        ),
        (
            ["plan", "--data", "digits", "--threat", "l2:0.1", "--threat.box", "perhaps"],
            "must be true or false, got 'perhaps'",
        ),
        (["evaluate", "RUN", "--sample", "20"], "option --sample does not exist; write --examples."),
        (["evaluate", "RUN", "--no-box"], "option --no-box does not exist; write --threat.box false."),
        (
            ["evaluate", "FILE.pt2", "--network.width", "8", "--data", "digits", "--threat", "linf:0.1"],
            "needs --network, got none",
        ),
        (
            ["evaluate", "FILE.pt2", "--network", "dense", "--network.center", "false"],
            "network.center must go with network.name two-layer",
        ),
        (["plan", "--threat.allow-incompatible"], "is one of `holdfast train`"),
        (["certify", "RUN", "--seed", "3"], "option --seed is one of `holdfast train`"),
        (["sweep", "--address", "auto"], "--address must go with --backend ray"),
        (["sweep", "--backend", "ray", "--processes", "2"], "--processes must go with --backend joblib"),
        (
            ["sweep", "--data", "digits", "--hidden-layers", "2"],
            "--hidden-layers must go with --capacity true",
        ),
        (
            ["sweep", "--capacity", "--data", "forced", "--threat", "l2", "--epochs", "3"],
            "--training.epochs is for training",
        ),
        (
            ["doctor", "--data", "digits", "--epochs", "3"],
            "option --epochs is one of `holdfast train`, and `holdfast doctor` has nothing to do with it",
        ),
    ],
)
def test_the_other_commands_do_the_same(argv, said, tmp_path, capsys):
    (tmp_path / "RUN").mkdir()
    for name in ("FILE.onnx", "FILE.pt2"):
        (tmp_path / name).write_bytes(b"")
    argv = [str(tmp_path / word) if word.startswith(("RUN", "FILE")) else word for word in argv]
    assert main(argv) == 2
    assert said in capsys.readouterr().err


class Cube(hf.CustomThreat):
    """Changes every feature by at most the radius; ``limits`` says what else it heeds."""

    def __init__(self, bounds=None, fixed=None, limits=("bounds", "fixed")):
        def project(points, x):
            inside = torch.minimum(torch.maximum(points, x - 0.01), x + 0.01)
            if "bounds" in limits and bounds is not None:
                inside = torch.minimum(torch.maximum(inside, x.clamp(max=bounds[0])), x.clamp(min=bounds[1]))
            return torch.where(fixed, x, inside) if "fixed" in limits and fixed is not None else inside

        super().__init__(project, radius_hint=1.0)


def heedless():
    return Cube()


@pytest.mark.parametrize(
    ("path", "limits", "settings", "said"),
    [
        ("Cube", ("bounds", "fixed"), {"fixed": (0, 5)}, None),
        ("Cube", ("bounds",), {"fixed": (0, 5)}, "must leave the fixed features alone"),
        ("Cube", ("bounds",), {}, None),
        ("Cube", ("fixed",), {}, "must stay within the data's valid box"),
        ("Cube", ("fixed",), {"box": False}, None),
        ("heedless", None, {"fixed": (0, 5), "box": False}, "must leave the fixed features alone"),
        ("heedless", None, {"box": False}, None),
    ],
)
def test_a_threat_of_ones_own_heeds_the_box_and_the_fixed_features_or_is_refused(
    path, limits, settings, said
):
    arguments = {} if limits is None else {"limits": limits}
    config = ThreatConfig(spec=Trusted(f"{__name__}:{path}"), init_args=arguments, **settings)
    data = hf.data.digits(classes=(3, 8))
    if said is not None:
        with pytest.raises(InputError, match=said):
            build_threat(config, data)
        return
    threat = build_threat(config, data)
    if "fixed" in settings:
        assert bool(
            (threat.sample(data.x, generator=torch.Generator())[:, [0, 5]] == data.x[:, [0, 5]]).all()
        )
