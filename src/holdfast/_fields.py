"""JSON read leniently: whatever is missing, null, not finite or of the wrong kind reads as ``None``."""

import re
from collections.abc import Mapping
from math import isfinite

LARGEST = 1e100
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Fields:
    """A JSON object read leniently: each accessor answers ``None`` (or nothing) unless the value is what it asks for."""

    def __init__(self, values: object) -> None:
        self.values: Mapping[str, object] = values if isinstance(values, dict) else {}

    def number(self, key: str) -> float | None:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        # beyond these no loss, distance or time was ever measured, and differences of such figures overflow in a drawing
        if (isinstance(value, float) and not isfinite(value)) or not -LARGEST < value < LARGEST:
            return None
        return float(value) if abs(value) > 1 / LARGEST else 0.0

    def share(self, key: str) -> float | None:
        """A number from 0 to 1, as accuracies are."""
        value = self.number(key)
        return value if value is not None and 0.0 <= value <= 1.0 else None

    def whole(self, key: str) -> int | None:
        """An integer with all its digits: seeds go beyond what a float holds."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        return CONTROL.sub("", value).strip() or None if isinstance(value, str) else None

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        return value if isinstance(value, bool) else None

    def inner(self, key: str) -> "Fields":
        return Fields(self.values.get(key))

    def rows(self, key: str) -> tuple["Fields", ...]:
        value = self.values.get(key)
        return tuple(Fields(row) for row in value if isinstance(row, dict)) if isinstance(value, list) else ()

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key)
        return tuple(CONTROL.sub("", str(item)) for item in value) if isinstance(value, list) else ()

    def numbers(self) -> dict[str, float]:
        """Every entry that is a finite number."""
        found = {str(key): self.number(key) for key in self.values}
        return {key: value for key, value in found.items() if value is not None}
