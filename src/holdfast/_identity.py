"""What makes a thing the same thing: a digest of its content, whatever it is."""

import dataclasses
import enum
import functools
import hashlib
import inspect
import types
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from holdfast._tensors import portions, raw_bytes

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
LIBRARIES = ("holdfast", "torch")
"""Whose functions go by their names: another version of them does not make another run."""
_TORCH = frozenset(vars(nn.Module()))
"""Names that every module of torch has."""


def content_digest(*values: object, weights: bool = True) -> str:
    """A digest of all that values are made of: numbers, text, tensors, functions (their code), objects (class
    and attributes).

    ``weights``: whether the parameters and buffers of networks count with their numbers, or with names,
    shapes and types only.

    >>> content_digest(1, [2.0, "x"]) == content_digest(1, [2.0, "x"]) != content_digest(1, [2.5, "x"])
    True
    """
    digest = _Digest(weights)
    for value in values:
        digest.feed(value)
    return digest.sha.hexdigest()


class _Digest:
    def __init__(self, weights: bool) -> None:
        self.sha, self.weights = hashlib.sha256(), weights
        self.open: dict[int, int] = {}  # objects under way, so that a circle ends

    def word(self, *words: object) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
            self.sha.update(len(data).to_bytes(8, "big") + data)

    def _numbers(self, value: Tensor) -> None:
        """As `word` would take their bytes, without a copy of all of them."""
        self.sha.update((value.numel() * value.element_size()).to_bytes(8, "big"))
        value = value if value.ndim else value[None]
        for rows in portions(value):
            self.sha.update(raw_bytes(value[rows]))

    def feed(self, value: Any) -> None:
        if value is None or (
            isinstance(value, bool | int | float | complex | str | bytes) and not isinstance(value, enum.Enum)
        ):
            self.word(type(value).__name__, value if isinstance(value, bytes) else repr(value))
            return
        if id(value) in self.open:
            self.word("again", self.open[id(value)])
            return
        self.open[id(value)] = len(self.open)
        self._feed(value)
        del self.open[id(value)]

    def _feed(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self.word("tensor", value.dtype, tuple(value.shape))
            self._numbers(value)
        elif isinstance(value, np.ndarray | np.generic):
            self.word("array", value.dtype, value.shape, value.tobytes())
        elif isinstance(value, torch.Generator):
            self.feed(value.get_state())
        elif isinstance(value, torch.dtype | torch.device | torch.Size | Path | range | slice):
            self.word(type(value).__name__, value)
        elif isinstance(value, enum.Enum):
            self.word("enum", type(value).__qualname__, value.name)
        elif isinstance(value, type):
            self.word("class", _name(value))
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, Mapping):
            self.word("mapping", len(value))
            for key in sorted(value, key=repr):
                self.feed(key)
                self.feed(value[key])
        elif isinstance(value, Set):
            self.word("set", *sorted(content_digest(item, weights=self.weights) for item in value))
        elif isinstance(value, list | tuple):
            self.word("sequence", len(value))
            self._all(value)
        elif callable(value) and not dataclasses.is_dataclass(value) and self._function(value):
            pass
        else:
            self._object(value)

    def _all(self, values: Iterable[object]) -> None:
        for value in values:
            self.feed(value)

    def _function(self, value: Any) -> bool:
        """Whether the value is a function; its code and all it brings along are taken then."""
        if isinstance(value, functools.partial):
            self.word("partial")
            self._all((value.func, value.args, value.keywords))
        elif inspect.ismethod(value):
            self.word("method")
            self._all((value.__func__, value.__self__))
        elif isinstance(value, types.FunctionType):
            value = inspect.unwrap(value)
            self.word("function", _name(value))
            if _name(value).partition(".")[0] not in LIBRARIES:
                self._code(value.__code__)
            self._all((value.__defaults__, value.__kwdefaults__))
            self._all(_cell(cell) for cell in value.__closure__ or ())
        elif inspect.isroutine(value):
            self.word("routine", _name(value))
        else:
            return False
        return True

    def _code(self, code: types.CodeType) -> None:
        self.word(code.co_code, *code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant)
            else:
                self.feed(constant)

    def _module(self, module: nn.Module) -> None:
        self.word("module", _name(type(module)), module.extra_repr())
        script = getattr(module, "code", None)  # of compiled programs
        self.word(script if isinstance(script, str) else "")
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                if tensor is not None:
                    self.word(name, tensor.dtype, tuple(tensor.shape), tensor.requires_grad)
                    if self.weights:
                        self.word(raw_bytes(tensor))
        for name in _HOOKS:
            self._all(getattr(module, name, {}).values())
        own = {name: value for name, value in vars(module).items() if name not in _TORCH}
        self.feed(own if not isinstance(module, torch.jit.ScriptModule) else {})
        for name, child in module.named_children():
            self.word(name)
            self.feed(child)

    def _object(self, value: Any) -> None:
        self.word("object", _name(type(value)))
        if dataclasses.is_dataclass(value):
            # What does not count when two are compared, as what was worked out in use, is no content.
            counted = [field.name for field in dataclasses.fields(value) if field.compare]
            self.feed({name: getattr(value, name) for name in counted})
            return
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(
            value, "__dict__", {}
        )
        # What is worked out when first asked for says nothing new.
        self.feed(
            {
                name: item
                for name, item in held.items()
                if not isinstance(getattr(type(value), str(name), None), functools.cached_property)
            }
        )


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
