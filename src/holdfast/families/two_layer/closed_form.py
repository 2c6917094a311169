"""Outputs and input gradients of two-layer networks in closed form."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast._products import product
from holdfast.families.base import Slopes
from holdfast.families.slopes import times_slope
from holdfast.networks.two_layer import TwoLayer

# Weights of one block: some MB, so that a block is read from main memory once and still cached when it is
# used again.
BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class TwoLayerForm:
    """``f = act(z W^T) a / sqrt(m)``; with one output in a single pass over ``W``.

    With one output the gradient is ``s_i sum_r a_r act'(u_ir) w_r``, where only the number ``s_i`` depends on
    the outputs: both sums are taken block by block, and neither preactivations nor activations go through
    main memory.
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
