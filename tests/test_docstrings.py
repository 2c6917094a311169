"""Every public name says in one line what it is, what each of its parameters is, and shows itself in an example that runs."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import holdfast

PAGES = Path(__file__).parents[1] / "docs" / "reference_pages.py"
SECTION = re.compile(r"^(?:Args|Attributes):\n((?:    .*\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^    (\*{0,2}\w+(?:, \w+)*):", re.MULTILINE)


def public() -> dict[str, object]:
    spec = importlib.util.spec_from_file_location("reference_pages", PAGES)
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    return {name: value for members in pages.public().values() for name, value in members.items()}


PUBLIC = public()


def parameters(value: object) -> set[str]:
    try:
        return set(inspect.signature(value).parameters) - {"self", "cls"}
    except ValueError:  # an exception takes what `Exception` takes
        return set()


def described(docstring: str) -> set[str]:
    """Names of the entries under ``Args`` or ``Attributes``."""
    sections = SECTION.findall(docstring + "\n")
    names = [names for section in sections for names in ENTRY.findall(section)]
    return {name.lstrip("*") for entry in names for name in entry.split(", ")}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_described_completely(name):
    docstring = inspect.getdoc(PUBLIC[name]) or ""
    paragraphs = docstring.split("\n\n")
    assert paragraphs[0]
    assert "\n" not in paragraphs[0], "the summary is one line"
    assert paragraphs[-1].startswith(">>> "), "the docstring ends with an example"
    assert parameters(PUBLIC[name]) - described(docstring) == set()


def test_an_undescribed_parameter_would_be_noticed():
    docstring = "One line.\n\nArgs:\n    x, y: points,\n        in: rows.\n    **options: others.\n\nReturns:\n    z: more."
    assert described(docstring) == {"x", "y", "options"}
    assert parameters(described) == {"docstring"}
    assert len(PUBLIC) > 200


class Finder(doctest.DocTestFinder):
    """Finds decorated functions too, which belong to the decorator's module as far as doctest can see."""

    def _from_module(self, module, object):
        return getattr(object, "__module__", module.__name__) == module.__name__


def examples() -> list[doctest.DocTest]:
    """The examples of every module of the package."""
    names = [found.name for found in pkgutil.walk_packages(holdfast.__path__, "holdfast.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    return [test for module in modules for test in Finder(exclude_empty=True).find(module) if test.examples]


def test_every_example_runs():
    runner, failures = doctest.DocTestRunner(verbose=False), []
    found = examples()
    for test in found:
        runner.run(test, out=failures.append)
    assert not failures, "".join(failures)
    shown = {test.name for test in found}
    missing = {
        name for name, value in PUBLIC.items() if f"{value.__module__}.{value.__qualname__}" not in shown
    }
    assert not missing
