"""A run under way in the tools that watch runs: TensorBoard, Weights & Biases, CSV, or a logger of one's own.

Each line of ``metrics.jsonl`` goes there when its epoch is over. What these tools write lies in the run's folder beside its files and
without a digest, since it is no part of the run.
"""

import importlib
import importlib.util
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from holdfast._record import LOGS, drop_logs
from holdfast._rules import Rule, nearest_word
from holdfast.config.schema import LOGGERS
from holdfast.errors import InputError
from holdfast.jobs.session import Session
from holdfast.record.plain import to_plain
from holdfast.record.schema import EpochFigures

Observer = Callable[[EpochFigures], None]
NEEDED = {
    "tensorboard": ("tensorboard", "pip install 'holdfast[tensorboard]'"),
    "wandb": ("wandb", "pip install wandb"),
}
"""The package of a logger, and how it is installed."""
PROJECT = "holdfast"
"""Of Weights & Biases, unless the environment names another (``WANDB_PROJECT``)."""


def _read(value: Any) -> tuple[Any, ...]:
    """The loggers, of which one may stand alone."""
    found = (value,) if isinstance(value, str) or hasattr(value, "log_metrics") else tuple(value)
    for one in found:
        if one not in LOGGERS if isinstance(one, str) else not callable(getattr(one, "log_metrics", None)):
            raise ValueError
    return found


LOGGERS_RULE = Rule(
    what=f"names among {', '.join(LOGGERS)}, or objects with log_metrics(metrics, step)",
    read=_read,
    hint=lambda value: nearest_word(value, LOGGERS) if isinstance(value, str) else "",
)


def check_loggers(loggers: Sequence[Any], folder: Path | None) -> None:
    """Refuse loggers that cannot work, before anything is spent.

    Raises:
        InputError: a package is missing, or there is no folder to write into.
    """
    for name in loggers:
        package, remedy = NEEDED.get(name, ("", "")) if isinstance(name, str) else ("", "")
        if package and importlib.util.find_spec(package) is None:
            raise InputError(
                f"loggers: {name} needs the {package} package, which is not there; run {remedy}."
            )
        if name in ("csv", "tensorboard") and folder is None:
            raise InputError(f"loggers: {name} writes into the run's folder, got none; pass out=.")


@contextmanager
def watching(loggers: Sequence[Any], session: Session) -> Iterator[Observer]:
    """While open, what takes a line of ``metrics.jsonl`` to the loggers. Of several processes the first one speaks."""
    with ExitStack() as held:
        speaks = session.fabric.is_global_zero
        opened = [held.enter_context(_opened(one, session)) for one in loggers if speaks]

        def observe(row: EpochFigures) -> None:
            for logger in opened:
                _log(logger, row, session)

        yield observe


@contextmanager
def _opened(logger: Any, session: Session) -> Iterator[Any]:
    if isinstance(logger, str):
        logger = _made(logger, session)
    done = "failed"
    try:
        yield logger
        done = "success"
    finally:
        _call(logger, "finalize", done)


def _made(name: str, session: Session) -> Any:
    """A logger by name, which knows all epochs so far and goes on after them."""
    folder, epochs = session.folder, len(session.rows)
    if name == "wandb":
        module = importlib.import_module("wandb.integration.lightning.fabric")
        known = folder is not None and (folder / LOGS[name]).is_file()
        return _told(module.WandbLogger(**_wandb(session)), session, told=known)
    assert folder is not None  # `check_loggers`
    module = importlib.import_module("lightning_fabric.loggers")
    if name == "csv":
        drop_logs(folder, name)  # the logger's own way with a file that lies there is to warn and delete it
        return _told(
            module.CSVLogger(folder, name=name, version="", flush_logs_every_n_steps=1), session, told=False
        )
    known = any(folder.glob(LOGS[name]))
    purge = {"purge_step": epochs + 1} if known else {}  # epochs logged after the checkpoint come again
    return _told(module.TensorBoardLogger(folder, name=name, version="", **purge), session, told=known)


def _wandb(session: Session) -> dict[str, Any]:
    """The run there: the same one when this run is resumed."""
    folder = session.folder
    settings = {"project": PROJECT, "name": session.name or (None if folder is None else folder.name)}
    if folder is None:
        return settings
    place = folder / LOGS["wandb"]
    if not place.is_file():
        place.parent.mkdir(exist_ok=True)
        place.write_text(secrets.token_hex(8), encoding="utf-8")
    return {**settings, "id": place.read_text(encoding="utf-8").strip()}


def _told(logger: Any, session: Session, *, told: bool) -> Any:
    """The logger, with the epochs before this one where it is new to the run."""
    for row in () if told else session.rows:
        _log(logger, row, session)
    return logger


def _log(logger: Any, row: EpochFigures, session: Session) -> None:
    logger.log_metrics(figures(row, radius=session.certificate.radius or session.parameter_radius), row.epoch)
    _call(logger, "save")  # to the disk, so that the epoch can be seen


def _call(logger: Any, method: str, *arguments: Any) -> None:
    """Of a logger of lightning's kind; one of the user's own may lack it."""
    if callable(getattr(logger, method, None)):
        getattr(logger, method)(*arguments)


def figures(row: EpochFigures, *, radius: float | None) -> dict[str, int | float]:
    """The numbers of a line by name, a layer's drift as ``drift/LAYER``.

    The lower bound of a run whose ball is not fixed beforehand (``radius`` None) is known at its end alone, and left out.
    """
    values: dict[str, Any] = to_plain(row)
    drift = values.pop("drift") or {}
    values |= {f"drift/{layer}": value for layer, value in drift.items()}
    left_out = {"epoch"} if radius is not None else {"epoch", "lower_bound"}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and name not in left_out
    }
