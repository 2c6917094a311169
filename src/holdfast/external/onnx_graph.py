"""Networks whose layers form a graph: values numbered, each layer fed by earlier ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.external.onnx_node import OnnxLayer
from holdfast.external.onnx_patterns import recognised


class GraphNetwork(nn.Module):
    """Layers in order of evaluation, each called with values of earlier ones; torch.fx can trace it.

    Args:
        layers: in order; value 0 is the input, layer ``k`` makes value ``k + 1``, and the last one is
            returned.
    """

    def __init__(self, layers: Sequence[OnnxLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({layer.name: layer.module for layer in layers})
        self.sources = [layer.sources for layer in layers]
        last = {source: number for number, sources in enumerate(self.sources, 1) for source in sources}
        self._spent = [[value for value, use in last.items() if use == n] for n in range(len(layers) + 1)]

    def forward(self, x: Any) -> Any:  # tensors, or what torch.fx puts in their place
        values: dict[int, Any] = {0: x}
        for number, (layer, sources) in enumerate(zip(self.layers.values(), self.sources, strict=True), 1):
            values[number] = layer(*[values[source] for source in sources])
            for spent in self._spent[number]:
                del values[spent]
        return values[len(self.sources)]


def assembled(layers: Sequence[OnnxLayer], output: int) -> nn.Module:
    """The simplest module of these layers: `nn.Sequential` for a plain chain, which the closed forms of
    attacks know.
    """
    needed = _needed(recognised(layers, output), output)
    if all(layer.sources == (place,) for place, layer in enumerate(needed)):
        chain = nn.Sequential()
        for layer in needed:
            chain.add_module(layer.name, layer.module)
        return chain
    return GraphNetwork(needed)


def last_layer(network: nn.Module) -> nn.Module | None:
    """The layer whose value a network of `assembled` or an `nn.Sequential` returns; flattening and the
    like are passed over.
    """
    if isinstance(network, nn.Sequential):
        found = [part for part in network if not isinstance(part, nn.Flatten | nn.Identity)]
        return found[-1] if found else None
    if isinstance(network, GraphNetwork):
        modules, number = list(network.layers.values()), len(network.layers)
        while number and isinstance(modules[number - 1], nn.Flatten):
            number = network.sources[number - 1][0]
        return modules[number - 1] if number else None
    return None


def ends_in_softmax(network: nn.Module) -> bool:
    """Whether the outputs are probabilities because the last layer is a softmax.

    This is seen in chains and in ONNX graphs that were read.

    Args:
        network: any module.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.external.ends_in_softmax(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Softmax(1)))
    True
    """
    return isinstance(last_layer(network), nn.Softmax)


def _needed(layers: Sequence[OnnxLayer], output: int) -> list[OnnxLayer]:
    """The layers that the output needs, which the last of them makes, without those that do nothing,
    renumbered.
    """
    same = list(range(len(layers) + 1))
    for number, layer in enumerate(layers, 1):
        if isinstance(layer.module, nn.Identity):
            same[number] = same[layer.sources[0]]
    needed = {same[output]}
    for number in range(len(layers), 0, -1):
        if number in needed:
            needed.update(same[source] for source in layers[number - 1].sources)
    kept = sorted(needed | {0})
    new = {number: place for place, number in enumerate(kept)}
    return [
        replace(layers[number - 1], sources=tuple(new[same[source]] for source in layers[number - 1].sources))
        for number in kept[1:]
    ]


def mixes_rows(network: nn.Module, rows: Tensor) -> bool:
    """Whether two examples together have other outputs than each alone."""
    with torch.no_grad():
        try:
            together = network(rows[:2])
            alone = torch.cat([network(rows[:1]), network(rows[1:2])])
        except (RuntimeError, IndexError, ValueError):
            return True
    if together.shape != alone.shape:
        return True
    finite = torch.where(alone.isfinite(), alone, 0.0)
    near = 1e-4 * (1 + float(finite.abs().max()))
    return not torch.allclose(together, alone, rtol=0.0, atol=near, equal_nan=True)
