"""Networks as files for other tools: ONNX, a program of ``torch.export``, weights.

Each file is read again and held against the network before it counts as written.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast._files import tensor_writer
from holdfast.errors import HoldfastError, InputError
from holdfast.external import onnx_file
from holdfast.external.models import load_model
from holdfast.external.onnx import load_onnx
from holdfast.external.onnx_comparison import agree
from holdfast.external.programs import load_exported

OPSET = 16
"""Of ONNX: the last version whose exporter writes layer norm as the arithmetic that it is, which every reader has."""
Reader = Callable[[Tensor], Any]
FORMATS = (".onnx", ".pt2", ".safetensors")


def write_network(network: nn.Module, path: Path, points: Tensor, *, suffix: str) -> None:
    """Write ``network``, read the file again, and compare outputs at ``points``.

    Args:
        network: on the CPU, in evaluation mode.
        points: at least two examples (examples, ...).
        suffix: one of `FORMATS`.

    Raises:
        InputError: the network cannot be written so, or the file is not the network.
    """
    write, read = _WAYS[suffix]
    with _quietly():
        try:
            write(network, path, points)
        except HoldfastError:
            raise
        except Exception as error:  # torch raises many kinds for what it cannot trace
            raise InputError(
                f"the network must be one that torch writes as {suffix}, but {type(network).__name__} is not "
                f"({_first_line(error)}); {_elsewhere(suffix)}."
            ) from error
        for found in read(network, path):
            # The number of examples is free, and so are their values: what was traced must not have become a constant.
            for batch in (
                points,
                points[:1],
                points.repeat(3, *[1] * (points.ndim - 1)),
                -points,
                8 * points,
            ):
                _compare(network, found, batch, suffix)


def _compare(network: nn.Module, found: Reader, points: Tensor, suffix: str) -> None:
    with torch.no_grad():
        wanted = network(points)
        if not wanted.isfinite().all():  # outside what the network is for
            return
        try:
            made = found(points)
        except Exception as error:  # a program that is not for this number of examples says so in many ways
            raise InputError(
                f"the {suffix} file must compute what the network does, but cannot be run on {len(points)} "
                f"examples ({_first_line(error)}); {_elsewhere(suffix)}."
            ) from error
    if (
        not isinstance(made, Tensor)
        or made.shape != wanted.shape
        or not agree(wanted, made, network, [points])
    ):
        gap = (made - wanted).abs().max() if getattr(made, "shape", None) == wanted.shape else torch.nan
        raise InputError(
            f"the {suffix} file must compute what the network does, but outputs differ by {float(gap):.3g}; "
            f"{_elsewhere(suffix)}."
        )


def _onnx(network: nn.Module, path: Path, points: Tensor) -> None:
    onnx_file.package()
    torch.onnx.export(
        network,
        (points,),
        str(path),
        dynamo=False,  # the other exporter needs a package more
        opset_version=OPSET,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
    )


def _read_onnx(network: nn.Module, path: Path) -> Iterator[Reader]:
    """The file as `load_onnx` reads it, and as its reference evaluator runs it."""
    try:
        imported = load_onnx(path)
    except InputError as error:
        raise InputError(
            f"the .onnx file must be one that Holdfast reads again, but it is not ({str(error).rstrip('.')}); "
            f"{_elsewhere('.onnx')}."
        ) from error
    yield imported.network
    if (
        imported.notes
    ):  # the evaluator lacks an operation or is known to be wrong about it; the rest was compared
        return
    evaluator = onnx_file.package().reference.ReferenceEvaluator(str(path))
    yield lambda points: torch.from_numpy(evaluator.run(None, {"input": points.numpy()})[0])


def _program(network: nn.Module, path: Path, points: Tensor) -> None:
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (points,), dynamic_shapes=({0: batch},))
    with path.open("wb") as file:
        torch.export.save(exported, file)


def _read_program(network: nn.Module, path: Path) -> Iterator[Reader]:
    yield load_exported(path)


def _weights(network: nn.Module, path: Path, points: Tensor) -> None:
    tensor_writer(network.state_dict())(path)


def _read_weights(network: nn.Module, path: Path) -> Iterator[Reader]:
    empty = copy.deepcopy(network)
    for tensor in empty.state_dict().values():
        tensor.zero_()
    yield load_model(empty, weights=path)


_WAYS: dict[str, tuple[Any, Any]] = {
    ".onnx": (_onnx, _read_onnx),
    ".pt2": (_program, _read_program),
    ".safetensors": (_weights, _read_weights),
}


def _elsewhere(suffix: str) -> str:
    return f"write it as {' or '.join(other for other in FORMATS if other != suffix)}"


def _first_line(error: Exception) -> str:
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split()).rstrip(".:")[:160]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch says of its exporters: the result is compared."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
