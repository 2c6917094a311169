"""Leave a module exactly as it was found: training flags, parameter gradients, batch statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from holdfast.errors import InputError

Mode = Literal["eval", "train", "keep"]


@contextmanager
def in_mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Within the block: ``model`` in evaluation or training mode, or unchanged.

    Afterwards every submodule has its own flag again.

    Args:
        model: the network.
        mode: ``eval``, ``train``, or ``keep`` to change nothing.

    Raises:
        InputError: ``mode`` is none of the three.

    >>> import torch
    >>> import holdfast as hf
    >>> model = torch.nn.Dropout().train()
    >>> with hf.attacks.in_mode(model, "eval"):
    ...     model.training
    False
    """
    if mode not in get_args(Mode):
        raise InputError(
            f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}; 'eval' is the usual choice."
        )
    flags = [(module, module.training) for module in model.modules()]
    try:
        if mode != "keep":
            model.train(mode == "train")
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Batch norm in training mode normalises by the batch it sees and does not move its running statistics."""
    tracking = [
        module
        for module in model.modules()
        if isinstance(module, _NormBase) and module.training and module.track_running_stats
    ]
    try:
        for module in tracking:
            module.track_running_stats = False
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


@contextmanager
def attacking(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Within the block: gradients on for the input, off for every parameter, and the mode set by `in_mode`.

    It also holds buffers still (`still`), and works under ``no_grad`` and ``inference_mode``.

    Other state that a module changes in its own ``forward`` (spectral norm's power iteration) is not held.

    Args:
        model: the network to be attacked.
        mode: ``eval``, ``train`` or ``keep``.

    >>> import torch
    >>> import holdfast as hf
    >>> model = torch.nn.Linear(2, 2)
    >>> with hf.attacks.attacking(model, "eval"):
    ...     model.weight.requires_grad, model.training
    (False, False)
    """
    with in_mode(model, mode), still(model), torch.inference_mode(False), torch.enable_grad():
        live = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            for parameter in live:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in live:
                parameter.requires_grad_(True)
