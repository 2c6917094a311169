"""Standing fuzz: no network that strong optimisation finds in the ball is better than any certified bound says is possible.

A fixed number of seeds runs always; `pytest -m slow` runs many more. A failure names its seed: `fuzz_cases.problem(seed)` is the problem.
"""

import copy
import math

import pytest
import torch

import holdfast as hf
from fuzz_cases import balls_of, descended, problem, robust_loss, spread
from holdfast.networks import Linearised
from holdfast.theory import capacity, optimal_robust_loss
from settings import grouped

SLACK = 1e-7  # of the loss: points between those of the grid


def train(case, seed: int, folder=None):
    """A run of this problem, with optimiser, batches and precision that the seed picks, stopped and resumed where there is a folder."""
    data = hf.data.from_tensors(case.x, case.y, bounds=case.threat.bounds, dtype=case.x.dtype)
    options = {
        "attack": hf.PGD(steps=(1, 3)[seed % 2], start=("random", "example")[seed % 3 == 0]),
        "loss": case.loss,
        "parameter_radius": case.radius,
        "batch_size": (None, 2, 3)[seed % 3],
        "optimizer": ("sgd", "sgd", "adam")[seed % 3],
        "learning_rate": (0.5, 0.05, 3.0)[seed // 2 % 3] * (0.05 if seed % 3 == 2 else 1),
        "project": seed % 4 != 1,
        "seed": seed,
        "tighten": (0, 5)[seed % 2],
        "precision": "64-true" if case.x.dtype == torch.float64 else "32-true",
        "accelerator": "cpu",
        "progress": False,
        "closing": "none",
        "evaluate_every": 100,
        "trace_every": 1,
        "allow_incompatible": True,
    }
    if options["optimizer"] == "sgd":
        options["momentum"] = (0.0, 0.9)[seed // 3 % 2]
    options = grouped(options)
    net = copy.deepcopy(case.net)
    if folder is None:
        return hf.train(net, data, case.threat, epochs=3, **options), data
    hf.train(net, data, case.threat, epochs=2, out=folder, **options)
    return hf.train(
        copy.deepcopy(case.net), data, case.threat, epochs=3, out=folder, resume=True, **options
    ), data


def check(seed: int, steps: int, folder=None) -> bool:
    """Whether there was a certified bound; it and those at other radii are held against everything that descent meets."""
    case = problem(seed, torch.float32 if seed % 4 == 3 else torch.float64)
    run, data = train(case, seed, folder)
    found = run.certificate
    if found.status != "certified" or not math.isfinite(found.lower_bound):
        return False
    x, y = data.train.x.double(), data.train.y
    points = spread(case.threat, x)
    radius = max(found.radius, 1e-9)
    claims = [(found.radius, found.lower_bound), *found.at_radii]
    trained = run.model
    for distance, value in descended(
        trained, case.net, balls_of(case.net), radius, case.loss, points, y, steps=steps, seed=seed
    ):
        for at, bound in claims:
            if distance <= at:
                assert bound <= value + SLACK * (1 + abs(value)), (case.what, at, bound, distance, value)
    with torch.no_grad():
        surrogate = float(robust_loss(copy.deepcopy(trained).double(), case.loss, points, y))
    assert found.lower_bound <= surrogate + SLACK * (1 + surrogate), case.what
    return True


def test_no_network_of_the_ball_is_below_a_certified_bound():
    certified = sum(check(seed, steps=30) for seed in range(12))
    assert certified >= 8  # a fuzz that certifies nothing checks nothing


def test_nor_after_a_stop_and_a_resume(tmp_path):
    assert sum(check(seed, steps=30, folder=tmp_path / str(seed)) for seed in (100, 101)) >= 1


@pytest.mark.slow
def test_no_network_of_the_ball_is_below_a_certified_bound_at_length(tmp_path):
    certified = sum(
        check(seed, steps=120, folder=tmp_path / str(seed) if seed % 5 == 0 else None)
        for seed in range(1000, 1400)
    )
    assert certified >= 200


def theory(seed: int, steps: int) -> None:
    """The tangent class of a small network: nothing linear in its weights is below the lower end."""
    case = problem(seed)
    x, y = case.x.double(), case.y
    curve = optimal_robust_loss(
        case.net,
        x,
        y,
        case.threat,
        [case.radius],
        loss=case.loss,
        classes=case.classes,
        rounds=3,
        attack=hf.PGD(steps=3),
    )
    points, linear = spread(case.threat, x), Linearised(copy.deepcopy(case.net).double())
    names = tuple(name for name, p in linear.named_parameters() if p.requires_grad)
    for distance, value in descended(
        linear, linear, (names,), case.radius, case.loss, points, y, steps=steps, seed=seed
    ):
        lower = max(line.at(distance) for line in curve.lines)
        assert lower <= value + SLACK * (1 + abs(value)), (case.what, distance, lower, value)
    assert float(curve.lower[0]) <= float(curve.upper[0]) + 1e-9, case.what


def test_no_function_is_below_the_lower_end_of_the_optimal_loss():
    for seed in range(200, 205):
        theory(seed, steps=25)


@pytest.mark.slow
def test_no_function_is_below_the_lower_end_of_the_optimal_loss_at_length():
    for seed in range(2000, 2100):
        theory(seed, steps=100)


def verified(seed: int) -> None:
    """Margins and losses of a random network at a grid of each threat set, against what is verified of it."""
    case = problem(seed)
    x, y = case.x.double(), case.y
    with torch.no_grad():
        for parameter in case.net.parameters():
            parameter.add_(
                0.3
                * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)).to(parameter)
            )
    points = spread(case.threat, x)
    with torch.no_grad():
        outputs = case.net(points.flatten(0, 1))
    labels = y.repeat_interleave(points.shape[1])
    losses = case.loss(outputs, labels).reshape(len(y), -1).amax(1)
    right = hf.losses.correct(outputs, labels).reshape(len(y), -1).all(1)
    for method in ("ibp", "crown", "auto")[: 3 if seed % 6 == 0 else 2]:
        proof = hf.verify(case.net, x, y, case.threat, method)
        assert (right | ~proof.verified).all(), (case.what, method)
        if isinstance(case.loss, hf.CrossEntropy) and case.loss.label_smoothing == 0:
            assert (proof.loss_upper_bound(case.loss) >= losses - 1e-9).all(), (case.what, method)


