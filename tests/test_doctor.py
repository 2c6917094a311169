"""The doctor: every finding appears on a run that has the trouble, and none on a healthy one."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from holdfast.data import from_tensors
from holdfast.errors import RunFolderError
from holdfast.jobs.doctor import CHECKS, FINE, NEEDED, examine
from holdfast.jobs.surroundings import data_and_threat, environment
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
    "gaps": {
        "optimisation": {"value": 0.002, "claim": "proved", "verdict": "small"},
        "attack": {"value": 0.001, "claim": "observed", "verdict": "small"},
        "capacity": {"low": 0.118, "high": 0.121, "claim": "proved", "verdict": "small"},
    },
    "drift": [{"layer": "weight", "value": 20.0, "radius": 20.0}],
    "per_class": [
        {"class_name": str(k), "examples": 100, "clean_accuracy": 1, "robust_accuracy": 1} for k in (3, 8)
    ],
    "compatibility": {"compatible": True, "smallest_distance": 0.9, "pairs_meeting": 0, "reach": 0.2},
}
SETTLED = [0.69, 0.4, 0.25, 0.17, 0.14, 0.125, 0.1205, 0.1201, 0.12, 0.12]


def run_folder(folder, changes=None, losses=SETTLED, void="", extra=""):
    """A run like the healthy one but for some entries: ``{"gaps.attack.value": 0.3}``; ``None`` removes."""
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
        {"epoch": i + 1, "rounds": i + 1, "online_loss": loss, "lower_bound": 0.1, "void": void}
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
    return {finding.area: finding for finding in findings if finding.state != "ok"}


def test_a_healthy_run_has_one_good_word_for_every_area(tmp_path):
    findings = examine(run_folder(tmp_path))
    assert [(finding.area, finding.state) for finding in findings] == [(area, "ok") for area in CHECKS]
    assert [finding.what for finding in findings] == list(FINE.values())
    assert not any(finding.remedy for finding in findings)


TROUBLES = [
    ("run", "warn", {"interrupted": True}, {}, "interrupted", "--resume"),
    (
        "run",
        "warn",
        {},
        {"extra": '\n{"epoch": 11, "rou'},
        "1 lines of metrics.jsonl",
        "nothing need be done",
    ),
    ("data", "warn", {"data.test": 40}, {}, "40 test examples", "--data.test"),
    (
        "data",
        "warn",
        {"per_class": [{"class_name": "cat", "examples": 500}, {"class_name": "owl", "examples": 3}]},
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
    ("threat", "warn", {"compatibility.smallest_distance": 0.21}, {}, "95 % of the way", "below 0.105"),
    ("attack", "warn", {"gaps.attack.value": 0.05}, {}, "0.05 more loss", "--attack.steps"),
    ("optimisation", "bad", {}, {"losses": [0.5, 0.6, 0.9, 1.4]}, "rose from 0.5 to 1.4", "--learning-rate"),
    (
        "optimisation",
        "warn",
        {},
        {"losses": [0.69, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2]},
        "still falling",
        "--epochs 16",
    ),
    (
        "optimisation",
        "warn",
        {"gaps.optimisation.value": 0.06, "drift": [{"layer": "weight", "value": 5.0, "radius": 20.0}]},
        {},
        "25 % of the parameter radius",
        "smaller ball",
    ),
    (
        "optimisation",
        "warn",
        {"gaps.optimisation.value": 0.06, "width_factor": 7.3},
        {},
        "no longer falls",
        "about 7.3 times with --width",
    ),
    ("optimisation", "warn", {"gaps.optimisation.value": 0.06}, {}, "no longer falls", "centre its inputs"),
    (
        "capacity",
        "warn",
        {"surrogate_loss": 0.5, "robust_loss_lower_bound": 0.49, "gaps.optimisation.value": 0.01},
        {},
        "no network in this ball is below 0.49",
        "--parameter-radius",
    ),
    (
        "capacity",
        "warn",
        {
            "surrogate_loss": 0.5,
            "robust_loss_lower_bound": 0.49,
            "gaps.optimisation.value": 0.01,
            "drift": [{"layer": "weight", "value": 12.0, "radius": 20.0}],
        },
        {},
        "the ball is the limit",
        "--width",
    ),
    (
        "generalisation",
        "warn",
        {"robust_accuracy": 0.7},
        {},
        "95.0 % on the training part and 70.0 %",
        "more examples",
    ),
    ("trace", "warn", {}, {"void": "batch norm in training mode"}, "10 of 10 epochs", "void"),
    (
        "certificate",
        "bad",
        {"certificate_status": "void", "certificate_reason": "dropout."},
        {},
        "void: dropout",
        "mend",
    ),
    ("certificate", "warn", {"certificate_status": None}, {}, "no certificate", "holdfast certify"),
    (
        "certificate",
        "warn",
        {"certificate_status": "estimate", "certificate_reason": "no curvature bound is known"},
        {},
        "no curvature bound is known",
        "two-layer",
    ),
]


@pytest.mark.parametrize(("area", "state", "changes", "files", "what", "remedy"), TROUBLES)
def test_each_trouble_is_found_alone_with_its_remedy(tmp_path, area, state, changes, files, what, remedy):
    found = troubles(examine(run_folder(tmp_path, changes, **files)))
    assert set(found) == {area}
    assert found[area].state == state
    assert what in found[area].what
    assert remedy in found[area].remedy


def test_what_was_not_measured_is_not_called_fine(tmp_path):
    run_folder(tmp_path, losses=[])
    (tmp_path / "summary.json").write_text("{}")
    findings = {finding.area: finding for finding in examine(tmp_path)}
    measured = {"run", "certificate"}  # known without figures: whole or not, there or not
    assert {area for area, finding in findings.items() if finding.what == FINE[area]} == {"run"}
    assert all(
        finding.what == "not measured in this run"
        for area, finding in findings.items()
        if area not in measured
    )


def test_noise_that_goes_down_by_chance_is_not_called_falling(tmp_path):
    losses = [0.69, 0.3, 0.12, 0.125, 0.12, 0.124, 0.126, 0.121, 0.125, 0.122]
    assert not troubles(examine(run_folder(tmp_path, losses=losses)))


@pytest.mark.parametrize("text", ["", '{"name": "cut sh', "[]"])
def test_a_run_cut_short_is_refused(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(RunFolderError):
        examine(tmp_path)


def test_this_machine_is_described_without_trouble_in_the_installation(tmp_path):
    findings = {finding.area: finding for finding in environment(tmp_path / "not" / "there")}
    assert {"torch", "packages", "processors", "accelerator", "memory", "disk"} == set(findings)
    assert findings["torch"].what == f"torch {torch.__version__}"
    assert findings["packages"].state == "ok"
    assert findings["disk"].state != "bad"


def test_a_place_that_cannot_be_written_is_bad(tmp_path):
    (tmp_path / "file").write_text("")
    disk = next(finding for finding in environment(tmp_path / "file") if finding.area == "disk")
    assert disk.state == "bad"
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
    assert near["threat"].state == "warn"
    meeting = troubles(data_and_threat(data, LpBall("inf", 0.3, bounds=(0.0, 1.0))))
    assert meeting["threat"].state == "bad"
    assert "0.2" in meeting["threat"].remedy
    grey = troubles(data_and_threat(data, LpBall("inf", 0.5, bounds=(0.0, 1.0))))
    assert set(grey) == {"threat", "box"}


def test_a_threat_the_data_cannot_bear_is_bad():
    data = line(0.0, 0.1, 0.5, 0.6, labels=[0, 0, 1, 1])
    outside = troubles(data_and_threat(data, LpBall("inf", 0.1, bounds=(0.2, 1.0))))
    assert outside["threat"].state == "bad"


def test_own_threats_are_judged_by_their_reach():
    data = line(0.0, 0.1, 0.5, 0.6, labels=[0, 0, 1, 1])
    own = CustomThreat(
        lambda points, x: torch.minimum(torch.maximum(points, x - 0.3), x + 0.3), radius_hint=0.3
    )
    assert troubles(data_and_threat(data, own))["threat"].state == "bad"


def test_rare_classes_are_found():
    y = torch.tensor([0] * 60 + [1] * 2)
    data = from_tensors(
        torch.rand(62, 3, generator=torch.Generator().manual_seed(0)), y, validation=0.0, test=0.0
    )
    assert "class 1" in troubles(data_and_threat(data))["classes"].what


def test_files_cut_short_are_named(tmp_path):
    run_folder(tmp_path)
    save_file({"weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "checkpoints").mkdir()
    torch.save({"epoch": 3}, tmp_path / "checkpoints" / "last.pt")
    assert all(f.state == "ok" for f in examine(tmp_path) if f.area == "run")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-8])
    found = next(f for f in examine(tmp_path) if f.area == "run")
    assert found.state == "bad"
    assert "model.safetensors" in found.what
    assert "last.safetensors" not in found.what


@pytest.mark.parametrize("name", ["trace/trace.json", "trace/setting.json", "checkpoints/last.pt"])
def test_other_files_cut_short_are_named(tmp_path, name):
    path = run_folder(tmp_path) / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".pt":
        torch.save({"epoch": 3}, path)
    else:
        path.write_text('{"format": 1, "names": []}')
    assert all(f.state == "ok" for f in examine(tmp_path) if f.area == "run")
    path.write_bytes(path.read_bytes()[:-8])
    found = next(f for f in examine(tmp_path) if f.area == "run")
    assert found.state == "bad"
    assert f"{name} cannot be read" in found.what


def test_missing_files_are_named(tmp_path):
    run_folder(tmp_path)
    shutil.rmtree(tmp_path / "trace")
    found = next(f for f in examine(tmp_path) if f.area == "run")
    assert found.state == "bad"
    assert "trace/trace.json" in found.what
    assert "last.safetensors" not in found.what


def test_a_class_far_below_the_others_is_named(tmp_path):
    rows = [{"class_name": "cat", "examples": 100, "clean_accuracy": 1, "robust_accuracy": 0.98}]
    rows += [{"class_name": "owl", "examples": 100, "clean_accuracy": 1, "robust_accuracy": 0.3}]
    found = troubles(examine(run_folder(tmp_path, {"per_class": rows})))
    assert "class owl (30 %)" in found["generalisation"].what
    few = [rows[0], rows[1] | {"examples": 5}]
    assert "generalisation" not in troubles(examine(run_folder(tmp_path, {"per_class": few})))


def test_curvature_is_named_even_where_the_loss_still_falls(tmp_path):
    falling = [0.69, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25]
    changes = {"gaps.optimisation.value": 0.2, "gap": 0.2, "surrogate_loss": 0.3, "width_factor": 34.0}
    run_folder(tmp_path, changes, falling)
    found = next(f for f in examine(tmp_path) if f.area == "optimisation")
    assert "train longer" in found.remedy
    assert "widen the network about 34 times" in found.remedy
    run_folder(tmp_path, changes | {"width_factor": 0.5}, falling)
    found = next(f for f in examine(tmp_path) if f.area == "optimisation")
    assert "widen" not in found.remedy
