"""Put together: lower bounds from windows and frozen passes, surrogate losses, one certificate."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast import _defaults
from holdfast._arguments import (
    EXAMPLES,
    INITIAL,
    LABELS,
    MODEL,
    TENSOR,
    Array,
    as_weights,
    check_precision,
    paired,
)
from holdfast._memory import room
from holdfast._rules import (
    COUNT,
    FLAG,
    FUNCTION,
    RADIUS,
    SEED,
    either,
    kind,
    maybe,
    several,
    takes,
    whole,
)
from holdfast._tensors import batches, chunks, generator
from holdfast.attacks import ATTACK, Attack, as_attack
from holdfast.attacks.base import checked_outputs
from holdfast.attacks.modes import attacking
from holdfast.certificates.again import attacked_again
from holdfast.certificates.certificate import REACHED, Certificate, LowerBound, void
from holdfast.certificates.frozen import (
    Candidate,
    FrozenPass,
    frozen_pass,
    in_float64,
    linearisation_error,
    pass_candidate,
    window_candidate,
)
from holdfast.certificates.tripwire import contradiction
from holdfast.certificates.upper import verified_loss
from holdfast.curvature import Curvature
from holdfast.curvature.lower_model import Radius, largest, per_ball, scaled
from holdfast.errors import InputError
from holdfast.families.exact import fingerprints, first_difference
from holdfast.families.registry import curvature_for, unproved
from holdfast.losses import LOSS, Loss, as_loss
from holdfast.threats import THREAT, Threat, as_threat
from holdfast.trace import Evaluated, FrozenPoints, Trace

RADII = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0)
"""Shares of the radius at which the bound is read off besides."""
CURVE_MODELS = 8
"""Lower models read at every one of them: those that do best at the radius itself."""


def attacked_points(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attack: Attack,
    loss: Loss,
    *,
    seed: int,
    batch_size: int,
) -> FrozenPoints:
    """One pass of the attack over all examples at the model's present weights, in evaluation mode.

    Args:
        model: the network; its weights and mode are left alone.
        x: examples (examples, ...).
        y: labels (examples,).
        threat: the sets.
        attack: the search.
        loss: leads an attack that has no loss of its own.
        seed: of the attack.
        batch_size: examples attacked at once.

    >>> import torch
    >>> import holdfast as hf
    >>> from holdfast.certificates import attacked_points
    >>> x, y, threat = torch.tensor([[0.6, 0.4]]), torch.tensor([0]), hf.LpBall("inf", 0.25)
    >>> settings = {"seed": 0, "batch_size": 1}
    >>> attacked_points(torch.nn.Identity(), x, y, threat, hf.FGSM(), hf.CrossEntropy(), **settings).points
    tensor([[0.3500, 0.6500]])
    """
    noise, points = generator(seed, x.device), None
    for part in chunks(len(x), batch_size):
        rows, labels = x[part].clone(), y[part].clone()
        found = attack.points(model, rows, labels, threat, generator=noise, loss=loss, mode="eval")
        if points is None:
            points = room(tuple(x.shape), found.dtype, found.device)
        points[part] = found.detach()
    assert points is not None
    return FrozenPoints(x=x.detach(), points=points, y=y)


def evaluated_pass(passed: FrozenPass, radius: float, max_eigenvalue: float) -> Evaluated:
    """The pass as a competitor for the smallest surrogate loss.

    Args:
        passed: the frozen pass.
        radius: parameter radius, for the allowance.
        max_eigenvalue: the largest curvature, for the allowance.

    >>> import torch
    >>> import holdfast as hf
    >>> from holdfast.certificates import attacked_points, evaluated_pass, frozen_pass
    >>> net, x, y = hf.networks.TwoLayer(2, 2, width=8), torch.eye(2), torch.tensor([0, 1])
    >>> threat, loss, curvature = hf.LpBall("2", 0.1), hf.CrossEntropy(), hf.families.TwoLayerCurvature()
    >>> points = attacked_points(net, x, y, threat, hf.FGSM(), loss, seed=0, batch_size=2)
    >>> passed = frozen_pass(net, net.state_dict(), points, threat, loss, curvature, weights_name="the start")
    >>> evaluated = evaluated_pass(passed, 0.5, 1.0)
    >>> evaluated.weights, evaluated.distance
    ('the start', (0.0,))
    """
    return replace(passed.evaluated, allowance=passed.rounding.allowance(radius, max_eigenvalue))


def conclude(
    bounds: Sequence[LowerBound],
    evaluated: Sequence[Evaluated],
    radius: Radius,
    *,
    rigorous: bool,
    reason: str,
    floor: float = 0.0,
    linearisation: float = math.nan,
    at_radii: tuple[tuple[float, float], ...] = (),
) -> Certificate:
    """The best lower bound against the smallest surrogate loss at weights in the ball.

    ``floor`` is what every robust loss is at least; a bound that is no higher says nothing.
    """
    most = largest(radius)
    if not bounds:
        return void(
            "no round of the run yielded a lower bound, so nothing is claimed; certify a frozen pass", most
        )
    if any(math.isnan(bound.value) or bound.value == math.inf for bound in bounds):
        return void(
            "a lower bound is not finite, since numbers of the run overflow; nothing is claimed: scale "
            "the inputs or the weights down",
            most,
        )
    inside = [
        e
        for e in evaluated
        if all(d <= r for d, r in zip(e.distance, per_ball(radius, len(e.distance)), strict=True))
    ]
    if not inside:
        nearest = min((max(e.distance) for e in evaluated), default=math.nan)
        return void(
            f"the weights lie {nearest:.6g} from the start, outside the ball of radius {most:.6g}, so they "
            f"do not compete in it; certify with a radius of at least {nearest * (1 + 1e-6):.6g}",
            most,
        )
    best = max(bounds, key=lambda bound: bound.value)
    reached = min(inside, key=lambda e: e.surrogate_loss + e.allowance)
    surrogate = reached.surrogate_loss + reached.allowance
    if not math.isfinite(surrogate):
        return void("the surrogate loss is not finite, so nothing is claimed; attack again", most)
    lower = max(best.value, floor)
    if lower <= floor and surrogate > floor + REACHED:
        gap, reason = (
            math.nan,
            (
                f"nothing can be said at this radius: the bound is {floor:.6g}, and no loss is below "
                f"{floor:.6g}; ask for a smaller radius or a wider network ({reason})"
            ),
        )
    else:
        gap = max(0.0, surrogate - lower)
    return Certificate(
        status="certified" if rigorous else "estimate",
        reason=reason,
        radius=most,
        surrogate_loss=surrogate,
        lower_bound=lower,
        gap=gap,
        source=best.source if lower > floor else "the least value of the loss",
        width_factor=best.width_factor,
        max_eigenvalue=best.max_eigenvalue,
        slope=best.slope,
        weights=reached.weights,
        drift=reached.distance,
        linearisation_error=linearisation,
        at_radii=tuple((r, max(bound, floor)) for r, bound in at_radii),
        radii=radius if isinstance(radius, tuple) else (),
        floor=floor,
        attack_missed=max(0.0, lower - surrogate),
    )


def certify_trace(
    trace: Trace,
    passed: FrozenPass,
    radius: Radius,
    *,
    others: Sequence[Evaluated] = (),
    evaluations: int = 40,
    per_unit: bool = False,
    networks: Sequence[Mapping[str, Tensor]] = (),
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Certificate:
    """The certificate of a run: every recorded window and the final frozen pass compete for the lower bound.

    It is void where a bound contradicts itself (`holdfast.certificates.tripwire`, `verified_loss`).

    Args:
        trace: what training recorded.
        passed: the frozen pass at the final weights.
        radius: parameter radius, or one per ball; two-layer traces can be read at any, deep ones up to that
            of their run.
        others: further frozen passes whose surrogate losses compete (the best weights).
        evaluations: of the bound while tightening; 1 takes the pass as it stands.
        per_unit: a curvature matrix per hidden unit: tighter, and as many more eigenproblems.
        networks: further weights of the run by name; the bound is compared with their losses too.
        seed: of the attack that is run where the bound proves that the recorded one missed something.
        progress: called with the share of the work done.

    Raises:
        InputError: the radius is not > 0, or trace and pass have different initial weights.

    >>> import torch
    >>> import holdfast as hf
    >>> from holdfast.certificates import attacked_points, certify_trace, frozen_pass
    >>> from holdfast.trace import Trace
    >>> net, x, y = hf.networks.TwoLayer(2, 2, width=8), torch.eye(2), torch.tensor([0, 1])
    >>> threat, loss, curvature = hf.LpBall("2", 0.1), hf.CrossEntropy(), hf.families.TwoLayerCurvature()
    >>> points = attacked_points(net, x, y, threat, hf.FGSM(), loss, seed=0, batch_size=2)
    >>> passed = frozen_pass(net, net.state_dict(), points, threat, loss, curvature, weights_name="the start")
    >>> start = {"names": curvature.parameters(net), "initial": dict(net.state_dict()), "fixed": dict(passed.fixed)}
    >>> recorded = Trace(**start, windows=(), rigorous=True, reason="proved")  # training recorded no window
    >>> certify_trace(recorded, passed, 0.5).source
    'a pass at the start, tightened, expanded at 1 of the way'
    """
    check_radius(radius)
    _check_balls(radius, passed)
    _check_start(trace, passed)
    if trace.void:
        return void(
            f"{trace.void}; train in a mode where each step is a round, or certify one frozen pass",
            largest(radius),
        )
    if passed.fault:
        return void(f"{passed.fault}; attack again and certify the pass once more", largest(radius))
    if not passed.loss.convex:
        return void(
            f"the loss {passed.loss.name} is not convex in the outputs, which the bound rests on",
            largest(radius),
        )
    # Without windows nothing of the trace is used but the words by whose proof the network was certified.
    others_proof = trace.fixed.get("family") != passed.fixed.get("family")
    changed = (
        first_difference(trace.fixed, passed.fixed) if trace.windows else "family" if others_proof else ""
    )
    if changed:
        return void(
            f"{changed} is not what it was while the trace was recorded, so trace and network are of "
            "different functions; certify the network as it was trained, or one frozen pass without the "
            "trace",
            largest(radius),
        )
    found = pass_candidate(passed, radius, evaluations=evaluations, per_unit=per_unit, progress=progress)
    candidates = [c for w in trace.windows if (c := window_candidate(w)) is not None]
    if isinstance(found, Candidate):
        candidates.append(found)
    elif not candidates:
        return void(f"{found}; certify in a mode where a pass is one of the network", largest(radius))
    bounds = [candidate.bound(radius) for candidate in candidates]
    top = max(bound.max_eigenvalue for bound in bounds)
    proved = trace.rigorous and passed.proved
    reason = (
        trace.reason
        if proved or not trace.rigorous
        else f"the trace was proved, but not the network: {passed.fault}"
    )
    here = evaluated_pass(passed, largest(radius), top)

    def concluded(passes: Sequence[Evaluated]) -> Certificate:
        return conclude(
            bounds,
            passes,
            radius,
            rigorous=proved,
            reason=reason,
            floor=passed.floor,
            linearisation=linearisation_error(passed),
            at_radii=_at_radii(candidates, bounds, radius),
        )

    certificate = concluded([here, *others])
    if certificate.status == "void":
        return certificate
    broken = ""
    if isinstance(found, Candidate) and bounds[-1].value > passed.floor:
        broken = contradiction(passed, found, bounds[-1].value, radius, here.allowance, networks)
    missed = certificate.attack_missed
    if not broken and proved and missed:
        broken = _above_verified(certificate.lower_bound, passed, here, radius)
        # Passes whose attack is proved to have missed do not compete with one that was attacked again.
        there = evaluated_pass(attacked_again(passed, seed=seed), largest(radius), top)
        kept = [e for e in others if e.surrogate_loss + e.allowance >= certificate.lower_bound]
        again = concluded([there, *kept])
        if again.status != "void":
            certificate = replace(again, attack_missed=max(missed, again.attack_missed))
    return void(broken, largest(radius)) if broken else certificate


def _above_verified(bound: float, passed: FrozenPass, here: Evaluated, radius: Radius) -> str:
    """The contradiction between a bound and a robust loss that is proved; empty where there is none."""
    if not all(d <= r for d, r in zip(here.distance, per_ball(radius, len(here.distance)), strict=True)):
        return ""
    verified = verified_loss(passed)
    if bound <= verified + here.allowance:
        return ""
    return (
        f"the bound {bound:.6g} lies above the robust loss {verified:.6g} that is proved for a network of "
        "the ball, so the proof or the network is not what it is taken for, and nothing is claimed"
    )


def _check_balls(radius: Radius, passed: FrozenPass) -> None:
    balls = len(passed.curvature.parameters(passed.model))
    if isinstance(radius, tuple) and len(radius) != balls:
        raise InputError(
            f"radius must be one number or {balls}, one per ball of this network, got {len(radius)}; give "
            f"{balls} or one."
        )


def _check_start(trace: Trace, passed: FrozenPass) -> None:
    """Bounds and losses are compared in one ball: its centre must be the same."""
    for name, start in trace.initial.items():
        other = passed.initial.get(name)
        if other is None or not torch.equal(start.double().cpu(), other.cpu()):
            raise InputError(
                f"trace and pass must start from the same weights, got different ones for {name!r}; pass "
                "the trace's own initial."
            )


def _at_radii(
    candidates: Sequence[Candidate], bounds: Sequence[LowerBound], radius: Radius
) -> tuple[tuple[float, float], ...]:
    """The best bound by radius. A bound holds in every smaller ball too, hence the running maximum from
    the largest down.
    """
    ranked = sorted(range(len(bounds)), key=lambda k: -bounds[k].value)[:CURVE_MODELS]
    best, curve = -math.inf, []
    for share in reversed(RADII):
        values = (bounds[k] if share == 1.0 else candidates[k].bound(scaled(radius, share)) for k in ranked)
        best = max(best, *(bound.value for bound in values))
        if best > -math.inf:  # deep models hold up to their own radius alone
            curve.append((share * largest(radius), best))
    return tuple(reversed(curve))


RADII_OF_BALLS = either(RADIUS, several(RADIUS, what="a sequence of them, one per ball"))


@takes(
    model=MODEL,
    initial=INITIAL,
    x=EXAMPLES,
    y=LABELS,
    threat=THREAT,
    attack=ATTACK,
    radius=RADII_OF_BALLS,
    loss=maybe(LOSS),
    curvature=maybe(kind(Curvature, what="a Curvature")),
    example_weights=maybe(TENSOR),
    tighten=whole(least=0),
    per_unit=FLAG,
    seed=SEED,
    batch_size=COUNT,
    progress=maybe(FUNCTION),
)
def certify(
    model: nn.Module,
    initial: nn.Module | Mapping[str, Tensor],
    x: Array,
    y: Array,
    threat: Threat | str,
    attack: Attack | str,
    radius: float | Sequence[float],
    *,
    loss: Loss | str | None = None,
    curvature: Curvature | None = None,
    example_weights: Float[Tensor, " examples"] | None = None,
    tighten: int = _defaults.TIGHTEN,
    per_unit: bool = False,
    seed: int = 0,
    batch_size: int = 512,
    progress: Callable[[float], None] | None = None,
) -> Certificate:
    """A certificate from one attacked pass at the model's weights; no trace needed.

    Args:
        model: the trained network; it is evaluated in evaluation mode and left as it was.
        initial: the network (or its state dict) before training: the centre ``W0`` of the ball.
        x, y: all examples that the robust loss is about.
        threat: or text such as ``linf:0.1``, which has no box.
        attack: finds the points of the pass; an attack or its name.
        radius: parameter radius ``R`` of the ball (of each layer's ball in a deeper network), or one number
            per ball.
        loss: default cross-entropy (logistic with one output).
        curvature: the bound for this network; default that of its family, else local linearity (an estimate).
        example_weights: ``pi_i >= 0`` adding up to 1; default ``1 / n``.
        tighten: evaluations of the bound while it is tightened.
        per_unit: a curvature matrix per hidden unit: tighter, and as many more eigenproblems.
        seed: of the attack.
        batch_size: examples attacked at once.
        progress: called with the share of the work done.

    Raises:
        InputError: the radius, the examples, the weights or the initial network do not fit, or the model is
            in half precision, or does not run in float64.

    >>> import torch
    >>> import holdfast as hf
    >>> net, x, y = hf.networks.TwoLayer(2, 2, width=8), torch.eye(2), torch.tensor([0, 1])
    >>> hf.certify(net, net, x, y, "l2:0.1", "fgsm", radius=0.5).status
    'certified'
    """
    radius = radius if isinstance(radius, int | float) else tuple(float(r) for r in radius)
    check_radius(radius)
    threat, attack, loss = as_threat(threat), as_attack(attack), as_loss(loss)
    x, y = paired(model, x, y)
    check_precision(model, x, "certified")
    if example_weights is not None:
        example_weights = as_weights("example_weights", example_weights, len(y))
    start = initial.state_dict() if isinstance(initial, nn.Module) else initial
    chosen, reason = curvature_for(model)
    if curvature is None:
        curvature = chosen
    elif curvature.rigorous != chosen.rigorous:
        reason = f"the curvature was given by the caller: {type(curvature).__name__}"
    if curvature.rigorous and (why := unproved(curvature, model)):
        raise InputError(
            f"curvature must be one that is proved for this network, got {type(curvature).__name__}: "
            f"{why}; leave curvature out."
        )
    names = [name for ball in curvature.parameters(model) for name in ball]
    wrong = [
        name for name in names if name not in start or start[name].shape != model.get_parameter(name).shape
    ]
    if wrong:
        raise InputError(
            "initial must hold the starting weights of every trained parameter, got none of the right shape "
            f"for {wrong[0]!r}; pass the model's state_dict() from before training."
        )
    with attacking(model, "eval"):
        for rows, labels in zip(batches(x, batch_size), batches(y, batch_size), strict=True):
            checked_outputs(model, rows, labels)
    threat.check(x)
    in_float64(model, x)  # before the attack is spent
    points = attacked_points(model, x, y, threat, attack, loss, seed=seed, batch_size=batch_size)
    passed = frozen_pass(
        model,
        {name: start[name] for name in names},
        points,
        threat,
        loss,
        curvature,
        weights_name="the weights given",
        example_weights=example_weights,
    )
    fixed = [name for name in passed.fixed if name in start and name not in names]
    other = first_difference(
        fingerprints({name: start[name] for name in fixed}), {name: passed.fixed[name] for name in fixed}
    )
    if passed.proved and other:
        raise InputError(
            f"initial must be the network before training, got one whose {other} differs: that is another "
            "function; pass the one that was trained."
        )
    trace = Trace(
        names=curvature.parameters(model),
        initial=dict(passed.initial),
        windows=(),
        rigorous=curvature.rigorous,
        reason=reason,
        fixed=dict(passed.fixed),
    )
    return certify_trace(trace, passed, radius, evaluations=tighten, per_unit=per_unit, progress=progress)


def check_radius(radius: Radius) -> None:
    """A radius of the parameter ball(s): finite numbers > 0."""
    if not all(r > 0 and math.isfinite(r) for r in (radius if isinstance(radius, tuple) else (radius,))):
        raise InputError(
            f"parameter radius must be > 0 and finite, got {radius}; try the distance the weights moved."
        )
