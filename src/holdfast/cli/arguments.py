"""Arguments of the small commands, read with the standard library: errors are one sentence, mistyped
options find their likeness.
"""

import argparse
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from holdfast._rules import COUNT, RADIUS, SEED, Rule, shown, whole
from holdfast.config.options import nearest
from holdfast.errors import InputError


class _WithDefaults(argparse.RawDescriptionHelpFormatter):
    """Help that ends in the default, where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        value = action.default
        if value is None or isinstance(value, bool) or value == argparse.SUPPRESS:
            return action.help
        return (
            f"{action.help} (default: {value:g})"
            if isinstance(value, float)
            else f"{action.help} (default: {value})"
        )


RENAMED = {
    "--no-box": "--threat.box false",
    "--no-center": "--network.center false",
    "--depth": "--network.depth",
    "--sample": "--examples",
    "--loss": "--target-loss",
    "--gap": "--target-gap",
}
"""Options of version 0.1 that have other spellings now: those of `holdfast train`, where it has them too."""


class Parser(argparse.ArgumentParser):
    """argparse whose refusals are `InputError`, and which neither guesses at shortened options nor exits."""

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"holdfast {command}",
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=_WithDefaults,
            allow_abbrev=False,
        )

    def add_flag(self, option: str, *, help: str) -> None:
        """An option with the value true or false, by default true, as `holdfast train` has it."""
        self.add_argument(
            option, type=flag, nargs="?", const=True, default=True, metavar="true|false", help=help
        )

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments as a namespace. ``--help`` prints and raises `SystemExit` with status 0."""
        known = [name for action in self._actions for name in action.option_strings]
        given: set[str] = set()
        for argument in argv:
            name, equals, value = argument.partition("=")
            if RENAMED.get(name, "").partition(" ")[0] in known and name not in known:
                raise InputError(f"option {name} does not exist; write {RENAMED[name]}.")
            if re.match(r"-+[A-Za-z]", name) and name not in known:
                raise InputError(f"option {name} does not exist; {nearest(name, known)}")
            if name in known:
                given.add(name)
            if (
                equals and value == "--" and name in known
            ):  # argparse takes it for the end of options, and the value for an empty list
                raise InputError(f"option {name} needs a value, got '--'; write one in its place.")
        read = self.parse_args(argv)
        read.given = frozenset(given)
        return read

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.rstrip('.')}; see `{self.prog} --help`.")


def refuse_others(given: Collection[str], of: Mapping[str, Sequence[str]], chosen: Collection[str]) -> None:
    """Refuse options that belong to an alternative that was not chosen.

    Args:
        given: the options on the command line.
        of: the options that belong to each alternative, by its name for people; what stands nowhere goes with
            all of them.
        chosen: the alternatives at hand.

    Raises:
        InputError: an option of another alternative; the message names those that apply.
    """
    fit = {option for name in chosen for option in of[name]}
    for name, options in of.items():
        for option in options:
            if option in given and option not in fit:
                others = ", ".join(sorted(fit)) or "none of its own"
                raise InputError(
                    f"{option} is for {name}, got it with {' and '.join(chosen)}; leave it out (options "
                    f"for that: {others})."
                )


def _read(rule: Rule, text: str, as_type: Callable[[str], float]) -> Any:
    """The text as a number that follows the rule; the Python functions have the same rules."""
    try:
        return rule.read(as_type(text))
    except (TypeError, ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"must be {rule.what}, got {shown(text)}") from error


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    value: float = _read(RADIUS, text, float)
    return value


def count(text: str) -> int:
    """A whole number, 1 or more, for argparse."""
    value: int = _read(COUNT, text, int)
    return value


def natural(text: str) -> int:
    """A whole number, 0 or more, for argparse."""
    value: int = _read(whole(least=0), text, int)
    return value


def flag(text: str) -> bool:
    """True or false, for argparse."""
    words = {"true": True, "yes": True, "false": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"must be true or false, got {shown(text)}")
    return words[text.lower()]


def seed(text: str) -> int:
    """A seed, for argparse."""
    value: int = _read(SEED, text, int)
    return value


def numbers(option: str, text: str | None) -> tuple[float, ...]:
    """Numbers above 0 with commas between them; none for no text.

    Raises:
        InputError: anything else.
    """
    try:
        return tuple(positive(part) for part in text.split(",")) if text else ()
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{option} must be numbers > 0 such as 0.1,0.2, got {text!r}; fix it.") from error


def classes(text: str | None) -> tuple[int, ...] | None:
    """Class numbers with commas between them.

    Raises:
        InputError: anything else.
    """
    try:
        return tuple(natural(part) for part in text.split(",")) if text else None
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--classes must be whole numbers such as 3,8, got {text!r}; fix it.") from error
