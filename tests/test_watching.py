"""What is watched while training: catastrophic and robust overfitting, and networks that learn nothing."""

import json
from dataclasses import replace

import pytest
import torch

import holdfast as hf
from holdfast.diagnosis.known import ClassKnown, EpochAccuracy, Known
from holdfast.diagnosis.rules import collapse, diagnose
from holdfast.evaluation.cascade import drawn
from holdfast.jobs.probe import PROBED
from holdfast.record.known import known_of, robust_by_epoch
from holdfast.record.schema import EpochFigures, Summary

THREAT = hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))


def curve(*shares):
    return tuple(EpochAccuracy(epoch=epoch, robust=share) for epoch, share in enumerate(shares, 1))


def finding(name, **known):
    return next(f for f in diagnose(Known(**known)) if f.name == name)


@pytest.mark.parametrize(
    ("shares", "epoch"),
    [
        ((0.3, 0.4, 0.41, 0.02), 4),
        ((0.4, 0.19, 0.4), 2),
        ((0.4, 0.2, 0.4), None),  # half of the best is left
        ((0.19, 0.0), None),  # it may be noise
        ((0.4,), None),
        ((), None),
    ],
)
def test_a_collapse_is_the_loss_of_more_than_half_of_the_best(shares, epoch):
    found = collapse(curve(*shares))
    assert (None if found is None else found.epoch) == epoch


def test_catastrophic_overfitting_is_bad_and_robust_overfitting_a_warning():
    lost = finding("overfitting", robust_by_epoch=curve(0.3, 0.45, 0.01, 0.02))
    assert lost.level == "bad"
    assert lost.sentence == (
        "catastrophic overfitting in epoch 3: robust accuracy fell from 45 % (epoch 2) to 1 %; "
        "it ended at 2 %"
    )
    assert "grad-align" in lost.remedy
    assert "--recipe grad-align" in lost.command
    past = finding("overfitting", robust_by_epoch=curve(0.3, 0.45, 0.42, 0.39))
    assert past.level == "warning"
    assert "highest in epoch 2, 45 %, and fell to 39 %" in past.sentence
    assert finding("overfitting", robust_by_epoch=curve(0.3, 0.45, 0.42)).level == "good"
    # one that came back from a collapse is judged by its end
    assert finding("overfitting", robust_by_epoch=curve(0.45, 0.01, 0.44)).level == "good"
    assert finding("overfitting", robust_by_epoch=curve(0.3)).level == "not-measured"


@pytest.mark.parametrize(
    ("accuracy", "sizes", "level"),
    [
        (0.5, (50, 50), "bad"),
        (0.52, (50, 50), "bad"),
        (0.6, (50, 50), "good"),
        (0.9, (90, 10), "bad"),
        (0.93, (90, 10), "good"),
        (0.13, (10,) * 10, "bad"),
        (0.2, (10,) * 10, "good"),
    ],
)
def test_a_network_that_names_one_class_has_learnt_nothing(accuracy, sizes, level):
    classes = tuple(ClassKnown(name=str(i), examples=float(size), robust=0.0) for i, size in enumerate(sizes))
    found = finding("training", online=(0.7,) * 6, clean_accuracy=accuracy, per_class=classes)
    assert found.level == level
    short = finding("training", online=(0.7,), clean_accuracy=accuracy, per_class=classes)
    assert short.level == ("bad" if level == "bad" else "not-measured")
    assert ("has learnt nothing" in found.sentence) == (level == "bad")


def test_the_validation_part_counts_before_the_probe():
    rows = [EpochFigures(epoch=1, robust_accuracy=0.4), EpochFigures(epoch=2, probe_accuracy=0.1)]
    assert robust_by_epoch(rows) == (EpochAccuracy(epoch=1, robust=0.4),)
    assert robust_by_epoch(rows[1:]) == (EpochAccuracy(epoch=2, robust=0.1),)
    assert robust_by_epoch([]) == known_of(Summary(), [EpochFigures(epoch=1)]).robust_by_epoch == ()


def separable(validation):
    x, y = torch.rand(400, 6, generator=torch.Generator().manual_seed(0)), torch.arange(400) % 2
    x[:, 0] = 0.15 + 0.7 * y
    split = hf.data.split_rows(y, validation=validation, test=0.1)
    return hf.data.from_tensors(x, y, (0.0, 1.0), split=split)


def trained(attack, validation=0, **settings):
    net = hf.networks.TwoLayer(6, 2, width=8)
    return hf.train(
        net,
        separable(validation),
        THREAT,
        attack=attack,
        epochs=3,
        batch_size=40,
        closing="none",
        certificate=hf.CertificateSettings(tighten=0),
        progress=False,
        **settings,
    )


def test_training_against_a_single_step_is_probed_where_no_validation_part_is():
    run = trained("fgsm")
    found = [row["probe_accuracy"] for row in run.metrics]
    rows = drawn(len(run_data := separable(0).train.x), PROBED, 0)
    again = hf.evaluate(
        run.model, run_data[rows], separable(0).train.y[rows], THREAT, [hf.PGD(steps=10)], verify=None
    )
    assert found[-1] == again.robust_accuracy
    assert len(found) == 3
    for other in (trained("pgd"), trained("fgsm", 0.1)):
        assert all("probe_accuracy" not in row for row in other.metrics)


def test_a_probe_leaves_the_run_as_it_is(monkeypatch):
    probed = trained("fgsm-rs").weights()
    monkeypatch.setattr("holdfast.jobs.probe.probed", lambda session, row: row)
    assert all(torch.equal(weight, probed[name]) for name, weight in trained("fgsm-rs").weights().items())


def test_a_collapse_is_an_event_of_its_epoch(tmp_path, monkeypatch):
    shares = iter([0.5, 0.02, 0.01])
    monkeypatch.setattr(
        "holdfast.jobs.probe.probed",
        lambda session, row: replace(row, probe_accuracy=next(shares)),
        raising=True,
    )
    run = trained("fgsm", out=tmp_path / "run")
    said = "catastrophic overfitting in epoch 2: robust accuracy fell from 50 % (epoch 1) to 2 %"
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("event") for row in rows] == [None, said, None]
    assert said in (tmp_path / "run" / "log.txt").read_text()
    [found] = [f for f in run.findings if f.name == "overfitting"]
    assert found.level == "bad"
    assert found.sentence.startswith(said)
