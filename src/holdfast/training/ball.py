"""The ball(s) around the initial weights that projected gradient descent stays in (Gao et al. 2019, Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class ParameterBall:
    """``||W_h - W0_h||_F <= radius`` for every ball ``h`` (a layer, or the whole network of two layers).

    Attributes:
        names: trained parameters, one tuple a ball.
        initial: ``W0`` by parameter name, on the model's device.
    """

    names: tuple[tuple[str, ...], ...]
    initial: Mapping[str, Tensor]
    radius: float

    @torch.no_grad()
    def distances(self, model: nn.Module) -> list[Tensor]:
        """``||W_h - W0_h||_F`` in float64, one a ball; stays on the device."""
        parameters = dict(model.named_parameters())
        return [
            _norm([parameters[name].double() - self.initial[name].double() for name in names])
            for names in self.names
        ]

    @cached_property
    def margins(self) -> list[Tensor]:
        """What each ball is shrunk by, so that the weights lie in it after rounding too: ``u ||W0|| + (6 u + 1e-9) radius``.

        With roundoff ``u``, storing ``W0 + f D`` moves it by at most ``u (||W0|| + radius)``, and forming ``f D`` by ``2 u radius``.
        """
        units = [max(torch.finfo(self.initial[name].dtype).eps for name in names) / 2 for names in self.names]
        return [
            unit * _norm([self.initial[name] for name in names]) + (6 * unit + 1e-9) * self.radius
            for unit, names in zip(units, self.names, strict=True)
        ]

    @torch.no_grad()
    def project(self, model: nn.Module) -> None:
        """Nearest weights in the ball(s), in place; no host synchronisation."""
        parameters = dict(model.named_parameters())
        for names, margin in zip(self.names, self.margins, strict=True):
            moves = [parameters[name] - self.initial[name] for name in names]
            room = (self.radius - margin).clamp_min(0.0)
            factor = (room / _norm(moves).clamp_min(1e-300)).clamp_max(1.0)
            for name, move in zip(names, moves, strict=True):
                # Weights already inside stay bit for bit as they are.
                projected = self.initial[name] + move * factor.to(move.dtype)
                parameters[name].copy_(torch.where(factor < 1, projected, parameters[name]))


def _norm(parts: list[Tensor]) -> Tensor:
    """Euclidean norm of all of them together, in float64."""
    sizes = torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts])
    return sizes.square().sum().sqrt()
