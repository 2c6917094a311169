"""VNN-LIB properties as VNN-COMP writes them: where a counterexample must lie, and what the outputs must then
satisfy.

A file declares ``X_0 ..`` (inputs, flattened) and ``Y_0 ..`` (outputs) and asserts conditions on them that a
*counterexample* meets: ``sat`` means that there is one, so that the property one hopes for is broken. Read
are ``declare-const``, ``assert``, ``and``, ``or``, ``<=``, ``>=`` between linear terms (``+``, ``-``, ``*``
by a number), comments and gzipped files; that is VNN-LIB 1.0 as in VNN-COMP (Brix et al., arXiv 2312.16760).
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import product
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast._arguments import BOUNDS, EXAMPLES, LABELS
from holdfast._files import write_atomically
from holdfast._rules import COUNT, PATH, TEXT, kind, maybe, real, takes
from holdfast.errors import InputError
from holdfast.external._vnnlib_syntax import Atom, Script
from holdfast.external.properties import Case, Condition, Property, robustness_property

Edge = tuple[int, float, bool]  # place of an input, its limit, and whether that is an upper one


@takes(path=PATH)
def read_vnnlib(path: str | Path) -> Property:
    """The property in a ``.vnnlib`` file, also gzipped. Decimals are read to the nearest float64.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing, cut short or uses a construct outside those read here (its line is
            named); an input without bounds; a condition that relates inputs to anything but numbers.

    >>> import torch
    >>> import holdfast as hf
    >>> import tempfile
    >>> prop = hf.external.robustness_property(torch.tensor([0.5, 0.5]), 0, outputs=2, radius=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     hf.external.write_vnnlib(f"{folder}/a.vnnlib", prop)
    ...     hf.external.read_vnnlib(f"{folder}/a.vnnlib") == prop
    True
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} must be a VNN-LIB file, but there is none; check the path.")
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} must be text or gzipped text, but cannot be read ({error}); fetch it again."
        ) from error
    return parse_vnnlib(text, name=str(path))


@takes(text=TEXT, name=TEXT)
def parse_vnnlib(text: str, *, name: str = "the property") -> Property:
    """The property in this text, as `read_vnnlib` reads it from a file.

    Args:
        text: in VNN-LIB.
        name: of the text in errors.

    >>> import holdfast as hf
    >>> declared = "(declare-const X_0 Real) (declare-const Y_0 Real)"
    >>> prop = hf.external.parse_vnnlib(declared + "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (<= Y_0 0))")
    >>> prop.inputs, prop.outputs
    (1, 1)
    """
    script = Script(text, name)
    inputs, outputs = script.count("X"), script.count("Y")
    edges, rows = _sides(script, script.always)
    lower = torch.full((inputs,), -torch.inf, dtype=torch.float64)
    upper = torch.full((inputs,), torch.inf, dtype=torch.float64)
    _narrow(lower, upper, edges)
    # Conjunctions with the same limits share a box.
    grouped: dict[tuple[Edge, ...], list[Condition]] = {}
    for chosen in product(*script.choices):
        own, further = _sides(script, [atom for conjunction in chosen for atom in conjunction])
        grouped.setdefault(tuple(sorted(own)), []).append(_condition([*rows, *further], outputs))
    cases = [_case(lower, upper, own, tuple(conditions)) for own, conditions in grouped.items()]
    for case in cases:
        free = ~(case.lower.isfinite() & case.upper.isfinite())
        if bool(free.any()):
            place = int(free.nonzero()[0])
            raise InputError(
                f"{name} must bound every input from both sides, but X_{place} is not; add its bounds."
            )
    kept = tuple(case for case in cases if bool((case.lower <= case.upper).all()))
    return Property(inputs=inputs, outputs=outputs, cases=kept)


def _sides(script: Script, atoms: Sequence[Atom]) -> tuple[list[Edge], list[dict[str, float]]]:
    """Limits of inputs, and comparisons of outputs."""
    edges: list[Edge] = []
    rows: list[dict[str, float]] = []
    for atom in atoms:
        names = [name for name, factor in atom.terms.items() if name and factor]
        letters = {name[0] for name in names}
        if letters == {"Y"}:
            rows.append(atom.terms)
        elif letters == {"X"} and len(names) == 1:
            factor = atom.terms[names[0]]
            edges.append((int(names[0][2:]), 0.0 - atom.terms.get("", 0.0) / factor, factor > 0))
        else:
            raise script.error(
                atom.line,
                "a comparison must bound one input by a number or relate outputs, got "
                f"{' and '.join(names) or 'numbers alone'}; rewrite it",
            )
    return edges, rows


def _narrow(lower: Tensor, upper: Tensor, edges: Sequence[Edge]) -> None:
    """Move the edges of a box inwards, in place."""
    for place, limit, above in edges:
        if above:
            upper[place] = min(limit, float(upper[place]))
        else:
            lower[place] = max(limit, float(lower[place]))


def _case(lower: Tensor, upper: Tensor, edges: Sequence[Edge], conditions: tuple[Condition, ...]) -> Case:
    lower, upper = lower.clone(), upper.clone()
    _narrow(lower, upper, edges)
    return Case(lower=lower, upper=upper, conditions=conditions)


def _condition(rows: Sequence[dict[str, float]], outputs: int) -> Condition:
    left = torch.zeros(len(rows), outputs, dtype=torch.float64)
    right = torch.zeros(len(rows), dtype=torch.float64)
    for number, terms in enumerate(rows):
        for name, factor in terms.items():
            if name:
                left[number, int(name[2:])] = factor
        right[number] = 0.0 - terms.get("", 0.0)
    return Condition(A=left, b=right)


