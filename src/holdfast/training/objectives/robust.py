"""The robust loss itself: adversarial training as Madry et al. 2018 have it."""

from dataclasses import dataclass
from typing import get_args

from holdfast._rules import real, takes, word
from holdfast.losses import PerExample
from holdfast.training.objectives.base import AttackMode, Batch, Objective


@takes(mode=word(*get_args(AttackMode)))
@dataclass(frozen=True)
class RobustLoss(Objective):
    """``loss(f(x'), y)`` (Madry et al. 2018, arXiv 1706.06083), the one objective that a certificate's trace records.

    Attributes:
        mode: of the network while it is attacked, ``keep`` or ``eval`` (batch norm by its running averages).

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.objectives.RobustLoss()(torch.nn.Identity(), x, y, "linf:0.1")
    tensor([0.6931])
    """

    robust = True
    mode: AttackMode = "keep"

    @property
    def name(self) -> str:
        return "robust-loss"

    def losses(self, batch: Batch) -> PerExample:
        return batch.loss(batch.outputs, batch.y)


@takes(share=real(least=0, most=1), mode=word(*get_args(AttackMode)))
@dataclass(frozen=True)
class Mixed(Objective):
    """``(1 - share) loss(f(x'), y) + share loss(f(x), y)`` (Goodfellow et al. 2015, arXiv 1412.6572).

    Attributes:
        share: of the clean loss.
        mode: of the network while it is attacked, ``keep`` or ``eval``.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.objectives.Mixed(share=0.5)(torch.nn.Identity(), x, y, "linf:0.1")
    tensor([0.6456])
    """

    share: float = 0.5
    mode: AttackMode = "keep"

    @property
    def name(self) -> str:
        return "mixed"

    def losses(self, batch: Batch) -> PerExample:
        clean = batch.loss(batch.clean_outputs, batch.y)
        return (1 - self.share) * batch.loss(batch.outputs, batch.y) + self.share * clean
