"""What a certificate must not take on trust: another function, unproved claims, inputs as they come, contradictions."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mpf
from torch import Tensor, nn

from certificate_cases import DOUBLE, Copies, draws, examples, move, network, normal, one_round, random_moves
from holdfast.attacks import FGSM, PGD, Attack
from holdfast.certificates import certify, certify_trace, frozen_pass
from holdfast.certificates.certificate import LowerBound
from holdfast.certificates.convergence import attacked_points, conclude
from holdfast.certificates.upper import verified_loss
from holdfast.curvature import LocalLinearity
from holdfast.curvature.base import Curvature
from holdfast.curvature.lower_model import Block, LowerModel, ball_minimum
from holdfast.errors import InputError
from holdfast.families import TwoLayerCurvature, curvature_for
from holdfast.families.exact import fingerprints, fixed_parts
from holdfast.losses import LOSSES, CrossEntropy, Hinge, Loss, Squared, broken_claim
from holdfast.networks import Dense, TwoLayer
from holdfast.threats import LpBall, Threat
from holdfast.trace import Evaluated, FrozenPoints, Trace

THREAT = LpBall("2", 0.2)
ATTACK = PGD(steps=5)


def trained(shape: str = "binary", width: int = 24) -> tuple[TwoLayer, dict[str, Tensor], Tensor, Tensor]:
    net = network("softplus", shape, width=width)
    start = {"weight": net.weight.detach().clone()}
    x, y = examples(shape, count=11)
    move(net, start, 1.0, draws(3))
    return net, start, x, y


# Another function.


class Negated(TwoLayer):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


def test_a_rigorous_bound_given_for_another_network_is_refused() -> None:
    net, (x, y) = Negated(3, 2, 12).double(), examples("binary")
    with pytest.raises(InputError, match="forward"):
        certify(net, net, x, y, THREAT, ATTACK, 1.0, curvature=TwoLayerCurvature())
    assert certify(net, net, x, y, THREAT, ATTACK, 1.0).status == "estimate"


def test_a_bound_of_the_callers_own_is_an_estimate() -> None:
    class Mine(LocalLinearity):
        @property
        def rigorous(self) -> bool:
            return True

    net, start, x, y = trained()
    with pytest.raises(InputError, match="caller's own"):
        certify(net, start, x, y, THREAT, ATTACK, 2.0, curvature=Mine())


def test_sequential_of_one_network_has_that_networks_certificate() -> None:
    net, start, x, y = trained()
    alone = certify(net, start, x, y, THREAT, ATTACK, 2.0, tighten=8)
    inside = certify(nn.Sequential(net), {"0.weight": start["weight"]}, x, y, THREAT, ATTACK, 2.0, tighten=8)
    assert (inside.status, inside.lower_bound, inside.gap) == ("certified", alone.lower_bound, alone.gap)
    deep = Dense(3, 2, 12, 2, "csp2").double()
    found = [
        certify(model, model, x, y, THREAT, ATTACK, 0.2, tighten=1) for model in (deep, nn.Sequential(deep))
    ]
    assert found[0].status == found[1].status == "certified"
    assert found[0].lower_bound == found[1].lower_bound


@pytest.mark.parametrize("part", ["scale", "output_weight"])
def test_parts_that_changed_between_trace_and_certificate_void_it(part: str) -> None:
    net, start, x, y = trained()
    fresh = network("softplus", width=24)
    window, _ = one_round(fresh, x, y, x, CrossEntropy(), radius=2.0)
    trace = Trace(
        names=(("weight",),),
        initial=start,
        windows=(window,),
        rigorous=True,
        reason="a proof",
        fixed=fingerprints(fixed_parts(net, ("weight",))),
    )

    def found() -> str:
        points = attacked_points(net, x, y, THREAT, ATTACK, CrossEntropy(), seed=0, batch_size=64)
        passed = frozen_pass(net, start, points, THREAT, CrossEntropy(), TwoLayerCurvature(), weights_name="")
        certificate = certify_trace(trace, passed, 2.0, evaluations=1)
        return certificate.reason if certificate.status == "void" else ""

    assert found() == ""
    with torch.no_grad():
        getattr(net, part).mul_(-10)
    assert part in found()


def test_an_initial_network_with_other_fixed_parts_is_refused() -> None:
    net, _, x, y = trained()
    other = network("softplus", width=24)
    with torch.no_grad():
        other.scale.mul_(2)
    with pytest.raises(InputError, match="scale"):
        certify(net, other, x, y, THREAT, ATTACK, 2.0)


# Claims of a loss.


@dataclass(frozen=True)
class Sigmoid(Loss):
    """Not convex, and it does not say that it is."""

    @property
    def name(self) -> str:
        return "sigmoid"

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.sigmoid(-(2 * labels - 1) * outputs[:, 0])

    def slope(self, outputs: Tensor, labels: Tensor) -> Tensor:
        sign = (2 * labels - 1)[:, None]
        p = torch.sigmoid(-sign * outputs)
        return -sign * p * (1 - p)


@dataclass(frozen=True)
class ClaimedSigmoid(Sigmoid):
    convex = True
    nonnegative = True


@dataclass(frozen=True)
class WrongSlope(CrossEntropy):
    convex = True
    nonnegative = True

    def slope(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return -super().slope(outputs, labels)


@dataclass(frozen=True)
class InPlaceLoss(CrossEntropy):
    """Computes in its arguments' storage."""

    convex = True
    nonnegative = True

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return super().__call__(outputs.mul_(1.0), labels.clamp_(min=0))

    def slope(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.copy_(super().slope(outputs, labels))


def test_a_loss_that_works_in_place_is_the_loss_that_does_not() -> None:
    net, initial, x, y = trained()
    plain = certify(net, initial, x, y, THREAT, ATTACK, 2.0)
    before = x.clone(), y.clone()
    found = certify(net, initial, x, y, THREAT, ATTACK, 2.0, loss=InPlaceLoss())
    assert (found.status, found.lower_bound) == (plain.status, plain.lower_bound)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    outputs = net(x)
    assert torch.equal(InPlaceLoss()(outputs, y), CrossEntropy()(outputs, y))
    kept = outputs.detach().clone()
    InPlaceLoss().slope(outputs, y)
    assert torch.equal(outputs, kept)


@dataclass(frozen=True)
class Capped(CrossEntropy):
    """Inherits a claim about another loss."""

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return super().__call__(outputs, labels).clamp_max(1.0)


class Cap:
    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.tanh(outputs[:, 0])


@dataclass(frozen=True)
class MixedIn(Cap, CrossEntropy):
    pass


@dataclass(frozen=True)
class Renamed(CrossEntropy):
    @property
    def name(self) -> str:
        return "mine"


@dataclass(frozen=True)
class Lowered(CrossEntropy):
    convex = True
    nonnegative = True

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return super().__call__(outputs, labels) - 1


@pytest.mark.parametrize(
    "loss", [Sigmoid(), ClaimedSigmoid(), WrongSlope(), Capped(), MixedIn(), Lowered()], ids=str
)
def test_losses_that_do_not_keep_their_claims_certify_nothing(loss: Loss) -> None:
    net, start, x, y = trained()
    found = certify(net, start, x, y, THREAT, ATTACK, 2.0, loss=loss, tighten=1)
    assert found.status == "void"
    assert "loss" in found.reason


def test_a_claim_is_inherited_with_the_loss_it_is_about() -> None:
    assert Renamed().convex
    assert Renamed().nonnegative
    assert not Capped().convex
    assert not MixedIn().convex
    assert not Sigmoid().convex
    net, start, x, y = trained()
    assert certify(net, start, x, y, THREAT, ATTACK, 2.0, loss=Renamed(), tighten=1).status == "certified"


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_the_librarys_losses_keep_their_claims(name: str, outputs: int) -> None:
    assert broken_claim(LOSSES[name](), outputs) == ""
    assert broken_claim(CrossEntropy(label_smoothing=0.3), outputs) == ""


@pytest.mark.parametrize("outputs", [1, 2, 7])
@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.5, 0.9])
def test_the_floor_is_the_least_loss(outputs: int, smoothing: float) -> None:
    loss, labels = CrossEntropy(label_smoothing=smoothing), torch.arange(max(2, outputs))
    f = torch.zeros(len(labels), outputs, dtype=DOUBLE, requires_grad=True)
    search = torch.optim.LBFGS(
        [f], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-15, tolerance_grad=1e-12
    )

    def closure() -> Tensor:
        search.zero_grad()
        value = loss(f, labels).sum()
        value.backward()
        return value

    search.step(closure)
    least, floor = loss(f.detach(), labels), loss.floor(outputs, labels)
    assert bool((floor <= least).all())
    torch.testing.assert_close(floor, least, atol=1e-4, rtol=0)


