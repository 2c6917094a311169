"""The end of the time given for something: one value, handed down to whatever works for it."""

import time
from dataclasses import dataclass


class OutOfTime(Exception):
    """Raised where a `Deadline` is over, to be caught by whoever can go on with what is known so far."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A moment of `time.monotonic`, or none.

    Attributes:
        ends: that moment; ``None`` for no limit.
    """

    ends: float | None = None

    @staticmethod
    def after(seconds: float | None) -> "Deadline":
        """So many seconds from now; ``None`` for no limit."""
        return Deadline(ends=None if seconds is None else time.monotonic() + seconds)

    @property
    def left(self) -> float | None:
        """Seconds from now, at least 0; ``None`` for no limit."""
        return None if self.ends is None else max(0.0, self.ends - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether the moment has come."""
        return self.ends is not None and time.monotonic() >= self.ends

    def check(self) -> None:
        """Raise `OutOfTime` where the moment has come."""
        if self.over:
            raise OutOfTime

    def share(self, parts: int) -> "Deadline":
        """The end of the first of equal parts of what is left."""
        left = self.left
        return Deadline.after(None if left is None else left / parts)


NEVER = Deadline()
