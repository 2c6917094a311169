"""Writes the trace: sums each round into the window's lower model, and checks that the round is what the
proof needs.

A round is its attacked points at the weights of that moment. Gradients are computed here, in float64 where
there is a proof, so that whatever training does with its own (clipping, scaling, another objective, hooks)
cannot enter a bound. Nothing here waits for the device until a window closes. See
`docs/explanations/certificate.md`, "From many rounds to one number".
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast._arguments import LABELS, MODEL, POINTS, TENSOR, as_weights
from holdfast._rules import COUNT, FUNCTION, RADIUS, kind, maybe, takes
from holdfast._tensors import as_matrix
from holdfast.curvature import Curvature
from holdfast.curvature.grams import RowSums
from holdfast.curvature.lower_model import LowerModel, Radius
from holdfast.curvature.rounding import Rounding
from holdfast.curvature.sums import BlockSums, Sums
from holdfast.families.exact import Fixed, exact_core, fingerprints, first_difference, fixed_parts
from holdfast.families.registry import unproved
from holdfast.losses import LOSS, Loss
from holdfast.threats import Threat
from holdfast.trace.marks import marks
from holdfast.trace.soundness import arithmetic_fault, probed_fault
from holdfast.trace.window import Window

EXAMPLES = 256
"""Examples for which a curvature prepares what serves a whole run: the first ones, in every process and
resumed run.
"""


@dataclass(kw_only=True)
class _Open:
    """A window under way, and what is wrong with its rounds."""

    model: Sums
    loss: Tensor
    slope: Tensor
    size: Tensor
    input_norm: Tensor
    distance: Tensor
    outside: Tensor
    changed: Tensor
    overwritten: Tensor
    visits: Tensor
    epochs: int
    subset: bool
    rounds: int = 0
    probed: bool = False
    fault: str = ""
    drift: list[Tensor] = field(default_factory=list)


@takes(
    model=MODEL,
    x=POINTS,
    y=LABELS,
    threat=kind(Threat, what="a Threat"),
    loss=LOSS,
    curvature=kind(Curvature, what="a Curvature"),
    radius=RADIUS,
    example_weights=maybe(TENSOR),
    processes=COUNT,
    reduce=FUNCTION,
)
class TraceRecorder:
    """Records training rounds into windows; one instance per run (and process).

    Use: ``open()``; for every step, before the optimiser's, ``record(...)``; ``close()``.

    Args:
        model: the network itself, not a wrapper, with the initial weights ``W0`` in it.
        x, y: all training examples; rounds refer to them by row.
        threat, loss: as trained with.
        curvature: the bound for this network (`holdfast.curvature.curvature_for`).
        radius: parameter radius ``R`` at which windows are evaluated as they close.
        example_weights: ``pi_i >= 0`` of the robust loss ``sum_i pi_i sup loss``; default ``1 / n``.
        processes, reduce: number of processes and the sum over them, when rounds are spread over several.

    >>> import torch
    >>> import holdfast as hf
    >>> net, x, y = hf.networks.TwoLayer(2, 2, width=8), torch.eye(2), torch.tensor([0, 1])
    >>> threat, loss, curvature = hf.LpBall("2", 0.1), hf.CrossEntropy(), hf.families.TwoLayerCurvature()
    >>> recorder = hf.TraceRecorder(net, x, y, threat, loss, curvature=curvature, radius=1.0)
    >>> recorder.open()
    >>> recorder.record(torch.arange(2), x, net(x).detach(), round_size=2)
    >>> recorder.close().void
    ''
    """

    def __init__(
        self,
        model: nn.Module,
        x: Float[Tensor, "examples ..."],
        y: Tensor,
        threat: Threat,
        loss: Loss,
        *,
        curvature: Curvature,
        radius: float,
        example_weights: Tensor | None = None,
        processes: int = 1,
        reduce: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> None:
        self.model, self.x, self.y, self.threat, self.loss = model, x, y, threat, loss
        self.curvature, self.radius = curvature, radius
        self.example_weights = example_weights
        self.processes, self.reduce = processes, reduce
        if example_weights is not None:
            self.example_weights = as_weights("example_weights", example_weights, len(y))
        self.y = y.clone()
        self._marks = marks(x)  # a window is about the examples as they were when training began
        parameters = dict(model.named_parameters())
        self.names = curvature.parameters(model)
        self.balls = [[parameters[name] for name in names] for names in self.names]
        self.initial = {name: parameters[name].detach().clone() for names in self.names for name in names}
        # What the function depends on besides these weights must stay what it is now in all rounds.
        self.fixed = _copied(self._fixed_now())
        self.rounds = 0
        self.last: Window | None = None
        self._reach = radius
        self._sums: _Open | None = None
        self._bound: Curvature | None = None
        self._width_factor = 1.0

    def open(self, *, epochs: int = 1, subset: bool = False) -> None:
        """Start a window: until `close`, every example must be visited exactly ``epochs`` times.

        ``subset`` allows examples to be left out (drop_last): the bound stays valid for losses >= 0, only
        lower.
        """
        self._reach = self._target_reach()
        lower = None if self.last is None else self.last.lower
        self._bound = self._started_bound(1.0 if lower is None else lower.bound(self.radius).width_factor)
        device = self.balls[0][0].device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self._sums = _Open(
            model=Sums.start(self.balls),
            loss=zero.clone(),
            slope=zero.clone(),
            size=zero.clone(),
            input_norm=zero.clone(),
            distance=zero.clone(),
            outside=zero.clone(),
            changed=zero.clone(),
            overwritten=zero.clone(),
            visits=torch.zeros(len(self.y), dtype=torch.int32, device=device),
            epochs=epochs,
            subset=subset,
        )

    @property
    def is_open(self) -> bool:
        """Whether a window is under way."""
        return self._sums is not None

    def open_state(self) -> dict[str, Any] | None:
        """The window under way as plain values, with which `reopen` goes on bit for bit; None where none is
        open, or where it is spread over several processes, each with a share of its own."""
        if self._sums is None or self.processes > 1:
            return None
        return {"sums": asdict(self._sums), "reach": self._reach, "width_factor": self._width_factor}

    def reopen(self, state: dict[str, Any]) -> None:
        """Go on with the window that `open_state` gave."""
        sums = _moved(state["sums"], self.balls[0][0].device)
        balls = [
            [BlockSums(**(block | {"rows": RowSums(**block["rows"])})) for block in ball]
            for ball in sums["model"]["balls"]
        ]
        self._sums = _Open(**(sums | {"model": Sums(balls=balls, constant=sums["model"]["constant"])}))
        self._reach = state["reach"]
        self._bound = self._started_bound(state["width_factor"])

    def _started_bound(self, width_factor: float) -> Curvature:
        """The curvature within the ball, made once; for the window after one of this width factor."""
        self._width_factor = width_factor
        bound = self._bound
        if bound is None:
            points, labels = self.x[:EXAMPLES].to(self.balls[0][0].dtype), self.y[:EXAMPLES]
            bound = self.curvature.within(self.model, self.initial, self.radius).prepared(
                self.model, self.initial, points, lambda outputs: self.loss.slope(outputs.double(), labels)
            )
        return bound.recentred(width_factor)

    @torch.no_grad()
    def _target_reach(self) -> float:
        """How far from the present weights the bound should be tightest: where the last window's lower model
        is smallest, that is, the network it holds to be possible. At first the radius of the ball."""
        if self.last is None or self.last.lower is None or not self.curvature.uses_reach(self.model):
            return self.radius
        bound, squares = self.last.lower.bound(self.radius), 0.0
        for ball, parameters, names, minimum in zip(
            self.last.lower.balls, self.balls, self.names, bound.minima, strict=True
        ):
            for block, parameter, name in zip(ball, parameters, names, strict=True):
                move = as_matrix(parameter - self.initial[name]).double()
                squares += float((block.minimiser(minimum.multiplier).to(move) - move).square().sum())
        # The geometric mean with the last reach: a short one makes the model stray far, and the next would
        # swing back.
        return min(2 * self.radius, max(0.05 * self.radius, math.sqrt(self.last.reach * math.sqrt(squares))))

    def skip(self) -> None:
        """Count a round that is not recorded."""
        self.rounds += 1

    @torch.no_grad()
    def record(
        self,
        rows: Int[Tensor, " batch"],
        points: Float[Tensor, "batch ..."],
        outputs: Float[Tensor, "batch outputs"],
        *,
        round_size: int,
    ) -> None:
        """One round at the model's present weights: ``sum_i p_i loss(f(W, x'_i), y_i)``,
        ``p_i = n pi_i / round_size``.

        Args:
            rows: the examples of this process's share of the round.
            points: their attacked inputs.
            outputs: the network's outputs there, as training had them. Any outputs give a valid bound (the
                loss is expanded at them): good ones give a tight one.
            round_size: examples of the round over all processes.
        """
        self.rounds += 1
        sums = self._sums
        if sums is None:
            raise RuntimeError("record() needs an open window: call open() first")
        sums.rounds += 1
        sums.fault = sums.fault or self._unsuited(sums, points, len(rows), round_size, outputs)
        sums.visits.index_add_(0, rows, torch.ones_like(rows, dtype=torch.int32))
        examples = self.x[rows]
        sums.outside += (~self.threat.contains(points, examples.to(points.dtype))).sum()
        sums.overwritten += (marks(examples) != self._marks[rows]).sum()
        if sums.fault:
            return
        sums.changed += self._changed()
        n, labels, exact = len(self.y), self.y[rows], outputs.double()
        share = round_size / n  # w_t, while the window is one epoch; close() divides by the epochs
        p = torch.full_like(exact[:, 0], 1 / round_size)
        if self.example_weights is not None:
            p = self.example_weights[rows] * (n / round_size)
        slopes = self.loss.slope(exact, labels) * p[:, None]
        moves = [
            [
                as_matrix(self._wide(w) - self._wide(self.initial[name]))
                for w, name in zip(ws, ns, strict=True)
            ]
            for ws, ns in zip(self.balls, self.names, strict=True)
        ]
        sums.drift = [
            torch.stack([move.double().square().sum() for move in ball]).sum().sqrt() for ball in moves
        ]
        curvature = (self._bound or self.curvature).round(self.model, points, slopes, reach=self._reach)
        tangent = curvature.tangent
        if tangent is None:
            raise RuntimeError("a curvature's round must come with its tangent")
        losses = self.loss(exact, labels)
        batch_loss = (p * losses).sum()
        sums.loss += share * batch_loss
        sums.model.constant += share * batch_loss
        sums.model.constant += share * (slopes * (tangent.outputs.double() - exact)).sum()
        if curvature.slack is not None:
            sums.model.constant -= share * curvature.slack
        sums.slope += share * slopes.norm(dim=1).sum()
        sums.size += share * ((p * losses.abs()).sum() + (slopes.norm(dim=1) * exact.norm(dim=1)).sum())
        if len(rows):  # a process may have no share of a short last round
            sums.input_norm = torch.maximum(sums.input_norm, self._input_norms(points).amax())
        sums.distance = torch.maximum(sums.distance, torch.stack(sums.drift).amax())
        sums.model.add(tangent.gradients, curvature, moves if tangent.moves is None else tangent.moves, share)

    def _wide(self, weight: Tensor) -> Tensor:
        """In float64 where there is a proof; estimates stay in the network's own precision."""
        return weight.double() if self.curvature.rigorous else weight

    def _fixed_now(self) -> Fixed:
        return fixed_parts(self.model, tuple(name for ball in self.names for name in ball))

    def _changed(self) -> Tensor:
        """How many of the parts that must stay differ from what they were; nothing is fetched from the
        device.
        """
        now, count = self._fixed_now(), torch.zeros((), dtype=torch.float64, device=self.balls[0][0].device)
        if now.keys() != self.fixed.keys():
            return count + 1
        for name, part in now.items():
            was = self.fixed[name]
            if isinstance(part, str) or isinstance(was, str) or part.shape != was.shape:
                count = count + float(part is not was and not (isinstance(part, str) and part == was))
            else:
                count = count + (part != was).any()
        return count

    def _input_norms(self, points: Tensor) -> Tensor:
        core = exact_core(self.model)
        if core is not None and self.proved:
            return core.family.input_norms(core.network, points)
        norms: Tensor = points.reshape(len(points), -1).double().norm(dim=1)
        return norms

    @property
    def proved(self) -> bool:
        """Whether the curvature is a proof for this network as it is now."""
        return self.curvature.rigorous and not unproved(self.curvature, self.model)

    def _unsuited(self, sums: _Open, points: Tensor, rows: int, round_size: int, outputs: Tensor) -> str:
        """What is wrong with a round by its network, its sizes or its arithmetic; empty where nothing is."""
        if self.processes == 1 and rows != round_size:
            return (
                f"a round of {rows} examples was recorded as one of {round_size}, so it is weighted wrongly"
            )
        if self.curvature.rigorous:  # asked in each round: hooks come and go
            return unproved(self.curvature, self.model)
        fault = ""
        if not sums.probed:  # once a window: modes may change within a run
            fault, sums.probed = probed_fault(self.model, points[:8]), rows > 1
        return fault or arithmetic_fault({outputs.dtype, *(w.dtype for ball in self.balls for w in ball)})

    def close(self, *, epoch: int = 0, frozen: bool = False) -> Window:
        """End the window: add up over processes, check coverage, and evaluate the bound at ``radius``."""
        sums, self._sums = self._sums, None
        if sums is None:
            raise RuntimeError("close() needs an open window: call open() first")
        epochs = sums.epochs
        # All processes agree on a fault before they add up, since one with a fault has nothing to add.
        if int(
            self.reduce(torch.tensor(bool(sums.fault), dtype=torch.int32, device=sums.model.constant.device))
        ):
            return self._void(
                sums, sums.fault or "another process found a fault in its rounds", epoch, frozen
            )
        lower = LowerModel(
            constant=float(self.reduce(sums.model.constant)) / epochs,
            balls=sums.model.reduced(self.reduce, epochs, spread=self.processes > 1),
            radii=() if self._bound is None else self._bound.radii,
        )
        rounding = self._rounding(sums, epochs)
        online_loss = float(self.reduce(sums.loss)) / epochs
        fault = self._fault(sums, lower)
        if fault:
            return self._void(sums, fault, epoch, frozen)
        window = Window(
            first=self.rounds - sums.rounds + 1,
            last=self.rounds,
            epoch=epoch,
            rounding=rounding,
            online_loss=online_loss,
            drift=tuple(float(d) for d in sums.drift),
            lower=lower,
            lower_bound=float("nan"),
            frozen=frozen,
            reach=self._reach,
        )
        self.last = window_at(window, self.radius)
        return self.last

    def _void(self, sums: _Open, fault: str, epoch: int, frozen: bool) -> Window:
        """A window that proves nothing."""
        return Window(
            first=self.rounds - sums.rounds + 1,
            last=self.rounds,
            epoch=epoch,
            rounding=Rounding(unit=0.0),
            online_loss=float("nan"),
            drift=tuple(float(d) for d in sums.drift),
            lower=None,
            lower_bound=float("nan"),
            void=fault,
            frozen=frozen,
        )

    def _rounding(self, sums: _Open, epochs: int) -> Rounding:
        """Figures of the window for the allowance; none for an estimate."""
        core = exact_core(self.model)
        if core is None or not self.proved:
            return Rounding(unit=0.0)
        seen = Rounding(
            unit=2.0**-53,
            examples=len(self.y) + sums.rounds,  # sums over rounds add their own terms
            slope=float(self.reduce(sums.slope)) / epochs,
            loss=float(self.reduce(sums.size)) / epochs,
            # the root of the sum of squares is at least the largest over the processes
            input_norm=float(self.reduce(sums.input_norm.square()).sqrt()),
            distance=float(sums.distance),
        )
        return core.family.rounding(core.network, core.own(self.initial), seen)

    def _fault(self, sums: _Open, lower: LowerModel) -> str:
        overwritten = max(float(self.reduce(sums.overwritten)), float((marks(self.x) != self._marks).sum()))
        if overwritten:
            return (
                f"{overwritten:.0f} training examples were overwritten while training, so the rounds "
                "are of other data"
            )
        outside = int(self.reduce(sums.outside))
        if outside:
            return (
                f"{outside} attacked points lie outside their threat sets, so the rounds are not "
                "below the robust loss"
            )
        if float(self.reduce(sums.changed)):
            parts = self._fixed_now()
            name = first_difference(fingerprints(parts), fingerprints(self.fixed)) or "a fixed part"
            return f"{name} changed while training, so the rounds are of different functions"
        visits = self.reduce(sums.visits)
        often, seldom = int((visits > sums.epochs).sum()), int((visits < sums.epochs).sum())
        if often:
            return (
                f"{often} of {len(visits)} examples were visited more than {sums.epochs} time(s), so "
                "the rounds do not weigh the data evenly"
            )
        if seldom and not (sums.subset and self.loss.nonnegative):
            return (
                f"{seldom} of {len(visits)} examples were visited fewer than {sums.epochs} time(s), "
                "so the rounds do not cover the data"
            )
        numbers = [t for ball in lower.balls for b in ball for t in (b.linear, b.matrices) if t is not None]
        if not math.isfinite(lower.constant) or not all(bool(t.isfinite().all()) for t in numbers):
            return "a recorded round is not finite"
        return ""


def _moved(value: Any, device: torch.device) -> Any:
    """Plain values with their tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return [_moved(item, device) for item in value] if isinstance(value, list) else value


def _copied(parts: Fixed) -> Fixed:
    return {name: part if isinstance(part, str) else part.clone() for name, part in parts.items()}


def window_at(window: Window, radius: Radius) -> Window:
    """The window with its bound evaluated at this radius."""
    return replace(window, lower_bound=window.bound_at(radius))