# Inputs as they come.


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_narrow_labels_give_the_same_certificate(dtype: torch.dtype) -> None:
    net, start, x, y = trained()
    plain = certify(net, start, x, y, THREAT, ATTACK, 2.0, tighten=3)
    assert certify(net, start, x, y.to(dtype), THREAT, ATTACK, 2.0, tighten=3) == plain


def test_points_loaded_with_narrow_labels_are_not_wrapped() -> None:
    net, start, x, y = trained()
    bounds = []
    for labels in (y, y.to(torch.int8)):
        points = FrozenPoints(x=x, points=x, y=labels)
        passed = frozen_pass(net, start, points, THREAT, CrossEntropy(), TwoLayerCurvature(), weights_name="")
        bounds.append(passed.surrogate_loss)
    assert bounds[0] == bounds[1]


@pytest.mark.parametrize(
    "weights",
    [torch.full((11,), 6 / 11), torch.full((11,), math.nan), torch.zeros(11), -torch.ones(11)],
    ids=["6", "nan", "0", "-"],
)
def test_weights_that_are_none_are_refused(weights: Tensor) -> None:
    net, start, x, y = trained()
    with pytest.raises(InputError, match="add up to 1"):
        certify(net, start, x, y, THREAT, ATTACK, 2.0, example_weights=weights)


