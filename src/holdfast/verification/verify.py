"""Verified bounds of a classifier's margins over threat sets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from holdfast import _tensors
from holdfast.attacks import checked_outputs, in_mode
from holdfast.errors import InputError
from holdfast.losses import CrossEntropy, Hinge, Loss
from holdfast.threats.base import Threat
from holdfast.verification import crown
from holdfast.verification.alpha import optimised_margins
from holdfast.verification.crown import State
from holdfast.verification.graph import Graph
from holdfast.verification.region import Region, dot, region_of
from holdfast.verification.second_order import has_second_order, second_order_margins
from holdfast.verification.tracing import trace

Method = Literal["ibp", "crown-ibp", "crown", "alpha", "second-order", "auto"]
Progress = Callable[[str, int, int], None]

CASCADE: tuple[Method, ...] = ("ibp", "crown", "alpha")
CURVED_CASCADE: tuple[Method, ...] = ("second-order", "crown", "alpha")
NUMBERS_AT_ONCE = 2**13  # values of a network held for one block of examples


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was proved, one row an example, on the CPU in float64.

    The claims are about the network in evaluation mode as a function of real numbers with the weights as stored; float64
    rounding of the bounds themselves is subtracted from them. A float32 forward pass may differ from that function by its own rounding.

    Attributes:
        y: the labels.
        margins: lower bounds of ``z_y - z_j`` over the threat set for each class ``j``, 0 for ``j = y`` (examples, classes);
            of ``sign f`` for one signed output (examples, 1).
        outputs_lower: lower bounds of each output over the threat set, by cheaper means than the margins, so looser.
        outputs_upper: upper bounds likewise.
        method: what was asked for.
        methods: what gave each example its bounds, for ``auto`` the last method it met.
    """

    y: Int[Tensor, " examples"]
    margins: Float[Tensor, "examples outputs"]
    outputs_lower: Float[Tensor, "examples outputs"]
    outputs_upper: Float[Tensor, "examples outputs"]
    method: str
    methods: tuple[str, ...]

    @property
    def margin_lower_bound(self) -> Float[Tensor, " examples"]:
        """A lower bound over the threat set of ``min_(j != y) z_y - z_j``; of ``sign f`` for one signed output."""
        if self.margins.shape[1] == 1:
            return self.margins[:, 0]
        return self.margins.scatter(1, self.y[:, None], torch.inf).amin(1)

    @property
    def verified(self) -> Bool[Tensor, " examples"]:
        """Whether every point of the threat set is classified as ``y``: the margin's lower bound is above 0."""
        return self.margin_lower_bound > 0

    @property
    def verified_accuracy(self) -> float:
        """Fraction of examples verified: a lower bound of robust accuracy."""
        return float(self.verified.double().mean())

    def loss_upper_bound(self, loss: Loss | None = None) -> Float[Tensor, " examples"]:
        """An upper bound of the loss over the threat set; default cross-entropy, ``log(1 + sum_j exp(-margin_j))``.

        Raises:
            InputError: a loss that is not an increasing function of ``z_j - z_y`` alone.
        """
        loss = CrossEntropy() if loss is None else loss
        smoothed = isinstance(loss, CrossEntropy) and loss.label_smoothing > 0
        if not isinstance(loss, CrossEntropy | Hinge) or smoothed:
            raise InputError(
                f"loss must be cross-entropy without label smoothing or hinge to be bounded by margins, got {loss.name};"
                " use one of these."
            )
        if self.margins.shape[1] == 1:
            return loss(self.margins * (2 * self.y - 1)[:, None], self.y)
        return loss(-self.margins, self.y)


def verify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    method: str = "crown",
    *,
    steps: int = 20,
    progress: Progress | None = None,
) -> Verification:
    """Prove what can be proved of ``model``'s predictions over each threat set.

    Args:
        model: maps (batch, ...) to (batch, classes) logits, or (batch, 1) signed outputs; taken in evaluation mode.
        x: examples (examples, ...), on any device; blocks go to the model's.
        y: labels ``0 .. classes-1``, (examples,).
        threat: the sets; for balls the box and fixed features count, at no loss of tightness.
        method: ``ibp`` (intervals), ``crown-ibp`` (intervals, then one back-substitution of the margins), ``crown`` (back-substitution
            for every layer), ``alpha`` (``crown`` with optimised slopes), ``second-order`` (a smooth `TwoLayer` with paired units:
            bounds that do not grow with its width), or ``auto``: the cheapest first (``ibp``, or ``second-order``
            where it applies, then ``crown``, ``alpha``), each on the examples still unverified whose clean prediction is right.
        steps: gradient steps of ``alpha``.
        progress: called with (method, examples done, examples to do) after each block.

    Raises:
        InputError: an unknown method, a layer without bounds (its path and type are named), or anything an attack refuses.
    """
    if method not in get_args(Method):
        raise InputError(
            f"method must be one of {', '.join(get_args(Method))}, got {method!r}; crown is the default."
        )
    if steps < 1:
        raise InputError(f"steps must be >= 1, got {steps}; use method='crown' for none.")
    device = next((parameter.device for parameter in model.parameters()), x.device)
    with torch.inference_mode(False), torch.no_grad(), in_mode(model, "eval"):
        # Copies of tensors made in inference mode, which slopes could not be optimised for.
        x, y = (values.clone() if values.is_inference() else values.detach() for values in (x, y))
        x, y = x.to(device), y.to(device)
        outputs = checked_outputs(model, x, y)
        threat.check(x)
        y = y.long()
        graph = trace(model, x)
        size = graph.outputs
        margins = torch.full((len(x), size), -torch.inf, dtype=torch.float64, device=device)
        lower, upper = margins.clone(), -margins
        clean = clean_margin(outputs, y) > 0
        methods = [method] * len(x)
        if size > 1:
            margins.scatter_(1, y[:, None], 0.0)
        cascade: tuple[str, ...] = (method,)
        if method == "auto":
            cascade = CURVED_CASCADE if has_second_order(model, threat) else CASCADE
        for one in cascade:
            rows = torch.arange(len(x), device=device)
            if method == "auto":
                done = (_least(margins, y) > 0) | (~clean if one != cascade[0] else False)
                rows = (~done).nonzero().squeeze(1)
            for part in _tensors.chunks(len(rows), block_size(graph)):
                chosen = rows[part]
                if one == "second-order":
                    found = curved_bounds(model, x[chosen], y[chosen], size, threat)
                else:
                    found = bounds_of(graph, region_of(threat, x[chosen]), y[chosen], one, steps)
                margins[chosen] = torch.maximum(margins[chosen], found[0])
                lower[chosen] = torch.maximum(lower[chosen], found[1])
                upper[chosen] = torch.minimum(upper[chosen], found[2])
                for row in chosen.tolist():
                    methods[row] = one
                if progress is not None:
                    progress(one, part.stop, len(rows))
    return Verification(
        y=y.cpu(),
        margins=margins.cpu(),
        outputs_lower=lower.cpu(),
        outputs_upper=upper.cpu(),
        method=method,
        methods=tuple(methods),
    )


