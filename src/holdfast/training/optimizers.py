"""Optimisers and learning-rate schedules by name; any torch optimiser through a factory."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from holdfast.errors import InputError

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
AUTO = "auto"
"""Chosen for the network (`holdfast.training.recipe`)."""
OPTIMIZERS = (AUTO, "sgd", "adam", "adamw")
MOMENTUM = 0.9
"""Of sgd, where none is given."""
SCHEDULES = ("constant", "cosine", "linear", "steps")


class _Plain(Optimizer):
    """torch's optimiser without its guards against being compiled: at their first call they import
    torch._dynamo, which takes longer than to import torch, and nothing here compiles an optimiser."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


def _step(optimizer: type[Optimizer]) -> Any:
    """Its step; the guard that is left out also turned gradients off."""
    return torch.no_grad()(inspect.unwrap(optimizer.step))


class SGD(_Plain, torch.optim.SGD):
    """``torch.optim.SGD``, ready at once."""

    step = _step(torch.optim.SGD)


class Adam(_Plain, torch.optim.Adam):
    """``torch.optim.Adam``, ready at once."""

    step = _step(torch.optim.Adam)


class AdamW(_Plain, torch.optim.AdamW):
    """``torch.optim.AdamW``, ready at once."""

    step = _step(torch.optim.AdamW)


def make_optimizer(
    choice: str | OptimizerFactory,
    parameters: list[nn.Parameter],
    *,
    learning_rate: float | None,
    momentum: float | None,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """The optimiser named ``sgd`` (with momentum, by default 0.9), ``adam`` or ``adamw``, or what the
    factory makes of the parameters.
    """
    if not isinstance(choice, str):
        made = choice(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(
                "optimizer must be a function from parameters to a torch optimiser, but it returned"
                f" {type(made).__name__}; return one, such as torch.optim.SGD(parameters, lr=0.1)."
            )
        return made
    if learning_rate is None or not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise InputError(f"learning_rate must be > 0 and finite, got {learning_rate}; try 0.1.")
    if choice == "sgd":
        return SGD(
            parameters,
            lr=learning_rate,
            momentum=MOMENTUM if momentum is None else momentum,
            weight_decay=weight_decay,
        )
    # One pass over the weights instead of a dozen: six times faster on a CPU for a million of them. SGD gains
    # nothing.
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    if choice == "adam":
        return Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)
    if choice == "adamw":
        return AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)
    raise unknown("optimizer", choice, OPTIMIZERS)


def learning_rate_factor(schedule: str, progress: float) -> float:
    """Share of the peak learning rate after ``progress`` in [0, 1) of training."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "steps":  # a tenth after a half and again after three quarters
        return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
    raise unknown("schedule", schedule, SCHEDULES)


def unknown(what: str, came: str, allowed: tuple[str, ...]) -> InputError:
    close = difflib.get_close_matches(came, allowed, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"use {allowed[0]!r}."
    return InputError(f"{what} must be one of {', '.join(allowed)}, got {came!r}; {hint}")
