"""A proved upper end of a network's robust loss, from verified margins."""

import math

from holdfast.certificates.frozen import FrozenPass
from holdfast.errors import InputError
from holdfast.verification import verify


def verified_loss(passed: FrozenPass) -> float:
    """``sum_i pi_i`` of the largest loss that CROWN's margins allow over each threat set; infinite where
    nothing is known.
    """
    try:
        found = verify(passed.model, passed.points.x.double(), passed.points.y, passed.threat, method="crown")
        worst = found.loss_upper_bound(passed.loss).to(passed.weights)
    except InputError:  # a network, a threat or a loss without such bounds
        return math.inf
    return float((passed.weights * worst).sum())
