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

    Args:
        model: returns probabilities (batch, classes), or of class 1 alone (batch, 1).

    >>> import torch
    >>> import holdfast as hf
    >>> probabilities = torch.nn.Softmax(dim=1)
    >>> logits = hf.networks.LogOutputs(probabilities)(torch.tensor([[1.0, 2.0, 3.0]]))
    >>> torch.allclose(logits.softmax(1), probabilities(torch.tensor([[1.0, 2.0, 3.0]])))
    True
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        probabilities: Tensor = self.model(x)
        least = torch.finfo(probabilities.dtype).tiny
        logs = probabilities.clamp_min(least).log()
        return logs - (1 - probabilities).clamp_min(least).log() if probabilities.shape[1] == 1 else logs
