"""One full pass at frozen weights, in float64: the surrogate loss there and the lower bounds it yields."""

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._arguments import as_labels, as_weights
from holdfast._memory import out_of_memory
from holdfast._tensors import batches, chunks
from holdfast._values import Shown
from holdfast.certificates.certificate import LowerBound
from holdfast.curvature import Curvature
from holdfast.curvature.lower_model import LowerModel, Radius, largest
from holdfast.curvature.rounding import Rounding
from holdfast.errors import HoldfastError, InputError
from holdfast.families.base import Pass, Search
from holdfast.families.exact import Core, exact_core, fingerprints, first_difference, fixed_parts
from holdfast.families.registry import unproved
from holdfast.losses import Loss, broken_claim
from holdfast.threats import Threat
from holdfast.trace import Evaluated, FrozenPoints, TraceRecorder, Window
from holdfast.trace.soundness import probed_fault
from holdfast.training.ball import ParameterBall

BATCH = 512
MEASURED = 256
"""Examples on which the linearisation error is measured."""


@dataclass(frozen=True, kw_only=True, repr=False)
class FrozenPass(Shown):
    """A network and its initial weights in float64, with the attacked points of all examples.

    Attributes:
        model: a copy in float64 and evaluation mode.
        initial: ``W0`` by name, in float64.
        points: examples, attacked points and labels, in the precision they came in.
        weights: ``pi_i`` of the examples.
        outputs: of the network at the attacked points, (examples, outputs).
        loss: the loss.
        threat: the sets that the points lie in.
        curvature: the bound for this network.
        fault: why the pass proves nothing; empty when it does.
        weights_name: name of the weights, e.g. ``the last weights``.
        fixed: digests of all that the function depends on besides the trained parameters.

    >>> import torch
    >>> import holdfast as hf
    >>> from holdfast.certificates import attacked_points, frozen_pass
    >>> net, x, y = hf.networks.TwoLayer(2, 2, width=8), torch.eye(2), torch.tensor([0, 1])
    >>> threat, loss, curvature = hf.LpBall("2", 0.1), hf.CrossEntropy(), hf.families.TwoLayerCurvature()
    >>> points = attacked_points(net, x, y, threat, hf.FGSM(), loss, seed=0, batch_size=2)
    >>> passed = frozen_pass(net, net.state_dict(), points, threat, loss, curvature, weights_name="the start")
    >>> passed.proved, round(passed.surrogate_loss, 4)
    (True, 0.6931)
    """

    model: nn.Module
    initial: dict[str, Tensor]
    points: FrozenPoints
    weights: Float[Tensor, " examples"]
    outputs: Float[Tensor, "examples outputs"]
    loss: Loss
    threat: Threat
    curvature: Curvature
    fault: str
    weights_name: str
    fixed: Mapping[str, str]

    @property
    def proved(self) -> bool:
        """Whether the curvature is a proof for this network."""
        return self.curvature.rigorous and not unproved(self.curvature, self.model)

    @property
    def core(self) -> Core:
        """The library's network inside the model, which a proof is about."""
        core = exact_core(self.model)
        if core is None:
            raise RuntimeError("only a proved pass has a network of the library inside")
        return core

    @property
    def floor(self) -> float:
        """``sum_i pi_i inf_f loss(f, y_i)``: no robust loss is smaller, whatever the network."""
        return float((self.weights * self.loss.floor(self.outputs.shape[1], self.points.y)).sum())

    @property
    def ball(self) -> ParameterBall:
        return ParameterBall(
            names=self.curvature.parameters(self.model), initial=self.initial, radius=math.inf
        )

    @property
    def rounding(self) -> Rounding:
        """Figures of this pass for the allowance; all in float64."""
        return self.rounding_at(self.outputs)

    def rounding_at(self, outputs: Float[Tensor, "examples outputs"]) -> Rounding:
        """The same with the loss expanded at these outputs."""
        if not self.proved:
            return Rounding(unit=0.0)
        distance, n = max(self.evaluated.distance), len(self.points.y)
        slopes = self.loss.slope(outputs, self.points.y).norm(dim=1)
        sizes = self.loss(outputs, self.points.y).abs() + slopes * outputs.norm(dim=1)
        slope, size = float((slopes * self.weights).sum()), float((sizes * self.weights).sum())
        core = self.core
        parts = batches(self.points.points, BATCH)
        norms = [core.family.input_norms(core.network, part.double()).max() for part in parts]
        norm = float(torch.stack(norms).max())
        seen = Rounding(unit=2.0**-53, examples=n, slope=slope, loss=size, input_norm=norm, distance=distance)
        return core.family.rounding(core.network, core.own(self.initial), seen)

    def given(self, core: Core) -> Pass:
        """What the network's family is given of it."""
        return Pass(
            initial=core.own(self.initial),
            points=self.points.points,
            labels=self.points.y,
            weights=self.weights,
            outputs=self.outputs,
            loss=self.loss,
            curvature=self.curvature,
            proved=self.proved,
        )

    @property
    def surrogate_loss(self) -> float:
        """``L_A(W) = sum_i pi_i loss(f(W, x'_i), y_i)``."""
        return float((self.weights * self.loss(self.outputs, self.points.y)).sum())

    @property
    def evaluated(self) -> Evaluated:
        """The surrogate loss and distances; the allowance is filled in by `with_allowance`."""
        distance = tuple(float(d) for d in self.ball.distances(self.model))
        return Evaluated(
            weights=self.weights_name, surrogate_loss=self.surrogate_loss, allowance=0.0, distance=distance
        )


