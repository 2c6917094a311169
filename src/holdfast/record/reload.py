"""A run's parts again, from its folder: network, threat, loss, data."""

from pathlib import Path

from torch import nn

from holdfast.config.build import Job, build
from holdfast.config.reading import read_config
from holdfast.config.schema import RunConfig
from holdfast.errors import InputError, RunFolderError
from holdfast.losses import Loss
from holdfast.record.run import read_config_file, read_weights
from holdfast.record.setting import Setting, load_setting
from holdfast.threats import Threat

FILES = {"last": "last.safetensors", "best": "model.safetensors"}


def run_parts(folder: Path, *, trusted: bool = False) -> tuple[nn.Module, Threat, Loss, Setting]:
    """Network (without its weights), threat and loss: as the run wrote them down, else from its
    configuration.

    The import paths of a configuration run only where ``trusted``.

    Raises:
        RunFolderError: cut short, or started from Python with parts that no file can hold.
    """
    setting = load_setting(folder / "trace")
    model, threat, loss = setting.model, setting.threat, setting.loss
    if model is not None and threat is not None and loss is not None:
        return model, threat, loss, setting
    missing = [
        word for word, part in (("network", model), ("threat", threat), ("loss", loss)) if part is None
    ]
    job = _configured(folder, " and ".join(missing), trusted)
    return model or job.model, threat or job.threat, loss or job.options["loss"], setting


def load_weights(model: nn.Module, folder: Path, which: str = "last") -> None:
    """Put the run's ``last`` or ``best`` weights into ``model``."""
    path = folder / FILES[which]
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise RunFolderError(
            f"{path} must hold the weights of the run's network, but does not fit it "
            f"({' '.join(str(error).split())}); train again."
        ) from error


def run_config(folder: Path, *, trusted: bool = False) -> RunConfig:
    """The run's settings.

    Raises:
        RunFolderError: the run was started from Python, whose data no file describes.
    """
    config = _configuration(folder, trusted)
    if config is None:
        raise RunFolderError(
            f"{folder} was written from Python, and no file says which data it had; in Python call "
            "holdfast.evaluate(run.model, x, y, threat)."
        )
    return config


def _configuration(folder: Path, trusted: bool) -> RunConfig | None:
    """What ``config.yaml`` describes; nothing for a run started from Python."""
    path, values = folder / "config.yaml", read_config_file(folder)
    if values.get("started_from") == "python" or not values:
        return None
    try:
        return read_config([str(path)], trusted=trusted)[0]
    except InputError as error:
        raise RunFolderError(f"{path} no longer describes a run that can be made ({error})") from error


def _configured(folder: Path, missing: str, trusted: bool) -> Job:
    """The job that ``config.yaml`` describes: the only place where the user's own classes are imported."""
    config = _configuration(folder, trusted)
    if config is None:
        raise RunFolderError(
            f"{folder} was written from Python with a {missing} of its own, which no file can hold; in "
            "Python, pass the network itself, as holdfast.certify(model, ...) or holdfast.export(run, ...) takes it."
        )
    try:
        return build(config)
    except InputError as error:
        raise RunFolderError(
            f"{folder / 'config.yaml'} no longer describes a run that can be made ({error})"
        ) from error
