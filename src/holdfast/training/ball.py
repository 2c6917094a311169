"""The ball(s) around the initial weights that projected gradient descent stays in (Gao et al. 2019, Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Projecting onto a slightly smaller ball keeps ||W - W0|| <= R after the weights are rounded to float32, when it is
# measured again in float64: the rounding of W moves the distance by about 2^-24 ||W||, far less than this share of R.
SHRINK = 1e-6


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
            torch.stack([(parameters[n] - self.initial[n]).double().square().sum() for n in names]).sum().sqrt()
            for names in self.names
        ]

    @torch.no_grad()
    def project(self, model: nn.Module) -> None:
        """Nearest weights in the ball(s), in place; no host synchronisation."""
        parameters = dict(model.named_parameters())
        for names in self.names:
            moves = [parameters[n] - self.initial[n] for n in names]
            # vector_norm accumulates wide enough: its relative error is far below SHRINK.
            size = torch.stack([torch.linalg.vector_norm(move, dtype=torch.float64) for move in moves]).norm()
            factor = ((1 - SHRINK) * self.radius / size.clamp_min(1e-300)).clamp_max(1.0)
            for name, move in zip(names, moves, strict=True):
                # Weights already inside stay bit for bit as they are.
                projected = self.initial[name] + move * factor.to(move.dtype)
                parameters[name].copy_(torch.where(factor < 1, projected, parameters[name]))
