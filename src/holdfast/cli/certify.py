"""``holdfast certify``: the convergence certificate of a run again, in float64, at any parameter radius."""

from collections.abc import Sequence
from pathlib import Path

from holdfast.config.commands import CertifyCommand
from holdfast.errors import RunFolderError


def run(argv: Sequence[str]) -> int:
    """Certify a finished run; the figures go to ``certificate.json`` in its folder, and its own are kept
    unless these are tighter.
    """
    from holdfast.config.reading import read

    given, _ = read(CertifyCommand, argv)
    check_run(given.run)

    from holdfast.cli.terminal import console, show_certificate
    from holdfast.jobs.certify import certify_run

    certificate = certify_run(
        given.run,
        radius=given.radius,
        tighten=given.tighten,
        per_unit=given.per_unit,
        trusted=given.trusted,
        progress=not given.quiet,
    )
    show_certificate(console(), certificate, given.run / "certificate.json")
    return 0


def check_run(folder: Path) -> None:
    """Refuse what is not a run folder, before anything slow is imported."""
    if not folder.is_dir():
        raise RunFolderError(
            f"a run must be a folder that `holdfast train` wrote, got {folder}, which is none; check the "
            "path."
        )