def test_no_point_is_below_a_verified_margin():
    for seed in range(300, 306):
        verified(seed)


@pytest.mark.slow
def test_no_point_is_below_a_verified_margin_at_length():
    for seed in range(3000, 3200):
        verified(seed)


def fitted(seed: int, steps: int = 60) -> None:
    """One unit less than the least first width: no subspace keeps all differences of labels longer than the threat sets are wide."""
    draw = torch.Generator().manual_seed(seed)
    features, count = 3 + seed % 4, 6 + seed % 7
    x, y = torch.randn(count, features, generator=draw, dtype=torch.float64), torch.arange(count) % 2
    data = hf.data.from_tensors(x, y, dtype=torch.float64)
    part = data.train
    apart = part.x[part.y == 0][:, None] - part.x[part.y == 1][None]
    apart = apart.flatten(0, 1)
    radius = (0.3, 0.45, 0.49)[seed % 3] * float(apart.norm(dim=1).min())
    width = capacity.first_hidden_width(data, hf.LpBall("2", radius)).value - 1
    if width < 1:
        return
    for _ in range(2):
        rows = torch.randn(width, features, generator=draw, dtype=torch.float64).requires_grad_()
        optimiser = torch.optim.Adam([rows], lr=0.05)
        for _ in range(steps):
            basis = torch.linalg.qr(rows.T).Q
            least = (apart @ basis).norm(dim=1).min()
            assert float(least.detach()) <= 2 * radius * (1 + 1e-9), (
                seed,
                width,
                float(least.detach()),
                2 * radius,
            )
            optimiser.zero_grad()
            (-least).backward()
            optimiser.step()


def test_no_first_layer_below_the_proved_width_keeps_labels_apart():
    for seed in range(8):
        fitted(seed)
