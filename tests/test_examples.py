"""Every example runs as it stands, and prints and draws what the site shows."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "examples" / "output"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def runner():
    """`docs/run_examples.py`, which also makes the site's outputs."""
    spec = importlib.util.spec_from_file_location("run_examples", ROOT / "docs" / "run_examples.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def words(text):
    """The text with every number replaced: processors round differently, and the last digits with them."""
    return re.sub(r"[-\u2212]?\d[\d,]*\.?\d*(e[-+]?\d+)?", "#", " ".join(text.split()))


def test_numbers_are_all_that_the_comparison_leaves_out():
    assert words("loss 0.21,  gap \u22121e-05") == "loss #, gap #"
    assert words("certified") != words("estimate")


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_an_example_prints_and_draws_what_the_site_shows(script, runner, tmp_path):
    printed = runner.run(script, tmp_path)
    shown = (OUTPUT / f"{script.stem}.txt").read_text()
    assert words(printed) == words(shown), "run `python docs/run_examples.py` and look at what changed"
    figures = {path.name for path in tmp_path.glob("*.svg")}
    assert figures == {path.name for path in OUTPUT.glob(f"{script.stem}.svg")}


def test_every_example_has_a_page_with_its_code_its_output_and_its_figure():
    assert len(EXAMPLES) >= 8
    for script in EXAMPLES:
        page = (ROOT / "docs" / "examples" / f"{script.stem}.md").read_text()
        assert f"{{literalinclude}} ../../examples/{script.name}" in page
        assert f"{{literalinclude}} output/{script.stem}.txt" in page
        if (OUTPUT / f"{script.stem}.svg").exists():
            assert f"](output/{script.stem}.svg)" in page


def test_no_output_is_left_of_an_example_that_is_gone():
    assert {path.stem for path in OUTPUT.iterdir()} <= {script.stem for script in EXAMPLES}
