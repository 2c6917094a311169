"""``holdfast certify``: the convergence certificate of a run again, in float64, at any parameter radius."""

from collections.abc import Sequence
from pathlib import Path

from holdfast import _defaults
from holdfast.cli.arguments import Parser, natural, positive
from holdfast.errors import RunFolderError

EXAMPLES = """\
  holdfast certify runs/wide
  holdfast certify runs/wide --radius 100
  holdfast certify runs/wide --radius 100 --tighten 100"""


def run(argv: Sequence[str]) -> int:
    """Certify a finished run; the figures go to ``certificate.json`` in its folder, and its own are kept
    unless these are tighter.
    """
    given = _parser().read(argv)
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


def _parser() -> Parser:
    parser = Parser("certify", __doc__, EXAMPLES)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder that `holdfast train` wrote")
    parser.add_argument("--radius", type=positive, help="parameter radius (default: that of the run)")
    parser.add_argument(
        "--tighten", type=natural, default=_defaults.TIGHTEN, help="evaluations spent on raising the bound"
    )
    parser.add_argument(
        "--per-unit", action="store_true", help="a curvature matrix a hidden unit: tighter, slower"
    )
    parser.add_argument(
        "--trusted",
        action="store_true",
        help="run the code that the run's configuration names: only from a source you trust",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def check_run(folder: Path) -> None:
    """Refuse what is not a run folder, before anything slow is imported."""
    if not folder.is_dir():
        raise RunFolderError(
            f"a run must be a folder that `holdfast train` wrote, got {folder}, which is none; check the "
            "path."
        )
