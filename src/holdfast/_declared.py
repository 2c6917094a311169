"""What a class or a function of the library can be given, read from its source: nothing is imported, so
that help and refusals come at once.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

PLAIN: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}
ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A parameter.

    Attributes:
        annotation: as written.
        type: as far as text can hold it; what is no plain value goes by its name.
        default: ``...`` where there is none.
        help: its entry under ``Args`` or ``Attributes`` of the docstring.
    """

    annotation: str
    type: Any
    default: Any
    help: str


@cache
def declared(path: str) -> dict[str, Declared]:
    """The parameters of the dataclass, class or function ``module:Name`` of this library, by name.

    >>> declared("attacks.pgd:PGD")["steps"].default
    10
    """
    module, _, name = path.partition(":")
    tree = _tree(module)
    words = PLAIN | dict(_choices(tree))
    [found] = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name]
    helps = dict(_helps(ast.get_docstring(found) or ""))
    return {
        key: Declared(
            annotation=ast.unparse(annotation),
            type=_type(annotation, words),
            default=... if default is None else _value(default),
            help=helps.get(key, ""),
        )
        for key, annotation, default in _parameters(found)
    }


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse((Path(__file__).parent / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


def _choices(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """The module's own names for choices, such as ``Start = Literal["random", "example"]``."""
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)], value=ast.Subscript(value=ast.Name(id="Literal"), slice=chosen)
            ):
                yield name, Literal[ast.literal_eval(chosen)]


def _parameters(found: ast.ClassDef | ast.FunctionDef) -> Iterator[tuple[str, ast.expr, ast.expr | None]]:
    """Fields of a dataclass, or parameters of a function or of a constructor, with their annotation and
    default.
    """
    if isinstance(found, ast.ClassDef):
        own = [node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        if own:
            yield from _parameters(own[0])
            return
        for node in found.body:
            match node:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=default):
                    yield name, annotation, default
        return
    arguments = found.args
    defaults = [*[None] * (len(arguments.args) - len(arguments.defaults)), *arguments.defaults]
    pairs = [
        *zip(arguments.args, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        if argument.annotation is not None:
            yield argument.arg, argument.annotation, default


def _type(annotation: ast.expr, words: dict[str, Any]) -> Any:
    match annotation:
        case ast.BinOp(left=left, right=right):
            return _type(left, words) | _type(right, words)
        case ast.Constant(value=None):
            return None
        case ast.Subscript(value=ast.Name(id="tuple" | "Sequence")):
            return tuple[int, ...]
        case ast.Name(id=name):
            return words.get(name, str)
    return str


def _value(default: ast.expr) -> Any:
    match default:
        case ast.Call(func=ast.Name(id="field"), keywords=given):  # of a dataclass: what it says, or nothing
            said = {word.arg: word.value for word in given}
            own = said.get("default") or said.get("default_factory")
            return ... if own is None else _value(own)
    try:
        return ast.literal_eval(default)
    except ValueError:  # such as torch.float32: its text
        return ast.unparse(default)


def _helps(docstring: str) -> Iterator[tuple[str, str]]:
    """Entries under ``Args`` or ``Attributes``, as plain text on one line."""
    section = re.search(r"^(?:Args|Attributes)\b.*:\n((?:(?: .*)?\n)*)", docstring + "\n", re.MULTILINE)
    lines = section.group(1) if section else ""
    for entry in re.split(r"^    (?=\w)", lines, flags=re.MULTILINE):
        if found := ENTRY.match(" ".join(entry.replace("`", "").split())):
            for name in found.group(1).split(", "):
                yield name, found.group(2).rstrip(".")
