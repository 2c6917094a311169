"""The options of a training run, from the entries of `RunConfig`: their names, their help, and what a
mistyped one meant.

Only the standard library is imported here, so that help and refusals come at once; `holdfast.config.reading`
reads the values.
"""

import difflib
import itertools
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from holdfast.config.schema import RunConfig, Tagged, plain_default, with_entries
from holdfast.errors import InputError

NUMBERS = re.compile(r"-?\d+(,\s*-?\d+)*")
SECTIONS: dict[str, Field[Any]] = {entry.name: entry for entry in fields(RunConfig)}


def _leaves() -> Iterator[tuple[str, tuple[Field[Any], Any]]]:
    run = RunConfig()
    for name, entry in SECTIONS.items():
        section = getattr(run, name)
        if not is_dataclass(section):
            yield name, (entry, section)
            continue
        inner = (
            section.possible() if isinstance(section, Tagged) else {one.name: one for one in fields(section)}
        )
        for key, one in inner.items():
            yield f"{name}.{key}", (one, getattr(section, key, plain_default(one)))


# Every entry by its dotted path, with its default: sections may share a type and differ in their defaults.
LEAVES: dict[str, tuple[Field[Any], Any]] = dict(_leaves())


def hyphens(name: str) -> str:
    """An entry's name as an option's."""
    return name.replace("_", "-")


def _short(path: str) -> str | None:
    """``--epochs`` for ``training.epochs``; what has no short name of its own goes by its section:
    ``--attack``, ``--final``.
    """
    section, dot, name = path.partition(".")
    short = LEAVES[path][0].metadata["short"] or (section if dot and name == "name" else None)
    return f"--{short}" if short else None


LONG = {f"--{hyphens(path)}": path for path in LEAVES}
SHORT = {short: f"--{hyphens(path)}" for path in LEAVES if (short := _short(path)) is not None}


def spelled(argv: Sequence[str], flags: Iterable[str]) -> list[str]:
    """The arguments with every option in its long form, with hyphens; ``--classes 3,8`` becomes ``[3,8]``,
    ``--data.flatten`` true.

    Raises:
        InputError: an option that is neither one of a run's nor one of ``flags``; the message names the
            nearest one.
    """
    known = [*SHORT, *LONG, *flags]
    done: list[str] = []
    for argument in argv:
        is_option = re.match(r"-+[A-Za-z]", argument)
        if done and _switch(done[-1]) and (is_option or argument.endswith((".yaml", ".yml"))):
            done.append("true")
        if is_option:
            given, equals, value = argument.partition("=")
            option = _option_meant(given, known)
            done.append(option + equals + (_bracketed(option, value) if equals else ""))
        else:
            done.append(_bracketed(done[-1], argument) if done else argument)
    return [*done, "true"] if done and _switch(done[-1]) else done


def _switch(option: str) -> bool:
    """Whether an option is true where no value follows it."""
    return option in LONG and LEAVES[LONG[option]][0].type is bool


def _option_meant(given: str, known: Sequence[str]) -> str:
    if hyphens(given) in known:
        return SHORT.get(hyphens(given), hyphens(given))
    # --network.init-args.hidden_size sets one entry, whose spelling is the user's
    arguments, dot, entry = given.partition("args.")
    if dot and entry and hyphens(f"{arguments}args") in LONG:
        return f"{hyphens(arguments)}args.{entry}"
    raise InputError(f"option {given} does not exist; {nearest(hyphens(given), known)}")


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


def _bracketed(option: str, value: str) -> str:
    path = LONG.get(option)
    takes_list = path is not None and "tuple" in str(LEAVES[path][0].type)
    return f"[{value}]" if takes_list and NUMBERS.fullmatch(value) else value


def kind(type_: Any) -> str:
    """A type as people say it.

    >>> kind(int | None)
    'a whole number or null'
    """
    if get_origin(type_) is Literal:
        return f"one of {', '.join(get_args(type_))}"
    or_null = " or null" if type(None) in get_args(type_) else ""
    for word, text in (
        ("tuple", "a list of whole numbers such as [3,8]"),
        ("dict", "a mapping such as {size: 3}"),
        ("bool", "true or false"),
        ("int", "a whole number"),
        ("float", "a number"),
    ):
        if word in str(type_):
            return text + or_null
    return f"text{or_null}"


def chosen(argv: Sequence[str]) -> dict[str, str]:
    """The alternatives that the command line picks by name, by section; spelled or not."""
    words = [part for argument in argv for part in argument.split("=", 1)]
    pairs = itertools.pairwise(words)
    named = [(LONG.get(SHORT.get(option, option), ""), value) for option, value in pairs]
    return {path.removesuffix(".name"): value for path, value in named if path.endswith(".name")}


def options_help(flags: Mapping[str, str], named: Mapping[str, str] = MappingProxyType({})) -> str:
    """All options with what they do and their defaults, section by section; ``named`` picks alternatives of
    sections.

    Raises:
        InputError: there is no such alternative.
    """
    run = RunConfig()
    sections = {key: with_entries(getattr(run, key), {"name": name}, key) for key, name in named.items()}
    tagged = {
        key: value for key in SECTIONS if isinstance(value := sections.get(key, getattr(run, key)), Tagged)
    }
    width = min(110, shutil.get_terminal_size((100, 24)).columns)
    shorts = {long: short for short, long in SHORT.items()}
    blocks: dict[str, list[str]] = {"run": []}
    for long, path in LONG.items():
        entry, default = LEAVES[path]
        section, dot, name = path.partition(".")
        if section in tagged:
            own = {one.name: one for one in fields(tagged[section])}
            if name not in own:
                continue
            entry, default = own[name], getattr(tagged[section], name)
        names = ", ".join(name for name in (shorts.get(long), long) if name)
        title = SECTIONS[section].metadata["help"] if dot else "run"
        blocks.setdefault(title, []).append(_described(names, _explained(entry, default), width))
    for key in tagged:
        blocks[SECTIONS[key].metadata["help"]].append(f"  (settings of another: --{key} NAME --help)")
    blocks["run"] += [_described(name, text, width) for name, text in flags.items()]
    blocks["run"] = blocks.pop("run")
    return "\n\n".join(f"{title}:\n" + "\n".join(lines) for title, lines in blocks.items())


def _explained(entry: Field[Any], default: Any) -> str:
    default = default.name if isinstance(default, Tagged) else default
    shown = (
        ""
        if default in (None, {}, ())
        else f" ({str(default).lower() if default in (True, False) else default})"
    )
    choices = f": {', '.join(get_args(entry.type))}" if get_origin(entry.type) is Literal else ""
    return f"{entry.metadata['help']}{choices}{shown}"


def _described(names: str, text: str, width: int) -> str:
    lead = f"  {names}"
    first = f"{lead:<38}" if len(lead) < 37 else f"{lead}\n{' ' * 38}"
    return first + f"\n{' ' * 38}".join(textwrap.wrap(text, max(20, width - 38), break_on_hyphens=False))
