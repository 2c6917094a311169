"""Objects by import path: ``my_package.module:Net``, ``my_package.module.Net``."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from holdfast.errors import HoldfastError, InputError


def find(path: str) -> Any:
    """The object at an import path; modules are also looked for in the working directory.

    Raises:
        InputError: the module cannot be imported, or has nothing of that name.
    """
    module_name, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"{path} must be importable, but importing {module_name} failed ({error}); run where it lies, or install it."
        ) from error
    if not hasattr(module, name):
        raise InputError(
            f"{path} must name something in {module_name}, which has no {name}; check its spelling."
        )
    return getattr(module, name)


def call(path: str, arguments: Mapping[str, Any], offers: Mapping[str, Any]) -> Any:
    """What the object at ``path`` returns for ``arguments``, and for those ``offers`` that it has parameters for.

    Raises:
        InputError: an argument it does not take, one it lacks, or one it refuses.
    """
    target = find(path)
    if not callable(target):
        raise InputError(f"{path} must be a class or a function, got {type(target).__name__}; name one.")
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some built-in classes have none to show
        parameters = MappingProxyType({})
    taken = {name: value for name, value in offers.items() if name in parameters and name not in arguments}
    try:
        return target(**arguments, **taken)
    except HoldfastError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} refused its arguments ({error}); mend its init_args.") from error
