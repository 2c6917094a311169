"""A trained network as a file for other tools, compared with the network, with a model card beside it."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast import _defaults
from holdfast._arguments import TENSOR, Array
from holdfast._files import part_of, text_writer
from holdfast._record import Files, digest_of, read_record, root_of
from holdfast._rules import FLAG, PATH, kind, maybe, takes, word
from holdfast._signals import stopping
from holdfast.errors import InputError, RunFolderError
from holdfast.external import onnx_file
from holdfast.external.written import FORMATS, write_network
from holdfast.jobs.card import Facts, card_text
from holdfast.jobs.summary import versions
from holdfast.record.reload import FILES, load_weights, run_parts
from holdfast.record.run import Run, read_config_file, read_summary, read_weights
from holdfast.record.schema import Summary
from holdfast.threats import Threat

POINTS = 6
"""At which the file is compared with the network."""
TYPES = (torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The network to be written, and what is known of it.

    Attributes:
        network: a copy, on the CPU and in evaluation mode.
        shape: of one example; ``None`` where nobody said.
        low, high: the range of inputs.
    """

    network: nn.Module
    shape: tuple[int, ...] | None = None
    low: Any = -1.0
    high: Any = 1.0
    summary: Summary | None = None
    config: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    same: bool = False


@stopping()
@takes(
    network=kind(nn.Module, Run, str, Path, what="a network, a run, or a run's folder"),
    to=PATH,
    example=maybe(TENSOR),
    weights=word(*FILES),
    overwrite=FLAG,
    trusted=FLAG,
)
def export(
    network: nn.Module | Run | str | Path,
    to: str | Path,
    *,
    example: Array | None = None,
    weights: str = _defaults.WEIGHTS,
    overwrite: bool = False,
    trusted: bool = False,
) -> Path:
    """Write a network as ONNX, as a program of ``torch.export`` or as weights, with a model card beside it.

    The file is read again and compared with the network at points of the input's range, for several numbers of
    examples; where they differ by more than rounding, nothing is left. ``hf.load_model`` and ``holdfast evaluate``
    take the file.

    Args:
        network: a network; or a run, or its folder, whose figures the card then has.
        to: file to write; its suffix is the format: ``.onnx`` (needs the extra ``onnx``), ``.pt2`` or ``.safetensors``.
            The card is the same with ``.md`` behind it, such as ``net.onnx.md``.
        example: some inputs (examples, ...), which a network without a run needs.
        weights: ``last`` or ``best``, of a run.
        overwrite: replace the file and its card.
        trusted: import the network that the run's configuration names, which runs its code.

    Returns:
        The file.

    Raises:
        InputError: no such format, no example, or a network that cannot be written or does not come back as it
            was.
        RunFolderError: not a run, a file that exists, or a folder that cannot be written.

    >>> import tempfile, torch
    >>> import holdfast as hf
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     hf.export(torch.nn.Linear(3, 2), f"{folder}/net.pt2", example=torch.zeros(1, 3)).name
    'net.pt2'
    """
    path = Path(to)
    suffix = path.suffix.lower()
    _check_target(path, suffix, overwrite)
    source = _source(network, weights, trusted)
    points = _points(source, None if example is None else torch.as_tensor(example))
    outputs = _outputs(source.network, points)
    files, card = Files(path.parent, recorded=False), f"{path.name}.md"
    with files.together():
        files.put(path.name, lambda part: write_network(source.network, part, points, suffix=suffix))
        facts = Facts(
            file=path.name,
            version=versions().get("holdfast", "unknown"),
            suffix=suffix,
            digest=digest_of(part_of(path)) or "",
            network=type(source.network).__name__,
            parameters=sum(parameter.numel() for parameter in source.network.parameters()),
            shape=tuple(points.shape[1:]),
            dtype=str(points.dtype).removeprefix("torch."),
            outputs=outputs,
            summary=source.summary,
            config=source.config,
            weights=source.weights,
            same=source.same,
        )
        files.put(card, text_writer(card_text(facts)))
    return path


def _check_target(path: Path, suffix: str, overwrite: bool) -> None:
    if suffix not in FORMATS:
        raise InputError(
            f"to (--to) must end in {', '.join(FORMATS)}, got {path.name}; the suffix is the format."
        )
    if suffix == ".onnx":
        onnx_file.package()
    for file in (path, path.with_name(f"{path.name}.md")):
        if file.is_dir():
            raise RunFolderError(f"to (--to) must be a file, but {file} is a folder; add a name.")
        if file.exists() and not overwrite:
            raise RunFolderError(
                f"to (--to) must be a new file, but {file} exists; choose another name, or add overwrite=True "
                "(--overwrite)."
            )
    root = root_of(path)
    if root is not None and path.absolute().relative_to(root).as_posix() in read_record(root):
        raise RunFolderError(
            f"to (--to) must not replace a file of a run, but {path} is one; choose another name."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{path.parent} must be a folder that can be written, but {error.strerror or error}; choose another."
        ) from error


