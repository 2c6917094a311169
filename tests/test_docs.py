"""The documentation site builds without a warning, and its reference has every public name."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import holdfast

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. A warning is an error, a reference that leads nowhere a warning."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1"}
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(out)], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def documented(site):
    """Every Python name that has an entry in the reference, under each name it goes by."""
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    return {name for kind, names in inventory.data.items() if kind.startswith("py:") for name in names}


def test_the_reference_has_every_public_name(documented):
    values = {name: getattr(holdfast, name) for name in holdfast.__all__ if name != "__version__"}
    # a module is described under the name it is imported by: hf.capacity is holdfast.lab.capacity
    names = {v.__name__ if isinstance(v, ModuleType) else f"holdfast.{name}" for name, v in values.items()}
    assert len(names) > 40
    assert names - documented == set()


@pytest.mark.parametrize(
    "module", ["data", "networks", "theory", "attacks", "threats", "losses", "curvature"]
)
def test_the_reference_has_what_each_module_exports(documented, module):
    import importlib
    import inspect

    package = importlib.import_module(f"holdfast.{module}")
    values = {name: value for name, value in vars(package).items() if not name.startswith("_")}
    own = {
        name
        for name, value in values.items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and (value.__module__ == package.__name__ or value.__module__.startswith(f"{package.__name__}."))
    }
    assert own
    assert {
        name for name in own if not {f"holdfast.{module}.{name}", f"holdfast.{name}"} & documented
    } == set()


def test_a_name_without_an_entry_would_be_noticed(documented):
    assert "holdfast.attacks.NoSuchAttack" not in documented
    assert not any(name.startswith("holdfast.cli") for name in documented)


PAGES = sorted((ROOT / "docs").rglob("*.md"))
# What these pages show takes minutes, or the paths of a machine; `holdfast reproduce` and its tests run it.
NOT_RUN = {"reproduce.md", "capacity.md", "diagnosis.md"}
WITH_CODE = [page for page in PAGES if "```python" in page.read_text() and page.name not in NOT_RUN]


def test_the_pages_that_are_run_are_those_with_code():
    assert {page.stem for page in WITH_CODE} >= {
        "train",
        "evaluate",
        "attacks",
        "tabular",
        "verify",
        "plan",
        "devices",
    }


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_python_on_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    import re

    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_front_pages_lead_to_files(name):
    import re

    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text())
    assert all((ROOT / target).exists() for target in targets), targets


def commands():
    """Options that the pages show, by command of `holdfast`."""
    import re

    shown = {}
    for page in [ROOT / "README.md", *PAGES]:
        for name, rest in re.findall(
            r"^holdfast (\w+)(.*?)(?:\s+#.*)?$", page.read_text(), flags=re.MULTILINE
        ):
            shown.setdefault(name, set()).update(re.findall(r"--[\w.-]+", rest))
    return shown


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_option_on_a_page_is_one_of_the_command(command, capsys):
    import re

    from holdfast.cli.main import main

    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    assert commands()[command] - known == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "code"), [("README.md", "README.md"), ("docs/get-started.md", "examples/digits_certificate.py")]
)
def test_the_last_command_of_a_page_is_the_run_of_its_python(page, code, tmp_path, monkeypatch, capsys):
    """Trained twice: nothing less tells that the defaults of both are the same."""
    import re

    from holdfast.cli.main import main

    text = (ROOT / code).read_text()
    python = re.search(r"^import holdfast as hf\n.*?^run = hf\.train\(.*?\)$", text, re.MULTILINE | re.DOTALL)
    command = re.findall(r"^holdfast (train .*)$", (ROOT / page).read_text(), re.MULTILINE)[-1]
    monkeypatch.chdir(tmp_path)
    exec(compile(python[0], code, "exec"), namespace := {})
    main([*command.split(), "--out", "run", "--quiet"])
    ours, theirs = namespace["run"].certificate, holdfast.Run.load(tmp_path / "run").certificate
    assert (ours.lower_bound, ours.gap) == (theirs.lower_bound, theirs.gap)


def test_the_pages_show_most_commands():
    assert set(commands()) >= {"train", "evaluate", "certify", "plan", "sweep", "report", "doctor", "verify"}
