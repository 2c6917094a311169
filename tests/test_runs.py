"""Run folders: written whole or not at all, read without executing code."""

import json
import math
import pickle
import subprocess
import sys

import pytest
import torch

import holdfast as hf
from holdfast import _files
from holdfast._identity import content_digest
from holdfast._record import _own_digest as own_digest
from holdfast._record import free, locked
from holdfast.certificates import Certificate
from holdfast.errors import RunFolderError
from holdfast.record.identity import read_identity
from holdfast.record.run import Run, RunWriter, read_checkpoint, read_figures, read_summary, read_weights
from holdfast.record.schema import EpochFigures, Summary

CERTIFICATE = Certificate(
    status="certified", reason="it is", radius=2.0, surrogate_loss=0.5, drift=(1.0, 2.0)
)
WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3)}
CHECKPOINT = {"model": WEIGHTS, "epoch": 3, "generator": torch.Generator().get_state(), "best": None}


@pytest.fixture
def folder(tmp_path):
    """A small run folder, every file written by the writer."""
    writer = RunWriter(tmp_path / "run")
    writer.config({"seed": 0, "name": "déjà vu"})
    writer.weights("model", WEIGHTS)
    writer.weights("last", {"weight": WEIGHTS["weight"] + 1})
    writer.metrics([EpochFigures(epoch=1, online_loss=0.5), EpochFigures(epoch=2, online_loss=math.nan)])
    writer.summary(Summary(name="run", gap=math.inf, certificate=CERTIFICATE))
    writer.checkpoint(CHECKPOINT)
    writer.log("first line")
    writer.log("second line")
    return tmp_path / "run"


def test_what_is_written_is_read_back(folder):
    run = Run.load(folder)
    assert run.summary["name"] == "run"
    assert run.certificate.status == "certified"
    assert run.certificate.drift == (1.0, 2.0)
    assert math.isnan(run.certificate.gap)
    assert torch.equal(run.weights("best")["weight"], WEIGHTS["weight"])
    assert torch.equal(run.weights()["weight"], WEIGHTS["weight"] + 1)
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    checkpoint = read_checkpoint(folder)
    assert torch.equal(checkpoint["generator"], CHECKPOINT["generator"])
    assert checkpoint["epoch"] == 3
    assert [line.partition(" ")[2] for line in (folder / "log.txt").read_text().splitlines()] == [
        "first line",
        "second line",
    ]


def test_a_run_in_memory_writes_nothing_and_gives_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = RunWriter(None)
    writer.config({})
    writer.summary(Summary())
    writer.metrics([])
    writer.weights("last", WEIGHTS)
    writer.checkpoint({})
    writer.log("nothing")
    writer.drop("summary.json")
    assert list(tmp_path.iterdir()) == []
    model = torch.nn.Linear(3, 2)
    run = Run(folder=None, model=model, summary={}, metrics=[], certificate=CERTIFICATE, best=WEIGHTS)
    assert torch.equal(run.weights()["weight"], model.weight)
    assert run.weights("best") is WEIGHTS


def test_numbers_that_json_lacks_become_null(folder):
    text = (folder / "summary.json").read_text() + (folder / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert read_summary(folder).gap is None
    assert read_figures(folder).epochs[1] == EpochFigures(epoch=2, online_loss=None)
    assert _files.without_nan({"a": (1.0, [math.nan]), 2: -math.inf}) == {"a": [1.0, [None]], "2": None}


READERS = {
    "summary.json": Run.load,
    "model.safetensors": Run.load,
    "last.safetensors": lambda folder: Run.load(folder).weights(),
    "checkpoints/last.pt": read_checkpoint,
}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("name", READERS)
def test_a_file_cut_short_is_named(folder, name, share):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RunFolderError, match=name.rpartition("/")[2]) as error:
        READERS[name](folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(RunFolderError, match=name.rpartition("/")[2]):
        READERS[name](folder)


def test_metrics_cut_short_are_refused_and_without_a_record_lose_their_last_line_only(folder):
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    for harmed in (whole[:-9], whole + b'{"epoch": 3}\n'):
        path.write_bytes(harmed)
        with pytest.raises(RunFolderError, match=r"metrics\.jsonl must be as it was written"):
            Run.load(folder)
    path.write_bytes(whole)
    of_version_0_1(folder)
    path.write_bytes(path.read_bytes()[:-9] + b"\xff")
    assert [row["epoch"] for row in Run.load(folder).metrics] == [1]
    path.unlink()
    assert Run.load(folder).metrics == []


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="does not exist"):
        read_summary(tmp_path / "none")
    with pytest.raises(RunFolderError, match=r"has no summary\.json"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text("[1, 2]")
    with pytest.raises(RunFolderError, match="got list"):
        read_summary(tmp_path)


def of_version_0_1(folder):
    """The run as that version wrote it, which kept no digests."""
    (folder / "digests.json").unlink()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({k: v for k, v in summary.items() if k != "digests"}))