def in_float64(model: nn.Module, x: Float[Tensor, "batch ..."]) -> nn.Module:
    """A copy of the network in float64 and evaluation mode, tried on two examples. Leaves random states as
    they were.

    Raises:
        InputError: it cannot be copied, or does not run in float64: it computes with what no copy of it
            holds, or in a dtype of its own.
    """
    exact = copy.deepcopy(model)
    if exact is model:
        raise InputError(
            f"model must be copied to be certified in float64, but a copy of this {type(model).__name__} "
            "is itself; remove its __deepcopy__."
        )
    exact = exact.double().eval()
    try:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
            exact(x[:2].double())
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, HoldfastError) or out_of_memory(error):
            raise
        raise InputError(
            "model must run in float64 to be certified, but a copy of it does not "
            f"({' '.join(str(error).split()).rstrip('.')}); keep all it computes with in parameters and "
            "buffers."
        ) from error
    return exact


def frozen_pass(
    model: nn.Module,
    initial: Mapping[str, Tensor],
    points: FrozenPoints,
    threat: Threat,
    loss: Loss,
    curvature: Curvature,
    *,
    weights_name: str,
    example_weights: Float[Tensor, " examples"] | None = None,
) -> FrozenPass:
    """Re-evaluate attacked points in float64 at the model's weights, in evaluation mode.

    The model itself is left alone.

    Args:
        model: the network.
        initial: ``W0`` by name: the centre of the ball.
        points: examples, attacked points and labels.
        threat: the sets that the points must lie in.
        loss: the loss.
        curvature: the bound for this network.
        weights_name: name of the weights, e.g. ``the last weights``.
        example_weights: ``pi_i >= 0`` adding up to 1; default ``1 / n``.

    >>> import torch
    >>> import holdfast as hf
    >>> from holdfast.certificates import attacked_points, frozen_pass
    >>> net, x, y = hf.networks.TwoLayer(2, 2, width=8), torch.eye(2), torch.tensor([0, 1])
    >>> threat, loss, curvature = hf.LpBall("2", 0.1), hf.CrossEntropy(), hf.families.TwoLayerCurvature()
    >>> points = attacked_points(net, x, y, threat, hf.FGSM(), loss, seed=0, batch_size=2)
    >>> passed = frozen_pass(net, net.state_dict(), points, threat, loss, curvature, weights_name="the start")
    >>> passed.fault
    ''
    """
    whole = fingerprints(fixed_parts(model, ()))
    varying = {name for ball in curvature.parameters(model) for name in ball}
    fixed = {name: digest for name, digest in whole.items() if name not in varying}
    exact = in_float64(model, points.x)
    twin = first_difference(fingerprints(fixed_parts(exact, ())), whole)
    # Kept in the precision they came in, and widened, which is exact, where they are computed with.
    held = FrozenPoints(x=points.x, points=points.points, y=as_labels("y", points.y))
    n = len(points.y)
    weights = torch.full((n,), 1 / n, dtype=torch.float64, device=held.x.device)
    if example_weights is not None:
        weights = as_weights("example_weights", example_weights, n).to(weights)
    # Asked of the model itself: a copy may have lost what makes it another function.
    fault = (
        unproved(curvature, model) if curvature.rigorous else probed_fault(exact, held.points[:8].double())
    )
    outside = sum(
        int((~threat.contains(held.points[part].double(), held.x[part].double())).sum())
        for part in chunks(n, 4 * BATCH)
    )
    if outside:
        fault = f"{outside} of {n} attacked points lie outside their threat sets"
    with torch.no_grad():
        outputs = torch.cat([exact(part.double()) for part in batches(held.points, _rows(exact))])
    if not bool(outputs.isfinite().all()):
        fault = "the network's outputs at the attacked points are not finite"
    fault = fault or broken_claim(loss, outputs.shape[1])
    if twin:
        fault = (
            f"a copy of the network differs from it in {twin}, so the pass would be one of another network"
        )
    return FrozenPass(
        model=exact,
        initial={name: w.to(held.x.device).double() for name, w in initial.items()},
        points=held,
        weights=weights,
        outputs=outputs,
        loss=loss,
        threat=threat,
        curvature=curvature,
        fault=fault,
        weights_name=weights_name,
        fixed=fixed,
    )


