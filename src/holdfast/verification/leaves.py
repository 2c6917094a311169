"""The least value of a linear function over a threat set cut by linear constraints: what is left when every
kink's side is known.

By duality, for any multipliers ``w >= 0`` the least of ``<c, x> + k - sum_i w_i (<g_i, x> + h_i)`` over the
whole set is a lower bound where all ``<g_i, x> + h_i >= 0``, and the best multipliers attain it (the problem
is convex). They are looked for here; what they prove is worked out elsewhere, with its rounding.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast._deadline import NEVER, Deadline
from holdfast.verification.region import Region

ITERATIONS = 200


def best_multipliers(
    region: Region,
    slope: Float[Tensor, " features"],
    height: float,
    matrix: Float[Tensor, "constraints features"],
    offset: Float[Tensor, " constraints"],
    deadline: Deadline = NEVER,
) -> tuple[Float[Tensor, " constraints"], Float[Tensor, " features"]]:
    """Multipliers that about maximise the dual function, and the point of the set where its least value lies.

    Args:
        region: one threat set, of any kind.
        slope, height: the linear function.
        matrix, offset: the constraints ``matrix x + offset >= 0``.
        deadline: when the best so far has to do.
    """
    from scipy.optimize import minimize  # when first needed: scipy takes its time to import

    best = -torch.inf
    weights, point = torch.zeros_like(offset), region.x[0]

    def dual(numbers: object) -> tuple[float, object]:
        nonlocal best, weights, point
        given = torch.as_tensor(numbers).to(offset)
        row = slope - given @ matrix
        at = region.minimiser(row[None, None])[0, 0]
        kept = matrix @ at + offset
        value = float(row @ at + height - given @ offset)
        if value > best:
            best, weights, point = value, given.clone(), at
        return -value, kept.numpy(force=True)

    def enough(_: object) -> None:
        if best > 0 or deadline.over:  # proved: no need to know by how much
            raise StopIteration

    if len(offset):
        minimize(
            dual,
            weights.numpy(force=True),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, None)] * len(offset),
            callback=enough,
            options={"maxiter": ITERATIONS},
        )
    return weights, point
