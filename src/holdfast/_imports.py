"""Objects by import path: ``my_package.module:Net``, ``my_package.module.Net``. The one gate through which
code of others runs.

A path runs only as `Trusted`: text that the user wrote in a call or on the command line, or that stands in a
file for which they passed ``--trusted``. What files say is plain text, so it runs nothing: the mark goes with
the text, through copies and to other processes.
"""

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from holdfast.errors import HoldfastError, InputError


class Trusted(str):
    """An import path that the user trusts.

    >>> Trusted("a.b:Net") == "a.b:Net"
    True
    """

    __slots__ = ()


LIBRARY = re.compile(r"torch\.optim[.:][A-Z][A-Za-z]*")
"""What runs in any case: the optimisers of torch."""


def find(path: str) -> Any:
    """The object at an import path; modules are also looked for in the working directory.

    Raises:
        InputError: the path is not trusted, the module cannot be imported, or has nothing of that name.
    """
    if not isinstance(path, Trusted) and not LIBRARY.fullmatch(path):
        raise InputError(
            f"{path} is named by a file, and importing it runs its code; add --trusted (trusted=True in "
            "Python) if you trust it, or write it on the command line."
        )
    module_name, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        with _working_directory():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"{path} must be importable, but importing {module_name} failed ({error}); run where it "
            "lies, or install it."
        ) from error
    if not hasattr(module, name):
        raise InputError(
            f"{path} must name something in {module_name}, which has no {name}; check its spelling."
        )
    return getattr(module, name)


@contextmanager
def _working_directory() -> Iterator[None]:
    """Modules of the working directory found first for this import, and last from then on: what they import
    later must be found, and nothing there may stand in for a package that is installed."""
    here = os.getcwd()
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        sys.path.append(here)


def call(path: str, arguments: Mapping[str, Any], offers: Mapping[str, Any]) -> Any:
    """What the object at ``path`` returns: see `made`."""
    return made(path, find(path), arguments, offers)


def made(path: str, target: Any, arguments: Mapping[str, Any], offers: Mapping[str, Any]) -> Any:
    """What the object known as ``path`` returns for ``arguments``, and for those ``offers`` that it has
    parameters for.

    Raises:
        InputError: an argument it does not take, one it lacks, or one it refuses.
    """
    if not callable(target):
        raise InputError(f"{path} must be a class or a function, got {type(target).__name__}; name one.")
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some built-in classes have none to show
        parameters = MappingProxyType({})
    known = [
        name for name, one in parameters.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if parameters and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        for name in arguments:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                remedy = f"did you mean {close[0]}?" if close else "leave it out."
                raise InputError(f"{path} takes {', '.join(known) or 'no arguments'}, got {name}; {remedy}")
    taken = {name: value for name, value in offers.items() if name in parameters and name not in arguments}
    try:
        return target(**arguments, **taken)
    except HoldfastError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} refused its arguments ({error}); fix its init_args.") from error
