"""Arguments of the small commands, read with the standard library: errors are one sentence, mistyped options find their likeness."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from holdfast.errors import InputError
from holdfast.jobs.options import nearest


class Parser(argparse.ArgumentParser):
    """argparse whose refusals are `InputError`, and which neither guesses at shortened options nor exits."""

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"holdfast {command}",
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments as a namespace. ``--help`` prints and raises `SystemExit` with status 0."""
        known = [name for action in self._actions for name in action.option_strings]
        for argument in argv:
            name = argument.partition("=")[0]
            if re.match(r"-+[A-Za-z]", name) and name not in known:
                raise InputError(f"option {name} does not exist; {nearest(name, known)}")
        return self.parse_args(argv)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.rstrip('.')}; see `{self.prog} --help`.")


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a finite number > 0, got {text}")
    return value


def count(text: str) -> int:
    """A whole number, 1 or more, for argparse."""
    if natural(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text}")
    return int(text)


def natural(text: str) -> int:
    """A whole number, 0 or more, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 0, got {text}")
    return value


def numbers(option: str, text: str | None) -> tuple[float, ...]:
    """Numbers above 0 with commas between them; none for no text.

    Raises:
        InputError: anything else.
    """
    try:
        return tuple(positive(part) for part in text.split(",")) if text else ()
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{option} must be numbers > 0 such as 0.1,0.2, got {text!r}; mend it.") from error


def classes(text: str | None) -> tuple[int, ...] | None:
    """Class numbers with commas between them.

    Raises:
        InputError: anything else.
    """
    try:
        return tuple(natural(part) for part in text.split(",")) if text else None
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--classes must be whole numbers such as 3,8, got {text!r}; mend it.") from error
