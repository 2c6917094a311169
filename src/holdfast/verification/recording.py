"""Seeing what a model does: each of torch's basic operations that touches the input becomes a step."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from holdfast.errors import InputError
from holdfast.verification.graph import Step
from holdfast.verification.linear_maps import Shape

ALLOWED = (
    "linear, convolution, batch norm, average and max pooling, reshaping, slices, sums, concatenation, constants, dropout,"
    " ReLU, leaky ReLU, ELU, softplus, sigmoid, tanh, erf, GELU, SiLU, squares, exp, abs and clamp"
)
ROWS = 2  # of the traced batch; two, so that an operation across examples shows in a shape

Translation = Callable[["Tracer", Tensor, Sequence[Any], dict[str, Any]], int]

# Made in the image of a value, but the same for every value.
_CONSTANTS = {"full_like", "zeros_like", "ones_like", "new_zeros", "new_ones", "new_full"}


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the steps of one forward pass.

    Attributes:
        steps: recorded so far.
        place: path and type of the module being run.
    """

    def __init__(self, translations: dict[str, Translation]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.place: list[str] = []
        self._translations = translations
        self._known: dict[int, int] = {}
        self._kept: list[Tensor] = []  # so that no identity is used twice

    def record(self, step: Step) -> int:
        """Add a step; returns the number of its value."""
        self.steps.append(step)
        return len(self.steps) - 1

    def number(self, value: object) -> int | None:
        """Which value of the graph a tensor is; ``None`` for a constant."""
        return self._known.get(id(value))

    def bind(self, tensor: Tensor, number: int) -> None:
        """Remember that a tensor is this value."""
        self._known[id(tensor)] = number
        self._kept.append(tensor)

    def refuse(self, what: str) -> InputError:
        """The error for an operation that has no bound here."""
        where = self.place[-1] if self.place else "the model"
        return InputError(
            f"model must consist of {ALLOWED} to be verified, but {where} uses {what}; replace it, or use attacks instead."
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        touched = [
            leaf
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor) and self.number(leaf) is not None
        ]
        name = func.overloadpacket.__name__.removesuffix("_")
        if not touched or name in _CONSTANTS:
            return result
        if name not in self._translations:
            raise self.refuse(f"the operation {name!r}")
        value = result if isinstance(result, Tensor) else result[0]
        if value.ndim < 1 or value.shape[0] != ROWS or any(leaf.shape[0] != ROWS for leaf in touched):
            raise self.refuse(f"{name!r} across examples or in more dimensions than one")
        self.bind(value, self._translations[name](self, value, args, kwargs))
        return result


def shape_of(value: Tensor) -> Shape:
    """Shape of one example."""
    return tuple(value.shape[1:])
