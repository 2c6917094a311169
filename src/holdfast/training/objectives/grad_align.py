"""GradAlign: input gradients at an example and at a random point near it are kept aligned."""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from holdfast._rules import real, takes, word
from holdfast._tensors import applied, flatten
from holdfast.attacks.modes import still
from holdfast.losses import Labels, Loss, PerExample
from holdfast.threats.base import Points
from holdfast.training.objectives.base import AttackMode, Batch, Objective


@takes(weight=real(least=0), mode=word(*get_args(AttackMode)))
@dataclass(frozen=True)
class GradAlign(Objective):
    """Gradient alignment, which keeps FGSM training from collapsing (Andriushchenko and Flammarion 2020, arXiv 2007.02617).

    ``loss(f(x'), y) + weight (1 - cos(g(x), g(x + eta)))``, ``g`` the gradient in the input and ``eta`` drawn
    from the threat set.

    Attributes:
        weight: ``lambda`` in the paper: 0.2 for CIFAR-10 at 8/255.
        mode: of the network while it is attacked, ``keep`` or ``eval``.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.objectives.GradAlign(weight=0.5)(torch.nn.Identity(), x, y, "linf:0.1").detach()
    tensor([0.6931])
    """

    weight: float = 0.2
    mode: AttackMode = "keep"

    @property
    def name(self) -> str:
        return "grad-align"

    def losses(self, batch: Batch) -> PerExample:
        drawn = batch.threat.sample(batch.clean, generator=batch.generator)
        with still(batch.model):
            first, second = (
                flatten(_slope(batch.model, points, batch.y, batch.loss)) for points in (batch.clean, drawn)
            )
        alignment = torch.nn.functional.cosine_similarity(first, second, dim=1)
        return batch.loss(batch.outputs, batch.y) + self.weight * (1 - alignment)


def _slope(model: nn.Module, points: Points, y: Labels, loss: Loss) -> Points:
    """The gradient of the loss in the input, itself differentiable in the weights."""
    points = points.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(applied(model, points), y).sum(), points, create_graph=True)
    return slope
