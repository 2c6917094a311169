"""The certificate of a finished run again: in float64, at any parameter radius, as tight as asked for."""

from pathlib import Path

from holdfast import _defaults
from holdfast._progress import Progress
from holdfast._record import locked
from holdfast._signals import stopping
from holdfast.certificates import Certificate, certify_trace, frozen_pass
from holdfast.certificates.convergence import check_radius
from holdfast.errors import RunFolderError
from holdfast.families import curvature_for
from holdfast.jobs.summary import with_certificate
from holdfast.record.plain import figure
from holdfast.record.reload import load_weights, run_parts
from holdfast.record.run import RunWriter, read_summary, read_weights
from holdfast.record.schema import Summary
from holdfast.trace import load_points, load_trace


@stopping()
def certify_run(
    folder: str | Path,
    *,
    radius: float | None = None,
    tighten: int = _defaults.TIGHTEN,
    per_unit: bool = False,
    trusted: bool = False,
    progress: bool = True,
) -> Certificate:
    """Re-evaluate a run's last weights at its stored attacked points, and certify with its trace. No attack
    is run.

    Written to ``certificate.json``; at the run's own radius, where it is no worse than the run's certificate,
    to ``summary.json`` too. Nothing of the user's is imported for built-in networks, threats and losses.

    Args:
        folder: what `holdfast.train` wrote.
        radius: of the parameter ball; default the run's.
        tighten: evaluations of the bound while it is tightened; 0 or 1 takes the pass as it stands.
        trusted: import the network, threat or loss that the run's configuration names, which runs their code.
        per_unit: a curvature matrix a hidden unit: tighter, and slower.

    Raises:
        RunFolderError: not a finished run, cut short, or started from Python with parts that no file can
            hold.
        InputError: the radius is not > 0.
    """
    folder = Path(folder)
    read_summary(folder)
    with locked(folder):
        return _certify(
            folder, radius=radius, tighten=tighten, per_unit=per_unit, trusted=trusted, progress=progress
        )


def _certify(
    folder: Path, *, radius: float | None, tighten: int, per_unit: bool, trusted: bool, progress: bool
) -> Certificate:
    summary = read_summary(folder)
    own = _radius(summary)
    at = own if radius is None else radius
    if at is None:
        raise RunFolderError(f"{folder} holds no radius to certify at; resume the run, or give a radius.")
    check_radius(at)
    trace, points = load_trace(folder / "trace"), load_points(folder / "trace")
    model, threat, loss, setting = run_parts(folder, trusted=trusted)
    load_weights(model, folder)
    curvature, _ = curvature_for(model)
    passed = frozen_pass(
        model,
        trace.initial,
        points,
        threat,
        loss,
        curvature,
        weights_name="the last weights",
        example_weights=setting.example_weights,
    )
    with Progress(enabled=progress).counted("certifying in float64") as report:
        certificate = certify_trace(
            trace,
            passed,
            at,
            others=summary.evaluated,
            evaluations=max(1, tighten),
            per_unit=per_unit,
            progress=report,
            networks=(read_weights(folder / "model.safetensors"),),
        )
    held = summary.gap
    writer = RunWriter(folder)
    with writer.together():
        writer.json("certificate.json", certificate.as_dict())
        # A void one replaces what the run claimed: a contradiction found now was there before.
        if at == own and (certificate.status == "void" or held is None or certificate.gap <= held):
            writer.summary(with_certificate(summary, certificate))
    return certificate


def _radius(summary: Summary) -> float | None:
    held = summary.certificate
    return (None if held is None else figure(held.radius)) or summary.parameter_radius
