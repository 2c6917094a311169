"""The terminal, whose reader may go away (``| head -1``): what that means is defined here, since rich itself
would end the process with status 1.
"""

import sys

from rich.console import Console

from holdfast._signals import silence


class Output(Console):
    """Standard output: a reader that has gone is a `BrokenPipeError`, as it is for ``print``."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Aside(Console):
    """Progress on standard error: without a reader it falls silent, and the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence(sys.stderr)
