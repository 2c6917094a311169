"""Seeing what a model does: each of torch's basic operations that touches the input becomes a step, and no
value leaves torch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from holdfast.errors import InputError
from holdfast.verification.graph import Step
from holdfast.verification.linear_maps import Shape

ALLOWED = (
    "linear, convolution, batch norm, average and max pooling, reshaping, slices, sums, concatenation, "
    "constants, dropout, ReLU, leaky ReLU, ELU, softplus, sigmoid, tanh, erf, GELU, SiLU, squares, exp, abs "
    "and clamp"
)
ROWS = 2  # of the traced batch; two, so that an operation across examples shows in a shape

Translation = Callable[["Tracer", Tensor, Sequence[Any], dict[str, Any]], int]

# Made in the image of a value, but the same for every value.
_CONSTANTS = {"full_like", "zeros_like", "ones_like", "new_zeros", "new_ones", "new_full", "new_tensor"}

# What may be read of a value: the same for all values of its shape and type.
_METADATA = {
    "shape",
    "size",
    "dim",
    "ndim",
    "ndimension",
    "numel",
    "nelement",
    "__len__",
    "stride",
    "storage_offset",
    "is_contiguous",
    "element_size",
    "itemsize",
    "nbytes",
    "dtype",
    "type",
    "result_type",
    "can_cast",
    "device",
    "get_device",
    "layout",
    "names",
    "has_names",
    "is_floating_point",
    "is_complex",
    "is_signed",
    "is_conj",
    "is_neg",
    "is_inference",
    "is_cpu",
    "is_cuda",
    "is_meta",
    "is_mps",
    "is_xpu",
    "is_xla",
    "is_sparse",
    "is_sparse_csr",
    "is_mkldnn",
    "is_nested",
    "is_quantized",
    "requires_grad",
    "is_leaf",
    "grad_fn",
    "grad",
    "_backward_hooks",
    "__hash__",
}
_HARMLESS = _METADATA | _CONSTANTS
# Setting these changes no value.
_SETTABLE = {"requires_grad", "grad", "_backward_hooks"}
# Their arguments name the rows of the batch; the step depends on the shape of the result alone.
_SHAPED = {"view", "_unsafe_view", "reshape", "_reshape_alias", "expand"}

# Names of one operation, chosen by gradients and by device; what differs in their arguments is for training.
BATCH_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")

LOST = -1  # the number of a value that depends on the input in a way that has no step


@dataclass(frozen=True, kw_only=True)
class Noted:
    """One operation as it was called.

    Attributes:
        name: of the operation.
        shape: of one example of the result.
        arguments: numbers of values, constants and plain arguments, in order.
    """

    name: str
    shape: Shape = ()
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class TracedValue:
    """A value of the graph, as an argument."""

    number: int


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the steps of one forward pass.

    Attributes:
        rows: of the batch.
        steps: recorded so far.
        notes: the operations they come from.
        place: path and type of the module being run.
        calling: the function of torch that was called last on a value, by the name it was called by.
        refused: the first refusal, which the model may have caught.
    """

    def __init__(self, translations: dict[str, Translation], rows: int = ROWS) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = rows
        self.steps: list[Step] = []
        self.notes: list[Noted] = []
        self.place: list[str] = []
        self.calling = ""
        self.refused: InputError | None = None
        self._translations = translations
        self._known: dict[int, int] = {}
        self._kept: list[Tensor] = []  # so that no identity and no place in memory is used twice
        self._memory: dict[int, list[Tensor]] = {}

    def record(self, step: Step) -> int:
        """Add a step; returns the number of its value."""
        self.steps.append(step)
        return len(self.steps) - 1

    def number(self, value: object) -> int | None:
        """Which value of the graph a tensor is; ``None`` for a constant, `LOST` for what depends on the
        input and is no value.
        """
        known = self._known.get(id(value))
        if known is None and isinstance(value, Tensor) and _memory(value) in self._memory:
            return LOST  # the memory of a value under a name that none of torch's operations gave it
        return known

    def bind(self, tensor: Tensor, number: int) -> None:
        """Remember that a tensor is this value."""
        self._known[id(tensor)] = number
        self._kept.append(tensor)
        memory = _memory(tensor)
        if memory:
            self._memory.setdefault(memory, []).append(tensor)

    def refuse(self, what: str) -> InputError:
        """The error for an operation that has no bound here."""
        return self._noted(f"consist of {ALLOWED}", f"uses {what}; replace it, or use attacks instead.")

    def refuse_leaving(self) -> InputError:
        """The error for values taken out of torch, where nothing is known of what becomes of them."""
        return self._noted(
            "compute in torch alone (shapes, types and devices may be read, values may not)",
            f"takes values out of it by {self.calling!r}; write that with tensor operations, or use "
            "attacks instead.",
        )

    def _noted(self, what: str, but: str) -> InputError:
        where = self.place[-1] if self.place else "the model"
        error = InputError(f"model must {what} to be verified, but {where} {but}")
        self.refused = self.refused or error
        return error

    def touched(self, *arguments: object) -> list[Tensor]:
        """The tensors among arguments that depend on the input."""
        return [leaf for leaf in _tensors(arguments) if self.number(leaf) is not None]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:  # into basic operations, as it is without inference mode
                return func.decompose(*args, **kwargs)
        name = func.overloadpacket.__name__.removesuffix("_")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise self.refuse(f"the random operation {name!r}")
        touched = self.touched(args, kwargs)
        numbers = [self.number(leaf) for leaf in touched]
        if LOST in numbers:
            raise self.refuse(
                f"{name!r} on indices, or on memory that was changed or reached under another name"
            )
        noted = Noted(
            name="batch_norm" if name in BATCH_NORMS else name,
            arguments=tuple(self._arguments(name, args, kwargs)),
        )
        result = func(*args, **kwargs)
        if not touched or name in _CONSTANTS:
            return result
        found = _tensors(result)
        if not found:
            raise self.refuse_leaving()
        value, *others = found
        if name not in self._translations:
            raise self.refuse(f"the operation {name!r}")
        if (
            value.ndim < 1
            or value.shape[0] != self.rows
            or any(leaf.shape[0] != self.rows for leaf in touched)
        ):
            raise self.refuse(f"{name!r} across examples or in more dimensions than one")
        number = self._translations[name](self, value, args, kwargs)
        for written in _written(func, args, kwargs):
            for alias in self._memory.get(_memory(written), ()):
                self._known[id(alias)] = LOST
        for other in others:
            self.bind(other, LOST)
        self.bind(value, number)
        if number not in numbers:
            self.notes.append(replace(noted, shape=shape_of(value)))
        return result

    def _arguments(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[object]:
        """What an operation is called with, without what says how it is computed."""
        of_rows = name in _SHAPED or (name == "slice" and (len(args) < 2 or args[1] == 0))
        if name in BATCH_NORMS:
            args = (*args[:5], args[-1])
        for leaf in tree_leaves((args, kwargs)):
            number = self.number(leaf)
            if number is not None:
                yield TracedValue(number)
            elif isinstance(leaf, Tensor) or (isinstance(leaf, bool | int | float) and not of_rows):
                yield leaf


class Watch(TorchFunctionMode):
    """Refuses what takes values out of torch: a function of them that answers with something else than
    further values.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", repr(func))
        setting = name == "__set__"
        if setting or name == "__get__":
            name = func.__self__.__name__
        if name in (_SETTABLE if setting else _HARMLESS) or not self._tracer.touched(args, kwargs):
            return func(*args, **kwargs)
        self._tracer.calling = name
        # Python code that has itself called as a function of torch is not seen into.
        foreign = (getattr(func, "__module__", None) or "torch").split(".")[0] != "torch"
        if setting or foreign:
            raise self._tracer.refuse_leaving()
        result = func(*args, **kwargs)
        if any(leaf is not None and self._tracer.number(leaf) is None for leaf in tree_leaves([result])):
            raise self._tracer.refuse_leaving()
        return result


def shape_of(value: Tensor) -> Shape:
    """Shape of one example."""
    return tuple(value.shape[1:])


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    """Where the memory of a tensor begins; 0 where it has none of its own."""
    if tensor.layout != torch.strided or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return 0
    return int(tensor.untyped_storage().data_ptr())


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation changes in place."""
    arguments = func._schema.arguments
    changed = [
        args[k] if k < len(args) else kwargs.get(one.name)
        for k, one in enumerate(arguments)
        if one.alias_info is not None and one.alias_info.is_write
    ]
    return _tensors(changed)
