"""Certified training: bounds that carry gradients against sampling, the verifier and formulas written out here."""

import copy
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
from holdfast.training.relaxation import least_margins, worst_of


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
        "rectifiers": [nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 7), nn.LeakyReLU(0.2)],
        "leaky": [Residual(), nn.AvgPool2d(2), nn.Flatten()],
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

    crown = worst_of(
        least_margins(
            model_of_rectifiers := net("rectifiers"),
            given.clean,
            *box(given.threat, given.clean),
            given.y,
            bounded(model_of_rectifiers, given.clean, *box(given.threat, given.clean)),
        ),
        given.y,
    )
    halfway = batch(model_of_rectifiers, ramp=0.5)
    inner = worst_outputs(bounded(model_of_rectifiers, given.clean, *box(given.threat, given.clean)), given.y)
    clean = F.cross_entropy(model_of_rectifiers(given.clean), given.y, reduction="none")
    mixed = F.cross_entropy(0.5 * crown + 0.5 * inner, given.y, reduction="none")
    found = hf.objectives.CROWNIBP(regularisation=0.0).losses(halfway)
    torch.testing.assert_close(found, 0.5 * clean + 0.5 * mixed)
    ended = hf.objectives.CROWNIBP().losses(batch(model_of_rectifiers))
    torch.testing.assert_close(ended, hf.objectives.IBP().losses(batch(model_of_rectifiers)))


@settings(max_examples=12)
@given(
    st.sampled_from(["rectifiers", "conv", "leaky"]),
    st.booleans(),
    st.floats(0.0, 0.3),
    st.integers(0, 10**6),
)
def test_linear_bounds_hold_and_gain_on_intervals(kind, training, radius, seed):
    model, (x, y, draw) = net(kind).double().train(training), images(seed=seed)
    x = x.double()
    found = bounded(model, x, x - radius, x + radius)
    least = least_margins(model, x, x - radius, x + radius, y, found)
    assert (least.gather(1, y[:, None]) == 0).all()
    model = fixed_statistics(model, x) if training else model
    for _ in range(100):
        corner = torch.randint(0, 2, x.shape, generator=draw).double()
        inner = torch.rand(x.shape, generator=draw, dtype=torch.float64)
        for share in (corner, inner):
            outputs = model(x + radius * (2 * share - 1))
            assert (outputs.gather(1, y[:, None]) - outputs >= least - 1e-9).all()


def fixed_statistics(model, x):
    """The model in evaluation mode, with the statistics of this batch in its norms."""
    again = copy.deepcopy(model).train()
    for module in again.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        again(x)
        for module in again.modules():
            if isinstance(module, nn.BatchNorm2d):  # running variances are of n - 1
                count = 6 * 2 * 2
                module.running_var *= (count - 1) / count
    return again.eval()


def test_linear_bounds_are_those_of_the_verifier_on_one_hidden_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 20), nn.ReLU(), nn.Linear(20, 3))
    x, y, _ = images(12)
    threat = hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))
    lower, upper = box(threat, x)
    found = bounded(model, x, lower, upper)
    least = least_margins(model, x, lower, upper, y, found)
    mine = torch.stack([least[row, [k for k in range(3) if k != int(y[row])]].min() for row in range(len(y))])
    proved = hf.verify(model, x, y, threat, method="crown").margin_lower_bound
    torch.testing.assert_close(mine.double(), proved, rtol=1e-4, atol=1e-5)
    by_intervals = -worst_outputs(found, y)
    assert (least - by_intervals).max() > 0.01


def test_a_signed_output_has_a_linear_bound_of_its_own_sign():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 1))
    two = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():  # (0, f) has the margins of f
        two[1].weight.copy_(one[1].weight)
        two[1].bias.copy_(one[1].bias)
        two[3].weight.copy_(torch.cat([torch.zeros(1, 8), one[3].weight]))
        two[3].bias.copy_(torch.cat([torch.zeros(1), one[3].bias]))
    x, _, _ = images(6)
    y, ends = torch.tensor([0, 1] * 3), (x - 0.1, x + 0.1)
    single = least_margins(one, x, *ends, y, bounded(one, x, *ends))
    pair = least_margins(two, x, *ends, y, bounded(two, x, *ends))
    torch.testing.assert_close(single[:, 0], pair.gather(1, 1 - y[:, None])[:, 0])
    losses = [
        F.binary_cross_entropy_with_logits(worst_of(single, y)[:, 0], y.float(), reduction="none"),
        F.cross_entropy(worst_of(pair, y), y, reduction="none"),
    ]
    torch.testing.assert_close(*losses)


