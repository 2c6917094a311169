"""The options of a command, from the entries of its settings: their names, their help, and what a mistyped one
meant.

Only the standard library is imported here, so that help and refusals come at once; `holdfast.config.reading`
reads the values.
"""

import difflib
import inspect
import itertools
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from holdfast.config.schema import RunConfig, Tagged, plain_default, with_entries
from holdfast.errors import InputError

HELP = ("--help", "-h")
RENAMED = {
    "--no-box": "--threat.box false",
    "--no-center": "--network.center false",
    "--depth": "--network.depth",
    "--sample": "--examples",
    "--loss": "--target-loss",
    "--gap": "--target-gap",
}
"""Options of version 0.1 that have other spellings now, in the commands that have these."""


def hyphens(name: str) -> str:
    """An entry's name as an option's."""
    return name.replace("_", "-")


def is_option(word: str) -> bool:
    """Whether a word of the command line is an option, and no value such as ``-0.5``."""
    return re.match(r"-+[A-Za-z]", word) is not None


@dataclass(frozen=True, kw_only=True)
class Described:
    """An argument or an option for people: its names, what it does, and what stands where it is left out."""

    names: str
    help: str
    default: str = ""

    def shown(self, width: int) -> str:
        """As lines of a terminal."""
        text = f"{self.help} ({self.default})" if self.default else self.help
        lead, indent = f"  {self.names}", f"\n{' ' * 38}"
        lines = textwrap.wrap(text, max(20, width - 38), break_on_hyphens=False)
        return (f"{lead:<38}" if len(lead) < 37 else lead + indent) + indent.join(lines)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a command.

    Attributes:
        schema: the class of its settings.
        entries: its fields by name.
        leaves: every entry by its dotted path, with its default: sections may share a type and differ in their defaults.
        long, short: path by long name; long name by short one.
        places: entries written without a name, in order.
    """

    schema: Any
    entries: dict[str, Field[Any]]
    leaves: dict[str, tuple[Field[Any], Any]]
    long: dict[str, str]
    short: dict[str, str]
    places: tuple[Field[Any], ...]

    def spelled(self, argv: Sequence[str]) -> list[str]:
        """The arguments with every option as ``--long-name=value``; ``--classes 3,8`` becomes
        ``--data.classes=[3,8]``, ``--data.flatten`` true.

        Raises:
            InputError: an option that the command does not have, in which case the message names the nearest one, or
                one without a value.
        """
        words, done = list(argv), list[str]()
        while words:
            word = words.pop(0)
            if not is_option(word):
                done.append(word)
                continue
            given, equals, value = word.partition("=")
            option = self._meant(given)
            if not equals:
                value = self._following(option, words)
            if value == "--":  # which argparse takes for the end of the options
                raise InputError(f"option {option} needs a value, got '--'; write one in its place.")
            done.append(f"{option}={self._bracketed(option, value)}")
        return done

    def _following(self, option: str, words: list[str]) -> str:
        """The value after an option, taken from the words; true for one that needs none."""
        entry = self._entry(option)
        none = not words or is_option(words[0])
        truth = entry is not None and entry.type is bool
        if truth and (none or (entry and entry.metadata["switch"]) or words[0].endswith((".yaml", ".yml"))):
            return "true"
        if none:
            raise InputError(f"option {option} needs a value, got none; write one after it.")
        return words.pop(0)

    def _meant(self, given: str) -> str:
        option = hyphens(given)
        if option in self.long or option in self.short:
            return self.short.get(option, option)
        # --network.init-args.hidden_size sets one entry, whose spelling is the user's
        arguments, dot, entry = given.partition("args.")
        if dot and entry and hyphens(f"{arguments}args") in self.long:
            return f"{hyphens(arguments)}args.{entry}"
        known = [*self.short, *self.long, HELP[0]]
        if (now := RENAMED.get(given, "")).partition(" ")[0] in known:
            raise InputError(f"option {given} does not exist; write {now}.")
        run = options_of(RunConfig)
        if option in run.long or option in run.short:
            raise InputError(
                f"option {given} is one of `holdfast train`, and `holdfast {self.schema.command}` has nothing to do with "
                "it; leave it out."
            )
        raise InputError(f"option {given} does not exist; {nearest(option, known)}")

    def _entry(self, option: str) -> Field[Any] | None:
        return self.leaves[self.long[option]][0] if option in self.long else None

    def _bracketed(self, option: str, value: str) -> str:
        entry = self._entry(option)
        takes_list = entry is not None and "tuple" in str(entry.type)
        return f"[{value}]" if takes_list and value not in ("", "null") and value[0] not in "[{" else value

    def chosen(self, argv: Sequence[str]) -> dict[str, str]:
        """The alternatives that the command line picks by name, by section; spelled or not."""
        words = [part for argument in argv for part in argument.split("=", 1)]
        pairs = itertools.pairwise(words)
        named = [
            (self.long.get(self.short.get(hyphens(option), hyphens(option)), ""), value)
            for option, value in pairs
        ]
        return {path.removesuffix(".name"): value for path, value in named if path.endswith(".name")}

    @property
    def usage(self) -> str:
        """How the command is written: ``holdfast certify RUN [options]``."""
        places = [entry.metadata["place"] + "..." * ("tuple" in str(entry.type)) for entry in self.places]
        needed = [plain_default(entry) is ... for entry in self.places]
        words = [word if must else f"[{word}]" for word, must in zip(places, needed, strict=True)]
        return " ".join(["holdfast", self.schema.command, *words, "[options]"])

    @property
    def about(self) -> tuple[str, str]:
        """What the command does, and examples of it with what else there is to say."""
        said, _, examples = (inspect.getdoc(self.schema) or "").partition("\n\nExamples:\n")
        return said, examples

    def page(self, argv: Sequence[str] = ()) -> str:
        """The whole help: usage, what the command does, examples, options; alternatives that ``argv`` picks with their
        own settings.

        Raises:
            InputError: there is no such alternative.
        """
        width = min(110, shutil.get_terminal_size((100, 24)).columns)
        said, examples = self.about
        blocks = [
            "\n".join([f"{title}:", *(row.shown(width) for row in rows)])
            for title, rows in self.described(self.chosen(argv)).items()
        ]
        return "\n\n".join([f"usage: {self.usage}", said, f"examples:\n{examples}", *blocks])

    def described(self, named: Mapping[str, str] = MappingProxyType({})) -> dict[str, list[Described]]:
        """Every argument and option by the title of its section; ``named`` picks alternatives of sections.

        Raises:
            InputError: there is no such alternative.
        """
        sections = {
            key: with_entries(_default(entry), {"name": named[key]}, key) if key in named else _default(entry)
            for key, entry in self.entries.items()
        }
        tagged = {key: value for key, value in sections.items() if isinstance(value, Tagged)}
        shorts = {long: short for short, long in self.short.items()}
        blocks: dict[str, list[Described]] = {}
        if self.places:
            blocks["arguments"] = [_described(one.metadata["place"], one, None) for one in self.places]
        own: list[Described] = []
        for long, path in self.long.items():
            entry, default = self.leaves[path]
            section, dot, name = path.partition(".")
            if section in tagged:
                entries = {one.name: one for one in fields(tagged[section])}
                if name not in entries:
                    continue
                entry, default = entries[name], getattr(tagged[section], name)
            facts = self.entries[section].metadata
            if dot and (facts["needed"] or facts["optional"]) and name == fields(facts["default"])[0].name:
                default = ... if facts["needed"] else None  # nothing stands for a section that is not named
            names = ", ".join(name for name in (shorts.get(long), long) if name)
            (blocks.setdefault(facts["help"], []) if dot else own).append(_described(names, entry, default))
        for key in tagged:
            other = f"--{hyphens(key)} NAME --help"
            blocks[self.entries[key].metadata["help"]].append(
                Described(names=other, help="settings of another")
            )
        return blocks | {"options": [*own, Described(names=HELP[0], help="show this help and stop")]}


@cache
def options_of(schema: Any) -> Options:
    """The options of the command with these settings."""
    entries = {entry.name: entry for entry in fields(schema)}
    leaves = dict(_leaves(entries))
    long = {f"--{hyphens(path)}": path for path in leaves}
    short = {
        name: f"--{hyphens(path)}" for path in leaves if (name := _short(path, leaves)) and name not in long
    }
    places = tuple(entry for entry in entries.values() if entry.metadata.get("place"))
    return Options(schema=schema, entries=entries, leaves=leaves, long=long, short=short, places=places)


def _leaves(entries: Mapping[str, Field[Any]]) -> Iterator[tuple[str, tuple[Field[Any], Any]]]:
    for name, entry in entries.items():
        section, facts = _default(entry), entry.metadata
        if "default" not in facts:
            if not facts["place"]:
                yield name, (entry, section)
            continue
        inner = (
            section.possible() if isinstance(section, Tagged) else {one.name: one for one in fields(section)}
        )
        for key, one in inner.items():
            if key not in facts["without"]:
                yield f"{name}.{key}", (one, getattr(section, key, plain_default(one)))


def _default(entry: Field[Any]) -> Any:
    """What stands where nothing is given; of a section its entries."""
    return entry.metadata["default"] if "default" in entry.metadata else plain_default(entry)


def _short(path: str, leaves: Mapping[str, tuple[Field[Any], Any]]) -> str | None:
    """``--epochs`` for ``training.epochs``; what has no short name of its own goes by its section:
    ``--attack``, ``--final``.
    """
    section, dot, name = path.partition(".")
    short = leaves[path][0].metadata["short"] or (hyphens(section) if dot and name == "name" else None)
    return f"--{short}" if short else None


def nearest(given: str, known: Iterable[str]) -> str:
    """The option likeliest meant, by its whole name or by its last part; short names first."""
    ordered = sorted(known, key=lambda option: (option.count("."), option))
    # of options with one last part those of the training come first, then those of its attack: they are the
    # likeliest
    likely = sorted(ordered, key=lambda o: (o.startswith("--training."), o.startswith("--attack.")))
    tails = {_tail(option): option for option in likely}
    bare = {option.lstrip("-"): option for option in ordered}
    name = given.lstrip("-")
    if name in tails:
        return f"did you mean {tails[name]}?"
    close = [bare[option] for option in difflib.get_close_matches(name, bare, n=1, cutoff=0.6)]
    if not close:
        close = [tails[tail] for tail in difflib.get_close_matches(_tail(given), tails, n=1, cutoff=0.7)]
    return f"did you mean {close[0]}?" if close else "add --help for all of them."


def _tail(option: str) -> str:
    return option.lstrip("-").rpartition(".")[2]


def kind(type_: Any) -> str:
    """A type as people say it.

    >>> kind(int | None)
    'a whole number or null'
    """
    if get_origin(type_) is Literal:
        return f"one of {', '.join(get_args(type_))}"
    or_null = " or null" if type(None) in get_args(type_) else ""
    for word, text in (
        ("tuple[float", "a list of numbers such as [0.1,0.2]"),
        ("tuple[str", "a list of names such as [a,b]"),
        ("tuple", "a list of whole numbers such as [3,8]"),
        ("dict", "a mapping such as {size: 3}"),
        ("bool", "true or false"),
        ("int", "a whole number"),
        ("float", "a number"),
        ("Path", "a path"),
    ):
        if word in str(type_):
            return text + or_null
    return f"text{or_null}"


def _described(names: str, entry: Field[Any], default: Any) -> Described:
    choices = f": {', '.join(get_args(entry.type))}" if get_origin(entry.type) is Literal else ""
    if default is ...:
        shown = "needed"
    elif default in (None, {}, ()) or entry.metadata["switch"]:
        shown = ""
    else:
        plain = default.name if isinstance(default, Tagged) else default
        shown = str(plain).lower() if isinstance(plain, bool) else str(plain)
    return Described(names=names, help=f"{entry.metadata['help']}{choices}", default=shown)
