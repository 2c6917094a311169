"""Networks from outside: an import path with or without weights, ONNX, and files that are programs."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast import _imports
from holdfast._rules import FLAG, MAPPING, PATH, kind, maybe, takes
from holdfast.errors import InputError
from holdfast.external.onnx import load_onnx
from holdfast.external.programs import load_exported, load_torchscript

_WRAPPERS = ("state_dict", "model_state_dict", "model", "weights")  # where checkpoints keep their state dict
_PREFIXES = ("module.", "model.", "_orig_mod.")  # of nn.DataParallel, of modules around it, of torch.compile
_SHOWN = 3  # keys named in an error
_ONNX_SUFFIXES = ((".onnx",), (".onnx", ".gz"))
_NAMES = {"torchscript": "TorchScript", "export": "torch.export"}
_PROGRAMS = {"torchscript": load_torchscript, "export": load_exported}


@takes(
    source=kind(str, Path, nn.Module, what="an import path, a file or a network"),
    weights=maybe(PATH),
    init_args=maybe(MAPPING),
    trusted=FLAG,
)
def load_model(
    source: str | Path | nn.Module,
    *,
    weights: str | Path | None = None,
    init_args: Mapping[str, Any] | None = None,
    trusted: bool = False,
) -> nn.Module:
    """A network in evaluation mode, on the CPU.

    Args:
        source: an import path (``my_package.module:Net`` or ``my_package.module.Net``: a class or function
            that makes the network, or the network itself), which runs that code; or a file, known by its
            content and name: ONNX (``.onnx``, ``.onnx.gz``), read without executing anything; TorchScript or
            ``torch.export`` (``.pt2``), which are programs; or a network, to put weights into.
        weights: for a network or its import path: a safetensors file or a state dict saved by ``torch.save``, loaded
            without executing code (``weights_only=True``); a checkpoint that holds it under ``state_dict``,
            ``model_state_dict`` or ``model`` is understood, and so are names that all begin with ``module.``,
            ``model.`` or ``_orig_mod.``.
        init_args: arguments for what the import path names.
        trusted: whether programs may be loaded. TorchScript runs in torch's interpreter and not in Python,
            but its operations can read and write files, and reading it was never made safe against malicious
            files; ``torch.export`` files may hold pickles and Python expressions. So neither is loaded unless
            its origin is trusted.

    Raises:
        InputError: a file that is missing, cut short or of no known kind; a program without ``trusted``; a
            pickle that needs code; weights that do not fit (some keys are named); an import path that leads
            to no network.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.load_model("torch.nn:Linear", init_args={"in_features": 3, "out_features": 2})
    Linear(in_features=3, out_features=2, bias=True)
    """
    path = Path() if isinstance(source, nn.Module) else Path(source)
    if path.is_file() or _looks_like_file(path):
        if weights is not None or init_args:
            raise InputError(
                f"weights and init_args must go with an import path, but {path} is a file; leave them "
                "out, or name the class."
            )
        return _from_file(path, trusted)
    # whoever calls this wrote the path
    name = source if isinstance(source, nn.Module) else _imports.Trusted(source)
    model = _made(name, init_args or {})
    if weights is not None:
        _fill(model, read_weights(weights), Path(weights))
    return model.eval()


def _looks_like_file(path: Path) -> bool:
    suffixes = {".onnx", ".pt", ".pth", ".ts", ".pt2", ".safetensors", ".bin", ".ckpt", ".gz"}
    return path.suffix.lower() in suffixes or len(path.parts) > 1


def kind_of(path: Path) -> str:
    """What a file holds, by its content, then by its name: ``onnx``, ``torchscript``, ``export``,
    ``pickle``, ``safetensors`` or ``""``.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if start[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                if min((entry.header_offset for entry in archive.infolist()), default=1):
                    return ""  # cut short: what was found is an archive within this one
                names = {name.partition("/")[2] or name for name in archive.namelist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):  # zipfile lets them all out
            return ""
        if names & {"archive_format", "serialized_exported_program.json"}:
            return "export"
        return "torchscript" if "constants.pkl" in names else "pickle" if "data.pkl" in names else ""
    suffixes = tuple(suffix.lower() for suffix in path.suffixes)
    if suffixes[-1:] in _ONNX_SUFFIXES or suffixes[-2:] in _ONNX_SUFFIXES:
        return "onnx"
    if start[8:9] == b"{":
        return "safetensors"
    return "pickle" if start[:1] == b"\x80" else ""


def _from_file(path: Path, trusted: bool) -> nn.Module:
    if not path.is_file():
        raise InputError(f"{path} must be a network's file, but there is none; check the path.")
    kind = kind_of(path)
    if kind == "onnx":
        imported = load_onnx(path)
        for note in imported.notes:
            warnings.warn(f"{path}: {note}", stacklevel=3)
        return imported.network
    if kind in _PROGRAMS:
        if not trusted:
            raise InputError(
                f"{path} must come from a source you trust, since a {_NAMES[kind]} file is a program; pass "
                "trusted=True if it does, or export the network as ONNX."
            )
        return _PROGRAMS[kind](path)
    if kind in ("pickle", "safetensors"):
        raise InputError(
            f"{path} must bring its network, but holds weights alone (or pickled code, which is never run); "
            "give the network's import path and pass the file as weights."
        )
    raise InputError(
        f"{path} must be a whole ONNX, TorchScript or torch.export file, but is none of them or cut "
        "short; save it again."
    )


def _made(source: str | nn.Module, init_args: Mapping[str, Any]) -> nn.Module:
    if isinstance(source, nn.Module):
        if init_args:
            raise InputError(
                f"init_args must go with a class or function, but {type(source).__name__} is a network "
                "already; leave them out."
            )
        return source
    if ":" not in source and "." not in source:
        raise InputError(
            f"model must be a file or an import path such as my_package.module:Net, got {source!r}; give one."
        )
    found = _imports.find(source)
    if isinstance(found, nn.Module):
        if init_args:
            raise InputError(
                f"init_args must go with a class or function, but {source} is a network already; leave "
                "them out."
            )
        return found
    made = _imports.call(source, init_args, {})
    if not isinstance(made, nn.Module):
        raise InputError(
            f"{source} must make a torch.nn.Module, but made a {type(made).__name__}; name the network's "
            "class."
        )
    return made


@takes(path=PATH)
def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from a safetensors file or from ``torch.save``, on the CPU.

    Nothing in the file is executed.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing, cut short, holds no state dict, or is a pickle that needs code.

    >>> import torch
    >>> import holdfast as hf
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(torch.nn.Linear(2, 1).state_dict(), f"{folder}/net.pt")
    ...     sorted(hf.external.read_weights(f"{folder}/net.pt"))
    ['bias', 'weight']
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} must be a file of weights, but there is none; check the path.")
    kind = kind_of(path)
    if kind == "safetensors" or path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} must be a whole safetensors file, but it cannot be read ({error}); copy or save "
                "it again."
            ) from error
    if kind != "pickle":
        raise InputError(
            f"{path} must hold weights, as safetensors or from torch.save, but it is {_other(kind)}; "
            "save model.state_dict()."
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} must hold nothing but tensors, but unpickling it would run code, which Holdfast never "
            "does; where you trust it, load it yourself and save model.state_dict() as safetensors."
        ) from error
    except Exception as error:  # torch raises many kinds for files cut short
        raise InputError(
            f"{path} must be a whole file from torch.save, but it cannot be read ({_first_line(error)}); "
            "save it again."
        ) from error
    return _state_dict(found, path)