# The least a bound can be.


def test_a_bound_that_is_only_the_floor_says_nothing() -> None:
    net, start, x, y = trained()
    found = certify(net, start, x, y, THREAT, ATTACK, 1e4, tighten=2)
    assert found.status == "certified"
    assert (found.lower_bound, found.informative) == (found.floor, False)
    assert found.floor == 0
    assert math.isnan(found.gap)
    assert found.reason.startswith("nothing can be said at this radius")
    assert all(bound >= 0 for _, bound in found.at_radii)


def test_label_smoothing_has_a_floor_of_its_own() -> None:
    net, start, x, y = trained()
    loss = CrossEntropy(label_smoothing=0.2)
    found = certify(net, start, x, y, THREAT, ATTACK, 1e4, loss=loss, tighten=2)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert found.lower_bound == pytest.approx(entropy)
    assert found.lower_bound <= entropy


def test_estimates_are_never_below_the_floor_either() -> None:
    torch.manual_seed(0)
    net, (x, y) = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double(), examples("binary")
    found = certify(net, net, x, y, THREAT, ATTACK, 1e3)
    assert (found.status, found.lower_bound, found.informative) == ("estimate", 0.0, False)


def test_a_loss_at_its_least_value_has_no_gap() -> None:
    bound = LowerBound(value=-1.0, source="", width_factor=1.0, max_eigenvalue=1.0, slope=1.0)
    done = Evaluated(weights="", surrogate_loss=0.0, allowance=1e-13, distance=(1.0,))
    found = conclude([bound], [done], 2.0, rigorous=True, reason="", floor=0.0)
    assert found.informative
    assert found.gap == pytest.approx(0.0, abs=1e-12)


