"""Models that answer at random: attack and judge their mean answer (expectation over transformations)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, nn

from holdfast._arguments import MODEL
from holdfast._rules import COUNT, takes
from holdfast._tensors import applied
from holdfast.attacks.base import Attack, Goal
from holdfast.attacks.by_name import ATTACK
from holdfast.losses import Labels, Outputs
from holdfast.threats.base import Points, Threat


@takes(model=MODEL, samples=COUNT)
class MeanOutputs(nn.Module):
    """The mean of ``samples`` independent answers of ``model``; through autograd also the mean gradient.

    Each answer is a forward pass of its own, since a model may draw once for a whole batch; memory grows with
    ``samples``.

    Args:
        model: a network with randomness of its own.
        samples: answers per call.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.attacks.MeanOutputs(torch.nn.Identity(), 3)(torch.ones(1, 2))
    tensor([[1., 1.]])
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        super().__init__()
        self.model, self.samples = model, samples

    def forward(self, x: Points) -> Outputs:
        total = applied(self.model, x)
        for _ in range(self.samples - 1):
            total = total + applied(self.model, x)
        return total / self.samples


@takes(attack=ATTACK, samples=COUNT)
@dataclass(frozen=True, kw_only=True)
class ExpectedGradient(Attack):
    """``attack`` on the mean of several answers of a random model (Athalye et al. 2018, arXiv 1802.00420).

    Loss and success are those of the mean too: one answer of a random model may be wrong by luck, which says
    nothing about the point. They are scored with fresh draws, so that a point that was good for the search's
    draws alone does not count. Torch's global generators are seeded from the search's own while it runs and
    put back after, so that a seed repeats.

    Attributes:
        attack: the search.
        samples: answers averaged in each pass; the error of the mean falls with the root of their number.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> attack = hf.ExpectedGradient(attack=hf.FGSM(), samples=4)
    >>> attack.run(torch.nn.Identity(), x, y, hf.LpBall("inf", 0.25)).success
    tensor([True])
    """

    attack: Attack
    samples: int = 20

    @property
    def name(self) -> str:
        return f"{self.attack.name}-mean-{self.samples}"

    @property
    def passes(self) -> int:
        return self.attack.passes * self.samples

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        with _seeded(generator, x.device):
            return self.attack.search(self._mean(model), x, y, threat, goal=goal, generator=generator)

    @contextmanager
    def judging(self, model: nn.Module, generator: Generator) -> Iterator[nn.Module]:
        """The mean answer."""
        with _seeded(generator, generator.device):
            yield self._mean(model)

    def _mean(self, model: nn.Module) -> nn.Module:
        # `judging` has wrapped it already, and checks of the attack's may stand around that.
        inner: Any = model
        while not isinstance(inner, MeanOutputs) and isinstance(getattr(inner, "inner", None), nn.Module):
            inner = inner.inner
        return model if isinstance(inner, MeanOutputs) else MeanOutputs(model, self.samples)


@contextmanager
def _seeded(generator: Generator, device: torch.device) -> Iterator[None]:
    """Torch's global generators seeded from ``generator``, and as they were afterwards."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
