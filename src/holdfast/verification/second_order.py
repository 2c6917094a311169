"""Margins from the value, gradient and input Hessian at the example, for networks of families that bound
the rest.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._deadline import NEVER, Deadline
from holdfast.errors import InputError
from holdfast.families.base import MarginExpansion
from holdfast.families.exact import exact_core, why_not_exact
from holdfast.threats import Threat, is_ball
from holdfast.verification.region import region_of


def has_second_order(model: nn.Module, threat: Threat) -> bool:
    """Whether the second-order bound can be had for this network and threat."""
    try:
        _expansion(model, threat)
    except InputError:
        return False
    return True


def _expansion(model: nn.Module, threat: Threat) -> MarginExpansion:
    core = exact_core(model)
    if core is not None and is_ball(threat):
        expansion = core.family.second_order(core.network, threat)
        if expansion is not None:
            return expansion
    elif core is not None:
        raise InputError(
            f"threat must be a ball for method 'second-order', got {type(threat).__name__}; use "
            "method='crown'."
        )
    why = why_not_exact(model) or f"none is known for {type(model).__name__}"
    raise InputError(
        "model must be a TwoLayer network exactly, or one of a family with such a bound, for method "
        f"'second-order', but {why}; use method='crown'."
    )


def second_order_margins(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    specification: Float[Tensor, "batch rows outputs"],
    threat: Threat,
    deadline: Deadline = NEVER,
) -> Float[Tensor, "batch rows"]:
    """Lower bounds of linear functions of the outputs over each threat set.

    Args:
        specification: the functions' coefficients, one row a function.

    Raises:
        OutOfTime: the deadline is over before all is known.
        InputError: a network whose family has no such bound, or a threat that is no ball.
    """
    expansion = _expansion(model, threat)
    points = x.detach().double().flatten(1)
    found = []
    for point, rows in zip(points, specification, strict=True):
        deadline.check()
        found.append(expansion(point, rows))
    result = torch.stack(found)
    region = region_of(threat, x)
    gradient, rest = result[..., :-1], result[..., -1]
    return region.minimum(gradient) - torch.einsum("brf,bf->br", gradient, points) + rest
