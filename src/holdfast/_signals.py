"""Signals that ask a job to stop: it stops where its state is safe, and then the signal takes its course."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def stopping(*, at_safe_points: bool = False) -> Iterator[Callable[[], bool]]:
    """SIGINT, SIGTERM and SIGHUP end what is within, as ``KeyboardInterrupt``, ``SystemExit(143)`` and
    ``SystemExit(129)``.

    A handler of the caller's own is called instead, and a signal that is ignored (nohup) stays ignored.
    Outside the main thread, where no handlers can be set, nothing changes.

    Args:
        at_safe_points: what is within asks now and then (it gets a function) whether to stop, and leaves its
            state safe; only then does the first signal take its course. A second one does so at once.

    >>> with stopping(at_safe_points=True) as stop:
    ...     stop()
    False
    """
    came: list[int] = []
    before: dict[int, Any] = {}

    def ask(number: int, frame: object) -> None:
        waits = at_safe_points and not came
        came.append(number)
        if not waits:
            _take_course(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            handler = signal.getsignal(number)
            if handler is not None and handler is not signal.SIG_IGN:
                before[number] = handler
                signal.signal(number, ask)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if at_safe_points and came and not isinstance(sys.exception(), KeyboardInterrupt | SystemExit):
            _take_course(came[0], before[came[0]])


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Whatever a library sets within, the handlers of these signals are what they were."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in STOPPING} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _take_course(number: int, handler: Any) -> None:
    if callable(handler) and handler is not signal.default_int_handler:
        handler(number, None)
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise SystemExit(128 + number)


def silence(stream: IO[str]) -> None:
    """Send the rest of a stream whose reader has gone nowhere, so that the interpreter does not try to
    write it on its way out.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def was_signal(error: BaseException) -> bool:
    """Whether the exception is a signal on its course.

    >>> was_signal(SystemExit(143)), was_signal(SystemExit(0)), was_signal(KeyboardInterrupt())
    (True, False, True)
    """
    codes = {128 + number for number in STOPPING}
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in codes)
