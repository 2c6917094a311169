"""From the command line, and from a YAML file, to the settings of a command. jsonargparse types the values; nothing of
the user's is imported.
"""

import difflib
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser

from holdfast._imports import Trusted
from holdfast.config.commands import TrainCommand
from holdfast.config.options import Options, hyphens, is_option, kind, options_of
from holdfast.config.schema import (
    Checked,
    RunConfig,
    check_applies,
    from_dict,
    is_path,
    optional,
    plain_default,
    with_entries,
)
from holdfast.errors import HoldfastError, InputError

# What stands in a file for a whole section: `data: digits` is `data: {name: digits}`.
SHORTHAND = {
    "data": "name",
    "threat": "spec",
    "network": "name",
    "attack": "name",
    "evaluation": "name",
    "final": "name",
}
RUN = options_of(RunConfig)
"""What a file may hold."""
Settings = TypeVar("Settings", bound=Checked)


def read_config(argv: Sequence[str], *, trusted: bool = False) -> tuple[RunConfig, dict[str, Any]]:
    """The run that ``[CONFIG.yaml] --option value ...`` describes, and what was given; see `read`."""
    settings, given = read(TrainCommand, argv, trusted=trusted)
    return settings.run, given


def read(
    schema: Callable[..., Settings], argv: Sequence[str], *, trusted: bool = False
) -> tuple[Settings, dict[str, Any]]:
    """The settings of a command that the command line describes, options over file over defaults; and what options were
    given.

    Import paths among the options are `Trusted`; those of the file only where ``trusted``, or where the flag
    ``--trusted`` is given.

    Raises:
        InputError: an unknown option or key, a value of the wrong type or outside its limits, a file that
            cannot be read.
    """
    options = options_of(schema)
    words = options.spelled(argv)
    given = _typed(options, [word for word in words if is_option(word)])
    placed = _placed(options, [word for word in words if not is_option(word)])
    filed: dict[str, Any] = {}
    if placed.get("config") is not None:
        sections = _read_yaml(placed["config"])
        filed = _with_arguments(_typed(RUN, deepcopy(sections)), sections)
    if trusted or given.get("trusted"):
        filed = _stood_for(filed)
    own = _stood_for(given)
    _check_nulls(RUN, filed)
    _check_nulls(options, _merged(filed, own))
    _check_needed(options, placed | given)
    settings = _read_over(schema, filed, placed | own)
    for name in given:
        check_applies(settings, name)
    return settings, own


def _typed(options: Options, values: Any) -> dict[str, Any]:
    """Words of the command line, or the sections of a file, each value of its type."""
    parser = _parser(options.schema)
    read_values = parser.parse_args if isinstance(values, list) else parser.parse_object
    try:
        typed: dict[str, Any] = read_values(values, defaults=False).as_dict()
    except ArgumentError as error:
        raise InputError(_sentence(options, str(error))) from error
    except HoldfastError:
        raise
    except RecursionError as error:
        raise InputError(
            f"values must not be nested so deeply, got more levels than can be read; {_help(options)}."
        ) from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # of what jsonargparse did not expect
        raise InputError(
            "values must be as their help says, got one that cannot be read "
            f"({' '.join(str(error).split())[:120]}); {_help(options)}."
        ) from error
    return typed


def _placed(options: Options, words: list[str]) -> dict[str, Any]:
    """The words without an option's name, by the entry in whose place they stand."""
    placed: dict[str, Any] = {}
    for entry in options.places:
        several = "tuple" in str(entry.type)
        taken, words = (words, []) if several else (words[:1], words[1:])
        read = [Path(word) if "Path" in str(entry.type) else word for word in taken]
        if read:
            placed[entry.name] = tuple(read) if several else read[0]
    if words:
        allowed = "".join(f"at most one {entry.metadata['place']}" for entry in options.places) or "no word"
        raise InputError(f"{allowed} is allowed beside the options, got also {words[0]!r}; {_help(options)}.")
    return placed


def _check_needed(options: Options, given: Mapping[str, Any]) -> None:
    """Refuse a command line that lacks something."""
    for entry in options.entries.values():
        facts = entry.metadata
        if facts.get("needed") and (first := fields(facts["default"])[0]).name not in given.get(
            entry.name, {}
        ):
            raise InputError(f"--{first.metadata['short']} is needed, got none; {_help(options)}.")
        if plain_default(entry) is ... and entry.name not in given:
            name = facts["place"] or f"--{hyphens(entry.name)}"
            raise InputError(f"{name} is needed, got none; {_help(options)}.")


def _help(options: Options) -> str:
    return f"see `holdfast {options.schema.command} --help`"


def _read_over(schema: Callable[..., Settings], filed: dict[str, Any], given: dict[str, Any]) -> Settings:
    """The file's settings with the options over them: an option that picks another alternative takes the
    place of what the file gave for its own.

    Raises:
        InputError: a setting of either that does not apply.
    """
    entries = options_of(schema).entries
    values: dict[str, Any] = {}
    if "config" in entries:
        run = from_dict(filed | {key: given[key] for key in ("recipe",) if key in given})
        values = {key: getattr(run, key) for key in entries if key in RUN.entries}
    for key, value in given.items():
        default = entries[key].metadata.get("default")
        if default is not None:  # a section
            own = filed.get(key, {})
            value = {
                name: _merged(own[name], entry)
                if isinstance(own.get(name), dict) and isinstance(entry, dict)
                else entry
                for name, entry in value.items()
            }
            value = with_entries(values.get(key, default), value, key)
        values[key] = value
    return schema(**values)


