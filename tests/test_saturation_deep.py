"""The deep bound's inequalities where they are equalities: one unit a layer, everything aligned, each term by itself."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch

from holdfast.curvature import spectral
from holdfast.families.dense.expansion import Expansion, Start, constants_of, expand, reaches
from holdfast.families.dense.free_parameters import first_parameters
from holdfast.families.dense.layered import _handed, _third, layered
from holdfast.families.dense.norms import Scaled, own_weights, scaled_norms
from holdfast.families.dense.products import Third
from holdfast.networks import Dense
from holdfast.networks.activations import activation_named


def bare(kind: type, **values: Any) -> Any:
    """An instance with these fields alone: what one formula reads."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


WEIGHT, RADIUS, SLOPE, BENT = 1.7, 0.6, 0.8, 0.35  # W0, R, D = act'(u), beta / 2 rho of the one unit


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def handed(kind: str, theta2: float) -> float:
    """What `_handed` gives for one example and one unit, with one of its bounds alone."""
    none, norm = math.inf, WEIGHT * SLOPE  # ||W0 diag(d)||, d = D
    groups = 2 if kind.startswith("groups") else 1
    fields: dict[str, Any] = {
        "whole": (none, norm if kind in ("whole", "envelope rest") else none),
        "unscaled_whole": (none, WEIGHT if kind == "lipschitz" else none),
        "parts": ((), (norm, 0.0)),
        "columns": ((), (WEIGHT, 0.0)),
        "unscaled": ((), (WEIGHT, 0.0) if kind == "groups lipschitz" else (none, none)),
        "envelopes": ((), ((None, norm), (None, norm)) if kind.startswith("envelope") else ()),
    }
    w = torch.ones(groups, 1, dtype=torch.float64)
    if groups == 2:
        w[1] = 0
    own, rest = (1.0, 0.0) if kind == "envelope own" else (0.0, 1.0)
    if kind == "envelope own":
        fields["whole"] = (none, 1e100)  # finite, and so large that it is never the smallest
    scaled = bare(Scaled, **fields)
    at = bare(Expansion, backward=(torch.ones(1, 1, dtype=torch.float64),))
    start = bare(Start, columns=(0.0, WEIGHT))
    found = _handed(
        at,
        w,
        column(own)[:, 0],
        column(rest)[:, 0],
        column(1.0),
        column(BENT)[:, 0],
        scaled,
        1,
        RADIUS,
        column(SLOPE)[:, 0],
        theta2,
        1.0,
        start,
    )
    return float(found)


@pytest.mark.parametrize(
    "kind", ["whole", "groups", "envelope own", "envelope rest", "lipschitz", "groups lipschitz"]
)
def test_what_is_handed_down_is_reached(kind):
    """``||W' dx|| = (W0 + R) (D + beta/2 rho) |du|`` for a move and a bend along the weight; ``(W0 + R) L |du|`` by the slope alone."""
    tangent, bend = (WEIGHT + RADIUS) * SLOPE, (WEIGHT + RADIUS) * BENT
    true = (WEIGHT + RADIUS) ** 2 if kind.endswith("lipschitz") else (tangent + bend) ** 2
    best = min(handed(kind, theta2) for theta2 in (bend / tangent, *torch.logspace(-2, 2, 41).tolist()))
    assert true <= best * (1 + 1e-12)
    assert best <= true * (1 + 1e-9)


def network(depth: int, activation: str = "csp1", *, output: float = 1.0, size: float = 1.0):
    """One unit a layer, moved by its radius (``size`` times 0.3 and more), so that steps back to the other side of the ball are twice as long;
    all slopes pull up where ``output`` is positive."""
    net = Dense(1, 2, 1, depth, activation, output="gaussian", input_layer=False).double()
    radii = tuple(size * (0.3 + 0.1 * h) for h in range(depth))
    with torch.no_grad():
        for weight in net.weights:
            weight.fill_(1.3)
        net.output_weight.fill_(output)
    weights = tuple(w.detach().clone() for w in net.weights)
    start = Start(weights=weights, columns=tuple(1.3 for _ in weights), radii=radii, groups=1)
    moved = tuple(w + r for w, r in zip(weights, radii, strict=True))
    at = expand(net, moved, weights, column(0.9), column(1.0))
    return net, start, at


