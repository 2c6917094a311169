"""Threats as short text: ``linf:0.1``, ``l2:0.5``, ``l1:3``, ``linf:8/255``."""

import difflib
from fractions import Fraction

from torch import Tensor

from holdfast.errors import InputError
from holdfast.threats.lp import LpBall

_FORMS = "linf:0.1, l2:0.5, l1:3 or a fraction as in linf:8/255"
_NORMS = ("linf", "l2", "l1")


def parse_threat(
    text: str,
    *,
    bounds: tuple[float | int | Tensor, float | int | Tensor] | None = None,
    fixed: Tensor | None = None,
) -> LpBall:
    """The ball that ``norm:radius`` names; ``norm`` is ``linf``, ``l2`` or ``l1``, the radius a number or a fraction.

    Raises:
        InputError: any other text; the message names the nearest allowed form.

    >>> parse_threat("linf:8/255").radius * 255
    8.0
    """
    word, colon, number = text.strip().partition(":")
    norm = word.strip().lower()
    norm = norm if norm.startswith("l") else f"l{norm}"
    radius = _number(number)
    if colon and norm in _NORMS and radius is not None:
        return LpBall(norm, radius, bounds=bounds, fixed=fixed)
    close = difflib.get_close_matches(norm, _NORMS, n=1, cutoff=0.3)
    meant = (
        f"{norm if norm in _NORMS else (close or _NORMS)[0]}:{'0.1' if radius is None else number.strip()}"
    )
    raise InputError(f"threat must be of the form {_FORMS}, got {text!r}; did you mean {meant}?")


def _number(text: str) -> float | None:
    top, slash, bottom = text.partition("/")
    try:
        # Division of floats, as in Python's own 8 / 255: Fraction only reads the text.
        return float(Fraction(top.strip())) / (float(Fraction(bottom.strip())) if slash else 1.0)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
