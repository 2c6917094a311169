"""What an argument may be: rules that convert the obvious and refuse the rest in one sentence, before
anything is spent.

A public function or class says with `takes` which rule each of its arguments follows. Nothing here imports
torch, so that refusing is quick; rules for tensors are in `holdfast._arguments`.
"""

import difflib
import functools
import inspect
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from holdfast.errors import HoldfastError, InputError

Limit = float | int | None
Target = TypeVar("Target", bound=Callable[..., Any])
LARGEST_SEED = 2**63 - 1
SHOWN = 60
"""Letters of a wrong value that a message repeats."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What an argument may be.

    Attributes:
        what: in words, to stand after "must be".
        read: the value converted; `TypeError`, `ValueError` or `OverflowError` where it is none.
        hint: what to do about a wrong value; empty for what the default suggests.
    """

    what: str
    read: Callable[[Any], Any]
    hint: Callable[[Any], str] = lambda value: ""

    def __call__(self, name: str, value: Any, remedy: str = "") -> Any:
        """The value converted.

        Raises:
            InputError: it is not such a value; the message names the argument, what is allowed, what came,
                and the remedy.
        """
        try:
            return self.read(value)
        except HoldfastError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            advice = self.hint(value) or remedy or "give one of these"
            raise InputError(f"{name} must be {self.what}, got {shown(value)}; {advice}.") from error


def shown(value: Any) -> str:
    """A wrong value in a few words on one line."""
    if value is None or isinstance(value, bool | int | float | str | bytes | complex | Path):
        text = repr(value) if not isinstance(value, Path) else repr(str(value))
    elif isinstance(value, type):
        text = f"the class {value.__name__}"
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        shape, empty = tuple(value.shape), getattr(getattr(value, "device", None), "type", "") == "meta"
        text = f"{value.dtype} of shape {shape}{' on the meta device' if empty else ''}"
        text = text if shape or empty else f"{value!s} ({value.dtype})"
    elif isinstance(value, list | tuple | dict | set | frozenset):
        text = repr(value) if len(value) <= 8 else f"{type(value).__name__} of {len(value)}"
    elif inspect.isroutine(value):
        text = f"the function {getattr(value, '__name__', '')}".rstrip()
    else:
        text = f"{type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _scalar(value: Any) -> Any:
    """The value, where it may be read as one number: no truth value, no text, no array of several."""
    if isinstance(value, bool | str | bytes) or "bool" in str(getattr(value, "dtype", "")):
        raise TypeError
    if tuple(getattr(value, "shape", ())) != ():
        raise TypeError
    return value


def _limits(least: Limit, above: Limit, below: Limit, most: Limit) -> str:
    words = ((">=", least), (">", above), ("<", below), ("<=", most))
    return " and ".join(f"{sign} {limit:g}" for sign, limit in words if limit is not None)


def _within(value: Any, least: Limit, above: Limit, below: Limit, most: Limit) -> bool:
    return not (
        (least is not None and value < least)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
        or (most is not None and value > most)
    )


def whole(
    *, least: int | None = None, above: int | None = None, below: int | None = None, most: int | None = None
) -> Rule:
    """A whole number within limits.

    >>> whole(least=1)("steps", 3)
    3
    """

    def read(value: Any) -> int:
        number = operator.index(_scalar(value))
        if not -LARGEST_SEED <= number <= LARGEST_SEED:  # torch counts nothing beyond 64 bits
            raise OverflowError
        if not _within(number, least, above, below, most):
            raise ValueError
        return number

    limits = _limits(least, above, below, most)
    return Rule(what=f"a whole number {limits}".rstrip(), read=read)


def real(
    *,
    least: Limit = None,
    above: Limit = None,
    below: Limit = None,
    most: Limit = None,
    finite: bool = True,
) -> Rule:
    """A number within limits; never NaN, infinite only where ``finite`` is false.

    >>> real(least=0, below=1)("momentum", 0.9)
    0.9
    """

    def read(value: Any) -> float:
        found = float(_scalar(value))
        if math.isnan(found) or (finite and math.isinf(found)):
            raise ValueError
        if not _within(found, least, above, below, most):
            raise ValueError
        return found

    limits = _limits(least, above, below, most)
    finitely = "finite " if finite and below is None and most is None else ""
    return Rule(what=f"a {finitely}number {limits}".rstrip(), read=read)


def _read_flag(value: Any) -> bool:
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise TypeError


def word(*allowed: str) -> Rule:
    """One of these words.

    >>> word("sgd", "adam")("optimizer", "adam")
    'adam'
    """

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError
        return value

    return Rule(
        what=f"one of {', '.join(allowed)}" if len(allowed) > 1 else repr(allowed[0]),
        read=read,
        hint=lambda value: nearest_word(value, allowed),
    )


def nearest_word(value: object, allowed: Sequence[str]) -> str:
    """``did you mean 'adam'?`` without the mark, where one is near; else empty."""
    close = difflib.get_close_matches(str(value), allowed, 1)
    return f"did you mean {close[0]!r}" if close else ""


def instance_or_name(value: Any, kinds: tuple[type, ...], names: Sequence[str]) -> str:
    """What was meant where one of these kinds, or its name, is needed: an instance of the class given, or the
    nearest name; empty where nothing is near.
    """
    if isinstance(value, type) and issubclass(value, kinds):
        return f"write {value.__name__}() for one of that class"
    return nearest_word(value, names) if isinstance(value, str) else ""


