"""One node of an ONNX graph as its translation sees it, and what it becomes: a layer, or a function that
keeps constants.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InputError


class Attributes(Mapping[str, Any]):
    """What a node gives and, for the rest, the defaults of its operation's version; remembers what was asked
    for.

    So an attribute that a translation does not know of is found, whichever it is.

    Args:
        given: as plain Python values; texts are decoded, tensors are tensors.
        defaults: of the operation in the file's opset.
    """

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._given, self._defaults = dict(given), dict(defaults)
        self._asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._asked.add(name)
        return self._given[name] if name in self._given else self._defaults[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._defaults | self._given)

    def __len__(self) -> int:
        return len(self._defaults | self._given)

    def left(self) -> list[str]:
        """Those given, of a value other than the default, that nothing has asked for."""
        return [
            name
            for name, value in self._given.items()
            if name not in self._asked and not (name in self._defaults and value == self._defaults[name])
        ]


@dataclass(frozen=True, kw_only=True)
class Node:
    """An operation with its inputs evaluated on a probe batch.

    Attributes:
        op: the operation's ONNX name.
        label: how errors call it.
        opset: version of the operations.
        attributes: with the defaults of the operation.
        inputs: probe values and constants; ``None`` for an optional input that is not given.
        constant: which inputs do not depend on the network's input.
        outputs: how many outputs are used.
        declared: how many outputs there are.
        batch: examples in the probe batch.
        asked: places of the inputs that the translation has looked at.
    """

    op: str
    label: str
    opset: int
    attributes: Attributes
    inputs: tuple[Tensor | None, ...]
    constant: tuple[bool, ...]
    outputs: int
    declared: int
    batch: int
    asked: set[int] = field(default_factory=set)

    def refuse(self, why: str) -> InputError:
        """The error for a node outside what is read here."""
        return InputError(f"ONNX node {self.label} {why}.")

    def without_effect(self, *names: str) -> None:
        """Take note of attributes that change nothing in the outputs of inference."""
        for name in names:
            self.attributes.get(name)

    def check_all_used(self) -> None:
        """Refuse a node with something in it that its translation has not looked at, and so not obeyed."""
        left = [f"attribute {name}={self.attributes[name]}" for name in self.attributes.left()]
        left += [
            f"input {place}"
            for place, value in enumerate(self.inputs)
            if value is not None and self.constant[place] and place not in self.asked
        ]
        if left:
            raise self.refuse(
                f"must have nothing that is not read here, but has {left[0]}; export it without"
            )

    def value(self, index: int) -> Tensor:
        """An input that must be there."""
        found = self.optional(index)
        if found is None:
            raise self.refuse(f"must have an input {index}, but has none; export the network again")
        return found

    def optional(self, index: int) -> Tensor | None:
        """An input that may be left out."""
        self.asked.add(index)
        return self.inputs[index] if index < len(self.inputs) else None

    def weights(self, index: int) -> Tensor | None:
        """An optional input that must be a constant."""
        if self.optional(index) is None:
            return None
        if not self.constant[index]:
            raise self.refuse(
                f"must have a constant as its input {index}, but that depends on the network's input; export "
                "the network with its weights inside"
            )
        return self.value(index)

    def given(self, name: str, index: int, since: int) -> list[Any] | None:
        """A list that newer opsets pass as a constant input and older ones as an attribute."""
        if self.opset >= since:
            found = self.weights(index)
            return None if found is None else found.reshape(-1).tolist()
        return self.attributes.get(name)

    def number(self, name: str, index: int, since: int) -> float | None:
        """As `given`, for one number."""
        if self.opset < since:
            return self.attributes.get(name)
        found = self.given(name, index, since)
        return found[0] if found else None

    def must(self, name: str, *allowed: Any) -> None:
        """Refuse an attribute with a value other than those allowed; one that the opset does not know is
        fine.
        """
        found = self.attributes.get(name)
        if found is not None and found not in allowed:
            words = " or ".join(map(str, allowed))
            raise self.refuse(f"must have {name} {words}, got {found}; export the network for inference so")

    def axes(self, axes: list[int] | None, rank: int) -> tuple[int, ...]:
        """Axes counted from the front, none of them the batch; all but the batch are not what ``None``
        means in ONNX.
        """
        found = tuple(axis % rank for axis in (range(rank) if axes is None else axes))
        if 0 in found:
            raise self.refuse("must leave axis 0 alone, which is the batch, but works along it; export it so")
        return found


@dataclass(frozen=True, kw_only=True)
class OnnxLayer:
    """A module and the numbers of the values it is called with; layer ``k`` makes value ``k + 1``, value 0
    is the input.
    """

    name: str
    module: nn.Module
    sources: tuple[int, ...]


class Function(nn.Module):
    """A function of some tensors and of constants between them, which are parameters (whole numbers and truth
    values: buffers).

    Args:
        name: shown in printed models.
        function: called with all arguments in order.
        arguments: the constants, and ``None`` where an argument of `forward` goes.
    """

    def __init__(
        self, name: str, function: Callable[..., Tensor], arguments: tuple[Tensor | None, ...]
    ) -> None:
        super().__init__()
        self.name, self.function, self.count = name, function, len(arguments)
        for place, constant in enumerate(arguments):
            if constant is not None and constant.is_floating_point():
                self.register_parameter(f"constant_{place}", nn.Parameter(constant.clone()))
            elif constant is not None:
                self.register_buffer(f"constant_{place}", constant.clone())

    def arguments(self, values: Sequence[Any]) -> Iterator[Any]:
        """All arguments in order: a place without a constant of its own takes the next of the values."""
        rest = list(values)
        for place in range(self.count):
            name = f"constant_{place}"
            yield getattr(self, name) if hasattr(self, name) else rest.pop(0)
        if rest:
            raise TypeError(f"{self.name} takes {len(values) - len(rest)} tensors, got {len(values)}")

    def forward(self, *values: Any) -> Any:
        return self.function(*self.arguments(values))

    def extra_repr(self) -> str:
        return self.name


def function(node: Node, made: Callable[..., Tensor], inputs: int | None = None) -> Function:
    """A `Function` of the node's inputs (the first few of them), constants among them kept."""
    count = len(node.inputs) if inputs is None else inputs
    node.asked.update(range(count))
    arguments = tuple(
        value if fixed else None
        for value, fixed in zip(node.inputs[:count], node.constant[:count], strict=True)
    )
    return Function(node.op, made, arguments)


def padded(pads: list[int], module: nn.Module, fill: float) -> nn.Module:
    """A module after padding its input's last axes with ``fill``; ``pads`` as in ONNX: all beginnings,
    then all ends.
    """
    count = len(pads) // 2
    around = [pads[axis + side * count] for axis in reversed(range(count)) for side in (0, 1)]
    edge = Function("Pad", lambda x: torch.nn.functional.pad(x, around, value=fill), (None,))
    return nn.Sequential(edge, module)