# Contradictions.


def raised(amount: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the proof: every two-layer lower model is too high by so much."""
    from holdfast.families.two_layer import anchors

    right = anchors.Anchor.lower_model

    def wrong(self: anchors.Anchor, duals: anchors.Duals) -> LowerModel:
        lower = right(self, duals)
        return dataclasses.replace(lower, constant=lower.constant + amount)

    monkeypatch.setattr(anchors.Anchor, "lower_model", wrong)


def test_a_bound_above_the_loss_of_a_network_at_hand_voids(monkeypatch: pytest.MonkeyPatch) -> None:
    net, start, x, y = trained()
    right = certify(net, start, x, y, THREAT, ATTACK, 2.0, tighten=20)
    assert right.status == "certified"
    raised(right.gap + 0.05, monkeypatch)
    found = certify(net, start, x, y, THREAT, ATTACK, 2.0, tighten=20)
    assert found.status == "void"
    assert "lies above the loss" in found.reason
    assert math.isnan(found.gap)


def test_descent_on_the_same_points_finds_a_small_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than the gap to the trained network: only better networks of the ball show it."""
    net, start, x, y = trained()
    right = certify(net, start, x, y, THREAT, ATTACK, 2.0, tighten=20)
    raised(0.5 * right.gap, monkeypatch)
    assert right.gap > 0.1
    found = certify(net, start, x, y, THREAT, ATTACK, 2.0, tighten=20)
    assert found.status == "void"


def test_a_window_above_what_an_attack_found_says_that_the_attack_missed() -> None:
    net, start, x, y = trained()
    nothing = FrozenPoints(x=x, points=x, y=y)  # an attack that does not move
    passed = frozen_pass(
        net, start, nothing, THREAT, CrossEntropy(), TwoLayerCurvature(), weights_name="these"
    )
    bound = LowerBound(
        value=passed.surrogate_loss + 0.01, source="", width_factor=1.0, max_eigenvalue=1.0, slope=1.0
    )
    found = conclude([bound], [passed.evaluated], 2.0, rigorous=True, reason="")
    assert found.attack_missed == pytest.approx(0.01)
    assert found.gap == 0
    assert verified_loss(passed) > passed.surrogate_loss


def test_the_attack_is_run_again_and_the_larger_loss_reported() -> None:
    """Recorded points that did not move, and a window between their loss and the robust loss."""
    net, start, x, y = trained()
    passes = [
        frozen_pass(net, start, points, THREAT, CrossEntropy(), TwoLayerCurvature(), weights_name="these")
        for points in (
            FrozenPoints(x=x, points=x, y=y),
            attacked_points(net, x, y, THREAT, PGD(steps=40), CrossEntropy(), seed=0, batch_size=64),
        )
    ]
    low, high = (passed.surrogate_loss for passed in passes)
    window, _ = one_round(network("softplus", width=24), x, y, x, CrossEntropy(), radius=2.0)
    assert window.lower is not None
    lift = (low + high) / 2 - window.bound_at(2.0)
    wrong = dataclasses.replace(
        window, lower=dataclasses.replace(window.lower, constant=window.lower.constant + lift)
    )
    trace = Trace(
        names=(("weight",),),
        initial=start,
        windows=(wrong,),
        rigorous=True,
        reason="a proof",
        fixed=dict(passes[0].fixed),
    )
    found = certify_trace(trace, passes[0], 2.0, evaluations=1)
    assert found.status == "certified"
    assert found.attack_missed == pytest.approx((high - low) / 2, rel=1e-3)
    assert found.surrogate_loss == pytest.approx(high, rel=1e-2)
    assert found.gap == pytest.approx((high - low) / 2, rel=0.1)


def test_a_window_above_a_verified_loss_voids() -> None:
    net, start, x, y = trained()
    points = attacked_points(net, x, y, THREAT, ATTACK, CrossEntropy(), seed=0, batch_size=64)
    passed = frozen_pass(
        net, start, points, THREAT, CrossEntropy(), TwoLayerCurvature(), weights_name="these"
    )
    window, _ = one_round(network("softplus", width=24), x, y, x, CrossEntropy(), radius=2.0)
    lower = window.lower
    assert lower is not None
    high = verified_loss(passed) + 0.1 - window.bound_at(2.0)
    wrong = dataclasses.replace(window, lower=dataclasses.replace(lower, constant=lower.constant + high))
    trace = Trace(
        names=(("weight",),),
        initial=start,
        windows=(wrong,),
        rigorous=True,
        reason="a proof",
        fixed=dict(passed.fixed),
    )
    found = certify_trace(trace, passed, 2.0, evaluations=1)
    assert found.status == "void"
    assert "is proved for a network of the ball" in found.reason


def test_a_bound_that_is_not_finite_voids() -> None:
    passed = Evaluated(weights="", surrogate_loss=0.3, allowance=0.0, distance=(1.0,))
    for value in (math.nan, math.inf):
        bound = LowerBound(value=value, source="", width_factor=1.0, max_eigenvalue=1.0, slope=1.0)
        assert conclude([bound], [passed], 2.0, rigorous=True, reason="").status == "void"


@pytest.mark.parametrize("size", [1e100, 1e160, 1e300])
def test_inputs_that_overflow_void_or_say_nothing(size: float) -> None:
    net, start, x, y = trained()
    found = certify(net, start, size * x, y, LpBall("2", 0.2 * size), FGSM(), 2.0, tighten=3)
    assert found.status == "void" or not found.informative


def test_not_finite_blocks_bound_nothing() -> None:
    nan = torch.full((2, 3), math.nan, dtype=DOUBLE)
    assert math.isnan(ball_minimum((Block(linear=nan),), 1.0).value)
    lower = LowerModel(constant=1.0, balls=((Block(linear=nan),),))
    assert math.isnan(lower.bound(1.0).value)


# Rounding, against numbers of 60 digits.


def exact_value(
    net: TwoLayer, start: Tensor, points: Tensor, y: Tensor, h: Tensor, step: Tensor, lower: LowerModel
) -> mpf:
    """The lower model at ``U``: the formula of the round, with the curvature matrices taken as computed."""
    mpmath.mp.dps = 60
    m, d = net.weight.shape
    w, w0, a = net.weight.tolist(), start.tolist(), net.output_weight.tolist()
    root, total, act = mpmath.sqrt(m), mpf(0), net.activation.name

    def value(u: mpf) -> mpf:
        if act == "softplus":
            return mpmath.log1p(mpmath.exp(u))
        return max(u, mpf(0)) ** (2 if act == "relu2" else 1)

    def slope(u: mpf) -> mpf:
        if act == "softplus":
            return 1 / (1 + mpmath.exp(-u))
        return 2 * max(u, mpf(0)) if act == "relu2" else mpf(u > 0)

    for z, label, out in zip(points.tolist(), y.tolist(), h[:, 0].tolist(), strict=True):
        z = [mpf(v) for v in z] + ([mpf(net.constant)] if net.constant is not None else [])
        sign = 2 * label - 1
        s = -sign / (1 + mpmath.exp(sign * mpf(out)))
        f = change = mpf(0)
        for r in range(m):
            u = mpmath.fdot(z, [mpf(v) for v in w[r]])
            f += mpf(a[r][0]) * value(u)
            v = [mpf(p) + mpf(b) - mpf(c) for p, b, c in zip(step[r].tolist(), w0[r], w[r], strict=True)]
            change += mpf(a[r][0]) * slope(u) * mpmath.fdot(z, v)
        total += mpmath.log1p(mpmath.exp(-sign * mpf(out))) + s * ((f + change) / root - mpf(out))
    total /= len(y)
    ((block,),) = lower.balls
    assert block.matrices is not None
    group = m // len(block.matrices)
    for r in range(m):
        v = [mpf(p) + mpf(b) - mpf(c) for p, b, c in zip(step[r].tolist(), w0[r], w[r], strict=True)]
        matrix = block.matrices[r // group].tolist()
        total -= mpmath.fsum(v[i] * mpf(matrix[i][j]) * v[j] for i in range(d) for j in range(d))
    return total


@pytest.mark.parametrize("activation", ["softplus", "relu2"])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e8])
def test_the_allowance_covers_rounding_however_large_the_initial_weights(
    activation: str, size: float
) -> None:
    """float32 networks whose start is large: what training rounds off does not enter, and what float64 does is allowed for."""
    net = TwoLayer(3, 2, 8, activation, constant=0.5).float()
    with torch.no_grad():
        net.weight.mul_(size)
    start = net.weight.detach().double().clone()
    x, y = (t[:4] for t in examples("binary", count=4))
    x = x.float()
    with torch.no_grad():
        net.weight.add_(0.01 * size * normal(draws(1), *start.shape).float())
    recorder_net, threat = net, LpBall("2", 10.0)
    from holdfast.trace import TraceRecorder

    recorder = TraceRecorder(
        recorder_net, x, y, threat, CrossEntropy(), curvature=curvature_for(net)[0], radius=2.0
    )
    recorder.initial = {"weight": start.float()}
    h = net(x).detach().clamp(-5, 5)
    recorder.open()
    recorder.record(torch.arange(4), x, h, round_size=4)
    window = recorder.close()
    assert window.void == ""
    assert window.lower is not None
    distance = float((net.weight.detach().double() - start).norm())
    for length in (0.0, 1.0, distance):
        step = normal(draws(2), *start.shape)
        step = length * step / step.norm()
        exact = exact_value(net, start, x.double(), y, h.double(), step, window.lower)
        error = abs(mpf(window.lower.value(((step,),))) - exact)
        allowance = window.rounding.allowance(
            max(length, 1e-12), window.lower.bound(1.0).minima[0].max_eigenvalue
        )
        assert error <= allowance
        assert allowance < 1e-4 * float(1 + abs(exact))


