"""The grammar of VNN-LIB files: text to declared names and a condition in disjunctive normal form."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from holdfast.errors import InputError

DEEPEST = 100  # parentheses within one another
MOST = 100_000  # conjunctions that a file may expand to
_TOKEN = re.compile(r"[()]|[^\s();|]+|\S")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_VARIABLE = re.compile(r"[XY]_(0|[1-9]\d*)", re.ASCII)

Terms = dict[str, float]  # coefficient of each variable; "" for the constant


@dataclass(frozen=True, slots=True)
class Word:
    """A name or a number, and where it stands."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Group:
    """What stands between a pair of parentheses."""

    parts: "tuple[Word | Group, ...]"
    line: int

    @property
    def head(self) -> str:
        """Its first word."""
        first = self.parts[0] if self.parts else None
        return first.text if isinstance(first, Word) else ""


@dataclass(frozen=True, slots=True)
class Atom:
    """``sum_v terms[v] v + terms[""] <= 0``."""

    terms: Terms
    line: int


Conjunction = tuple[Atom, ...]


class Script:
    """A file's declarations and assertions.

    Attributes:
        name: what errors call the file.
        declared: names of variables.
        always: comparisons that hold in every counterexample.
        choices: disjunctions, of each of which one conjunction holds.

    Raises:
        InputError: the line of whatever is not read here.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.declared: set[str] = set()
        self.always: list[Atom] = []
        self.choices: list[list[Conjunction]] = []
        self._read(text)

    def error(self, line: int, what: str) -> InputError:
        """What is wrong with a line."""
        return InputError(f"{self.name}, line {line}: {what}.")

    def count(self, letter: str) -> int:
        """How many variables of a letter there are; their numbers must have no gaps."""
        places = {int(name[2:]) for name in self.declared if name.startswith(letter)}
        if not places or places != set(range(len(places))):
            raise self.error(
                1,
                f"{letter}_0, {letter}_1, ... must be declared without gaps, got {len(places)}; declare all",
            )
        return len(places)

    def _read(self, text: str) -> None:
        for tree in self._trees(text):
            match tree:
                case Group(parts=(Word(text="declare-const"), Word(text=variable), Word(text="Real"))):
                    if not _VARIABLE.fullmatch(variable):
                        raise self.error(
                            tree.line, f"names must be X_0, X_1, ... and Y_0, ..., got {variable}; rename it"
                        )
                    self.declared.add(variable)
                case Group(parts=(Word(text="assert"), condition)):
                    for part in self._conjuncts(condition):
                        found = self._expanded(part)
                        if len(found) == 1:
                            self.always.extend(found[0])
                        else:
                            self.choices.append(found)
                case Group() | Word():
                    shown = f"({tree.head} ...)" if isinstance(tree, Group) else tree.text
                    raise self.error(
                        tree.line,
                        f"only (declare-const NAME Real) and (assert ...) are read, got {shown}; rewrite it",
                    )
        self._check_size(self.choices)

    def _trees(self, text: str) -> Iterator[Word | Group]:
        open_groups: list[tuple[int, list[Word | Group]]] = []
        line = 0
        for line, content in enumerate(text.splitlines(), 1):
            for match in _TOKEN.finditer(content.partition(";")[0]):
                token = match[0]
                tree: Word | Group
                if token == "(":
                    if len(open_groups) == DEEPEST:
                        raise self.error(
                            line, f"parentheses are nested more than {DEEPEST} deep; flatten them"
                        )
                    open_groups.append((line, []))
                    continue
                if token == ")":
                    if not open_groups:
                        raise self.error(line, "a closing parenthesis has no opening one; remove it")
                    start, parts = open_groups.pop()
                    tree = Group(tuple(parts), start)
                else:
                    tree = Word(token, line)
                if open_groups:
                    open_groups[-1][1].append(tree)
                else:
                    yield tree
        if open_groups:
            raise self.error(
                line, f"the parenthesis of line {open_groups[-1][0]} is not closed; is the file cut short?"
            )

    def _conjuncts(self, tree: Word | Group) -> Iterator[Word | Group]:
        if isinstance(tree, Group) and tree.head == "and":
            for part in tree.parts[1:]:
                yield from self._conjuncts(part)
        else:
            yield tree

    def _expanded(self, tree: Word | Group) -> list[Conjunction]:
        """A condition in disjunctive normal form."""
        if not isinstance(tree, Group) or tree.head not in ("and", "or", "<=", ">="):
            shown = tree.head or "a group" if isinstance(tree, Group) else tree.text
            raise self.error(
                tree.line, f"a condition must be and, or, <= or >=, got {shown}; rewrite it with those"
            )
        if tree.head in ("<=", ">="):
            return [(self._atom(tree),)]
        if len(tree.parts) < 2:
            raise self.error(tree.line, f"{tree.head} must hold at least one condition; remove it")
        parts = [self._expanded(part) for part in tree.parts[1:]]
        if tree.head == "or":
            return [conjunction for part in parts for conjunction in part]
        self._check_size(parts)
        return [tuple(atom for piece in chosen for atom in piece) for chosen in product(*parts)]

    def _check_size(self, choices: list[list[Conjunction]]) -> None:
        total = 1
        for found in choices:
            total *= len(found)
            if total > MOST:
                raise self.error(1, f"it expands to more than {MOST} conjunctions; split the file")

    def _atom(self, tree: Group) -> Atom:
        if len(tree.parts) != 3:
            raise self.error(
                tree.line, f"{tree.head} must compare two terms, got {len(tree.parts) - 1}; split it"
            )
        left, right = self._terms(tree.parts[1]), self._terms(tree.parts[2])
        sign = 1.0 if tree.head == "<=" else -1.0
        terms = _sum(_scaled(left, sign), _scaled(right, -sign))
        if not all(map(math.isfinite, terms.values())):
            raise self.error(tree.line, "coefficients must fit float64, but one does not; use smaller ones")
        return Atom(terms, tree.line)

    def _terms(self, tree: Word | Group) -> Terms:
        if isinstance(tree, Word):
            if _NUMBER.fullmatch(tree.text):
                number = float(tree.text)
                if not math.isfinite(number):
                    raise self.error(
                        tree.line, f"numbers must fit float64, got {tree.text}; use a smaller one"
                    )
                return {"": number}
            if tree.text not in self.declared:
                raise self.error(
                    tree.line, f"{tree.text} must be a number or a declared name; declare it first"
                )
            return {tree.text: 1.0}
        parts = [self._terms(part) for part in tree.parts[1:]]
        match tree.head, parts:
            case "+", [_, *_]:
                return _sum(*parts)
            case "-", [only]:
                return _scaled(only, -1.0)
            case "-", [first, *rest]:
                return _sum(first, *(_scaled(part, -1.0) for part in rest))
            case "*", [first, second] if not first.keys() - {""} or not second.keys() - {""}:
                factor, terms = (first, second) if not first.keys() - {""} else (second, first)
                return _scaled(terms, factor.get("", 0.0))
        raise self.error(
            tree.line,
            f"a term must be linear (+, -, * by a number), got {tree.head or 'a group'}; rewrite it",
        )


def _sum(*parts: Terms) -> Terms:
    total: Terms = {}
    for part in parts:
        for name, factor in part.items():
            total[name] = total.get(name, 0.0) + factor
    return total


def _scaled(terms: Terms, factor: float) -> Terms:
    return {name: factor * value for name, value in terms.items()}
