"""Which curvature bound a network gets."""

from torch import nn

from holdfast.curvature.base import Curvature
from holdfast.curvature.deep import DeepCurvature
from holdfast.curvature.linearity import LocalLinearity
from holdfast.curvature.two_layer import TwoLayerCurvature
from holdfast.networks.exact import exact_core, why_not_exact


def curvature_for(model: nn.Module) -> tuple[Curvature, str]:
    """The tightest rigorous bound for this network, or the local-linearity estimate with the reason why there is none."""
    core = exact_core(model)
    if core is None:
        return LocalLinearity(), (
            f"no rigorous curvature bound: {why_not_exact(model)}; the network was treated as linear in its weights"
        )
    for curvature, word in ((TwoLayerCurvature(), "two-layer"), (DeepCurvature(), "deep")):
        if isinstance(core.network, curvature.network):
            why = curvature.unproved(model)
            if why:
                return LocalLinearity(), f"no rigorous curvature bound: {why}"
            return curvature, (
                f"proved: the curvature of this {word} network has a rigorous bound, and rounding is allowed for"
            )
    raise AssertionError(f"a network of the library without a curvature: {type(core.network).__name__}")
