"""Processes that share an evaluation: one that is killed costs nothing, or one sentence."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast.errors import HoldfastError
from holdfast.evaluation.parallel import evaluate_in_processes


class Deadly(nn.Module):
    """A network that kills its process, as a system short of memory does, until the file holds so many letters."""

    def __init__(self, file: Path, times: int, number: int = signal.SIGKILL) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.file, self.times, self.number = str(file), times, number
        nn.init.constant_(self.layer.weight, 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = bool((x[0] == 0).all())  # only the process whose share begins with zeros
        held = Path(self.file).read_text() if Path(self.file).exists() else ""
        if multiprocessing.parent_process() is not None and first and len(held) < self.times:
            Path(self.file).write_text(held + "x")
            if self.number == 0:
                raise RuntimeError("a layer\nthat fails")
            os.kill(os.getpid(), self.number)
        return self.layer(x)


def evaluated(model: nn.Module, processes: int) -> torch.Tensor:
    x = torch.linspace(0, 1, 6)[:, None].expand(6, 3).contiguous()
    y = torch.arange(6) % 2
    settings = {"attacks": [hf.PGD(steps=2)], "batch_size": 3, "examine": False, "verify": None}
    return evaluate_in_processes(model, x, y, hf.LpBall("inf", 0.1), processes=processes, **settings).loss


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_share_of_a_process_that_is_killed_is_done_again(tmp_path: Path, number: int) -> None:
    found = evaluated(Deadly(tmp_path / "times", 1, number), 2)
    assert (tmp_path / "times").read_text() == "x"
    assert bool(found.isfinite().all())


def test_one_that_is_killed_again_or_fails_ends_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="was killed twice") as killed:
        evaluated(Deadly(tmp_path / "times", 9), 2)
    with pytest.raises(HoldfastError, match="RuntimeError: a layer that fails") as failed:
        evaluated(Deadly(tmp_path / "others", 9, 0), 2)
    assert "\n" not in f"{killed.value}{failed.value}"
