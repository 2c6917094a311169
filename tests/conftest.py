"""Settings every test shares. Holdfast itself is not imported here: the jaxtyping hook must be in place first."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")  # no display where tests run

# Same examples on every run and machine; no deadline, since a shared machine may pause a test for seconds.
settings.register_profile("holdfast", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("holdfast")


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
