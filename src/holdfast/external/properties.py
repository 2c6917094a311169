"""Properties of networks: boxes of inputs with conditions on the outputs that a counterexample meets."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from holdfast._arguments import BOUNDS, MODEL, TENSOR, Array, as_tensor
from holdfast._rules import COUNT, kind, maybe, real, takes, whole
from holdfast._values import Shown
from holdfast.errors import InputError

Inputs = Float[Tensor, "batch inputs"]
Outputs = Float[Tensor, "batch outputs"]
Answers = Bool[Tensor, " batch"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Condition(Shown):
    """``A y <= b``, row by row, in float64; without rows it is always met.

    Attributes:
        A: (rows, outputs).
        b: (rows,).

    >>> import torch
    >>> import holdfast as hf
    >>> numbers = {"A": torch.tensor([[1.0, -1.0]]).double(), "b": torch.zeros(1).double()}
    >>> condition = hf.external.Condition(**numbers)  # y_0 <= y_1
    >>> condition(torch.tensor([[0.2, 0.8], [0.8, 0.2]]))
    tensor([ True, False])
    """

    A: Float[Tensor, "rows outputs"]
    b: Float[Tensor, " rows"]

    def __call__(self, outputs: Outputs) -> Answers:
        """Whether each row of outputs meets it, computed in float64."""
        left = outputs.double() @ self.A.to(outputs.device).T
        return (left <= self.b.to(outputs.device)).all(1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Condition):
            return NotImplemented
        return torch.equal(self.A, other.A) and torch.equal(self.b, other.b)

    __hash__ = object.__hash__


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Case(Shown):
    """One box of inputs, flattened, and what the outputs of a counterexample in it satisfy.

    Attributes:
        lower: ends of the box (inputs,).
        upper: ends of the box (inputs,).
        conditions: any one of them is satisfied.

    >>> import torch
    >>> import holdfast as hf
    >>> prop = hf.external.robustness_property(torch.tensor([0.5, 0.5]), 0, outputs=2, radius=0.25)
    >>> prop.cases[0].lower
    tensor([0.2500, 0.2500], dtype=torch.float64)
    """

    lower: Float[Tensor, " inputs"]
    upper: Float[Tensor, " inputs"]
    conditions: tuple[Condition, ...]

    def contains(self, inputs: Inputs) -> Answers:
        """Whether each row lies in the box, judged in float64."""
        rows = inputs.double()
        return ((rows >= self.lower.to(rows.device)) & (rows <= self.upper.to(rows.device))).all(1)

    def holds(self, outputs: Outputs) -> Answers:
        """Whether each row of outputs meets one of the conditions."""
        return _any([condition(outputs) for condition in self.conditions], outputs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Case):
            return NotImplemented
        boxes = torch.equal(self.lower, other.lower) and torch.equal(self.upper, other.upper)
        return boxes and self.conditions == other.conditions

    __hash__ = object.__hash__


@dataclass(frozen=True, kw_only=True, repr=False)
class Property(Shown):
    """``exists x, case: lower <= x <= upper and (A y <= b for one of its conditions)`` with ``y = f(x)``.

    The property is ``sat`` if there is one, else ``unsat``.

    Attributes:
        inputs: numbers in one example, in row-major order.
        outputs: numbers in one output.
        cases: boxes that are not empty; none at all means ``unsat`` for every network.

    >>> import torch
    >>> import holdfast as hf
    >>> prop = hf.external.robustness_property(torch.tensor([0.5, 0.5]), 0, outputs=2, radius=0.25)
    >>> prop.is_met(torch.tensor([[0.4, 0.6]]), torch.tensor([[0.4, 0.6]]))
    tensor([True])
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]

    def contains_input(self, x: Float[Tensor, "batch ..."]) -> Answers:
        """Whether each example (of any shape, flattened) lies in one of the boxes, judged in float64."""
        rows = self._rows(x, self.inputs, "inputs")
        return _any([case.contains(rows) for case in self.cases], rows)

    def holds(self, outputs: Outputs) -> Answers:
        """Whether each row of outputs meets the condition of one of the cases."""
        rows = self._rows(outputs, self.outputs, "outputs")
        return _any([case.holds(rows) for case in self.cases], rows)

    def is_met(self, x: Float[Tensor, "batch ..."], outputs: Outputs) -> Answers:
        """Whether each pair of input and output is a counterexample: box and condition of one and the same
        case.
        """
        points, values = self._rows(x, self.inputs, "inputs"), self._rows(outputs, self.outputs, "outputs")
        return _any([case.contains(points) & case.holds(values) for case in self.cases], points)

    def _rows(self, values: Tensor, count: int, name: str) -> Tensor:
        rows = values.reshape(len(values), values.shape[1:].numel())
        if rows.shape[1] != count:
            raise InputError(
                f"{name} must have {count} numbers per example, as the property declares, got "
                f"{rows.shape[1]}; use the network that the property is for."
            )
        return rows


