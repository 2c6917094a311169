"""Which curvature bound a network gets."""

from torch import nn

from holdfast.curvature.base import Curvature
from holdfast.curvature.linearity import LocalLinearity
from holdfast.curvature.two_layer import TwoLayerCurvature
from holdfast.networks.two_layer import TwoLayer


def curvature_for(model: nn.Module) -> tuple[Curvature, str]:
    """The tightest rigorous bound for this network, or the local-linearity estimate with the reason why there is none."""
    if not isinstance(model, TwoLayer):
        return LocalLinearity(), (
            f"no rigorous curvature bound for {type(model).__name__}: the network was treated as linear in its weights"
        )
    if not model.weight.requires_grad:
        return LocalLinearity(), "the first layer is not trained, so the two-layer bound does not apply"
    if model.activation.kink and model.train_output:
        return LocalLinearity(), f"no rigorous curvature bound for {model.activation.name} with trained outputs"
    return TwoLayerCurvature(), "the two-layer curvature bound is a proof"
