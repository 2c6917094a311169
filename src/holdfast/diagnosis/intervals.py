"""Intervals of shares: what chance alone does to an accuracy, and to the difference of two."""

import math

NORMAL = 1.959963984540054
"""The 97.5 % point of the normal distribution: intervals are at 95 %."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927).

    >>> tuple(round(end, 4) for end in wilson(0, 10))
    (0.0, 0.2775)
    """
    share, spread = successes / trials, NORMAL**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = NORMAL / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == trials else min(1.0, middle + half)


def difference(first: tuple[int, int], second: tuple[int, int], *, first_whole: bool) -> tuple[float, float]:
    """95 % interval of the difference of two proportions, from their Wilson intervals (Newcombe 1998, method
    10).

    Args:
        first, second: (successes, trials) of independent samples.
        first_whole: the first is no sample but all there is, so that chance plays no part in it.

    >>> tuple(round(end, 3) for end in difference((90, 100), (80, 100), first_whole=False))
    (0.0, 0.199)
    """
    shares = first[0] / first[1], second[0] / second[1]
    ends = (shares[0], shares[0]) if first_whole else wilson(*first), wilson(*second)
    below = math.hypot(shares[0] - ends[0][0], ends[1][1] - shares[1])
    above = math.hypot(ends[0][1] - shares[0], shares[1] - ends[1][0])
    return shares[0] - shares[1] - below, shares[0] - shares[1] + above
