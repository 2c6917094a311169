"""The API reference: which names are public, and a page for each public module. Read by `conf.py` and by the tests."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import holdfast

# Command line, jobs and experiments: their public names are those that `holdfast` re-exports, or the commands themselves.
INTERNAL = {"__main__", "cli", "config", "jobs", "lab", "reproduce", "record"}
TOP = "holdfast"


def modules() -> list[str]:
    """Modules with a page of their own: those that `import holdfast` promises first, then the other packages, by name."""
    promised = [
        name for name in holdfast.__all__ if inspect.ismodule(getattr(holdfast, name))
    ]
    others = [
        found.name
        for found in pkgutil.iter_modules(holdfast.__path__)
        if not found.name.startswith("_")
    ]
    names = promised + sorted(set(others) - set(promised) - INTERNAL)
    within = [(name, importlib.import_module(f"{TOP}.{name}")) for name in names]
    deeper = [
        f"{name}.{member}"
        for name, module in within
        for member in exported(module)
        if inspect.ismodule(getattr(module, member))
    ]
    return names + deeper


def exported(module: ModuleType) -> list[str]:
    """Public names of a module: what a package re-exports as ``X as X``, and what a single file defines."""
    source = Path(str(module.__file__))
    if source.name == "__init__.py":
        imports = [
            node
            for node in ast.parse(source.read_text()).body
            if isinstance(node, ast.ImportFrom)
        ]
        return [
            name.name
            for node in imports
            for name in node.names
            if name.asname == name.name
        ]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]


def public() -> dict[str, dict[str, object]]:
    """Page -> {full name -> object}. Everything stands on one page only, under the shortest name that a user may write."""
    top = {name: getattr(holdfast, name) for name in holdfast.__all__}
    shortest = {id(value): name for name, value in top.items() if callable(value)}
    pages: dict[str, dict[str, object]] = {}
    placed: set[int] = set()
    for name in modules():
        module = importlib.import_module(f"{TOP}.{name}")
        page = pages.setdefault(name, {})
        for member in exported(module):
            value = getattr(module, member)
            documented = inspect.isclass(value) or inspect.isfunction(value)
            if documented and id(value) not in placed:
                placed.add(id(value))
                short = shortest.get(id(value))
                page[f"{TOP}.{short}" if short else f"{TOP}.{name}.{member}"] = value
    for (
        name,
        page,
    ) in pages.items():  # what `hf.` leads to comes first, in the order of the module
        pages[name] = dict(
            sorted(
                page.items(),
                key=lambda entry: entry[0].removeprefix(f"{TOP}.").count("."),
            )
        )
    rest = {
        f"{TOP}.{name}": value
        for name, value in top.items()
        if callable(value) and id(value) not in placed
    }
    return {TOP: rest, **{name: page for name, page in pages.items() if page}}


def first_sentence(value: object) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())


def page(name: str, members: dict[str, object]) -> str:
    """The page of one module in reStructuredText: its docstring, a table of its names, then each of them in full."""
    dotted = TOP if name == TOP else f"{TOP}.{name}"
    module = importlib.import_module(dotted)
    purpose = (inspect.getdoc(module) or "").split("\n\n")[0]
    if name == TOP:
        purpose = "Training, certificates, plans and runs: the functions of ``import holdfast as hf`` that stand in no module of their own."
    lines = [
        dotted,
        "=" * len(dotted),
        "",
        purpose,
        "",
        f".. module:: {dotted}",
        "   :no-index-entry:",
        "",
    ]
    lines += [".. list-table::", "   :widths: 30 70", "   :class: names", ""]
    for full, value in members.items():
        role = "class" if inspect.isclass(value) else "func"
        lines += [
            f"   * - :py:{role}:`{full.removeprefix(f'{TOP}.')} <{full}>`",
            f"     - {first_sentence(value)}",
        ]
    lines.append("")
    for full, value in members.items():
        if inspect.isclass(value):
            lines += [
                f".. autoclass:: {full}",
                "   :members:",
                "   :show-inheritance:",
                "",
            ]
        else:
            lines += [f".. autofunction:: {full}", ""]
    return "\n".join(lines)


def index(names: list[str]) -> str:
    """The page that leads to all others."""
    lines = ["API reference", "=============", ""]
    lines += [
        "Every public name, from the docstrings. Shapes are written as jaxtyping writes them:"
    ]
    lines += [
        '``Float[Tensor, "batch features"]`` is a floating-point tensor with two axes.',
        "",
    ]
    lines += [".. toctree::", "   :maxdepth: 1", ""] + [f"   {name}" for name in names]
    return "\n".join([*lines, ""])


def write(folder: Path) -> None:
    """Writes a page for each module, and the index, into ``folder``. A page that is as it was keeps its time stamp."""
    pages = {name: page(name, members) for name, members in public().items()}
    pages["index"] = index(list(pages))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
