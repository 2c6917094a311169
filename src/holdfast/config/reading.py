"""From a YAML file and command-line options to a `RunConfig`. jsonargparse types the values; nothing of
the user's is imported.
"""

import difflib
import re
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from holdfast._imports import Trusted
from holdfast.config.options import LEAVES, LONG, SECTIONS, kind, spelled
from holdfast.config.schema import RunConfig, from_dict, is_path, optional, with_entries
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
HELP = "see `holdfast train --help`"


def read_config(
    argv: Sequence[str], flags: Iterable[str] = (), *, trusted: bool = False
) -> tuple[RunConfig, dict[str, Any]]:
    """The run that ``[CONFIG.yaml] --option value ...`` describes: options over file over defaults; and all
    that was given.

    Import paths among the options are `Trusted`; those of the file only where ``trusted``, or where the flag
    ``--trusted`` is given.

    Raises:
        InputError: an unknown option or key, a value of the wrong type or outside its limits, a file that
            cannot be read.
    """
    names = tuple(flags)
    parser = _parser(names)
    try:
        given: dict[str, Any] = parser.parse_args(spelled(argv, names), defaults=False).as_dict()
        file = given.get("config")
        sections = _read_yaml(Path(file)) if file else {}
        typed: dict[str, Any] = parser.parse_object(deepcopy(sections), defaults=False).as_dict()
    except ArgumentError as error:
        raise InputError(_sentence(str(error))) from error
    except HoldfastError:
        raise
    except RecursionError as error:
        raise InputError(
            f"values must not be nested so deeply, got more levels than can be read; {HELP}."
        ) from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # of what jsonargparse did not expect
        raise InputError(
            "values must be as their help says, got one that cannot be read "
            f"({' '.join(str(error).split())[:120]}); {HELP}."
        ) from error
    options = {key: value for key, value in given.items() if key in SECTIONS}
    filed = _with_arguments(typed, sections)
    if trusted or given.get("trusted"):
        filed = _stood_for(filed)
    options = _stood_for(options)
    _check_nulls(filed)
    _check_nulls(_merged(filed, options))
    return _read_over(filed, options), given


def _read_over(filed: dict[str, Any], options: dict[str, Any]) -> RunConfig:
    """The file's settings with the options over them: an option that picks another alternative takes the
    place of what the file gave for its own.

    Raises:
        InputError: a setting of either that does not apply.
    """
    recipe = {"recipe": options["recipe"]} if "recipe" in options else {}
    base = from_dict(filed | recipe)
    sections: dict[str, Any] = {}
    for key, value in options.items():
        held = getattr(base, key)
        if not isinstance(value, dict) or not is_dataclass(held):
            sections[key] = value
            continue
        own = filed.get(key, {})
        entries = {
            name: _merged(own[name], entry)
            if isinstance(own.get(name), dict) and isinstance(entry, dict)
            else entry
            for name, entry in value.items()
        }
        sections[key] = with_entries(held, entries, key)
    return replace(base, **sections)


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
def _parser(flags: tuple[str, ...]) -> ArgumentParser:
    parser = ArgumentParser(prog="holdfast train", exit_on_error=False, add_help=False)
    parser.add_argument("config", nargs="?", type=str)
    for option, path in LONG.items():
        entry, default = LEAVES[path]
        # what a class declares is checked by its own rules: here only numbers, lists and words are told apart
        parser.add_argument(
            option, type=Any if entry.metadata.get("declared") else entry.type, default=default
        )
    for flag in flags:
        parser.add_argument(flag, action="store_true")
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
        raise InputError(f"{path} must hold `key: value` lines, got {type(values).__name__}; {HELP}.")
    if values.get("started_from") == "python":
        raise InputError(
            f"{path} describes a run started from Python, whose parts no file can hold; run its script "
            "again, or write a configuration (`holdfast train --print-config`)."
        )
    _check_keys(path, "", values, SECTIONS)
    return {key: _section(path, key, value) for key, value in values.items()}


def _section(path: Path, key: str, value: Any) -> Any:
    if key in LEAVES:
        return value
    if isinstance(value, str) and key in SHORTHAND:
        return {SHORTHAND[key]: value}
    if not isinstance(value, dict):
        raise InputError(f"{key} in {path} must be a section of `key: value` lines, got {value!r}; {HELP}.")
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
        path, f"{key}.", section, [leaf.partition(".")[2] for leaf in LEAVES if leaf.startswith(f"{key}.")]
    )
    return section


def _check_keys(path: Path, prefix: str, given: Iterable[Any], allowed: Iterable[str]) -> None:
    names = list(allowed)
    for key in given:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1)
            remedy = f"did you mean {prefix}{close[0]}?" if close else f"it may be {', '.join(names)}."
            raise InputError(f"{prefix}{key} in {path} does not exist; {remedy}")


def _check_nulls(values: Mapping[str, Any]) -> None:
    """jsonargparse lets null pass for every type."""
    for path, (entry, default) in LEAVES.items():
        section, dot, name = path.partition(".")
        value = values.get(section, {}).get(name, default) if dot else values.get(section, default)
        if value is None and not optional(entry) and not entry.metadata.get("declared"):
            raise InputError(f"{path} must be {kind(entry.type)}, got null; leave it out for the default.")


def _with_arguments(typed: dict[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the user's classes as YAML has them: jsonargparse would make a number of the text
    ``"0"``.
    """
    for path, (entry, _) in LEAVES.items():
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


def _sentence(problem: str) -> str:
    """jsonargparse's message of several lines as one sentence: what, what is allowed, what came, the
    remedy.
    """
    key = re.search(r'Parser key "([^"]+)"', problem)
    came = re.search(r"(?:Got|Given) value: (.*)", problem)
    if key and came and key.group(1) in LEAVES:
        return f"{key.group(1)} must be {kind(LEAVES[key.group(1)][0].type)}, got {came.group(1)!r}; {HELP}."
    missing = re.search(r"argument (\S+): expected", problem)
    if missing:
        return f"option {missing.group(1)} needs a value, got none; write one after it."
    extra = re.search(r"[Uu]nrecognized arguments: (.*)", problem)
    if extra:
        return f"at most one configuration file is allowed, got also {extra.group(1)!r}; {HELP}."
    return f"{' '.join(problem.split()).rstrip('.')}; {HELP}."