def instance_name_or_function(
    kind: type, registry: Mapping[str, Any], own: Callable[[Any], Any], *, what: str
) -> Rule:
    """One of this kind, the name of one with its own defaults, or a function, which ``own`` makes one of."""

    def read(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if isinstance(value, str):
            if value not in registry:
                raise ValueError
            return registry[value]()
        if not callable(value) or isinstance(value, type):
            raise TypeError
        return own(value)

    return Rule(what=what, read=read, hint=lambda value: instance_or_name(value, (kind,), tuple(registry)))


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _read_path(value: Any) -> Path:
    if isinstance(value, bytes):
        raise TypeError
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError
    return Path(text)


def _read_callable(value: Any) -> Any:
    if not callable(value):
        raise TypeError
    return value


def _read_mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError
    return value


def kind(*types: type, what: str, hint: str = "") -> Rule:
    """An object of one of these types."""

    def read(value: Any) -> Any:
        if not isinstance(value, types):
            raise TypeError
        return value

    return Rule(what=what, read=read, hint=lambda value: hint)


def maybe(rule: Rule) -> Rule:
    """What the rule says, or ``None``."""
    return Rule(
        what=f"{rule.what}, or None",
        read=lambda value: None if value is None else rule.read(value),
        hint=rule.hint,
    )


def either(first: Rule, second: Rule) -> Rule:
    """What the first rule takes, else what the second does."""

    def read(value: Any) -> Any:
        try:
            return first.read(value)
        except (TypeError, ValueError, OverflowError):
            return second.read(value)

    def hint(value: Any) -> str:
        return first.hint(value) or second.hint(value)

    return Rule(what=f"{first.what}, or {second.what}", read=read, hint=hint)


def several(rule: Rule, *, least: int = 1, what: str = "") -> Rule:
    """A sequence of such values, as a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str | bytes | Mapping):
            raise TypeError
        found = tuple(rule.read(item) for item in value)
        if len(found) < least:
            raise ValueError
        return found

    amount = f"a sequence of at least {least}" if least else "a sequence"
    return Rule(what=what or f"{amount}, each {rule.what}", read=read, hint=rule.hint)


FLAG = Rule(what="True or False", read=_read_flag)
TEXT = Rule(what="text", read=_read_text)
PATH = Rule(what="a path", read=_read_path)
FUNCTION = Rule(what="a function", read=_read_callable)
MAPPING = Rule(what="a mapping from names to values", read=_read_mapping)
COUNT = whole(least=1)
SEED = Rule(
    what="a whole number from 0 to 2^63 - 1",
    read=whole(least=0, most=LARGEST_SEED).read,
    hint=lambda value: "0 is the usual seed",
)
LARGEST_RADIUS = 1e15
"""Squares of larger ones overflow float32, and no weights or features move so far."""
RADIUS = real(above=0, most=LARGEST_RADIUS)
LEARNING_RATE = real(above=0, most=1e30)
"""A step of a larger one overflows float32."""


def takes(**rules: Rule) -> Callable[[Target], Target]:
    """Decorates a function, or a class for its constructor: arguments given are converted by their rules, or
    refused.

    What is left out keeps its default. `rules_of` gives the rules.

    >>> @takes(steps=whole(least=1))
    ... def search(steps: int = 10) -> int:
    ...     return steps
    >>> search(steps=0)
    Traceback (most recent call last):
    ...
    holdfast.errors.InputError: steps must be a whole number >= 1, got 0; leave it out for 10.
    """

    def decorate(target: Target) -> Target:
        if isinstance(target, type):
            target.__init__ = _guarded(target.__init__, rules)  # type: ignore[misc]
            return target
        guarded: Target = _guarded(target, rules)
        return guarded

    return decorate


def rules_of(target: Any) -> Mapping[str, Rule]:
    """The rules that `takes` gave a function, or a class for its constructor, by argument."""
    function = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    rules: Mapping[str, Rule] = getattr(function, "rules", {})
    return rules


def _guarded(function: Any, rules: Mapping[str, Rule]) -> Any:
    signature = inspect.signature(function)
    unknown = set(rules) - set(signature.parameters)
    assert not unknown, f"{function.__qualname__} has no {unknown}"
    remedies = {name: _remedy(parameter) for name, parameter in signature.parameters.items() if name in rules}

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(_unbound(function, signature, kwargs, error)) from None
        for name, value in bound.arguments.items():
            if name in rules:
                bound.arguments[name] = rules[name](name, value, remedies[name])
        return function(*bound.args, **bound.kwargs)

    guarded.rules = rules  # type: ignore[attr-defined]
    return guarded


def _unbound(function: Any, signature: inspect.Signature, given: Mapping[str, Any], error: TypeError) -> str:
    """Why the arguments do not fit the function, with its name and the argument that was likely meant."""
    name = function.__qualname__.removesuffix(".__init__")
    known = [word for word in signature.parameters if word != "self"]
    for word in given:
        if word not in known:
            for group, parameter in signature.parameters.items():
                if _is_value(parameter.default) and word in vars(parameter.default):
                    kind = type(parameter.default).__name__
                    return f"{name}() has no argument {word!r}; write {group}={kind}({word}=...)."
            close = difflib.get_close_matches(word, known, n=1)
            meant = f"did you mean {close[0]}?" if close else f"it takes {', '.join(known)}."
            return f"{name}() has no argument {word!r}; {meant}"
    return f"{name}(): {error}"


def _is_value(default: Any) -> bool:
    """Whether a default is a dataclass: settings that belong together."""
    return is_dataclass(default) and not isinstance(default, type)


def _remedy(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty or type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
        return ""
    if isinstance(default, bool | int | float | str):
        return f"leave it out for {default}"
    return "leave it out for the default"
