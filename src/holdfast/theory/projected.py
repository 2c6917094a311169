"""The first hidden width that robustness forces on given data: their differences must survive a projection of
that rank.

Let the first layer be ``W x + b`` with ``m`` units and ``P`` the orthogonal projection onto the row space of
``W``: the network is a function of ``P x``. For two examples of different labels with difference ``v``, if
``||P v|| <= 2 r`` then ``x_i - P v / 2`` and ``x_j + P v / 2`` lie within Euclidean distance ``r`` of their
examples and have one image, so one of the two is misclassified. A robust fit thus needs ``||P v_k|| > 2 r``
for every opposite-label pair. For any weights ``w_k >= 0`` that add up to 1,

    (2 r)^2  <  sum_k w_k ||P v_k||^2  =  trace(P M)  <=  sum of the m largest eigenvalues of  M = sum_k w_k v_k v_k^T    (Ky Fan),

so a width ``m`` whose right side is at most ``(2 r)^2`` for some weights is excluded. Any weights give a
proof; good ones are found by multiplicative steps. An l-inf ball of radius ``r`` holds the l2 ball of radius
``r``, an l1 ball that of ``r / sqrt(d)``. Features that may not change are set aside, and only pairs that
agree on them are compared. With one unit a feature and all pairs at distance above ``2 r`` nothing is
excluded: the bound never exceeds the rank of the differences.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast._tensors import flatten
from holdfast.threats import LpBall

PAIRS = 192  # nearest opposite-label pairs that are weighed; any of them make a proof
EXAMPLES = 2048  # compared with each other for those pairs
STEPS = 200  # of the weights, for each width
RATE = 4.0


def projected_width(
    x: Float[Tensor, "examples ..."],
    y: Int[Tensor, " examples"],
    ball: LpBall,
    fixed: Bool[Tensor, "..."] | None = None,
) -> tuple[int, str]:
    """The least first hidden width that is not excluded, and what the claim rests on."""
    free = None if fixed is None else ~fixed.reshape(-1)
    differences, rows = _nearest(flatten(x).double(), y, free)
    features = differences.shape[1]
    radius = ball.radius / (math.sqrt(features) if ball.norm == "1" else 1.0)
    if not len(differences):
        return 1, "no two examples of different labels agree on the features that may not change"
    if _box_cuts(flatten(x)[rows].double(), ball, radius, free):
        return 1, "a box cuts the threat sets: no more than the trivial bound is claimed"
    # Only lengths over the radius count: in a unit of about the longest (a power of 2) no square overflows or
    # vanishes.
    unit = 2.0 ** (math.frexp(float(differences.abs().max()))[1] - 1)
    differences, radius = differences / unit, radius / unit
    width, needed = 1, 4 * radius * radius
    if float(differences.square().sum(1).min()) <= needed:
        return 1, "threat sets of different labels meet: no network of any width is robust"
    while width < min(differences.shape) and excluded(differences, width, needed):
        width += 1
    return width, "any network whose first layer is affine; weighed in float64, rounding subtracted"


def excluded(
    differences: Float[Tensor, "pairs features"], width: int, needed: float, steps: int = STEPS
) -> bool:
    """Whether some weights show that ``width`` units cannot keep every difference's squared length above
    ``needed``.
    """
    scale = differences.square().sum(1).mean()
    if float(scale) == 0:
        return True
    logits = torch.zeros(len(differences), dtype=differences.dtype, device=differences.device)
    for step in range(steps):
        weights = logits.softmax(0)
        values, kept = _projection(differences, weights, width)
        # eigenvalues are off by a few roundings of the largest, for each of them
        slack = 64 * len(values) * torch.finfo(values.dtype).eps * float(values.sum())
        if float(values[-width:].sum()) + slack <= needed:
            return True
        logits = logits - RATE / math.sqrt(step + 1) * (kept / scale)
    return False


def _projection(
    differences: Float[Tensor, "pairs features"], weights: Float[Tensor, " pairs"], width: int
) -> tuple[Float[Tensor, " values"], Float[Tensor, " pairs"]]:
    """Eigenvalues of ``M``, ascending, and the squared lengths of the differences on its ``width`` top
    eigenvectors.
    """
    rows = differences * weights.sqrt()[:, None]
    if len(rows) < rows.shape[1]:  # the Gram matrix has the same eigenvalues besides zeros, and is smaller
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        top = vectors[:, -width:].T @ rows
        top = top / values[-width:].clamp(min=1e-300).sqrt()[:, None]
    else:
        values, vectors = torch.linalg.eigh(rows.T @ rows)
        top = vectors[:, -width:].T
    return values, (differences @ top.T).square().sum(1)


def _nearest(
    x: Float[Tensor, "examples features"], y: Int[Tensor, " examples"], free: Tensor | None
) -> tuple[Float[Tensor, "pairs free"], Int[Tensor, " rows"]]:
    """Differences of the nearest opposite-label pairs that agree on fixed features, and the rows they came
    from.
    """
    rows = torch.arange(len(x), device=x.device)
    if len(x) > EXAMPLES:
        rows = rows[:: -(-len(x) // EXAMPLES)]
    points, labels = x[rows], y[rows]
    moved = points if free is None else points[:, free]
    lengths = torch.cdist(moved, moved)
    apart = (labels[:, None] != labels[None]).triu()
    apart |= (labels[:, None] != labels[None]).tril().T  # each pair once
    if free is not None and not bool(free.all()):
        apart &= torch.cdist(points[:, ~free], points[:, ~free], p=math.inf) == 0
    i, j = apart.nonzero(as_tuple=True)
    order = lengths[i, j].argsort(stable=True)[:PAIRS]
    i, j = i[order], j[order]
    return moved[i] - moved[j], rows[torch.unique(torch.cat([i, j]))]


def _box_cuts(
    x: Float[Tensor, "examples features"], ball: LpBall, radius: float, free: Tensor | None
) -> bool:
    """Whether some Euclidean ball of this radius around the examples reaches beyond the threat's box."""
    if ball.bounds is None:
        return False
    low, high = (
        torch.as_tensor(side, dtype=x.dtype, device=x.device).expand_as(x[0])
        if not isinstance(side, Tensor) or side.ndim == 0
        else side.to(x).reshape(-1)
        for side in ball.bounds
    )
    room = torch.minimum(x - low, high - x)
    return bool(((room if free is None else room[:, free]) < radius).any())
