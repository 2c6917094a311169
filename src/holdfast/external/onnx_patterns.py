"""Groups of layers that exporters write one operation as, put together again: what bounds and closed forms
know as one step.

The same function of real numbers up to the file's rounding of constants such as ``sqrt(2)``. Layers that the
output no longer needs are left for the caller to drop.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn

from holdfast.external.onnx_node import Function, OnnxLayer

Argument = int | Tensor  # the number of a value, or a constant
CLOSE = 1e-6  # relative: float32 rounding of a constant


def recognised(layers: Sequence[OnnxLayer], output: int) -> list[OnnxLayer]:
    """The layers with each known group replaced by one module at the place of its last."""
    found = [_known(layers, place) for place in range(len(layers))]
    return _with_biases(found, output)


def _known(layers: Sequence[OnnxLayer], place: int) -> OnnxLayer:
    layer = layers[place]
    match layer.module:
        case Function(name="Mul"):
            return _gelu_or_silu(layers, layer, place + 1)
        case Function(name="Where"):
            return _softplus(layers, layer, place + 1)
    return layer


def _arguments(layers: Sequence[OnnxLayer], value: Argument, op: str) -> list[Argument] | None:
    """What a value was computed from, if by this operation."""
    if not isinstance(value, int) or value == 0:
        return None
    layer = layers[value - 1]
    if not isinstance(layer.module, Function) or layer.module.name != op:
        return None
    return list(layer.module.arguments(layer.sources))


def _of_module(layers: Sequence[OnnxLayer], value: Argument, kind: type[nn.Module]) -> int | None:
    """The argument of a layer of this type."""
    if not isinstance(value, int) or value == 0 or not isinstance(layers[value - 1].module, kind):
        return None
    return layers[value - 1].sources[0]


def _factors(layers: Sequence[OnnxLayer], value: Argument) -> Iterator[Argument]:
    arguments = _arguments(layers, value, "Mul")
    if arguments is None:
        yield value
    else:
        for argument in arguments:
            yield from _factors(layers, argument)


def _is(argument: Argument, number: float) -> bool:
    return (
        isinstance(argument, Tensor)
        and argument.numel() == 1
        and math.isclose(float(argument.detach()), number, rel_tol=CLOSE)
    )


def _parts(arguments: list[Argument] | None) -> tuple[list[int], list[Tensor]]:
    """Values and constants among arguments."""
    known = arguments or []
    return [a for a in known if isinstance(a, int)], [a for a in known if isinstance(a, Tensor)]


def _gelu_or_silu(layers: Sequence[OnnxLayer], layer: OnnxLayer, value: int) -> OnnxLayer:
    """``x (1 + erf(x / sqrt(2))) / 2`` and ``x sigmoid(x)``, factors in any order."""
    values, constants = _parts(list(_factors(layers, value)))
    if len(values) != 2:
        return layer
    for x, other in (values, values[::-1]):
        if not constants and _of_module(layers, other, nn.Sigmoid) == x:
            return replace(layer, module=nn.SiLU(), sources=(x,))
        if len(constants) == 1 and _is(constants[0], 0.5):
            sums, ones = _parts(_arguments(layers, other, "Add"))
            if len(sums) == 1 and _is(ones[0], 1.0) and _erf_argument(layers, sums[0]) == x:
                return replace(layer, module=nn.GELU(), sources=(x,))
    return layer


def _erf_argument(layers: Sequence[OnnxLayer], value: int) -> int | None:
    """``x`` where the value is ``erf(x / sqrt(2))``."""
    inner = _arguments(layers, value, "Erf")
    if not inner:
        return None
    match _arguments(layers, inner[0], "Div"), _arguments(layers, inner[0], "Mul"):
        case [int(x), Tensor() as root], None if _is(root, math.sqrt(2)):
            return x
        case None, ([int(x), Tensor() as factor] | [Tensor() as factor, int(x)]) if _is(
            factor, math.sqrt(0.5)
        ):
            return x
    return None


def _softplus(layers: Sequence[OnnxLayer], layer: OnnxLayer, value: int) -> OnnxLayer:
    """``x`` above a threshold and ``softplus(x)`` below, as torch's own softplus has it."""
    match _arguments(layers, value, "Where"):
        case [int(test), int(x), int(below)] if _of_module(layers, below, nn.Softplus) == x:
            match _arguments(layers, test, "Greater"):
                case [int(tested), Tensor() as threshold] if tested == x and threshold.numel() == 1:
                    return replace(
                        layer, module=nn.Softplus(threshold=float(threshold.detach())), sources=(x,)
                    )
    return layer


def _with_biases(layers: Sequence[OnnxLayer], output: int) -> list[OnnxLayer]:
    """A sum of a linear layer without bias and one constant vector becomes that layer's bias."""
    result = list(layers)
    uses = Counter(source for layer in layers for source in layer.sources)
    for place, layer in enumerate(layers):
        values, constants = _parts(_arguments(layers, place + 1, "Add"))
        if len(values) != 1 or values[0] == 0 or values[0] == output or uses[values[0]] != 1:
            continue
        linear, vector = layers[values[0] - 1].module, constants[0]
        if not isinstance(linear, nn.Linear) or "bias" in dict(linear.named_parameters()):
            continue
        if vector.shape in ((linear.out_features,), (1, linear.out_features)):
            linear.bias = nn.Parameter(vector.detach().reshape(-1))
            result[place] = replace(layer, module=nn.Identity())
    return result
