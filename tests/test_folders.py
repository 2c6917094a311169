"""Where results go: an occupied folder is refused before anything is spent, and what it holds is kept until it can be replaced whole."""

import json
import re
import shutil
from functools import partial

import pytest
import torch

import holdfast as hf
from holdfast import _record, capacity
from holdfast.cli.main import main
from holdfast.data.selection import keep_examples
from holdfast.errors import HoldfastError, RunFolderError
from holdfast.jobs.evaluate import Plan, evaluate_model
from holdfast.jobs.plan import plan
from holdfast.lab.reproduce import Criterion, Experiment, Measured, Scale, reproduce
from holdfast.lab.reproduce.base import Column
from holdfast.record.run import Run, RunWriter
from settings import grouped

# torch's own forward-mode derivatives still script a function when first used
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture(scope="module")
def data():
    return keep_examples(hf.data.digits(classes=(3, 8), features="sphere"), 60)


@pytest.fixture(scope="module")
def threat(data):
    return hf.LpBall("2", 0.1, fixed=data.fixed)


def train(data, threat, out, *, seed=0, **options):
    quick = {
        "attack": hf.PGD(steps=1),
        "evaluation_attack": hf.PGD(steps=1),
        "final_attack": hf.PGD(steps=1),
        "epochs": 2,
        "learning_rate": 1.0,
        "parameter_radius": 2.0,
        "tighten": 1,
        "trace_every": 1,
        "progress": False,
    }
    model = hf.networks.TwoLayer(data.features, data.classes, width=20)
    return hf.train(model, data, threat, out=out, seed=seed, **grouped(quick | options))


@pytest.fixture(scope="module")
def first(data, threat, tmp_path_factory):
    """A finished run. To be read only."""
    return train(data, threat, tmp_path_factory.mktemp("folders") / "run").folder


@pytest.fixture
def run(first, tmp_path):
    return shutil.copytree(first, tmp_path / "run")


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Killed(BaseException):
    """As if the process were gone."""


def killed(*args, **options):
    raise Killed


JOBS = {
    "train": lambda data, threat, out, **how: train(data, threat, out, **how),
    "plan": lambda data, threat, out, **how: plan(
        data, threat, radii=[2.0], examples=20, out=out, progress=False, **how
    ),
    "reproduce": lambda data, threat, out, **how: reproduce(
        ["width"], scale=Scale(quick=True, seeds=(0,)), out=out, **how
    ),
    "evaluate": lambda data, threat, out, **how: evaluate_model(
        hf.networks.Dense(data.features, data.classes, 4, 1),
        data,
        threat,
        Plan(attacks="clean", verify=None),
        out,
        progress=False,
        **how,
    ),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_folder_with_something_in_it_is_refused_before_anything_is_spent(
    job, data, threat, tmp_path, monkeypatch
):
    for place in (
        "jobs.train.check_data",
        "jobs.plan.check_data",
        "jobs.evaluate._evaluated",
        "lab.reproduce.run.record",
    ):
        monkeypatch.setattr(f"holdfast.{place}", killed)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="new or empty folder"):
        JOBS[job](data, threat, tmp_path)
    with pytest.raises(RunFolderError, match=r"something else|new or empty"):
        JOBS[job](data, threat, tmp_path, overwrite=True)
    with pytest.raises(RunFolderError, match=r"is not a folder|new or empty"):
        JOBS[job](data, threat, tmp_path / "thesis.tex" / "run")
    assert content(tmp_path) == {"thesis.tex": b"years of work"}


