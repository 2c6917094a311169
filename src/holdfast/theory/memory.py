"""Memory is estimated before it is taken, and refused with the figure."""

import torch

from holdfast._memory import free_bytes
from holdfast.errors import InputError


def require_memory(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse what does not fit.

    Raises:
        InputError: more bytes are needed than the device has free; the message has both figures.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise InputError(
            f"{what} must fit into the free memory of {device} ({free / 2**30:.1f} GiB), it needs {needed / 2**30:.1f} GiB; {remedy}."
        )