def test_gradients_of_linear_bounds_are_their_derivatives():
    """Through the intermediate bounds, the lines and the coefficients, against differences."""
    model, (x, y, draw) = net("conv").double().train(), images(5)
    x = x.double()

    def value():
        found = bounded(model, x, x - 0.03, x + 0.03)
        return least_margins(model, x, x - 0.03, x + 0.03, y, found).sum()

    weights = list(model.parameters())
    averages = [buffer.clone() for buffer in model.buffers()]
    found = bounded(model, x, x, x)
    moved = [buffer.clone() for buffer in model.buffers()]
    least_margins(model, x, x, x, y, found)
    assert all(map(torch.equal, model.buffers(), moved)), "running statistics move in the first pass alone"
    assert not all(map(torch.equal, averages, moved))
    slopes = torch.autograd.grad(value(), weights)
    for weight, slope in zip(weights, slopes, strict=True):
        way = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            weight += 1e-7 * way
            above = value()
            weight -= 2e-7 * way
            below = value()
            weight += 1e-7 * way
        torch.testing.assert_close((above - below) / 2e-7, (slope * way).sum(), rtol=1e-5, atol=1e-5)


def test_linear_bounds_of_other_units_are_refused_by_name():
    with pytest.raises(InputError, match="linear operations, ReLU and leaky ReLU, got elu, softplus"):
        hf.objectives.CROWNIBP(linear=1.0).losses(batch(net("dense")))


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


class InPlace(nn.Module):
    """Two layers with something in place between them."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.way = nn.Linear(4, 5), nn.Linear(5, 3), way

    def forward(self, x):
        return self.second(self.way(self.first(x)))


def kept_beside(h):
    active = F.relu(h, inplace=True)
    return active + h


def negated(h):
    h.mul_(-1)
    return F.relu(h)


def shifted(h):
    same = h
    same += 1.0
    return F.relu(same) - h


def rectified(h):
    F.relu_(h)
    return h


@pytest.mark.parametrize("way", [kept_beside, negated, shifted, rectified])
def test_operations_in_place_change_what_they_are_applied_to(way):
    model, draw = InPlace(way), torch.Generator().manual_seed(1)
    x, y = torch.rand(5, 4, generator=draw), torch.tensor([0, 1, 2, 0, 1])
    found = bounded(model, x, x - 0.2, x + 0.2)
    least = least_margins(model, x, x - 0.2, x + 0.2, y, found)
    torch.testing.assert_close(found.value, model(x))
    with torch.no_grad():
        for _ in range(300):
            outputs = model(x + 0.4 * torch.rand(x.shape, generator=draw) - 0.2)
            assert (outputs >= found.lower - 1e-5).all()
            assert (outputs <= found.upper + 1e-5).all()
            assert (outputs.gather(1, y[:, None]) - outputs >= least - 1e-5).all()


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (lambda h: h[:, :5].relu_() + h, "an operation in place on a view"),
        (lambda h: F.leaky_relu(h, -0.5), "slope from 0 to 1"),
        (lambda h: F.leaky_relu(h, 2.0), "slope from 0 to 1"),
        (lambda h: F.elu(h, alpha=-1.0), "alpha below 0"),
        (lambda h: h[torch.arange(len(h)).flip(0)], "an index into the batch"),
        (lambda h: h.view(torch.int32).view(torch.float32), "view to torch.int32"),
        (lambda h: h.mean(0, keepdim=True) + h, "mean over the batch"),
    ],
)
def test_what_would_bound_another_function_is_refused(way, said):
    x = torch.rand(6, 4)
    with pytest.raises(InputError, match=said):
        bounded(InPlace(way), x, x - 0.1, x + 0.1)


@pytest.mark.parametrize(
    "model",
    [
        hf.networks.TwoLayer(4, 3, width=6),
        hf.networks.TwoLayer(4, 3, width=6, activation="relu", constant=1.0, scale=0.5),
        hf.networks.Dense(4, 3, 8, 2, "relu"),
    ],
    ids=["smooth", "two layers", "dense"],
)
def test_the_librarys_own_networks_have_intervals(model):
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(5, 4, generator=draw)
    found = bounded(model, x, x - 0.1, x + 0.1)
    torch.testing.assert_close(found.value, model(x))
    with torch.no_grad():
        for _ in range(200):
            outputs = model(x + 0.2 * torch.rand(x.shape, generator=draw) - 0.1)
            assert (outputs >= found.lower - 1e-5).all()
            assert (outputs <= found.upper + 1e-5).all()


def test_a_product_from_the_left_is_refused():
    with pytest.raises(InputError, match="times a constant matrix"):
        bounded(InPlace(lambda h: torch.eye(3) @ h), torch.rand(3, 4), torch.zeros(3, 4), torch.ones(3, 4))
