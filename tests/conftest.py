"""Settings every test shares. Holdfast itself is not imported here: the jaxtyping hook must be in place first."""

import os

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