def _any(answers: list[Tensor], like: Tensor) -> Answers:
    if not answers:
        return torch.zeros(len(like), dtype=torch.bool, device=like.device)
    return torch.stack(answers).any(0)


@takes(x=TENSOR, label=whole(least=0), outputs=COUNT, radius=real(least=0), bounds=maybe(BOUNDS))
def robustness_property(
    x: Array,
    label: int,
    *,
    outputs: int,
    radius: float,
    bounds: tuple[float | Tensor, float | Tensor] | None = None,
) -> Property:
    """The property that one example is broken within an l-inf ball.

    ``||x' - x||_inf <= radius`` in the valid box, and another class at least as large as its own.

    With ``C >= 2`` outputs the conditions are ``y_label <= y_j``, one for each other ``j``; with one signed
    output ``y <= 0`` for label 1 and ``-y <= 0`` for label 0. The box is
    ``[max(low, x - radius), min(high, x + radius)]`` in float64, widened to ``x``.

    Args:
        x: one example, of any shape.
        label: its class.
        outputs: the network's outputs; 1 for a binary one with a signed output.
        radius: in the data's units, at least 0.
        bounds: the valid box, numbers or tensors that broadcast to ``x``; ``None`` for none.

    Raises:
        InputError: a label without output, or a radius that is negative or not finite.

    >>> import torch
    >>> import holdfast as hf
    >>> prop = hf.external.robustness_property(torch.tensor([0.5, 0.5]), 0, outputs=3, radius=0.25)
    >>> prop.inputs, len(prop.cases[0].conditions)
    (2, 2)
    """
    classes = max(2, outputs)
    if outputs < 1 or not 0 <= label < classes:
        raise InputError(
            f"label must lie in 0..{classes - 1} for {outputs} outputs, got {label}; give the example's "
            "class."
        )
    if not 0 <= radius < torch.inf:
        raise InputError(f"radius must be a finite number >= 0, got {radius}; use the threat's radius.")
    centre = as_tensor("x", x).detach().cpu().double()
    lower, upper = centre - radius, centre + radius
    if bounds is not None:
        low, high = (torch.as_tensor(edge, dtype=torch.float64).cpu().expand_as(centre) for edge in bounds)
        lower = torch.minimum(torch.maximum(lower, low), centre)
        upper = torch.maximum(torch.minimum(upper, high), centre)
    if outputs == 1:
        rows = [torch.tensor([1.0 if label else -1.0], dtype=torch.float64)]
    else:
        unit = torch.eye(outputs, dtype=torch.float64)
        rows = [unit[label] - unit[other] for other in range(outputs) if other != label]
    zero = torch.zeros(1, dtype=torch.float64)
    conditions = tuple(Condition(A=row[None], b=zero.clone()) for row in rows)
    case = Case(lower=lower.reshape(-1), upper=upper.reshape(-1), conditions=conditions)
    return Property(inputs=centre.numel(), outputs=outputs, cases=(case,))


@takes(model=MODEL, prop=kind(Property, what="a Property"), x=TENSOR)
def counterexample_status(model: nn.Module, prop: Property, x: Float[Tensor, "..."]) -> bool:
    """Whether ``x`` is a counterexample when everything is computed again in float64, without tolerance.

    Args:
        model: of any dtype; a copy in evaluation mode and float64 is run, on the model's device, the model is
            left as it is.
        prop: the property.
        x: one example, in the shape that the model takes (without batch).

    Raises:
        InputError: example or outputs do not fit the property.

    >>> import torch
    >>> import holdfast as hf
    >>> prop = hf.external.robustness_property(torch.tensor([0.5, 0.5]), 0, outputs=2, radius=0.25)
    >>> hf.external.counterexample_status(torch.nn.Identity(), prop, torch.tensor([0.4, 0.6]))
    True
    """
    exact = copy.deepcopy(model).double().eval()
    parameter = next(exact.parameters(), None)
    point = x.detach().double()[None]
    if parameter is not None:
        point = point.to(parameter.device)
    if point.numel() != prop.inputs:
        raise InputError(
            f"x must have {prop.inputs} numbers, as the property declares, got {x.numel()}; give one example."
        )
    with torch.no_grad():
        outputs = exact(point).reshape(1, -1)
    return bool(prop.is_met(point, outputs).all())
