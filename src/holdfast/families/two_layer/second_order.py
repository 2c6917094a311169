"""Margins of wide two-layer networks from the value, gradient and Hessian at the example, without growth in
the width.

Taylor's formula with the input Hessian bounded is Singla and Feizi's certificate (2020, arXiv 2006.00731).
Relaxing each unit by itself, or bounding each unit's Hessian, costs a factor ``sqrt(m)`` for
``f = m^(-1/2) sum_r a_r act(w_r . z)``. Here units come in pairs ``(w, +a)`` and ``(w', -a)`` that were equal
when training began and have stayed near each other, so only their differences count: with ``p = w . d``,
``q = w' . d``, ``D = w - w'`` and the remainder ``R_u(p)`` of ``act(u + p)`` after its terms of degree 0 to
2, a pair leaves

    ``R_u(p) - R_u'(q) = [R_u(p) - R_u'(p)] + [R_u'(p) - R_u'(q)]``.

``dR_u(p)/du`` is the remainder of ``act'(u + p)`` after degree 2, so the first bracket is at most
``K4 |u - u'| |p|^3 / 6``; ``dR_u(p)/dp`` is that after degree 1, so the second is at most
``K3 |p^3 - q^3| / 6 <= (3/2) K3 |D . d| (p^2 + q^2) / 6``. Here ``K3`` and ``K4`` are the largest sizes of
the third and fourth derivative of ``act``. Hence

    ``g(x + d) >= g(x) + <grad g, d> + d^T H(x) d / 2 - d^T P d / 6``

with ``P`` a sum of ``w w^T`` with these small weights. The linear term is minimised exactly over ball and
box, the quadratic ones over the ball: by eigenvalues (l2), the sum (l-inf) or the largest (l1) of the
entries' sizes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.errors import InputError
from holdfast.families.base import MarginExpansion
from holdfast.networks.two_layer import TwoLayer
from holdfast.threats import LpBall

Matrices = Float[Tensor, "rows features features"]

# Largest |act'''| and |act''''|: numeric maxima, rounded up in the last digit.
DERIVATIVES = {
    "softplus": (0.09623, 0.12501),
    "sigmoid": (0.12501, 0.12769),
    "tanh": (2.00001, 4.08589),
    "erf": (2.25676, 4.40471),
    "gelu": (0.77877, 1.59577),
    "silu": (0.30819, 0.50001),
}


@dataclass(frozen=True, kw_only=True)
class UnitPairs:
    """A two-layer network as ``g_c(x) = sum_k beta_ck (act(w_k x + b_k) - act(w'_k x + b'_k))``, in float64.

    Attributes:
        first: ``w_k`` in units of the input.
        second: ``w'_k``.
        offsets: ``b_k`` and ``b'_k``.
        factors: ``beta_ck``, a column per output.
    """

    first: Float[Tensor, "pairs features"]
    second: Float[Tensor, "pairs features"]
    offsets: Float[Tensor, "2 pairs"]
    factors: Float[Tensor, "pairs outputs"]


def pairs_of(model: TwoLayer) -> UnitPairs:
    """The units of a network, each with the one that shared its initial weights.

    Raises:
        InputError: units do not come in pairs with opposite output rows.
    """
    output = model.output_weight.detach().double()
    units = torch.arange(model.width, device=output.device)
    if model.groups > 1:  # groups of units with one output row, + and - of each output in turn
        ones, others = units.reshape(model.outputs, 2, -1).transpose(0, 1).flatten(1)
    elif model.width % 2 == 0:
        ones, others = units.reshape(2, -1)
    else:
        ones = others = units
    if not torch.equal(output[ones], -output[others]):
        raise InputError(
            "model must have units in pairs with opposite output weights for method 'second-order', but its "
            "output weights differ in more than sign; use TwoLayer(paired=True, train_output=False), or "
            "method='crown'."
        )
    weight = model.weight.detach().double()
    scale = model.scale.double()
    inner = weight[:, : model.features] * scale
    shift = weight.new_zeros(model.width)
    if model.center is not None:
        shift = shift - inner @ model.center.double()
    if model.constant is not None:
        shift = shift + weight[:, -1] * model.constant
    return UnitPairs(
        first=inner[ones],
        second=inner[others],
        offsets=torch.stack([shift[ones], shift[others]]),
        factors=output[ones] / model.width**0.5,
    )


def margin_expansion(network: TwoLayer, ball: LpBall) -> MarginExpansion:
    """The expansion of this network's margins over the ball.

    Raises:
        InputError: a network without pairs, or an activation without bounded derivatives.
    """
    name = network.activation.name
    if name not in DERIVATIVES:
        raise InputError(
            f"activation must be one of {', '.join(DERIVATIVES)} for method 'second-order', got "
            f"{name!r}; use method='crown'."
        )
    pairs = pairs_of(network)
    return lambda point, rows: _margins(network, pairs, point, rows, ball)


def _margins(
    model: TwoLayer,
    pairs: UnitPairs,
    point: Float[Tensor, " features"],
    rows: Float[Tensor, "rows outputs"],
    threat: LpBall,
) -> Float[Tensor, "rows features_and_one"]:
    """Gradients of the functions at one example, and a lower bound of what the linear term leaves, as a
    last column.
    """
    radius, dual = threat.radius, float(threat.dual_norm)
    third, fourth = DERIVATIVES[model.activation.name]
    first, second = pairs.first, pairs.second
    before, after = first @ point + pairs.offsets[0], second @ point + pairs.offsets[1]
    value, slope = model.activation.value, model.activation.slope
    weights = pairs.factors @ rows.T
    constant = (value(before) - value(after)) @ weights
    gradient = (slope(before)[:, None] * weights).T @ first - (slope(after)[:, None] * weights).T @ second
    # Outputs of few groups share no units, so one Hessian an output serves all functions.
    bends = [_curvature(model, inputs) for inputs in (before, after)]
    length, other = (torch.linalg.vector_norm(inner, dual, dim=1) * radius for inner in (first, second))
    apart = torch.linalg.vector_norm(first - second, dual, dim=1) * radius
    pulled = 1.5 * third * apart
    turned = fourth * (before - after).abs() * torch.minimum(length, other) + pulled
    # Either of the pair may carry the first term; the shorter does, as the formula is symmetric in the two.
    on_first = torch.where(length <= other, turned, pulled)
    on_second = torch.where(length <= other, pulled, turned)
    sizes = pairs.factors.abs()
    hessians, rates = [], []
    for output in range(pairs.factors.shape[1]):
        used = sizes[:, output].nonzero().squeeze(1)  # units of other outputs would add zeros
        one, two, factor, size = first[used], second[used], pairs.factors[used, output], sizes[used, output]
        hessians.append(
            one.T @ ((bends[0][used] * factor)[:, None] * one)
            - two.T @ ((bends[1][used] * factor)[:, None] * two)
        )
        rates.append(
            one.T @ ((on_first[used] * size)[:, None] * one)
            + two.T @ ((on_second[used] * size)[:, None] * two)
        )
    hessian = torch.einsum("ro,oij->rij", rows, torch.stack(hessians))
    rate = torch.einsum("ro,oij->rij", rows.abs(), torch.stack(rates))
    bent = largest_quadratic(rate / 6 - hessian / 2, threat.norm, radius)
    reach = (first.abs() @ point.abs() + second.abs() @ point.abs() + length + other) + 1
    bounded = (reach + value(before).abs() + value(after).abs()) * (1 + length + other)
    terms = model.width + 4 * len(point)
    spare = 16 * terms * 2.0**-53 * (1 + (model.activation.lipschitz or 1.0)) * (bounded @ weights.abs())
    return torch.cat([gradient, (constant - bent.clamp(min=0.0) - spare)[:, None]], 1)


def _curvature(model: TwoLayer, inputs: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """``act''``."""
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_(True)
        (second,) = torch.autograd.grad(model.activation.slope(inputs).sum(), inputs)
    return second


def largest_quadratic(matrices: Matrices, norm: str, radius: float) -> Float[Tensor, " rows"]:
    """An upper bound of ``max d^T M d`` over ``||d|| <= radius`` for symmetric ``M``; at least that of
    ``d = 0``.

    l2: the largest eigenvalue. l1: the largest entry. l-inf: the sum of the entries' sizes or, if less,
    features times the largest eigenvalue. Rounding of the eigenvalues is added.
    """
    rounding = matrices.shape[1] * 2.0**-48 * torch.linalg.matrix_norm(matrices)
    sizes = matrices.abs()
    if norm == "1":
        largest = sizes.amax((1, 2))
    else:
        largest = (torch.linalg.eigvalsh(matrices)[:, -1] + rounding).clamp(min=0.0)
    if norm == "inf":
        largest = torch.minimum(sizes.sum((1, 2)) + rounding, matrices.shape[1] * largest)
    bound: Tensor = radius**2 * largest
    return bound
