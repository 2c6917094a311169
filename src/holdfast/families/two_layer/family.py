"""The two-layer family: all that is known of `TwoLayer`."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._memory import room
from holdfast._tensors import batches, chunks
from holdfast.curvature.lower_model import largest
from holdfast.curvature.rounding import Rounding
from holdfast.families.base import (
    PASS,
    SMALL,
    Expanded,
    Factor,
    Family,
    MarginExpansion,
    Pass,
    Search,
    Settings,
    Sizes,
)
from holdfast.families.two_layer.anchors import Anchor
from holdfast.families.two_layer.closed_form import TwoLayerForm
from holdfast.families.two_layer.curvature import TwoLayerCurvature, in_float64
from holdfast.families.two_layer.second_order import margin_expansion
from holdfast.families.two_layer.tightening import best_anchor, tighten
from holdfast.networks.activations import RELU
from holdfast.networks.two_layer import TwoLayer
from holdfast.threats import LpBall

BATCH = 512


class TwoLayerFamily(Family[TwoLayer]):
    name = "two-layer"
    network = TwoLayer
    near_linear = True
    step_lasts = True

    def example(self) -> TwoLayer:
        return TwoLayer(1, 2, 2)

    def sizes(self, network: TwoLayer) -> Sizes:
        width, inputs, outputs = network.width, network.input_size, network.outputs
        shapes: dict[str, tuple[int, ...]] = {
            "weight": (width, inputs),
            "output_weight": (width, outputs),
            "scale": (),
        }
        if network.center is not None:
            shapes["center"] = (network.features,)
        return Sizes(shapes=shapes, units=width, groups=network.groups, activation=network.activation)

    def curvature(self) -> TwoLayerCurvature:
        return TwoLayerCurvature()

    def input_norms(self, network: TwoLayer, points: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
        norms = [in_float64(network, part).norm(dim=1) for part in batches(points, BATCH)]
        return torch.cat(norms)

    def rounding(self, network: TwoLayer, initial: Mapping[str, Tensor], seen: Rounding) -> Rounding:
        act = network.activation
        return replace(
            seen,
            width=network.width,
            inputs=network.input_size,
            start_norm=math.sqrt(sum(float(w.double().square().sum()) for w in initial.values())),
            output_norm=float(network.output_weight.detach().abs().max()),
            lipschitz=act.lipschitz,
            curvature=0.0 if act.kink else max(act.curvature_above, act.curvature_below),
            offset=abs(float(act(torch.zeros((), dtype=torch.float64)))),
        )

    def recording(self, network: TwoLayer, examples: int, batch: int, attack_passes: int) -> float:
        """Recording takes the network's gradient anew: in float64, which counts twice, with two products. To
        that come the product ``M D`` and the matrices ``M``, passes over the weights, and an eigenproblem a
        window.
        """
        inputs, units, groups = network.input_size, network.width, network.groups
        training = units * inputs * 4 * batch * (attack_passes + 1)
        recording: float = 2 * units * inputs**2 + PASS * units * inputs + 2 * groups * batch * inputs**2
        if network.activation.kink:
            recording += 2 * units * inputs * batch + PASS * units * batch / 4
        closing = 10 * groups * inputs**3 + 2 * units * inputs**2
        own = 2 * 4 * units * inputs * batch
        return (own + SMALL * (recording + closing / math.ceil(examples / batch))) / training

    def expanded(self, network: TwoLayer, passed: Pass, search: Search) -> Expanded | None:
        """Tightened at ``radius`` over anchors and duals."""
        if not passed.proved or network.train_output:
            return None
        most, evaluations = largest(search.radius), search.evaluations  # one ball
        grouped = anchors_of(network, passed, most, per_unit=False)
        found = best_anchor(grouped, passed.outputs, most, evaluations, search.progress)
        word, theta = "tightened" if evaluations > 1 else "as it stands", found.theta
        if search.per_unit:
            # At equal duals a unit's own matrix is never above its group's, so the climb goes on from where
            # it ended.
            anchor = anchors_of(network, passed, most, per_unit=True)(theta)
            half = max(1, evaluations // 2)
            found = tighten(anchor, found.duals, most, evaluations=half, progress=search.progress)
            word = f"{word} with a matrix a unit"
        # Tightened outputs have slopes of their own (and the pass's may all be 0, as the hinge's are beyond
        # the margin).
        how = f"{word}, expanded at {theta:.2g} of the way"
        return Expanded(lower=found.lower, outputs=found.duals.h, how=how)

    def describe(self, network: TwoLayer) -> str:
        return f"two layers, {network.activation.name}"

    def kernel(self, network: TwoLayer) -> Settings:
        return {
            "activation": network.activation,
            "trained": "hidden and output" if network.train_output else "hidden",
            "normalised": False,
            "output_variance": float(network.output_weight.detach().square().mean()),
            "scale": float(network.scale),
            "center": network.center,
            "constant": network.constant,
        }

    def factors(self, network: TwoLayer, x: Float[Tensor, "n ..."]) -> Iterator[Factor]:
        with torch.no_grad():
            before = network.preactivations(x)
            scale = network.width**-0.5
            if network.weight.requires_grad:
                slopes = network.activation.slope(before) * scale
                yield Factor(gradients=slopes * network.output_weight.T[:, None, :], inputs=network.inputs(x))
            if network.output_weight.requires_grad:
                eye = torch.eye(network.outputs, dtype=x.dtype, device=x.device)
                yield Factor(
                    gradients=eye[:, None, :].expand(-1, len(x), -1),
                    inputs=network.activation(before) * scale,
                )

    def closed_form(self, network: TwoLayer) -> TwoLayerForm:
        return TwoLayerForm(model=network)

    def second_order(self, network: TwoLayer, ball: LpBall) -> MarginExpansion:
        return margin_expansion(network, ball)

    def width_power(self, network: TwoLayer) -> float | str:
        if network.train_output or (network.activation.kink and network.activation is not RELU):
            return "no formula for the width is known with trained outputs or for this activation"
        return 1 / 6 if network.activation.kink else 1 / 2

    def width_step(self, network: TwoLayer) -> int:
        return 2 * network.outputs

    def of_width(self, network: TwoLayer, width: int) -> TwoLayer:
        inputs: Settings = {name: self.kernel(network)[name] for name in ("scale", "center", "constant")}
        return TwoLayer(network.features, network.classes, width, network.activation, **inputs)

    def settings(self, network: TwoLayer) -> Settings:
        return {
            **{name: getattr(network, name) for name in ("features", "classes", "width", "train_output")},
            "activation": network.activation.name,
            "outputs": "signed" if network.groups > 1 else "dense",
            "constant": network.constant,
            "centred": network.center is not None,
        }

    def made(self, centred: bool = False, **settings: Any) -> TwoLayer:
        # The start of the units is not wanted here, and unpaired ones may have any width.
        center = torch.zeros(settings["features"]) if centred else None
        return TwoLayer(**settings, paired=False, center=center)


def anchors_of(network: TwoLayer, passed: Pass, reach: float, *, per_unit: bool) -> Callable[[float], Anchor]:
    """Anchors of a pass by their share of the way from the initial weights."""
    start = passed.initial["weight"]
    move = network.weight.detach() - start
    count = len(passed.labels)
    z = room((count, network.input_size), torch.float64, passed.points.device)
    for part in chunks(count, BATCH):
        z[part] = in_float64(network, passed.points[part])

    def at(theta: float) -> Anchor:
        moved = copy.copy(network)
        moved._parameters = dict(network._parameters)
        moved.weight = nn.Parameter(start + theta * move, requires_grad=False)
        given = (passed.labels, passed.weights, passed.loss)
        return Anchor(moved, theta * move, z, *given, reach=reach, per_unit=per_unit)

    return at
