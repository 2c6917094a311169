"""Kernel drift, alignment and eigenvalues: the formulas on small matrices, wider networks against narrower ones, the columns of a run."""

import math

import pytest
import torch

import holdfast as hf
from holdfast.errors import InputError
from holdfast.networks import Dense, TwoLayer
from holdfast.theory import KernelWatch, empirical_ntk, kernel_alignment, kernel_drift
from holdfast.theory.drift import extreme_eigenvalues
from settings import grouped

COLUMNS = (
    "kernel_drift",
    "kernel_alignment",
    "kernel_centred_alignment",
    "kernel_eigenvalue_max",
    "kernel_eigenvalue_min",
    "weight_drift",
)


def sample(count=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=draw), torch.arange(count) % 2


def test_formulas_on_small_matrices():
    start = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert kernel_drift(start, start) == 0
    assert kernel_drift(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), start) == pytest.approx(0.5)
    y = torch.tensor([0, 1, 1])
    signs = torch.tensor([-1.0, 1.0, 1.0])
    assert kernel_alignment(torch.outer(signs, signs) * 3, y, 2) == pytest.approx(1.0)
    assert kernel_alignment(torch.eye(3), y, 2) == pytest.approx(1 / math.sqrt(3))
    # a constant added to the kernel is no alignment with anything once both are centred
    shifted = torch.outer(signs, signs) + 100
    assert kernel_alignment(shifted, y, 2) < 0.5
    assert kernel_alignment(shifted, y, 2, centred=True) == pytest.approx(1.0)
    assert kernel_alignment(torch.ones(3, 3), y, 2, centred=True) == 0.0
    three = torch.tensor([0, 1, 2, 0])
    onehot = torch.nn.functional.one_hot(three).float()
    assert kernel_alignment(onehot @ onehot.T, three, 3) == pytest.approx(1.0)
    assert extreme_eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]])) == pytest.approx((3.0, 1.0))
    assert all(map(math.isnan, extreme_eigenvalues(torch.full((2, 2), math.nan))))


def test_alignment_of_two_classes_centred_is_that_of_one_hot_labels():
    x, y = sample()
    kernel = x @ x.T
    one = kernel_alignment(kernel, y, 2, centred=True)
    assert one == pytest.approx(kernel_alignment(kernel, y, 3, centred=True), rel=1e-9)


def test_a_look_at_the_start_has_no_drift_and_agrees_with_the_kernel():
    x, y = sample()
    model = TwoLayer(6, 2, 40, constant=0.5)
    watch = KernelWatch(model, x, y, classes=2, examples=8)
    seen = watch.look(model)
    assert seen.drift == 0
    assert seen.weight_drift == 0
    values = torch.linalg.eigvalsh(empirical_ntk(model, watch.x).double())
    assert seen.eigenvalue_max == pytest.approx(float(values.max()))
    assert seen.eigenvalue_min == pytest.approx(float(values.min()))
    assert seen.condition == pytest.approx(float(values.max() / values.min()))
    assert len(watch.x) == 8
    with torch.no_grad():
        model.weight.mul_(1.1)
    later = watch.look(model)
    assert later.drift > 1e-3
    assert later.weight_drift == pytest.approx(0.1, rel=1e-5)


def test_wider_networks_drift_less():
    """The same loss decrease by gradient descent at three widths; the drift falls like ``width^(-1/2)``."""
    x, y = sample(16)
    drifts = []
    for width in (64, 1024, 16_384):
        model = TwoLayer(6, 2, width, seed=1)
        watch = KernelWatch(model, x, y, classes=2, examples=16)
        optimizer = torch.optim.SGD(model.parameters(), lr=4.0)
        for _ in range(30):
            optimizer.zero_grad()
            torch.nn.functional.softplus(-(2.0 * y - 1) * model(x)[:, 0]).mean().backward()
            optimizer.step()
        drifts.append(watch.look(model).drift)
    assert drifts[0] > 2 * drifts[1] > 4 * drifts[2] > 0


def trained(tmp_path, **given):
    data = hf.data.digits(classes=(3, 8), seed=0)
    model = Dense(data.features, 2, 16, 2)
    options = {
        "attack": hf.attacks.PGD(steps=1),
        "evaluation_attack": hf.attacks.PGD(steps=1),
        "closing": "none",
        "epochs": 3,
        "learning_rate": 0.05,
        "accelerator": "cpu",
        "progress": False,
        "tighten": 0,
        "out": tmp_path,
    }
    return hf.train(model, data, hf.threats.LpBall("l2", 0.1), **grouped(options | given))


def test_columns_are_written_for_evaluated_epochs_only_and_a_resumed_run_repeats_them(tmp_path):
    run = trained(tmp_path / "whole", kernel_examples=10, evaluate_every=2, epochs=4)
    looked = [all(column in row for column in COLUMNS) for row in run.metrics]
    assert looked == [False, True, False, True]
    assert all(math.isfinite(run.metrics[-1][column]) for column in COLUMNS)
    assert run.metrics[-1]["kernel_drift"] > 0
    trained(tmp_path / "parts", kernel_examples=10, evaluate_every=2, epochs=2)
    rest = trained(tmp_path / "parts", kernel_examples=10, evaluate_every=2, epochs=4, resume=True)
    for column in COLUMNS:
        assert rest.metrics[-1][column] == pytest.approx(run.metrics[-1][column], rel=1e-5)


def test_the_page_draws_them_where_they_are_and_says_so_where_they_are_not(tmp_path):
    trained(tmp_path / "watched", kernel_examples=6, epochs=2)
    trained(tmp_path / "plain", epochs=2)
    one = hf.write_report([tmp_path / "watched"], tmp_path / "one.html").read_text(encoding="utf-8")
    assert "Tangent kernel on a sample of the training part (observed)" in one
    assert "From the first look to the last the largest eigenvalue went from" in one
    both = hf.write_report([tmp_path / "plain", tmp_path / "watched"], tmp_path / "both.html")
    assert "The tangent kernel: not observed." in both.read_text(encoding="utf-8")
    plain = hf.write_report([tmp_path / "plain"], tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "Tangent kernel" not in plain


def test_off_by_default(tmp_path):
    run = trained(tmp_path, epochs=1)
    assert not any(column in row for row in run.metrics for column in COLUMNS)


def test_bad_numbers_and_too_little_memory_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="kernel_examples must be a whole number >= 2, or None, got 1"):
        trained(tmp_path / "one", kernel_examples=1)
    monkeypatch.setattr("holdfast._memory.free_bytes", lambda device: 2**10)
    with pytest.raises(InputError, match="must fit into the free memory of cpu"):
        trained(tmp_path / "two", kernel_examples=10)
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "two").exists()
