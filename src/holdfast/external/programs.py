"""TorchScript and ``torch.export`` files: networks that bring their own program."""

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InputError

_load_script: Callable[..., Any] = torch.jit.load


class Program(nn.Module):
    """A loaded program as an ordinary module: its weights are this module's, its inside is not looked into.

    The program stays as it was saved: switching to training changes nothing in it, and its weights take no
    gradients.
    """

    def __init__(self, program: Any) -> None:
        super().__init__()
        for parameter in program.parameters():  # copies of those that do would not be leaves
            parameter.requires_grad = False
        self._held = (program,)  # not a submodule: programs refuse eval, hooks and requires_grad_

    @property
    def program(self) -> Any:
        """What was loaded."""
        return self._held[0]

    def forward(self, x: Tensor) -> Any:
        return self.program(x)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.program.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        yield from self.program.named_buffers(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.program.state_dict(*args, **kwargs)

    def __deepcopy__(self, memo: dict[Any, Any]) -> "Program":
        with warnings.catch_warnings():  # torch's own, about its internals
            warnings.simplefilter("ignore")
            return Program(copy.deepcopy(self.program, memo)).eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.program._apply(fn)
        return self


def load_torchscript(path: Path) -> Program:
    """A network saved by ``torch.jit.save``, in evaluation mode. It runs in torch's own interpreter, but it
    is a program.

    Raises:
        InputError: the file is cut short or was written by a torch this one cannot read.
    """
    with warnings.catch_warnings():  # torch.jit is deprecated; files in its format stay
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded = _loaded(path, "TorchScript", lambda: _load_script(str(path), map_location="cpu"))
    return Program(loaded.eval()).eval()


def load_exported(path: Path) -> Program:
    """A network saved by ``torch.export.save``; it must have been exported in evaluation mode.

    Raises:
        InputError: the file is cut short, was written by a torch this one cannot read, or holds dropout or
            batch norm as in training.
    """
    exported = _loaded(path, "a torch.export", lambda: torch.export.load(path))
    for node in exported.graph.nodes:
        name = getattr(node.target, "__name__", str(node.target)) if node.op == "call_function" else ""
        training = {"dropout.default": 2, "batch_norm.default": 5}.get(name)
        if training is not None and node.args[training]:
            raise InputError(
                f"{path} must be exported in evaluation mode, but {node.name} works as in training; call "
                "model.eval() before torch.export.export."
            )
    return Program(exported.module()).eval()


def _loaded(path: Path, kind: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # torch raises many kinds for files it cannot read
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} must be a whole {kind.removeprefix('a ')} file that this torch ({torch.__version__}) "
            f"can read, but it cannot be ({why}); save it again."
        ) from error
