"""Is a VNN-LIB property ``sat`` (with a counterexample), ``unsat`` (proved), or unknown?"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast import _tensors
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.attacks.modes import attacking
from holdfast.errors import InputError
from holdfast.external import Case, Condition, Property, counterexample_status
from holdfast.losses import PerExample
from holdfast.threats import LpBall
from holdfast.verification import verify

STARTS, STEPS = 64, 60
METHODS = ("ibp", "crown", "alpha")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is known of a property.

    Attributes:
        status: ``sat``: ``x`` is a counterexample, run again in float64; ``unsat``: proved that there is none; ``unknown``: neither.
        x: the counterexample as the model takes it, without batch axis; ``None`` unless ``sat``.
        outputs: the model's outputs there, in float64.
        margin: the smallest margin proved, over all parts of the property: above 0 where ``unsat``.
        open_parts: parts (a box with a condition) that were neither proved nor met.
    """

    status: Literal["sat", "unsat", "unknown"]
    x: Tensor | None = None
    outputs: Tensor | None = None
    margin: float = float("nan")
    open_parts: int = 0


class Part(nn.Module):
    """``A_k f(x) - b_k`` for one row of a condition: positive where the row is not met."""

    def __init__(self, model: nn.Module, row: Float[Tensor, " outputs"], limit: float) -> None:
        super().__init__()
        self.model = model
        self.row = nn.Linear(len(row), 1, dtype=torch.float64)
        with torch.no_grad():
            self.row.weight.copy_(row[None])
            self.row.bias.fill_(-limit)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.row(self.model(x))
        return value


def check_property(
    model: nn.Module,
    prop: Property,
    shape: tuple[int, ...],
    *,
    seconds: float | None = 60.0,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Answer:
    """Search for a counterexample, then prove each part, cheap bounds first.

    A part is a box with one of its conditions ``A y <= b``. It is proved by a row ``k`` with ``A_k f(x) - b_k > 0`` on the whole box.

    Args:
        model: the network; a float64 copy of it is judged, in evaluation mode.
        shape: of one example.
        seconds: after which no new bound is begun; ``None`` for no limit.

    Raises:
        InputError: shape or outputs do not fit the property, or a layer has no bounds.
    """
    began = time.perf_counter()
    features = math.prod(shape)
    if features != prop.inputs:
        raise InputError(
            f"the property is about {prop.inputs} inputs, got a network of {features} (shape {shape}); use the network it is for."
        )
    exact = _float64(model)
    parts = [(case, condition) for case in prop.cases for condition in case.conditions]
    for number, (case, condition) in enumerate(parts):
        found = _search(exact, prop, case, condition, shape, seed + number)
        if found is not None:
            with torch.no_grad():
                return Answer(status="sat", x=found, outputs=exact(found[None])[0])
        if progress is not None:
            progress("searching", number + 1, len(parts))
    smallest, open_parts = float("inf"), 0
    for number, (case, condition) in enumerate(parts):
        left = None if seconds is None else seconds - (time.perf_counter() - began)
        margin = _proved(exact, case, condition, shape, left)
        smallest = min(smallest, margin)
        open_parts += margin <= 0
        if progress is not None:
            progress("proving", number + 1, len(parts))
    status: Literal["unsat", "unknown"] = "unknown" if open_parts else "unsat"
    return Answer(status=status, margin=smallest, open_parts=open_parts)


def _float64(model: nn.Module) -> nn.Module:
    exact = copy.deepcopy(model).double().eval()
    for parameter in exact.parameters():
        parameter.requires_grad_(False)
    return exact


def _search(
    model: nn.Module, prop: Property, case: Case, condition: Condition, shape: tuple[int, ...], seed: int
) -> Tensor | None:
    """Sign-gradient descent on the worst row ``max_k (A_k y - b_k)`` from random points of the box and its corners."""
    lower, upper = case.lower.reshape(shape), case.upper.reshape(shape)
    noise = _tensors.generator(seed)
    drawn = torch.rand((STARTS, *shape), generator=noise, dtype=torch.float64)
    drawn[STARTS // 2 :] = drawn[STARTS // 2 :].round()
    drawn[0] = 0.5
    points = torch.lerp(lower.expand_as(drawn), upper.expand_as(drawn), drawn)
    if len(condition.A) == 0:
        return points[0]

    def worst(outputs: Tensor) -> PerExample:
        return -(outputs @ condition.A.T - condition.b).amax(1)

    with attacking(model, "eval"):
        for step in range(STEPS):
            size = 0.25 * (1 - step / STEPS)
            outputs, gradient = outputs_and_gradient(model, points, worst)
            met = condition(outputs)
            if bool(met.any()):
                candidate = points[int(met.nonzero()[0])]
                if counterexample_status(model, prop, candidate):
                    return candidate
            move = points + size * (upper - lower) * gradient.sign()
            points = torch.minimum(torch.maximum(move, lower), upper)
    return None


def _proved(
    model: nn.Module, case: Case, condition: Condition, shape: tuple[int, ...], seconds: float | None
) -> float:
    """The largest margin that one row of the condition is proved to keep on the whole box; -inf without one."""
    lower, upper = case.lower.reshape(shape), case.upper.reshape(shape)
    centre = (lower + upper) / 2
    radius = float(
        (upper - lower).max()
    )  # the box itself is then the ball's box, whatever rounding did to the centre
    threat = LpBall("inf", radius, bounds=(lower, upper))
    best, ends = -float("inf"), None if seconds is None else time.perf_counter() + seconds
    for method in METHODS:
        for row, limit in zip(condition.A, condition.b, strict=True):
            if ends is not None and time.perf_counter() > ends:
                return best
            proof = verify(
                Part(model, row, float(limit)),
                centre[None],
                torch.ones(1, dtype=torch.long),
                threat,
                method=method,
            )
            best = max(best, float(proof.margin_lower_bound[0]))
            if best > 0:
                return best
    return best
