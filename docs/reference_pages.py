"""The API reference: which names are public, and a page for each public module. Read by `conf.py` and by the tests."""

import ast
import functools
import importlib
import inspect
import itertools
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import holdfast
from holdfast.config.commands import COMMANDS
from holdfast.config.options import options_of

# Command line, jobs and experiments: their public names are those that `holdfast` re-exports, or the commands themselves.
INTERNAL = {"__main__", "cli", "config", "jobs", "lab", "record"}
TOP = "holdfast"
PURPOSE = "Training, planning and diagnosis: what ``import holdfast as hf`` has that belongs to no module of its own."


def module_named(name: str) -> ModuleType:
    """What ``holdfast.NAME`` leads to: where its code lies may be somewhere else."""
    try:
        return functools.reduce(getattr, name.split("."), holdfast)
    except AttributeError:
        return importlib.import_module(f"{TOP}.{name}")


def modules() -> list[str]:
    """Modules with a page of their own: those that `import holdfast` promises first, then the other packages, by name."""
    values = [getattr(holdfast, name) for name in holdfast.__all__]
    promised = [value.__name__.removeprefix(f"{TOP}.") for value in values if inspect.ismodule(value)]
    others = [
        found.name for found in pkgutil.iter_modules(holdfast.__path__) if not found.name.startswith("_")
    ]
    names = promised + sorted(set(others) - set(promised) - INTERNAL)
    within = [(name, module_named(name)) for name in names]
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
        imports = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ImportFrom)]
        return [name.name for node in imports for name in node.names if name.asname == name.name]
    own = {name: getattr(value, "__module__", None) for name, value in vars(module).items()}
    return [name for name, home in own.items() if home == module.__name__ and not name.startswith("_")]


def public() -> dict[str, dict[str, object]]:
    """Page -> {full name -> object}. Everything is on one page only, under the shortest name that a user may write."""
    top = {name: getattr(holdfast, name) for name in holdfast.__all__}
    shortest = {id(value): name for name, value in top.items() if callable(value)}
    pages: dict[str, dict[str, object]] = {TOP: {}}
    placed: set[int] = set()
    for name in modules():
        module = module_named(name)
        members: dict[str, object] = {}
        for member in exported(module):
            value = getattr(module, member)
            if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in placed:
                placed.add(id(value))
                short = shortest.get(id(value))
                members[f"{TOP}.{short}" if short else f"{TOP}.{name}.{member}"] = value
        # What `hf.` leads to comes first, otherwise in the order of the module.
        pages[name] = dict(sorted(members.items(), key=lambda entry: entry[0].count(".") > 1))
    rest = {f"{TOP}.{name}": top[name] for name in top if callable(top[name]) and id(top[name]) not in placed}
    known = placed | {id(value) for value in rest.values()}
    for value in list(rest.values()):  # a result has an entry too, though nobody makes one by hand
        result = inspect.signature(value).return_annotation if inspect.isfunction(value) else None
        if inspect.isclass(result) and result.__module__.startswith(f"{TOP}.") and id(result) not in known:
            rest[f"{result.__module__}.{result.__name__}"] = result
    pages[TOP] = rest
    return {name: members for name, members in pages.items() if members}


def linked(text: str) -> str:
    """A docstring's mentions of the site's own pages, as links."""
    return re.sub(r"`docs/(\w+/\w+)\.md`", r":doc:`/\1`", text)


