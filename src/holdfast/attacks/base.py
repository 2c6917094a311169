"""What an attack is: its own search, and one final function that no search gets round.

`Attack.search` looks for bad points; `Attack.run` projects what it found strictly inside the threat set, checks
membership in float64, scores it afresh and puts the clean example in its place where that is the stronger
one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, get_args

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from holdfast import _tensors
from holdfast._arguments import (
    EXAMPLES,
    GENERATOR,
    LABELS,
    MODEL,
    RADII,
    TARGETS,
    Array,
    as_labels,
    as_tensor,
    paired,
)
from holdfast._formats import count, number, percent
from holdfast._memory import out_of_memory
from holdfast._rules import SEED, maybe, takes, word
from holdfast._values import Fact, Tabular
from holdfast.acceleration import closed_form
from holdfast.attacks._logits import refuse_probabilities
from holdfast.attacks.modes import Mode, attacking, in_mode
from holdfast.errors import HoldfastError, InputError
from holdfast.families.exact import exact_core
from holdfast.losses import LOSS, Labels, Loss, Outputs, PerExample, as_loss, correct, finite
from holdfast.threats import THREAT, LpBall, Threat, as_threat
from holdfast.threats.base import Points


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a search works towards, given classes ``y``: a high loss at ``y``, or a low one.

    Attributes:
        loss: the loss, of outputs and classes.
        targeted: ``y`` is a class to be reached: the loss there is made low.

    >>> import torch
    >>> import holdfast as hf
    >>> goal = hf.attacks.Goal(loss=hf.Hinge())
    >>> goal.value(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
    tensor([3.])
    """

    loss: Loss
    targeted: bool = False

    def value(self, outputs: Outputs, y: Labels) -> PerExample:
        """The number a search maximises."""
        loss = self.loss(outputs, y)
        return -loss if self.targeted else loss

    def judge(self, outputs: Outputs, y: Labels) -> tuple[PerExample, Bool[Tensor, " batch"]]:
        """The one judgement of points, by every attack and evaluation: the number maximised, never NaN, and
        whether the goal is reached.

        That is: whether the prediction is other than ``y``; ``targeted``, whether it is ``y``. A tie is no
        prediction. Nor are outputs, their difference or a loss that are not finite: there the model is
        broken, at infinite loss, and no class is reached.
        """
        loss, right = self.loss(outputs, y), correct(outputs, y)
        sound = loss.isfinite() & finite(outputs)
        loss = torch.where(sound, loss, torch.inf)
        return (-loss, right & sound) if self.targeted else (loss, ~(right & sound))

    def reached(self, outputs: Outputs, y: Labels) -> Bool[Tensor, " batch"]:
        """The second half of `judge`."""
        return self.judge(outputs, y)[1]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Points with how well they serve an goal."""

    x: Float[Tensor, "batch ..."]
    value: Float[Tensor, " batch"]
    reached: Bool[Tensor, " batch"]


def scored(points: Points, outputs: Outputs, y: Labels, goal: Goal) -> Scored:
    """Points with their outputs judged by ``goal``; one that is not finite itself lies in no threat set,
    and serves no goal.
    """
    value, reached = goal.judge(outputs, y)
    point = _tensors.flatten(points).sum(1).isfinite()
    return Scored(x=points, value=torch.where(point, value, -torch.inf), reached=reached & point)


def score(model: nn.Module, points: Points, y: Labels, goal: Goal) -> Scored:
    """`scored` after one forward pass without gradients."""
    with torch.no_grad():
        return scored(points, _tensors.answers(model, points), y, goal)


def stronger(first: Scored, second: Scored) -> Scored:
    """For each row the point that reaches the goal, else that of higher value; ``first`` on ties."""
    take = torch.where(first.reached == second.reached, second.value > first.value, second.reached)
    return Scored(
        x=torch.where(_tensors.per_example(take, first.x), second.x, first.x),
        value=torch.where(take, second.value, first.value),
        reached=torch.where(take, second.reached, first.reached),
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class AttackResult(Tabular):
    """What an attack found, one row per example, on the device of the examples.

    Attributes:
        x: a point of each threat set, in float64 and without tolerance.
        loss: loss at the true label in ``x``; infinite where outputs or loss are not finite.
        success: whether ``x`` is misclassified; in a targeted attack, whether it is classified as its target.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> found = hf.FGSM().run(torch.nn.Identity(), x, y, hf.LpBall("inf", 0.25))
    >>> found.success
    tensor([ True, False])
    """

    x: Float[Tensor, "batch ..."]
    loss: Float[Tensor, " batch"]
    success: Bool[Tensor, " batch"]

    def _facts(self) -> list[Fact]:
        if not len(self.success):
            return [Fact("examples", 0)]
        return [
            Fact("examples", count(len(self.success))),
            Fact("successful", percent(float(self.success.double().mean())), "observed"),
            Fact("mean loss", number(float(self.loss.double().mean())), "observed"),
        ]

    def _columns(self) -> dict[str, list[Any]]:
        return {"loss": self.loss.tolist(), "success": self.success.tolist()}


class RoundedInputs(nn.Module):
    """A half-precision model as searches in float32 see it: points are rounded to its dtype, outputs widened.

    Steps shorter than half precision's own would leave an iterate where it is, and the model would look
    robust.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = model, dtype
        self.training = model.training

    def forward(self, x: Points) -> Outputs:
        return _tensors.answers(self.inner, x.to(self.dtype))


