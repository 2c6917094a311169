"""The certificate of a finished run again: in float64, at any parameter radius, as tight as asked for."""

import math
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from holdfast._files import write_json
from holdfast.certificates import Certificate, certify_trace, frozen_pass
from holdfast.certificates.convergence import check_radius
from holdfast.curvature import curvature_for
from holdfast.errors import InputError, RunFolderError
from holdfast.jobs.build import Job, build
from holdfast.jobs.progress import Progress
from holdfast.jobs.reading import read_config
from holdfast.jobs.setting import Setting, load_setting
from holdfast.jobs.summary import certified
from holdfast.losses import Loss
from holdfast.runs import read_summary
from holdfast.runs.run import read_weights
from holdfast.threats import Threat
from holdfast.trace import Evaluated, load_points, load_trace


def certify_run(
    folder: str | Path,
    *,
    radius: float | None = None,
    tighten: int = 40,
    per_unit: bool = False,
    progress: bool = True,
) -> Certificate:
    """Re-evaluate a run's last weights at its stored attacked points, and certify with its trace. No attack is run.

    Written to ``certificate.json``; at the run's own radius, where it is no worse than the run's certificate, to
    ``summary.json`` too. Nothing of the user's is imported for built-in networks, threats and losses.

    Args:
        folder: what `holdfast.train` wrote.
        radius: of the parameter ball; default the run's.
        tighten: evaluations of the bound while it is tightened; 0 or 1 takes the pass as it stands.
        per_unit: a curvature matrix a hidden unit: tighter, and slower.

    Raises:
        RunFolderError: not a finished run, cut short, or started from Python with parts that no file can hold.
        InputError: the radius is not > 0.
    """
    folder = Path(folder)
    summary = read_summary(folder)
    own = _radius(summary)
    at = own if radius is None else radius
    if at is None:
        raise RunFolderError(f"{folder} holds no radius to certify at; resume the run, or give a radius.")
    check_radius(at)
    trace, points = load_trace(folder / "trace"), load_points(folder / "trace")
    model, threat, loss, setting = _parts(folder)
    try:
        model.load_state_dict(read_weights(folder / "last.safetensors"))
    except RuntimeError as error:
        raise RunFolderError(
            f"{folder / 'last.safetensors'} must hold the weights of the run's network, but does not fit it "
            f"({' '.join(str(error).split())}); train again."
        ) from error
    curvature, _ = curvature_for(model)
    passed = frozen_pass(
        model, trace.initial, points, threat, loss, curvature, weights_name="the last weights",
        example_weights=setting.example_weights,
    )  # fmt: skip
    others = [
        Evaluated(**{**row, "distance": tuple(row["distance"])}) for row in summary.get("evaluated") or ()
    ]
    with Progress(enabled=progress).counted("certifying in float64") as report:
        certificate = certify_trace(
            trace, passed, at, others=others, evaluations=max(1, tighten), per_unit=per_unit, progress=report
        )
    write_json(folder / "certificate.json", certificate.as_dict())
    held = summary.get("gap")
    if at == own and certificate.status != "void" and (held is None or certificate.gap <= held):
        upper = summary.get("robust_loss_upper_bound")
        write_json(
            folder / "summary.json", summary | certified(certificate, math.nan if upper is None else upper)
        )
    return certificate


def _radius(summary: dict[str, Any]) -> float | None:
    radius = (summary.get("certificate") or {}).get("radius") or summary.get("parameter_radius")
    return float(radius) if isinstance(radius, int | float) else None


def _parts(folder: Path) -> tuple[nn.Module, Threat, Loss, Setting]:
    """Network, threat and loss: as the run wrote them down, else from its configuration."""
    setting = load_setting(folder / "trace")
    model, threat, loss = setting.model, setting.threat, setting.loss
    if model is not None and threat is not None and loss is not None:
        return model, threat, loss, setting
    missing = [
        word for word, part in (("network", model), ("threat", threat), ("loss", loss)) if part is None
    ]
    job = _configured(folder, " and ".join(missing))
    return model or job.model, threat or job.threat, loss or job.options["loss"], setting


def _configured(folder: Path, missing: str) -> Job:
    """The job that ``config.yaml`` describes: the only place where the user's own classes are imported."""
    path = folder / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunFolderError(f"{path} must be readable YAML, but is not ({error}); train again.") from error
    if not isinstance(values, dict) or values.get("started_from") == "python":
        raise RunFolderError(
            f"{folder} was written from Python with a {missing} of its own, which no file can hold; "
            "certify it there, with holdfast.certify(model, initial, x, y, threat, attack, radius)."
        )
    try:
        return build(read_config([str(path)])[0])
    except InputError as error:
        raise RunFolderError(f"{path} no longer describes a run that can be made ({error})") from error