def test_large_initial_weights_do_not_lift_the_bound_above_the_best_network() -> None:
    net = TwoLayer(3, 2, 24, "softplus", constant=0.5).float()
    with torch.no_grad():
        net.weight.mul_(1e4)
    start = net.weight.detach().clone()
    x, y = examples("binary", count=9)
    window, initial = one_round(net, x.float(), y, x.float(), CrossEntropy(), distance=1.0, radius=3.0)  # type: ignore[arg-type]
    wide = net.double()
    copies = Copies(wide, {"weight": start.double()}, x.float().double(), y, CrossEntropy())
    losses = copies.loss_at(random_moves(copies.start, 300, draws(0), low=0.1, high=3.0))
    assert window.lower_bound <= float(losses.min())
    assert isinstance(curvature_for(wide)[0], Curvature)
    assert initial["weight"].dtype == torch.float32


def test_squared_and_hinge_have_a_verified_upper_end_or_none() -> None:
    net, start, x, y = trained()
    found: dict[str, float] = {}
    losses: dict[str, Callable[[], Loss]] = {"hinge": Hinge, "squared": Squared}
    for name, loss in losses.items():
        points = FrozenPoints(x=x, points=x, y=y)
        passed = frozen_pass(net, start, points, THREAT, loss(), TwoLayerCurvature(), weights_name="")
        found[name] = verified_loss(passed) - passed.surrogate_loss
    assert 0 < found["hinge"] < math.inf
    assert found["squared"] == math.inf


