"""Whether one network is right on every threat set: exactly where it has one hidden layer, by verified
bounds elsewhere.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast._tensors import flatten
from holdfast.lab.capacity.exact import Hinges, Least, least
from holdfast.lab.capacity.results import Outcome
from holdfast.threats import LpBall
from holdfast.verification import verify

SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found, with a lower bound of the least margin over all sets as far as it was raised."""

    outcome: Outcome
    margin: float


def prove(
    model: nn.Sequential,
    x: Float[Tensor, "examples ..."],
    y: Int[Tensor, " examples"],
    threat: LpBall | None,
    *,
    parts: int,
) -> Proof:
    """Prove ``model`` right on the threat sets of all examples, or find a point where it is not.

    ``verified`` is a proof about the function of real numbers that the weights define, ``refuted`` a point
    misclassified in float64.

    Args:
        model: ``Flatten, Linear, (ReLU, Linear) ..`` in float64, one signed output for two classes.
        x: in float64.
        threat: ``None`` for the examples themselves.
        parts: into which one ball is cut at most, else it stays ``undecided``; bounds that are not exact get
            `SECONDS` for each 1,000.
    """
    if threat is None:
        return _summed(verify(model, x, y, LpBall("inf", 0.0), method="ibp").margin_lower_bound, refuted=True)
    if len(model) == 4 and threat.bounds is None:
        return _exact(model, x, y, threat, parts)
    proof = verify(model, x, y, threat, method="auto", seconds=SECONDS * parts / 1000)
    refuted = bool(proof.counterexample.isfinite().flatten(1).all(1).any())
    with torch.no_grad():
        wrong = ~verify(model, x, y, LpBall("inf", 0.0), method="ibp").verified
    return _summed(proof.margin_lower_bound, refuted=refuted or bool(wrong.any()))


def _summed(margins: Float[Tensor, " examples"], *, refuted: bool) -> Proof:
    margin = float(margins.min())
    return Proof(outcome="verified" if margin > 0 else "refuted" if refuted else "undecided", margin=margin)


def _exact(
    model: nn.Sequential,
    x: Float[Tensor, "examples ..."],
    y: Int[Tensor, " examples"],
    threat: LpBall,
    parts: int,
) -> Proof:
    w, b, a, c = (v.detach().numpy() for v in model.parameters())
    free = np.ones(w.shape[1], dtype=bool) if threat.fixed is None else ~threat.fixed.reshape(-1).numpy()
    found: list[Least] = []
    for point, label in zip(flatten(x).numpy(), y.tolist(), strict=True):
        held = b + w[:, ~free] @ point[~free]
        rows = (
            [(2 * label - 1) * a[0]]
            if len(a) == 1
            else [a[label] - a[k] for k in range(len(a)) if k != label]
        )
        heights = (
            [(2 * label - 1) * c[0]]
            if len(a) == 1
            else [c[label] - c[k] for k in range(len(a)) if k != label]
        )
        for row, height in zip(rows, heights, strict=True):
            f = Hinges(a=row, w=w[:, free], b=held, c=float(height))
            found.append(least(f, point[free], threat.radius, threat.norm, parts))
            if not found[-1].bound > 0:  # one failure decides it
                refuted = found[-1].point is not None
                return Proof(outcome="refuted" if refuted else "undecided", margin=found[-1].bound)
    return Proof(outcome="verified", margin=min(one.bound for one in found))