def _other(kind: str) -> str:
    if kind in _NAMES:
        return f"a {_NAMES[kind]} program"
    return "an ONNX file" if kind == "onnx" else "neither, or cut short"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _state_dict(found: object, path: Path) -> dict[str, Tensor]:
    wrapped = [found.get(name) for name in _WRAPPERS] if isinstance(found, Mapping) else []
    for candidate in (found, *wrapped):
        if isinstance(candidate, Mapping) and candidate:
            tensors = {str(key): value for key, value in candidate.items() if isinstance(value, Tensor)}
            if len(tensors) == len(candidate):
                return tensors
    shown = f"a mapping with {_some(list(found))}" if isinstance(found, Mapping) else type(found).__name__
    raise InputError(
        f"{path} must hold a state dict (names to tensors), got {shown}; save model.state_dict()."
    )


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict that fits exactly; what wrappers of the network put before all of its names is
    dropped.
    """
    own = model.state_dict()
    while not own.keys() & state.keys() and (
        prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), "")
    ):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if isinstance(own[name], Tensor) and own[name].shape != state[name].shape
    ]
    faults = [
        f"{word} {_some(names)}"
        for word, names in (
            ("it lacks", missing),
            ("it has besides", extra),
            ("of another shape are", shapes),
        )
        if names
    ]
    if faults:
        raise InputError(
            f"{path} must fit the network, but {'; '.join(faults)}: give the weights of this "
            "architecture, or fix init_args."
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path} must fit the network, but does not ({_first_line(error)}).") from error


def _some(names: list[Any]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(map(str, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
