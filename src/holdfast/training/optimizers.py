"""Optimisers with their settings, by name or through a function.

Public as ``holdfast.optimizers``.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from holdfast._rules import Rule, instance_or_name, maybe, real, takes, word
from holdfast.errors import InputError

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""From parameters to a torch optimiser with settings of its own."""


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


class _SGD(_Plain, torch.optim.SGD):
    step = _step(torch.optim.SGD)


class _Adam(_Plain, torch.optim.Adam):
    step = _step(torch.optim.Adam)


class _AdamW(_Plain, torch.optim.AdamW):
    step = _step(torch.optim.AdamW)


@takes(weight_decay=real(least=0), clip_norm=maybe(real(above=0)))
@dataclass(frozen=True, kw_only=True)
class Auto:
    """The optimiser that is chosen for the network (`holdfast.training.automatic`).

    Attributes:
        weight_decay: of whichever it is.
        clip_norm: largest length of a step's gradient; None for any.

    >>> import holdfast as hf
    >>> hf.optimizers.as_optimizer("auto") == hf.optimizers.Auto()
    True
    """

    name: ClassVar[str] = "auto"
    weight_decay: float = 0.0
    clip_norm: float | None = None


@takes(momentum=real(least=0, below=1), weight_decay=real(least=0), clip_norm=maybe(real(above=0)))
@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent, as `torch.optim.SGD`.

    Attributes:
        momentum: of the heavy ball; 0 for none.
        weight_decay: its factor times the weights is added to the gradient.
        clip_norm: largest length of a step's gradient; None for any.

    >>> import holdfast as hf
    >>> hf.optimizers.SGD(momentum=0.5).name
    'sgd'
    """

    name: ClassVar[str] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def make(self, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The torch optimiser of these parameters."""
        return _SGD(parameters, lr=learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)


@takes(weight_decay=real(least=0), clip_norm=maybe(real(above=0)))
@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam, as `torch.optim.Adam` (Kingma and Ba 2015, arXiv 1412.6980).

    Attributes:
        weight_decay: its factor times the weights is added to the gradient.
        clip_norm: largest length of a step's gradient; None for any.

    >>> import holdfast as hf
    >>> hf.optimizers.Adam(clip_norm=1.0).name
    'adam'
    """

    name: ClassVar[str] = "adam"
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def make(self, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The torch optimiser of these parameters."""
        return _Adam(parameters, lr=learning_rate, weight_decay=self.weight_decay, fused=_fused(parameters))


@takes(weight_decay=real(least=0), clip_norm=maybe(real(above=0)))
@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay, as `torch.optim.AdamW` (Loshchilov and Hutter 2019, arXiv 1711.05101).

    Attributes:
        weight_decay: share of the weights, times the learning rate, taken off at each step.
        clip_norm: largest length of a step's gradient; None for any.

    >>> import holdfast as hf
    >>> hf.optimizers.AdamW(weight_decay=0.01).name
    'adamw'
    """

    name: ClassVar[str] = "adamw"
    weight_decay: float = 0.0
    clip_norm: float | None = None

    def make(self, parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        """The torch optimiser of these parameters."""
        return _AdamW(parameters, lr=learning_rate, weight_decay=self.weight_decay, fused=_fused(parameters))


def _fused(parameters: list[nn.Parameter]) -> bool:
    """One pass over the weights instead of a dozen: six times faster on a CPU for a million of them. SGD
    gains nothing."""
    return all(p.device.type in ("cpu", "cuda") for p in parameters)


Named = SGD | Adam | AdamW
"""An optimiser that Holdfast knows by name, with its settings."""
Choice = Named | OptimizerFactory
OPTIMIZERS: dict[str, type[Auto | Named]] = {kind.name: kind for kind in (Auto, SGD, Adam, AdamW)}


def _read(value: Any) -> Auto | Choice:
    if isinstance(value, str):
        return OPTIMIZERS[_WORD.read(value)]()
    if isinstance(value, Auto | Named):
        return value
    if not callable(value) or (isinstance(value, type) and value in OPTIMIZERS.values()):
        raise TypeError
    factory: OptimizerFactory = value
    return factory


_WORD = word(*OPTIMIZERS)
OPTIMIZER = Rule(
    what=f"one of {', '.join(OPTIMIZERS)}, one with settings such as SGD(momentum=0.5), or a function from parameters "
    "to a torch optimiser",
    read=_read,
    hint=lambda value: instance_or_name(value, tuple(OPTIMIZERS.values()), tuple(OPTIMIZERS)),
)


def as_optimizer(value: str | Auto | Choice) -> Auto | Choice:
    """The optimiser itself, or the one of that name with its own defaults.

    Args:
        value: an optimiser, its name, or a function from parameters to a torch optimiser.

    Raises:
        InputError: neither an optimiser nor the name of one.

    >>> import holdfast as hf
    >>> hf.optimizers.as_optimizer("sgd") == hf.optimizers.SGD()
    True
    """
    chosen: Auto | Choice = OPTIMIZER("optimizer", value)
    return chosen


def make_optimizer(
    choice: Choice, parameters: list[nn.Parameter], learning_rate: float | None
) -> torch.optim.Optimizer:
    """The torch optimiser of these parameters.

    Args:
        choice: an optimiser with its settings, or a function from parameters to a torch optimiser.
        parameters: those to be trained.
        learning_rate: of its steps; ``None`` where ``choice`` is a function, which has its own.

    Raises:
        InputError: a function that gave something else, or no learning rate for an optimiser that needs one.

    >>> import torch
    >>> import holdfast as hf
    >>> parameters = list(torch.nn.Linear(2, 2).parameters())
    >>> optimizer = hf.optimizers.make_optimizer(hf.optimizers.SGD(), parameters, 0.1)
    >>> isinstance(optimizer, torch.optim.SGD), optimizer.defaults["lr"]
    (True, 0.1)
    """
    if not isinstance(choice, Named):
        made = choice(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(
                "optimizer must be a function from parameters to a torch optimiser, but it returned"
                f" {type(made).__name__}; return one, such as torch.optim.SGD(parameters, lr=0.1)."
            )
        return made
    if learning_rate is None or not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise InputError(f"learning_rate must be > 0 and finite, got {learning_rate}; try 0.1.")
    return choice.make(parameters, learning_rate)
