"""Averages of the weights along training: what is validated, kept and returned in place of the last iterate."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from holdfast._rules import real, takes
from holdfast._tensors import applied

Weights = dict[str, Tensor]


@dataclass
class Average:
    """An average under way; saved and loaded by checkpoints.

    Attributes:
        weights: by parameter; empty before the first iterate is taken in.
        taken: how many iterates it is of.
    """

    weights: Weights
    taken: int = 0


class Averaging(ABC):
    """Which average of the iterates is used as the network."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The word for it on the command line and in run folders."""

    @abstractmethod
    def share(self, taken: int, progress: float, *, epoch_ends: bool) -> float:
        """The weight of the present iterate in the average, which has taken so many in; 0 to leave it out.

        Args:
            progress: how much of training is done, in (0, 1].
        """

    def update(self, average: Average, module: nn.Module, progress: float, *, epoch_ends: bool) -> None:
        """Take the present weights into the average, in place."""
        share = self.share(average.taken, progress, epoch_ends=epoch_ends)
        if share == 0:
            return
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if name in average.weights:
                    average.weights[name].lerp_(weight, share)
                else:
                    average.weights[name] = weight.detach().clone()
        average.taken += 1


@dataclass(frozen=True)
class NoAveraging(Averaging):
    """The last iterate itself."""

    @property
    def name(self) -> str:
        return "none"

    def share(self, taken: int, progress: float, *, epoch_ends: bool) -> float:
        return 0.0


@takes(decay=real(least=0, below=1))
@dataclass(frozen=True)
class EMA(Averaging):
    """Exponential moving average of the weights (Gowal et al. 2020, arXiv 2010.03593).

    ``average <- d average + (1 - d) w`` after every step, ``d = min(decay, (1 + t) / (10 + t))`` in step
    ``t``.

    Attributes:
        decay: 0.999 averages about a thousand steps; the paper's 0.995 is for larger batches.

    >>> import holdfast as hf
    >>> hf.EMA(0.99).name
    'ema'
    """

    decay: float = 0.999

    @property
    def name(self) -> str:
        return "ema"

    def share(self, taken: int, progress: float, *, epoch_ends: bool) -> float:
        return 1 - min(self.decay, (1 + taken) / (10 + taken))


@takes(start=real(least=0, below=1))
@dataclass(frozen=True)
class SWA(Averaging):
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407).

    The plain mean of the weights at the ends of the epochs from ``start`` on.

    Attributes:
        start: share of training after which iterates count.

    >>> import holdfast as hf
    >>> hf.SWA(start=0.5).name
    'swa'
    """

    start: float = 0.75

    @property
    def name(self) -> str:
        return "swa"

    def share(self, taken: int, progress: float, *, epoch_ends: bool) -> float:
        return 1 / (taken + 1) if epoch_ends and progress >= self.start else 0.0


def refresh_statistics(module: nn.Module, x: Float[Tensor, "examples ..."], batch_size: int) -> None:
    """Set the running statistics of batch norm to those of the examples at the present weights; other networks
    are left alone.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    flags = {m: (m.training, m.momentum) for m in norms}
    whole = [part for part in torch.split(x, batch_size) if len(part) > 1] or [x]
    was = module.training
    try:
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the plain mean over the batches
        with torch.no_grad():
            for part in whole:
                applied(module, part)
    finally:
        module.train(was)
        for norm, (training, momentum) in flags.items():
            norm.train(training)
            norm.momentum = momentum
