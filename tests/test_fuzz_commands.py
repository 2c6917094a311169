"""Random command lines, from the commands' own lists of options: each ends with a status that is documented, and never with a traceback."""

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from holdfast.cli.main import main
from holdfast.config.commands import COMMANDS
from holdfast.config.options import options_of

# what a warning is about is not what is tested here
pytestmark = pytest.mark.filterwarnings("ignore")

SECONDS = 15.0
"""Of processor time, in the quick version."""
OK = {
    "train": {0, 2},
    "plan": {0, 2},
    "evaluate": {0, 2},
    "certify": {0, 2},
    "report": {0, 2},
    "export": {0, 2},
    "doctor": {0, 1, 2},
    "sweep": {0, 1, 2},
    "verify": {0, 1, 2, 3},
}
NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "0.1",
    "0.5",
    "-1",
    "-0.5",
    "1e-300",
    "1e308",
    "nan",
    "inf",
    "-inf",
    "99999999999999999999",
    "1_0",
    "0x10",
    "1e400",
)
TEXTS = (
    "",
    " ",
    "x",
    "null",
    "true",
    "false",
    "[]",
    "[3,8]",
    "[3",
    "{a: 1}",
    "{a: {b: [1, {c: 2}]}}",
    "3,8",
    "3,3",
    "8,3,8",
    "-",
    "--",
    "=",
    "é",
    "\x00",
    "a" * 5000,
    "digits",
    "spheres",
    "forced",
    "separated",
    "linf:0.1",
    "l2:0.3",
    "l1:3",
    "sphere:0.1",
    "linf:8/255",
    "linf:",
    "l2:nan",
    "linf:1/0",
    ":",
    "a:b",
    "os:system",
    "torch.optim:Adam",
    "fgsm",
    "pgd",
    "none",
    "adam",
    "two-layer",
    "dense",
    "mnist-conv",
    "NOWHERE",
    "EMPTY",
    "JUNK",
    "/dev/null",
    ".",
    "..",
    "auto",
    "ibp",
    "crown",
    "standard",
    "clean",
    "test",
    "all",
    "cpu",
    "cuda",
    "meta",
    "x.npz",
    "[1, [2, [3]]]",
    "!!python/object:os.system",
    "&a *a",
    "%",
)
TINY = [
    "--data",
    "digits",
    "--classes",
    "3,8",
    "--examples",
    "30",
    "--width",
    "8",
    "--epochs",
    "1",
    "--final.steps",
    "1",
    "--final.restarts",
    "1",
]
STARTS: dict[str, list[list[str]]] = {
    "train": [TINY, [], ["CONFIG"], ["JUNK"], ["CONFIG", "--resume"]],
    "sweep": [
        [*TINY, "--seeds", "1"],
        ["--data", "forced", "--capacity", "--threat", "l2:0.1", "--width", "1"],
        [],
    ],
    "plan": [
        ["--data", "digits", "--threat", "l2:0.3", "--classes", "3,8", "--examples", "20", "--radii", "2"],
        [],
    ],
    "evaluate": [["RUN"], ["WEIGHTS"], ["JUNK"], ["NOWHERE"], []],
    "certify": [["RUN", "--tighten", "1"], ["EMPTY"], []],
    "export": [["RUN", "--to", "net.pt2"], ["RUN"], ["EMPTY", "--to", "net.onnx"], []],
    "report": [["RUN"], ["RUN", "RUN"], ["EMPTY"], []],
    "doctor": [["RUN"], ["CONFIG"], ["--data", "digits", "--examples", "30"], []],
    "verify": [["JUNK", "--model", "JUNK"], ["NOWHERE"], []],
}


class Reached(BaseException):
    """The arguments were good: the work would begin."""


def begin(*args: object, **options: object) -> None:
    raise Reached


