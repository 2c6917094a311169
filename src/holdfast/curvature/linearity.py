"""The local-linearity estimate: curvature taken as 0. For any network, and never a proof."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._tensors import applied, as_matrix
from holdfast.curvature.base import BlockCurvature, Curvature, RoundCurvature, Tangent


@dataclass(frozen=True)
class LocalLinearity(Curvature):
    """``q = 0``: the network is treated as its own tangent.

    One ball per layer, which is a module that owns trained parameters.

    >>> import torch
    >>> from holdfast import curvature
    >>> curvature.LocalLinearity().parameters(torch.nn.Linear(2, 1))
    (('weight', 'bias'),)
    """

    @property
    def rigorous(self) -> bool:
        return False

    def parameters(self, model: nn.Module) -> tuple[tuple[str, ...], ...]:
        layers: dict[str, list[str]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                layers.setdefault(name.rpartition(".")[0], []).append(name)
        return tuple(tuple(names) for names in layers.values())

    def round(
        self,
        model: nn.Module,
        points: Float[Tensor, "batch ..."],
        weighted_slopes: Float[Tensor, "batch outputs"],
        *,
        reach: float,
    ) -> RoundCurvature:
        parameters = dict(model.named_parameters())
        names = self.parameters(model)
        outputs, flat = _gradient(
            model, points, weighted_slopes, [parameters[n] for ball in names for n in ball]
        )
        found = iter(flat)
        gradients = tuple(tuple(as_matrix(next(found)) for _ in ball) for ball in names)
        return RoundCurvature(
            balls=tuple(tuple(BlockCurvature() for _ in ball) for ball in names),
            tangent=Tangent(outputs=outputs, gradients=gradients),
        )


def _gradient(
    model: nn.Module, points: Tensor, slopes: Tensor, parameters: list[nn.Parameter]
) -> tuple[Tensor, list[Tensor]]:
    """Outputs and the gradients of ``sum_i <s_i, f(W, x'_i)>``; zeros for no points, which not every
    network takes.
    """
    zeros = [torch.zeros_like(w) for w in parameters]
    if not len(points):
        return torch.zeros_like(slopes), zeros
    with torch.enable_grad():
        outputs = applied(model, points)
        value = (slopes.to(outputs.dtype) * outputs).sum()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
    return outputs.detach(), [zero if g is None else g for g, zero in zip(found, zeros, strict=True)]