def _source(network: nn.Module | Run | str | Path, weights: str, trusted: bool) -> Source:
    if isinstance(network, nn.Module):
        return Source(network=_copied(network))
    if not isinstance(network, Run):
        return _of_folder(Path(network), None, weights, trusted)
    if network.folder is not None:
        return _of_folder(network.folder, network.model, weights, trusted)
    if network.model is None:
        raise InputError("the run must have its network or a folder, got neither; export the network itself.")
    summary = network.figures
    return _of_run(network.model, summary, network.weights("last"), network.best, weights)


def _of_folder(folder: Path, model: nn.Module | None, weights: str, trusted: bool) -> Source:
    summary, threat = read_summary(folder), None
    if model is None:
        model, threat, _, _ = run_parts(folder, trusted=trusted)
        load_weights(model, folder, weights)
    last, best = (read_weights(folder / FILES[which]) for which in ("last", "best"))
    return _of_run(model, summary, last, best, weights, threat=threat, config=read_config_file(folder))


def _of_run(
    model: nn.Module,
    summary: Summary,
    last: dict[str, Tensor],
    best: dict[str, Tensor],
    weights: str,
    *,
    threat: Threat | None = None,
    config: dict[str, Any] | None = None,
) -> Source:
    network = _copied(model)
    network.load_state_dict(last if weights == "last" else best)
    low, high = getattr(threat, "bounds", None) or (0.0, 1.0)
    return Source(
        network=network,
        shape=summary.data.shape or None,
        low=low,
        high=high,
        summary=summary,
        config=config or {},
        weights=weights,
        same=all(name in best and torch.equal(last[name].cpu(), best[name].cpu()) for name in last),
    )


def _copied(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).cpu().eval()


def _points(source: Source, example: Tensor | None) -> Tensor:
    """Points of the input's range: drawn between its ends, and the examples given."""
    if example is None and source.shape is None:
        raise InputError(
            "example must be some inputs (examples, ...) of the network, got none; pass a few, such as x[:2]."
        )
    if example is not None and (example.ndim < 2 or not len(example) or not example.isfinite().all()):
        raise InputError(
            f"example must be finite inputs (examples, ...), got shape {tuple(example.shape)}; pass a few, such as "
            "x[:2]."
        )
    dtype = next((value.dtype for value in source.network.parameters()), torch.float32)
    if dtype not in TYPES:
        raise InputError(f"the network must be in float32 or float64, got {dtype}; convert it with .float().")
    shape = tuple(example.shape[1:]) if example is not None else source.shape
    assert shape is not None
    if example is not None:
        low, high = example.amin(), example.amax()
        low, high = (low, high) if low < high else (low - 1, high + 1)
    else:
        low, high = (_finite(edge, end) for edge, end in ((source.low, -1.0), (source.high, 1.0)))
    drawn = torch.rand((POINTS, *shape), generator=torch.Generator().manual_seed(0))
    drawn = low + (high - low) * drawn
    given = drawn[:0] if example is None else example[:POINTS].cpu()
    return torch.cat([given.to(dtype), drawn.to(dtype)])


def _finite(edge: Any, instead: float) -> Tensor:
    edge = torch.as_tensor(edge, dtype=torch.float32).cpu()
    return torch.where(edge.isfinite(), edge, torch.tensor(instead))


def _outputs(network: nn.Module, points: Tensor) -> int:
    """Numbers in one output.

    Raises:
        InputError: the network does not take the points, or returns something else than rows of numbers.
    """
    try:
        with torch.no_grad():
            found, again = network(points), network(points)
    except Exception as error:  # a network fails in its own ways
        why = " ".join(str(error).split())[:160]
        raise InputError(
            f"example must be what {type(network).__name__} takes, but shape {tuple(points.shape)} fails ({why}); "
            "pass inputs of its shape."
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 2:
        came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"the network must return (examples, outputs), got {came}; export the part that does."
        )
    if not found.isfinite().all():
        raise InputError(
            "the network's outputs must be finite at its example, got NaN or infinity; fix its weights or the example."
        )
    if not torch.equal(found, again):
        raise InputError(
            f"the network must be a function of its input, but {type(network).__name__} gives two different outputs for "
            "one; remove what is random or counts its calls."
        )
    return int(found.shape[1])
