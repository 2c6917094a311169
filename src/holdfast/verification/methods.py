"""Verified bounds of a classifier's margins over threat sets, by the method asked for or by several in
turn.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from holdfast import _tensors
from holdfast._arguments import EXAMPLES, LABELS, MODEL, Array, check_precision, paired
from holdfast._deadline import NEVER, Deadline, OutOfTime
from holdfast._rules import COUNT, FUNCTION, maybe, real, takes, word
from holdfast.attacks import PGD, checked_outputs, in_mode
from holdfast.attacks.margins import margin
from holdfast.errors import InputError
from holdfast.threats import THREAT, Threat, as_threat, is_ball
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
from holdfast.verification.tracing import AGREEMENT, agrees, trace

Method = Literal["ibp", "crown-ibp", "crown", "alpha", "second-order", "branch", "auto"]
Progress = Callable[[str, int, int], None]
Found = tuple[Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"], Float[Tensor, "batch outputs"]]

CASCADE: tuple[Method, ...] = ("ibp", "crown-ibp", "crown", "alpha")
CURVED_CASCADE: tuple[Method, ...] = ("second-order", "crown", "alpha")
NUMBERS_AT_ONCE = 2**17  # values of a network held for one block of examples
NONE = "none"
DRAWN = 8  # points of each set at which the original is compared with its graph
ORIGINAL = 1e-2  # by which float32 outputs may differ from those in float64, of their size
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
        model: maps (batch, ...) to (batch, classes) logits, or (batch, 1) signed outputs; taken in evaluation
            mode.
        x: examples (examples, ...), on any device; blocks go to the model's.
        y: labels ``0 .. classes-1``, (examples,).
        threat: the sets; for balls the box and fixed features count, at no loss of tightness.
        method: ``ibp`` (intervals), ``crown-ibp`` (intervals, then one back-substitution of the margins),
            ``crown`` (back-substitution for every layer), ``alpha`` (``crown`` with optimised slopes),
            ``second-order`` (a smooth `TwoLayer` with paired units: bounds that do not grow with its width),
            ``branch`` (an attack, then branch and bound on the kinks of ReLU-like functions: decides in the
            end, if given the time, for networks without pooling and smooth functions, where without kinks
            these are the bounds of ``crown``; for small networks), or
            ``auto``: the cheapest first (``ibp`` and ``crown-ibp``, or ``second-order`` where it applies,
            then ``crown``, ``alpha`` and, where ``seconds`` are given and the network is small,
            ``branch``), each on all examples still unverified whose clean prediction is right.
        steps: gradient steps of ``alpha``.
        seconds: from the call to the answer. Bounds that are not finished by then are given up,
            `Verification.out_of_time` tells of which examples; ``branch`` shares out what is left among its
            own. ``None`` for no limit.
        progress: called with (method, examples done, examples to do) after each block.

    Raises:
        InputError: an unknown method, a layer without bounds (its path and type are named), or anything an
            attack refuses.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> hf.verify(torch.nn.Identity(), x, y, "linf:0.2").verified
    tensor([False,  True])
    """
    deadline = Deadline.after(seconds)
    threat = as_threat(threat)
    x, y = paired(model, x, y)
    check_precision(model, x, "verified")
    device = _tensors.device_of(model, x)
    with torch.inference_mode(False), torch.no_grad(), in_mode(model, "eval"):
        # Copies of tensors made in inference mode, which slopes could not be optimised for.
        x, y = (values.clone() if values.is_inference() else values.detach() for values in (x, y))
        x, y = x.to(device), y.to(device)
        outputs = checked_outputs(model, x, y)
        threat.check(x)
        y = y.long()
        graph = trace(model, x)
        _check_original(graph, model, x, threat)
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


