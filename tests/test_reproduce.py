"""Experiments on the paper's claims: every quick run, and what stands between a number and a verdict."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli.main import main
from holdfast.errors import InputError, RunFolderError
from holdfast.lab.reproduce import (
    EXPERIMENTS,
    Criterion,
    Experiment,
    Measured,
    Scale,
    convergence,
    reproduce,
)
from holdfast.lab.reproduce.base import (
    Column,
    Plot,
    PlotLine,
    log_slope,
    record,
    seeds_and_mean,
    tracked,
    within,
)
from holdfast.lab.reproduce.drift import kernel_change
from holdfast.lab.reproduce.iterations import rounds_until
from holdfast.lab.reproduce.optimal_loss import outside
from holdfast.lab.reproduce.run import FILE, PAGE, chosen
from holdfast.networks import TwoLayer
from holdfast.report.reproduced import cell, decided, draw, figure, write_reproduced_page

QUICK = Scale(quick=True, seeds=(0, 1))
ONE_SEED = Scale(quick=True, seeds=(0,))  # half of the time


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_shows_in_its_quick_run(name, tmp_path):
    [found] = reproduce([name], scale=ONE_SEED, out=tmp_path, progress=False)
    failed = [f"{c['what']}: {c['measured']}" for c in found["criteria"] if not c["passed"]]
    assert found["passed"], failed
    assert all(math.isfinite(c["measured"]) for c in found["criteria"])
    assert found["rows"]
    assert all(len(row) == len(found["columns"]) for row in found["rows"])
    assert found["plots"]
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert page.count('<svg class="chart"') == len(found["plots"])


def made(value: float, *, calls: list[Scale] | None = None, name: str = "made-up") -> Experiment:
    """An experiment that takes no time: its number must be at most 1."""

    def measure(scale, report):
        if calls is not None:
            calls.append(scale)
        report(0.5)
        return Measured(
            deciding={"number": value},
            columns=(Column(name="word", style="text"), Column(name="number", known="observed")),
            rows=(("a", [value, value]),),
            plots=(
                Plot(
                    title="Number",
                    x="x",
                    y="y",
                    lines=(PlotLine(label="it", points=((1.0, 1.0), (2.0, 3.0))),),
                ),
            ),
            notes=("A note.",),
        )

    criterion = Criterion(key="number", what="the number", relation="<=", bound=1.0, why="it is said so")
    return Experiment(
        name=name,
        claim="<b>One</b> is enough",
        source="nowhere",
        setup="nothing",
        criteria=(criterion,),
        measure=measure,
    )


@pytest.fixture
def instead(monkeypatch):
    """Puts made-up experiments in place of all."""

    def put(*experiments: Experiment) -> None:
        found = {experiment.name: experiment for experiment in experiments}
        monkeypatch.setattr("holdfast.lab.reproduce.run.EXPERIMENTS", found)

    return put


@pytest.mark.parametrize(
    ("relation", "value", "holds"),
    [
        ("<=", 1.0, True),
        ("<=", 1.0000001, False),
        (">=", 1.0, True),
        (">=", 0.99, False),
        (">", 1.0, False),
        (">", 1.01, True),
        ("<=", math.nan, False),
        (">=", math.nan, False),
        ("<=", math.inf, False),
    ],
)
def test_a_criterion_is_an_inequality_that_nothing_missing_meets(relation, value, holds):
    assert Criterion(key="", what="", relation=relation, bound=1.0, why="").holds(value) is holds


def test_one_failed_criterion_fails_the_claim_and_is_the_one_named():
    passes = made(0.5)
    second = Criterion(key="number", what="again", relation=">", bound=0.7, why="")
    both = replace(passes, criteria=(*passes.criteria, second))
    measured = passes.measure(QUICK, lambda share: None)
    assert record(passes, QUICK, measured, 0.0, 0.0)["passed"]
    found = record(both, QUICK, measured, 0.0, 0.0)
    assert not found["passed"]
    assert [c["passed"] for c in found["criteria"]] == [True, False]
    assert decided(found).startswith("again: 0.5 ")


def test_training_cut_short_fails_the_claim_of_convergence(monkeypatch):
    """A control: the criterion can fail."""
    whole = convergence.trained
    monkeypatch.setattr(convergence, "trained", lambda *a, **k: whole(*a, **(k | {"rounds": 3})))
    monkeypatch.setattr(convergence, "ATTACKS", {"FGSM (weak)": convergence.ONE_STEP})
    monkeypatch.setattr(convergence, "STYLES", ("s-blue",))
    [found] = reproduce(["convergence"], scale=Scale(quick=True, seeds=(0,)), progress=False)
    verdicts = {c["key"]: c["passed"] for c in found["criteria"]}
    assert not verdicts["gap"]
    assert verdicts["uncertified"]


def test_the_same_experiment_is_not_run_twice_in_a_folder(tmp_path, instead):
    calls: list[Scale] = []
    instead(made(0.5, calls=calls), made(2.0, name="other"))
    first = reproduce(scale=QUICK, out=tmp_path, progress=False)
    again = reproduce(["made-up"], scale=QUICK, out=tmp_path, progress=False)
    assert len(calls) == 1
    assert again == [json.loads(json.dumps(first[0]))]
    other = Scale(quick=True, seeds=(0,))
    reproduce(["made-up"], scale=other, out=tmp_path, overwrite=True, progress=False)
    assert calls == [QUICK, other]
    kept = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert [entry["name"] for entry in kept["experiments"]] == ["made-up", "other"]
    assert not kept["passed"]


def test_another_criterion_runs_the_experiment_again(tmp_path, instead):
    calls: list[Scale] = []
    before = made(0.5, calls=calls)
    instead(before)
    reproduce(scale=QUICK, out=tmp_path, progress=False)
    instead(replace(before, criteria=(replace(before.criteria[0], bound=0.1),)))
    [found] = reproduce(scale=QUICK, out=tmp_path, overwrite=True, progress=False)
    assert len(calls) == 2
    assert not found["passed"]


def test_what_is_finished_outlives_a_failure(tmp_path, instead):
    def stopped(scale, report):
        raise KeyboardInterrupt

    instead(made(0.5), replace(made(0.5, name="later"), measure=stopped))
    with pytest.raises(KeyboardInterrupt):
        reproduce(scale=QUICK, out=tmp_path, progress=False)
    kept = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert [entry["name"] for entry in kept["experiments"]] == ["made-up"]
    assert (tmp_path / PAGE).exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"experiments": [{"name": "width"}]}', '{"experiments": 3}'])
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match="remove it or choose another"):
        reproduce(["width"], scale=QUICK, out=tmp_path, progress=False)


def test_names():
    assert [e.name for e in chosen(["small-rho", "width"])] == ["width", "small-rho"]
    assert [e.name for e in chosen([])] == [e.name for e in chosen(["width", "all"])] == list(EXPERIMENTS)
    with pytest.raises(InputError, match="did you mean width"):
        chosen(["widht"])
    with pytest.raises(InputError, match="seeds"):
        reproduce(["width"], scale=Scale(seeds=()), progress=False)


def test_criteria_are_complete():
    for name, experiment in EXPERIMENTS.items():
        assert name == experiment.name
        keys = [c.key for c in experiment.criteria]
        assert keys, name
        assert len(set(keys)) == len(keys), name
        assert all(c.why and c.what for c in experiment.criteria), name
        assert "(recalled)" in experiment.source, name


@given(
    power=st.floats(-3, 3),
    factor=st.floats(1e-3, 1e3),
    xs=st.lists(st.integers(1, 10_000), min_size=2, max_size=6, unique=True),
)
def test_log_slope_is_the_power(power, factor, xs):
    assert log_slope([float(x) for x in xs], [factor * x**power for x in xs]) == pytest.approx(
        power, abs=1e-6
    )


@pytest.mark.parametrize("ys", [[1.0, 0.0], [1.0, -1.0], [1.0, math.inf], [1.0, math.nan]])
def test_log_slope_of_what_has_no_logarithm_is_nan(ys):
    assert math.isnan(log_slope([1.0, 2.0], ys))


def test_progress_is_told_as_a_share():
    told: list[float] = []
    assert list(tracked("abcd", within(told.append, 0.5, 1.0))) == list("abcd")
    assert told == [0.5, 0.625, 0.75, 0.875]


def test_rounds_are_counted_from_one_and_infinite_where_never_reached():
    excess = [0.5, 0.3, 0.3, 0.05]
    assert [rounds_until(excess, e) for e in (0.5, 0.3, 0.1, 0.05, 0.01)] == [1, 2, 4, 4, math.inf]
    assert math.isnan(log_slope([2.0, 100.0], [1.0, rounds_until(excess, 0.01)]))


def test_outside_a_bracket():
    assert [outside(v, 1.0, 2.0) for v in (0.25, 1.0, 1.5, 2.0, 3.0)] == [0.75, 0, 0, 0, 1.0]


def test_kernel_change_agrees_with_jacobians():
    start, end = (TwoLayer(5, 2, 8, "softplus", seed=seed) for seed in (0, 1))
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def kernel(model: TwoLayer) -> torch.Tensor:
        model = model.double()
        rows = []
        for point in x:
            model.zero_grad()
            model(point[None])[0, 0].backward()
            rows.append(model.weight.grad.flatten().clone())
        j = torch.stack(rows)
        return j @ j.T

    change = kernel_change(start, end, x)
    assert kernel_change(start, start, x) == 0
    k0, k1 = kernel(start), kernel(end)
    assert change == pytest.approx(float((k1 - k0).norm() / k0.norm()), rel=1e-9)


def test_marks_of_all_seeds_and_their_mean():
    line, marks = seeds_and_mean("gap", [1.0, 2.0], [[1.0, 3.0], [4.0, 4.0]], "s-blue")
    assert line.points == ((1.0, 2.0), (2.0, 4.0))
    assert set(marks.points) == {(1.0, 1.0), (1.0, 3.0), (2.0, 4.0)}


def test_cells_say_mean_and_range_or_what_is_missing():
    assert cell([0.5, 0.25, 0.75], "number") == "0.5 (0.25 to 0.75)"
    assert cell([3.0, 3.0], "count") == "3"
    assert cell([1.0, None], "number") == cell(None, "number") == cell([], "number") == "not measured"
    assert figure(2.6e-5) == "2.6e\N{MINUS SIGN}05"


def plotted(points, *, log=False):
    line = {"label": "it", "points": points, "style": "s-blue", "kind": "line"}
    return draw({"title": "T", "x": "x", "y": "y", "lines": [line], "log_x": log, "log_y": log})


def test_figures_leave_out_what_cannot_be_drawn():
    drawn = plotted([[1, 0.5], [2, None], [3, 0.0], [4, 0.25]], log=True)
    assert [point for point, _ in drawn.legend[0].points] == [1, 4]
    assert plotted([[1, 0.0], [2, None], [3, math.inf]], log=True).empty
    for points in ([[1, 1]], [[1, 0.0], [2, 0.0]], [[1, -1.0], [2, 2.0]]):
        numbers = [float(v) for v in re.findall(r"[ML ](-?\d+\.?\d*)", str(plotted(points).svg))]
        assert numbers
        assert all(math.isfinite(v) for v in numbers)


def test_the_page_stands_alone_and_escapes(tmp_path):
    measured = made(2.0).measure(QUICK, lambda share: None)
    found = json.loads(json.dumps(record(made(2.0), QUICK, measured, 1.0, 1.0)))
    page = write_reproduced_page([found], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>One</b>" not in page
    assert "&lt;b&gt;One" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|<script|@import|url\(", page)
    assert page.count(">fail<") == 3  # in the summary, of the claim, of the criterion
    assert "0 of 1 passes" in page


def test_the_command(tmp_path, capsys, instead):
    instead(made(0.5), made(2.0, name="other"))
    out = ["--out", str(tmp_path / "claims"), "--quick", "--quiet"]
    assert main(["reproduce", "made-up", *out]) == 0
    assert main(["reproduce", "all", *out]) == 1
    said = capsys.readouterr().out
    assert "1 of 2 claims show." in said
    assert said.rstrip().endswith(PAGE)
    assert main(["reproduce", "--list"]) == 0
    assert "is enough" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["nonsense"], ["--seeds", "0"], ["--seeds", "two"], ["--fast"], ["width", "--out", "FILE"]]
)
def test_the_command_refuses_in_one_sentence(tmp_path, capsys, argv):
    file = tmp_path / "file"
    file.write_text("")
    assert main(["reproduce", *(str(file) if word == "FILE" else word for word in argv)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("holdfast: ")
    assert said.count("\n") == 1
