"""Where training runs: one process on the CPU, or what lightning-fabric makes of the settings.

Importing lightning-fabric takes twice as long as importing torch, so it is left out where it would only pass
calls on.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from holdfast.errors import InputError

Value = TypeVar("Value")


@runtime_checkable
class Devices(Protocol):
    """The part of lightning-fabric's ``Fabric`` that training uses."""

    @property
    def device(self) -> torch.device: ...

    @property
    def world_size(self) -> int: ...

    @property
    def global_rank(self) -> int: ...

    @property
    def is_global_zero(self) -> bool: ...

    def launch(self) -> Any: ...

    def setup(self, module: nn.Module, *optimizers: Any) -> Any: ...

    def autocast(self) -> AbstractContextManager[None]: ...

    def backward(self, tensor: Tensor) -> None: ...

    def all_reduce(self, data: Any, *, reduce_op: str) -> Any: ...

    def broadcast(self, obj: Value) -> Value: ...


class OneProcess:
    """The CPU in full precision: what ``Fabric`` does with it, in the same words."""

    device = torch.device("cpu")
    world_size, global_rank, is_global_zero = 1, 0, True

    def launch(self) -> None:
        """No other process is to be started."""

    def setup(self, module: nn.Module, *optimizers: Any) -> tuple[Any, ...]:
        return module.to(self.device), *optimizers

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, tensor: Tensor) -> None:
        tensor.backward()  # type: ignore[no-untyped-call]

    def all_reduce(self, data: Any, *, reduce_op: str) -> Any:
        return data

    def broadcast(self, obj: Value) -> Value:
        return obj


def devices_for(accelerator: str, devices: int, precision: str, strategy: str) -> Devices:
    """What these settings name. 64-true is the model's own affair: fabric would cast its outputs back to
    float32.

    Raises:
        InputError: this machine has no such devices, or they do not go together.
    """
    started = os.environ.get("WORLD_SIZE", "1")
    if (devices, strategy) == (1, "auto") and "TORCHELASTIC_RUN_ID" in os.environ and started != "1":
        raise InputError(
            f"devices must be the number of processes on each machine, of which torchrun has started {started} in all, got "
            "1; pass device=DeviceSettings(devices=..., strategy='ddp') (--device.devices, --device.strategy ddp)."
        )
    if (devices, strategy) == (1, "auto") and precision.endswith("-true") and _on_cpu(accelerator):
        return OneProcess()
    from lightning_fabric import Fabric

    words: Any = "32-true" if precision == "64-true" else precision
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=words, strategy=strategy)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise InputError(
            "accelerator, devices, precision and strategy must be available on this machine, got "
            f"{accelerator!r}, {devices!r}, "
            f"{precision!r} and {strategy!r} ({' '.join(str(error).split())}); leave them out for the "
            "default."
        ) from error


def _on_cpu(accelerator: str) -> bool:
    if any(name.startswith("LT_") for name in os.environ):  # `fabric run` has the last word
        return False
    none_else = not torch.accelerator.is_available() and find_spec("torch_xla") is None
    return accelerator == "cpu" or (accelerator == "auto" and none_else)