@takes(path=PATH, prop=kind(Property, what="a Property"), comment=TEXT)
def write_vnnlib(path: str | Path, prop: Property, *, comment: str = "") -> None:
    """Write a property, which `read_vnnlib` reads back to the same numbers.

    The file is gzipped where the name ends in ``.gz``.

    Args:
        path: the file.
        prop: the property.
        comment: first line of the file.

    Raises:
        InputError: a property without cases, or a box that is not finite: VNN-LIB cannot express them.
        RunFolderError: the file cannot be written.

    >>> import torch
    >>> import holdfast as hf
    >>> import tempfile
    >>> prop = hf.external.robustness_property(torch.tensor([0.5, 0.5]), 0, outputs=2, radius=0.25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     hf.external.write_vnnlib(f"{folder}/a.vnnlib.gz", prop, comment="one example")
    ...     hf.external.read_vnnlib(f"{folder}/a.vnnlib.gz") == prop
    True
    """
    finite = all(bool((case.lower.isfinite() & case.upper.isfinite()).all()) for case in prop.cases)
    if not prop.cases or not all(case.conditions for case in prop.cases) or not finite:
        raise InputError(
            "a property must have a finite box and a condition to be written as VNN-LIB, but it lacks "
            "one; add it."
        )
    path = Path(path)
    data = ("\n".join(_lines(prop, comment)) + "\n").encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)

    def write(part: Path) -> None:
        part.write_bytes(data)

    write_atomically(path, write)


@takes(folder=PATH, x=EXAMPLES, labels=LABELS, outputs=COUNT, radius=real(least=0), bounds=maybe(BOUNDS))
def write_robustness(
    folder: str | Path,
    x: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " labels"],
    *,
    outputs: int,
    radius: float,
    bounds: tuple[float | Tensor, float | Tensor] | None = None,
) -> list[Path]:
    """Write `robustness_property` of every example: ``example_00000.vnnlib`` and so on.

    Args:
        folder: where to.
        x: examples (batch, ...).
        labels: their classes, (batch,).
        outputs: the network's outputs.
        radius: in the data's units, at least 0.
        bounds: the valid box; ``None`` for none.

    Returns:
        The paths.

    Raises:
        InputError: as `robustness_property`, and labels that are not one for each example.
        RunFolderError: a file cannot be written.

    >>> import torch
    >>> import holdfast as hf
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = hf.external.write_robustness(folder, torch.eye(2), torch.tensor([0, 1]), outputs=2, radius=0.1)
    ...     [path.name for path in paths]
    ['example_00000.vnnlib', 'example_00001.vnnlib']
    """
    if len(labels) != len(x):
        raise InputError(f"labels must be one for each of {len(x)} examples, got {len(labels)}; give all.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (example, label) in enumerate(zip(x, labels.tolist(), strict=True)):
        prop = robustness_property(example, label, outputs=outputs, radius=radius, bounds=bounds)
        path = folder / f"example_{number:05d}.vnnlib"
        write_vnnlib(path, prop, comment=f"example {number}, label {label}, l-inf radius {radius!r}")
        paths.append(path)
    return paths


def _lines(prop: Property, comment: str) -> Iterator[str]:
    for line in comment.splitlines():
        yield f"; {line}"
    for letter, count in (("X", prop.inputs), ("Y", prop.outputs)):
        yield from (f"(declare-const {letter}_{place} Real)" for place in range(count))
    if len(prop.cases) == 1:
        case = prop.cases[0]
        yield from (f"(assert {edge})" for edge in _box(case))
        if all(len(condition.b) for condition in case.conditions):  # one without comparisons is always met
            yield f"(assert {_or([_and(list(_comparisons(condition))) for condition in case.conditions])})"
    else:
        parts = [
            _and([*_box(case), *_comparisons(condition)])
            for case in prop.cases
            for condition in case.conditions
        ]
        yield f"(assert {_or(parts)})"


def _box(case: Case) -> Iterator[str]:
    for place, (low, high) in enumerate(zip(case.lower.tolist(), case.upper.tolist(), strict=True)):
        yield f"(>= X_{place} {_number(low)})"
        yield f"(<= X_{place} {_number(high)})"


def _comparisons(condition: Condition) -> Iterator[str]:
    for row, limit in zip(condition.A.tolist(), condition.b.tolist(), strict=True):
        used = [(f"Y_{place}", factor) for place, factor in enumerate(row) if factor]
        match used, limit:
            case [(name, 1.0)], _:
                yield f"(<= {name} {_number(limit)})"
            case [(name, -1.0)], _:
                yield f"(>= {name} {_number(0.0 - limit)})"
            case (([(less, 1.0), (more, -1.0)] | [(more, -1.0), (less, 1.0)]), 0.0):
                yield f"(<= {less} {more})"
            case _:
                terms = [f"(* {_number(factor)} {name})" for name, factor in used]
                yield f"(<= {terms[0] if len(terms) == 1 else _joined('+', terms)} {_number(limit)})"


def _joined(word: str, parts: Sequence[str]) -> str:
    return f"({word} {' '.join(parts)})"


def _and(parts: Sequence[str]) -> str:
    return _joined("and", parts)


def _or(parts: Sequence[str]) -> str:
    return _joined("or", parts)


def _number(value: float) -> str:
    """The shortest decimal that is read back to the same float64, without an exponent: SMT-LIB knows none."""
    text = format(Decimal(repr(value + 0.0)), "f")
    return text if "." in text else text + ".0"
