"""Attacks as arguments: the thing itself or its name."""

from typing import Any

from holdfast._rules import Rule, nearest_word
from holdfast.attacks.base import Attack


def as_attack(value: Attack | str) -> Attack:
    """The attack itself, or the one of that name with its own defaults.

    >>> from holdfast.attacks import PGD
    >>> as_attack("pgd") == PGD()
    True

    Raises:
        InputError: neither an attack nor the name of one.
    """
    converted: Attack = ATTACK("attack", value)
    return converted


def _names() -> dict[str, type[Attack]]:
    """Attacks that need nothing else to be made, by the word for each."""
    from holdfast.attacks import (  # they are built on this module
        APGD,
        FAB,
        FGSM,
        PGD,
        CarliniWagner,
        CleanAttack,
        DeepFool,
        RandomAttack,
        Square,
    )

    return {
        "pgd": PGD, "fgsm": FGSM, "apgd": APGD, "fab": FAB, "square": Square, "carlini-wagner": CarliniWagner, "deepfool": DeepFool,
        "random": RandomAttack, "clean": CleanAttack,
    }  # fmt: skip


def _read_attack(value: Any) -> Attack:
    if isinstance(value, Attack):
        return value
    if not isinstance(value, str) or value not in _names():
        raise TypeError
    return _names()[value]()


def _other_attack(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, Attack):
        return f"write {value.__name__}() for one of that class"
    return nearest_word(value, tuple(_names())) if isinstance(value, str) else ""


ATTACK = Rule(
    what="an Attack such as PGD(steps=10), or the name of one such as 'pgd'",
    read=_read_attack,
    hint=_other_attack,
)
