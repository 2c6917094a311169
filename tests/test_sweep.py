"""`holdfast sweep`: the grid, resumption, failures, interruption, the page; cells by several processes and on Ray."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from holdfast._signals import keeping_handlers
from holdfast.cli.main import main
from holdfast.errors import InputError, RunFolderError
from holdfast.lab.sweep import cell as sweep_cell
from holdfast.lab.sweep.backends import in_processes, in_turn, on_ray
from holdfast.lab.sweep.grid import read_grid, split_values
from holdfast.lab.sweep.run import run_sweep
from holdfast.record.schema import Summary
from holdfast.report.sweep import columns, rows, write_sweep_report

TINY = ["--data", "forced", "--threat", "l2:0.2", "--epochs", "2", "--quiet"]
SMALL = ["--dimension", "3", "--final.steps", "2", "--certificate.tighten", "0"]


def stub(figures):
    """A cell that answers at once; ``figures`` is called with the cell."""

    def run(cell, run):
        run.mkdir(parents=True, exist_ok=True)
        return figures(cell)

    return run


@pytest.fixture
def counted(monkeypatch):
    """Training replaced by a count of the cells it is called for."""
    calls = []

    def figures(cell):
        calls.append(cell["slug"])
        width = float(cell["place"].get("width", 1))
        return {"robust_accuracy": min(1.0, width / 16), "gap": 1 / width, "fits": float(width >= 16)}

    monkeypatch.setattr(sweep_cell, "_train", stub(figures))
    return calls


def grid(*words):
    return read_grid([*TINY, *words])[0]


def test_the_grid_is_the_product_in_order():
    found = grid("--width", "8,16", "--seeds", "2")
    assert [cell.slug for cell in found.cells] == [
        "width-8,seed-0",
        "width-8,seed-1",
        "width-16,seed-0",
        "width-16,seed-1",
    ]
    assert [axis.name for axis in found.swept] == ["width"]
    assert found.cells[2].config["network"]["width"] == 16
    assert found.cells[3].config["seed"] == 1


def test_lists_short_names_and_made_up_sizes_are_understood():
    assert split_values("[3,8],[1,7]") == ["[3,8]", "[1,7]"]
    digits = read_grid(
        ["--data", "digits", "--classes", "3,8", "--threat", "l2:0.1,linf:0.1", "--examples", "100,200"]
    )[0]
    assert len(digits.cells) == 4
    assert digits.cells[0].config["data"]["classes"] == [3, 8]
    assert digits.cells[1].config["data"]["examples"] == 200
    made_up = grid("--dimension", "4,5", "--examples", "3")
    assert made_up.cells[1].config["data"]["init_args"] == {"dimension": 5, "examples": 3}
    assert made_up.cells[1].config["data"]["examples"] is None
    pairs = read_grid(["--classes", "[3,8],[1,7]"])[0]
    assert len({cell.slug for cell in pairs.cells}) == 2
    assert all(re.fullmatch(r"[\w.,+=-]+", cell.slug) for cell in pairs.cells)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--widht", "3"], "did you mean --width"),
        (["--width", "3,x"], "network.width must be a whole number"),
        (["--width", "3,,4"], "leave out the empty one"),
        (["--width", "4,4"], "twice"),
        (["--rho", "1.2"], r"\[0, 1\)"),
        (["--seeds", "0"], "seeds must be >= 1 and <= 100000, got 0"),
        (["--seeds", "99999999999999999999"], "seeds must be >= 1 and <= 100000"),
        (
            ["--seeds", "1000", "--rho", ",".join(f"0.{k}" for k in range(100, 300))],
            "at most 100,000 cells, got 200,000",
        ),
        (["--seeds", "2", "--seed", "3"], "leave one out"),
        (["--capacity", "--hidden-layers", "3"], "hidden_layers must be >= 1 and <= 2, got 3"),
        (["--width"], "needs a value"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(words, said):
    with pytest.raises(InputError, match=said):
        read_grid([*TINY, *words])


def test_status_two_and_one_sentence_on_the_command_line(tmp_path, capsys):
    assert main(["sweep", *TINY, "--backend", "slurm", "--out", str(tmp_path / "x")]) == 2
    assert "backend must be joblib, ray, got 'slurm'" in capsys.readouterr().err
    assert main(["sweep", *TINY, "--address", "auto"]) == 2
    nowhere = ["--quiet", "--out", str(tmp_path / "x")]
    assert main(["sweep", "--data", "forsed", "--width", "8,16", *nowhere]) == 2
    assert "did you mean 'forced'" in capsys.readouterr().err
    assert main(["sweep", "--data", "forced", "--threat", "l2:0.1,l2", *nowhere]) == 2
    assert "did you mean l2:0.1" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_finished_cells_are_not_repeated_and_further_values_are_added(tmp_path, counted):
    run_sweep(grid("--width", "8,16", "--seeds", "2"), tmp_path, in_turn, progress=False)
    assert len(counted) == 4
    found = run_sweep(grid("--width", "8,16,32", "--seeds", "2"), tmp_path, in_turn, progress=False)
    assert counted[4:] == ["width-32,seed-0", "width-32,seed-1"]
    assert [point["figures"]["gap"]["median"] for point in found["points"]] == [1 / 8, 1 / 16, 1 / 32]
    assert all(point["done"] == 2 for point in found["points"])
    assert json.loads((tmp_path / "sweep.json").read_text()) == json.loads(json.dumps(found))


def test_a_folder_of_another_sweep_or_of_something_else_is_refused(tmp_path, counted):
    run_sweep(grid("--width", "8,16"), tmp_path / "a", in_turn, progress=False)
    with pytest.raises(RunFolderError, match=r"training.epochs is 2 there, 3 here"):
        run_sweep(
            read_grid([*TINY, "--epochs", "3", "--width", "8,16"])[0], tmp_path / "a", in_turn, progress=False
        )
    with pytest.raises(RunFolderError, match="another one"):
        run_sweep(grid("--dimension", "3,4"), tmp_path / "a", in_turn, progress=False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="something else"):
        run_sweep(grid("--width", "8,16"), tmp_path / "b", in_turn, progress=False)
    assert len(counted) == 2


def test_failures_are_tried_again_reported_and_tried_anew_later(tmp_path, monkeypatch):
    tries = {"flaky": 0, "broken": 0}

    def figures(cell):
        if cell["place"]["width"] == "8":
            tries["flaky"] += 1
            if tries["flaky"] == 1:
                raise OSError("disk full")
        else:
            tries["broken"] += 1
            raise ValueError("no such thing")
        return {"robust_accuracy": 1.0}

    monkeypatch.setattr(sweep_cell, "_train", stub(figures))
    found = run_sweep(grid("--width", "8,16"), tmp_path, in_turn, progress=False)
    assert [cell["status"] for cell in found["cells"]] == ["done", "failed"]
    assert found["cells"][0]["tries"] == 2
    assert found["cells"][1]["reason"] == "ValueError: no such thing"
    page = write_sweep_report(tmp_path, tmp_path / "report.html").read_text()
    assert "no such thing" in page
    run_sweep(grid("--width", "8,16"), tmp_path, in_turn, progress=False)
    assert tries == {"flaky": 2, "broken": 4}


def test_an_interrupt_keeps_what_is_done(tmp_path, monkeypatch):
    def figures(cell):
        if cell["place"]["width"] == "16":
            raise KeyboardInterrupt
        return {"robust_accuracy": 1.0}

    monkeypatch.setattr(sweep_cell, "_train", stub(figures))
    with pytest.raises(KeyboardInterrupt) as stopped:
        run_sweep(grid("--width", "8,16,32"), tmp_path, in_turn, progress=False)
    assert "1 of 3 cells done; give the same command again" in stopped.value.__notes__[-1]
    monkeypatch.setattr(sweep_cell, "_train", stub(lambda cell: {"robust_accuracy": 0.5}))
    found = run_sweep(grid("--width", "8,16,32"), tmp_path, in_turn, progress=False)
    assert [cell["figures"]["robust_accuracy"] for cell in found["cells"]] == [1.0, 0.5, 0.5]


def test_cells_are_whole_runs_with_the_radius_of_their_ratio(tmp_path, capsys):
    words = ["sweep", *TINY, *SMALL, "--width", "16", "--rho", "0.2,0.6", "--out", str(tmp_path / "s")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith("report.html")
    found = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [point["figures"]["rho"]["median"] for point in found["points"]] == pytest.approx([0.2, 0.6])
    summary = json.loads((tmp_path / "s" / "cells" / "rho-0.6" / "summary.json").read_text())
    assert summary["threat"] == "l2:0.3"
    assert found["cells"][1]["figures"]["gap"] == pytest.approx(summary["gap"])
    before = (tmp_path / "s" / "cells" / "rho-0.6" / "summary.json").stat().st_mtime_ns
    assert main(words) == 0
    assert (tmp_path / "s" / "cells" / "rho-0.6" / "summary.json").stat().st_mtime_ns == before


def test_capacity_cells_and_their_page(tmp_path, monkeypatch):
    from holdfast import capacity

    monkeypatch.setattr(capacity, "smallest_width", partial(capacity.smallest_width, steps=60, restarts=4))
    words = [
        "--data",
        "forced",
        "--threat",
        "l2:0.2",
        "--quiet",
        "--capacity",
        "--dimension",
        "2,3",
        "--width",
        "1,4",
        "--rho",
        "0.3",
        "--seeds",
        "1",
    ]
    found = run_sweep(read_grid(words)[0], tmp_path, in_turn, progress=False)
    assert {cell["status"] for cell in found["cells"]} == {"done"}
    assert [point["figures"]["impossible_below"]["median"] for point in found["points"]] == [1, 1]
    assert found["points"][0]["figures"]["plain_width"]["median"] == 1
    page = write_sweep_report(tmp_path, tmp_path / "report.html").read_text()
    assert "Which widths fit robustly" in page
    assert "<script" not in page
    assert "http://" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_the_page_draws_maps_lines_and_escapes(tmp_path, counted):
    run_sweep(
        grid("--width", "8,16", "--threat.spec", "l2:0.1,l2:0.2", "--seeds", "2"),
        tmp_path / "two",
        in_turn,
        progress=False,
    )
    two = write_sweep_report(tmp_path / "two", tmp_path / "two.html").read_text()
    assert (
        two.count('class="heat-10"') == 2 + 2 + 2
    )  # the largest of each of three figures: two threats alike
    run_sweep(grid("--width", "8,64"), tmp_path / "one", in_turn, progress=False)
    one = write_sweep_report(tmp_path / "one", tmp_path / "one.html").read_text()
    assert "stroke s-blue" in one
    assert 'heat-10"' not in one
    run_sweep(
        grid("--width", "8,16", "--dimension", "3,4", "--threat.spec", "l2:0.1,l2:0.2"),
        tmp_path / "three",
        in_turn,
        progress=False,
    )
    assert "dimension 4" in write_sweep_report(tmp_path / "three", tmp_path / "three.html").read_text()
    record = json.loads((tmp_path / "one" / "sweep.json").read_text())
    record["shared"]["data.name"] = "<img onerror=x>"
    del record["digests"]  # as an earlier version wrote it, which kept no digests
    (tmp_path / "one" / "digests.json").unlink()
    (tmp_path / "one" / "sweep.json").write_text(json.dumps(record))
    assert "<img" not in write_sweep_report(tmp_path / "one", tmp_path / "one.html").read_text()


def test_several_processes_give_the_same_figures(tmp_path):
    words = grid(*SMALL, "--width", "8,16")
    one = run_sweep(words, tmp_path / "one", in_turn, progress=False)
    two = run_sweep(words, tmp_path / "two", in_processes(2), progress=False)
    assert [cell["figures"] for cell in two["cells"]] == [cell["figures"] for cell in one["cells"]]


@pytest.mark.slow
def test_a_process_that_dies_fails_its_cell_alone(tmp_path):
    """A network of the user's that kills its process, as a system short of memory does."""
    (tmp_path / "deadly.py").write_text(
        "import os, signal\n"
        "from holdfast.networks import Dense\n"
        "def net(features, classes, size, seed):\n"
        "    if size == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return Dense(features, classes, 4 * size, 1, seed=seed)\n"
    )
    words = [*TINY, *SMALL, "--network", "deadly:net", "--network.init-args.size", "1,2,3"]
    script = (
        "from pathlib import Path\n"
        "from holdfast.lab.sweep.run import run_sweep\n"
        "from holdfast.lab.sweep.backends import in_processes\n"
        "from holdfast.lab.sweep.grid import read_grid\n"
        f"found = run_sweep(read_grid({words!r})[0], Path('out'), in_processes(2), progress=False)\n"
        "print([(cell['status'], cell['reason']) for cell in found['cells']])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'done'") == 2
    assert "its process died" in done.stdout


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tmp_path):
    words = ["sweep", *TINY, *SMALL, "--width", "8,16,24,32", "--processes", "2", "--out", "out"]
    command = [sys.executable, "-m", "holdfast", *words]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cells = tmp_path / "out" / "cells"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(cells.glob("*.json")):
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) == 130
    done = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert done
    assert (
        subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=240).returncode == 0
    )
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert {cell["status"] for cell in found["cells"]} == {"done"}
    assert all((cells / name).stat().st_mtime_ns == when for name, when in done.items())


