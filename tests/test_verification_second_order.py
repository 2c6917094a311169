"""The second-order bound of paired two-layer networks: sound, right to second order, free of the width."""

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.errors import InputError
from holdfast.families.two_layer.second_order import DERIVATIVES, largest_quadratic
from holdfast.networks.activations import activation_named
from holdfast.verification import verify
from verification_cases import margins

FEATURES = 6
NORMS = ("inf", "2", "1")


def moved(width, activation="softplus", classes=3, outputs="signed", seed=0):
    """A paired network whose units have moved by about ``1 / sqrt(width)`` each, as in training."""
    net = hf.networks.TwoLayer(
        FEATURES,
        classes,
        width=width,
        activation=activation,
        outputs=outputs,
        constant=0.5,
        scale=0.8,
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        steps = torch.randn(net.weight.shape, generator=generator)
        net.weight += 3 * steps / width**0.5
    return net.double()


def points(count=3):
    x = torch.rand(count, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return x, torch.arange(count) % 2


@pytest.mark.parametrize("activation", DERIVATIVES)
@pytest.mark.parametrize(("classes", "outputs"), [(3, "signed"), (2, "signed"), (3, "dense")])
def test_no_point_falls_below_its_bound(activation, classes, outputs):
    net = moved(120, activation, classes, outputs)
    x, y = points()
    for norm in NORMS:
        for radius in (0.05, 0.8):
            threat = hf.LpBall(norm, radius, bounds=(0.0, 1.0))
            proof = verify(net, x, y, threat, "second-order")
            wide, labels = x.repeat_interleave(500, 0), y.repeat_interleave(500)
            generator = torch.Generator().manual_seed(0)
            drawn = threat.maximise(torch.randn(wide.shape, dtype=x.dtype, generator=generator), wide)
            attacked = hf.PGD(steps=10).run(net, x, y, threat).x
            for found, label in ((drawn, labels), (attacked, y)):
                least = (
                    margins(net(found).detach(), label).reshape(len(x), -1, proof.margins.shape[1]).amin(1)
                )
                assert (proof.margins <= least).all(), (norm, radius)


@pytest.mark.parametrize("norm", NORMS)
def test_the_error_falls_with_the_square_of_the_radius(norm):
    """Against the linear term alone, which is right to second order; a quarter of the radius leaves a sixteenth or less."""
    net = moved(200, classes=2)
    x, y = points()

    def gap(radius):
        threat = hf.LpBall(norm, radius)
        worst = hf.PGD(steps=60, keep_best=True).run(net, x, y, threat).x
        reached = margins(net(worst).detach(), y)[:, 0]
        return (reached - verify(net, x, y, threat, "second-order").margin_lower_bound).amax()

    assert float(gap(0.05)) < 0.15 * float(gap(0.2))


def test_the_bound_does_not_grow_with_the_width_as_crowns_does():
    x, y = points()
    threat = hf.LpBall("2", 0.1)
    gaps = {}
    for width in (120, 3000):
        net = moved(width)
        worst = hf.PGD(steps=20, keep_best=True).run(net, x, y, threat).x
        reached = margins(net(worst).detach(), y).scatter(1, y[:, None], torch.inf).amin(1)
        for method in ("second-order", "crown"):
            gaps[method, width] = float(
                (reached - verify(net, x, y, threat, method).margin_lower_bound).mean()
            )
    assert gaps["second-order", 3000] < 1.5 * gaps["second-order", 120]
    assert gaps["crown", 3000] > 2 * gaps["crown", 120]
    assert gaps["second-order", 3000] < 0.5 * gaps["crown", 3000]


def test_a_network_at_its_start_is_bounded_by_0_exactly():
    net = hf.networks.TwoLayer(FEATURES, 3, width=600).double()
    x, y = points()
    proof = verify(net, x, y, hf.LpBall("2", 0.5), "second-order")
    torch.testing.assert_close(proof.margins, torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_third_and_fourth_derivatives_are_bounded_as_stated(name):
    x = torch.linspace(-9, 9, 180_001, dtype=torch.float64, requires_grad=True)
    order = activation_named(name).slope(x)
    sizes = []
    for _ in range(3):
        (order,) = torch.autograd.grad(order.sum(), x, create_graph=True)
        sizes.append(float(order.detach().abs().max()))
    for found, bound in zip(sizes[1:], DERIVATIVES[name], strict=True):
        assert 0.999 * bound < found <= bound


@pytest.mark.parametrize("norm", NORMS)
def test_quadratic_forms_are_bounded_over_the_ball(norm):
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(4, 5, 5, dtype=torch.float64, generator=generator)
    matrices = drawn + drawn.mT
    directions = torch.randn(4000, 5, dtype=torch.float64, generator=generator)
    corners = torch.cat([directions.sign(), torch.eye(5, dtype=torch.float64), directions])
    order = {"inf": float("inf"), "2": 2.0, "1": 1.0}[norm]
    d = 0.3 * corners / torch.linalg.vector_norm(corners, order, dim=1, keepdim=True)
    values = torch.einsum("ni,rij,nj->rn", d, matrices, d).amax(1)
    bound = largest_quadratic(matrices, norm, 0.3)
    assert (bound >= values.clamp(min=0)).all()
    if norm == "2":
        assert (bound <= 1.1 * values.clamp(min=1e-3)).all()


@pytest.mark.parametrize(
    ("net", "word"),
    [
        (nn.Linear(FEATURES, 3), "TwoLayer"),
        (hf.networks.TwoLayer(FEATURES, 3, width=60, activation="relu"), "activation"),
        (hf.networks.TwoLayer(FEATURES, 3, width=60, outputs="dense", paired=False), "pairs"),
    ],
)
def test_other_networks_are_refused(net, word):
    x, y = points()
    with pytest.raises(InputError, match=word):
        verify(net.double(), x, y, hf.LpBall("2", 0.1), "second-order")


def test_auto_starts_with_it_where_it_applies():
    net = moved(240)
    x, y = points()
    y = net(x).argmax(1)
    proof = verify(net, x, y, hf.LpBall("2", 1e-3), "auto")
    assert set(proof.methods) == {"second-order"}
    assert proof.verified.all()
    outputs = net(x).detach()
    assert (proof.outputs_lower <= outputs).all()
    assert (proof.outputs_upper >= outputs).all()
    assert set(verify(net, x, y, hf.SphereSlice(1e-3), "auto").methods) == {"ibp"}
