"""What attacks made for norm balls ask of the threat: that it is one, its box around each example, and a
radius safe from rounding.
"""

from jaxtyping import Float
from torch import Tensor

from holdfast import _tensors, projections
from holdfast.errors import InputError
from holdfast.projections import Rows
from holdfast.threats.base import SHRINK, UNITS, Points, Threat
from holdfast.threats.lp import LpBall


def not_a_ball(threat: Threat) -> str:
    """For `Attack.refuses`: why an attack for norm balls cannot search this threat; empty for a ball."""
    return "" if isinstance(threat, LpBall) else f"not for {threat.spec}: it searches balls"


def checked_ball(threat: Threat, attack: str, remedy: str) -> LpBall:
    """The threat, if it is a norm ball.

    Raises:
        InputError: it is not.
    """
    if not isinstance(threat, LpBall):
        raise InputError(
            f"threat must be an l-inf, l2 or l1 ball (LpBall) for {attack}, which works in its norm, got "
            f"{type(threat).__name__}; use {remedy}, which takes any threat."
        )
    return threat


def box_around(x: Points, threat: LpBall) -> tuple[Rows, Rows] | tuple[None, None]:
    """Least and largest value of each feature of each row: the box, widened to ``x``, and ``x`` itself where
    it may not change.

    ``None`` where there is neither box nor fixed feature.
    """
    rows, bound = _tensors.flatten(x), threat._limits_for(x)
    if bound.inner is None and bound.free is None:
        return None, None
    low, high = (bound.restored(edge.expand_as(rows), rows) for edge in bound.box(rows))
    return low, high


def safe_radius(x: Points, threat: LpBall) -> Float[Tensor, " batch"]:
    """The distance, in float64, up to which `Threat.project_inside` moves nothing: one rounding of the example
    less than it keeps clear.
    """
    rows = threat._limits_for(x).masked(_tensors.flatten(x))
    safe: Tensor = (1 - SHRINK) * threat.radius - 2 * UNITS * projections.lengths(rows, threat.norm)
    return safe.clamp(min=0.0)
