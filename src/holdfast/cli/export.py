"""``holdfast export``: a run's network as a file for other tools, with a model card beside it."""

from collections.abc import Sequence

from holdfast.cli.certify import check_run
from holdfast.config.commands import ExportCommand


def run(argv: Sequence[str]) -> int:
    """Write, compare, and say where."""
    from holdfast.config.reading import read

    given, _ = read(ExportCommand, argv)
    check_run(given.run)

    from holdfast.jobs.export import export

    path = export(
        given.run, given.to, weights=given.weights, overwrite=given.overwrite, trusted=given.trusted
    )
    print(path)
    print(f"{path}.md")
    return 0
