"""Shapes are checked in the first calls of each function in each test, not in all of the thousands that a search makes.

jaxtyping wraps every function of the package for the tests, which doubles their time where small functions are called often; it has
no way to check only some calls, so its decorator is wrapped here before the package is imported.
"""

from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType
from typing import Any

import jaxtyping
from jaxtyping import _decorator

CALLS = 30
"""Calls a test in which a function's shapes are checked."""

_every_call = jaxtyping.jaxtyped
_test = [0]


def next_test() -> None:
    """Check the first calls of every function again."""
    _test[0] += 1


def first_calls(fn: Any = None, *, typechecker: Any) -> Any:
    """`jaxtyping.jaxtyped`, for the first calls of a test."""
    if fn is None:
        return partial(first_calls, typechecker=typechecker)
    if hasattr(fn, "rules"):
        return fn  # a class's constructor behind its rules, which convert or refuse what its annotations do not promise
    checked: Callable[..., Any] = _every_call(fn, typechecker=typechecker)
    if not isinstance(fn, FunctionType):
        return checked  # a class or a descriptor, whose functions come here one by one
    seen = [0, 0]

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if seen[0] != _test[0]:
            seen[:] = _test[0], 0
        if seen[1] >= CALLS:
            return fn(*args, **kwargs)
        seen[1] += 1
        return checked(*args, **kwargs)

    return call


def install() -> None:
    """Put the decorator in jaxtyping's place, for its import hook and for its own recursion into classes."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = first_calls
