"""Threats as short text: ``linf:0.1``, ``l2:0.5``, ``l1:3``, ``linf:8/255``."""

import difflib
import math
from typing import Any

from torch import Tensor

from holdfast._arguments import BOUNDS, MASK
from holdfast._rules import TEXT, Rule, maybe, shown, takes
from holdfast.errors import InputError
from holdfast.threats.base import Threat
from holdfast.threats.lp import LpBall
from holdfast.threats.sphere import SphereSlice

_FORMS = "linf:0.1, l2:0.5, l1:3 or a fraction as in linf:8/255"
_NORMS = ("linf", "l2", "l1")


@takes(text=TEXT, bounds=maybe(BOUNDS), fixed=maybe(MASK))
def parse_threat(
    text: str,
    *,
    bounds: tuple[float | int | Tensor, float | int | Tensor] | None = None,
    fixed: Tensor | None = None,
) -> LpBall:
    """The ball that ``norm:radius`` names.

    ``norm`` is ``linf``, ``l2`` or ``l1``, the radius a number or a fraction.

    Args:
        text: such as ``linf:8/255``.
        bounds: valid box (low, high); ``None`` for no box.
        fixed: true where a feature may not change; ``None`` for nowhere.

    Raises:
        InputError: any other text; the message names the nearest allowed form.

    >>> import holdfast as hf
    >>> hf.parse_threat("linf:8/255").radius * 255
    8.0
    """
    word, colon, number = text.strip().partition(":")
    norm = word.strip().lower()
    norm = norm if norm.startswith("l") else f"l{norm}"
    radius = _number(number)
    if colon and norm in _NORMS and radius is not None:
        return LpBall(norm, radius, bounds=bounds, fixed=fixed)
    if colon and norm in _NORMS and _is_a_word(number):
        raise InputError(
            f"threat must be of the form {_FORMS}, got {text!r}; the radius {number.strip()!r} is not a "
            f"number, e.g. {norm}:0.1."
        )
    close = difflib.get_close_matches(norm, _NORMS, n=1, cutoff=0.3)
    meant = (
        f"{norm if norm in _NORMS else (close or _NORMS)[0]}:{'0.1' if radius is None else number.strip()}"
    )
    raise InputError(f"threat must be of the form {_FORMS}, got {text!r}; did you mean {meant}?")


def _is_a_word(text: str) -> bool:
    """Whether this is neither a number, of whatever size, nor the beginning of one or of a fraction."""
    try:
        float(text)
    except ValueError:
        return bool(text.strip()) and "/" not in text
    return False


def as_threat(
    value: Threat | str,
    *,
    bounds: tuple[float | int | Tensor, float | int | Tensor] | None = None,
    fixed: Tensor | None = None,
) -> Threat:
    """The threat itself, or the one that text describes: ``linf:0.1``, ``l2:0.5``, ``l1:3``, ``sphere:0.1``.

    Args:
        value: a threat, or text such as ``linf:0.1``.
        bounds: valid box of a threat given as text; ``None`` for no box.
        fixed: features that it may not change.

    Raises:
        InputError: neither a threat nor such text.

    >>> import holdfast as hf
    >>> hf.threats.as_threat("l2:0.5").spec
    'l2:0.5'
    """
    if isinstance(value, Threat):
        return value
    if not isinstance(value, str):
        raise InputError(
            f"threat must be a Threat or text such as linf:0.1, got {shown(value)}; LpBall('inf', 0.1) "
            "is one."
        )
    word, _, number = value.partition(":")
    if word.strip().lower() != "sphere":
        return parse_threat(value, bounds=bounds, fixed=fixed)
    radius = _number(number)
    if radius is None or radius < 0:
        raise InputError(f"threat must have a radius >= 0, as in sphere:0.1, got {value!r}; fix it.")
    return SphereSlice(radius, fixed=fixed)


def _number(text: str) -> float | None:
    top, slash, bottom = text.partition("/")
    try:
        number = float(top) / (float(bottom) if slash else 1.0)
        return number if math.isfinite(number) else None
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def _read_threat(value: Any) -> Threat:
    return as_threat(value)


THREAT = Rule(what="a Threat or text such as linf:0.1", read=_read_threat)
