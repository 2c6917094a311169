"""How many examples fit at once: estimated before, halved when it was too much."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from holdfast._memory import free_bytes, out_of_memory
from holdfast._tensors import applied, device_of
from holdfast.attacks.modes import attacking

Result = TypeVar("Result")

SHARE = 0.25
"""Share of the free memory that one batch may take: attacks keep some copies of their own."""
MOST = {"cpu": 256, "cuda": 4096}
"""Larger batches gain nothing: a CPU's caches overflow, a GPU is busy."""


def batch_size_for(model: nn.Module, x: Tensor) -> int:
    """Examples that an attack may take at once: what a forward pass of one keeps for its gradient, into a
    quarter of what is free.
    """
    device = device_of(model, x)
    most = MOST.get(device.type, MOST["cuda"])
    each = max(1, kept_bytes(model, x[:1].to(device)))
    free = free_bytes(device)
    return most if free is None else max(1, min(most, int(SHARE * free / each)))


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for the input gradient of this batch, parameters not counted."""
    owned = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor._is_zerotensor():  # zeros of forward derivatives have no storage
            return tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with attacking(model, "eval"), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        applied(model, x.detach().clone().requires_grad_(True))
    return sum(seen.values())


def halving(work: Callable[[int], Result], size: int, notice: Callable[[str], None]) -> tuple[Result, int]:
    """``work(size)``, with half the size as often as memory runs out; the result and the size that fitted."""
    while True:
        try:
            return work(size), size
        except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
            if size == 1 or not out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = size // 2
        notice(f"out of memory: going on with {size} examples at once")
