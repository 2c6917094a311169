"""The shape of the code: imports go one way, modules say what they are for, and the command line answers without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "holdfast"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Lowest first. A module imports from its own layer and from earlier ones; the top-level `__init__` re-exports from all.
LAYERS = (
    (
        "errors",
        "_deadline",
        "_defaults",
        "_rules",
        "_overrides",
        "_arguments",
        "_tensors",
        "_files",
        "_record",
        "_signals",
        "_identity",
        "_imports",
        "_declared",
        "_registry",
        "_memory",
        "_formats",
        "_console",
        "_progress",
        "_products",
        "_values",
        "losses",
    ),
    ("diagnosis",),
    ("projections",),
    ("data",),
    ("threats",),
    ("networks",),
    ("curvature",),
    ("families",),
    ("external", "acceleration"),
    ("attacks",),
    ("verification",),
    ("theory",),
    ("trace",),
    ("training",),
    ("certificates",),
    ("evaluation",),
    ("config",),
    ("record",),
    ("report",),
    ("jobs",),
    ("lab",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def dotted(path: Path) -> tuple[str, ...]:
    """``src/holdfast/data/base.py`` as ``("holdfast", "data", "base")``; a package's ``__init__`` as the package."""
    parts = ("holdfast", *path.relative_to(PACKAGE).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_parts(tree: ast.AST, module: tuple[str, ...], *, is_package: bool) -> set[str]:
    """First names below ``holdfast`` that a module imports, anywhere in it: also inside functions and TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module if is_package else module[:-1]
            start = package[: len(package) - node.level + 1] if node.level else ()
            source = (*start, *(node.module.split(".") if node.module else ()))
            # `from holdfast import data` names a part in its list, `from holdfast.data import digits` in its source
            names = [(*source, alias.name) for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "holdfast":
                found.add(name[1] if len(name) > 1 else "")
    return found


def wrong_way(source: str, module: tuple[str, ...], *, is_package: bool = False) -> set[str]:
    """The parts this module must not import: later ones, and the top-level package itself."""
    here = RANK[module[1]]
    return {
        part
        for part in imported_parts(ast.parse(source), module, is_package=is_package)
        if RANK.get(part, len(LAYERS)) > here
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(dotted(path)))
def test_imports_go_one_way(path):
    module = dotted(path)
    if module == ("holdfast",):
        return
    assert module[1] in RANK, f"{module[1]} has no place in LAYERS: give it one"
    wrong = wrong_way(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
    assert not wrong, f"{'.'.join(module)} imports {sorted(wrong)}, which stand above it"


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from holdfast.data.base import Dataset", set()),
        ("from holdfast.networks import TwoLayer", set()),
        ("import numpy.data", set()),
        ("from holdfast.attacks.pgd import PGD", {"attacks"}),
        ("import holdfast.training.loop as loop", {"training"}),
        ("from holdfast import certificates, data", {"certificates"}),
        ("import holdfast", {""}),
        ("def late():\n    from ..report import page", {"report"}),
        ("from . import conv", set()),
    ],
)
def test_the_import_check_sees_every_way_to_import(source, wrong):
    assert wrong_way(source, ("holdfast", "networks", "dense")) == wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(dotted(path)))
def test_modules_say_what_they_are_for(path):
    source = path.read_text(encoding="utf-8")
    assert not source.strip() or ast.get_docstring(ast.parse(source)), f"{path.name} has no docstring"


def test_every_folder_of_code_is_a_package():
    """Else mypy takes its modules for top-level ones, and the wheel may lack them."""
    assert not {path.parent for path in MODULES if not (path.parent / "__init__.py").exists()}


def test_the_command_line_is_imported_without_heavy_packages():
    """`--help` and a mistyped option must answer at once; torch alone takes seconds to import."""
    heavy = {"torch", "lightning_fabric", "scipy", "sklearn", "matplotlib"}
    check = f"import holdfast.cli.main, sys; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", check], check=True, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


TINY_TRAINING = """
import torch
import holdfast as hf
x = torch.rand(24, 5, generator=torch.Generator().manual_seed(0))
data = hf.data.from_tensors(x, (x[:, 0] > 0.5).long())
for optimizer in ("auto", "sgd", "adam", "adamw"):
    model = hf.networks.TwoLayer(5, 2, width=16)
    hf.train(
        model, data, hf.LpBall("2", 0.05), attack=hf.PGD(steps=2), epochs=2, optimizer=optimizer, progress=False,
        device=hf.DeviceSettings(accelerator="cpu"),
    )
"""


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("import holdfast.jobs.train", {"scipy", "sympy"}),
        (
            "import holdfast; holdfast.evaluate, holdfast.verify, holdfast.certify, holdfast.diagnose",
            {"scipy", "sympy"},
        ),
        (TINY_TRAINING, {"sympy"}),
    ],
    ids=["imported", "others imported", "called"],
)
def test_training_imports_nothing_that_takes_as_long_as_torch(code, more):
    """Each of these takes from half as long to twice as long to import as torch itself."""
    heavy = more | {
        "torch._dynamo",
        "lightning_fabric",
        "scipy.stats",
        "sklearn",
        "matplotlib",
        "pandas",
        "jinja2",
        "IPython",
    }
    check = f"{code}\nimport sys; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", check], check=True, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.strip() == "[]"
