"""What a subclass changes of a class: what is proved of the class need not hold for it then."""

from collections.abc import Set
from functools import cache

# What a class may define without changing what its methods compute; every other special method counts as a
# change.
HARMLESS = frozenset(
    {
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__init__",
        "__slots__",
        "__parameters__",
        "__orig_bases__",
        "__repr__",
        "__str__",
        "__static_attributes__",
        "__firstlineno__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "extra_repr",
        "_abc_impl",
        "__abstractmethods__",
    }
)
DATACLASS = frozenset(
    {
        "__dataclass_fields__",
        "__dataclass_params__",
        "__match_args__",
        "__eq__",
        "__hash__",
        "__replace__",
        "__setattr__",
        "__delattr__",
    }
)


def override(kind: type, base: type, held: Set[str] = frozenset(), *, harmless: Set[str] = HARMLESS) -> str:
    """A name that ``kind`` defines itself though ``base``, or an instance of it (``held``), has it; empty
    where it changes nothing.

    >>> class Mine(dict):
    ...     def get(self, key): return None
    >>> override(Mine, dict)
    'get'
    """
    for ancestor in kind.__mro__:
        if ancestor not in base.__mro__:
            for word in sorted(vars(ancestor).keys() - harmless):
                if word in held or hasattr(base, word) or (word.startswith("__") and word.endswith("__")):
                    return word
    return ""


@cache
def is_value_of(kind: type, base: type) -> bool:
    """Whether ``kind`` is the value class ``base``, or inherits from it and computes all that it does in
    the same way.
    """
    return issubclass(kind, base) and not override(kind, base, harmless=HARMLESS | DATACLASS)
