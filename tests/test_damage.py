"""Every file of a run, harmed in several ways: each reader refuses it by name, or does not depend on it. Never other figures."""

import json
import shutil
from pathlib import Path

import pytest

from holdfast.cli.main import main
from holdfast.record.run import Run

# torch's own forward-mode derivatives still script a function when first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

FREE = {"log.txt", "report.html"}
"""What nothing is read from: the lines a page shows of the log, and the page itself."""


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def half_zeroed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def digit(path: Path) -> None:
    """One digit of a text file, one bit of a number of any other."""
    content = bytearray(path.read_bytes())
    places = [k for k, byte in enumerate(content) if chr(byte).isdigit()]
    text = path.suffix in (".json", ".jsonl", ".yaml", ".csv")
    place = places[len(places) // 2] if text and places else len(content) - 3
    content[place] ^= 1
    path.write_bytes(content)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n{}\n")


def gone(path: Path) -> None:
    path.unlink()


HARMS = (cut, half_zeroed, zeroed, digit, longer, gone)


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """A run with an evaluation and a second certificate."""
    run = shutil.copytree(trained[0], tmp_path_factory.mktemp("damage") / "run")
    quick = ["--attacks", "clean", "--verify", "none", "--quiet"]
    assert main(["evaluate", str(run), *quick]) == 0
    assert main(["certify", str(run), "--tighten", "1", "--quiet"]) == 0
    return run


def names(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def test_every_file_of_a_run_is_in_its_record(evaluated: Path) -> None:
    record = json.loads((evaluated / "digests.json").read_text())
    assert set(names(evaluated)) == {*record["files"], "digests.json"} | FREE


def test_harm_to_any_file_is_refused_by_name_by_whoever_reads_it(evaluated, tmp_path, capsys) -> None:
    """Loading, the page and the doctor, on every file; the doctor names all."""
    run = tmp_path / "run"
    for name in names(evaluated):
        for harm in HARMS:
            shutil.copytree(evaluated, run)
            harm(run / name)
            what = f"{name}, {harm.__name__}"
            page = main(["report", str(run), "--out", str(tmp_path / "page.html")])
            said = capsys.readouterr().err
            assert page in (0, 2), what
            assert "Traceback" not in said, what
            if page == 2:
                assert Path(name).name in said, what
                assert said.count("\n") == 1, what
            examined = main(["doctor", str(run)])
            shown = capsys.readouterr()
            whole = "".join((shown.out + shown.err).split())
            if name not in FREE:
                assert examined in (1, 2), what
                assert Path(name).name in whole, what
            shutil.rmtree(run)


READERS = {
    "certify": (
        ["certify", "--tighten", "1"],
        [
            "summary.json",
            "last.safetensors",
            "trace/trace.json",
            "trace/setting.json",
            "trace/setting.safetensors",
            "trace/initial.safetensors",
            "trace/final_pass.safetensors",
            "digests.json",
        ],
    ),
    "evaluate": (
        ["evaluate", "--attacks", "clean", "--verify", "none"],
        [
            "summary.json",
            "last.safetensors",
            "config.yaml",
            "trace/setting.json",
            "trace/setting.safetensors",
            "digests.json",
        ],
    ),
    "resume": (
        ["train", "--resume"],
        [
            "checkpoints/last.pt",
            "identity.json",
            "metrics.jsonl",
            "trace/trace.json",
            "trace/initial.safetensors",
            "digests.json",
        ],
    ),
    "report": (
        ["report"],
        ["summary.json", "metrics.jsonl", "gallery.safetensors", "config.yaml", "digests.json"],
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_a_command_rests_on_is_refused_by_name(evaluated, tmp_path, capsys, reader) -> None:
    command, files = READERS[reader]
    run = tmp_path / "run"
    for name in files:
        for harm in (digit,) if reader == "resume" else (half_zeroed, digit, gone):
            shutil.copytree(evaluated, run)
            harm(run / name)
            target = run / "config.yaml" if reader == "resume" else run
            quiet = [] if reader == "report" else ["--quiet"]
            status = main([command[0], str(target), *command[1:], *quiet])
            said = capsys.readouterr().err
            assert status == 2, f"{reader}: {name}, {harm.__name__}"
            assert Path(name).name in said
            assert said.count("\n") == 1
            shutil.rmtree(run)


def test_a_file_of_another_run_is_not_taken_for_its_own(evaluated, tmp_path, capsys) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    shutil.copy(run / "initial.safetensors", run / "last.safetensors")
    assert main(["certify", str(run), "--quiet"]) == 2
    assert "last.safetensors must be as it was written" in capsys.readouterr().err
    shutil.copy(evaluated / "last.safetensors", run / "last.safetensors")
    shutil.copy(evaluated / "initial.safetensors", run / "model.safetensors")
    with pytest.raises(Exception, match=r"model\.safetensors must be as it was written"):
        Run.load(run)