def _rows(model: nn.Module) -> int:
    """Rows a chunk: a (rows, width) array in float64 of at most 256 MiB."""
    core = exact_core(model)
    units = 0 if core is None else core.family.sizes(core.network).units
    return max(1, 2**25 // units) if units else BATCH


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A lower model that competes for the bound, with what its rounding allowance is computed from and
    where it came from.
    """

    lower: LowerModel
    rounding: Rounding
    source: str

    def bound(self, radius: Radius) -> LowerBound:
        """The bound at this radius, rounding allowance taken off; any radius can be read from one model."""
        bound = self.lower.bound(radius)
        top = max(m.max_eigenvalue for m in bound.minima)
        return LowerBound(
            value=bound.value - self.rounding.allowance(max(m.radius for m in bound.minima), top),
            source=self.source,
            width_factor=bound.width_factor,
            max_eigenvalue=top,
            slope=max(m.slope for m in bound.minima),
        )


def window_candidate(window: Window) -> Candidate | None:
    """The lower model of a training window; nothing where it was dropped for space."""
    if window.lower is None:
        return None
    source = f"rounds {window.first} to {window.last}"
    return Candidate(lower=window.lower, rounding=window.rounding, source=source)


def pass_candidate(
    passed: FrozenPass,
    radius: Radius,
    *,
    evaluations: int,
    per_unit: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Candidate | str:
    """The lower model of this pass: the best that the network's family makes of it, else the pass as one
    round; or why there is none.
    """
    core = exact_core(passed.model)
    if core is not None and type(passed.curvature) is type(core.family.curvature()):
        search = Search(radius=radius, evaluations=evaluations, per_unit=per_unit, progress=progress)
        found = core.family.expanded(core.network, passed.given(core), search)
        if found is not None:
            source = f"a pass at {passed.weights_name}, {found.how}"
            return Candidate(lower=found.lower, rounding=passed.rounding_at(found.outputs), source=source)
    window = _recorded(passed, largest(radius))
    if window.void or window.lower is None:
        return window.void or "the frozen pass yielded no lower model"
    return Candidate(lower=window.lower, rounding=window.rounding, source=f"a pass at {passed.weights_name}")


def _recorded(passed: FrozenPass, radius: float) -> Window:
    """The pass as one recorded window: any network, any curvature; gradients in float64."""
    model, y = passed.model, passed.points.y
    recorder = TraceRecorder(
        model,
        passed.points.x,
        y,
        passed.threat,
        passed.loss,
        curvature=passed.curvature,
        radius=radius,
        example_weights=passed.weights,
    )
    recorder.initial = dict(passed.initial)
    recorder.open()
    for part in chunks(len(y), BATCH):
        rows = torch.arange(part.start, part.stop, device=y.device)
        # One round a chunk at the same weights: w_t p_ti = (chunk / n) (n pi_i / chunk) = pi_i.
        recorder.record(rows, passed.points.points[part].double(), passed.outputs[part], round_size=len(rows))
    return recorder.close(frozen=True)


def linearisation_error(passed: FrozenPass) -> float:
    """Mean of ``|f(W, x') - f(W0, x') - Df(W0, x')(W - W0)|`` over outputs of the first 256 examples; NaN
    where jvp cannot go.
    """
    model = passed.model
    names = [name for ball in passed.curvature.parameters(model) for name in ball]
    points = passed.points.points[:MEASURED].double()
    with torch.no_grad():
        start = {name: passed.initial[name] for name in names}
        moves = {name: model.get_parameter(name) - start[name] for name in names}
        try:
            # torch loads its own forward-mode rules through a deprecated call.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
                found = torch.func.jvp(
                    lambda w: torch.func.functional_call(model, w, (points,)), (start,), (moves,)
                )
                value, slope = found[0], found[1]
        except (RuntimeError, NotImplementedError):  # an operation without forward-mode derivative
            return math.nan
        return float((passed.outputs[: len(points)] - value - slope).abs().mean())
