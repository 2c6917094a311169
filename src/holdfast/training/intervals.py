"""Interval bounds that carry gradients: what certified training differentiates (Gowal et al. 2018, arXiv 1810.12715).

An `Interval` is a tensor of values with a lower and an upper end of each. A module is called on it as on any
tensor: torch's functions arrive at `Interval.__torch_function__`, which bounds what they return. Nothing is rounded
outwards here; what is claimed of a trained network is proved by `holdfast.verification`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from holdfast._tensors import called, generator
from holdfast.errors import InputError
from holdfast.losses import Labels, Outputs

ALLOWED = (
    "linear, convolution, batch norm, average and max pooling, ReLU, leaky ReLU, ELU, softplus, sigmoid, tanh, "
    "reshaping, slices, sums, concatenation, products with constants"
)
Operation = Callable[..., Any]


@dataclass
class Seen:
    """What a pass met on its way, for regularisers and for the last layer.

    Attributes:
        before_units: intervals that piecewise linear units were applied to, in order.
        statistics: mean and variance that each batch norm went by, in order.
        operations: names of all that was applied.
        examples: in the batch.
        rectify: what piecewise linear units do to the values; None for what torch does. Set by
            `holdfast.training.relaxation`, whose batch norms go by ``given`` statistics, in order.
    """

    before_units: list["Interval"] = field(default_factory=list)
    statistics: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    operations: set[str] = field(default_factory=set)
    examples: int = 0
    rectify: "Callable[[Interval, float], Tensor] | None" = None
    given: Iterator[tuple[Tensor, Tensor]] | None = None


class Interval(Tensor):
    """Values of a batch, with bounds of what they can be.

    Attributes:
        value: at the examples themselves.
        lower, upper: of any point of the boxes the pass began with.
        seen: what the pass met.
        last: where this is the result of a linear layer, its input, weight and bias.
        part: whether this may be a view of another.
    """

    value: Tensor
    lower: Tensor
    upper: Tensor
    seen: Seen
    last: "tuple[Interval, Tensor, Tensor | None] | None"
    part: bool

    @staticmethod
    def __new__(cls, value: Tensor, lower: Tensor, upper: Tensor, seen: Seen) -> "Interval":
        made: Interval = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, dtype=value.dtype, device=value.device
        )
        return made

    def __init__(self, value: Tensor, lower: Tensor, upper: Tensor, seen: Seen) -> None:
        self.value, self.lower, self.upper, self.seen, self.last = value, lower, upper, seen, None
        self.part = False

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Interval(shape={tuple(self.shape)})"

    @property
    def centre(self) -> Tensor:
        return (self.upper + self.lower) / 2

    @property
    def radius(self) -> Tensor:
        return (self.upper - self.lower) / 2

    def snapshot(self) -> "Interval":
        """The same, unmoved by what happens to this one."""
        made = Interval(self.value, self.lower, self.upper, self.seen)
        made.last = self.last
        return made

    def become(self, other: "Interval") -> "Interval":
        """This one with the other's values, as an operation in place leaves it.

        Raises:
            InputError: it may be a view, whose base would have to change too.
        """
        if self.part or other.shape != self.shape:
            raise _unknown("an operation in place on a view")
        self.value, self.lower, self.upper, self.last = other.value, other.lower, other.upper, other.last
        return self

    def around(self, value: Tensor, centre: Tensor, radius: Tensor) -> "Interval":
        """An interval of the same pass."""
        return Interval(value, centre - radius, centre + radius, self.seen)

    def mapped(self, operation: Callable[[Tensor], Tensor]) -> "Interval":
        """The operation at all three; it must be monotone and treat entries apart, or only move them about."""
        return Interval(operation(self.value), operation(self.lower), operation(self.upper), self.seen)

    @classmethod
    def __torch_function__(
        cls,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name, kwargs = function.__name__, dict(kwargs or {})
        if name == "__get__" or name in _METADATA:
            return super().__torch_function__(function, types, args, kwargs)  # type: ignore[no-untyped-call]
        # In place: worked out anew, since the values before are still needed, and put in their place.
        written = bool(kwargs.get("inplace")) or name in _IN_PLACE
        if name.endswith("_") and not name.startswith("_"):
            name, written = name[:-1], True
            function = getattr(Tensor, name)
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        operation = OPERATIONS.get(name.strip("_"))
        if operation is None:
            raise _unknown(name)
        found = operation(function, *args, **kwargs)
        if isinstance(found, Interval):
            found.seen.operations.add(name.strip("_"))
            if found.ndim == 0 or len(found) != found.seen.examples:
                raise _unknown(f"{name} over the batch")
            if written:
                return args[0].become(found)
            found.part = name in _VIEWS and found is not args[0]
        return found

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        raise _unknown(str(function))


def _unknown(name: str) -> InputError:
    return InputError(
        f"certified training needs a network of operations it has intervals for ({ALLOWED}), got {name!r}; replace it, "
        "or train by attacks."
    )


_IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__"}
_VIEWS = {
    *(
        "flatten",
        "unflatten",
        "view",
        "reshape",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "__getitem__",
    ),
    *("expand", "narrow", "select", "detach", "to", "float", "double", "contiguous"),
}
"""Functions whose result may share the memory of their argument."""
_METADATA = {
    "size",
    "dim",
    "numel",
    "is_floating_point",
    "stride",
    "is_contiguous",
    "ndimension",
    "__len__",
    "type",
}


def _moved(function: Operation, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Entries change their places, or go through a monotone function."""
    if not isinstance(x, Interval):
        raise InputError(
            f"{function.__name__} must be of the values bounded, got one of their arguments only."
        )
    if function.__name__ in ("elu", "celu") and (args[0] if args else kwargs.get("alpha", 1.0)) < 0:
        raise InputError(
            "certified training needs monotone activations, got elu with alpha below 0; change it."
        )
    if function.__name__ == "__getitem__" and not _keeps_examples(args[0]):
        raise _unknown("an index into the batch")
    found = x.mapped(lambda values: function(values, *args, **kwargs))
    if found.value.dtype != x.value.dtype and not {x.value.dtype, found.value.dtype} <= {
        torch.float32,
        torch.float64,
    }:
        raise _unknown(f"{function.__name__} to {found.value.dtype}")
    return found


