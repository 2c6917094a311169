"""MART: misclassified examples weigh more in the term that keeps outputs within the threat set together."""

from dataclasses import dataclass
from typing import get_args

import torch

from holdfast._rules import real, takes, word
from holdfast.losses import PerExample
from holdfast.training.objectives.base import AttackMode, Batch, Objective, divergence, log_probabilities

TINY = 1e-12
"""Kept away from the logarithm's pole where one class has all the probability."""


@takes(weight=real(least=0), mode=word(*get_args(AttackMode)))
@dataclass(frozen=True)
class MART(Objective):
    """``BCE(f(x'), y) + weight (1 - p_y(x)) KL(f(x) || f(x'))`` (Wang et al. 2020, ICLR, equation 11).

    ``BCE = -log p_y(x') - log(1 - max_{k != y} p_k(x'))``.

    Attributes:
        weight: of the divergence, ``lambda`` in the paper.
        mode: of the network while it is attacked, as in the paper's code ``eval``.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.objectives.MART()(torch.nn.Identity(), x, y, "linf:0.1")
    tensor([1.3975])
    """

    weight: float = 5.0
    mode: AttackMode = "eval"

    @property
    def name(self) -> str:
        return "mart"

    def losses(self, batch: Batch) -> PerExample:
        p, q = log_probabilities(batch.clean_outputs), log_probabilities(batch.outputs)
        label = batch.y[:, None]
        others = q.scatter(1, label, -torch.inf).amax(1).exp()
        boosted = -q.gather(1, label)[:, 0] - torch.log(1 - others + TINY)
        unsure = 1 - p.gather(1, label)[:, 0].exp()
        return boosted + self.weight * unsure * divergence(p, q)
