"""How much memory there is to be had; what does not fit is refused with the figure before it is taken."""

import mmap
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from holdfast.errors import InputError

LARGE = 2**28
"""Bytes of what is as large as the data, beyond which it is kept in a file."""


def free_bytes(device: torch.device) -> int | None:
    """Memory to be had on the device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    file = Path("/proc/meminfo")
    if device.type != "cpu" or not file.exists():
        return None
    named = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return next((int(parts[1]) * 2**10 for parts in named if parts[0] == "MemAvailable:"), None)


def room(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor to be filled, as large as the data are: in memory, or where it is large, on a CPU, in a temporary file that
    is mapped into memory and gone with the tensor (in ``TMPDIR``).

    >>> room((2, 3), torch.float32, torch.device("cpu")).shape
    torch.Size([2, 3])
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    if size <= LARGE or device.type != "cpu" or not hasattr(os, "posix_fallocate"):
        return torch.empty(shape, dtype=dtype, device=device)
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)  # now, since a full disk would end the process later
            held = mmap.mmap(file.fileno(), size)
    except OSError:  # no room there: then it has to be in memory
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(held, dtype=dtype).view(shape)


def out_of_memory(error: BaseException) -> bool:
    """Whether this is one of the ways in which memory runs out; on a CPU torch has no type of its own for
    it.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "allocate memory" in text or "not enough memory" in text or "out of memory" in text


def require_memory(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse what does not fit.

    Raises:
        InputError: more bytes are needed than the device has free; the message has both figures.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise InputError(
            f"{what} must fit into the free memory of {device} ({free / 2**30:.1f} GiB), it needs "
            f"{needed / 2**30:.1f} GiB; {remedy}."
        )
