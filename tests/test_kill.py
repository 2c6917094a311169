"""A training process killed at any moment ends, resumed, at the same weights bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from holdfast.record.run import Run, read_figures

# Each training is a fork of one process that has imported everything, so that a hundred of them take minutes.
SCRIPT = """
import json, os, random, signal, sys, time
import torch
from torch import nn
torch.set_num_threads(1)
import holdfast as hf
import holdfast.jobs.session
from holdfast.jobs.train import train

holdfast.jobs.session.SAVE_EVERY = 0.0  # every step is worth a checkpoint

def two_layer(folder, resume):
    data = hf.data.digits(classes=(3, 8), features="sphere")
    model = hf.networks.TwoLayer(data.features, 2, 20)
    threat = hf.LpBall("2", 0.1, fixed=data.fixed)
    train(model, data, threat, attack=hf.PGD(steps=1), final_attack=hf.PGD(steps=1), epochs=4, closing="fast",
          validation=hf.ValidationSettings(attack=hf.PGD(steps=1)), certificate=hf.CertificateSettings(tighten=1),
          batch_size=40, optimizer="adam", learning_rate=0.01, parameter_radius=2.0, out=folder, resume=resume,
          progress=False)

def recipe(folder, resume):
    x = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    data = hf.data.from_tensors(x, torch.arange(60) % 3, bounds=(0.0, 1.0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(64, 3))
    train(model, data, "linf:0.02", recipe="trades-awp", averaging=hf.EMA(0.9), augmentation="images", epochs=3,
          attack=hf.PGD(steps=2), final_attack=hf.PGD(steps=1), closing="fast", batch_size=12, optimizer="adam",
          validation=hf.ValidationSettings(attack=hf.PGD(steps=1)), certificate=hf.CertificateSettings(tighten=1),
          learning_rate=0.01, allow_incompatible=True, out=folder, resume=resume, progress=False)

def trained(kind, folder, seconds):
    \"\"\"The status of a training in a process of its own, killed after so many seconds.\"\"\"
    resume = os.path.exists(os.path.join(folder, "checkpoints", "last.pt"))
    child = os.fork()
    if child == 0:
        try:
            globals()[kind](folder, resume)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (done := os.waitpid(child, os.WNOHANG)) != (0, 0):
                return os.waitstatus_to_exitcode(done[1])
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

kind, place, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
began = time.monotonic()
assert trained(kind, place + "/whole", None) == 0
whole = time.monotonic() - began
draw, kills, runs = random.Random(wanted), 0, 0
while kills < wanted:
    folder, status = f"{place}/killed-{runs}", -9
    for _ in range(8):
        status = trained(kind, folder, draw.uniform(0.0, 0.6) * whole)
        assert status in (0, -9), status
        kills += status == -9
        if status == 0:
            break
    if status != 0:
        assert trained(kind, folder, None) == 0
    runs += 1
print(json.dumps({"kills": kills, "runs": runs}))
"""


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("recipe", 3),
        pytest.param("recipe", 100, marks=pytest.mark.slow),
        pytest.param("two_layer", 100, marks=pytest.mark.slow),
    ],
)
def test_runs_killed_at_random_moments_end_like_one_that_was_not(
    tmp_path: Path, kind: str, kills: int
) -> None:
    """In steps, checkpoints, validation, evaluation and certificate; with averages, perturbations, augmentation, dropout
    and batch norm.
    """
    command = [sys.executable, "-c", SCRIPT, kind, str(tmp_path), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted["kills"] >= kills
    whole = Run.load(tmp_path / "whole")
    for number in range(counted["runs"]):
        folder = tmp_path / f"killed-{number}"
        killed = Run.load(folder)
        assert all(torch.equal(killed.weights()[name], weight) for name, weight in whole.weights().items())
        assert all(torch.equal(killed.best[name], weight) for name, weight in whole.best.items())
        rows = [read_figures(place).epochs for place in (tmp_path / "whole", folder)]
        assert [row.online_loss for row in rows[0]] == [row.online_loss for row in rows[1]]
        assert killed.certificate.status == whole.certificate.status
        assert killed.summary["robust_accuracy"] == whole.summary["robust_accuracy"]
        assert not list(folder.rglob("*.part"))
