"""Is a model one function, however and however often it is run: its operations compared from run to run, and
what a run may not change.

A trace cannot read values (`recording`), so that which operations a run performs depends on its circumstances
alone: dtype, copy, gradients, inference mode, number of examples, earlier runs. They are varied here one at a
time.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.errors import InputError
from holdfast.verification.recording import Noted, Tracer

# Relative errors of constants that a model computes from its weights, such as normalised ones.
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-10}
DEPTH = 4  # of the attributes of attributes that are watched


def check_copy(copy: nn.Module, model: nn.Module) -> None:
    """Refuse a copy that shares a tensor with the model, or has not the same numbers: converting it would
    change the model, or another one be judged.
    """
    theirs = dict(_tensors(copy))
    shared = {id(tensor) for tensor in theirs.values()}
    for name, tensor in _tensors(model):
        if id(tensor) in shared or copy is model:
            raise InputError(
                f"model must be copied to be verified, but its copy shares {name} with it; remove its "
                "__deepcopy__."
            )
        same = name in theirs and theirs[name].shape == tensor.shape
        if not same or not torch.equal(theirs[name].nan_to_num(), tensor.nan_to_num()):
            raise InputError(
                f"model must be equal to its copy to be verified in float64, but they differ in {name}; "
                "remove its __deepcopy__."
            )
    if copy is model:
        raise InputError(
            "model must be copied to be verified, but its copy is itself; remove its __deepcopy__."
        )


def check_same(first: Tracer, second: Tracer, dtype: torch.dtype, when: str) -> None:
    """Refuse a model whose two runs performed different operations, or the same with different constants."""
    tolerance = ROUNDING[dtype]
    for one, other in itertools.zip_longest(first.notes, second.notes):
        if one is None or other is None or not _same(one, other, first, second, tolerance):
            names = " and ".join("nothing more" if note is None else repr(note.name) for note in (one, other))
            raise InputError(
                "model must be one fixed function of each example to be verified, but it computes otherwise "
                f"{when} ({names}); remove what depends on that, and keep all it computes with in parameters "
                "and buffers."
            )


def _same(one: Noted, other: Noted, first: Tracer, second: Tracer, tolerance: float) -> bool:
    if (one.name, one.shape, len(one.arguments)) != (other.name, other.shape, len(other.arguments)):
        return False
    return all(
        _equal(a, b, (first.rows, second.rows), tolerance)
        for a, b in zip(one.arguments, other.arguments, strict=True)
    )


def _equal(a: object, b: object, rows: tuple[int, int], tolerance: float) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape:  # a constant made for every row
            if not (a.ndim == b.ndim and (len(a), len(b)) == rows and a.shape[1:] == b.shape[1:]):
                return False
            a, b = a[0], b[0]
        a, b = a.detach().double(), b.detach().to(a.device).double()
        size = float(a.abs().amax()) if a.numel() else 0.0
        return torch.equal(a, b) or bool(((a - b).abs() <= tolerance * size).all())
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= tolerance * abs(a)
    return a == b


@contextmanager
def unchanging(*models: nn.Module) -> Iterator[None]:
    """Refuse models that draw random numbers or change themselves when they are run: the next run may be
    another function.
    """
    before = [_state(model) for model in models]
    chance = _chance()
    yield
    for model, noted in zip(models, before, strict=True):
        now = _state(model)
        changed = [name for name in sorted({*noted, *now}) if noted.get(name) != now.get(name)]
        if changed:
            raise InputError(
                "model must be one fixed function of each example to be verified, but running it changes its "
                f"{changed[0]}; keep it as it is in evaluation mode."
            )
    if chance != _chance():
        raise InputError(
            "model must be one fixed function of each example to be verified, but it draws random numbers; "
            "remove randomness in evaluation mode, or use hf.smooth for a randomised classifier."
        )


def _chance() -> object:
    # Python's own state moves with type checkers too, which draw the entries that they look at; torch's
    # operations are seen as they come.
    return _plain(np.random.get_state(), DEPTH)


def _state(model: nn.Module) -> dict[str, object]:
    """Versions of tensors, and plain attributes of the modules, of their classes and of what they hold."""
    found: dict[str, object] = {
        name: tensor._version for name, tensor in _tensors(model) if not tensor.is_inference()
    }
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # which keeps its methods there as they are asked for
            continue
        own = {name: value for name, value in vars(module).items() if name not in _MACHINERY}
        for kind in type(module).__mro__:
            if not kind.__module__.startswith("torch.") and kind is not object:
                own |= {
                    name: value
                    for name, value in vars(kind).items()
                    if not name.startswith("__") and name not in own
                }
        for name, value in own.items():
            found[f"{path}.{name}".lstrip(".")] = _plain(value, DEPTH)
    return found


_MACHINERY = frozenset(vars(nn.Module()))


@dataclass(frozen=True, eq=False)
class _Held:
    """A tensor that is neither parameter nor buffer. One in place of another is no change: models keep
    features for their callers.
    """

    tensor: Tensor
    version: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Held) or type(self.tensor) is not type(other.tensor):
            return False
        return self.tensor is not other.tensor or self.version == other.version


def _plain(value: object, depth: int) -> object:
    """A picture of what of a value can change a branch: its numbers and words, whether its tensors are
    written to, and not the modules, which are seen elsewhere."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if type(value).__module__ == "itertools":
        return repr(value)
    if isinstance(value, Tensor):
        return _Held(tensor=value, version=0 if value.is_inference() else value._version)
    if depth < 0 or isinstance(value, nn.Module | type) or callable(value):
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return [(repr(key), _plain(one, depth - 1)) for key, one in value.items()]
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(one, depth - 1) for one in value]
    return _plain(getattr(value, "__dict__", None), depth - 1)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
