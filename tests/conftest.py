"""Settings every test shares. Holdfast itself is not imported here: the jaxtyping hook must be in place first."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

import shapes

shapes.install()

os.environ.setdefault("MPLBACKEND", "Agg")  # no display where tests run

# Same examples on every run and machine; no deadline, since a shared machine may pause a test for seconds.
settings.register_profile("holdfast", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("holdfast")


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Networks made while a file of tests is imported are the same whichever files were imported before."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """No test hangs on what was drawn before it."""
    torch.manual_seed(0)
    shapes.next_test()


@pytest.fixture(autouse=True, scope="session")
def default_signals() -> Iterator[None]:
    """Signals that the process which started the tests ignored (as `nohup` and a shell's `&` have it) arrive here all the same."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def rng() -> torch.Generator:
    """A freshly seeded generator on the CPU."""
    return torch.Generator().manual_seed(20190607)


QUICK = [
    "--classes",
    "3,8",
    "--width",
    "40",
    "--epochs",
    "2",
    "--final.restarts",
    "1",
    "--final.steps",
    "5",
    "--parameter-radius",
    "60",
    "--learning-rate",
    "20",
]
QUICK += ["--certificate.tighten", "2", "--quiet"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """One small run by the command line, and what the terminal showed. To be read only: copy it to harm it."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    command = [sys.executable, "-m", "holdfast", "train", "--data", "digits", *QUICK, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def signal_at(monkeypatch):
    """Raises a signal in this process at the ``count``-th round of training from now on."""
    from holdfast.training.schedules import ScheduleSettings

    left, came = [0], [signal.SIGINT]

    factor = ScheduleSettings.rate_factor

    def counted(schedule, progress):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(came[0])
        return factor(schedule, progress)

    monkeypatch.setattr(ScheduleSettings, "rate_factor", counted)

    def at(count, number=signal.SIGINT):
        left[0], came[0] = count, number

    return at
