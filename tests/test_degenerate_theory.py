"""Theory on inputs where something is missing, equal, zero, tiny or huge: a true answer, or one sentence."""

import math

import pytest
import torch

import holdfast as hf
from holdfast._tensors import raw_bytes
from holdfast.errors import InputError
from holdfast.losses import Hinge, Loss, Squared
from holdfast.theory import KernelSpec, capacity, ntk, optimal_robust_loss

X, Y = torch.tensor([[1.125, -0.902], [0.3, 0.2]]), torch.tensor([1, 0])
THREAT = hf.LpBall("inf", 0.3)
RELU = KernelSpec(activation="relu")


def bracket(kernel, x, y, threat=THREAT, radius=2.69, **options):
    curve = optimal_robust_loss(kernel, x, y, threat, [radius], rounds=2, attack=hf.PGD(steps=3), **options)
    lower, upper = float(curve.lower[0]), float(curve.upper[0])
    assert math.isfinite(lower)
    assert math.isfinite(upper)
    assert 0 <= lower <= upper + 1e-9
    return lower, upper


def test_no_point_to_add_is_no_error():
    """Rounds in which no point joins the working set."""
    x, softplus = torch.tensor([[1.125], [-0.902]]), KernelSpec(activation="softplus")
    bracket(softplus, x, Y, loss=Squared())
    bracket(softplus, x.T, Y[:1], loss=Squared())


@pytest.mark.parametrize(
    "activation", ["relu", "leaky-relu", "identity", "relu2", "erf", "softplus", "elu", "tanh"]
)
@pytest.mark.parametrize("depth", [1, 2])
def test_kernels_of_no_points_are_empty(activation, depth):
    kernel = ntk(KernelSpec(activation=activation, depth=depth))
    for dtype in (torch.float32, torch.float64):
        x = X.to(dtype)
        assert kernel(x, x[:0]).shape == (2, 0)
        assert kernel(x[:0], x).shape == (0, 2)
        assert kernel(x[:0]).shape == (0, 0)
        assert kernel.diagonal(x[:0]).shape == (0,)


DEGENERATE = {
    "one example": (X[:1], Y[:1]),
    "one class": (X, torch.zeros(2, dtype=torch.long)),
    "equal, two labels": (X[:1].repeat(2, 1), Y),
    "equal, one label": (X[:1].repeat(2, 1), Y[:1].repeat(2)),
    "all zero": (torch.zeros(2, 2), Y),
    "one zero": (torch.tensor([[0.0, 0.0], [1.0, 0.0]]), Y),
    "tiny": (X.double() * 1e-200, Y),
    "large": (X * 1e6, Y),
    "huge": (X.double() * 1e150, Y),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("threat", [None, THREAT, hf.LpBall("2", 0.0)], ids=["clean", "linf", "radius 0"])
def test_degenerate_examples_have_a_bracket(name, threat):
    x, y = DEGENERATE[name]
    for loss in (None, Squared()):
        bracket(RELU, x, y, threat, loss=loss)


def test_the_loss_said_to_be_reached_is_reached():
    """Every function of this space is 0 at the origin, so that half of the examples cost 1/2 whatever the norm."""
    x, y = DEGENERATE["one zero"]
    for radius in (1.0, 30.0):
        curve = optimal_robust_loss(RELU, x, y, None, [radius], loss=Squared())
        outputs = curve.solutions[0].predictor(x.double())
        assert float(outputs[0]) == 0.0
        assert float(curve.upper[0]) >= 0.25
        assert float(curve.upper[0]) == pytest.approx(float(Squared()(outputs, y).mean()), rel=1e-9)


@pytest.mark.parametrize("radius", [0.0, 1e-320, 1e-200, 1e-12, 1e8, 1e300])
def test_any_norm_has_a_bracket(radius):
    for loss in (Squared(), hf.CrossEntropy(), Hinge()):
        lower, _ = bracket(RELU, X, Y, radius=radius, loss=loss)
        if radius < 1e-100:
            assert lower == pytest.approx(
                float(loss(torch.zeros(1, 1, dtype=torch.float64), Y[:1])), abs=1e-12
            )


@pytest.mark.parametrize(
    ("kernel", "x", "y", "says"),
    [
        (RELU, X.double() * 1e300, Y, "must be finite in float64"),
        (KernelSpec(activation="softplus"), X.double() * 1e300, Y, "must be finite in float64"),
        (hf.networks.TwoLayer(2, 2, 8), X.double() * 1e300, Y, "must be finite in float64"),
        (lambda a, b: a @ b.T * math.nan, X, Y, "must be finite in float64"),
        (RELU, X * math.nan, Y, "finite"),
        (RELU, X, torch.tensor([-1, 1]), "y must"),
        (hf.networks.TwoLayer(2, 2, 8), X, torch.tensor([0, 5]), "labels must lie in 0..1"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(kernel, x, y, says):
    with pytest.raises(InputError, match=says):
        bracket(kernel, x, y, None)


def test_labels_beyond_the_classes_are_refused():
    """A signed output would read class 5 as the sign 9: a lower bound above the upper one."""
    with pytest.raises(InputError, match=r"y must lie in 0\.\.1"):
        optimal_robust_loss(RELU, X, torch.tensor([0, 5]), None, [1.0], classes=2)


class Shifted(Squared):
    """A convex loss that falls below 0."""

    convex = True
    nonnegative = False

    @property
    def name(self) -> str:
        return "shifted"

    def __call__(self, outputs, labels):
        return super().__call__(outputs, labels) - 1


def test_zero_is_no_bound_of_a_loss_that_falls_below_it():
    loss: Loss = Shifted()
    curve = optimal_robust_loss(RELU, X, Y, None, [50.0], loss=loss)
    assert float(curve.upper[0]) < -0.99
    assert float(curve.lower[0]) <= float(curve.upper[0])
    assert curve.at(50.0)[0] <= float(curve.upper[0])


def test_capacity_bounds_neither_overflow_nor_depend_on_the_unit():
    assert capacity.forced_width(1e200, 10, 5).value == 5
    x, y = torch.cat([torch.zeros(1, 6), torch.eye(6)]).double(), torch.tensor([0, 1, 1, 1, 1, 1, 1])
    widths = []
    for power in (-500, -300, 0, 300, 490):
        unit = 2.0**power
        data = hf.data.from_tensors(x * unit, y, dtype=torch.float64)
        widths.append(capacity.first_hidden_width(data, hf.LpBall("2", 0.45 * unit)).value)
    assert widths == [4] * 5
    assert capacity.first_hidden_width(data, hf.LpBall("2", 1e300)).value == 1


def test_distances_that_overflow_are_refused():
    with pytest.raises(InputError, match="do not overflow"):
        hf.data.separation(X.double() * 1e200, Y, norm="2")


def test_the_librarys_own_networks_are_not_taken_for_probabilities():
    """A deep sigmoid network whose one output stays between 0 and 1 on its examples, and wherever else one looks."""
    net = hf.networks.Dense(
        2, 2, width=12, depth=3, activation="sigmoid", output="gaussian", seed=5, zero_start=False
    )
    with torch.no_grad():
        net.output_weight.copy_(net.output_weight.abs() / net.output_weight.abs().sum())
    assert bool(((net(X) > 0) & (net(X) < 1)).all())
    hf.PGD(steps=1).run(net, X, Y, THREAT)


def test_one_number_that_is_expanded_has_bytes():
    one = torch.tensor(1.5, dtype=torch.float64).expand(1)
    assert raw_bytes(one) == raw_bytes(torch.tensor([1.5], dtype=torch.float64))
