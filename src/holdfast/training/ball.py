"""The ball(s) around the initial weights that projected gradient descent stays in (Gao et al. 2019,
Algorithm 1).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from holdfast._values import Shown

PIECE = 2**16  # weights: with their start and their difference under a megabyte
# Above the relative error of a sum of PIECE squares in float32 in any order (2^16 * 2^-24), and of the
# differences.
ROUGH = 0.01


@dataclass(frozen=True, kw_only=True, repr=False)
class ParameterBall(Shown):
    """``||W_h - W0_h||_F <= radius`` for every ball ``h`` (a layer, or the whole network of two layers).

    Attributes:
        names: trained parameters, one tuple per ball.
        initial: ``W0`` by parameter name, on the model's device.
        radius: ``R``, of every ball.

    >>> import torch
    >>> from holdfast.training import ParameterBall
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> ball = ParameterBall(names=(("weight",),), initial={"weight": net.weight.detach() + 3.0}, radius=1.0)
    >>> ball.project(net)
    >>> bool(ball.distances(net)[0] <= 1.0)
    True
    """

    names: tuple[tuple[str, ...], ...]
    initial: Mapping[str, Tensor]
    radius: float

    @torch.no_grad()
    def distances(self, model: nn.Module) -> list[Tensor]:
        """``||W_h - W0_h||_F`` in float64, one per ball; stays on the device."""
        parameters = dict(model.named_parameters())
        return [
            _norm(
                part.double() - origin.double()
                for name in names
                for part, origin in _pieces(parameters[name], self.initial[name])
            )
            for names in self.names
        ]

    @cached_property
    def margins(self) -> list[Tensor]:
        """What each ball is shrunk by, so that the weights lie in it after rounding too:
        ``u ||W0|| + (6 u + 1e-9) radius``.

        With roundoff ``u``, storing ``W0 + f D`` moves it by at most ``u (||W0|| + radius)``, and forming
        ``f D`` by ``2 u radius``.
        """
        units = [max(torch.finfo(self.initial[name].dtype).eps for name in names) / 2 for names in self.names]
        return [
            unit * _norm([self.initial[name] for name in names]) + (6 * unit + 1e-9) * self.radius
            for unit, names in zip(units, self.names, strict=True)
        ]

    @torch.no_grad()
    def project(self, model: nn.Module) -> None:
        """Nearest weights in the ball(s), in place; no host synchronisation on an accelerator."""
        parameters = dict(model.named_parameters())
        for names, margin in zip(self.names, self.margins, strict=True):
            pairs = [(parameters[name], self.initial[name]) for name in names]
            room = (self.radius - margin).clamp_min(0.0)
            # On a CPU a look at a number costs nothing, and weights inside are the usual case: one pass finds
            # them so.
            waiting = margin.device.type == "cpu"
            if waiting and _length(pairs) <= (1 - ROUGH) * float(room):
                continue
            factor = (room / _distance(pairs).clamp_min(1e-300)).clamp_max(1.0)
            if waiting and float(factor) == 1.0:
                continue
            for weight, start in pairs:
                for part, origin in _pieces(weight, start):
                    projected = (part - origin).mul_(factor.to(part.dtype)).add_(origin)
                    # Weights already inside stay bit for bit as they are.
                    part.copy_(projected if waiting else torch.where(factor < 1, projected, part))


def _pieces(weight: Tensor, start: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of both that stay in a CPU's cache from one operation to the next; views, wholes on an
    accelerator.
    """
    if weight.device.type != "cpu" or not (weight.is_contiguous() and start.is_contiguous()):
        yield weight, start
    else:
        yield from zip(*(torch.split(whole.view(-1), PIECE) for whole in (weight, start)), strict=True)


def _length(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """``||W - W0||`` to one part in `ROUGH`, in the weights' own dtype; infinite or NaN where that
    overflows.
    """
    total = 0.0
    for weight, start in pairs:
        for part, origin in _pieces(weight, start):
            move = (part - origin).flatten()
            total += float(move.dot(move))
    return math.sqrt(total)


def _distance(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """``||W - W0||`` in float64; the differences in the weights' dtype."""
    return _norm(part - origin for pair in pairs for part, origin in _pieces(*pair))


def _norm(parts: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all of them together, in float64."""
    doubles = (part.flatten().double() for part in parts)
    return torch.stack([part.dot(part) for part in doubles]).sum().sqrt()
