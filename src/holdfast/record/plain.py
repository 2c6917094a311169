"""The values of `holdfast.record.schema` as plain ones that JSON has words for, and back.

A file of the present version is held to the schema exactly. One of an older version is read as far as it can
be: what is missing or of another kind is not known there.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from holdfast._files import without_nan
from holdfast._formats import CONTROL, Real
from holdfast._rules import shown
from holdfast.certificates.certificate import Certificate, void
from holdfast.diagnosis.finding import Finding, from_dict
from holdfast.errors import RunFolderError
from holdfast.record.schema import SCHEMA

Table = TypeVar("Table")
NO_CERTIFICATE = void("the run holds no certificate", math.nan)
LARGEST = 1e100
"""Beyond it no loss, distance or time was ever measured, and differences of such figures overflow: such a
figure is not known.
"""


def to_plain(value: Any) -> Any:
    """A value of the schema as JSON has it, null for what is not known.

    What was read from an older version keeps that version: the other files of its folder are of it too.

    >>> from holdfast.record.schema import PartCounts
    >>> to_plain(PartCounts(examples=8, robust=5))
    {'examples': 8, 'robust': 5}
    """
    if is_dataclass(value):
        kept = {entry: getattr(value, entry.name) for entry in fields(value)}
        return {
            e.name: to_plain(v) for e, v in kept.items() if v is not None or not e.metadata.get("optional")
        }
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    return without_nan(value)


def figure(value: Real | None) -> float | None:
    """The figure; nothing where it is NaN or infinite."""
    return float(value) if value is not None and math.isfinite(value) else None


def from_plain(kind: type[Table], values: object, file: str, *, version: int | None = None) -> Table:
    """A value of the schema from what a file holds.

    Args:
        file: its path, for messages.
        version: of the schema that the file follows; default its entry ``schema``, or 1 without it.

    Raises:
        RunFolderError: of a newer version, or not as the schema says; the message names file and entry.
    """
    version = version_of(values, file) if version is None else version
    made: Table = _Reader(file, exact=version == SCHEMA).table(kind, values, "")
    return replace(made, schema=version) if hasattr(made, "schema") else made  # type: ignore[type-var]


def version_of(values: object, file: str) -> int:
    """The version of the schema that a file says it follows.

    Raises:
        RunFolderError: it says none that there is, or a newer one.
    """
    version = values.get("schema", 1) if isinstance(values, dict) else 1
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RunFolderError(
            f"{file} must give its schema as a whole number >= 1, got {shown(version)}; restore it, or "
            "train again."
        )
    if version > SCHEMA:
        raise RunFolderError(
            f"{file} must follow schema {SCHEMA} or an older one, got {version}: a later Holdfast wrote "
            "it; install that one to read it."
        )
    return version


@dataclass(frozen=True)
class _Reader:
    """Reads values of one file; where not ``exact``, what does not fit is left out."""

    file: str
    exact: bool = False

    def wrong(self, key: str, what: str, value: object) -> RunFolderError:
        entry = f"hold {what} as {key}" if key else f"hold {what}"
        return RunFolderError(f"{self.file} must {entry}, got {shown(value)}; restore it, or train again.")

    def table(self, kind: Any, values: object, key: str) -> Any:
        if not isinstance(values, dict):
            raise self.wrong(key, "a table", values)
        if kind is Finding and not self.exact:  # of an unknown level it is a warning, not left out
            return from_dict(values)
        if kind is Certificate and not self.exact:
            values = {"status": "void", "reason": NO_CERTIFICATE.reason, "radius": None} | values
        names, types = {entry.name: entry for entry in fields(kind)}, _types(kind)
        unknown = [f"{key}.{name}".lstrip(".") for name in values if name not in names]
        if unknown and self.exact:
            raise RunFolderError(
                f"{self.file} must hold what schema {SCHEMA} lists, but {unknown[0]} is no entry of it; "
                "restore it, or train again."
            )
        found = {}
        for name, entry in names.items():
            place = f"{key}.{name}".lstrip(".")
            if name not in values:
                if _needed(entry) or (self.exact and not entry.metadata.get("optional")):
                    raise RunFolderError(
                        f"{self.file} must hold {place}, but it is missing; restore it, or train again."
                    )
                continue
            try:
                found[name] = self.value(types[name], values[name], place)
            except RunFolderError:
                if self.exact or _needed(entry):
                    raise
        return kind(**found)

    def value(self, kind: Any, value: object, key: str) -> Any:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            made = None if value is None else self.value(arguments[0], value, key)
            return None if isinstance(made, float) and math.isnan(made) else made
        if origin is Annotated:
            share = self.number(value, key)
            if not 0 <= share <= 1:
                raise self.wrong(key, f"a number {arguments[1]}", value)
            return share
        if origin is Literal:
            if not isinstance(value, str) or value not in arguments:
                raise self.wrong(key, f"one of {', '.join(arguments)}", value)
            return value
        if origin is tuple:
            return self.row(arguments, value, key)
        if origin is dict:
            if not isinstance(value, dict):
                raise self.wrong(key, "a table", value)
            return dict(
                self.each(arguments[1], ((name, f"{key}.{name}", item) for name, item in value.items()))
            )
        if is_dataclass(kind):
            return self.table(kind, value, key)
        if kind is float:
            return math.nan if value is None else self.number(value, key)
        if kind is str:
            if not isinstance(value, str):
                raise self.wrong(key, "text", value)
            return CONTROL.sub("", value)
        if kind is bool:
            if not isinstance(value, bool):
                raise self.wrong(key, "true or false", value)
            return value
        if not isinstance(value, int) or isinstance(value, bool) or not -LARGEST < value < LARGEST:
            raise self.wrong(key, "a whole number", value)
        return value

    def row(self, kinds: tuple[Any, ...], value: object, key: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise self.wrong(key, "a list", value)
        places = [(k, f"{key}[{k}]", item) for k, item in enumerate(value)]
        if kinds[-1] is Ellipsis:
            return tuple(item for _, item in self.each(kinds[0], places))
        if len(value) != len(kinds):
            raise self.wrong(key, f"a list of {len(kinds)}", value)
        return tuple(
            self.value(kind, item, place) for kind, (_, place, item) in zip(kinds, places, strict=True)
        )

    def each(self, kind: Any, items: Iterable[tuple[Any, str, object]]) -> Iterator[tuple[Any, Any]]:
        for name, place, item in items:
            try:
                yield name, self.value(kind, item, place)
            except RunFolderError:
                if self.exact:
                    raise

    def number(self, value: object, key: str) -> float:
        """NaN is one that is not known."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number", value)
        if not -LARGEST < value < LARGEST:
            return math.nan
        return float(value) if abs(value) > 1 / LARGEST else 0.0


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _needed(entry: Field[Any]) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING
