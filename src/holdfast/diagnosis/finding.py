"""What a diagnosis says: findings, each with how it is known and what to do."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from holdfast._formats import CONTROL, NOT_MEASURED, number, points
from holdfast._values import Fact, Shown

Level = Literal["good", "warning", "bad", "not-measured"]
Kind = Literal["proved", "estimated", "observed"]
Unit = Literal["loss", "accuracy"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A figure and how it is known.

    A figure with its kind is what a finding shows.

    Attributes:
        number: the figure.
        kind: ``proved``, ``estimated`` (under an assumption that was not proved) or ``observed``.
        unit: ``loss``, or ``accuracy`` for a share of the examples.

    >>> import holdfast as hf
    >>> hf.diagnosis.Value(number=0.1, kind="proved").unit
    'loss'
    """

    number: float
    kind: Kind
    unit: Unit = "loss"

    @property
    def text(self) -> str:
        """As people read it: ``0.0414``, or ``3.2 points`` of accuracy."""
        return number(self.number) if self.unit == "loss" else points(self.number)


class Remedy(NamedTuple):
    """What to do: with the arguments of a function in Python, or with the options of a command.

    Args:
        python: the remedy for Python.
        command: the remedy for the command line.

    >>> import holdfast as hf
    >>> hf.diagnosis.Remedy.by("train longer", python="epochs=40", command="--epochs 40").command
    'train longer (--epochs 40)'
    """

    python: str
    command: str

    @classmethod
    def by(cls, what: str, *, python: str, command: str) -> "Remedy":
        """The same words, and the setting as each has it."""
        return cls(f"{what} ({python})", f"{what} ({command})")

    def besides(self, other: "Remedy") -> "Remedy":
        """Both."""
        return Remedy(f"{self.python}; besides, {other.python}", f"{self.command}; besides, {other.command}")


