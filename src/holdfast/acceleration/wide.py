"""Closed forms of the wide networks in the paper's scaling."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast._tensors import flatten
from holdfast.acceleration.layers import Affine, Layer, Pointwise, ops, run_backward, run_forward
from holdfast.acceleration.products import product
from holdfast.losses import Outputs
from holdfast.networks.activations import RELU, Activation
from holdfast.networks.dense import Dense
from holdfast.networks.two_layer import TwoLayer

Slopes = Callable[[Outputs], Outputs]

# Weights of one block: some MB, so that a block is read from main memory once and still cached when it is used again.
BLOCK = 2**20


def times_slope(activation: Activation, gradient: Tensor, x: Tensor) -> Tensor:
    """``gradient act'(x)``, in place of the gradient."""
    if activation is RELU:
        result: Tensor = ops.threshold_backward.grad_input(gradient, x, 0, grad_input=gradient)
        return result
    return gradient.mul_(activation.slope(x))


@dataclass(frozen=True, kw_only=True)
class TwoLayerForm:
    """``f = act(z W^T) a / sqrt(m)``; with one output in a single pass over ``W``.

    With one output the gradient is ``s_i sum_r a_r act'(u_ir) w_r``, where only the number ``s_i`` depends on the outputs:
    both sums are taken block by block, and neither preactivations nor activations go through main memory.
    """

    model: TwoLayer

    def __call__(self, points: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
        z = self.model.inputs(points)
        outputs, gradient = (self._scalar if self.model.outputs == 1 else self._vector)(z, slopes)
        gradient = gradient[:, : self.model.features] * self.model.scale
        return outputs, gradient.reshape(points.shape)

    def _scalar(self, z: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
        model = self.model
        weights = model.output_weight / math.sqrt(model.width)
        outputs, gradient = z.new_zeros(len(z), 1), torch.zeros_like(z)
        size = max(256, BLOCK // model.input_size)
        for weight, a in zip(torch.split(model.weight, size), torch.split(weights, size), strict=True):
            u = product(z, weight)
            outputs.addmm_(model.activation.value(u), a)
            gradient += product(times_slope(model.activation, a.T.expand(u.shape).clone(), u), weight.T)
        return outputs, gradient.mul_(slopes(outputs))

    def _vector(self, z: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
        model = self.model
        weights = model.output_weight / math.sqrt(model.width)
        u = product(z, model.weight)
        outputs = model.activation.value(u) @ weights
        gradient = times_slope(model.activation, slopes(outputs) @ weights.T, u)
        return outputs, product(gradient, model.weight.T)


@dataclass(frozen=True, kw_only=True)
class DenseForm:
    """``f = a . (x^H(W) - x^H(W0))``, each chain of layers forwards and backwards."""

    model: Dense

    def __call__(self, points: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
        model = self.model
        x = flatten(points) if model.input_weight is None else product(flatten(points), model.input_weight)
        chains = [_chain(model, weights) for weights in (list(model.weights), model.initial) if weights]
        runs = [run_forward(chain, x) for chain in chains]
        last = runs[0][0] if len(runs) == 1 else runs[0][0] - runs[1][0]
        outputs = last @ model.output_weight.T
        pushed = slopes(outputs) @ model.output_weight
        gradient = run_backward(chains[0], pushed.clone(), runs[0][1])
        if len(runs) > 1:
            gradient -= run_backward(chains[1], pushed, runs[1][1])
        if model.input_weight is not None:
            gradient = product(gradient, model.input_weight.T)
        return outputs, gradient.reshape(points.shape)


def _chain(model: Dense, weights: list[Tensor]) -> list[Layer]:
    """``x -> k act(W x)``, layer by layer."""
    scale, activation = model.layer_scale, model.activation
    bend = Pointwise(
        value=lambda u: activation.value(u) * scale,
        back=lambda gradient, u, _: times_slope(activation, gradient, u).mul_(scale),
    )
    return [layer for weight in weights for layer in (Affine(weight=weight), bend)]