def test_preactivations_move_as_far_as_is_said():
    """A linear network of one unit a layer, every move along the weight: ``du`` of a layer is what `reaches` says."""
    _, start, at = network(3, "identity")
    k, r = at.scale, (0.3, 0.4, 0.5)
    e = reaches(at, start, constants_of(activation_named("identity")), layers=2)
    assert float(e[0][0, 0]) == pytest.approx(0.9, rel=1e-9)
    x1 = float(at.inputs[1])
    du1 = r[0] * 0.9
    du2 = r[1] * x1 + (1.3 + start.radii[1]) * k * du1
    said = float(e[1][0] @ torch.tensor(r, dtype=torch.float64))
    assert du2 <= said * (1 + 1e-12)
    assert said <= du2 * (1 + 1e-3)  # ||W0|| itself is bounded


def test_the_product_with_the_bend_is_reached():
    """A convex activation and slopes that pull up: no unit can lose by its own bending, all that is left is ``k g Delta^2 xi`` with
    ``|xi| = beta/2 rho |du|``, ``rho = |x| (R + ||W - W0||)``."""
    net, start, at = network(2)
    constants = constants_of(net.activation)
    free = replace(first_parameters(2), tau2=1e-30)  # the product's linear part costs layer 2 nothing
    bound = layered(
        at, start, scaled_norms(at, start, constants), constants, free, third=None, cancelling=True
    )
    said = 2 * math.sqrt(float(bound.eigenvalues[1]) * float(bound.weights[0]))
    rho = 0.9 * (start.radii[0] + float(at.moved[0]))
    assert float(at.moved[0]) == pytest.approx(start.radii[0])
    change = max(float(at.derivatives[0]), 1 - float(at.derivatives[0]))
    assert 0.25 / 2 * rho < change  # the bend decides, not the largest change of slope
    true = at.scale * abs(float(at.pull(1))) * 0.25 / 2 * rho
    assert true <= said * (1 + 1e-12)
    assert said <= true * (1 + 1e-6)


def test_the_product_without_cancelling_is_reached():
    """Example by example: ``k g Delta^2 dx`` with ``|dx| = (D + beta/2 rho) |du|``, both of one sign."""
    net, start, at = network(2)
    constants = constants_of(net.activation)
    bound = layered(
        at,
        start,
        scaled_norms(at, start, constants),
        constants,
        first_parameters(2),
        third=None,
        cancelling=False,
    )
    said = 2 * math.sqrt(float(bound.eigenvalues[1]) * float(bound.weights[0]))
    rho = 0.9 * (start.radii[0] + float(at.moved[0]))
    lip = min(1.0, float(at.derivatives[0]) + 0.25 / 2 * rho)
    true = at.scale * abs(float(at.pull(1))) * lip
    assert true <= said * (1 + 1e-12)
    assert said <= true * (1 + 1e-6)


def bend_of_layer_2(start: Start, at: Expansion) -> float:
    """``beta/2 rho`` of a network of three layers, where that is the smaller bound of what is left of ``dx^2``."""
    away = torch.tensor(
        [r + float(m) for r, m in zip(start.radii, at.moved, strict=True)], dtype=torch.float64
    )
    bent = 0.25 / 2 * float(reaches(at, start, constants_of(activation_named("csp1")), layers=2)[1][0] @ away)
    assert 0.01 < bent < 1 - float(at.derivatives[1]) - 0.01
    return bent


def test_the_product_of_layer_3_without_cancelling_is_reached():
    """``k g Delta^3 dx^2`` with ``|dx^2| = (D + beta/2 rho) |du^2|``, both of one sign."""
    net, start, at = network(3, size=0.1)
    constants, free = constants_of(net.activation), first_parameters(3)
    bound = layered(
        at, start, scaled_norms(at, start, constants), constants, free, third=None, cancelling=False
    )
    said = 2 * math.sqrt(float(bound.eigenvalues[2]) * float(bound.weights[1]) / (1 + free.theta[1]))
    true = at.scale * abs(float(at.pull(2))) * (float(at.derivatives[1]) + bend_of_layer_2(start, at))
    assert true <= said * (1 + 1e-12)
    assert said <= true * (1 + 1e-6)


