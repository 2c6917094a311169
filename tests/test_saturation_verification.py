"""Verified bounds where they are reached, and their rounding allowances against exact arithmetic."""

import itertools
from collections.abc import Callable
from fractions import Fraction

import mpmath
import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.families.two_layer.second_order import DERIVATIVES, largest_quadratic
from holdfast.networks import TwoLayer
from holdfast.verification import crown, relaxations, scalars, single
from holdfast.verification.graph import Maximum
from holdfast.verification.intervals import Bounds, interval
from holdfast.verification.pooling import pool_lines
from holdfast.verification.region import region_of
from holdfast.verification.second_order import second_order_margins
from holdfast.verification.tracing import trace

DOUBLE = torch.float64


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# ---- the second-order bound


def pair(first: float, second: float, offsets: tuple[float, float], activation: str) -> TwoLayer:
    """``f(x) = (act(first x + offset) - act(second x + offset')) / sqrt(2)`` of one feature."""
    net = TwoLayer(1, 2, 2, activation, constant=1.0).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[first, offsets[0]], [second, offsets[1]]], dtype=DOUBLE))
        net.output_weight.copy_(torch.tensor([[1.0], [-1.0]], dtype=DOUBLE))
    return net


def left_out(net: TwoLayer, radius: float, sign: float) -> tuple[float, float]:
    """How far ``sign f`` falls below its Taylor polynomial of degree 2 at an end of the ball, and how far the bound says at most."""
    act, weight, root = net.activation, net.weight.detach(), 2**0.5
    at = weight[:, 1]
    a = net.output_weight.detach()[:, 0]

    def derivatives(u):
        u = u.clone().requires_grad_()
        slope = act.slope(u)
        (bend,) = torch.autograd.grad(slope.sum(), u)
        return act.value(u).detach(), slope.detach(), bend.detach()

    value, slope, bend = derivatives(at)
    grad, hess = (
        float((a * slope * weight[:, 0]).sum()) / root,
        float((a * bend * weight[:, 0] ** 2).sum()) / root,
    )
    found = 0.0
    for d in (radius, -radius):
        with mpmath.workdps(50):
            exact = sum(
                mpmath.mpf(float(a[k]))
                * (
                    MP[act.name](mpmath.mpf(float(at[k])) + float(weight[k, 0]) * mpmath.mpf(d))
                    - MP[act.name](mpmath.mpf(float(at[k])))
                )
                for k in range(2)
            ) / mpmath.sqrt(2)
            found = max(found, float(-sign * (exact - grad * mpmath.mpf(d) - hess * mpmath.mpf(d) ** 2 / 2)))
    rows = torch.tensor([[[sign]]], dtype=DOUBLE)
    bound = second_order_margins(net, torch.zeros(1, 1, dtype=DOUBLE), rows, hf.LpBall("2", radius))
    start = sign * float((a * value).sum()) / root
    # linear and quadratic term at their least, which here lie at the ends of the ball
    said = start - abs(grad) * radius - max(0.0, -sign * hess / 2) * radius**2 - float(bound)
    return found, said


MP = {
    "tanh": mpmath.tanh,
    "sigmoid": lambda u: 1 / (1 + mpmath.exp(-u)),
    "softplus": lambda u: mpmath.log(1 + mpmath.exp(u)),
}


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_a_pair_whose_weights_differ_leaves_what_is_said(activation):
    """At 0, where ``|act'''|`` is largest and ``act''`` is 0: the third-order term is reached as the ball shrinks."""
    net = pair(2.0, 1.998, (0.0, 0.0), activation)
    shares = []
    for sign in (1.0, -1.0):
        found, said = left_out(net, 0.02, sign)
        assert found <= said
        shares.append(found / said)
    assert max(shares) > 0.99


def test_a_pair_whose_preactivations_differ_leaves_what_is_said():
    """Equal weights and unequal offsets, where ``|act''''|`` is largest: softplus at 0."""
    net = pair(2.0, 2.0, (5e-3, -5e-3), "softplus")
    shares = []
    for sign in (1.0, -1.0):
        found, said = left_out(net, 0.02, sign)
        assert found <= said
        shares.append(found / said)
    assert max(shares) > 0.98