def test_ray_is_asked_for_in_one_sentence_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'holdfast\[ray\]'"):
        on_ray(None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_local_ray_cluster_gives_the_same_figures(tmp_path):
    ray = pytest.importorskip("ray")
    with keeping_handlers():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        words = grid(*SMALL, "--width", "8,16")
        one = run_sweep(words, tmp_path / "one", in_turn, progress=False)
        two = run_sweep(words, tmp_path / "two", on_ray(None), progress=False)
        assert [cell["figures"] for cell in two["cells"]] == [cell["figures"] for cell in one["cells"]]
        assert ray.is_initialized()  # a cluster that was there before stays
    finally:
        ray.shutdown()


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        (("certified",) * 3, "proved"),
        (("estimate",) * 3, "estimated"),
        (("certified", "estimate", "estimate"), "partly estimated"),
    ],
)
def test_bounds_are_called_what_they_are_and_trivial_ones_are_no_figures(
    tmp_path, monkeypatch, statuses, kind
):
    def figures(cell):
        width = int(cell["place"]["width"])
        number = (8, 16, 32).index(width)
        said = {"robust_loss_lower_bound": 0.1, "gap": 0.25} if number else {}
        return said | {
            "certificate_status": statuses[number],
            "certificate_informative": bool(number),
            "surrogate_loss": 0.35,
        }

    monkeypatch.setattr(sweep_cell, "_train", stub(figures))
    found = run_sweep(grid("--width", "8,16,32"), tmp_path, in_turn, progress=False)
    labels = [label for _, label in columns(found)]
    assert ("gap" if kind == "proved" else f"gap ({kind})") in labels
    table = rows(found)
    assert table[0]["values"][-2:] == ["nothing can be said"] * 2
    assert table[1]["values"][-1] == "0.2500"
    html = write_sweep_report(tmp_path, tmp_path / "report.html").read_text()
    assert f'Gap to the best in the ball<span class="chip {kind}">{kind}</span>' in html
    assert ("chip proved" in html) == (kind == "proved")


def test_a_trivial_bound_of_a_cell_is_no_figure():
    summary = Summary(
        certificate_status="estimate",
        certificate_informative=False,
        certificate_floor=0.0,
        robust_loss_lower_bound=0.0,
        gap=264.2,
        train_fitted=True,
    )
    found = sweep_cell._figures(summary)
    assert found["gap"] is None
    assert found["robust_loss_lower_bound"] is None
    assert found["certificate_informative"] is False
    assert found["fits"] == 1.0
