"""The doctor: every finding appears on a run that has the trouble, and none on a healthy one."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from holdfast.data import from_tensors
from holdfast.diagnosis.rules import RULES
from holdfast.errors import RunFolderError
from holdfast.jobs.doctor import NEEDED, examine
from holdfast.jobs.environment import data_and_threat, environment
from holdfast.threats import CustomThreat, LpBall

HEALTHY = {
    "name": "healthy",
    "interrupted": False,
    "threat": "l2:0.1",
    "parameter_radius": 20.0,
    "data": {"name": "digits", "classes": 2, "train": 800, "validation": 100, "test": 200},
    "accuracy_on": "test",
    "clean_accuracy": 0.98,
    "robust_accuracy": 0.93,
    "train_clean_accuracy": 0.99,
    "train_robust_accuracy": 0.95,
    "surrogate_loss": 0.12,
    "robust_loss_lower_bound": 0.118,
    "robust_loss_upper_bound": 0.121,
    "gap": 0.002,
    "certificate_status": "certified",
    "certificate_reason": "the two-layer curvature bound is a proof",
    "width_factor": 0.5,
    "certificate_informative": True,
    "robust_loss_attacked": 0.121,
    "training_attack_loss": 0.12,
    "closing": {
        "train": {"examples": 200, "population": 800, "robust": 188, "under_training_attack": 190},
        "test": {"examples": 200, "robust": 186},
    },
    "evaluation": {"verdict": {"word": "trust", "warnings": []}},
    "drift": [{"layer": "weight", "value": 20.0, "radius": 20.0}],
    "per_class": [
        {"class_name": str(k), "examples": 100, "clean_accuracy": 1, "robust_accuracy": 1} for k in (3, 8)
    ],
    "compatibility": {"compatible": True, "smallest_distance": 0.9, "pairs_meeting": 0, "reach": 0.2},
}
SETTLED = [0.69, 0.4, 0.25, 0.17, 0.14, 0.125, 0.1205, 0.1201, 0.12, 0.12]


def run_folder(folder, changes=None, losses=SETTLED, void="", extra=""):
    """A run like the healthy one but for some entries: ``{"closing.test.robust": 3}``; ``None`` removes."""
    summary = copy.deepcopy(HEALTHY)
    for path, value in (changes or {}).items():
        *parents, name = path.split(".")
        inner = summary
        for parent in parents:
            inner = inner[parent]
        if value is None:
            del inner[name]
        else:
            inner[name] = value
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = [
        {
            "epoch": i + 1,
            "rounds": i + 1,
            "online_loss": loss,
            "robust_accuracy": 0.8,
            "lower_bound": 0.1,
            "void": void,
        }
        for i, loss in enumerate(losses)
    ]
    (folder / "trace").mkdir(exist_ok=True)
    for name in NEEDED:
        if name.endswith(".json"):
            (folder / name).write_text("{}")
        else:
            save_file({"weight": torch.ones(4, 4)}, folder / name)
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + extra)
    return folder


def troubles(findings):
    return {finding.name: finding for finding in findings if finding.level != "good"}


def test_a_healthy_run_has_one_good_word_for_everything(tmp_path):
    findings = examine(run_folder(tmp_path))
    assert [(finding.name, finding.level) for finding in findings] == [
        (name, "good") for name in ("files", *RULES)
    ]
    assert not any(finding.remedy for finding in findings)


TROUBLES = [
    ("run", "warning", {"interrupted": True}, {}, "interrupted", "--resume"),
    (
        "files",
        "warning",
        {},
        {"extra": '\n{"epoch": 11, "rou'},
        "1 line of metrics.jsonl",
        "nothing need be done",
    ),
    ("data", "warning", {"data.test": 40}, {}, "40 test examples", "--data.test"),
    (
        "data",
        "warning",
        {
            "per_class": [
                {"class_name": "cat", "examples": 300, "robust_accuracy": 0.93},
                {"class_name": "dog", "examples": 200, "robust_accuracy": 0.93},
                {"class_name": "owl", "examples": 3},
            ]
        },
        {},
        "class owl",
        "collect more",
    ),
    (
        "threat",
        "bad",
        {
            "compatibility": {
                "compatible": False,
                "smallest_distance": 0.15,
                "pairs_meeting": 1234,
                "reach": 0.2,
            }
        },
        {},
        "1,234 pairs",
        "below 0.075",
    ),
    ("threat", "warning", {"compatibility.smallest_distance": 0.21}, {}, "95 % of the way", "below 0.105"),
    ("attack", "warning", {"robust_loss_attacked": 0.17}, {}, "0.0500 more loss", "--attack.steps"),
    (
        "attack",
        "warning",
        {"closing.train.under_training_attack": 199},
        {},
        "5.5 points of accuracy",
        "--attack.steps",
    ),
    (
        "attack",
        "warning",
        {"attack_missed": 0.07},
        {},
        "the attack missed at least 0.0700 of loss",
        "--attack.steps",
    ),
    (
        "evaluation",
        "warning",
        {
            "evaluation.verdict": {
                "word": "doubt",
                "warnings": [
                    {
                        "name": "randomness",
                        "level": "warning",
                        "sentence": "it is random",
                        "remedy": "average",
                    }
                ],
            }
        },
        {},
        "randomness: it is random",
        "average",
    ),
    ("training", "bad", {}, {"losses": [0.5, 0.6, 0.9, 1.4]}, "rose from 0.5000 to 1.400", "--learning-rate"),
    (
        "training",
        "warning",
        {},
        {"losses": [0.69, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2]},
        "still falling",
        "--epochs 16",
    ),
    (
        "optimisation",
        "warning",
        {"gap": 0.06, "drift": [{"layer": "weight", "value": 5.0, "radius": 20.0}]},
        {},
        "25 % of the parameter radius",
        "smaller ball",
    ),
    (
        "optimisation",
        "warning",
        {"gap": 0.06, "width_factor": 7.3},
        {},
        "no longer falls",
        "a network about 7.3 times as wide has less (--width)",
    ),
    ("optimisation", "warning", {"gap": 0.06}, {}, "no longer falls", "centred inputs"),
    (
        "capacity",
        "warning",
        {
            "surrogate_loss": 0.5,
            "robust_loss_lower_bound": 0.49,
            "robust_loss_upper_bound": 0.51,
            "gap": 0.01,
        },
        {},
        "no network in this ball is below 0.4900",
        "--parameter-radius",
    ),
    (
        "capacity",
        "warning",
        {
            "surrogate_loss": 0.5,
            "robust_loss_lower_bound": 0.49,
            "robust_loss_upper_bound": 0.51,
            "gap": 0.01,
            "drift": [{"layer": "weight", "value": 12.0, "radius": 20.0}],
        },
        {},
        "the ball is the limit",
        "--width",
    ),
    (
        "generalisation",
        "warning",
        {"closing.test.robust": 140},
        {},
        "94.00 % on 200 of 800 training examples and 70.00 % on 200 test examples: 24 points apart",
        "more examples",
    ),
    ("trace", "warning", {}, {"void": "batch norm in training mode"}, "10 of 10 epochs", "void"),
    (
        "certificate",
        "bad",
        {"certificate_status": "void", "certificate_reason": "dropout."},
        {},
        "void: dropout",
        "fix that cause",
    ),
    (
        "certificate",
        "warning",
        {"certificate_status": "estimate", "certificate_reason": "no curvature bound is known"},
        {},
        "no curvature bound is known",
        "two-layer",
    ),
]


@pytest.mark.parametrize(("area", "state", "changes", "files", "what", "remedy"), TROUBLES)
def test_each_trouble_is_found_alone_with_its_remedy(tmp_path, area, state, changes, files, what, remedy):
    found = troubles(examine(run_folder(tmp_path, changes, **files)))
    if changes.get("certificate_status") == "void":
        assert found.pop("optimisation").sentence == "the certificate is void"
    assert set(found) == {area}
    assert found[area].level == state
    assert what in found[area].sentence
    assert remedy in found[area].remedy


def test_a_run_without_a_certificate_is_told_how_to_have_one(tmp_path):
    found = troubles(examine(run_folder(tmp_path, {"certificate_status": None})))
    assert found["certificate"].level == "warning"
    assert "holdfast certify" in found["certificate"].remedy
    assert found["optimisation"].level == "not-measured"


def test_what_was_not_measured_is_not_called_fine(tmp_path):
    run_folder(tmp_path, losses=[])
    (tmp_path / "summary.json").write_text("{}")
    findings = examine(tmp_path)
    assert {finding.name for finding in findings if finding.level == "good"} == {"files", "run"}
    assert {finding.name for finding in findings if finding.level == "warning"} == {"certificate"}
    assert {finding.level for finding in findings if finding.name not in ("files", "run", "certificate")} == {
        "not-measured"
    }


def test_noise_that_goes_down_by_chance_is_not_called_falling(tmp_path):
    losses = [0.69, 0.3, 0.12, 0.125, 0.12, 0.124, 0.126, 0.121, 0.125, 0.122]
    assert not troubles(examine(run_folder(tmp_path, losses=losses)))


@pytest.mark.parametrize("text", ["", '{"name": "cut sh', "[]"])
def test_a_run_cut_short_is_refused(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(RunFolderError):
        examine(tmp_path)


def test_this_machine_is_described_without_trouble_in_the_installation(tmp_path):
    findings = {finding.name: finding for finding in environment(tmp_path / "not" / "there")}
    assert {"torch", "packages", "processors", "accelerator", "memory", "disk"} == set(findings)
    assert findings["torch"].sentence == f"torch {torch.__version__}"
    assert findings["packages"].level == "good"
    assert findings["disk"].level != "bad"


def test_a_place_that_cannot_be_written_is_bad(tmp_path):
    (tmp_path / "file").write_text("")
    disk = next(finding for finding in environment(tmp_path / "file") if finding.name == "disk")
    assert disk.level == "bad"
    assert "--out" in disk.remedy


def line(*values, labels, **options):
    """Examples on a line, all of them for training."""
    x = torch.tensor(values)[:, None]
    return from_tensors(x, torch.tensor(labels), bounds=(0.0, 1.0), validation=0.0, test=0.0, **options)


def test_threats_are_weighed_against_the_nearest_labels():
    data = line(0.0, 0.1, 0.5, 0.6, labels=[0, 0, 1, 1])  # nearest labels 0.4 apart
    small = troubles(data_and_threat(data, LpBall("inf", 0.1, bounds=(0.0, 1.0))))
    assert not small
    near = troubles(data_and_threat(data, LpBall("inf", 0.19, bounds=(0.0, 1.0))))
    assert near["threat"].level == "warning"
    meeting = troubles(data_and_threat(data, LpBall("inf", 0.3, bounds=(0.0, 1.0))))
    assert meeting["threat"].level == "bad"
    assert "0.2" in meeting["threat"].remedy
    grey = troubles(data_and_threat(data, LpBall("inf", 0.5, bounds=(0.0, 1.0))))
    assert set(grey) == {"threat", "box"}


def test_a_threat_the_data_cannot_bear_is_bad():
    data = line(0.0, 0.1, 0.5, 0.6, labels=[0, 0, 1, 1])
    outside = troubles(data_and_threat(data, LpBall("inf", 0.1, bounds=(0.2, 1.0))))
    assert outside["threat"].level == "bad"


def test_own_threats_are_judged_by_their_reach():
    data = line(0.0, 0.1, 0.5, 0.6, labels=[0, 0, 1, 1])
    own = CustomThreat(
        lambda points, x: torch.minimum(torch.maximum(points, x - 0.3), x + 0.3), radius_hint=0.3
    )
    assert troubles(data_and_threat(data, own))["threat"].level == "bad"


def test_rare_classes_are_found():
    y = torch.tensor([0] * 60 + [1] * 2)
    data = from_tensors(
        torch.rand(62, 3, generator=torch.Generator().manual_seed(0)), y, validation=0.0, test=0.0
    )
    assert "class 1" in troubles(data_and_threat(data))["classes"].sentence


def test_files_cut_short_are_named(tmp_path):
    run_folder(tmp_path)
    save_file({"weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "checkpoints").mkdir()
    torch.save({"epoch": 3}, tmp_path / "checkpoints" / "last.pt")
    assert all(f.level == "good" for f in examine(tmp_path) if f.name == "files")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-8])
    found = next(f for f in examine(tmp_path) if f.name == "files")
    assert found.level == "bad"
    assert "model.safetensors" in found.sentence
    assert "last.safetensors" not in found.sentence


@pytest.mark.parametrize("name", ["trace/trace.json", "trace/setting.json", "checkpoints/last.pt"])
def test_other_files_cut_short_are_named(tmp_path, name):
    path = run_folder(tmp_path) / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".pt":
        torch.save({"epoch": 3}, path)
    else:
        path.write_text('{"format": 1, "names": []}')
    assert all(f.level == "good" for f in examine(tmp_path) if f.name == "files")
    path.write_bytes(path.read_bytes()[:-8])
    found = next(f for f in examine(tmp_path) if f.name == "files")
    assert found.level == "bad"
    assert f"{name} cannot be read" in found.sentence


def test_missing_files_are_named(tmp_path):
    run_folder(tmp_path)
    shutil.rmtree(tmp_path / "trace")
    found = next(f for f in examine(tmp_path) if f.name == "files")
    assert found.level == "bad"
    assert "trace/trace.json" in found.sentence
    assert "last.safetensors" not in found.sentence


def test_a_class_far_below_the_others_is_named(tmp_path):
    rows = [{"class_name": "cat", "examples": 100, "clean_accuracy": 1, "robust_accuracy": 0.98}]
    rows += [{"class_name": "owl", "examples": 100, "clean_accuracy": 1, "robust_accuracy": 0.3}]
    found = troubles(examine(run_folder(tmp_path, {"per_class": rows})))
    assert "class owl (30 %)" in found["classes"].sentence
    few = [rows[0], rows[1] | {"examples": 5}]
    assert "classes" not in troubles(examine(run_folder(tmp_path, {"per_class": few})))


def test_curvature_is_named_even_where_the_loss_still_falls(tmp_path):
    falling = [0.69, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25]
    changes = {"gap": 0.2, "surrogate_loss": 0.3, "width_factor": 34.0}
    run_folder(tmp_path, changes, falling)
    found = next(f for f in examine(tmp_path) if f.name == "optimisation")
    assert "train longer" in found.remedy
    assert "a network about 34 times as wide" in found.remedy
    run_folder(tmp_path, changes | {"width_factor": 0.5}, falling)
    found = next(f for f in examine(tmp_path) if f.name == "optimisation")
    assert "wide" not in found.remedy