def _keeps_examples(index: Any) -> bool:
    """Whether an index leaves the axis of the batch as it is."""
    first = index[0] if isinstance(index, tuple) and index else index
    return first is Ellipsis or (isinstance(first, slice) and first == slice(None))


def _itself(function: Operation, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    """Operations on an interval make new ones and nobody writes into it, so that a copy need not be one."""
    return x


def _constant(function: Operation, x: Interval, *args: Any, **kwargs: Any) -> Any:
    """Tensors made in the image of the values, but the same for all of them."""
    return function(x.value, *args, **kwargs)


def _kinked(function: Operation, x: Interval, *args: Any, **kwargs: Any) -> Interval:
    x.seen.before_units.append(x.snapshot())
    if function.__name__.startswith("leaky") and not 0 <= _slope(*args, **kwargs) <= 1:
        raise InputError(
            f"certified training needs leaky ReLU with a slope from 0 to 1, got {_slope(*args, **kwargs):g}; change it."
        )
    found = x.mapped(lambda values: function(values, *args, **kwargs))
    if x.seen.rectify is not None:
        slope = _slope(*args, **kwargs) if function.__name__.startswith("leaky") else 0.0
        found.value = x.seen.rectify(x, slope)
    return found


def _slope(negative_slope: float = 0.01, inplace: bool = False) -> float:
    """Of leaky ReLU, as torch's function takes it."""
    return negative_slope


def _linear(function: Operation, x: Interval, weight: Tensor, bias: Tensor | None = None) -> Interval:
    found = x.around(
        functional.linear(x.value, weight, bias),
        functional.linear(x.centre, weight, bias),
        functional.linear(x.radius, weight.abs()),
    )
    found.last = (x.snapshot(), weight, bias)
    return found


def _matrix_product(function: Operation, x: Any, matrix: Any) -> Interval:
    if not isinstance(x, Interval) or isinstance(matrix, Interval) or matrix.ndim != 2:
        raise InputError(
            "certified training has intervals for values times a constant matrix, got another product; replace it."
        )
    return _linear(function, x, matrix.T)


def _convolution(
    function: Operation, x: Interval, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Interval:
    return x.around(
        function(x.value, weight, bias, *args, **kwargs),
        function(x.centre, weight, bias, *args, **kwargs),
        function(x.radius, weight.abs(), None, *args, **kwargs),
    )


def _batch_norm(
    function: Operation,
    x: Interval,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Interval:
    """Statistics are those of the values, which also move the running ones (Shi et al. 2021, section 3.2)."""
    if x.seen.given is not None:
        mean, variance = next(x.seen.given)
    elif training or running_mean is None or running_var is None:
        dims = [dim for dim in range(x.value.ndim) if dim != 1]
        mean, variance = x.value.mean(dims), x.value.var(dims, unbiased=False)
    else:
        mean, variance = running_mean, running_var
    x.seen.statistics.append((mean, variance))
    shape = (1, -1, *[1] * (x.value.ndim - 2))
    scale = torch.rsqrt(variance + eps) * (1 if weight is None else weight)
    shift = (-mean * scale + (0 if bias is None else bias)).reshape(shape)
    spread = scale.abs().reshape(shape)
    scale = scale.reshape(shape)
    if x.seen.given is not None:
        value = x.value * scale + shift
    else:
        value = functional.batch_norm(
            x.value, running_mean, running_var, weight, bias, training, momentum, eps
        )
    return x.around(value, x.centre * scale + shift, x.radius * spread)


def _add(function: Operation, first: Any, second: Any, *, alpha: float = 1) -> Interval:
    return _plus(first, second if alpha == 1 else _times(second, alpha))


def _subtract(function: Operation, first: Any, second: Any, *, alpha: float = 1) -> Interval:
    return _plus(first, _times(second, -alpha))


def _reversed(function: Operation, first: Any, second: Any) -> Interval:
    return _plus(second, _times(first, -1))


def _plus(first: Any, second: Any) -> Interval:
    if isinstance(first, Interval) and isinstance(second, Interval):
        return Interval(
            first.value + second.value, first.lower + second.lower, first.upper + second.upper, first.seen
        )
    if isinstance(first, Interval):
        return first.mapped(lambda values: values + second)
    moved: Interval = second.mapped(lambda values: first + values)
    return moved


def _times(x: Any, factor: Any) -> Any:
    if not isinstance(x, Interval):
        return x * factor
    return x.around(x.value * factor, x.centre * factor, x.radius * abs(factor))


def _multiply(function: Operation, first: Any, second: Any) -> Any:
    if isinstance(first, Interval) and isinstance(second, Interval):
        raise InputError("certified training has no interval for a product of two values; replace it.")
    return _times(first, second) if isinstance(first, Interval) else _times(second, first)


def _divide(function: Operation, x: Any, divisor: Any) -> Any:
    if isinstance(divisor, Interval):
        raise InputError("certified training has no interval for a division by a value; replace it.")
    return _times(x, 1 / divisor)


def _negative(function: Operation, x: Interval) -> Any:
    return _times(x, -1)


def _concatenated(function: Operation, parts: Sequence[Any], *args: Any, **kwargs: Any) -> Interval:
    """Constants among the parts are bounds of themselves."""
    seen = next(part.seen for part in parts if isinstance(part, Interval))
    value, lower, upper = (
        function([getattr(p, end) if isinstance(p, Interval) else p for p in parts], *args, **kwargs)
        for end in ("value", "lower", "upper")
    )
    return Interval(value, lower, upper, seen)


def _dropout(
    function: Operation, x: Interval, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Interval:
    if training and p > 0:
        raise InputError(
            "certified training needs a network without dropout in training mode, got one; set its p to 0."
        )
    return x


_MOVES = (
    *("flatten", "unflatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "getitem"),
    *("expand", "narrow", "select", "pad", "to", "float", "double", "detach", "mean", "sum"),
    *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "max_pool2d"),
    *("sigmoid", "tanh", "softplus", "elu", "selu", "hardtanh", "clamp", "clamp_min"),
)
"""Functions that move entries about, or are monotone in each of them."""
OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(_MOVES, _moved),
    **dict.fromkeys(("clone", "contiguous"), _itself),
    **dict.fromkeys(("ones_like", "zeros_like", "full_like", "new_zeros", "new_ones", "new_full"), _constant),
    **dict.fromkeys(("relu", "leaky_relu"), _kinked),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("add", "iadd", "radd"), _add),
    **dict.fromkeys(("sub", "isub"), _subtract),
    **dict.fromkeys(("mul", "imul", "rmul"), _multiply),
    **dict.fromkeys(("div", "truediv", "true_divide"), _divide),
    **dict.fromkeys(("cat", "concat", "stack"), _concatenated),
    "rsub": _reversed,
    "neg": _negative,
    "linear": _linear,
    "matmul": _matrix_product,
    "batch_norm": _batch_norm,
    "dropout": _dropout,
}
"""By torch's name without underscores at its ends."""


def bounded(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    lower: Float[Tensor, "batch ..."],
    upper: Float[Tensor, "batch ..."],
    seen: Seen | None = None,
) -> Interval:
    """The model's outputs at ``x`` with their interval bounds over the boxes ``[lower, upper]``, all three
    differentiable in the weights; one pass of about three times the cost of a plain one.

    Raises:
        InputError: an operation that has no interval here.
    """
    seen = Seen() if seen is None else seen
    seen.examples = len(x)
    found = called(model, Interval(x, lower, upper, seen))
    if not isinstance(found, Interval):
        raise InputError(
            "certified training needs a network whose outputs depend on its inputs, got one that does not."
        )
    return found


def worst_outputs(found: Interval, y: Labels) -> Outputs:
    """The outputs with which every other class comes as near to the label as the bounds allow: 0 for the label, and
    ``-min (f_y - f_k)`` for class ``k``.

    Where the network ends in a linear layer, the differences are bounded through it as one (last-layer elision), which
    is tighter than the difference of two bounds. One signed output has its own end of the interval.
    """
    if found.shape[1] == 1:
        return torch.where(y[:, None] == 1, found.lower, found.upper)
    label = nn.functional.one_hot(y, found.shape[1]).to(found.lower)
    if found.last is None:
        least = (found.lower * label).sum(1, keepdim=True) - found.upper
    else:
        x, weight, bias = found.last
        apart = weight[y][:, None, :] - weight  # (batch, classes, inputs)
        least = torch.einsum("bki,bi->bk", apart, x.centre) - torch.einsum(
            "bki,bi->bk", apart.abs(), x.radius
        )
        if bias is not None:
            least = least + bias[y][:, None] - bias
    return -least * (1 - label)


def interval_start(model: nn.Module, *, seed: int = 0) -> None:
    """Draw the weights of linear and convolution layers with standard deviation ``sqrt(2 pi) / fan-in``, in place, and
    set their biases to 0: interval bounds then keep their width from layer to layer (Shi et al. 2021, section 3.1).
    """
    draw = generator(seed)
    with torch.no_grad():
        for layer in model.modules():
            if (
                isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
                and layer.weight.requires_grad
            ):
                drawn = torch.randn(layer.weight.shape, generator=draw) * (
                    math.sqrt(2 * math.pi) / layer.weight[0].numel()
                )
                layer.weight.copy_(drawn)
                if layer.bias is not None:
                    layer.bias.zero_()