def test_what_layer_3_hands_down_is_reached():
    """Slopes that pull down: ``w ||W' dx^2||^2`` with ``|dx^2| = (D + beta/2 rho) |du^2|``, beside layer 2's own bending."""
    net, start, at = network(3, output=-1.0, size=0.1)
    constants = constants_of(net.activation)
    slope, bent = float(at.derivatives[1]), bend_of_layer_2(start, at)
    own = [float(own_weights(at, h, constants)) for h in (1, 2)]
    assert min(own) > 0
    true = own[1] * (at.scale * (1.3 + start.radii[2]) * (slope + bent)) ** 2
    first = first_parameters(3)
    # Nothing is lost to the other terms: they cost layer 3 as much as it takes.
    free = replace(
        first,
        theta=(*first.theta[:2], 1e9),
        theta2=(*first.theta2[:2], bent / slope),
        tau=(*first.tau[:2], 1e12),
    )
    bound = layered(
        at, start, scaled_norms(at, start, constants), constants, free, third=None, cancelling=False
    )
    said = float(bound.weights[1]) / (1 + free.theta[1]) - own[0]
    assert true <= said * (1 + 1e-9)
    assert said <= true * (1 + 1e-3)  # ||W0|| itself is bounded


def test_products_of_three_layers_are_reached():
    """Both terms of layer 3's product beside its linear part: ``d^2 W'^2 d^1 Delta^1 x`` and what is left of ``dx^1``."""
    net, start, at = network(3)
    constants = constants_of(net.activation)
    scaled = scaled_norms(at, start, constants)
    d1, d2 = (float(d) for d in scaled.references)
    rho, k = torch.full((1,), 0.4, dtype=torch.float64), at.scale
    pulls = at.pull(2).square().sum(1) / at.sizes
    third = bare(Third, sizes=column(1.0, 1.0)[:, 0])
    reach = 1.3 + start.radii[1]
    free = replace(first_parameters(3), third=(1e-20, 1.0, 1e-20))
    eigenvalue, factors, _ = _third(at, start, scaled, constants, free, third, rho, pulls)
    said = 2 * math.sqrt(float(eigenvalue) * float(factors[0]))
    assert k * k * d2 * reach * d1 <= said * (1 + 1e-9)
    assert said <= k * k * d2 * reach * d1 * (1 + 1e-3)  # ||W0|| itself is bounded
    free = replace(first_parameters(3), third=(1e-20, 1e-20, 1.0))
    eigenvalue, _, later = _third(at, start, scaled, constants, free, third, rho, pulls)
    said = 2 * math.sqrt(float(eigenvalue) * float(later))
    left = 0.25 / 2 * 0.4
    true = k * abs(float(at.pull(2))) * d2 * reach * k * left
    assert true <= said * (1 + 1e-9)
    assert said <= true * (1 + 1e-3)


def test_a_spectral_norm_is_above_the_exact_one_however_its_gram_matrix_was_rounded(monkeypatch):
    """One row of large entries and then very many whose squares are lost beside theirs, and a search that starts at the rounded value."""
    small = math.sqrt(0.49) * 2.0**-26
    row = torch.cat([torch.ones(256), torch.full((2**20,), small)]).double()[None]
    exact = sum(Fraction(v) ** 2 * n for v, n in ((1.0, 256), (float(row[0, -1]), 2**20)))
    for share in torch.linspace(-1.2e-12, -0.8e-12, 41, dtype=torch.float64).tolist():
        monkeypatch.setattr(
            spectral, "_top", lambda gram, share=share: float(gram) * (1 + share) / (1 + 2e-4)
        )
        assert Fraction(spectral.norm_bound(row)) ** 2 >= exact