class _Steady(nn.Module):
    """A model that must answer with as many outputs everywhere as it does at the examples."""

    def __init__(self, model: nn.Module, outputs: int) -> None:
        super().__init__()
        self.inner, self.outputs = model, outputs
        self.training = model.training

    def forward(self, x: Points) -> Outputs:
        found = _tensors.answers(self.inner, x)
        if found.shape[1] != self.outputs:
            raise InputError(
                f"model must return {self.outputs} outputs at every point of the threat sets, as at the "
                f"examples, got {found.shape[1]} at some; wrap it in a module that does."
            )
        return found


class Attack(ABC):
    """A way to search threat sets for points where a model does badly.

    Attributes:
        leaves: whether its points for training may lie outside the threat set, as the published method has it.
            Such a step of training is no round of the robust loss.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> attack = hf.attacks.as_attack("fgsm")
    >>> attack(torch.nn.Identity(), x, y, "linf:0.25")
    tensor([[0.3500, 0.6500]])
    """

    leaves: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """Short text for terminals and reports, e.g. ``pgd-40x5``."""

    @property
    def passes(self) -> int:
        """Forward and backward passes a search takes, about: training's cost is counted in them (a trace
        may cost a tenth).
        """
        return 1

    @contextmanager
    def judging(self, model: nn.Module, generator: Generator) -> Iterator[nn.Module]:
        """What `run` searches and scores: the model itself, or another in its place while it runs."""
        yield model

    def refuses(self, threat: Threat) -> str:
        """Why this attack cannot search such threat sets; empty when it can. A suite leaves it out then,
        and says so.
        """
        return ""

    @abstractmethod
    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        """The method itself: points, near or in the threat set of each ``x_i``, of high
        ``goal.value(model(x'), y)``.

        Called with parameters frozen, the mode set and gradients on. Randomness comes from ``generator`` (on
        the device of ``x``) alone.
        """

    def points(
        self,
        model: nn.Module,
        x: Points,
        y: Labels,
        threat: Threat,
        *,
        generator: Generator,
        loss: Loss,
        mode: Mode = "eval",
        inside: bool = True,
    ) -> Points:
        """The search's points, strictly inside the threat set: the lean entry for training.

        Nothing is validated, scored again or waited for, so that a step costs what the search costs:
        `checked_outputs` validates a model once. Use `run` for figures. With ``inside`` false they are left where
        the search left them, for training with an attack that `leaves`.
        """
        if x.dtype in _tensors.COARSE:
            wide, grid = RoundedInputs(model, x.dtype), threat.in_steps_of(x.dtype)
            found = self.points(
                wide, x.float(), y, grid, generator=generator, loss=loss, mode=mode, inside=inside
            )
            return found.to(x.dtype)
        with attacking(model, mode):
            # On copies: a search that works in place must not move the examples that its points are judged
            # by.
            found = self.search(
                model, x.clone(), y.clone(), threat, goal=Goal(loss=loss), generator=generator
            )
            return threat.project_inside(found.detach(), x) if inside else found.detach()

    @takes(
        model=MODEL,
        x=EXAMPLES,
        y=LABELS,
        threat=THREAT,
        loss=maybe(LOSS),
        mode=word(*get_args(Mode)),
        seed=maybe(SEED),
        generator=maybe(GENERATOR),
    )
    def __call__(
        self,
        model: nn.Module,
        x: Array,
        y: Array,
        threat: Threat | str,
        *,
        loss: Loss | str | None = None,
        mode: Mode = "eval",
        seed: int | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Attacked points for a training loop of your own: `points`, with the arguments checked.

        Randomness is fresh at each call: it goes on from torch's global generator, which ``torch.manual_seed``
        sets, unless a ``seed`` or a ``generator`` is given. The search's points are returned as they are;
        `run` scores them again and puts the example in the place of a weaker one.

        Args:
            model: maps (batch, ...) to (batch, classes) logits, or (batch, 1) signed outputs for two classes.
            x: examples (batch, ...), in the data's units; taken in the dtype of the model's parameters.
            y: labels ``0 .. classes-1``, (batch,).
            threat: or text such as ``linf:0.1``, which has no box.
            loss: leads the search where the attack has no loss of its own; default cross-entropy.
            mode: the model during the attack: ``eval``, ``train`` or ``keep``.
            seed, generator: to repeat a call.

        Returns:
            Points of the threat sets, shaped like ``x``.

        Raises:
            InputError: examples, labels or mode are not as stated, or the threat refuses the examples.

        >>> from holdfast import PGD
        >>> model, x, y = nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
        >>> PGD(steps=2)(model, x, y, "linf:0.1").shape
        torch.Size([4, 3])
        """
        threat = as_threat(threat)
        x, y = paired(model, x, y)
        threat.check(x)
        if generator is None:
            generator = _tensors.fresh(x.device) if seed is None else _tensors.generator(seed, x.device)
        return self.points(
            model,
            x,
            y.long(),
            threat,
            generator=generator,
            loss=as_loss(loss),
            mode=mode,
            inside=not self.leaves,
        )

    @takes(
        model=MODEL,
        x=EXAMPLES,
        y=LABELS,
        threat=THREAT,
        loss=maybe(LOSS),
        targets=maybe(TARGETS),
        radii=maybe(RADII),
        mode=word(*get_args(Mode)),
        seed=SEED,
        generator=maybe(GENERATOR),
    )
    def run(
        self,
        model: nn.Module,
        x: Array,
        y: Array,
        threat: Threat | str,
        *,
        loss: Loss | str | None = None,
        targets: Array | None = None,
        radii: Array | None = None,
        mode: Mode = "eval",
        seed: int = 0,
        generator: Generator | None = None,
    ) -> AttackResult:
        """Attack each example and return the strongest point known: that found, or the example itself.

        A point that reaches the attack's goal is stronger than one that does not; among equals the higher loss
        is. Points outside the threat set are discarded; one where the outputs or the loss are not finite is
        misclassified, at infinite loss. The model works on copies, and keeps its parameters' gradients, its
        training flags and its running statistics.

        Args:
            model: maps (batch, ...) to (batch, classes) logits, or (batch, 1) signed outputs for two classes.
            x: examples (batch, ...), in the data's units; taken in the dtype of the model's parameters.
            y: labels ``0 .. classes-1``, (batch,), of any integer type.
            threat: or text such as ``linf:0.1``, which has no box.
            loss: scores the points, and leads the search where the attack has no loss of its own; default
                cross-entropy.
            targets: for a targeted attack, the class each example should be taken for, other than its label.
            radii: of each example's own ball, (batch,), in the threat's norm; default the threat's radius.
                Examples of one radius are attacked together, so few distinct radii are quick.
            mode: the model during the attack: ``eval``, ``train`` or ``keep`` (every submodule as it is). A
                model that is random in training mode (dropout) draws from torch's global generator, not from
                ``seed``.
            seed: of the search; ignored where a ``generator`` (on the device of ``x``) is given.

        Raises:
            InputError: examples, labels, targets, mode or the model's outputs are not as stated, or the
                threat refuses the examples (`Threat.check`).
        """
        threat, loss = as_threat(threat), as_loss(loss)
        x, y = paired(model, x, y)
        targets = None if targets is None else as_labels("targets", targets)
        if radii is not None:
            return self._run_by_radius(
                model, x, y, threat, as_tensor("radii", radii), loss, targets, mode, seed, generator
            )
        if x.dtype not in _tensors.COARSE:
            return self._attacked(model, x, y, threat, loss, targets, mode, seed, generator)
        wide, steps = RoundedInputs(model, x.dtype), threat.in_steps_of(x.dtype)
        found = self._attacked(wide, x.float(), y, steps, loss, targets, mode, seed, generator)
        return replace(found, x=found.x.to(x.dtype))

    def _attacked(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        loss: Loss,
        targets: Tensor | None,
        mode: Mode,
        seed: int,
        generator: Generator | None,
    ) -> AttackResult:
        """`run`, in a dtype fine enough to search in."""
        goal = Goal(loss=loss, targeted=targets is not None)
        generator = _tensors.generator(seed, x.device) if generator is None else generator
        with self.judging(model, generator) as model, attacking(model, mode):
            x, y = _plain(x), _plain(y)
            outputs = checked_outputs(model, x, y)
            if closed_form(model, x) is None:  # which has its number of outputs from its weights
                model = _Steady(model, outputs.shape[1])
            threat.check(x)
            y = y.long()
            wanted = y if targets is None else _checked_targets(_plain(targets), y, outputs)
            clean = scored(x, outputs, wanted, goal)
            points = self.search(
                model, x.clone(), wanted.clone(), threat, goal=goal, generator=generator
            ).detach()
            points = threat.project_inside(points, x)
            inside = threat.contains(points, x)
            points = torch.where(_tensors.per_example(inside, x), points, x)
            best = stronger(clean, score(model, points, wanted, goal))
            if targets is None:
                return AttackResult(x=best.x, loss=best.value, success=best.reached)
            return AttackResult(
                x=best.x, loss=score(model, best.x, y, Goal(loss=loss)).value, success=best.reached
            )

    def _run_by_radius(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        radii: Tensor,
        loss: Loss | None,
        targets: Tensor | None,
        mode: Mode,
        seed: int,
        generator: Generator | None,
    ) -> AttackResult:
        groups = balls_by_radius(threat, radii, len(x))
        generator = _tensors.generator(seed, x.device) if generator is None else generator
        parts = [
            self.run(
                model,
                x[rows],
                y[rows],
                ball,
                loss=loss,
                targets=None if targets is None else targets[rows],
                mode=mode,
                generator=generator,
            )
            for rows, ball in groups
        ]
        order = torch.cat([rows for rows, _ in groups]).argsort().to(x.device)
        found, losses, success = (
            torch.cat([getattr(part, name) for part in parts])[order] for name in ("x", "loss", "success")
        )
        return AttackResult(x=found, loss=losses, success=success)


def balls_by_radius(threat: Threat, radii: Tensor, examples: int) -> list[tuple[Tensor, LpBall]]:
    """`LpBall.by_radius` for this many examples.

    Raises:
        InputError: the threat is no ball, or there is not one radius >= 0 an example.
    """
    if not isinstance(threat, LpBall) or radii.shape != (examples,):
        raise InputError(
            f"radii must be {examples} numbers, one for each example, beside an LpBall, got shape "
            f"{tuple(radii.shape)} and {type(threat).__name__}; leave them out for one radius."
        )
    return threat.by_radius(radii)


def _plain(values: Tensor) -> Tensor:
    """Without history; a copy of what was made in inference mode, which autograd would refuse."""
    return values.clone() if values.is_inference() else values.detach()


def checked_outputs(model: nn.Module, x: Tensor, y: Tensor) -> Outputs:
    """The model's outputs without gradients, after examples, labels and outputs were checked.

    Args:
        model: maps (batch, ...) to (batch, outputs).
        x: examples (batch, ...), floating point.
        y: labels ``0 .. classes-1``, (batch,).

    Raises:
        InputError: ``x`` is empty, not floating point or not finite; ``y`` is not one integer label in range
            per example; the outputs are not finite (batch, outputs) of the same batch size, or are
            probabilities.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.attacks.checked_outputs(torch.nn.Identity(), x, y).shape
    torch.Size([1, 2])
    """
    if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        raise InputError(
            f"x must be a floating-point batch (examples, ...) of at least one example, got {x.dtype} of "
            f"shape {tuple(x.shape)}; convert with x.float() and give a single example as x[None]."
        )
    if not x.isfinite().all():
        rows = int((~_tensors.flatten(x).isfinite().all(1)).sum())
        raise InputError(
            f"x must be finite, got NaN or infinity in {rows} of {len(x)} examples; remove or fill these "
            "rows."
        )
    _check_integers("labels", y, len(x))
    found: Any = answered(model, x)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim != 2:
        came = type(found).__name__
        if isinstance(found, Tensor):
            came = f"{found.dtype} of shape {tuple(found.shape)}"
        raise InputError(
            "model must return floating-point logits (batch, classes), or signed outputs (batch, 1) for two "
            f"classes, got {came}; wrap it in a module that returns the logits."
        )
    outputs = _tensors.widened(found)
    if len(outputs) != len(x):
        raise InputError(
            f"model must keep the batch size, but changes it from {len(x)} to {len(outputs)} rows; return "
            "one row of outputs an example."
        )
    sound = finite(outputs)
    if not sound.all():
        rows = int((~sound).sum())
        raise InputError(
            "model must return finite outputs, with finite differences, on clean examples, got NaN or "
            f"infinity for {rows} of {len(x)}; check its weights."
        )
    _check_range("labels", y, outputs)
    if exact_core(model) is None:  # networks with a proof end in a linear layer, whatever range they fill
        with torch.no_grad():
            refuse_probabilities(partial(_tensors.answers, model), x, outputs)
    return outputs


def checked_model(model: nn.Module, x: Tensor, y: Tensor) -> Outputs:
    """`checked_outputs` in evaluation mode on the first few examples, and the range of every label: what can
    be found before any work.

    Raises:
        InputError: as `checked_outputs`.
    """
    with in_mode(model, "eval"):
        outputs = checked_outputs(model, x[:4], y[:4])
    _check_range("labels", y, outputs)
    return outputs


def answered(model: nn.Module, x: Tensor) -> Any:
    """What the model returns for these examples, without gradients.

    Raises:
        InputError: its forward pass failed, for anything else than a lack of memory.
    """
    try:
        with torch.no_grad():
            return _tensors.called(model, x)
    except HoldfastError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        why = f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
        raise InputError(
            f"model must take a batch of shape {tuple(x.shape)} and {x.dtype} on {x.device}, but its forward "
            f"pass failed ({why}); fix its layers or the examples{_unflatten(x)}, or set HOLDFAST_DEBUG=1 to "
            "see where."
        ) from error


def _unflatten(x: Tensor) -> str:
    """How flat rows that may be square images become images, for a network of convolutions."""
    side = math.isqrt(x.shape[1]) if x.ndim == 2 else 0
    if side < 2 or side * side != x.shape[1]:
        return ""
    return f"; for convolutions reshape in forward, e.g. nn.Unflatten(1, (1, {side}, {side}))"


def _check_integers(what: str, y: Tensor, batch: int) -> None:
    if y.dtype == torch.bool or y.is_floating_point() or y.is_complex() or tuple(y.shape) != (batch,):
        raise InputError(
            f"{what} must be integers of shape ({batch},), one per example, got {y.dtype} of shape "
            f"{tuple(y.shape)}; give class numbers, not one-hot rows."
        )


def _check_range(what: str, y: Tensor, outputs: Outputs) -> None:
    classes = max(2, outputs.shape[1])
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"{what} must lie in 0..{classes - 1} for a model with {outputs.shape[1]} output(s), got "
            f"{low}..{high}; renumber them or give the model one output a class."
        )


def _checked_targets(targets: Tensor, y: Labels, outputs: Outputs) -> Labels:
    _check_integers("targets", targets, len(y))
    _check_range("targets", targets, outputs)
    same = int((targets == y).sum())
    if same:
        raise InputError(
            f"targets must differ from the labels, got {same} of {len(y)} that are the label; pick "
            "another class for these."
        )
    return targets.long()
