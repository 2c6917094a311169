"""Verified bounds of a classifier's margins over threat sets, by the method asked for or by several in turn."""

import time
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from holdfast import _tensors
from holdfast._arguments import EXAMPLES, LABELS, MODEL, Array, paired
from holdfast._rules import COUNT, FUNCTION, maybe, real, takes, word
from holdfast.attacks import PGD, checked_outputs, in_mode
from holdfast.attacks.margins import margin
from holdfast.threats import THREAT, Threat, as_threat
from holdfast.verification import crown
from holdfast.verification.alpha import optimised_margins
from holdfast.verification.branching import branch, can_branch, kinks, refuting
from holdfast.verification.graph import Graph
from holdfast.verification.margins import (
    interval_margins,
    least,
    margin_rows,
    specified_minimum,
    spread,
)
from holdfast.verification.region import Region, region_of
from holdfast.verification.result import Verification
from holdfast.verification.second_order import has_second_order, second_order_margins
from holdfast.verification.tracing import trace

Method = Literal["ibp", "crown-ibp", "crown", "alpha", "second-order", "branch", "auto"]
Progress = Callable[[str, int, int], None]
Found = tuple[Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"]]

CASCADE: tuple[Method, ...] = ("ibp", "crown-ibp", "crown", "alpha")
CURVED_CASCADE: tuple[Method, ...] = ("second-order", "crown", "alpha")
NUMBERS_AT_ONCE = 2**17  # values of a network held for one block of examples
NONE = "none"
UNITS = 1024  # above, `auto` does not branch
ATTACK = PGD(steps=30, restarts=3)  # for a refuting point, before branching


@takes(
    model=MODEL,
    x=EXAMPLES,
    y=LABELS,
    threat=THREAT,
    method=word(*get_args(Method)),
    steps=COUNT,
    seconds=maybe(real(least=0, finite=False)),
    progress=maybe(FUNCTION),
)
def verify(
    model: nn.Module,
    x: Array,
    y: Array,
    threat: Threat | str,
    method: str = "crown",
    *,
    steps: int = 20,
    seconds: float | None = None,
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
            bounds that do not grow with its width), ``branch`` (an attack, then branch and bound on the kinks of ReLU and the like: decides in
            the end, if given the time, for networks without pooling and smooth functions; for small networks), or
            ``auto``: the cheapest first (``ibp`` and ``crown-ibp``, or ``second-order`` where it applies, then ``crown``, ``alpha`` and, where
            ``seconds`` are given and the network is small, ``branch``), each on all examples still unverified whose clean prediction is right.
        steps: gradient steps of ``alpha``.
        seconds: no block of examples is begun later than this, counted from the call, and ``branch`` shares out what is left among
            its examples; ``None`` for no limit.
        progress: called with (method, examples done, examples to do) after each block.

    Raises:
        InputError: an unknown method, a layer without bounds (its path and type are named), or anything an attack refuses.
    """
    began = time.monotonic()
    threat = as_threat(threat)
    x, y = paired(model, x, y)
    deadline = None if seconds is None else began + seconds
    device = _tensors.device_of(model, x)
    with torch.inference_mode(False), torch.no_grad(), in_mode(model, "eval"):
        # Copies of tensors made in inference mode, which slopes could not be optimised for.
        x, y = (values.clone() if values.is_inference() else values.detach() for values in (x, y))
        x, y = x.to(device), y.to(device)
        outputs = checked_outputs(model, x, y)
        threat.check(x)
        y = y.long()
        graph = trace(model, x)
        work = _Work(model=model, graph=graph, x=x, y=y, threat=threat, steps=steps, deadline=deadline)
        cascade: tuple[str, ...] = (method,)
        if method == "auto":
            cascade = CURVED_CASCADE if has_second_order(model, threat) else CASCADE
            if seconds is not None and can_branch(graph) and sum(kinks(graph).values()) <= UNITS:
                cascade = (*cascade, "branch")
        right = margin(outputs, y) > 0
        for one in cascade:
            wanted = torch.ones_like(right)
            if method == "auto":
                wanted = (least(work.margins, y) <= 0) & (right | (one == cascade[0]))
            work.run(one, wanted, progress)
    return work.result(method)


class _Work:
    """Bounds found so far of all examples, and how to find more."""

    def __init__(
        self,
        *,
        model: nn.Module,
        graph: Graph,
        x: Float[Tensor, "examples ..."],
        y: Int[Tensor, " examples"],
        threat: Threat,
        steps: int,
        deadline: float | None,
    ) -> None:
        self.model, self.graph, self.x, self.y, self.threat = model, graph, x, y, threat
        self.steps, self.deadline = steps, deadline
        self.margins = torch.full((len(x), graph.outputs), -torch.inf, dtype=torch.float64, device=x.device)
        self.lower, self.upper = self.margins.clone(), -self.margins
        if graph.outputs > 1:
            self.margins.scatter_(1, y[:, None], 0.0)
        self.methods = [NONE] * len(x)
        self.counterexample = torch.full_like(x, torch.nan)

    def run(self, method: str, wanted: Bool[Tensor, " examples"], progress: Progress | None) -> None:
        """Improve the bounds of the examples wanted, until the time is over."""
        rows = wanted.nonzero().squeeze(1)
        for part in _tensors.chunks(len(rows), block_size(self.graph)):
            if self.deadline is not None and time.monotonic() >= self.deadline:
                return
            chosen = rows[part]
            found = self._bounds(method, chosen, len(rows) - part.start)
            self.margins[chosen] = torch.maximum(self.margins[chosen], found[0])
            self.lower[chosen] = torch.maximum(self.lower[chosen], found[1])
            self.upper[chosen] = torch.minimum(self.upper[chosen], found[2])
            for row in chosen.tolist():
                self.methods[row] = method
            if progress is not None:
                progress(method, part.stop, len(rows))

    def _bounds(self, method: str, chosen: Int[Tensor, " batch"], left: int) -> Found:
        x, y = self.x[chosen], self.y[chosen]
        if method == "branch":
            return self._branched(chosen, left)
        if method == "second-order":
            return curved_bounds(self.model, x, y, self.graph.outputs, self.threat)
        return bounds_of(self.graph, region_of(self.threat, x), y, method, self.steps)

    def _branched(self, chosen: Int[Tensor, " batch"], left: int) -> Found:
        """Bounds by CROWN, and by branching where they do not suffice; refuting points found on the way are kept."""
        x, y, graph = self.x[chosen], self.y[chosen], self.graph
        region = region_of(self.threat, x)
        margins, lower, upper = bounds_of(graph, region, y, "crown", self.steps)
        margins = torch.maximum(margins, self.margins[chosen])
        open_ = least(margins, y) <= 0
        attacked = x.clone()
        if bool(open_.any()):
            attacked[open_] = ATTACK.run(self.model, x[open_], y[open_], self.threat).x
        specification = margin_rows(y, graph.outputs)
        for number in range(len(x)):
            deadline = None
            if self.deadline is not None:
                now = time.monotonic()
                deadline = now + (self.deadline - now) / (left - number)
            classes = [k for k in range(graph.outputs) if graph.outputs == 1 or k != int(y[number])]
            if not bool(open_[number]):
                continue
            one = x[number : number + 1]
            points = torch.stack([attacked[number], x[number]])
            outcomes = [refuting(graph, self.threat, one, row, points) for row in specification[number]]
            point = next((found for found in outcomes if found is not None), None)
            order = sorted(range(len(classes)), key=lambda k: float(margins[number, classes[k]]))
            for k in order:
                known = float(margins[number, classes[k]])
                if point is not None or known > 0:
                    break
                outcome = branch(
                    graph,
                    region.part(slice(number, number + 1)),
                    specification[number, k],
                    one,
                    known,
                    deadline,
                )
                margins[number, classes[k]] = max(known, outcome.bound)
                point = outcome.point
                if point is None and outcome.bound <= 0:
                    break
            if point is not None:
                self.counterexample[chosen[number]] = point
        return margins, lower, upper

    def result(self, method: str) -> Verification:
        return Verification(
            y=self.y.cpu(),
            margins=self.margins.cpu(),
            outputs_lower=self.lower.cpu(),
            outputs_upper=self.upper.cpu(),
            method=method,
            methods=tuple(self.methods),
            counterexample=self.counterexample.cpu(),
        )


def block_size(graph: Graph) -> int:
    """Examples whose values are held at once."""
    values = sum(torch.Size(step.shape).numel() for step in graph.steps)
    return max(1, NUMBERS_AT_ONCE // values)


def bounds_of(graph: Graph, region: Region, y: Int[Tensor, " batch"], method: str, steps: int) -> Found:
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
) -> Found:
    """`bounds_of` by the second-order method."""
    unit = torch.eye(outputs, dtype=torch.float64, device=y.device).expand(len(y), -1, -1)
    margins = margin_rows(y, outputs)
    found = second_order_margins(model, x, torch.cat([margins, unit, -unit], 1), threat)
    low, lower, negated = torch.split(found, [margins.shape[1], outputs, outputs], 1)
    return spread(low, y, outputs), lower, -negated
