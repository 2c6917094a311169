"""A run and its folder.

``config.yaml`` (complete), ``summary.json``, ``metrics.jsonl`` (a line per epoch), ``trace/``,
``model.safetensors`` (best on validation), ``last.safetensors``, ``initial.safetensors``,
``gallery.safetensors``, ``checkpoints/``, ``evaluation/``, and ``digests.json``, which all these are checked
against whenever they are read; ``log.txt``, ``report.html`` and what loggers write, which are not.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from holdfast._files import json_writer, tensor_writer, text_writer, yaml_text
from holdfast._formats import number, percent
from holdfast._record import (
    RECORD,
    Files,
    belongings,
    check_recorded,
    checked,
    clear_replacement,
    drop_logs,
    free,
)
from holdfast._rules import FLAG, PATH, maybe, takes
from holdfast._values import Drawn, Fact
from holdfast.certificates import Certificate
from holdfast.diagnosis import Findings, diagnose
from holdfast.errors import RunFolderError
from holdfast.record.known import known_of
from holdfast.record.plain import NO_CERTIFICATE, from_plain, to_plain, version_of
from holdfast.record.schema import EpochFigures, Summary
from holdfast.trace import FrozenPoints, Trace, save_points, save_trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUMMARY, METRICS = "summary.json", "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What ``summary.json`` and ``metrics.jsonl`` hold.

    Attributes:
        epochs: the lines that could be read.
        unread: how many could not: an interrupt of version 0.1, which kept no digests, may have left the last
            one half-written.
    """

    summary: Summary
    epochs: tuple[EpochFigures, ...]
    unread: int


@takes(folder=PATH)
def read_figures(folder: Path) -> Figures:
    """The figures of a run, checked against the schema.

    Raises:
        RunFolderError: not a run folder, cut short, or not as the schema says.
    """
    summary = read_summary(folder)
    lines, unread = _lines(folder)
    return Figures(summary=summary, epochs=_epochs(lines, folder, summary.schema), unread=unread)


