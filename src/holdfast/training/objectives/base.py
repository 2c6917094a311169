"""What a training step minimises: the contract of an objective, and a user's own function as one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from holdfast._arguments import EXAMPLES, GENERATOR, LABELS, MODEL, paired
from holdfast._registry import OBJECTIVES
from holdfast._rules import SEED, instance_name_or_function, maybe, takes
from holdfast._tensors import applied, fresh
from holdfast._tensors import generator as seeded
from holdfast._values import Shown
from holdfast.attacks import ATTACK, PGD, Attack, as_attack
from holdfast.errors import InputError
from holdfast.losses import LOSS, Labels, Loss, Outputs, PerExample, as_loss
from holdfast.threats import THREAT, Threat, as_threat
from holdfast.threats.base import Points

AttackMode = Literal["keep", "eval"]
"""The network's mode while it is attacked: as in training, or evaluation mode, in which batch norm goes by its
running statistics. They never move during an attack, and the mode is restored.
"""
LogProbabilities = Float[Tensor, "batch classes"]
Function = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""``(model, clean, attacked, y) -> per-example loss``."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Batch(Shown):
    """The examples of one step, attacked.

    Attributes:
        model: set up for the devices; its outputs carry gradients for the weights.
        clean, attacked: inputs (batch, ...), in the data's units.
        y: labels (batch,).
        threat: at the radius of this step.
        loss: that of training, for objectives that build on it.
        generator: of the run, for objectives that draw points.
        ramp: share of the threat's final radius that ``threat`` has.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> threat = hf.LpBall("inf", 0.1)
    >>> inputs = {"model": torch.nn.Identity(), "clean": x, "attacked": x + 0.1, "y": y, "threat": threat}
    >>> batch = hf.objectives.Batch(**inputs, loss=hf.Hinge(), generator=torch.Generator())
    >>> batch.loss(batch.outputs, batch.y)
    tensor([0.8000])
    """

    model: nn.Module
    clean: Float[Tensor, "batch ..."]
    attacked: Float[Tensor, "batch ..."]
    y: Int[Tensor, " batch"]
    threat: Threat
    loss: Loss
    generator: Generator
    ramp: float = 1.0

    @cached_property
    def outputs(self) -> Outputs:
        """The model's outputs at the attacked points, worked out once."""
        return applied(self.model, self.attacked)

    @cached_property
    def clean_outputs(self) -> Outputs:
        """The model's outputs at the examples, worked out once."""
        return applied(self.model, self.clean)