@pytest.mark.parametrize("activation", sorted(DERIVATIVES))
def test_the_spare_covers_the_rounding_of_what_cancels(activation):
    """Balls of radius 0 and units that cancel: the bound is below the exact value, which only rounding separates from it."""
    below = 0
    for seed in range(12):
        width = 64
        net = TwoLayer(3, 2, width, activation, paired=True, constant=1.0, seed=seed).double()
        with torch.no_grad():
            net.weight.mul_(3).add_(1e-9 * normal(seed, *net.weight.shape))
        x = normal(seed + 100, 1, 3)
        rows = torch.ones(1, 1, 1, dtype=DOUBLE)
        bound = float(second_order_margins(net, x, rows, hf.LpBall("2", 0.0)))
        exact = mpmath_output(net, x[0])
        assert mpmath.mpf(bound) <= exact
        below += bool(mpmath.mpf(bound) < exact)
    assert below == 12


def mpmath_output(net: TwoLayer, x: torch.Tensor):
    formulas = {
        **MP,
        "erf": mpmath.erf,
        "gelu": lambda u: u * mpmath.ncdf(u),
        "silu": lambda u: u / (1 + mpmath.exp(-u)),
    }
    act = formulas[net.activation.name]
    with mpmath.workdps(40):
        z = [mpmath.mpf(float(v)) for v in net.inputs(x[None])[0]]
        total = mpmath.mpf(0)
        for row, a in zip(
            net.weight.detach().tolist(), net.output_weight.detach()[:, 0].tolist(), strict=True
        ):
            total += mpmath.mpf(a) * act(
                sum((mpmath.mpf(w) * v for w, v in zip(row, z, strict=True)), mpmath.mpf(0))
            )
        return total / mpmath.sqrt(net.width)


@pytest.mark.parametrize("norm", ["2", "inf", "1"])
def test_quadratic_forms_are_reached(norm):
    """l2: along an eigenvector. l1: at a corner. l-inf: all entries of one sign."""
    matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=DOUBLE)
    exact = {"2": 3.0, "inf": 6.0, "1": 2.0}[norm]
    found = float(largest_quadratic(matrix[None], norm, 1.0))
    assert exact <= found <= exact * (1 + 1e-12)
    below = [
        float(largest_quadratic(torch.ones(1, n, n, dtype=DOUBLE) / 3, "2", 1.0)) - n * float(Fraction(1 / 3))
        for n in range(2, 40)
    ]
    assert min(below) >= 0


# ---- sets


def test_edges_of_boxes_are_outside_the_exact_ones():
    x, radius = 100 * normal(0, 300, 1), 0.1
    region = region_of(hf.LpBall("inf", radius), x)
    row = torch.ones(1, 1, 1, dtype=DOUBLE)
    least = region.minimum(row)[:, 0]
    for value, lower, upper, below in zip(
        x[:, 0], region.lower[:, 0], region.upper[:, 0], least, strict=True
    ):
        exact = Fraction(float(value)) - Fraction(radius)
        assert Fraction(float(lower)) <= exact
        assert Fraction(float(upper)) >= Fraction(float(value)) + Fraction(radius)
        assert Fraction(float(below)) <= exact
        assert exact - Fraction(float(below)) <= Fraction(1e-14) * (1 + abs(exact))


@pytest.mark.parametrize("norm", ["1", "2"])
@pytest.mark.parametrize("box", [None, (-0.4, 0.5)])
def test_least_values_over_balls_are_reached_and_not_crossed(norm, box):
    """Linear functions of two features, against a fine walk along the edge of the set."""
    x = torch.tensor([[0.3, -0.2]], dtype=DOUBLE)
    threat = hf.LpBall(norm, 0.5, bounds=box)
    rows = normal(5, 1, 40, 2)
    least = region_of(threat, x).minimum(rows)[0]
    angle = torch.linspace(0, 6.283185307179586, 20001, dtype=DOUBLE)
    edge = torch.stack([angle.cos(), angle.sin()], 1)
    edge = 0.5 * edge / (edge.abs().sum(1, keepdim=True) if norm == "1" else 1.0)
    walked = x + torch.cat([edge * s for s in torch.linspace(0, 1, 60, dtype=DOUBLE).tolist()])
    if box is not None:
        walked = walked[((walked >= box[0]) & (walked <= box[1])).all(1)]
    sampled = (rows[0] @ walked.T).amin(1)
    assert (least <= sampled + 1e-15).all()
    assert (sampled - least <= 2e-2).all()


# ---- linear bounds and their rounding


