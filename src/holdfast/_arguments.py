"""Rules for tensors, models and labels; `holdfast._rules` has those for numbers and words.

Conversions that lose nothing a user means are made: numpy arrays and lists become tensors, labels of any
integer type int64, examples take the dtype of the model's parameters. The rest is refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from holdfast._rules import Rule, kind, real
from holdfast._tensors import all_finite
from holdfast.errors import InputError

Array = Tensor | np.ndarray
"""What may be given where a tensor is needed."""
CLASSIFICATION = "Holdfast is for classification, where each example has one class out of 0, 1, .."


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor of numbers: one as it is, an array or nested lists converted.

    Raises:
        InputError: nothing that numpy makes an array of numbers of.
    """
    if isinstance(value, Tensor):
        _check_numbers(name, [("a tensor", value)])
        if value.is_sparse or value.is_quantized or value.is_nested:
            raise InputError(
                f"{name} must be a plain tensor, got a sparse, quantised or nested one; use .to_dense()."
            )
        return value
    if value is None or isinstance(value, str | bytes | dict | set | nn.Module | type) or callable(value):
        raise InputError(f"{name} must be a tensor or an array of numbers, got {_came(value)}; convert it.")
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{array.dtype} is no type of numbers")
        if array.dtype.byteorder == ">" or any(stride < 0 for stride in array.strides):
            array = array.astype(array.dtype.newbyteorder("="))
        with_own_memory = array if array.flags.writeable else array.copy()
        return torch.as_tensor(with_own_memory.copy() if array is not value else with_own_memory)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"{name} must be a tensor or an array of numbers, got {_came(value)} ({why}); convert it."
        ) from error


def _check_numbers(name: str, parts: Iterable[tuple[str, Any]]) -> None:
    """Refuse what lies on torch's meta device: tensors with a shape and no numbers."""
    for part, value in parts:
        if isinstance(value, Tensor) and value.device.type == "meta":
            raise InputError(
                f"{name} must hold numbers, got {part} on the meta device, which keeps shapes alone; load its "
                "numbers onto another device."
            )


def _came(value: Any) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def as_examples(name: str, value: Any) -> Tensor:
    """Finite floating-point examples (examples, ...), at least one.

    Raises:
        InputError: anything else.
    """
    x = as_tensor(name, value)
    if not x.is_floating_point():
        raise InputError(
            f"{name} must hold floating-point numbers, got {x.dtype}; scale pixels first, as x.float() / 255."
        )
    if x.ndim < 2 or x.numel() == 0:
        raise InputError(
            f"{name} must be floating-point examples (examples, features...) with at least one of each, got "
            f"shape {tuple(x.shape)}; give a single example as x[None]."
        )
    if not all_finite(x):
        bad = ~x.reshape(len(x), -1).isfinite().all(1)
        raise InputError(
            f"{name} must be finite, got NaN or infinity in {int(bad.sum())} of {len(x)} rows, the first "
            f"being row {int(bad.nonzero()[0])}; remove or fix these rows."
        )
    return x


def as_labels(name: str, value: Any) -> Tensor:
    """One class number per example, int64; any integer type is converted.

    Raises:
        InputError: targets of regression, several labels per example, one-hot rows, or no whole numbers; the
            message tells them apart.
    """
    y = as_tensor(name, value)
    if y.ndim != 1:
        rows = y.ndim == 2 and y.shape[1] > 1 and not y.is_complex()
        zeros_and_ones = rows and bool(((y == 0) | (y == 1)).all())
        if zeros_and_ones and bool((y.sum(1) == 1).all()):
            remedy = f"one-hot rows become class numbers by {name}.argmax(1)"
        elif rows:
            remedy = f"{CLASSIFICATION}, not for several labels or targets per example"
        else:
            remedy = f"use {name}.reshape(-1) where there is one per example"
        raise InputError(
            f"{name} must be one label per example, shape (examples,), got {y.dtype} of shape "
            f"{tuple(y.shape)}; {remedy}."
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        whole_numbers = not y.is_complex() and bool((y == y.floor()).all()) if y.is_floating_point() else True
        remedy = f"use {name}.long()" if whole_numbers else f"{CLASSIFICATION}, not for regression"
        raise InputError(
            f"{name} must hold integer labels, got {y.dtype} of shape {tuple(y.shape)}; {remedy}."
        )
    return y.long()


def as_inputs(model: nn.Module, x: Tensor) -> Tensor:
    """Examples in the dtype of the model's parameters; as they are for a model without any.

    >>> as_inputs(nn.Linear(2, 2), torch.zeros(1, 2, dtype=torch.float64)).dtype
    torch.float32
    """
    return x.to(model_dtype(model, x.dtype))


def paired(model: nn.Module, x: Array, y: Array) -> tuple[Tensor, Tensor]:
    """Examples and their labels, equally many, the examples in the dtype of the model's parameters.

    Raises:
        InputError: not as many labels as examples.
    """
    examples, labels = as_tensor("x", x), as_labels("y", y)
    if len(examples) != len(labels):
        raise InputError(
            f"x and y must have one row and one label per example, got {len(examples)} rows and "
            f"{len(labels)} labels; pair them up."
        )
    return as_inputs(model, examples), labels


def model_dtype(model: nn.Module, default: torch.dtype) -> torch.dtype:
    """Floating-point type of the model's parameters: that of the first."""
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, default)


