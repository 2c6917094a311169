"""``holdfast doctor``: why is it stuck? Environment, data, threat, capacity, attack; one remedy for each
finding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.certify import check_run
from holdfast.config.commands import DoctorCommand
from holdfast.config.options import is_option, options_of
from holdfast.errors import InputError

if TYPE_CHECKING:
    from holdfast.diagnosis import Finding


def run(argv: Sequence[str]) -> int:
    """Examine and print the findings; 1 where one is bad."""
    arguments = options_of(DoctorCommand).spelled(argv)
    if arguments and not is_option(arguments[0]) and Path(arguments[0]).suffix not in (".yaml", ".yml"):
        if len(arguments) > 1:
            raise InputError(
                f"a run is examined as it is, got also {' '.join(arguments[1:])!r}; leave that out."
            )
        check_run(Path(arguments[0]))
        findings = _of_run(Path(arguments[0]))
    else:
        findings = _of_environment(arguments)

    from holdfast.cli.terminal import console, show_findings

    show_findings(console(), findings)
    return int(any(finding.level == "bad" for finding in findings))


def _of_run(folder: Path) -> "Sequence[Finding]":
    from holdfast.jobs.doctor import examine

    return examine(folder)


def _of_environment(arguments: Sequence[str]) -> "Sequence[Finding]":
    from holdfast.config.reading import read

    given, _ = read(DoctorCommand, arguments)

    from holdfast.config.build import build_data, build_threat
    from holdfast.jobs.environment import data_and_threat, environment

    findings = environment()
    if arguments:
        data = build_data(given.data, seed=given.seed)
        findings += data_and_threat(data, build_threat(given.threat, data))
    return findings
