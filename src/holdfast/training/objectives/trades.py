"""TRADES: accuracy on clean examples traded for outputs that do not change within the threat set."""

from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import nn

from holdfast._rules import real, takes, word
from holdfast._tensors import answers
from holdfast.attacks.modes import in_mode, still
from holdfast.errors import InputError
from holdfast.losses import CrossEntropy, Labels, Loss, Outputs, PerExample
from holdfast.threats.base import Points
from holdfast.training.objectives.base import (
    AttackMode,
    Batch,
    LogProbabilities,
    Objective,
    divergence,
    log_probabilities,
)


@dataclass(frozen=True)
class _DivergenceFrom(Loss):
    """``KL(p || softmax f)`` from fixed distributions ``p``, one a row: what the inner attack of TRADES raises.

    Attributes:
        reference: log-probabilities (batch, classes).
    """

    reference: LogProbabilities = field(repr=False)

    @property
    def name(self) -> str:
        return "divergence"

    def __call__(self, outputs: Outputs, labels: Labels) -> PerExample:
        if len(outputs) != len(self.reference):
            raise InputError(
                "the inner attack of TRADES must search the whole batch at once, got one that takes "
                f"{len(outputs)} of {len(self.reference)} examples out of it; use PGD with one restart."
            )
        return divergence(self.reference, log_probabilities(outputs))

    def slope(self, outputs: Outputs, labels: Labels) -> Outputs:
        with torch.enable_grad():
            at = outputs.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self(at, labels).sum(), at)
        return slope


@takes(beta=real(least=0), mode=word(*get_args(AttackMode)))
@dataclass(frozen=True)
class TRADES(Objective):
    """``CE(f(x), y) + beta KL(f(x) || f(x'))``, ``x'`` of highest divergence (Zhang et al. 2019, arXiv 1901.08573).

    Attributes:
        beta: weight of the divergence; 6 in the paper (``1 / lambda`` there).
        mode: of the network while it is attacked, as in the paper's code ``eval``.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> loss = hf.objectives.TRADES(beta=3.0)(torch.nn.Identity(), x, y, "linf:0.1")
    >>> bool(loss > hf.CrossEntropy()(x, y))
    True
    """

    beta: float = 6.0
    mode: AttackMode = "eval"

    @property
    def name(self) -> str:
        return "trades"

    def raised(self, model: nn.Module, x: Points, loss: Loss) -> Loss:
        with in_mode(model, self.mode), still(model), torch.no_grad():
            return _DivergenceFrom(log_probabilities(answers(model, x)))

    def losses(self, batch: Batch) -> PerExample:
        p, q = log_probabilities(batch.clean_outputs), log_probabilities(batch.outputs)
        return CrossEntropy()(batch.clean_outputs, batch.y) + self.beta * divergence(p, q)
