"""Attacks as arguments: the thing itself or its name, one of `holdfast._registry.ATTACKS`."""

from typing import Any

from holdfast._registry import ATTACKS
from holdfast._rules import Rule, instance_or_name
from holdfast.attacks.base import Attack


def as_attack(value: Attack | str) -> Attack:
    """The attack itself, or the one of that name with its own defaults.

    Args:
        value: an attack, or a name such as ``pgd``.

    Raises:
        InputError: neither an attack nor the name of one that needs nothing else.

    >>> import holdfast as hf
    >>> hf.attacks.as_attack("pgd") == hf.PGD()
    True
    """
    converted: Attack = ATTACK("attack", value)
    return converted


def _needed(name: str) -> list[str]:
    """What an attack cannot be made without."""
    return [key for key, setting in ATTACKS.settings(name).items() if setting.default is ...]


def _read_attack(value: Any) -> Attack:
    if isinstance(value, Attack):
        return value
    if not isinstance(value, str) or value not in ATTACKS or _needed(value):
        raise TypeError
    made: Attack = ATTACKS[value]()
    return made


def _other_attack(value: Any) -> str:
    if isinstance(value, str) and value in ATTACKS:
        needed = ", ".join(f"{name}=..." for name in _needed(value))
        return f"write {ATTACKS[value].__name__}({needed}), for it needs more than its name"
    return instance_or_name(value, (Attack,), tuple(ATTACKS))


ATTACK = Rule(
    what="an Attack such as PGD(steps=10), or the name of one such as 'pgd'",
    read=_read_attack,
    hint=_other_attack,
)
