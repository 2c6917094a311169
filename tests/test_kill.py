"""A training process killed at several moments ends, resumed, at the same weights bit for bit."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from holdfast.record.run import Run, read_figures

SCRIPT = """
import sys
import holdfast as hf
import holdfast.jobs.conclude, holdfast.jobs.session
holdfast.jobs.conclude.suite = lambda *of: ()
holdfast.jobs.session.SAVE_EVERY = 0.0  # every step is worth a checkpoint
data = hf.data.digits(classes=(3, 8), features="sphere")
model = hf.networks.TwoLayer(data.features, 2, 20)
threat = hf.LpBall("2", 0.1, fixed=data.fixed)
print("begun", flush=True)
hf.train(model, data, threat, attack=hf.PGD(steps=1), final_attack=hf.PGD(steps=1), epochs=4,
         validation=hf.ValidationSettings(attack=hf.PGD(steps=1)), certificate=hf.CertificateSettings(tighten=1),
         batch_size=40, optimizer="adam", learning_rate=0.01, parameter_radius=2.0, out=sys.argv[1],
         resume=sys.argv[2] == "resume", progress=False)
print("done", flush=True)
"""


def killed_after(seconds: float | None, folder: Path) -> bool:
    """Begin, or go on where there is a checkpoint; whether it came to its end."""
    word = "resume" if (folder / "checkpoints" / "last.pt").exists() else "begin"
    command = [sys.executable, "-c", SCRIPT, str(folder), word]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        if seconds is not None:
            time.sleep(seconds)
            process.kill()
        shown = process.stdout.read()
        status = process.wait()  # one that has said "done" may be killed on its way out
        assert status in ((0,) if seconds is None else (0, -9))
        assert "done" in shown or status == -9
    return "done" in shown


@pytest.mark.slow
def test_a_run_that_was_killed_again_and_again_ends_at_the_same_weights(tmp_path: Path) -> None:
    assert killed_after(None, tmp_path / "whole")
    draw = random.Random(0)
    for _ in range(4):
        if killed_after(draw.uniform(0.1, 2.0), tmp_path / "killed"):
            break
    assert killed_after(None, tmp_path / "killed")
    whole, killed = Run.load(tmp_path / "whole"), Run.load(tmp_path / "killed")
    assert all(torch.equal(killed.weights()[name], weight) for name, weight in whole.weights().items())
    assert all(torch.equal(killed.best[name], weight) for name, weight in whole.best.items())
    losses = [
        [row.online_loss for row in read_figures(tmp_path / name).epochs] for name in ("whole", "killed")
    ]
    assert losses[0] == losses[1]
    assert killed.certificate.status == "certified"
    assert not list((tmp_path / "killed").rglob("*.part"))
