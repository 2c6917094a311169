"""Figures as people read them: four significant digits, real minus signs, and words for what is missing."""

import re
from datetime import datetime, timedelta
from math import isfinite, log10

Real = int | float  # spelled out for run-time checks, to which an int is no float

NOT_MEASURED = "not measured"
TINY = 1e-4
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""Characters that no text of a record may bring to a terminal or a page."""
MINUS = "\N{MINUS SIGN}"  # as wide as a plus, unlike a hyphen


def number(value: Real | None, *, trim: bool = False) -> str:
    """A figure with four significant digits; ``trim`` drops trailing zeros (for settings such as a radius).

    >>> number(0.44), number(0.0414), number(3e-6), number(-0.2), number(None), number(20.0, trim=True)
    ('0.4400', '0.0414', '<0.0001', '−0.2000', 'not measured', '20')
    """
    if value is None or not isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"
    size = abs(value)
    if size < TINY:
        return "<0.0001" if value > 0 else f">{MINUS}0.0001"
    if size >= 1e6:
        exponent = int(log10(size))
        text = f"{size / 10**exponent:.3f}e{exponent}"
    elif size >= 9999.5:
        text = f"{size:,.0f}"
    else:
        text = f"{size:#.4g}".rstrip(".")
        whole, _, decimals = text.partition(".")
        # a gap of 0.0414 beside bounds of 0.3913 and 0.4327: zeros past the fourth decimal tell nothing
        decimals = decimals.rstrip("0") if trim else decimals[:4] + decimals[4:].rstrip("0")
        text = f"{whole}.{decimals}" if decimals else whole
    return text if value > 0 else f"{MINUS}{text}"


def setting(value: Real | None) -> str:
    """A chosen figure (a radius, a step size): trailing zeros dropped, small ones spelled out.

    >>> setting(20.0), setting(1e-05)
    ('20', '1e−05')
    """
    if value is not None and isfinite(value) and 0 < abs(value) < TINY:
        return f"{value:.4g}".replace("-", MINUS)
    return number(value, trim=True)


def percent(share: Real | None) -> str:
    """A share of one as a percentage.

    >>> percent(0.8936), percent(1.0)
    ('89.36 %', '100.0 %')
    """
    return NOT_MEASURED if share is None or not isfinite(share) else f"{number(100 * share)} %"


def points(share: Real | None) -> str:
    """A difference of two shares in percentage points.

    >>> points(0.0316), points(0.0), points(1e-5)
    ('3.2 points', '0 points', '<0.1 points')
    """
    if share is None or not isfinite(share):
        return NOT_MEASURED
    size = 100 * abs(share)
    text = "0" if size == 0 else "<0.1" if size < 0.05 else f"{size:.1f}".removesuffix(".0")
    return f"{MINUS if share < 0 and size >= 0.05 else ''}{text} points"


def rough_percent(share: Real | None) -> str:
    """A share in whole percents: for how a sum divides, where digits would feign precision.

    >>> rough_percent(0.894), rough_percent(0.004), rough_percent(0.0)
    ('89 %', '<1 %', '0 %')
    """
    if share is None or not isfinite(share):
        return NOT_MEASURED
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def count(value: Real | None) -> str:
    """A whole number with its thousands marked off.

    >>> count(60000)
    '60,000'
    """
    return NOT_MEASURED if value is None or not isfinite(value) else f"{value:,.0f}"


def duration(seconds: Real | None) -> str:
    """A span of time in its natural units.

    >>> duration(0.42), duration(75.2), duration(7260)
    ('0.42 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds is None or not isfinite(seconds):
        return NOT_MEASURED
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def moment(text: str | None) -> str:
    """An ISO date as ``7 June 2019, 14:05``, with its offset where it has one; anything else as it came."""
    if not text:
        return NOT_MEASURED
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = when.utcoffset()
    suffix = "" if zone is None else " UTC" if zone == timedelta(0) else f" UTC{when:%z}"
    return f"{when.day} {when:%B %Y, %H:%M}{suffix}"
