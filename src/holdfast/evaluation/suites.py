"""Cascades by name."""

from collections.abc import Callable, Sequence
from typing import Any

from holdfast._rules import Rule, nearest_word
from holdfast.attacks import APGD, ATTACK, FAB, PGD, Attack, CarliniWagner, Square
from holdfast.attacks._ascent import is_l1
from holdfast.threats.base import Threat


def standard(threat: Threat) -> tuple[Attack, ...]:
    """The four attacks of AutoAttack's standard version with their budgets (Croce and Hein 2020, arXiv
    2003.01690; l1: 2021, arXiv 2103.01208).

    Targeted searches start halfway between the example and a random point, where networks that are flat far
    from it still have a slope; from a flat start they go on towards a random point of the box of valid
    examples.
    """
    sparse = is_l1(threat)
    return (
        APGD(steps=100, restarts=5 if sparse else 1, loss="cross-entropy", drop_broken=True),
        APGD(steps=100, targets=5 if sparse else 9, loss="dlr", start="between", drop_broken=True),
        FAB(steps=100, targets=9),
        Square(queries=5000),
    )


def fast(threat: Threat) -> tuple[Attack, ...]:
    """About a tenth of the cost of `standard`: short searches led by the margin, which is what decides
    success, and few queries, since what gradients do not lead to makes most of the difference."""
    return (
        APGD(steps=20, loss="margin", drop_broken=True),
        APGD(steps=30, targets=2, loss="margin", drop_broken=True),
        Square(queries=800),
    )


def strong(threat: Threat) -> tuple[Attack, ...]:
    """`standard`, then more restarts, targets, starts, momentum, and a search by distance."""
    return (
        *standard(threat),
        APGD(steps=100, restarts=5, loss="margin", drop_broken=True),
        PGD(steps=100, restarts=5, start="near", momentum=0.9, keep_best=True, drop_broken=True),
        APGD(steps=100, restarts=3, targets=9, loss="margin", start="between", drop_broken=True),
        CarliniWagner(),
    )


def pgd(threat: Threat) -> tuple[Attack, ...]:
    """40 steps, 5 random restarts, strongest iterate."""
    return (PGD(steps=40, restarts=5, keep_best=True, drop_broken=True),)


def clean(threat: Threat) -> tuple[Attack, ...]:
    """No attack."""
    return ()


SUITES: dict[str, Callable[[Threat], tuple[Attack, ...]]] = {
    "standard": standard,
    "fast": fast,
    "strong": strong,
    "pgd": pgd,
    "clean": clean,
}


def suite(attacks: str | Attack | Sequence[Attack | str], threat: Threat) -> tuple[Attack, ...]:
    """The attacks of a suite in order, or those given.

    Raises:
        InputError: no suite has this name, or no attack is given.
    """
    chosen: str | tuple[Attack, ...] = ATTACKS("attacks", attacks)
    return SUITES[chosen](threat) if isinstance(chosen, str) else chosen


def _read_attacks(value: Any) -> str | tuple[Attack, ...]:
    if isinstance(value, Attack):
        return (value,)
    if isinstance(value, str):
        if value not in SUITES:
            raise ValueError
        return value
    found = tuple(ATTACK("attacks", item) for item in value)
    if not found:
        raise ValueError
    return found


ATTACKS = Rule(
    what=f"one of {', '.join(SUITES)}, or a sequence of at least one attack",
    read=_read_attacks,
    hint=lambda value: (
        nearest_word(value, tuple(SUITES)) if isinstance(value, str) else "use 'clean' for none"
    ),
)
