"""Attacks that use nothing of the model but its outputs or its likeness to another."""

from dataclasses import dataclass, field

from torch import Generator, nn

from holdfast._arguments import MODEL
from holdfast._rules import takes
from holdfast.attacks.base import Attack, Goal, checked_outputs
from holdfast.attacks.by_name import ATTACK
from holdfast.attacks.modes import attacking
from holdfast.losses import Labels
from holdfast.threats.base import Points, Threat


@takes(surrogate=MODEL, attack=ATTACK)
@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Points found by attacking another model, tried on this one (Papernot et al. 2016, arXiv 1605.07277).

    A model that such points break more often than its own gradients do hides its gradients (Athalye et al.
    2018, arXiv 1802.00420). For a check by queries, see `Square`.

    Attributes:
        surrogate: takes the same examples and labels, on the same device; attacked in evaluation mode, and
            left as it was.
        attack: what to attack it with.

    Raises (on `run`):
        InputError: the surrogate's outputs do not fit these examples and labels.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> attack = hf.Transfer(surrogate=torch.nn.Identity(), attack=hf.FGSM())
    >>> attack.run(torch.nn.Identity(), x, y, hf.LpBall("inf", 0.25)).success
    tensor([True])
    """

    surrogate: nn.Module = field(repr=False)
    attack: Attack

    @property
    def name(self) -> str:
        return f"transfer-{self.attack.name}"

    @property
    def passes(self) -> int:
        return self.attack.passes

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        with attacking(self.surrogate, "eval"):
            checked_outputs(self.surrogate, x, y)
            return self.attack.search(self.surrogate, x, y, threat, goal=goal, generator=generator)