def test_a_record_that_is_missing_or_damaged_is_named(folder):
    path = folder / "digests.json"
    whole = path.read_text()
    path.write_text(whole.replace("a", "b", 1))
    for expected in (r"digests\.json must be the whole record", r"digests\.json is missing"):
        with pytest.raises(RunFolderError, match=expected):
            Run.load(folder)
        path.unlink(missing_ok=True)


def test_to_resume_without_a_record_is_refused_whether_it_is_old_or_damaged(folder):
    (folder / "digests.json").unlink()
    for match in ("the folder is damaged, or version 0.1 wrote it", "last.pt is missing; start it without"):
        with pytest.raises(RunFolderError, match=match):
            read_identity(folder)
        (folder / "checkpoints" / "last.pt").unlink(missing_ok=True)


def test_a_record_leads_nowhere_else(folder, tmp_path):
    """Else it would have files removed that are not the run's."""
    (tmp_path / "mine").write_text("years of work")
    files = {"../mine": "0" * 64}
    record = {"format": 1, "files": files, "digest": own_digest(files)}
    (folder / "digests.json").write_text(json.dumps(record))
    with pytest.raises(RunFolderError, match="whole record"):
        read_summary(folder)
    with RunWriter(folder, fresh=True).together():
        pass
    assert (tmp_path / "mine").exists()


def test_files_written_together_become_the_content_in_one_step(folder):
    """A kill before the record keeps all of before; one after it gives all of after."""
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    writer = RunWriter(folder)

    def stop():
        with writer.together():
            writer.metrics([])
            writer.weights("last", {"weight": WEIGHTS["weight"] + 7})
            assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name in before} == before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


@pytest.mark.parametrize("read", [True, False])
def test_a_kill_between_the_record_and_the_renaming_is_made_good(folder, monkeypatch, read):
    writer = RunWriter(folder)
    with monkeypatch.context() as patch:
        patch.setattr("holdfast._record._move", failing_move)
        patch.setattr("pathlib.Path.unlink", lambda *a, **k: None)  # a process that is gone tidies nothing
        with pytest.raises(Gone):
            write_two(writer)
    if not read:
        RunWriter(folder)  # the next one to write tidies up
    assert read_figures(folder).epochs == (EpochFigures(epoch=9),)
    assert torch.equal(Run.load(folder).weights()["weight"], WEIGHTS["weight"] + 7)
    RunWriter(folder)
    assert not list(folder.rglob("*.part"))


def write_two(writer):
    with writer.together():
        writer.metrics([EpochFigures(epoch=9)])
        writer.weights("last", {"weight": WEIGHTS["weight"] + 7})


class Gone(BaseException):
    """As if the process were killed."""


def failing_move(target):
    raise Gone


def test_leftover_parts_are_removed_and_every_file_has_the_mode_of_a_new_one(folder):
    (folder / ".last.safetensors.part").write_text("half")
    (folder / "trace").mkdir()
    (folder / "trace" / ".trace.json.999999.part").write_text("half")
    (folder / "trace" / "window-00000001-00000000.safetensors").write_text("of an earlier record")
    RunWriter(folder)
    assert not list(folder.rglob("*.part"))
    assert not list(folder.rglob("window-*"))
    (folder / "new").touch()
    modes = {path.stat().st_mode for path in folder.iterdir() if path.is_file()}
    assert modes == {(folder / "new").stat().st_mode}


