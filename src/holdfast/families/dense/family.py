"""The deep family: all that is known of `Dense`."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.curvature.rounding import Rounding
from holdfast.families.base import PASS, Expanded, Factor, Family, Pass, Search, Settings, Sizes
from holdfast.families.dense.closed_form import DenseForm
from holdfast.families.dense.curvature import DeepCurvature
from holdfast.families.dense.lower_model import CENTRES, deep_lower_model
from holdfast.networks.dense import Dense

EIGEN = 25
"""What an eigenproblem of size ``n`` costs, in units of ``n^3``."""


class DenseFamily(Family[Dense]):
    name = "dense"
    network = Dense
    near_linear = True

    def example(self) -> Dense:
        return Dense(1, 2, 2, 1)

    def sizes(self, network: Dense) -> Sizes:
        width, groups = network.width, network.groups
        shapes = {f"weights.{h}": (width, width) for h in range(network.depth)}
        if network.input_weight is None:
            shapes["weights.0"] = (width, network.features)
        else:
            shapes["input_weight"] = (width, network.features)
        if network.zero_start:
            shapes |= {f"initial_{h}": shapes[f"weights.{h}"] for h in range(network.depth)}
        shapes["output_weight"] = (network.outputs, width)
        return Sizes(
            shapes=shapes, lists=("weights",), units=width, groups=groups, activation=network.activation
        )

    def curvature(self) -> DeepCurvature:
        return DeepCurvature()

    def rounding(self, network: Dense, initial: Mapping[str, Tensor], seen: Rounding) -> Rounding:
        amplitude = DeepCurvature().amplitude(network, initial, seen.distance)
        return replace(seen, width=network.width, amplitude=amplitude)

    def recording(self, network: Dense, examples: int, batch: int, attack_passes: int) -> float:
        """Float64 counts twice. A round: two passes forward, one backward, gradients and two products with
        the matrices; the matrices of layer 1 and their cross terms; an eigenproblem of the batch. A window:
        eigenproblems and a basis. Once a run, counted as if it were once an epoch: norms."""
        units, depth, inputs = network.width, network.depth, network.weights[0].shape[1]
        seen = min(inputs, network.features)
        weights = units * inputs + (depth - 1) * units**2
        rounds, rank = math.ceil(examples / batch), min(examples, units)
        training: float = weights * 4 * examples * (attack_passes + 1)
        passes: float = 24 * examples * weights + 2 * PASS * rounds * (weights + 2 * batch * units * depth)
        first = 4 * units * examples * seen * (seen + 16) + EIGEN * rounds * batch**3
        closing = EIGEN * (units * seen**3 + (depth + network.groups) * rank**3)
        closing += 8 * depth * units * rank * (units + rank)
        norms: float = 8 * units**3 * ((depth - 2) * 3 + 2 / network.groups) if depth > 1 else 0
        share: float = (passes + first + closing + norms) / training
        return share

    def expanded(self, network: Dense, passed: Pass, search: Search) -> Expanded:
        """Expanded at the best of several centres."""
        assert isinstance(passed.curvature, DeepCurvature)  # the family's own
        centres = CENTRES if search.evaluations > 1 else CENTRES[:1]
        lower = deep_lower_model(
            network, passed.curvature, passed, search.radius, centres=centres, progress=search.progress
        )
        return Expanded(lower=lower, outputs=passed.outputs, how="expanded where best")

    def describe(self, network: Dense) -> str:
        return f"{network.depth} trained layers, {network.activation.name}"

    def kernel(self, network: Dense) -> Settings:
        return {"activation": network.activation, "depth": network.depth}

    def factors(self, network: Dense, x: Float[Tensor, "n ..."]) -> Iterator[Factor]:
        with torch.no_grad():
            below, scale = network.inputs(x), network.layer_scale
            inputs, slopes = [], []
            for weight in network.weights:
                before = below @ weight.T
                inputs.append(below)
                slopes.append(scale * network.activation.slope(before))
                below = scale * network.activation(before)
            gradients = network.output_weight[:, None, :].expand(-1, len(x), -1)
            for layer in range(network.depth - 1, -1, -1):
                gradients = gradients * slopes[layer]
                if network.weights[layer].requires_grad:
                    yield Factor(gradients=gradients, inputs=inputs[layer])
                if layer:
                    gradients = gradients @ network.weights[layer]

    def closed_form(self, network: Dense) -> DenseForm:
        return DenseForm(model=network)

    def settings(self, network: Dense) -> Settings:
        return {
            **{name: getattr(network, name) for name in ("features", "classes", "width", "depth")},
            **{name: getattr(network, name) for name in ("zero_start", "output")},
            "activation": network.activation.name,
            "input_layer": network.input_weight is not None,
        }

    def made(self, **settings: Any) -> Dense:
        return Dense(**settings)