WORK = (
    "jobs.train.fit",
    "jobs.plan.optimal_robust_loss",
    "jobs.evaluate._evaluated",
    "jobs.certify.certify_trace",
    "jobs.verify.verify_property",
)
"""What takes time."""


def named_options(command: str) -> dict[str, Any]:
    """Every option of a command, with the values that it names, or None."""
    options = options_of(COMMANDS[command])
    named = {
        name: (*get_args(options.leaves[path][0].type), *options.leaves[path][0].metadata["names"])
        for name, path in options.long.items()
    }
    return {**named, **{short: named[long] for short, long in options.short.items()}, "--help": ()}


def command_line(draw: random.Random) -> list[str]:
    command = draw.choice(list(STARTS))
    options = named_options(command)
    words = [command, *draw.choice(STARTS[command][:1] * 3 + STARTS[command])]
    for _ in range(draw.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        option = draw.choice(list(options))
        named = [value for value in options[option] or () if isinstance(value, str)]
        value = draw.choice([*named * 5, *NUMBERS] if draw.random() < 0.6 else TEXTS)
        form = draw.random()
        if form < 0.1:
            words += [option]
        elif form < 0.15:
            words += [option + draw.choice("sx.-=_"), value]
        elif form < 0.2:
            words += [value]
        elif form < 0.5:
            words += [f"{option}={value}"]
        else:
            words += [option, value]
    return words


@pytest.fixture
def place(trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a run, an empty folder and a file of junk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.yaml").write_bytes(b"\x93NUMPY {a: [1, 2\n\x00\xff")
    return tmp_path


def fuzzed(
    draws: Iterator[int], place: Path, run: Path, capsys: pytest.CaptureFixture[str], seconds: float
) -> int:
    """Command lines until the processor time is spent; how many."""
    began = time.process_time()
    for number, seed in enumerate(draws):
        if time.process_time() - began > seconds:
            return number
        here = shutil.copytree(run, place / "run", dirs_exist_ok=True)
        names = {
            "RUN": here,
            "CONFIG": here / "config.yaml",
            "WEIGHTS": here / "last.safetensors",
            "EMPTY": place / "empty",
            "JUNK": place / "junk.yaml",
            "NOWHERE": place / "nowhere",
        }
        words = [str(names.get(word, word)) for word in command_line(random.Random(seed))]
        said = f"seed {seed}: holdfast {json.dumps(words)}"
        capsys.readouterr()
        try:
            status = main(words)
        except Reached:
            status = 0
        except SystemExit as error:  # of --help
            status = error.code
        except Exception as error:
            raise AssertionError(said) from error
        shown = capsys.readouterr()
        assert status in OK[words[0]], f"{said}: {status}"
        assert "Traceback" not in shown.out + shown.err, said
        if status == 2:
            last = shown.err.strip().splitlines()[-1:]
            assert last, said
            assert last[0].startswith("holdfast: "), f"{said}: {shown.err}"
        shutil.rmtree(here)
    return -1


def test_random_command_lines_end_with_a_status_that_is_documented(place, trained, capsys, monkeypatch):
    for name in WORK:
        monkeypatch.setattr(f"holdfast.{name}", begin)
    monkeypatch.setattr("holdfast.lab.sweep.cell._train", lambda cell, run: {})
    monkeypatch.setattr("holdfast.lab.sweep.cell._capacity", lambda cell, run: {})
    assert fuzzed(iter(range(10**6)), place, trained[0], capsys, SECONDS) > 20


@pytest.mark.parametrize("words", [("certify", "RUN", "--radius=--"), ("evaluate", "RUN", "--seed=--")])
def test_two_hyphens_are_no_value(words, place, capsys):
    assert main(list(words)) == 2
    assert "needs a value, got '--'" in capsys.readouterr().err


@pytest.mark.slow
def test_random_command_lines_that_do_their_work(place, trained, capsys):
    assert fuzzed(iter(range(10**6, 2 * 10**6)), place, trained[0], capsys, 20 * SECONDS) > 100
