"""The local-linearity estimate: curvature taken as 0. For any network, and never a proof."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from holdfast.curvature.base import BlockCurvature, Curvature, RoundCurvature


@dataclass(frozen=True)
class LocalLinearity(Curvature):
    """``q = 0``: the network is treated as its own tangent. One ball a layer (a module that owns trained parameters)."""

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
        return RoundCurvature(
            balls=tuple(tuple(BlockCurvature() for _ in ball) for ball in self.parameters(model))
        )