def block_size(graph: Graph) -> int:
    """Examples whose values are held at once."""
    values = sum(torch.Size(step.shape).numel() for step in graph.steps)
    return max(1, NUMBERS_AT_ONCE // values)


def bounds_of(
    graph: Graph, region: Region, y: Int[Tensor, " batch"], method: str, steps: int
) -> tuple[Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"]]:
    """Margins as in `Verification`, and bounds of the outputs, for one block of examples."""
    state = crown.analyse(
        graph, region, crown.every_value if method in ("crown", "alpha") else crown.only_linear
    )
    last = state.bounds[graph.last]
    specification = margin_rows(y, graph.outputs)
    if method == "ibp":
        margins = interval_margins(state, specification)
    else:
        margins = specified_minimum(state, specification)
        if method == "alpha":
            margins = torch.maximum(margins, optimised_margins(state, specification, steps))
    return spread(margins, y, graph.outputs), last.lower, last.upper


def curved_bounds(
    model: nn.Module, x: Float[Tensor, "batch ..."], y: Int[Tensor, " batch"], outputs: int, threat: Threat
) -> tuple[Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"]]:
    """`bounds_of` by the second-order method."""
    unit = torch.eye(outputs, dtype=torch.float64, device=y.device).expand(len(y), -1, -1)
    margins = margin_rows(y, outputs)
    found = second_order_margins(model, x, torch.cat([margins, unit, -unit], 1), threat)
    least, lower, negated = torch.split(found, [margins.shape[1], outputs, outputs], 1)
    return spread(least, y, outputs), lower, -negated


def margin_rows(y: Int[Tensor, " batch"], outputs: int) -> Float[Tensor, "batch rows outputs"]:
    """Rows ``e_y - e_j`` for every ``j != y``, in order of ``j``; ``sign`` for one output."""
    if outputs == 1:
        return (2.0 * y - 1).double()[:, None, None]
    identity = torch.eye(outputs, dtype=torch.float64, device=y.device)
    others = torch.arange(outputs - 1, device=y.device) + (
        torch.arange(outputs - 1, device=y.device) >= y[:, None]
    )
    return identity[y][:, None] - identity[others]


def spread(
    margins: Float[Tensor, "batch rows"], y: Int[Tensor, " batch"], outputs: int
) -> Float[Tensor, "batch outputs"]:
    """Margins of the other classes put in their places, 0 at the label."""
    if outputs == 1:
        return margins
    classes = torch.arange(outputs, device=y.device)
    place = torch.where(classes < y[:, None], classes, classes - 1).clamp(min=0)
    return margins.gather(1, place).masked_fill(classes == y[:, None], 0.0)


def specified_minimum(state: State, rows: Float[Tensor, "batch rows outputs"]) -> Float[Tensor, "batch rows"]:
    """Lower bounds of linear functions of the outputs by back-substitution."""
    last = state.graph.last
    size = dot(rows.abs(), state.bounds[last].size)
    return crown.lower_bound(state, {last: rows}, torch.zeros_like(size), size)


def interval_margins(state: State, rows: Float[Tensor, "batch rows outputs"]) -> Float[Tensor, "batch rows"]:
    """Lower bounds of linear functions of the outputs from intervals of what enters the last affine steps."""
    last = state.graph.last
    size = dot(rows.abs(), state.bounds[last].size)
    return crown.lower_bound_by_interval(state, {last: rows}, torch.zeros_like(size), size)


def clean_margin(
    outputs: Float[Tensor, "batch outputs"], y: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """``z_y - max_(j != y) z_j``; ``sign f`` for one output."""
    if outputs.shape[1] == 1:
        return outputs[:, 0] * (2 * y - 1)
    own = outputs.gather(1, y[:, None]).squeeze(1)
    return own - outputs.scatter(1, y[:, None], -torch.inf).amax(1)


def _least(margins: Float[Tensor, "batch outputs"], y: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return margins[:, 0] if margins.shape[1] == 1 else margins.scatter(1, y[:, None], torch.inf).amin(1)
