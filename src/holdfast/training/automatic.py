"""How to train by default: the optimiser, the examples per step and the learning rate, chosen together for the
network.

A network whose curvature stays what it is at the start has the step of the theory
(`holdfast.training.step_size`): gradient descent on all examples with it ends close to the optimum. For any
other network that step is right at the start alone, and too small or too large soon after: Adam on small
batches, its rate found by a few steps at each of several rates, ends many times lower
(`benchmarks/RESULTS.md`).
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast._tensors import applied, generator
from holdfast.attacks import FGSM
from holdfast.families.registry import step_lasts
from holdfast.losses import Loss
from holdfast.threats import Threat
from holdfast.training.optimizers import SGD, Adam, Auto, Choice, Named, make_optimizer
from holdfast.training.step_size import ADAM, StepSize, chosen_step

BATCH = 64
"""Examples per step of the optimiser chosen for ordinary networks."""
RATES = (0.01, 0.003, 0.001, 0.0003)
"""Tried for it, the largest first."""
STEPS = 24
"""At each rate; the loss of the last third of them decides."""
CLOSE = 1.05
"""A larger rate is kept whose loss is within this factor of the smallest: few steps say little about
smaller differences.
"""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What training goes by.

    Attributes:
        optimizer: a named one with its settings, or a function.
        batch_size: examples per step.
        why: of the choice, in words; empty where the optimiser was given.
    """

    optimizer: Choice
    batch_size: int
    why: str

    @property
    def name(self) -> str:
        """Of the optimiser, as a summary has it."""
        if isinstance(self.optimizer, Named):
            return self.optimizer.name
        return getattr(self.optimizer, "__name__", type(self.optimizer).__name__)


def chosen_words(recipe: Chosen, step: StepSize | None, examples: int) -> list[str]:
    """Lines about what was chosen and why; none where everything was given."""
    lines = []
    if recipe.why:
        size = "all examples" if recipe.batch_size >= examples else f"{recipe.batch_size} examples"
        lines.append(f"optimizer {recipe.name} with {size} per step, chosen: {recipe.why}")
    if step is not None:
        lines.append(f"learning rate {step.learning_rate:g}, chosen: {step.reason}")
    return lines


def chosen_for(
    model: nn.Module,
    examples: int,
    *,
    optimizer: Auto | Choice,
    batch_size: int | None,
    learning_rate: float | None,
) -> Chosen:
    """The values of ``auto`` and of a batch size left out.

    Args:
        examples: of the training part, and the extra ones that belong to them.
        learning_rate: where one is given, ``auto`` is sgd.
    """
    everything = min(batch_size or examples, examples)
    if not isinstance(optimizer, Auto):
        return Chosen(optimizer=optimizer, batch_size=everything, why="")
    shared: dict[str, Any] = {"weight_decay": optimizer.weight_decay, "clip_norm": optimizer.clip_norm}
    sgd, adam = SGD(**shared), Adam(**shared)
    if learning_rate is not None:
        return Chosen(
            optimizer=sgd, batch_size=everything, why="sgd, which a learning rate of your own is for"
        )
    if step_lasts(model):
        return Chosen(
            optimizer=sgd, batch_size=everything, why="sgd, since the theory gives the step for this network"
        )
    size = everything if batch_size is not None else _small_batch(examples)
    return Chosen(
        optimizer=adam,
        batch_size=size,
        why="adam, since the theory gives no step that stays right while this network trains",
    )


def _small_batch(examples: int) -> int:
    """About `BATCH`, and such that no step has a single example, which batch norm cannot take."""
    if examples <= BATCH:
        return examples
    return next(size for size in range(BATCH, examples + 1) if examples % size != 1)


def chosen_rate(
    model: nn.Module,
    x: Float[Tensor, "examples ..."],
    y: Int[Tensor, " examples"],
    threat: Threat,
    loss: Loss,
    recipe: Chosen,
    *,
    seed: int = 0,
) -> StepSize:
    """The learning rate for an optimiser by name: from the theory, its usual one, or for an ordinary network
    from a short search.

    The search trains a copy at each rate for a few steps on the same batches under a one-step attack. It
    depends on the model's weights, the examples and the seed alone; the model and the global random state are
    left as they are.
    """
    name = recipe.name
    if not recipe.why or name == "sgd":
        return chosen_step(model, x, loss, name, seed=seed)
    devices = [x.device] if x.device.type == "cuda" else []
    found: dict[float, float] = {}
    with torch.random.fork_rng(devices):
        for rate in RATES:
            try:
                copied = copy.deepcopy(model)
            except (RuntimeError, TypeError, NotImplementedError):  # some modules cannot be
                return replace(
                    chosen_step(model, x, loss, name),
                    reason="the usual one of adam: the model cannot be copied to try others",
                )
            torch.manual_seed(seed % 2**63)
            found[rate] = _trial(copied, x, y, threat, loss, recipe, rate, seed)
    least = min(found.values())
    if not math.isfinite(least):
        return StepSize(
            learning_rate=ADAM,
            reason=f"the usual one of {name}: the loss did not stay finite at any that was tried",
        )
    rate = next(rate for rate in RATES if found[rate] <= CLOSE * least)
    figures = ", ".join(f"{rate:g}: {value:.3g}" for rate, value in found.items())
    return StepSize(
        learning_rate=rate,
        reason=f"the best of {len(RATES)} after {STEPS} steps each (loss by rate {figures})",
    )


def _trial(
    model: nn.Module,
    x: Float[Tensor, "examples ..."],
    y: Int[Tensor, " examples"],
    threat: Threat,
    loss: Loss,
    recipe: Chosen,
    rate: float,
    seed: int,
) -> float:
    """Mean loss of the last third of the steps at this rate, of which the model is another afterwards;
    infinite where it is not finite.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(recipe.optimizer, parameters, rate)
    order, noise, attack, total = generator(seed), generator(seed, x.device), FGSM(), 0.0
    model.train()
    for step in range(STEPS):
        rows = torch.randperm(len(x), generator=order)[: recipe.batch_size].to(x.device)
        points = attack.points(model, x[rows], y[rows], threat, generator=noise, loss=loss, mode="keep")
        value = loss(applied(model, points), y[rows]).mean()
        if not bool(value.isfinite()):
            return math.inf
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimizer.step()
        total += float(value.detach()) if 3 * step >= 2 * STEPS else 0.0
    return 3 * total / STEPS