def test_the_allowance_is_the_documented_sum() -> None:
    """The table of docs/explanations/certificate.md, term by term, each the only one that is not 0 or seen against the others."""
    from holdfast.trace import Rounding

    n, m, d, s, z, w0, moved, a, lip, b, off, size = 5, 16, 3, 0.7, 2.0, 30.0, 1.5, 1.25, 1.1, 0.25, 0.6, 0.9
    r = Rounding(
        unit=2.0**-53,
        width=m,
        inputs=d,
        examples=n,
        slope=s,
        loss=size,
        input_norm=z,
        start_norm=w0,
        distance=moved,
        output_norm=a,
        lipschitz=lip,
        curvature=b,
        offset=off,
    )
    radius, lam = 4.0, 0.3
    steps, w, reach = n + m + d + 32, w0 + moved, radius + moved
    terms = {
        "outputs": 8 * steps * a * s * (lip * w * z + 4.0 * off),
        "gradient": reach * steps * a * s * (lip * z + b * w * z**2 / 4.0),
        "product": reach * 4 * m * d * (a * s * lip * z + 2 * lam * moved),
        "curvature": reach**2 * (n * d + 16 * d + 32) * lam,
        "losses": steps * size,
    }
    assert r.allowance(radius, lam) == pytest.approx(2.0**-53 * sum(terms.values()), rel=1e-12, abs=0)
    without = 2.0**-53 * (sum(terms.values()) - terms["curvature"] - reach * 4 * m * d * 2 * lam * moved)
    assert r.allowance(radius, -1.0) == pytest.approx(without, rel=1e-12, abs=0)
    squared = dataclasses.replace(r, lipschitz=None)
    values, slopes = w**2 * z**2 / 4.0, 2 * w * z**2 / 4.0
    expected = 8 * steps * a * s * values + reach * steps * a * s * (slopes + b * w * z**2 / 4.0)
    expected += reach * 4 * m * d * a * s * slopes + steps * size
    assert squared.allowance(radius, 0.0) == pytest.approx(2.0**-53 * expected, rel=1e-12, abs=0)
    assert dataclasses.replace(r, unit=0.0).allowance(radius, lam) == 0.0


