"""Adversarial logit pairing: outputs at an example and at its attacked point are drawn together."""

from dataclasses import dataclass
from typing import get_args

from holdfast._rules import real, takes, word
from holdfast.losses import PerExample
from holdfast.training.objectives.base import AttackMode, Batch, Objective


@takes(weight=real(least=0), mode=word(*get_args(AttackMode)))
@dataclass(frozen=True)
class LogitPairing(Objective):
    """``loss(f(x'), y) + weight ||f(x) - f(x')||^2 / C`` (Kannan et al. 2018, arXiv 1803.06373).

    Attributes:
        weight: of the squared distance of the ``C`` outputs.
        mode: of the network while it is attacked, ``keep`` or ``eval``.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.objectives.LogitPairing()(torch.nn.Identity(), x, y, "linf:0.1")
    tensor([0.6981])
    """

    weight: float = 0.5
    mode: AttackMode = "keep"

    @property
    def name(self) -> str:
        return "logit-pairing"

    def losses(self, batch: Batch) -> PerExample:
        apart = (batch.clean_outputs - batch.outputs).square().mean(1)
        return batch.loss(batch.outputs, batch.y) + self.weight * apart
