"""Is a VNN-LIB property ``sat`` (with a counterexample), ``unsat`` (proved), or unknown?"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast import _defaults, _tensors
from holdfast._deadline import NEVER, Deadline
from holdfast.attacks.gradient import outputs_and_gradient
from holdfast.attacks.modes import attacking
from holdfast.errors import InputError
from holdfast.external import Case, Condition, Property, counterexample_status
from holdfast.losses import PerExample
from holdfast.threats import LpBall
from holdfast.verification import Verification, verify
from holdfast.verification.branching import can_branch, kinks
from holdfast.verification.methods import UNITS
from holdfast.verification.tracing import trace

STARTS, STEPS = 64, 60
METHODS = ("ibp", "crown", "alpha")
AT_A_TIME = 4  # starts of a search whose steps take long
SLOW = 0.1  # share of the time left that a step may take


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is known of a property.

    Attributes:
        status: ``sat``: ``x`` is a counterexample, run again in float64; ``unsat``: proved that there is
            none; ``unknown``: neither.
        x: the counterexample as the model takes it, without batch axis; ``None`` unless ``sat``.
        outputs: the model's outputs there, in float64.
        margin: the smallest margin proved, over all parts of the property: above 0 where ``unsat``.
        open_parts: parts (a box with a condition) that were neither proved nor met.
        parts: how many there are.
        out_of_time: whether the time given ended before all was tried, so that more of it may decide.
        why: for ``unknown``, the reason and what may help; else empty.
    """

    status: Literal["sat", "unsat", "unknown"]
    x: Tensor | None = None
    outputs: Tensor | None = None
    margin: float = float("nan")
    open_parts: int = 0
    parts: int = 0
    out_of_time: bool = False
    why: str = ""


class PropertyPart(nn.Module):
    """``A_k f(x) - b_k`` for one row of a condition: positive where the row is not met."""

    def __init__(self, model: nn.Module, row: Float[Tensor, " outputs"], limit: float) -> None:
        super().__init__()
        self.model = model
        self.row = nn.Linear(len(row), 1, dtype=torch.float64)
        with torch.no_grad():
            self.row.weight.copy_(row[None])
            self.row.bias.fill_(-limit)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.row(_tensors.applied(self.model, x))
        return value


def check_property(
    model: nn.Module,
    prop: Property,
    shape: tuple[int, ...],
    *,
    seconds: float | None = _defaults.PROPERTY_SECONDS,
    seed: int = _defaults.SEED,
    progress: Callable[[str, int, int], None] | None = None,
) -> Answer:
    """Search for a counterexample, then prove each part, cheap bounds first, then by cutting at kinks.

    A part is a box with one of its conditions ``A y <= b``. It is proved by a row ``k`` with
    ``A_k f(x) - b_k > 0`` on the whole box.

    Args:
        model: the network; a float64 copy of it is judged, in evaluation mode.
        shape: of one example.
        seconds: from the call to the answer, the search has at most half of it before the first bound;
            ``None`` for no limit.

    Raises:
        InputError: shape or outputs do not fit the property, or a layer has no bounds.
    """
    deadline = Deadline.after(seconds)
    features = math.prod(shape)
    if features != prop.inputs:
        raise InputError(
            f"the property is about {prop.inputs} inputs, got a network of {features} (shape {shape}); "
            "use the network it is for."
        )
    return _Check(_float64(model), prop, shape, seed, deadline, progress or (lambda *_: None)).answer()


def _float64(model: nn.Module) -> nn.Module:
    exact = copy.deepcopy(model).double().eval()
    for parameter in exact.parameters():
        parameter.requires_grad_(False)
    return exact


