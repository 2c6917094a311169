"""The one switch: ``HOLDFAST_ACCELERATION=0`` for a process, ``with enabled(False):`` for a block."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

VARIABLE = "HOLDFAST_ACCELERATION"
OFF = ("0", "off", "false", "no")

_chosen: ContextVar[bool | None] = ContextVar("holdfast_acceleration", default=None)


def is_enabled() -> bool:
    """Whether recognised networks take the fast path; on by default.

    The innermost `enabled` decides, else the environment.

    >>> import holdfast as hf
    >>> with hf.acceleration.enabled(True):
    ...     hf.acceleration.is_enabled()
    True
    """
    chosen = _chosen.get()
    return os.environ.get(VARIABLE, "").strip().lower() not in OFF if chosen is None else chosen


@contextmanager
def enabled(on: bool) -> Iterator[None]:
    """The fast path on or off within the block (and this thread), whatever the environment says.

    Args:
        on: whether recognised networks take the fast path.

    >>> import holdfast as hf
    >>> with hf.acceleration.enabled(False):
    ...     hf.acceleration.is_enabled()
    False
    """
    token = _chosen.set(on)
    try:
        yield
    finally:
        _chosen.reset(token)