def test_a_folder_in_which_nothing_was_reached_is_free(tmp_path):
    assert free(tmp_path / "none")
    for name in ("trace", "checkpoints"):
        (tmp_path / name).mkdir()
    (tmp_path / "log.txt").write_text("begun")
    (tmp_path / "trace" / ".trace.json.part").write_text("half")
    assert free(tmp_path)
    (tmp_path / "trace" / "mine.txt").write_text("years of work")
    assert not free(tmp_path)


def test_one_process_at_a_time(folder):
    program = (
        "import sys, time; from pathlib import Path; from holdfast._record import locked\n"
        "with locked(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(RunFolderError, match="one process at a time"), locked(folder):
            pass
        other.kill()
    with locked(folder):  # that of a dead process is no obstacle
        pass


def test_a_summary_without_certificate_loads_as_void(folder):
    of_version_0_1(folder)
    (folder / "summary.json").write_text("{}")
    certificate = Run.load(folder).certificate
    assert certificate.status == "void"
    assert math.isnan(certificate.radius)


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_loading_executes_nothing(folder, tmp_path):
    of_version_0_1(folder)
    sprung = tmp_path / "sprung"
    torch.save({"model": Trap(sprung)}, folder / "checkpoints" / "last.pt")
    with pytest.raises(RunFolderError, match="whole checkpoint"):
        read_checkpoint(folder)
    for name in ("model", "last"):
        (folder / f"{name}.safetensors").write_bytes(pickle.dumps(Trap(sprung)))
        with pytest.raises(RunFolderError):
            read_weights(folder / f"{name}.safetensors")
    assert not sprung.exists()


def failing(error):
    def write(part):
        part.write_text("half")
        raise error

    return write


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos")])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RunFolderError, match="must be writable"):
        _files.write_atomically(path, failing(error))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_mistake_in_the_program_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(TypeError):
        _files.write_atomically(tmp_path / "file", failing(TypeError("a bug")))
    assert list(tmp_path.iterdir()) == []


def test_a_stop_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        _files.write_atomically(path, failing(KeyboardInterrupt()))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_where_there_is_no_folder_says_so(tmp_path):
    for write in (
        lambda: _files.write_json(tmp_path / "none" / "a.json", {}),
        lambda: _files.write_tensors(tmp_path / "none" / "a.safetensors", WEIGHTS),
        lambda: _files.write_atomically(tmp_path / "none" / "a.pt", lambda part: torch.save({}, part)),
    ):
        with pytest.raises(RunFolderError, match="must be writable"):
            write()


def test_a_folder_that_cannot_be_made_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunFolderError, match="must be a folder that can be written") as error:
        RunWriter(tmp_path / "file" / "run")
    assert "\n" not in str(error.value)


def test_tensors_that_share_memory_or_are_strided_are_written_as_they_are(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    _files.write_tensors(tmp_path / "a.safetensors", {"a": whole.T, "b": whole, "c": whole[1]})
    back = read_weights(tmp_path / "a.safetensors")
    assert torch.equal(back["a"], whole.T)
    assert torch.equal(back["b"], whole)
    assert torch.equal(back["c"], whole[1])


def test_clearing_removes_only_what_is_named(folder):
    RunWriter(folder).drop("summary.json", "checkpoints/last.pt", "never-there")
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {
        "config.yaml",
        "model.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "log.txt",
        "digests.json",
    }


def test_the_summary_is_plain_json(folder):
    def refuse(word):
        raise AssertionError(word)

    json.loads((folder / "summary.json").read_text(), parse_constant=refuse)


@pytest.mark.parametrize(
    "threat",
    [
        hf.LpBall("1", 0.1, fixed=torch.tensor([True, False])),
        hf.LpBall("inf", 0.1, bounds=(0.0, 1.0)),
        hf.LpBall("2", 0.1),
        hf.SphereSlice(0.1),
    ],
    ids=["l1", "linf", "l2", "sphere"],
)
def test_what_a_threat_is_does_not_change_in_use(threat):
    before = content_digest(threat)
    x = torch.tensor([[0.6, 0.5], [0.3, 0.5]])
    for points in (x, x.double(), x[:1], x.half().float()):
        threat.project_inside(points + 0.01, points)
        hf.PGD(steps=1)(
            torch.nn.Linear(2, 2).to(points.dtype), points, torch.zeros(len(points)).long(), threat
        )
    assert content_digest(threat) == before