class _Check:
    """The parts of a property with what is known of each."""

    def __init__(
        self,
        model: nn.Module,
        prop: Property,
        shape: tuple[int, ...],
        seed: int,
        deadline: Deadline,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.model, self.prop, self.shape, self.seed = model, prop, shape, seed
        self.deadline, self.progress = deadline, progress
        self.parts = [(case, condition) for case in prop.cases for condition in case.conditions]
        self.margins = [-math.inf] * len(self.parts)
        self.searched: set[int] = set()
        self.out_of_time = False

    def answer(self) -> Answer:
        """Search, bounds, the rest of the search, branches: each on the parts still open, until the time
        is over.
        """
        numbers = range(len(self.parts))
        found = self._each("searching", numbers, self._search, self.deadline.share(2), must=False)
        if found is None:
            found = self._each("proving", numbers, self._bound, self.deadline)
        if found is None:
            rest = [number for number in self._open() if number not in self.searched]
            found = self._each("searching the rest", rest, self._search, self.deadline)
        if found is None and self._open():
            found = self._cut()
        if found is not None:
            with torch.no_grad():
                return Answer(
                    status="sat",
                    x=found,
                    outputs=_tensors.applied(self.model, found[None])[0],
                    parts=len(self.parts),
                )
        still = len(self._open())
        return Answer(
            status="unknown" if still else "unsat",
            margin=min(self.margins, default=math.inf),
            open_parts=still,
            parts=len(self.parts),
            out_of_time=self.out_of_time and still > 0,
            why=self._why(still) if still else "",
        )

    def _open(self) -> list[int]:
        return [number for number, margin in enumerate(self.margins) if margin <= 0]

    def _each(
        self,
        name: str,
        numbers: Sequence[int],
        step: Callable[[int, Deadline], Tensor | None],
        deadline: Deadline,
        *,
        must: bool = True,
    ) -> Tensor | None:
        """A step for each part until one has a counterexample; whether all of them ``must`` be done before
        more time is of no use.
        """
        for place, number in enumerate(numbers):
            if deadline.over:
                self.out_of_time |= must
                return None
            found = step(number, deadline)
            if found is not None:
                return found
            self.progress(name, place + 1, len(numbers))
        return None

    def _search(self, number: int, deadline: Deadline) -> Tensor | None:
        case, condition = self.parts[number]
        found = _search(self.model, self.prop, case, condition, self.shape, self.seed + number, deadline)
        if not deadline.over:
            self.searched.add(number)
        return found

    def _bound(self, number: int, deadline: Deadline) -> Tensor | None:
        """Raise the part's margin by bounds of growing cost."""
        return next(
            (point for method in METHODS if (point := self._by(method, number, deadline)) is not None), None
        )

    def _cut(self) -> Tensor | None:
        """Branch and bound where that decides: on kinks, and not on too many without a limit."""
        graph = trace(self.model, self.parts[0][0].lower.reshape(1, *self.shape))
        if not can_branch(graph) or (self.deadline.left is None and sum(kinks(graph).values()) > UNITS):
            return None
        numbers = self._open()
        left = iter(range(len(numbers), 0, -1))
        return self._each(
            "branching",
            numbers,
            lambda number, deadline: self._by("branch", number, deadline.share(next(left))),
            self.deadline,
        )

    def _by(self, method: str, number: int, deadline: Deadline) -> Tensor | None:
        """Raise the part's margin by a method, row by row; a counterexample, if that finds one."""
        case, condition = self.parts[number]
        for row, limit in zip(condition.A, condition.b, strict=True):
            if self.margins[number] > 0:
                return None
            if deadline.over:
                self.out_of_time = True
                return None
            proof = _proved(self.model, row, float(limit), case, self.shape, method, deadline)
            self.margins[number] = max(self.margins[number], float(proof.margin_lower_bound[0]))
            self.out_of_time |= bool(proof.out_of_time[0])
            point = proof.counterexample[0]
            if not bool(point.isnan().any()) and counterexample_status(self.model, self.prop, point):
                return point
        return None

    def _why(self, still: int) -> str:
        margin = min(self.margins)
        known = (
            "no margin is proved yet"
            if margin == -math.inf
            else f"the smallest proved margin is {margin:.4g}"
        )
        open_ = f"{still} of {len(self.parts)} parts are open and {known}"
        if self.out_of_time:
            return f"the time was over: {open_}; more seconds may decide"
        return (
            f"all methods were tried ({', '.join(METHODS)}, and branching where the network has kinks "
            f"alone): {open_}; more seconds do not help: split the boxes, or use a verifier that cuts smooth "
            "functions and pooling"
        )


def _search(
    model: nn.Module,
    prop: Property,
    case: Case,
    condition: Condition,
    shape: tuple[int, ...],
    seed: int,
    deadline: Deadline = NEVER,
) -> Tensor | None:
    """Sign-gradient descent on the worst row ``max_k (A_k y - b_k)`` from random points of the box and its
    corners.
    """
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

    def descended(points: Tensor) -> Tensor | None:
        for step in range(STEPS):
            if deadline.over:
                return None
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

    with attacking(model, "eval"):
        # Where every start at once would take a good part of the time, a few at a time: a step cannot be
        # broken off.
        began = deadline.left
        outputs_and_gradient(model, points[:1], worst)
        slow = began is not None and STARTS * (began - (deadline.left or 0.0)) > SLOW * began
        for part in _tensors.chunks(len(points), AT_A_TIME if slow else STARTS):
            found = descended(points[part])
            if found is not None:
                return found
    return None


def _proved(
    model: nn.Module,
    row: Float[Tensor, " outputs"],
    limit: float,
    case: Case,
    shape: tuple[int, ...],
    method: str,
    deadline: Deadline,
) -> Verification:
    """What a method proves of one row of a condition on the whole box."""
    lower, upper = case.lower.reshape(shape), case.upper.reshape(shape)
    centre = (lower + upper) / 2
    radius = float(
        (upper - lower).max()
    )  # the box itself is then the ball's box, whatever rounding did to the centre
    threat = LpBall("inf", radius, bounds=(lower, upper))
    return verify(
        PropertyPart(model, row, limit),
        centre[None],
        torch.ones(1, dtype=torch.long),
        threat,
        method=method,
        seconds=deadline.left,
    )
