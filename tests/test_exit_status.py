"""How commands end: their readers may go away, and that ends neither in a traceback nor with the work."""

import os
import signal
import subprocess
import sys

import pytest

from conftest import QUICK
from holdfast._progress import Progress
from holdfast.record.run import Run


def without_reader(*words, stream):
    """The exit status of a command whose standard output (or error) nobody reads, and what the other one says."""
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: write}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", *map(str, words)],
            **streams,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        os.close(write)
    return done.returncode, done.stderr if stream == "stdout" else done.stdout


@pytest.mark.parametrize("words", [("--help",), ("doctor", "RUN")])
def test_a_command_whose_reader_has_gone_ends_as_other_tools_do(words, trained):
    words = [trained[0] if word == "RUN" else word for word in words]
    assert without_reader(*words, stream="stdout") == (128 + signal.SIGPIPE, "")


def test_wrong_input_stays_wrong_input_when_nobody_reads_why():
    assert without_reader("nonsense", stream="stderr") == (2, "")


def test_training_outlives_the_readers_of_its_progress_and_of_its_outcome(tmp_path):
    words = [
        "train",
        "--data",
        "digits",
        *(word for word in QUICK if word != "--quiet"),
        "--out",
        tmp_path / "run",
    ]
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "holdfast", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=write, text=True) as process:
        os.close(write)
        process.stdout.close()  # as `| head -1` does, before the outcome is printed
        assert process.wait(timeout=200) == 128 + signal.SIGPIPE
    assert not Run.load(tmp_path / "run").summary["interrupted"]
    assert (tmp_path / "run" / "report.html").exists()


def test_progress_falls_silent_without_a_reader(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        monkeypatch.setattr(sys, "stderr", nobody)
        seen = Progress(enabled=True)
        for _ in range(3):
            seen.say("a line")
        with seen.stage("a stage"):
            pass
        nobody.flush()
    assert seen.console.quiet
