"""Schedules: how the learning rate and the threat's radius change while training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast._rules import Rule, nearest_word, real, takes

SCHEDULES = ("constant", "cosine", "linear", "steps", "one-cycle")
Factor = Callable[[float], float]
"""From the share of training that is done, in [0, 1), to a share of the peak learning rate."""


def _read_factor(value: Any) -> str | Factor:
    if isinstance(value, str) and value not in SCHEDULES:
        raise ValueError
    if not isinstance(value, str) and (not callable(value) or isinstance(value, type)):
        raise TypeError
    factor: str | Factor = value
    return factor


FACTOR = Rule(
    what=f"one of {', '.join(SCHEDULES)}, or a function from the share of training done to a share of the peak rate",
    read=_read_factor,
    hint=lambda value: nearest_word(value, SCHEDULES) if isinstance(value, str) else "",
)


@takes(learning_rate=FACTOR, warm_up=real(least=0, below=1), radius_ramp=real(least=0, most=1))
@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How the learning rate and the threat's radius change while training.

    Attributes:
        learning_rate: ``constant``, ``cosine``, ``linear``, ``steps`` (a tenth after a half and again after three
            quarters), ``one-cycle`` (up over two fifths, down to 0; Wong et al. 2020), or a function from the
            share of training that is done to a share of the peak.
        warm_up: share of training over which the rate rises from 0 first.
        radius_ramp: share of training over which the threat's radius rises from 0 to its own.

    >>> import holdfast as hf
    >>> hf.ScheduleSettings(warm_up=0.5).rate_factor(0.25)
    0.5
    """

    learning_rate: str | Factor = "constant"
    warm_up: float = 0.0
    radius_ramp: float = 0.0

    def rate_factor(self, progress: float) -> float:
        """Share of the peak learning rate after ``progress`` in [0, 1) of training."""
        rising = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        if not isinstance(self.learning_rate, str):
            return rising * float(self.learning_rate(progress))
        return rising * _FACTORS[self.learning_rate](progress)

    def radius_factor(self, progress: float) -> float:
        """Share of the threat's radius after ``progress`` in [0, 1) of training."""
        return min(1.0, progress / self.radius_ramp) if self.radius_ramp else 1.0


PEAK_AT = 0.4
"""Share of training after which a one-cycle rate is at its peak (Wong et al. 2020)."""
_FACTORS: dict[str, Factor] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1.0 - progress,
    "steps": lambda progress: 0.1 ** ((progress >= 0.5) + (progress >= 0.75)),
    "one-cycle": lambda progress: min(progress / PEAK_AT, (1 - progress) / (1 - PEAK_AT)),
}


def as_schedule(value: "ScheduleSettings | Factor | str") -> ScheduleSettings:
    """The schedule itself, or one whose learning rate follows this word or function.

    >>> as_schedule("cosine").learning_rate
    'cosine'

    Raises:
        InputError: none of these.
    """
    chosen: ScheduleSettings = SCHEDULE("schedule", value)
    return chosen


SCHEDULE = Rule(
    what=f"ScheduleSettings, {FACTOR.what}",
    read=lambda value: (
        value if isinstance(value, ScheduleSettings) else ScheduleSettings(learning_rate=FACTOR.read(value))
    ),
    hint=FACTOR.hint,
)
