"""``holdfast doctor``: why is it stuck? Environment, data, threat, capacity, attack; one remedy for each
finding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.certify import check_run
from holdfast.config.options import options_help, spelled
from holdfast.errors import InputError

if TYPE_CHECKING:
    from holdfast.diagnosis import Finding

FLAGS = {
    "--trusted": "run the code that the configuration file names by import path: only from a source you trust",
    "--help": "show this help and stop",
}

USAGE = """usage: holdfast doctor [RUN]
       holdfast doctor [CONFIG.yaml] [--data NAME] [--threat SPEC] [options of `holdfast train`]

With RUN: what held this run back, read off its folder. Without: the installation and the machine, and with a
configuration, data or a threat, whether any classifier can be robust on them.

examples:
  holdfast doctor
  holdfast doctor runs/wide
  holdfast doctor --data digits --threat linf:0.3

Exit status: 0, or 1 where something is bad."""


def run(argv: Sequence[str]) -> int:
    """Examine and print the findings; 1 where one is bad."""
    if "--help" in argv or "-h" in argv:
        print(f"{USAGE}\n\nThe options of `holdfast train`:\n\n{options_help(FLAGS)}")
        return 0
    arguments = spelled(argv, FLAGS)
    if arguments and not arguments[0].startswith("-") and Path(arguments[0]).suffix not in (".yaml", ".yml"):
        if len(arguments) > 1:
            raise InputError(
                f"a run is examined as it is, got also {' '.join(arguments[1:])!r}; leave that out."
            )
        check_run(Path(arguments[0]))
        findings = _of_run(Path(arguments[0]))
    else:
        findings = _of_surroundings(arguments)

    from holdfast.cli.terminal import console, show_findings

    show_findings(console(), findings)
    return int(any(finding.level == "bad" for finding in findings))


def _of_run(folder: Path) -> "Sequence[Finding]":
    from holdfast.jobs.doctor import examine

    return examine(folder)


def _of_surroundings(arguments: Sequence[str]) -> "Sequence[Finding]":
    from holdfast.config.reading import read_config

    for argument in arguments:
        option = argument.partition("=")[0]
        if (
            option.startswith("--")
            and option not in FLAGS
            and not option.startswith(("--data.", "--threat.", "--seed"))
        ):
            raise InputError(
                f"{option} says nothing about data or threat, which is all that is looked at before "
                "training; leave it out."
            )
    config, _ = read_config(arguments, FLAGS)

    from holdfast.config.build import build_data, build_threat
    from holdfast.jobs.environment import data_and_threat, environment

    findings = environment()
    if arguments:
        data = build_data(config.data, seed=config.seed)
        findings += data_and_threat(data, build_threat(config.threat, data))
    return findings