def cancelling(seed: int, width: int = 400) -> nn.Sequential:
    """Two dense layers whose terms are large and whose sum is small."""
    net = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2)).double()
    with torch.no_grad():
        half = 1e4 * normal(seed, width // 2, 2)
        net[0].weight.copy_(torch.cat([half, half]))
        net[0].bias.copy_(torch.cat([half[:, 0], half[:, 0]]))
        top = 1e4 * normal(seed + 1, 2, width // 2)
        net[1].weight.copy_(
            torch.cat([top, -top], 1)[:, torch.randperm(width, generator=torch.Generator().manual_seed(seed))]
        )
        net[1].weight.copy_(torch.cat([top, -top], 1))
        net[1].bias.zero_()
        order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
        net[0].weight.copy_(net[0].weight[order])
        net[0].bias.copy_(net[0].bias[order])
        net[1].weight.copy_(net[1].weight[:, order])
    return net


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_margins_of_an_affine_network_are_below_the_exact_ones(method):
    """The exact margin is 0 everywhere: ``W2 W1 = 0`` and no rounding may lift the bound above it."""
    x, threat = torch.tensor([[0.3, 0.7], [0.1, 0.2]], dtype=DOUBLE), hf.LpBall("inf", 1e-3)
    for seed in range(0, 24, 2):
        found = hf.verify(cancelling(seed), x, torch.tensor([0, 1]), threat, method)
        assert (found.margin_lower_bound <= 0).all()


def cancelling_top(seed: int, width: int = 400) -> tuple[nn.Sequential, list[Fraction]]:
    """A dense layer whose units are their offsets at 0, all above 0, and one on top of it whose terms cancel; and its exact outputs at 0."""
    net = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 6)).double()
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        half, top = 1e4 * (1 + normal(seed, width // 2).abs()), 1e4 * normal(seed + 1, 6, width // 2)
        net[0].bias.copy_(torch.cat([half, half * (1 + 1e-13)])[order])
        net[2].weight.copy_(torch.cat([top, -top], 1)[:, order])
        net[2].bias.zero_()
    units = [Fraction(value) for value in net[0].bias.tolist()]
    return net, [
        sum((Fraction(w) * u for w, u in zip(row, units, strict=True)), Fraction(0))
        for row in net[2].weight.tolist()
    ]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rows_on_products_in_float32_allow_for_those_in_float64(monkeypatch, sign):
    """In a set of one point at 0 float32 has no part in the bound, and nothing is left but float64's own rounding."""
    monkeypatch.setattr(single, "LEAST_WORK", 0)
    x = torch.zeros(1, 2, dtype=DOUBLE)
    for seed in range(0, 12, 2):
        net, exact = cancelling_top(seed)
        graph, region = trace(net, x), region_of(hf.LpBall("inf", 0.0), x)
        assert single.closing(graph, region) is not None
        state = crown.analyse(graph, region)
        wanted = torch.ones(1, 6, dtype=torch.bool)
        found = crown.rows_minimum(state, graph.last, torch.arange(6), sign, wanted)[0]
        for bound, value in zip(found.tolist(), exact, strict=True):
            assert Fraction(bound) <= int(sign) * value


def test_intervals_through_a_dense_layer_hold_to_the_last_bit():
    """Of values known exactly, whose terms cancel; and of values within exact intervals, at the ends that the signs choose."""
    for seed in range(0, 12, 2):
        net, _ = cancelling_top(seed)
        x = torch.zeros(1, 2, dtype=DOUBLE)
        graph, region = trace(net, x), region_of(hf.LpBall("inf", 0.0), x)
        step, values = graph.steps[graph.last], net[0].bias.detach()[None]
        for width in (0.0, 2.0**-6):
            lower, upper = values, values + width
            given = Bounds(lower=lower, upper=upper, size=upper.abs())
            found = interval(step, [given] * graph.last, region, graph.rounding)
            for row, low, high in zip(
                net[2].weight.tolist(), found.lower[0].tolist(), found.upper[0].tolist(), strict=True
            ):
                least, most = (_extreme(row, lower[0], upper[0], which) for which in (min, max))
                assert Fraction(low) <= least
                assert most <= Fraction(high)


def _extreme(
    row: list[float], lower: torch.Tensor, upper: torch.Tensor, which: Callable[..., Fraction]
) -> Fraction:
    ends = [(Fraction(a), Fraction(b)) for a, b in zip(lower.tolist(), upper.tolist(), strict=True)]
    return sum(
        (which(Fraction(w) * a, Fraction(w) * b) for w, (a, b) in zip(row, ends, strict=True)), Fraction(0)
    )


def exactly(scalar: str, x: float):
    with mpmath.workdps(50):
        u = mpmath.mpf(x)
        return {
            "relu": lambda: max(u, mpmath.mpf(0)),
            "abs": lambda: abs(u),
            "leaky-relu": lambda: max(u, mpmath.mpf(0)) + mpmath.mpf(0.01) * min(u, mpmath.mpf(0)),
            "kinked, concave": lambda: (
                mpmath.mpf(0.3) * max(u, mpmath.mpf(0)) + mpmath.mpf(1.7) * min(u, mpmath.mpf(0))
            ),
            "softplus": lambda: mpmath.log(1 + mpmath.exp(u)),
            "sigmoid": lambda: 1 / (1 + mpmath.exp(-u)),
            "tanh": lambda: mpmath.tanh(u),
            "exp": lambda: mpmath.exp(u),
            "square": lambda: u * u,
            "relu2": lambda: max(u, mpmath.mpf(0)) ** 2,
        }[scalar]()


SCALARS = {
    "relu": scalars.RELU,
    "leaky-relu": scalars.kinked("leaky-relu", 0.01, 1.0),
    "kinked, concave": scalars.kinked("concave", 1.7, 0.3),
    "abs": scalars.ABS,
    "sigmoid": scalars.SIGMOID,
    "tanh": scalars.TANH,
    "exp": scalars.EXP,
    "softplus": scalars.softplus(threshold=50.0),
    "square": scalars.SQUARE,
    "relu2": scalars.SQUARED_RELU,
}


@pytest.mark.parametrize("name", SCALARS)
def test_lines_and_intervals_hold_to_the_last_bit(name):
    """At the points where they touch the function, in 50 digits."""
    ends = (normal(1, 60, 2) * (100 if name in ("square", "relu2") else 3)).sort(1).values
    lower, upper = ends.unbind(1)
    made = relaxations.lines(SCALARS[name], lower, upper)
    least, most = relaxations.interval(SCALARS[name], lower, upper)
    for row in range(len(lower)):
        low, high = float(lower[row]), float(upper[row])
        for point in (low, (low + high) / 2, high, min(max(0.0, low), high)):
            with mpmath.workdps(50):
                value, at = exactly(name, point), mpmath.mpf(point)
                assert mpmath.mpf(float(made.lower_slope[row])) * at + float(made.lower_height[row]) <= value
                assert mpmath.mpf(float(made.upper_slope[row])) * at + float(made.upper_height[row]) >= value
                assert float(least[row]) <= value <= float(most[row])


def test_lines_over_the_largest_of_a_window_hold_to_the_last_bit():
    """At the corners of the box, where the upper one touches, in rational numbers."""
    step = Maximum(
        shape=(1, 1, 1),
        inputs=(0,),
        source=(1, 2, 2),
        kernel=(2, 2),
        stride=(2, 2),
        padding=(0, 0),
        dilation=(1, 1),
    )
    ends = (normal(1, 200, 4, 2) * torch.tensor([[1.0], [1e3], [1e-3], [30.0]])).sort(2).values
    lower, upper = (end.reshape(-1, 1, 2, 2) for end in ends.unbind(2))
    made = pool_lines(step, lower, upper)
    for row in range(len(ends)):
        slope = [Fraction(float(value)) for value in made.upper_slope[row].flatten()]
        height = Fraction(float(made.upper_height[row].flatten()[0]))
        for corner in itertools.product((0, 1), repeat=4):
            values = [Fraction(float(ends[row, k, side])) for k, side in enumerate(corner)]
            assert sum(s * v for s, v in zip(slope, values, strict=True)) + height >= max(values)


# ---- randomised smoothing


def test_the_smoothing_bound_is_the_exact_binomial_tail():
    """``P(Binomial(n, bound) >= hits) = alpha``, by adding up the tail."""

    class Often(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0] + 0.3, torch.zeros(len(x))], 1)

    alpha, samples = 0.02, 200
    found = hf.smooth(
        Often(),
        torch.zeros(1, 1),
        torch.tensor([0]),
        sigma=1.0,
        samples=samples,
        selection=20,
        alpha=alpha,
        seed=3,
    )
    p = mpmath.mpf(float(found.probability[0]))
    tails = [
        sum(mpmath.binomial(samples, k) * p**k * (1 - p) ** (samples - k) for k in range(hits, samples + 1))
        for hits in range(80, 180)
    ]
    assert min(abs(tail - alpha) for tail in tails) < 1e-9