def _stood_for(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with its import paths as `Trusted`."""

    def marked(value: Any) -> Any:
        return Trusted(value) if isinstance(value, str) and is_path(value) else value

    return {
        key: {name: marked(inner) for name, inner in value.items()}
        if isinstance(value, dict)
        else marked(value)
        for key, value in values.items()
    }


@cache
def _parser(schema: Any) -> ArgumentParser:
    parser, options = ArgumentParser(exit_on_error=False, add_help=False), options_of(schema)
    for option, path in options.long.items():
        entry, default = options.leaves[path]
        # what a class declares is checked by its own rules: here only numbers, lists and words are told apart
        type_ = Any if entry.metadata["declared"] else entry.type
        parser.add_argument(option, type=type_, default=None if default is ... else default)
    return parser


def _read_yaml(path: Path) -> dict[str, Any]:
    """The file's sections, shorthands written out, keys checked."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"the configuration must be a readable YAML file, got {path} ({error.strerror}); check its path."
        ) from error
    except RecursionError as error:
        raise InputError(
            f"{path} must be `key: value` lines, but is nested too deeply to be read; write it flat."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1} is not" if mark else "it is not"
        raise InputError(f"{path} must be YAML, but {place}; fix it there.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold `key: value` lines, got {type(values).__name__}; {_help(RUN)}.")
    if values.get("started_from") == "python":
        raise InputError(
            f"{path} describes a run started from Python, whose parts no file can hold; run its script "
            "again, or write a configuration (`holdfast train --print-config`)."
        )
    _check_keys(path, "", values, RUN.entries)
    return {key: _section(path, key, value) for key, value in values.items()}


def _section(path: Path, key: str, value: Any) -> Any:
    if key in RUN.leaves:
        return value
    if isinstance(value, str) and key in SHORTHAND:
        return {SHORTHAND[key]: value}
    if not isinstance(value, dict):
        raise InputError(
            f"{key} in {path} must be a section of `key: value` lines, got {value!r}; {_help(RUN)}."
        )
    section = dict(value)
    if "class_path" in section and key in SHORTHAND:
        section[SHORTHAND[key]] = section.pop("class_path")
    if key == "training" and isinstance(section.get("optimizer"), dict):
        own = section.pop("optimizer")
        _check_keys(path, "training.optimizer.", own, ("class_path", "init_args"))
        section |= {"optimizer": own.get("class_path"), "optimizer_args": own.get("init_args", {})}
    if section.get("name") == "random" and "restarts" in section:  # as runs of 0.1 wrote it
        section["samples"] = section.pop("restarts")
    _check_keys(
        path,
        f"{key}.",
        section,
        [leaf.partition(".")[2] for leaf in RUN.leaves if leaf.startswith(f"{key}.")],
    )
    return section


def _check_keys(path: Path, prefix: str, given: Iterable[Any], allowed: Iterable[str]) -> None:
    names = list(allowed)
    for key in given:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1)
            remedy = f"did you mean {prefix}{close[0]}?" if close else f"it may be {', '.join(names)}."
            raise InputError(f"{prefix}{key} in {path} does not exist; {remedy}")


def _check_nulls(options: Options, values: Mapping[str, Any]) -> None:
    """jsonargparse lets null pass for every type."""
    for path, (entry, _) in options.leaves.items():
        section, dot, name = path.partition(".")
        held = values.get(section, ...)
        value = held.get(name, ...) if dot and isinstance(held, dict) else held
        if value is None and not optional(entry) and not entry.metadata["declared"]:
            raise InputError(f"{path} must be {kind(entry.type)}, got null; leave it out for the default.")


def _with_arguments(typed: dict[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the user's classes as YAML has them: jsonargparse would make a number of the text
    ``"0"``.
    """
    for path, (entry, _) in RUN.leaves.items():
        section, _, name = path.partition(".")
        if "dict" in str(entry.type) and name in raw.get(section, {}):
            typed[section][name] = raw[section][name]
    return typed


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, entry by entry; ``over`` wins."""
    merged = dict(base)
    for key, value in over.items():
        held = merged.get(key)
        merged[key] = _merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return merged


def _sentence(options: Options, problem: str) -> str:
    """jsonargparse's message of several lines as one sentence: what, what is allowed, what came, the
    remedy.
    """
    key = re.search(r'Parser key "([^"]+)"', problem)
    came = re.search(r"(?:Got|Given) value: (.*)", problem)
    if key and came and key.group(1) in options.leaves:
        type_ = options.leaves[key.group(1)][0].type
        return f"{key.group(1)} must be {kind(type_)}, got {came.group(1)!r}; {_help(options)}."
    return f"{' '.join(problem.split()).rstrip('.')}; {_help(options)}."
