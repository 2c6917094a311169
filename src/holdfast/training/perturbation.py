"""Perturbations of the weights: the step's gradient is taken at weights that are worse than the present ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast._rules import real, takes
from holdfast.attacks.modes import still

Reduce = Callable[[Tensor], Tensor]


class WeightPerturbation(ABC):
    """Where the gradient of a step is taken."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The word for it on the command line and in run folders."""

    @abstractmethod
    def moved(
        self, module: nn.Module, value: Callable[[], Tensor], reduce: Reduce
    ) -> AbstractContextManager[None]:
        """While open, ``module`` has the perturbed weights; afterwards the present ones again, bit for bit.

        Args:
            value: the loss of this process's share of the step at the weights of that moment.
            reduce: the sum over all processes.
        """


@dataclass(frozen=True)
class NoPerturbation(WeightPerturbation):
    """The gradient is taken at the present weights."""

    @property
    def name(self) -> str:
        return "none"

    @contextmanager
    def moved(self, module: nn.Module, value: Callable[[], Tensor], reduce: Reduce) -> Iterator[None]:
        yield


@takes(size=real(above=0))
@dataclass(frozen=True)
class AWP(WeightPerturbation):
    """Adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884).

    Gradients are taken at ``w + size ||w|| g / ||g||``, layer by layer, with ``g`` the gradient of the step's
    loss.

    Biases and other weights of one axis stay as they are, as in the paper's code. Batch statistics do not move
    while ``g`` is taken.

    Attributes:
        size: ``gamma`` in the paper: 0.005 with TRADES, 0.01 with adversarial training.

    >>> import holdfast as hf
    >>> hf.AWP(0.01).name
    'awp'
    """

    size: float = 0.005

    @property
    def name(self) -> str:
        return "awp"

    @contextmanager
    def moved(self, module: nn.Module, value: Callable[[], Tensor], reduce: Reduce) -> Iterator[None]:
        weights = [w for w in module.parameters() if w.requires_grad and w.ndim > 1]
        with still(module):
            slopes: Sequence[Tensor | None] = torch.autograd.grad(value(), weights, allow_unused=True)
        held = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                for weight, slope in zip(weights, slopes, strict=True):
                    if slope is None:
                        continue
                    slope = reduce(slope)
                    length = slope.norm().clamp_min(torch.finfo(slope.dtype).tiny)
                    weight.add_(slope * (self.size * weight.norm() / length))
            yield
        finally:
            with torch.no_grad():
                for weight, kept in zip(weights, held, strict=True):
                    weight.copy_(kept)