def test_results_are_replaced_only_where_asked_for(data, threat, run, tmp_path, monkeypatch):
    before = content(run)
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.jobs.train.check_data", killed)
        with pytest.raises(RunFolderError, match="overwrite=True"):
            train(data, threat, run)
        with pytest.raises(HoldfastError, match="exclude each other"):
            train(data, threat, run, resume=True, overwrite=True)
        with pytest.raises(HoldfastError, match="overwrite needs the run's folder"):
            train(data, threat, None, overwrite=True)
    assert content(run) == before
    for job, file in (("plan", "plan.json"), ("evaluate", "evaluation.json")):
        out = tmp_path / job
        JOBS[job](data, threat, out)
        held = content(out)
        with pytest.raises(RunFolderError, match="overwrite=True"):
            JOBS[job](data, threat, out)
        assert content(out) == held
        JOBS[job](data, threat, out, overwrite=True)
        assert content(out)[file] != held[file]  # other seconds at least
        assert {"digests.json", file} <= content(out).keys()


def test_the_old_run_is_kept_until_the_new_one_is_whole(data, threat, run, monkeypatch):
    before = content(run)
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.jobs.train.conclude", killed)
        with pytest.raises(Killed):
            train(data, threat, run, seed=1, overwrite=True)
    assert {
        name: held for name, held in content(run).items() if not name.startswith("replacement/")
    } == before
    assert Run.load(run).summary["seed"] == 0
    assert Run.load(run / "replacement").summary["interrupted"]
    assert main(["certify", str(run), "--quiet", "--tighten", "1"]) == 0  # the old one can be worked with
    assert (run / "replacement").is_dir()
    done = train(data, threat, run, seed=1, resume=True)
    assert done.folder == run
    assert Run.load(run).summary["seed"] == 1
    assert not Run.load(run).summary["interrupted"]
    assert not (run / "replacement").exists()
    assert "certificate.json" not in content(run)  # of the old one
    assert "training TwoLayer" in (run / "log.txt").read_text()
    assert _record.differing(run) == []