@takes(folder=PATH)
def read_summary(folder: Path) -> Summary:
    """``summary.json`` of a run.

    Raises:
        RunFolderError: not a run folder, cut short, or not as the schema says.
    """
    return from_plain(Summary, _summary(folder), str(folder / SUMMARY))


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    try:
        summary = json.loads(checked(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = "has no summary.json" if folder.is_dir() else "does not exist"
        raise RunFolderError(
            f"a run folder is needed, but {folder} {what}; give the folder that `holdfast train` wrote."
        ) from error
    except (ValueError, RecursionError, OSError) as error:
        raise RunFolderError(
            f"{path} must be complete JSON, but it is cut short or damaged ({error}); resume the run or "
            "train it again."
        ) from error
    if not isinstance(summary, dict):
        raise RunFolderError(
            f"{path} must hold a table of figures, got {type(summary).__name__}; train again."
        )
    check_recorded(summary, folder)
    return summary


def _lines(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of ``metrics.jsonl`` that are tables, and how many are not."""
    path = checked(folder / METRICS)
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    rows, unread = [], 0
    for line in filter(str.strip, text.splitlines()):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            unread += 1
    return rows, unread


def _epochs(lines: list[dict[str, Any]], folder: Path, version: int) -> tuple[EpochFigures, ...]:
    return tuple(
        from_plain(EpochFigures, line, f"line {number} of {folder / METRICS}", version=version)
        for number, line in enumerate(lines, 1)
    )


@takes(folder=PATH)
def read_config_file(folder: Path) -> dict[str, Any]:
    """What ``config.yaml`` holds.

    Raises:
        RunFolderError: missing, damaged, or no YAML.
    """
    path = folder / "config.yaml"
    try:
        values = yaml.safe_load(checked(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunFolderError(
            f"{path} must be readable YAML, but is not ({' '.join(str(error).split())}); train again."
        ) from error
    return values if isinstance(values, dict) else {}


def read_weights(path: Path) -> dict[str, Tensor]:
    """A weights file.

    Raises:
        RunFolderError: missing, cut short or not safetensors.
    """
    try:
        return load_file(checked(path))
    except RunFolderError:
        raise
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is missing; train again or resume the run.") from error
    except Exception as error:
        raise RunFolderError(
            f"{path} must be a whole safetensors file, but cannot be read ({error}); train again."
        ) from error


@takes(folder=PATH)
def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run.

    Raises:
        RunFolderError: there is none, or it was cut short.
    """
    path = folder / "checkpoints" / "last.pt"
    try:
        state: dict[str, Any] = torch.load(checked(path), map_location="cpu", weights_only=True)
    except RunFolderError:
        raise
    except FileNotFoundError as error:
        raise RunFolderError(
            f"a run is resumed from its checkpoint, but {path} is missing; start it without resume."
        ) from error
    except Exception as error:
        raise RunFolderError(
            f"{path} must be a whole checkpoint, but cannot be read ({type(error).__name__}: it was cut "
            "short, or written by something else); start without resume."
        ) from error
    return state


@dataclass(frozen=True, kw_only=True, repr=False)
class Run(Drawn):
    """What `holdfast.train` returns, and what a run folder holds.

    Attributes:
        folder: where it was written; ``None`` for a run in memory.
        model: the network with its last weights; ``None`` for a run loaded from a folder (`weights` has
            them).
        summary: what ``summary.json`` holds, by name; `figures` has the same as attributes.
        metrics: a row per epoch, by name; `epochs` has the same as attributes.
        certificate: the convergence certificate.
        best: weights that did best on the validation part, by name.

    >>> import holdfast as hf
    >>> data = hf.data.spheres(20, dimension=3, clusters=1)
    >>> net = hf.networks.TwoLayer(3, 2, width=8)
    >>> run = hf.train(net, data, "l2:0.1", attack="fgsm", epochs=1, progress=False)
    >>> len(run.epochs), run.folder is None
    (1, True)
    """

    folder: Path | None
    model: nn.Module | None
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    certificate: Certificate
    best: dict[str, Tensor]

    def _facts(self) -> list[Fact]:
        try:
            seen = self.figures
        except RunFolderError:  # figures put together by hand: a value shows itself all the same
            seen = Summary()
        proof, robust = self.certificate, percent(seen.robust_accuracy)
        return [
            Fact("network", seen.network.name or "not recorded"),
            Fact("data", seen.data.name or "not recorded"),
            Fact("threat", seen.threat or "not recorded"),
            Fact("clean accuracy", percent(seen.clean_accuracy), "observed"),
            Fact(
                "robust accuracy",
                robust if seen.robust_accuracy is None else f"at most {robust} on {seen.accuracy_of}",
                "observed",
            ),
            Fact("surrogate loss", number(proof.surrogate_loss), "observed"),
            *([Fact("certificate", "void")] if proof.status == "void" else []),
            *proof.bound_facts(),
        ]

    def _columns(self) -> dict[str, list[Any]]:
        names = dict.fromkeys(name for row in self.metrics for name in row)
        return {name: [row.get(name) for row in self.metrics] for name in names}

    def _draw(self, axes: "Axes") -> None:
        table = self._columns()
        for name, label in (("online_loss", "training"), ("robust_loss", "validation")):
            if any(value is not None for value in table.get(name, [])):
                values = [float("nan") if value is None else value for value in table[name]]
                axes.plot(table["epoch"], values, marker=".", label=f"robust loss, {label} (observed)")
        if self.certificate.kind:
            axes.axhline(
                self.certificate.lower_bound,
                linestyle="--",
                color="gray",
                label=f"lower bound ({self.certificate.kind})",
            )
        axes.set(xlabel="epoch", ylabel="robust loss")

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """A run from its folder; nothing in it is executed.

        Raises:
            RunFolderError: the folder is no run, was cut short, or is of a later version of Holdfast.
        """
        folder = Path(PATH("folder", folder))
        summary, (metrics, _) = _summary(folder), _lines(folder)
        run = cls(
            folder=folder,
            model=None,
            summary=summary,
            metrics=metrics,
            certificate=NO_CERTIFICATE,
            best=read_weights(folder / "model.safetensors"),
        )
        return replace(run, certificate=run.figures.certificate or NO_CERTIFICATE)

    @property
    def figures(self) -> Summary:
        """The figures of ``summary.json``, each a typed attribute (`holdfast.record.schema`)."""
        return from_plain(Summary, self.summary, self._named(SUMMARY))

    @property
    def epochs(self) -> tuple[EpochFigures, ...]:
        """The rows of ``metrics.jsonl``, each figure a typed attribute."""
        version = version_of(self.summary, self._named(SUMMARY))
        return _epochs(self.metrics, self.folder or Path(), version)

    def _named(self, name: str) -> str:
        return name if self.folder is None else str(self.folder / name)

    @property
    def findings(self) -> Findings:
        """The diagnosis: what held this run back, most urgent first, as its page, the terminal and
        ``holdfast doctor`` have it; remedies are in Python.
        """
        return Findings(diagnose(known_of(self.figures, self.epochs)))

    def weights(self, which: str = "last") -> dict[str, Tensor]:
        """``last`` or ``best`` weights by name, for ``model.load_state_dict``."""
        if which == "best":
            return self.best
        if self.model is not None:
            return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        if self.folder is None:
            raise RunFolderError("a run in memory without a model holds no weights; load it from its folder.")
        return read_weights(self.folder / "last.safetensors")


@takes(folder=maybe(PATH), fresh=FLAG)
class RunWriter:
    """Writes a run folder, each group of files whole or not at all. With ``folder=None`` it writes nothing.

    Args:
        fresh: a new run: what lies there of another one goes, once this one's first files are on disk.
    """

    def __init__(self, folder: Path | None, *, fresh: bool = False) -> None:
        self.folder = folder
        self._files: Files | None = None
        self._began = not fresh
        self._lines: list[str] = []
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A run of version 0.1 is written to as it was: a record of some of its files would disown the
            # others.
            self._files = Files(
                folder, recorded=fresh or free(folder) or (folder / RECORD).is_file(), fresh=fresh
            )
        except OSError as error:
            raise RunFolderError(
                f"{folder} must be a folder that can be written, but {error.strerror or error}; choose "
                "another with --out."
            ) from error
        self._files.tidy()
        clear_replacement(folder)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written within becomes the run's in one step, or not at all."""
        if self._files is None or self.folder is None:
            yield
            return
        with self._files.together():
            yield
            if not self._began:
                self._files.drop(belongings(self.folder))
        if not self._began:
            self._began = True
            (self.folder / "log.txt").unlink(missing_ok=True)
            drop_logs(self.folder)
        self.log()

    def drop(self, *names: str) -> None:
        """Remove files of the run that are no longer true."""
        if self._files is not None:
            self._files.drop(names)

    def drop_evaluation(self) -> None:
        """Remove what was found of other weights."""
        if self.folder is not None:
            self.drop(*(name for name in belongings(self.folder) if name.startswith("evaluation/")))

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Any file."""
        if self._files is not None:
            with self.together():
                self._files.put(name, write)

    def _put(self, name: str, writer: Callable[[], Callable[[Path], None]]) -> None:
        if self._files is not None:
            self.put(name, writer())

    def config(self, values: dict[str, Any]) -> None:
        """The configuration."""
        self._put("config.yaml", lambda: text_writer(yaml_text(values)))

    def json(self, name: str, values: Any) -> None:
        """A file of plain values."""
        self._put(name, lambda: json_writer(values))

    def tensors(self, name: str, tensors: dict[str, Tensor]) -> None:
        """A file of tensors."""
        self._put(name, lambda: tensor_writer(tensors))

    def weights(self, name: str, state: dict[str, Tensor]) -> None:
        """``last``, ``model`` (the best) or ``initial`` weights."""
        self.tensors(f"{name}.safetensors", state)

    def trace(self, trace: Trace) -> None:
        """The trace; windows that are on disk are not written again."""
        if self._files is not None and self.folder is not None:
            with self.together():
                save_trace(trace, self.folder / "trace", self._files)

    def attacked(self, points: FrozenPoints) -> None:
        """The points of the last frozen pass."""
        if self._files is not None and self.folder is not None:
            with self.together():
                save_points(points, self.folder / "trace", self._files)

    def metrics(self, rows: Sequence[EpochFigures]) -> None:
        """A line per epoch."""
        lines = [json.dumps(to_plain(row), allow_nan=False) for row in rows]
        self._put(METRICS, lambda: text_writer("".join(f"{line}\n" for line in lines)))

    def summary(self, figures: Summary) -> None:
        """All figures."""
        if self._files is not None:
            digests = RECORD if self._files.recorded else None
            self.json(SUMMARY, to_plain(replace(figures, digests=digests)))

    def log(self, *texts: str) -> None:
        """A dated line each in ``log.txt``: of a new run, after its first files are on disk."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        self._lines += [f"{now} {text}\n" for text in texts]
        if self.folder is not None and self._began and self._lines:
            with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
                file.writelines(self._lines)
            self._lines = []

    def checkpoint(self, state: dict[str, Any]) -> None:
        """The state that training goes on from; loaded with ``weights_only=True``."""
        self._put("checkpoints/last.pt", lambda: lambda part: torch.save(state, part))
