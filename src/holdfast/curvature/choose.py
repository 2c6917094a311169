"""Which curvature bound a network gets."""

import math

from torch import nn

from holdfast.curvature.base import Curvature
from holdfast.curvature.deep import DeepCurvature
from holdfast.curvature.linearity import LocalLinearity
from holdfast.curvature.two_layer import TwoLayerCurvature
from holdfast.networks.activations import LEAKY_RELU, RELU
from holdfast.networks.dense import Dense
from holdfast.networks.two_layer import TwoLayer


def curvature_for(model: nn.Module) -> tuple[Curvature, str]:
    """The tightest rigorous bound for this network, or the local-linearity estimate with the reason why there is none."""
    if type(model) is Dense:
        return _for_dense(model)
    if type(model) is not TwoLayer:  # a subclass may compute something else
        return LocalLinearity(), (
            f"no rigorous curvature bound for {type(model).__name__}: the network was treated as linear in its weights"
        )
    if not model.weight.requires_grad:
        return LocalLinearity(), "the first layer is not trained, so the two-layer bound does not apply"
    act = model.activation
    if act.kink and act not in (RELU, LEAKY_RELU):
        # A kink's bound knows the jump alone: between kinks the activation must be linear.
        return (
            LocalLinearity(),
            f"no rigorous curvature bound for {act.name}: of kinked activations only relu and leaky-relu have one",
        )
    if not act.kink and not (0 <= act.curvature_above < math.inf and 0 <= act.curvature_below < math.inf):
        return (
            LocalLinearity(),
            f"no rigorous curvature bound for {act.name}: its second derivative is not bounded",
        )
    if model.train_output and (act.kink or act.lipschitz is None):
        return LocalLinearity(), f"no rigorous curvature bound for {act.name} with trained outputs"
    return (
        TwoLayerCurvature(),
        "proved: the curvature of this two-layer network has a rigorous bound, and rounding is allowed for",
    )


def _for_dense(model: Dense) -> tuple[Curvature, str]:
    act = model.activation
    if (
        act.kink
        or act.lipschitz is None
        or not (act.curvature_above < math.inf and act.curvature_below < math.inf)
    ):
        return (
            LocalLinearity(),
            f"no rigorous curvature bound for {act.name} in a deep network: it needs bounded first and second derivatives",
        )
    if not all(weight.requires_grad for weight in model.weights):
        return LocalLinearity(), "some layers are not trained, so the deep bound does not apply"
    return (
        DeepCurvature(),
        "proved: the curvature of this deep network has a rigorous bound, and rounding is allowed for",
    )
