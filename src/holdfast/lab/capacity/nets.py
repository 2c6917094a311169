"""Many small ReLU networks of one shape at once: a stack of restarts, trained together and taken apart at
the end.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

Inputs = Float[Tensor, "nets rows features"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """``features -> width -> .. -> width -> outputs``, ``hidden`` layers of ReLU units, biases everywhere."""

    features: int
    width: int
    hidden: int
    outputs: int

    @property
    def sizes(self) -> list[int]:
        return [self.features, *[self.width] * self.hidden, self.outputs]


@dataclass(frozen=True, kw_only=True)
class Nets:
    """``weights[l]`` (nets, out, in) and ``biases[l]`` (nets, 1, out), layer by layer."""

    weights: list[Tensor]
    biases: list[Tensor]

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    def __call__(self, x: Inputs) -> Float[Tensor, "nets rows outputs"]:
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x if layer == 0 else x.relu(), weight.mT)
        return x

    def module(self, number: int) -> nn.Sequential:
        """One network of the stack in float64, as torch has them, so that it can be verified."""
        layers: list[nn.Module] = [nn.Flatten()]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            made = nn.Linear(weight.shape[2], weight.shape[1], dtype=torch.float64, device=weight.device)
            with torch.no_grad():
                made.weight.copy_(weight[number])
                made.bias.copy_(bias[number, 0])
            layers += [nn.ReLU(), made] if layer else [made]
        return nn.Sequential(*layers).eval()


def stacked(parts: list[Nets]) -> Nets:
    """One stack of several."""
    return Nets(
        weights=[
            torch.cat(group).requires_grad_() for group in zip(*(part.weights for part in parts), strict=True)
        ],
        biases=[
            torch.cat(group).requires_grad_() for group in zip(*(part.biases for part in parts), strict=True)
        ],
    )


def drawn(
    shape: Shape, count: int, x: Float[Tensor, "rows features"], y: Int[Tensor, " rows"], random: Generator
) -> Nets:
    """``count`` networks to start from: odd ones with Gaussian weights, even ones with first units between
    labels.

    Gaussian: variance ``2 / inputs`` about the mean of the data in units of their spread. Between labels:
    unit ``k`` rises along ``x_i - x_j`` from the middle of the two examples, which have different labels;
    each example has its turn as ``x_i``, the other is drawn. Half of these networks use no more units than
    there are examples: a narrow fit is found, and proved, in a wide network too.
    """
    mean, size = x.mean(0), (x - x.mean(0)).norm(dim=1).mean().clamp(min=1e-12)
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for fan_in, fan_out in zip(shape.sizes[:-1], shape.sizes[1:], strict=True):
        weight = torch.randn(count, fan_out, fan_in, generator=random, dtype=x.dtype)
        bias = 0.3 * torch.randn(count, 1, fan_out, generator=random, dtype=x.dtype)
        weights.append(weight * math.sqrt((2.0 if len(weights) else 1.0) / fan_in))
        biases.append(bias)
    weights[0] = weights[0] * math.sqrt(shape.features) / size
    weights[-1] = weights[-1] * math.sqrt(0.5)
    for net in range(0, count, 2):
        weights[0][net], middle = _between(x, y, shape.width, random)
        biases[0][net, 0] = -(weights[0][net] * (middle - mean)).sum(1)
    biases[0] = biases[0] - (weights[0] @ mean)[:, None]
    for net in range(0, count, 4):  # idle units stay idle
        weights[0][net, len(x) :], biases[0][net, :, len(x) :], weights[1][net, :, len(x) :] = 0.0, 0.0, 0.0
    return Nets(weights=weights, biases=biases)


def _between(
    x: Float[Tensor, "rows features"], y: Int[Tensor, " rows"], width: int, random: Generator
) -> tuple[Float[Tensor, "units features"], Float[Tensor, "units features"]]:
    """Directions from an example of one label to one of another, of length 1 over half their distance, and
    their middles.
    """
    order = torch.cat([torch.randperm(len(x), generator=random) for _ in range(-(-width // len(x)))])
    first = order[:width]
    rivals = (y[first][:, None] != y[None]).to(x.dtype)
    second = torch.multinomial(rivals, 1, generator=random)[:, 0]
    gap = x[first] - x[second]
    return 2 * gap / gap.square().sum(1, keepdim=True).clamp(min=1e-12), (x[first] + x[second]) / 2
