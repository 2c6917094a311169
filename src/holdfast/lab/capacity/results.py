"""What a search for the smallest width found: each training with its outcome, a bracket per seed, and their
spread.
"""

import statistics
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from holdfast._formats import count, number, setting
from holdfast._values import Fact, Tabular
from holdfast.theory.capacity import CapacityBound

Outcome = Literal["verified", "refuted", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Training at one width from one seed, with all its restarts.

    Attributes:
        width: hidden units.
        seed: of all its restarts.
        outcome: ``verified``: some restart is proved right on every point of every threat set; ``undecided``:
            some restart withstood the attacks but was not proved in time; ``refuted``: of every restart a
            point that it misclassifies is known.
        margin: least margin of the best restart (``verified``: of the one that is proved) under the attack of
            training, over its mean margin.
        restarts: networks trained.
        steps: of training until the outcome.
        seconds: of training and proof, shared with the other seeds trained at the same time.

    >>> import holdfast as hf
    >>> settings = {"margin": 0.1, "restarts": 8, "steps": 100, "seconds": 1.0}
    >>> hf.capacity.Attempt(width=3, seed=0, outcome="verified", **settings).outcome
    'verified'
    """

    width: int
    seed: int
    outcome: Outcome
    margin: float
    restarts: int
    steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What is known of the smallest width from one seed.

    Attributes:
        seed: of the trainings.
        smallest: least width with a proved fit; every wider network fits too (add units of weight 0).
            ``None`` for none found.
        impossible_below: widths below this one are proved not to fit, whatever the training.
        failed: widths where no restart fitted: observed, not proved.

    >>> import holdfast as hf
    >>> hf.capacity.Bracket(seed=0, smallest=3, impossible_below=2, failed=(2,)).smallest
    3
    """

    seed: int
    smallest: int | None
    impossible_below: int
    failed: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Widths(Tabular):
    """The brackets of all seeds for one kind of fit, and every training behind them.

    Attributes:
        brackets: one per seed.
        attempts: one per width and seed.

    >>> import holdfast as hf
    >>> bracket = hf.capacity.Bracket(seed=0, smallest=3, impossible_below=2, failed=(2,))
    >>> hf.capacity.Widths(brackets=(bracket,), attempts=()).median
    3.0
    """

    brackets: tuple[Bracket, ...]
    attempts: tuple[Attempt, ...]

    def _facts(self) -> list[Fact]:
        below = max((b.impossible_below for b in self.brackets), default=0)
        smallest = (
            number(self.median, trim=True) if self.complete and self.brackets else "not found from every seed"
        )
        return [
            Fact("seeds", len(self.brackets)),
            Fact("median smallest width", smallest, "proved to fit"),
            Fact("impossible below", count(below), "proved"),
            Fact("trainings", len(self.attempts)),
        ]

    def _columns(self) -> dict[str, list[Any]]:
        return {field.name: [getattr(row, field.name) for row in self.attempts] for field in fields(Attempt)}

    @property
    def smallest(self) -> list[int]:
        """Least verified width of each seed that found any."""
        return sorted(b.smallest for b in self.brackets if b.smallest is not None)

    @property
    def complete(self) -> bool:
        """Whether every seed found a width that fits."""
        return len(self.smallest) == len(self.brackets)

    @property
    def median(self) -> float | None:
        """Median of the least verified widths; ``None`` unless every seed found one."""
        return float(statistics.median(self.smallest)) if self.complete else None

    @property
    def spread(self) -> tuple[int, int] | None:
        """Least and greatest of them."""
        return (self.smallest[0], self.smallest[-1]) if self.complete else None


@dataclass(frozen=True, kw_only=True, repr=False)
class Capacity(Tabular):
    """The smallest widths that fit these data plainly and robustly, each between two proved bounds.

    Attributes:
        data: its name.
        threat: its spec.
        network: ``two-layer`` or ``three-layer``.
        examples: in the training part.
        dimension: numbers in one example.
        rho: radius over half the smallest distance between labels, exact.
        plain: widths that fit every example.
        robust: ``None`` where only the plain fit was asked for.
        bounds: lower bounds from theory (`holdfast.theory.capacity.bounds`).

    >>> import holdfast as hf
    >>> data = hf.data.forced(dimension=2)
    >>> found = hf.capacity.smallest_width(data, "l2:0.1", widths=[1], seeds=1, robust=False)
    >>> found.rho, found.plain.median
    (0.2, 1.0)
    """

    data: str
    threat: str
    network: str
    examples: int
    dimension: int
    rho: float
    plain: Widths
    robust: Widths | None
    bounds: tuple[CapacityBound, ...]

    def _facts(self) -> list[Fact]:
        widths = {"plain": self.plain} | ({} if self.robust is None else {"robust": self.robust})
        return [
            Fact("data", f"{count(self.examples)} of {self.data}"),
            Fact("threat", f"{self.threat}, rho {setting(self.rho)}"),
            Fact("network", self.network),
            *(
                Fact(
                    f"{name} width",
                    number(found.median, trim=True) if found.median else "not found from every seed",
                    "proved to fit",
                )
                for name, found in widths.items()
            ),
        ]

    def _columns(self) -> dict[str, list[Any]]:
        rows = [
            {"fit": name} | asdict(bracket)
            for name, found in (("plain", self.plain), ("robust", self.robust))
            if found is not None
            for bracket in found.brackets
        ]
        return {
            name: [row[name] for row in rows] for name in ("fit", *(field.name for field in fields(Bracket)))
        }

    @property
    def gap(self) -> float | None:
        """Median robust width over median plain width; ``None`` unless both were found from every seed."""
        if self.robust is None or self.robust.median is None or self.plain.median is None:
            return None
        return self.robust.median / self.plain.median

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        kinds = {"plain": self.plain, "robust": self.robust}
        values = asdict(self)
        for name, widths in kinds.items():
            if widths is not None:
                values[name] |= {"median": widths.median, "spread": widths.spread}
        return values | {"gap": self.gap}
