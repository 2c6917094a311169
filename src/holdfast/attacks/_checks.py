"""What attacks refuse in their own settings, in one sentence each."""

from collections.abc import Sequence

from holdfast.errors import InputError


def check_counts(remedy: str, **counts: int | None) -> None:
    """Whole numbers from 1 on; ``None`` where one may be left out.

    Raises:
        InputError: one is less than 1.
    """
    for word, number in counts.items():
        if number is not None and number < 1:
            raise InputError(f"{word} must be >= 1, got {number}; {remedy}.")


def check_choice(word: str, choice: object, choices: Sequence[str]) -> None:
    """One of some words.

    Raises:
        InputError: it is none of them.
    """
    if choice not in choices:
        raise InputError(f"{word} must be one of {', '.join(choices)}, got {choice!r}; pick one of these.")