def check_precision(model: nn.Module, x: Tensor, done: str) -> None:
    """Refuse half precision where something is to be proved: of a function of real numbers, from which
    outputs rounded to half precision are far.

    Raises:
        InputError: a parameter, a buffer or the examples have it.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers(), ("x", x)):
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"model and examples must be in float32 or float64 to be {done}, got {name} in "
                f"{value.dtype}: what is proved holds for real numbers, and rounding to half precision may "
                "undo it; use model.float() and x.float(), and run the model so."
            )


def as_weights(name: str, value: Any, examples: int | None = None) -> Tensor:
    """Weights of the examples: numbers >= 0 that add up to 1; in float64, where their rounding is taken out
    of the sum.

    Raises:
        InputError: another number of them, a negative or not finite one, or another sum.
    """
    weights = as_tensor(name, value)
    count = len(weights) if examples is None and weights.ndim else examples
    fit = weights.ndim == 1 and len(weights) == count and weights.is_floating_point()
    total = float(weights.double().sum()) if weights.dtype != torch.bool and not weights.is_complex() else 0.0
    if not fit or not bool((weights >= 0).all()) or not abs(total - 1) <= 1e-4:
        raise InputError(
            f"{name} must be {count} numbers >= 0 that add up to 1, one a training example, got "
            f"{weights.dtype} of shape {tuple(weights.shape)} with sum {total:.6g}; divide them by their sum."
        )
    return weights.double() / total


def _read_mask(value: Any) -> Tensor:
    mask = as_tensor("fixed", value)
    if mask.dtype != torch.bool:
        raise TypeError
    return mask


def _read_tensor(value: Any) -> Tensor:
    try:
        return as_tensor("it", value)
    except InputError as error:
        raise TypeError from error


def _read_points(value: Any) -> Tensor:
    points = _read_tensor(value)
    if not points.is_floating_point() or points.ndim < 2 or not bool(points.isfinite().all()):
        raise TypeError
    return points


def _read_bounds(value: Any) -> tuple[float | Tensor, float | Tensor]:
    low, high = (_edge(side) for side in value)
    return low, high


def _edge(side: Any) -> float | Tensor:
    plain = real(finite=False)
    if isinstance(side, int | float | str) or getattr(side, "shape", None) == ():
        return float(plain.read(side))
    return as_tensor("bounds", side)


def _named(convert: Any, name: str) -> Rule:
    return Rule(what="a tensor", read=lambda value: convert(name, value))


def _read_model(value: Any) -> nn.Module:
    if not isinstance(value, nn.Module):
        raise TypeError
    _check_numbers("model", (*value.named_parameters(), *value.named_buffers()))
    return value


def _read_initial(value: Any) -> nn.Module | Mapping[str, Tensor]:
    if not isinstance(value, nn.Module | Mapping):
        raise TypeError
    _check_numbers("initial", (value.state_dict() if isinstance(value, nn.Module) else value).items())
    return value


MODEL = Rule(
    what="a torch.nn.Module",
    read=_read_model,
    hint=lambda value: "wrap a function in a module with a forward",
)
INITIAL = Rule(what="the network before training, or its state_dict()", read=_read_initial)
GENERATOR = kind(Generator, what="a torch.Generator", hint="torch.Generator().manual_seed(0) is one")
EXAMPLES = _named(as_examples, "x")
LABELS = _named(as_labels, "y")
TARGETS = _named(as_labels, "targets")
RADII = _named(as_tensor, "radii")
TENSOR = Rule(what="a tensor or an array of numbers", read=_read_tensor)
POINTS = Rule(what="floating-point points (points, features...)", read=_read_points)
MASK = Rule(
    what="true or false for each feature, a boolean tensor",
    read=_read_mask,
    hint=lambda value: "build it with torch.zeros(..., dtype=torch.bool)",
)
BOUNDS = Rule(
    what="a pair (low, high) of numbers or of tensors, without NaN",
    read=_read_bounds,
    hint=lambda value: "pixels have (0.0, 1.0)",
)
