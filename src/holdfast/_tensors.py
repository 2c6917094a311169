"""Small tensor helpers shared by all: rows as vectors, devices, chunks."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from holdfast.errors import InputError

COARSE = (torch.float16, torch.bfloat16)
"""Dtypes whose rounding is of the size of what adversaries change."""


def flatten(x: Tensor) -> Tensor:
    """Each example as a row: (batch, features)."""
    return x.reshape(x.shape[0], x.shape[1:].numel())  # -1 is refused for no rows, and exporters trace no len


def as_matrix(parameter: Tensor) -> Tensor:
    """A parameter as a matrix with one row per unit; vectors and scalars have one row."""
    return parameter.reshape(1, -1) if parameter.ndim < 2 else parameter.reshape(len(parameter), -1)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """A number per example, shaped to broadcast against ``like`` (batch, ...)."""
    return values.reshape(-1, *([1] * (like.ndim - 1)))


def chunks(total: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` rows covering ``range(total)``."""
    for start in range(0, total, max(1, size)):
        yield slice(start, min(total, start + size))


AT_ONCE = 2**22
"""Numbers looked at together where a whole data set is gone through: what is worked out of them stays small."""


def portions(x: Tensor) -> Iterator[slice]:
    """Consecutive rows of a data set, few enough that what is worked out of them stays small beside it."""
    return chunks(len(x), AT_ONCE // max(1, x.shape[1:].numel()))


def all_finite(x: Tensor) -> bool:
    """Whether every number is finite."""
    return all(bool(x[rows].isfinite().all()) for rows in portions(x))


def largest_size(x: Tensor) -> float:
    """The largest absolute value; NaN where there is one, 0 of nothing."""
    sizes = [x[rows].abs().max() for rows in portions(x) if x[rows].numel()]
    return float(torch.stack(sizes).max()) if sizes else 0.0


def called(model: nn.Module, points: Tensor) -> object:
    """``model(points)``, whatever that is: the one place where a user's model is called. It works on a copy
    and answers with one.

    So a model that changes its input in place leaves the points as they are, and one that writes every answer
    into the same storage leaves earlier answers as they were.
    """
    found = model(points.clone())
    return found.clone() if isinstance(found, Tensor) else found


def applied(model: nn.Module, points: Tensor) -> Tensor:
    """`called`, for a model known to answer with a tensor."""
    return cast(Tensor, called(model, points))


def widened(values: Tensor) -> Tensor:
    """Half-precision numbers in float32, others as they are: differences and losses of the former round to
    nothing or overflow.
    """
    return values.float() if values.dtype in COARSE else values


def answers(model: nn.Module, points: Tensor) -> Tensor:
    """`called`, in float32 at least: outputs that are to be judged.

    Raises:
        InputError: the model answers with something else than a row of floating-point outputs a point, as it
            may do away from the examples.
    """
    found = called(model, points)
    fit = isinstance(found, Tensor) and found.is_floating_point() and found.ndim == 2
    if not isinstance(found, Tensor) or not fit or len(found) != len(points) or found.shape[1] == 0:
        came = (
            f"{found.dtype} of shape {tuple(found.shape)}"
            if isinstance(found, Tensor)
            else type(found).__name__
        )
        raise InputError(
            f"model must return floating-point outputs of shape ({len(points)}, outputs) at every point of "
            f"the threat sets, got {came} at some; wrap it in a module that does."
        )
    return widened(found)


def batches(x: Tensor, size: int) -> Iterator[Tensor]:
    """Consecutive rows of ``x``, at most ``size`` at a time, as views."""
    return (x[part] for part in chunks(len(x), size))


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded with ``seed`` on ``device``."""
    return torch.Generator(device=device).manual_seed(seed)


def fresh(device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that goes on from torch's global one: another at each call, the same after ``torch.manual_seed``."""
    return generator(int(torch.randint(2**62, ())), device)


def device_of(model: nn.Module, x: Tensor) -> torch.device:
    """Where the model's parameters are; where ``x`` is, for a model without any."""
    return next((parameter.device for parameter in model.parameters()), x.device)


def raw_bytes(tensor: Tensor) -> bytes:
    """The numbers as they lie in memory, for digests."""
    # A copy: what is expanded along a side of 1 counts as contiguous, and yet cannot be viewed as bytes.
    whole = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return whole.flatten().view(torch.uint8).numpy().tobytes()