def test_a_run_that_was_to_replace_another_is_discarded_by_the_next_one(data, threat, run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.jobs.train.conclude", killed)
        with pytest.raises(Killed):
            train(data, threat, run, seed=1, overwrite=True)
    (run / "mine.txt").write_text("stays")
    done = train(data, threat, run, seed=2, overwrite=True)
    assert done.folder == run
    assert Run.load(run).summary["seed"] == 2
    whole = train(data, threat, None, seed=2)
    assert torch.equal(whole.weights()["weight"], done.weights()["weight"])
    assert not (run / "replacement").exists()
    assert (run / "mine.txt").read_text() == "stays"


@pytest.mark.parametrize("moment", ["staging", "_synchronise", "_move", "clear_replacement"])
def test_a_kill_while_it_is_replaced_leaves_one_of_both_whole(data, threat, run, monkeypatch, moment):
    whole = take_over = _record.take_over

    def hit(folder):
        place = "digest_of" if moment == "staging" else moment
        count = iter(range(99))
        real = getattr(_record, place)
        with monkeypatch.context() as patch:
            # the third digest of what is staged; every other step at once
            patch.setattr(
                _record, place, lambda *a: killed() if moment != "staging" or next(count) == 7 else real(*a)
            )
            patch.setattr(
                "pathlib.Path.unlink", lambda *a, **k: None
            )  # a process that is gone tidies nothing
            return take_over(folder)

    monkeypatch.setattr("holdfast.jobs.train.take_over", hit)
    with pytest.raises(Killed):
        train(data, threat, run, seed=1, overwrite=True)
    monkeypatch.setattr("holdfast.jobs.train.take_over", whole)
    seed = Run.load(run).summary["seed"]
    assert seed == (0 if moment == "staging" else 1)
    assert _record.differing(run) == []
    RunWriter(run)  # the next one to write tidies up
    assert not list(run.glob("*.part"))
    assert (run / "replacement").is_dir() == (seed == 0)
    if seed == 0:
        train(data, threat, run, seed=1, resume=True)
    assert Run.load(run).summary["seed"] == 1
    assert not (run / "replacement").exists()


def test_a_folder_of_the_users_own_is_no_leftover(run):
    (run / "replacement").mkdir()
    (run / "replacement" / "thesis.tex").write_text("years of work")
    RunWriter(run)
    assert (run / "replacement" / "thesis.tex").exists()


def test_on_the_command_line_the_run_that_replaces_another_is_resumed(run, tmp_path, capsys, monkeypatch):
    words = [
        "train",
        "--data",
        "digits",
        "--classes",
        "3,8",
        "--examples",
        "60",
        "--width",
        "20",
        "--epochs",
        "2",
        "--threat",
        "l2:0.1",
    ]
    words += [
        "--parameter-radius",
        "2",
        "--learning-rate",
        "1",
        "--final.steps",
        "1",
        "--quiet",
        "--seed",
        "3",
        "--out",
        str(run),
    ]

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.jobs.train.conclude", stop)
        assert main([*words, "--overwrite"]) == 130
    said = capsys.readouterr().err
    assert f"`holdfast train {run / 'config.yaml'} --resume`" in said
    assert Run.load(run).summary["seed"] == 0
    assert main(["train", str(run / "config.yaml"), "--resume", "--quiet"]) == 0
    assert Run.load(run).summary["seed"] == 3
    assert not (run / "replacement").exists()
    assert str(run / "report.html") in capsys.readouterr().out.replace("\n", "")


# ---- what is stored is what is read


def harmed(path):
    """One digit of a file changed."""
    text = path.read_text()
    place = next(k for k in range(len(text) // 2, len(text)) if text[k].isdigit())
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


@pytest.fixture
def at_once(monkeypatch):
    """Cells of sweeps and the experiment on width take no time."""

    def cell(cell, run):
        run.mkdir(parents=True, exist_ok=True)
        return {"gap": 1 / int(cell["place"]["width"])}

    def measure(setting, report):
        return Measured(deciding={"n": 1.0}, columns=(Column(name="number"),), rows=((1.0,),), plots=())

    one = Criterion(key="n", what="the number", relation="<=", bound=1.0, why="so")
    made = Experiment(name="width", claim="c", source="s", setup="u", criteria=(one,), measure=measure)
    monkeypatch.setattr("holdfast.lab.sweep.cell._train", cell)
    monkeypatch.setattr("holdfast.lab.reproduce.run.EXPERIMENTS", {"width": made})


SWEEP = ["sweep", "--data", "forced", "--threat", "l2:0.2", "--width", "8,16", "--quiet", "--out"]


def test_plans_sweeps_and_reproductions_are_checked_when_they_are_read(
    data, threat, tmp_path, capsys, at_once
):
    def sweep(data, threat, out):
        assert main([*SWEEP, str(out)]) == 0

    for kind, job in {"plan": JOBS["plan"], "sweep": sweep, "reproduce": JOBS["reproduce"]}.items():
        folder, page = tmp_path / kind, tmp_path / f"{kind}.html"
        job(data, threat, folder)
        report = ["report", str(folder), "--out", str(page)]
        assert main(report) == 0
        [kept] = folder.glob("*.html")
        assert page.read_text() == kept.read_text()
        file, record = folder / f"{kind}.json", folder / "digests.json"
        whole = file.read_text()
        assert json.loads(whole)["digests"] == "digests.json"
        harmed(file)
        for said in (f"{file} must be as it was written", f"{record} is missing"):
            capsys.readouterr()
            assert main(report) == 2
            assert said in capsys.readouterr().err
            if kind == "sweep":
                assert main([*SWEEP, str(folder)]) == 2
                assert said in capsys.readouterr().err
            if kind == "reproduce":
                with pytest.raises(RunFolderError, match=re.escape(said)):
                    job(data, threat, folder)
            file.write_text(whole)
            record.unlink(missing_ok=True)


def test_a_cell_of_a_sweep_that_was_changed_is_refused_and_one_removed_is_run_again(
    tmp_path, capsys, at_once
):
    words = [*SWEEP, str(tmp_path / "s")]
    assert main(words) == 0
    cell = tmp_path / "s" / "cells" / "width-8.json"
    harmed(cell)
    assert main(words) == 2
    assert f"{cell} must be as it was written" in capsys.readouterr().err
    cell.unlink()
    assert main(words) == 0
    assert cell.exists()
    when = cell.stat().st_mtime_ns
    shutil.copy(cell, cell.with_name("width-32.json"))  # from elsewhere: not taken for done
    assert main([*words, "--width", "8,16,32"]) == 0
    assert json.loads(cell.with_name("width-32.json").read_text())["figures"]["gap"] == 1 / 32
    assert cell.stat().st_mtime_ns == when  # what is done is left alone


def test_the_figures_of_a_capacity_cell_have_their_digest(tmp_path, monkeypatch):
    quick = partial(capacity.smallest_width, steps=60, restarts=4)
    monkeypatch.setattr(capacity, "smallest_width", quick)
    words = [
        "sweep",
        "--capacity",
        "--data",
        "forced",
        "--threat",
        "l2",
        "--dimension",
        "2",
        "--width",
        "1,4",
        "--rho",
        "0.3",
    ]
    assert main([*words, "--quiet", "--out", str(tmp_path / "s")]) == 0
    [file] = (tmp_path / "s" / "cells").glob("*/capacity.json")
    assert _record.differing(file.parent) == []
    harmed(file)
    assert _record.differing(file.parent) == ["capacity.json"]


def test_a_sweep_that_another_sweep_holds_or_that_names_code_it_may_not_run_stops_before_its_cells(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("holdfast.lab.sweep.cell._train", killed)
    (tmp_path / "theirs.yaml").write_text("network: trap:Net\n")
    assert main(["sweep", str(tmp_path / "theirs.yaml"), "--seeds", "2", "--out", str(tmp_path / "s")]) == 2
    assert "trap:Net is named by a file" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
    wrong = ["--network", "torch.nn:Linear", "--network.init-args.size", "3"]
    assert (
        main(["sweep", "--data", "forced", "--threat", "l2:0.1", *wrong, "--out", str(tmp_path / "s")]) == 2
    )
    assert "got size" in capsys.readouterr().err


def test_a_reproduction_with_other_settings_is_refused_unless_it_is_to_be_replaced(tmp_path, at_once):
    one, two = (Scale(quick=True, seeds=tuple(range(n))) for n in (1, 2))
    [first] = reproduce(scale=one, out=tmp_path, progress=False)
    assert reproduce(scale=one, out=tmp_path, progress=False) == [json.loads(json.dumps(first))]
    before = content(tmp_path)
    with pytest.raises(RunFolderError, match=r"holds width with others \(seeds\)"):
        reproduce(scale=two, out=tmp_path, progress=False)
    assert content(tmp_path) == before
    [found] = reproduce(scale=two, out=tmp_path, overwrite=True, progress=False)
    assert found["settings"]["seeds"] == [0, 1]


def test_the_page_of_a_run_whose_trace_is_of_another_is_refused(run, data, threat, tmp_path, capsys):
    other = train(data, threat, tmp_path / "other", seed=5).folder
    shutil.rmtree(run / "trace")
    shutil.copytree(other / "trace", run / "trace")
    assert main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 2
    assert f"{run / 'trace'}" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
    shutil.copy(other / "checkpoints" / "last.pt", run / "checkpoints" / "last.pt")
    with pytest.raises(RunFolderError):
        hf.write_report([run], tmp_path / "page.html") if hasattr(
            hf, "write_report"
        ) else _record.check_whole(run)


@pytest.mark.parametrize("name", ["summary.json", "model.safetensors"])
def test_a_page_is_not_written_over_something_else(run, capsys, name):
    before = content(run)
    assert main(["report", str(run), "--out", str(run / name)]) == 2
    assert "is something else" in capsys.readouterr().err
    assert content(run) == before
    assert main(["report", str(run)]) == 0
    assert main(["report", str(run)]) == 0  # a page is
