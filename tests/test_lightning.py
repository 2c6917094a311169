"""The callback for PyTorch Lightning, in a real Trainer."""

import importlib

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import holdfast as hf
from holdfast.errors import InputError
from holdfast.evaluation.cascade import drawn
from holdfast.jobs.lightning import sample

pl = pytest.importorskip("pytorch_lightning")
# Lightning 2.6 with torch 2.13
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
THREAT = hf.LpBall("inf", 0.1, bounds=(0.0, 1.0))


def points(n, seed):
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.rand(n, 5, generator=draw), torch.arange(n) % 2
    x[:, 0] = 0.1 + 0.8 * y
    return TensorDataset(x, y)


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
        self.modes = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        self.modes.append(self.net.training)
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


def fitted(callback, tmp_path, epochs=3):
    net = Net()
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(net, DataLoader(points(40, 0), batch_size=10), DataLoader(points(30, 1), batch_size=10))
    return net, trainer


def test_a_trainer_logs_robust_accuracy_and_ends_with_a_diagnosis(tmp_path):
    callback = hf.lightning_callback(THREAT, attack="fgsm", examples=20)
    net, trainer = fitted(callback, tmp_path)
    rows = drawn(30, 20, 0)
    x, y = points(30, 1)[rows]
    again = hf.evaluate(net.eval(), x, y, THREAT, ["fgsm"], verify=None)
    assert float(trainer.callback_metrics["robust_accuracy"]) == pytest.approx(again.robust_accuracy)
    assert all(net.modes)  # training goes on in training mode
    assert callback.diagnosis["attack"].level != "not-measured"
    assert "20 test examples" in callback.diagnosis["generalisation"].sentence


def test_it_looks_as_often_as_asked(tmp_path, monkeypatch):
    looks = []
    evaluate = importlib.import_module("holdfast.jobs.lightning").evaluate
    monkeypatch.setattr(
        "holdfast.jobs.lightning.evaluate", lambda *given, **how: looks.append(1) or evaluate(*given, **how)
    )
    fitted(hf.lightning_callback(THREAT, attack="fgsm", examples=5, every=2), tmp_path, epochs=5)
    assert len(looks) == 3


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.rand(5), 0


def test_data_without_a_length_are_refused():
    with pytest.raises(
        InputError, match="validation data must be one DataLoader of a data set with a length"
    ):
        sample(DataLoader(Stream(), batch_size=1), "validation", 4, 0)
    triple = TensorDataset(*[torch.zeros(4)] * 3)
    with pytest.raises(InputError, match="must be pairs of examples and labels"):
        sample(DataLoader(triple), "training", 4, 0)


def test_without_lightning_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("holdfast.jobs.lightning.PACKAGES", ("no_such_lightning",))
    with pytest.raises(InputError, match=r"pip install 'holdfast\[lightning\]'"):
        hf.lightning_callback("linf:0.1")