# Attacks, losses and copies that change what they are handed.


@dataclass(frozen=True)
class InPlace(Attack):
    """Scales the batch it was given, labels too, and attacks that."""

    @property
    def name(self) -> str:
        return "in place"

    def search(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, **options: Any) -> Tensor:
        x.mul_(0.2)
        y.mul_(0)
        return x


def test_an_attack_that_works_in_place_moves_neither_data_nor_claim() -> None:
    net, start, x, y = trained()
    kept = x.clone(), y.clone()
    still = certify(net, start, x, y, THREAT, PGD(steps=1, start="example", step_size=1e-9), 2.0, tighten=1)
    found = certify(net, start, x, y, THREAT, InPlace(), 2.0, tighten=1)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    copies = Copies(net, start, x, y, CrossEntropy())
    assert (
        found.surrogate_loss >= float(copies.loss_at([(net.weight.detach() - start["weight"])[None]])) - 0.2
    )
    assert found.status == still.status == "certified"
    InPlace().run(net, x, y, THREAT)
    assert torch.equal(x, kept[0])


class Itself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def __deepcopy__(self, memo: object) -> "Itself":
        return self


def test_a_model_that_copies_to_itself_is_refused_and_left_as_it_is() -> None:
    net, (x, y) = Itself(), examples("binary")
    with pytest.raises(InputError, match="copy"):
        certify(net, net.state_dict(), x.float(), y, THREAT, ATTACK, 1.0)
    assert net.layer.weight.dtype == torch.float32


def test_a_tampered_loss_certifies_nothing() -> None:
    net, start, x, y = trained()
    loss = CrossEntropy()
    object.__setattr__(loss, "label_smoothing", -0.5)
    assert certify(net, start, x, y, THREAT, ATTACK, 2.0, loss=loss, tighten=1).status == "void"
