"""Outputs and input gradients of deep networks in closed form."""

from dataclasses import dataclass

from torch import Tensor

from holdfast._products import product
from holdfast._tensors import flatten
from holdfast.families.base import Slopes
from holdfast.families.slopes import times_slope
from holdfast.networks.dense import Dense


@dataclass(frozen=True, kw_only=True)
class DenseForm:
    """``f = a . (x^H(W) - x^H(W0))``, each chain of layers forwards and backwards."""

    model: Dense

    def __call__(self, points: Tensor, slopes: Slopes) -> tuple[Tensor, Tensor]:
        model = self.model
        x = flatten(points) if model.input_weight is None else product(flatten(points), model.input_weight)
        chains = [weights for weights in (list(model.weights), model.initial) if weights]
        runs = [self._forward(weights, x) for weights in chains]
        last = runs[0][0] if len(runs) == 1 else runs[0][0] - runs[1][0]
        outputs = last @ model.output_weight.T
        pushed = slopes(outputs) @ model.output_weight
        gradient = self._backward(chains[0], pushed.clone(), runs[0][1])
        if len(runs) > 1:
            gradient -= self._backward(chains[1], pushed, runs[1][1])
        if model.input_weight is not None:
            gradient = product(gradient, model.input_weight.T)
        return outputs, gradient.reshape(points.shape)

    def _forward(self, weights: list[Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``x -> k act(W x)``, layer by layer; and the preactivations."""
        seen = []
        for weight in weights:
            u = product(x, weight)
            seen.append(u)
            x = self.model.activation.value(u) * self.model.layer_scale
        return x, seen

    def _backward(self, weights: list[Tensor], gradient: Tensor, seen: list[Tensor]) -> Tensor:
        for weight, u in zip(reversed(weights), reversed(seen), strict=True):
            pushed = times_slope(self.model.activation, gradient, u).mul_(self.model.layer_scale)
            gradient = product(pushed, weight.T)
        return gradient