class Objective(ABC):
    """A per-example loss that training minimises, and the inner attack that belongs to it.

    Attributes:
        robust: whether a step of it is a round of the robust loss ``loss(f(x'), y)`` itself, which the trace
            of a certificate may record. Of any other objective the pass after training certifies.
        certified: whether it trains for verified bounds, so that the finished network is verified.
        searches: whether there is an inner attack at all.
        carries: whether the points of a step are those of the step before, `moved` along its gradient.
        replays: steps in a row on each minibatch.

    >>> import holdfast as hf
    >>> objective = hf.objectives.as_objective("trades")
    >>> objective.robust, objective.certified
    (False, False)
    """

    robust: ClassVar[bool] = False
    certified: ClassVar[bool] = False
    searches: ClassVar[bool] = True
    carries: ClassVar[bool] = False
    replays: int = 1
    mode: AttackMode = "keep"

    @property
    @abstractmethod
    def name(self) -> str:
        """The word for it on the command line and in run folders."""

    def attacked(
        self,
        model: nn.Module,
        x: Points,
        y: Labels,
        threat: Threat,
        attack: Attack,
        *,
        loss: Loss,
        generator: Generator,
    ) -> Points:
        """The points that the step trains on."""
        if not self.searches:
            return x
        return attack.points(
            model,
            x,
            y,
            self.searched(threat),
            generator=generator,
            loss=self.raised(model, x, loss),
            mode=self.mode,
            inside=not attack.leaves,
        )

    def searched(self, threat: Threat) -> Threat:
        """The sets that the inner attack searches."""
        return threat

    def raised(self, model: nn.Module, x: Points, loss: Loss) -> Loss:
        """What the inner attack raises at these examples."""
        return loss

    def moved(self, points: Points, gradient: Tensor, x: Points, threat: Threat) -> Points:
        """Where the points of a step go along its gradient, for the next step of an objective that `carries` them;
        by default they stay.

        Args:
            points: (batch, ...) of the step, around the examples ``x``.
            gradient: of the step's loss in these points, up to a positive factor for each.
            x: examples (batch, ...).
            threat: at the radius of the step.
        """
        return points

    @abstractmethod
    def losses(self, batch: Batch) -> PerExample:
        """The loss of each example of the batch."""

    @takes(
        model=MODEL,
        x=EXAMPLES,
        y=LABELS,
        threat=THREAT,
        attack=maybe(ATTACK),
        loss=maybe(LOSS),
        seed=maybe(SEED),
        generator=maybe(GENERATOR),
    )
    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat | str,
        attack: Attack | str | None = None,
        *,
        loss: Loss | str | None = None,
        seed: int | None = None,
        generator: Generator | None = None,
    ) -> PerExample:
        """The loss of each example of a batch in a training loop of your own; its mean is what to differentiate.

        Args:
            model: in the mode it is trained in.
            x, y: examples (batch, ...) and labels (batch,).
            threat: or text such as ``linf:0.1``, which has no box.
            attack: the inner attack, default ``PGD(steps=10)``.
            loss: default cross-entropy; TRADES and MART have their own.
            seed, generator: to repeat a call; by default randomness goes on from torch's global generator.

        Raises:
            InputError: examples, labels or threat are not as stated, or the objective carries points from step
                to step.

        >>> model, x, y = nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
        >>> OBJECTIVES["trades"](beta=6)(model, x, y, "linf:0.1").shape
        torch.Size([4])
        """
        if self.carries:
            raise InputError(
                f"an objective in a loop of your own must find its points anew in each step, got {self.name}, which "
                "carries them from step to step; train with hf.train(..., objective=...)."
            )
        threat, loss = as_threat(threat), as_loss(loss)
        x, y = paired(model, x, y)
        threat.check(x)
        if generator is None:
            generator = fresh(x.device) if seed is None else seeded(seed, x.device)
        attack = PGD(steps=10) if attack is None else as_attack(attack)
        y = y.long()
        points = self.attacked(model, x, y, threat, attack, loss=loss, generator=generator)
        return self.losses(
            Batch(model=model, clean=x, attacked=points, y=y, threat=threat, loss=loss, generator=generator)
        )


@dataclass(frozen=True)
class _OwnObjective(Objective):
    """A user's function as an objective.

    Attributes:
        function: ``(model, clean, attacked, y) -> per-example loss``.
    """

    function: Function

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def losses(self, batch: Batch) -> PerExample:
        found: Any = self.function(batch.model, batch.clean, batch.attacked, batch.y)
        if not isinstance(found, Tensor) or found.shape != batch.y.shape:
            came = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"objective must return a loss per example, of shape {tuple(batch.y.shape)}, got {came}; "
                "leave out the mean over the batch."
            )
        return found


def log_probabilities(outputs: Outputs) -> LogProbabilities:
    """``log p`` of each class; one signed output ``f`` is the pair ``(0, f)``.

    >>> log_probabilities(torch.zeros(1, 1)).exp().tolist()
    [[0.5, 0.5]]
    """
    if outputs.shape[1] == 1:
        outputs = torch.cat([torch.zeros_like(outputs), outputs], 1)
    return outputs.log_softmax(1)


def divergence(p: LogProbabilities, q: LogProbabilities) -> PerExample:
    """``KL(p || q)`` of each example, from log-probabilities."""
    return (p.exp() * (p - q)).sum(1)


OBJECTIVE = instance_name_or_function(
    Objective,
    OBJECTIVES,
    _OwnObjective,
    what="an objective such as TRADES(beta=6), the name of one such as 'trades', or a function "
    "(model, clean, attacked, y) -> per-example loss",
)


def as_objective(value: Objective | Function | str) -> Objective:
    """The objective itself, that of this name with its own defaults, or a function as one.

    Args:
        value: an objective, its name, or a function ``(model, clean, attacked, y) -> per-example loss``.

    Raises:
        InputError: none of these.

    >>> import holdfast as hf
    >>> hf.objectives.as_objective("mart").name
    'mart'
    """
    found: Objective = OBJECTIVE("objective", value)
    return found
