"""Writes the trace: sums each round into the window's lower model, and checks that the round is what the proof needs.

Nothing here waits for the device until a window closes. See `docs/certificate.md`, "From many rounds to one number".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast.curvature import Curvature, DeepCurvature
from holdfast.errors import InputError
from holdfast.losses import Loss
from holdfast.networks import TwoLayer
from holdfast.threats import Threat
from holdfast.trace.lower_model import LowerModel, Radius
from holdfast.trace.soundness import arithmetic_fault, probed_fault
from holdfast.trace.sums import Sums, as_matrix
from holdfast.trace.window import Rounding, Window, growth

COMPARED = 2
"""Rounds of a run whose gradients are computed a second time and compared."""
EXAMPLES = 256
"""Examples that the norms of a deep run are made for."""
CENTRE = 0.25
"""Where deep rounds are expanded when curvature costs something, as a share of the way."""


@dataclass(kw_only=True)
class _Open:
    """A window under way, and what is wrong with its rounds."""

    model: Sums
    loss: Tensor
    slope: Tensor
    input_norm: Tensor
    distance: Tensor
    outside: Tensor
    mislabelled: Tensor
    visits: Tensor
    epochs: int
    subset: bool
    rounds: int = 0
    probed: bool = False
    fault: str = ""
    drift: list[Tensor] = field(default_factory=list)


class TraceRecorder:
    """Records training rounds into windows; one instance a run (and a process).

    Use: ``open()``; for every step, after the backward pass and before the optimiser's, ``record(...)``; ``close()``.

    Args:
        model: the network itself, not a wrapper, with the initial weights ``W0`` in it.
        x, y: all training examples; rounds refer to them by row.
        threat, loss: as trained with.
        curvature: the bound for this network (`holdfast.curvature.curvature_for`).
        radius: parameter radius ``R`` at which windows are evaluated as they close.
        example_weights: ``pi_i >= 0`` of the robust loss ``sum_i pi_i sup loss``; default ``1 / n``.
        processes, reduce: number of processes and the sum over them, when rounds are spread over several.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Float[Tensor, "examples ..."],
        y: Int[Tensor, " examples"],
        threat: Threat,
        loss: Loss,
        *,
        curvature: Curvature,
        radius: float,
        example_weights: Float[Tensor, " examples"] | None = None,
        processes: int = 1,
        reduce: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> None:
        self.model, self.x, self.y, self.threat, self.loss = model, x, y, threat, loss
        self.curvature, self.radius = curvature, radius
        self.example_weights = example_weights
        self.processes, self.reduce = processes, reduce
        if example_weights is not None and not bool((example_weights >= 0).all()):
            raise InputError(
                "example_weights must be numbers >= 0, got a negative one or NaN; a weight counts an example."
            )
        parameters = dict(model.named_parameters())
        self.names = curvature.parameters(model)
        self.balls = [[parameters[name] for name in names] for names in self.names]
        self.initial = {name: parameters[name].detach().clone() for names in self.names for name in names}
        self.rounds = 0
        self.last: Window | None = None
        self._reach = radius
        self._compared = 0
        self._sums: _Open | None = None
        self._bound: Curvature | None = None

    def open(self, *, epochs: int = 1, subset: bool = False) -> None:
        """Start a window: until `close`, every example must be visited exactly ``epochs`` times.

        ``subset`` allows examples to be left out (drop_last): the bound stays valid for losses >= 0, only lower.
        """
        self._reach = self._aim()
        if self._bound is None:
            self._bound = self.curvature.within(self.model, self.initial, self.radius)
            if isinstance(self._bound, DeepCurvature):
                self._bound = self._prepared(self._bound)
        if isinstance(self._bound, DeepCurvature):
            self._bound = replace(self._bound, centre=self._centre())
        device = self.balls[0][0].device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self._sums = _Open(
            model=Sums.start(self.balls), loss=zero.clone(), slope=zero.clone(), input_norm=zero.clone(),
            distance=zero.clone(), outside=zero.clone(), mislabelled=zero.clone(),
            visits=torch.zeros(len(self.y), dtype=torch.int32, device=device), epochs=epochs, subset=subset,
        )  # fmt: skip

    def _prepared(self, bound: DeepCurvature) -> DeepCurvature:
        """With norms for all rounds, as suits the initial network at the first examples: the same in every process and resumed run."""
        points, labels = self.x[:EXAMPLES], self.y[:EXAMPLES]
        with torch.no_grad():
            outputs = torch.func.functional_call(self.model, dict(self.initial), (points,))
        return bound.prepared(self.model, points, self._slopes(outputs, labels))

    def _centre(self) -> float:
        """Rounds are expanded where they are while curvature costs nothing there, else nearer to the start: no step is then as long."""
        if self.last is None or self.last.lower is None:
            return 1.0
        return 1.0 if self.last.lower.bound(self.radius).width_factor <= 1.0 else CENTRE

    @torch.no_grad()
    def _aim(self) -> float:
        """How far from the present weights the bound should be tightest: where the last window's lower model is smallest, that
        is, the network it holds to be possible. At first the radius of the ball."""
        if self.last is None or self.last.lower is None or not self.curvature.uses_reach(self.model):
            return self.radius
        bound, squares = self.last.lower.bound(self.radius), 0.0
        for ball, parameters, names, minimum in zip(
            self.last.lower.balls, self.balls, self.names, bound.minima, strict=True
        ):
            for block, parameter, name in zip(ball, parameters, names, strict=True):
                move = as_matrix(parameter - self.initial[name]).double()
                squares += float((block.minimiser(minimum.multiplier).to(move) - move).square().sum())
        # The geometric mean with the last aim: a short reach makes the model stray far, and the next aim would swing back.
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
        labels: Tensor,
        *,
        round_size: int,
    ) -> None:
        """One round: the raw gradients of ``sum_i p_i loss_i`` stand in ``.grad``, ``p_i = n pi_i / round_size``.

        ``rows`` are the examples of this process's share of the round, ``points`` their attacked inputs, ``outputs`` the
        network's outputs there, ``labels`` the targets used. ``round_size`` counts the examples over all processes.
        """
        self.rounds += 1
        sums = self._sums
        if sums is None:
            raise RuntimeError("record() needs an open window: call open() first")
        sums.rounds += 1
        if not sums.probed:  # once a window: modes may change within a run
            sums.fault, sums.probed = sums.fault or probed_fault(self.model, points[:8]), len(rows) > 1
        sums.fault = sums.fault or self._unsuited(len(rows), round_size, outputs)
        self._check(sums, rows, points, labels)
        n = len(self.y)
        share = round_size / n  # w_t, while the window is one epoch; close() divides by the epochs
        # Deep rounds are computed anew in float64, so that what training rounds off costs the window nothing.
        deep = isinstance(self._bound, DeepCurvature)
        outputs = outputs.double() if deep else outputs
        uniform = torch.full_like(outputs[:, 0], 1 / round_size)
        p = uniform
        if self.example_weights is not None:
            p = self.example_weights[rows].to(p.dtype) * (n / round_size)
        hard = not labels.is_floating_point()  # others are counted as mislabelled
        if not sums.fault and hard and self.processes == 1 and self._compared < COMPARED:
            self._compared += 1
            sums.fault = self._other_gradients(points, labels, p)
        if sums.fault:
            return
        exact = outputs.double()
        slopes = self._slopes(outputs, self.y[rows]).double() * p[:, None].double()
        moves = [[as_matrix(w - self.initial[name]) for w, name in zip(ws, ns, strict=True)]
                 for ws, ns in zip(self.balls, self.names, strict=True)]  # fmt: skip
        sums.drift = [torch.stack([move.square().sum() for move in ball]).sum().sqrt() for ball in moves]
        curvature = (self._bound or self.curvature).round(
            self.model, points, slopes if deep else slopes.to(points.dtype), reach=self._reach
        )
        batch_loss = (p.double() * self.loss(exact, self.y[rows])).sum()
        sums.loss += share * batch_loss
        sums.model.constant += share * batch_loss
        if curvature.tangent is not None:
            sums.model.constant += share * (slopes * (curvature.tangent.outputs - exact)).sum()
        if curvature.slack is not None:
            sums.model.constant -= share * curvature.slack
        sums.slope += share * slopes.norm(dim=1).sum()
        z = self.model.inputs(points) if isinstance(self.model, TwoLayer) else points.reshape(len(points), -1)
        if len(rows):  # a process may have no share of a short last round
            sums.input_norm = torch.maximum(sums.input_norm, z.norm(dim=1).amax().double())
        sums.distance = torch.maximum(sums.distance, torch.stack(sums.drift).amax().double())
        sums.model.add(self._gradients(), curvature, moves, share, self.processes)

    def _slopes(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The subgradients behind ``.grad``. Where the loss has several (hinge at equal outputs) ``Loss.slope`` may be another
        one, and the curvature that belongs to one bounds nothing for another."""
        with torch.enable_grad():
            at = outputs.detach().requires_grad_()
            (slopes,) = torch.autograd.grad(self.loss(at, labels).sum(), at)
        return slopes

    def _check(self, sums: _Open, rows: Tensor, points: Tensor, labels: Tensor) -> None:
        sums.visits.index_add_(0, rows, torch.ones_like(rows, dtype=torch.int32))
        sums.outside += (~self.threat.contains(points, self.x[rows])).sum()
        if labels.shape != self.y[rows].shape:
            sums.fault = "the targets were not the examples' labels (mixed or soft labels), so the rounds are of another loss"
        else:
            sums.mislabelled += (labels != self.y[rows]).sum()

    def _unsuited(self, rows: int, round_size: int, outputs: Tensor) -> str:
        """What is wrong with a round by its sizes, its arithmetic or its gradients; nothing where nothing is."""
        if self.processes == 1 and rows != round_size:
            return f"a round of {rows} examples was recorded as one of {round_size}, so its gradient is scaled wrongly"
        if self.curvature.rigorous and any(
            w.grad is None for ball in self.balls for w in ball if w.requires_grad
        ):
            return "a trained parameter had no gradient when its round was recorded (record before gradients are cleared)"
        dtypes = {outputs.dtype, *(w.dtype for ball in self.balls for w in ball)}
        return arithmetic_fault(dtypes)

    def _other_gradients(self, points: Tensor, labels: Tensor, p: Tensor) -> str:
        """Whether ``.grad`` is what the round's loss gives at the present weights: clipping, loss scaling, accumulation and
        recording after the step all show here. Looser than rounding, tighter than any of those."""
        parameters = [w for ball in self.balls for w in ball]
        with torch.enable_grad():
            value = (p * self.loss(self.model(points), labels)).sum()
            expected = torch.autograd.grad(value, parameters, allow_unused=True)
        for parameter, right in zip(parameters, expected, strict=True):
            zero = torch.zeros_like(parameter)
            right, came = zero if right is None else right, zero if parameter.grad is None else parameter.grad
            if not bool(came.isfinite().all()):
                return ""  # close() says so, after the points that may be why
            if bool((came - right).norm() > 1e-3 * right.norm() + 1e-9):
                return (
                    "the gradients are not those of the round's loss at these weights (clipped, scaled, accumulated, or recorded "
                    "after the step)"
                )
        return ""

    def _gradients(self) -> list[list[Tensor]]:
        """``.grad`` of the trained weights, as matrices."""
        return [
            [as_matrix(w.grad if w.grad is not None else torch.zeros_like(w)) for w in ball]
            for ball in self.balls
        ]

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
            balls=sums.model.settled(self.reduce, epochs, spread=self.processes > 1),
            radii=() if self._bound is None else self._bound.radii,
        )
        width = self.model.width if self.curvature.rigorous and isinstance(self.model, TwoLayer) else 0
        amplitude = 0.0
        wide = self.balls[0][0].dtype == torch.float64
        if isinstance(self.curvature, DeepCurvature):
            width, wide = self.balls[0][0].shape[0], True
            amplitude = self.curvature.amplitude(self.model, self.initial, float(sums.distance))
        unit = 2.0**-53 if wide else 2.0**-24
        rounding = Rounding(
            unit=unit, width=width, slope=float(self.reduce(sums.slope)) / epochs,
            # The root of the sum of squares is at least the largest over the processes.
            input_norm=float(self.reduce(sums.input_norm.square()).sqrt()), distance=float(sums.distance), output_norm=self._output_norm(),
            growth=growth(self.model), amplitude=amplitude,
        )  # fmt: skip
        online_loss = float(self.reduce(sums.loss)) / epochs
        fault = self._fault(sums, lower)
        if fault:
            return self._void(sums, fault, epoch, frozen)
        window = Window(
            first=self.rounds - sums.rounds + 1, last=self.rounds, epoch=epoch, rounding=rounding,
            online_loss=online_loss, drift=tuple(float(d) for d in sums.drift),
            lower=lower, lower_bound=float("nan"), frozen=frozen, reach=self._reach,
        )  # fmt: skip
        self.last = window_at(window, self.radius)
        return self.last

    def _void(self, sums: _Open, fault: str, epoch: int, frozen: bool) -> Window:
        """A window that proves nothing."""
        return Window(
            first=self.rounds - sums.rounds + 1, last=self.rounds, epoch=epoch,
            rounding=Rounding(unit=0.0, width=0, slope=0.0, input_norm=0.0, distance=0.0),
            online_loss=float("nan"), drift=tuple(float(d) for d in sums.drift), lower=None,
            lower_bound=float("nan"), void=fault, frozen=frozen,
        )  # fmt: skip

    def _output_norm(self) -> float:
        return (
            float(self.model.output_weight.detach().abs().max()) if isinstance(self.model, TwoLayer) else 1.0
        )

    def _fault(self, sums: _Open, lower: LowerModel) -> str:
        outside = int(self.reduce(sums.outside))
        if outside:
            return f"{outside} attacked points lie outside their threat sets, so the rounds are not below the robust loss"
        mislabelled = int(self.reduce(sums.mislabelled))
        if mislabelled:
            return (
                f"{mislabelled} targets differ from the examples' labels, so the rounds are of another loss"
            )
        visits = self.reduce(sums.visits)
        often, seldom = int((visits > sums.epochs).sum()), int((visits < sums.epochs).sum())
        if often:
            return f"{often} of {len(visits)} examples were visited more than {sums.epochs} time(s), so the rounds do not weigh the data evenly"
        if seldom and not (sums.subset and self.loss.nonnegative):
            return f"{seldom} of {len(visits)} examples were visited fewer than {sums.epochs} time(s), so the rounds do not cover the data"
        if not torch.isfinite(torch.tensor(lower.constant)):
            return "a recorded round is not finite"
        return ""


def window_at(window: Window, radius: Radius) -> Window:
    """The window with its bound evaluated at this radius."""
    return replace(window, lower_bound=window.bound_at(radius))
