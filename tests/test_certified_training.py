"""Certified training: bounds that carry gradients against sampling, the verifier and formulas written out here."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import holdfast as hf
from holdfast.errors import InputError
from holdfast.training.intervals import bounded, interval_start, worst_outputs
from holdfast.training.objectives.ibp import box, imbalance


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.second(F.leaky_relu(self.first(x), 0.1))) - 0.5 * x / 2


class Sums(nn.Module):
    def forward(self, x):
        rows = x.mean((2, 3))
        joined = torch.cat([2 - rows, -rows, torch.ones_like(rows)], 1)
        return torch.tanh(joined[:, :5]).sigmoid().view(len(x), 5)


def net(kind, outputs=3):
    torch.manual_seed(3)
    bodies = {
        "dense": [nn.Flatten(), nn.Linear(72, 9), nn.ELU(), nn.Linear(9, 7), nn.Softplus()],
        "conv": [
            nn.Conv2d(2, 3, 3, stride=2),
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
            nn.Flatten(),
        ],
        "residual": [Residual(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Dropout(0.5), nn.Flatten()],
        "sums": [nn.Conv2d(2, 4, 3), Sums(), nn.Unflatten(1, (5, 1)), nn.Flatten()],
    }
    body = nn.Sequential(*bodies[kind]).eval()
    with torch.no_grad():
        features = body(torch.rand(2, 2, 6, 6)).shape[1]
    model = nn.Sequential(body, nn.Linear(features, outputs)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, -2, 2)
    return model


KINDS = ("dense", "conv", "residual", "sums")


def images(n=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(n, 2, 6, 6, generator=draw), torch.randint(0, 3, (n,), generator=draw), draw


@settings(max_examples=10)
@given(st.sampled_from(KINDS), st.floats(0.0, 0.3), st.integers(0, 10**6))
def test_no_point_of_a_box_leaves_the_bounds(kind, radius, seed):
    model, (x, _, draw) = net(kind).double(), images(seed=seed)
    x = x.double()
    found = bounded(model, x, x - radius, x + radius)
    torch.testing.assert_close(found.value, model(x))
    for _ in range(200):
        corner = torch.randint(0, 2, x.shape, generator=draw).double()
        inner = torch.rand(x.shape, generator=draw, dtype=torch.float64)
        for share in (corner, inner):
            outputs = model(x + radius * (2 * share - 1))
            assert (outputs >= found.lower - 1e-9).all()
            assert (outputs <= found.upper + 1e-9).all()


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_margins_are_those_that_the_verifier_proves_by_intervals(kind):
    """On other networks the verifier merges affine steps, and is tighter."""
    model, (x, y, _) = net(kind), images()
    threat = hf.LpBall("inf", 0.02, bounds=(0.0, 1.0))
    found = bounded(model, x, *box(threat, x))
    least = -worst_outputs(found, y)
    mine = torch.stack([least[row, [k for k in range(3) if k != int(y[row])]].min() for row in range(len(y))])
    proved = hf.verify(model, x, y, threat, method="ibp").margin_lower_bound
    torch.testing.assert_close(mine.double(), proved, rtol=1e-4, atol=1e-5)


def test_a_signed_output_has_the_end_that_is_worst_for_its_label():
    model, (x, _, _) = net("dense", outputs=1), images(4)
    found = bounded(model, x, x - 0.1, x + 0.1)
    y = torch.tensor([0, 1, 0, 1])
    worst = worst_outputs(found, y)[:, 0]
    assert torch.equal(worst, torch.where(y == 1, found.lower[:, 0], found.upper[:, 0]))


def test_differences_through_the_last_layer_are_tighter_than_those_of_two_bounds():
    model, (x, y, _) = net("dense"), images()
    found = bounded(model, x, x - 0.1, x + 0.1)
    elided = worst_outputs(found, y)
    found.last = None
    apart = worst_outputs(found, y)
    assert (elided <= apart + 1e-6).all()
    assert (elided < apart - 1e-3).any()
    assert (elided.gather(1, y[:, None]) == 0).all()


def test_batch_norm_in_training_goes_by_the_examples_and_moves_its_averages_once():
    model, (x, _, _) = net("conv").train(), images(16)
    plain = net("conv").train()
    outputs = plain(x)
    found = bounded(model, x, x - 0.05, x + 0.05)
    torch.testing.assert_close(found.value, outputs)
    for one, other in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    assert (found.lower <= found.value + 1e-6).all()
    assert (found.value <= found.upper + 1e-6).all()


def test_gradients_flow_to_every_weight():
    model, (x, y, _) = net("conv").train(), images()
    found = bounded(model, x, x - 0.05, x + 0.05)
    F.cross_entropy(worst_outputs(found, y), y).backward()
    assert all(
        weight.grad is not None and weight.grad.abs().sum() > 0
        for name, weight in model.named_parameters()
        if "weight" in name
    )


class Product(nn.Module):
    def forward(self, x):
        return x.flatten(1) * x.flatten(1)


class Softmax(nn.Module):
    def forward(self, x):
        return x.flatten(1).softmax(1)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Product(), "no interval for a product of two values"),
        (Softmax(), "got 'softmax'; replace it, or train by attacks"),
        (nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), "without dropout in training mode"),
    ],
)
def test_what_has_no_interval_is_refused_by_name(model, said):
    x, _, _ = images()
    with pytest.raises(InputError, match=said):
        bounded(model.train(), x, x, x)


def test_the_start_keeps_the_width_of_intervals():
    model = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(400, 400), nn.ReLU())])
    x = torch.rand(8, 400, generator=torch.Generator().manual_seed(0))

    def growth():
        found = bounded(model, x, x - 0.01, x + 0.01)
        return float(found.radius.mean().detach() / 0.01)

    usual = growth()
    interval_start(model, seed=1)
    assert 0.3 < growth() < 3
    assert usual > 20 * growth()
    weights = [layer.weight.clone() for layer in model[::2]]
    interval_start(model, seed=1)
    assert all(torch.equal(was, layer.weight) for was, layer in zip(weights, model[::2], strict=True))
    assert float(weights[0].detach().std()) == pytest.approx(math.sqrt(2 * math.pi) / 400, rel=0.02)


def test_the_regulariser_is_that_of_the_paper():
    model, (x, _, _) = net("conv").train(), images()
    found = bounded(model, x, x - 0.05, x + 0.05)
    [before] = found.seen.before_units
    centre, radius = (before.upper + before.lower) / 2, (before.upper - before.lower) / 2

    def short(ratio):
        return max(0.0, 0.5 - float(ratio.detach())) / 0.5

    active, inactive = (before.lower > 0).float(), (before.upper < 0).float()
    spread = (centre - centre.mean()) ** 2
    expected = short(0.05 / radius.mean())
    for a, b in (
        ((centre * active).mean(), -(centre * inactive).mean()),
        ((spread * active).mean(), (spread * inactive).mean()),
    ):
        expected += short(min(a / b, b / a))
    assert float(imbalance(found, torch.full_like(x, 0.05)).detach()) == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def batch(model, ramp=1.0, radius=0.05):
    x, y, draw = images()
    return hf.objectives.Batch(
        model=model,
        clean=x,
        attacked=(x + 0.3 * radius).clamp(0, 1),
        y=y,
        threat=hf.LpBall("inf", radius, bounds=(0.0, 1.0)),
        loss=hf.CrossEntropy(),
        generator=draw,
        ramp=ramp,
    )


def test_the_objectives_are_their_formulas():
    model = net("dense")
    given = batch(model)
    whole = bounded(model, given.clean, *box(given.threat, given.clean))
    worst = F.cross_entropy(worst_outputs(whole, given.y), given.y, reduction="none")
    clean = F.cross_entropy(model(given.clean), given.y, reduction="none")
    attacked = F.cross_entropy(model(given.attacked), given.y, reduction="none")
    torch.testing.assert_close(hf.objectives.IBP().losses(given), worst)
    torch.testing.assert_close(hf.objectives.IBP(clean=0.3).losses(given), 0.3 * clean + 0.7 * worst)
    torch.testing.assert_close(hf.objectives.MTLIBP(share=0.2).losses(given), 0.2 * worst + 0.8 * attacked)
    small = [edge.clamp(0, 1) for edge in (given.attacked - 0.4 * 0.05, given.attacked + 0.4 * 0.05)]
    near = F.cross_entropy(
        worst_outputs(bounded(model, given.attacked, *small), given.y), given.y, reduction="none"
    )
    torch.testing.assert_close(hf.objectives.SABR(share=0.4).losses(given), near)
    halfway = batch(model, ramp=0.5)
    torch.testing.assert_close(
        hf.objectives.IBP(clean=0.0, regularisation=0.0).losses(halfway), 0.5 * clean + 0.5 * worst
    )


def test_the_small_boxes_of_sabr_stay_within_the_ball():
    model, (x, y, _) = net("conv").eval(), images()
    threat = hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))
    points = hf.objectives.SABR(share=0.4).attacked(
        model,
        x,
        y,
        threat,
        hf.PGD(steps=3),
        loss=hf.CrossEntropy(),
        generator=torch.Generator().manual_seed(0),
    )
    assert hf.LpBall("inf", 0.06, bounds=(0.0, 1.0)).contains(points, x).all()
    assert (points - x).abs().amax() > 0.05


def test_certified_training_ends_in_more_verified_examples_than_training_by_attacks():
    data = hf.data.digits(classes=(0, 1, 2, 3))
    threat = hf.LpBall("inf", 0.1, bounds=data.bounds)
    verified, proved = {}, {}
    for recipe in ("pgd", "ibp"):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 4)
        )
        run = hf.train(
            model,
            data,
            threat,
            recipe=recipe,
            attack="fgsm",
            final_attack="fgsm",
            certificate=hf.CertificateSettings(trace=False, tighten=0),
            learning_rate=0.005,
            optimizer="adam",
            batch_size=32,
            epochs=12,
            progress=False,
        )
        verified[recipe] = float(
            hf.verify(model, data.test.x, data.test.y, threat, method="ibp").verified.double().mean()
        )
        proved[recipe] = run.summary["robust_accuracy_verified"]
    assert proved["pgd"] is None
    assert verified["ibp"] <= proved["ibp"] <= run.summary["robust_accuracy"]
    assert verified["ibp"] > 0.7
    assert verified["ibp"] > verified["pgd"] + 0.3


def test_a_threat_that_is_no_ball_is_refused():
    data = hf.data.from_tensors(torch.rand(30, 3), torch.arange(30) % 2)
    threat = hf.SphereSlice(0.1)
    with pytest.raises(InputError, match="needs a threat with a radius, an LpBall"):
        hf.train(nn.Linear(3, 2), data, threat, recipe="ibp", progress=False)
    with pytest.raises(InputError, match="needs a threat of boxes"):
        box(threat, data.x)