@dataclass(frozen=True, kw_only=True, repr=False)
class Finding(Shown):
    """One thing that was looked at.

    Attributes:
        name: the subject, e.g. ``attack``.
        level: ``good``; ``warning``: it costs accuracy or tightness; ``bad``: figures are meaningless, or
            cannot be reached; ``not-measured``: nothing can be said.
        sentence: what was found.
        remedy: what to do, in Python; empty where all is well.
        command: the remedy on the command line, where it differs.
        values: the figures behind it, the first the one that decides; two losses are the ends of a bracket.

    >>> import holdfast as hf
    >>> hf.diagnosis.Finding(name="attack", level="good", sentence="stronger attacks find hardly more").remedy
    ''
    """

    name: str
    level: Level
    sentence: str
    remedy: str = ""
    command: str = ""
    values: tuple[Value, ...] = ()

    def _facts(self) -> list[Fact]:
        facts = [Fact(self.name, self.level), Fact("found", self.sentence, self.claims)]
        return [*facts, Fact("remedy", self.remedy)] if self.remedy else facts

    def __str__(self) -> str:
        """All of it on one line."""
        known = f" ({self.claims})" if self.values else ""
        return (
            f"{self.name}: {self.level}: {self.sentence}{known}{f' -> {self.remedy}' if self.remedy else ''}"
        )

    def at_terminal(self) -> "Finding":
        """The same with the remedy as the command line has it."""
        return replace(self, remedy=self.command or self.remedy, command="")

    @property
    def value(self) -> Value | None:
        """The figure that decides."""
        return self.values[0] if self.values else None

    @property
    def figure(self) -> str:
        """The figures as people read them: ``0.0414``, ``0.39 to 0.44`` for a bracket,
        ``0.006, 1.2 points``.
        """
        if not self.values:
            return NOT_MEASURED
        return self._joined([value.text for value in self.values])

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """How the figures are known, in order, each kind once."""
        return tuple(dict.fromkeys(value.kind for value in self.values))

    @property
    def claims(self) -> str:
        """Each figure with how it is known: ``0.39 proved to 0.44 observed``; empty where there is none."""
        return self._joined([f"{value.text} {value.kind}" for value in self.values])

    def _joined(self, figures: list[str]) -> str:
        bracket = len({value.unit for value in self.values}) < len(self.values)
        return (" to " if bracket else ", ").join(figures)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for records."""
        return asdict(self)


class Findings(tuple[Finding, ...]):
    """Findings in the order in which to fix; ``print`` shows a table.

    Args:
        iterable: the findings.

    >>> import holdfast as hf
    >>> weak = hf.diagnosis.Finding(name="attack", level="warning", sentence="weak", remedy="more steps")
    >>> print(hf.diagnosis.Findings([weak]))
    attack  warning  weak
                     -> more steps
    1 worth a look: attack.
    """

    def __repr__(self) -> str:
        return f"Findings({summed_up(self)})"

    def __str__(self) -> str:
        """A line for each finding, its remedy below."""
        names, levels = (
            max(map(len, column), default=0) for column in ([f.name for f in self], [f.level for f in self])
        )
        lines = []
        for f in self:
            known = f" ({f.claims})" if f.values else ""
            lines.append(f"{f.name:<{names}}  {f.level:<{levels}}  {f.sentence}{known}")
            if f.remedy:
                lines.append(f"{'':<{names}}  {'':<{levels}}  -> {f.remedy}")
        return "\n".join([*lines, f"{summed_up(self)}."])


LEVELS: tuple[Level, ...] = ("good", "warning", "bad", "not-measured")


def from_dict(row: Mapping[str, object]) -> Finding:
    """A finding that an older record holds, without its figures; of an unknown level it is a warning."""

    def text(key: str) -> str:
        value = row.get(key)
        return CONTROL.sub("", value).strip() if isinstance(value, str) else ""

    return Finding(
        name=text("name") or "?",
        level=next((known for known in LEVELS if known == text("level")), "warning"),
        sentence=text("sentence") or "reason not recorded",
        remedy=text("remedy"),
        command=text("command"),
    )


def verdict(findings: Iterable[Finding]) -> Literal["trust", "doubt", "void"]:
    """Whether figures can be trusted: ``void`` where one finding is bad, ``doubt`` where one is a warning.

    Args:
        findings: signs of one evaluation.

    >>> import holdfast as hf
    >>> weak = hf.diagnosis.Finding(name="attack", level="warning", sentence="weak", remedy="more steps")
    >>> hf.diagnosis.verdict([weak])
    'doubt'
    """
    levels = {finding.level for finding in findings}
    return "void" if "bad" in levels else "doubt" if "warning" in levels else "trust"


def _places(names: list[str]) -> str:
    """How many things they are about, where that is fewer than they are."""
    places = len(set(names))
    return "" if places == len(names) else f", in {places} place{'s' if places > 1 else ''}"


def summed_up(findings: Iterable[Finding]) -> str:
    """One line: how many findings of each level, the troubles by name.

    Args:
        findings: of one diagnosis.

    >>> import holdfast as hf
    >>> good = hf.diagnosis.Finding(name="attack", level="good", sentence="strong")
    >>> hf.diagnosis.summed_up([good, good])
    '2 good'
    """
    found = list(findings)

    def named(level: Level) -> list[str]:
        return [finding.name for finding in found if finding.level == level]

    urgent: tuple[tuple[Level, str], ...] = (("bad", "bad"), ("warning", "worth a look"))
    others: tuple[tuple[Level, str], ...] = (("good", "good"), ("not-measured", "not measured"))
    said = [
        f"{len(names)} {word}{_places(names)}: {', '.join(dict.fromkeys(names))}"
        for level, word in urgent
        if (names := named(level))
    ]
    said += [f"{len(names)} {word}" for level, word in others if (names := named(level))]
    return "; ".join(said) or "nothing was looked at"