def _check_original(graph: Graph, model: nn.Module, x: Float[Tensor, "examples ..."], threat: Threat) -> None:
    """Refuse a graph of another function than the model that was given, of which it was traced from a
    copy: at examples and within their sets.
    """
    few = x[:3]
    noise = _tensors.generator(0, x.device)
    for points in (few, *(threat.sample(few, generator=noise) for _ in range(DRAWN))):
        outputs = _tensors.applied(model, points).flatten(1)
        if not agrees(graph, points, outputs, ORIGINAL if outputs.dtype == torch.float32 else AGREEMENT):
            far = (graph(points.double()) - outputs.double()).abs().amax()
            raise InputError(
                f"model must compute in {outputs.dtype} what its float64 copy computes, but outputs differ "
                f"by {float(far):.3g}; use model.double(), and keep all that it computes with in parameters "
                "and buffers."
            )


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
        deadline: Deadline,
    ) -> None:
        self.model, self.graph, self.x, self.y, self.threat = model, graph, x, y, threat
        self.steps, self.deadline = steps, deadline
        self.margins = torch.full((len(x), graph.outputs), -torch.inf, dtype=torch.float64, device=x.device)
        self.lower, self.upper = self.margins.clone(), -self.margins
        if graph.outputs > 1:
            self.margins.scatter_(1, y[:, None], 0.0)
        self.methods = [NONE] * len(x)
        self.counterexample = torch.full_like(x, torch.nan)
        self.out_of_time = torch.zeros(len(x), dtype=torch.bool)

    def run(self, method: str, wanted: Bool[Tensor, " examples"], progress: Progress | None) -> None:
        """Improve the bounds of the examples wanted, until the time is over."""
        rows = wanted.nonzero().squeeze(1)
        for part in _tensors.chunks(len(rows), block_size(self.graph)):
            chosen = rows[part]
            try:
                self.deadline.check()
                found = self._bounds(method, chosen, len(rows) - part.start)
            except OutOfTime:
                self.out_of_time[rows[part.start :].cpu()] = True
                return
            self._check_at_examples(method, chosen, found[0])
            if method == "alpha" and self.deadline.over:  # which then keeps its best slopes so far
                self.out_of_time[chosen.cpu()] = True
            self.margins[chosen] = torch.maximum(self.margins[chosen], found[0])
            self.lower[chosen] = torch.maximum(self.lower[chosen], found[1])
            self.upper[chosen] = torch.minimum(self.upper[chosen], found[2])
            for row in chosen.tolist():
                self.methods[row] = method
            if progress is not None:
                progress(method, part.stop, len(rows))

    def _check_at_examples(
        self, method: str, chosen: Int[Tensor, " batch"], margins: Float[Tensor, "batch outputs"]
    ) -> None:
        """Refuse bounds above the margins at the examples themselves, which lie in their balls: they are
        of another function.
        """
        if not is_ball(self.threat):
            return
        outputs, y = self.graph(self.x[chosen].double()), self.y[chosen]
        there = (margin_rows(y, self.graph.outputs) @ outputs[:, :, None]).squeeze(2)
        allowed = AGREEMENT * (1 + outputs.abs().amax())
        if bool((margins > spread(there, y, self.graph.outputs) + allowed).any()):
            raise InputError(
                f"model must be the network that method {method!r} takes it for, but a bound lies above the "
                "margin at the example itself; remove hooks and overridden methods, or use method='crown'."
            )

    def _bounds(self, method: str, chosen: Int[Tensor, " batch"], left: int) -> Found:
        x, y = self.x[chosen], self.y[chosen]
        if method == "branch":
            return self._branched(chosen, left)
        if method == "second-order":
            return curved_bounds(self.model, x, y, self.graph.outputs, self.threat, self.deadline)
        return bounds_of(self.graph, region_of(self.threat, x), y, method, self.steps, self.deadline)

    def _branched(self, chosen: Int[Tensor, " batch"], left: int) -> Found:
        """Bounds by CROWN, and by branching where they do not suffice; refuting points found on the way
        are kept.
        """
        x, y, graph = self.x[chosen], self.y[chosen], self.graph
        region = region_of(self.threat, x)
        margins, lower, upper = bounds_of(graph, region, y, "crown", self.steps, self.deadline)
        margins = torch.maximum(margins, self.margins[chosen])
        open_ = least(margins, y) <= 0
        attacked = x.clone()
        if bool(open_.any()):
            with suppress(OutOfTime):
                timed = _Timed(self.model, self.deadline)
                attacked[open_] = ATTACK.run(timed, x[open_], y[open_], self.threat).x
        specification = margin_rows(y, graph.outputs)
        for number in range(len(x)):
            deadline = self.deadline.share(left - number)
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
                self.out_of_time[int(chosen[number])] |= outcome.out_of_time
                if point is None and outcome.bound <= 0:
                    break
            if point is not None:
                self.counterexample[chosen[number]] = point
        return margins, lower, upper

    def result(self, method: str) -> Verification:
        refuted = ~self.counterexample.isnan().flatten(1).any(1).cpu()
        proved = (least(self.margins, self.y) > 0).cpu()
        return Verification(
            y=self.y.cpu(),
            margins=self.margins.cpu(),
            outputs_lower=self.lower.cpu(),
            outputs_upper=self.upper.cpu(),
            method=method,
            methods=tuple(self.methods),
            counterexample=self.counterexample.cpu(),
            out_of_time=self.out_of_time & ~proved & ~refuted,
        )


class _Timed(nn.Module):
    """A model that raises `OutOfTime` where it is called too late."""

    def __init__(self, model: nn.Module, deadline: Deadline) -> None:
        super().__init__()
        self.model, self.deadline = model, deadline

    def forward(self, x: Tensor) -> Tensor:
        self.deadline.check()
        outputs = _tensors.applied(self.model, x)
        return outputs


def block_size(graph: Graph) -> int:
    """Examples whose values are held at once."""
    values = sum(torch.Size(step.shape).numel() for step in graph.steps)
    return max(1, NUMBERS_AT_ONCE // values)


def bounds_of(
    graph: Graph,
    region: Region,
    y: Int[Tensor, " batch"],
    method: str,
    steps: int,
    deadline: Deadline = NEVER,
) -> Found:
    """Margins as in `Verification`, and bounds of the outputs, for one block of examples.

    Raises:
        OutOfTime: the deadline is over before they are known.
    """
    refines = crown.every_value if method in ("crown", "alpha") else crown.only_linear
    state = crown.analyse(graph, region, refines, deadline=deadline)
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
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    y: Int[Tensor, " batch"],
    outputs: int,
    threat: Threat,
    deadline: Deadline = NEVER,
) -> Found:
    """`bounds_of` by the second-order method."""
    unit = torch.eye(outputs, dtype=torch.float64, device=y.device).expand(len(y), -1, -1)
    margins = margin_rows(y, outputs)
    found = second_order_margins(model, x, torch.cat([margins, unit, -unit], 1), threat, deadline)
    low, lower, negated = torch.split(found, [margins.shape[1], outputs, outputs], 1)
    return spread(low, y, outputs), lower, -negated
