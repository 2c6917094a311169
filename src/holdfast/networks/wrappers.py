"""Small modules around a user's own."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._arguments import MODEL
from holdfast._rules import takes


@takes(model=MODEL)
class LogOutputs(nn.Module):
    """Logits of a module that returns probabilities: ``log max(p, tiny)``, of which softmax gives ``p`` back.

    One column is the probability of class 1: its signed output is ``log p - log(1 - p)``, of which the
    sigmoid gives ``p`` back. Where a probability has underflowed to 0 its logit is the logarithm of the
    smallest normal number and its gradient 0: give attacks the logits themselves where they can be had.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        probabilities: Tensor = self.model(x)
        least = torch.finfo(probabilities.dtype).tiny
        logs = probabilities.clamp_min(least).log()
        return logs - (1 - probabilities).clamp_min(least).log() if probabilities.shape[1] == 1 else logs