def first_paragraph(value: object) -> str:
    """What a table says of a name."""
    return linked(" ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()))


def purpose(name: str) -> str:
    """What a module is for, in its own words."""
    return PURPOSE if name == TOP else first_paragraph(module_named(name))


def role(full: str, value: object) -> str:
    """A link to a name, shown without the package's."""
    kind = "class" if inspect.isclass(value) else "func"
    return f":py:{kind}:`{full.removeprefix(f'{TOP}.')} <{full}>`"


def page(name: str, members: dict[str, object]) -> str:
    """The page of one module in reStructuredText: its docstring, a table of its names, then each of them in full."""
    dotted = TOP if name == TOP else f"{TOP}.{name}"
    lines = [dotted, "=" * len(dotted), "", purpose(name), ""]
    lines += [f".. module:: {dotted}", "   :no-index-entry:", ""]
    lines += [".. list-table::", "   :widths: 30 70", "   :class: names", ""]
    for full, value in members.items():
        lines += [f"   * - {role(full, value)}", f"     - {first_paragraph(value)}"]
    lines.append("")
    for full, value in members.items():
        if inspect.isclass(value):
            lines += [f".. autoclass:: {full}", "   :members:", "   :show-inheritance:", ""]
        else:
            lines += [f".. autofunction:: {full}", ""]
    return "\n".join(lines)


def literal(text: str) -> str:
    """Help as reStructuredText: what stands between backquotes is code, and so are options."""
    code = re.split(r"`([^`]+)`|(?<!\S)(--[\w.-]*\w)", text)
    plain = [re.sub(r"([*|_])", r"\\\1", part) for part in code[::3]]
    words = [f"``{quoted or option}``" for quoted, option in zip(code[1::3], code[2::3], strict=True)]
    return "".join(part for pair in itertools.zip_longest(plain, words, fillvalue="") for part in pair)


def commands() -> str:
    """The page of the command line: of every command what it does, its arguments and its options."""
    lines = ["The command line", "================", ""]
    lines += [
        "Every argument and option, as ``holdfast COMMAND --help`` lists them. How they work together is in"
    ]
    lines += [":doc:`/howto/command-line`.", ""]
    for name, kind in COMMANDS.items():
        options = options_of(kind)
        said, examples = options.about
        title = f"holdfast {name}"
        lines += [title, "-" * len(title), "", f"``{options.usage}``", "", literal(said), ""]
        shown, _, more = examples.partition("\n\n")
        lines += ["::", "", shown, "", literal(more), ""]
        for section, rows in options.described().items():
            lines += [f".. list-table:: {section}", "   :widths: 34 48 18", "   :header-rows: 1"]
            lines += ["   :class: names", "", "   * - name", "     - meaning", "     - left out"]
            for row in rows:
                names = ", ".join(f"``{word}``" for word in row.names.split(", "))
                lines += [f"   * - {names}", f"     - {literal(row.help)}"]
                lines += [f"     - ``{row.default}``" if row.default else "     -"]
            lines.append("")
    return "\n".join(lines)


def index(pages: dict[str, dict[str, object]]) -> str:
    """The page that leads to all others, and to every name of `import holdfast as hf`."""
    lines = ["API reference", "=============", ""]
    lines += ["Every public name, from the docstrings. Shapes are written as jaxtyping writes them:"]
    lines += ['``Float[Tensor, "batch features"]`` is a floating-point tensor with two axes.']
    lines += ["The options of ``holdfast`` are listed in :doc:`command_line`.", ""]
    lines += [
        ".. toctree::",
        "   :maxdepth: 1",
        "   :hidden:",
        "",
        *(f"   {name}" for name in ("command_line", *pages)),
        "",
    ]
    lines += [".. list-table::", "   :widths: 30 70", "   :header-rows: 1", "   :class: names", ""]
    lines += [
        "   * - module",
        "     - what it is for, and which names of ``import holdfast as hf`` are described there",
    ]
    for name, members in pages.items():
        short = [role(full, value) for full, value in members.items() if full.count(".") == 1]
        title = TOP if name == TOP else f"{TOP}.{name}"
        lines += [
            f"   * - :doc:`{title} <{name}>`",
            f"     - {purpose(name)}",
            "",
            f"       {', '.join(short)}",
        ]
    return "\n".join([*lines, ""])


def write(folder: Path) -> None:
    """Writes a page for each module, and the index, into ``folder``. A page that is as it was keeps its time stamp."""
    pages = public()
    texts = {name: page(name, members) for name, members in pages.items()}
    texts |= {"index": index(pages), "command_line": commands()}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.rst"):
        if old.stem not in texts:
            old.unlink()
    for name, text in texts.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
