"""How public values show themselves: short, without tensors, safe in notebooks; tables for pandas and curves for matplotlib."""

import dataclasses
import importlib.util
import inspect
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast as hf
from holdfast._values import LONGEST, Drawn, Fact, Shown, Tabular
from holdfast.diagnosis import Finding
from holdfast.errors import InputError
from holdfast.evaluation.curve import accuracy_curve
from holdfast.jobs.plan import Cost, Plan
from holdfast.lab.capacity import Attempt, Bracket, Capacity, Widths
from holdfast.record.run import Run
from holdfast.theory import KernelFigures, optimal_robust_loss
from holdfast.theory.capacity import bounds as capacity_bounds
from holdfast.trace import FrozenPoints, Trace

DOCS = Path(__file__).parents[1] / "docs" / "reference_pages.py"
HOSTILE = "<script>alert('&')</script>\n" * 30


def tangible() -> dict[str, Shown]:
    """One small value of every class that shows itself."""
    x = torch.rand(24, 5, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.linspace(0, 1, 24).round(decimals=0) * 0.8 + 0.1
    y = (x[:, 0] > 0.5).long()
    edge = (torch.zeros(5), torch.ones(5))
    data = hf.data.from_tensors(x, y, bounds=edge, fixed=torch.tensor([False] * 4 + [True]))
    threat = hf.LpBall("2", 0.05, bounds=edge, fixed=data.fixed)
    model = hf.networks.TwoLayer(5, 2, width=16, center=x.mean(0))
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    attack = hf.PGD(steps=2)
    run = hf.train(
        model,
        data,
        threat,
        attack=attack,
        epochs=2,
        progress=False,
        validation=hf.ValidationSettings(kernel_examples=4),
        device=hf.DeviceSettings(accelerator="cpu"),
    )
    few = (data.test.x, data.test.y)
    found = hf.diagnose(model, *few, threat, initial=start, attack=attack, final_attack=attack)
    curve = optimal_robust_loss(model, x[:8], y[:8], threat, (0.5, 1.0))
    attempt = Attempt(width=4, seed=0, outcome="verified", margin=0.1, restarts=1, steps=9, seconds=0.1)
    widths = Widths(
        brackets=(Bracket(seed=0, smallest=4, impossible_below=2, failed=(2,)),), attempts=(attempt,)
    )
    bound = capacity_bounds(data, threat)[0]
    return {
        "run": run,
        "certificate": run.certificate,
        "void certificate": hf.Certificate(status="void", reason=HOSTILE, radius=1.0),
        "evaluation": hf.evaluate(model, *few, threat, attacks=[attack]),
        "accuracy curve": accuracy_curve(model, *few, threat, [0.01, 0.05], [attack]),
        "attack": attack.run(model, *few, threat),
        "verification": hf.verify(model, *few, threat),
        "smoothed": hf.smooth(model, *few, sigma=0.1, samples=100, selection=10),
        "diagnosis": found,
        "finding": Finding(name=HOSTILE, level="bad", sentence=HOSTILE, remedy=HOSTILE),
        "optimal": curve,
        "solution": curve.solutions[0],
        "plan": Plan(
            data=HOSTILE,
            threat=threat.spec,
            network="TwoLayer",
            examples=8,
            population=24,
            separation=0.8,
            rho=0.1,
            compatible=True,
            pairs_meeting=0,
            clean=curve,
            robust=curve,
            terms=(),
            loss=0.1,
            radius=math.inf,
            gap=0.01,
            width=64,
            width_reason="",
            cost=Cost(width=64, seconds_an_epoch=0.1, memory_bytes=1e6),
            seed=0,
            seconds=1.0,
        ),
        "figures": KernelFigures(
            drift=0.1,
            alignment=0.2,
            centred_alignment=0.3,
            eigenvalue_max=1.0,
            eigenvalue_min=0.1,
            weight_drift=0.2,
        ),
        "capacity bound": bound,
        "widths": widths,
        "capacity": Capacity(
            data=HOSTILE,
            threat=threat.spec,
            network="relu",
            examples=8,
            dimension=5,
            rho=0.1,
            plain=widths,
            robust=widths,
            bounds=(bound,),
        ),
        "data": dataclasses.replace(data, name=HOSTILE),
        "split": data.split,
        "extra": hf.data.Extra(data.train.x, data.train.y, share=0.4),
        "part": data.train,
        "ball": threat,
        "sphere": hf.SphereSlice(0.3, fixed=data.fixed),
        "custom": hf.CustomThreat(lambda points, x: x, radius_hint=1.0, name=HOSTILE),
        "points": FrozenPoints(x=x, points=x, y=y),
        "trace": Trace(
            names=(("weight",),), initial=start, windows=(), rigorous=True, reason=HOSTILE, fixed={}
        ),
    }


@pytest.fixture(scope="module")
def values():
    return tangible()


def everywhere(kind: type) -> set[type]:
    below = {sub for cls in kind.__subclasses__() for sub in everywhere(cls)}
    return below | {kind}


def public_classes() -> list[type]:
    spec = importlib.util.spec_from_file_location("reference_pages", DOCS)
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    listed = [value for members in pages.public().values() for value in members.values()]
    return [value for value in listed if inspect.isclass(value)]


def test_no_public_dataclass_prints_its_tensors_or_networks():
    guilty = [
        f"{cls.__name__}.{field.name}"
        for cls in public_classes()
        if dataclasses.is_dataclass(cls) and not issubclass(cls, Shown)
        for field in dataclasses.fields(cls)
        if field.repr
        and any(word in str(field.type) for word in ("Tensor", "Module"))
        and "Callable" not in str(field.type)
    ]
    assert not guilty


def test_every_class_that_shows_itself_is_tried_here(values):
    own = {cls for cls in everywhere(Shown) if cls.__module__.startswith("holdfast.")}
    worded = {cls for cls in own if cls._facts is not Shown._facts} - {hf.Threat}
    assert worded - {type(value) for value in values.values()} == {Tabular, Drawn} & worded


def test_values_are_short_and_say_no_tensor(values):
    for name, value in values.items():
        text = repr(value)
        assert text.startswith(type(value).__name__), name
        assert len(text) < 600, (name, text)
        assert "tensor(" not in text, (name, text)
        assert " at 0x" not in text, (name, text)


def test_values_are_tables_in_notebooks_and_escape_what_they_are_given(values):
    hostile = 0
    for name, value in values.items():
        page = value._repr_html_()
        assert page.startswith("<table"), name
        assert page.endswith("</table>"), name
        assert "<script" not in page, name
        assert "tensor(" not in page, name
        hostile += "&lt;script&gt;" in page
    assert hostile >= 6


def test_figures_say_how_they_are_known(values):
    kinds = {name: {fact.label: fact.kind for fact in value._facts()} for name, value in values.items()}
    assert kinds["run"]["lower bound"] == kinds["run"]["gap"] == "proved"
    assert kinds["run"]["robust accuracy"] == "observed"
    assert kinds["evaluation"]["verified accuracy"] == "proved"
    assert kinds["evaluation"]["robust accuracy"] == "observed"
    assert kinds["verification"]["verified accuracy"] == "proved"
    assert kinds["plan"]["width for gap 0.01"] == "estimated"
    assert set(kinds["figures"].values()) == {"observed"}
    assert "lower bound" not in kinds["void certificate"]
    estimate = hf.Certificate(
        status="estimate", reason="", radius=1.0, lower_bound=0.1, surrogate_loss=0.2, gap=0.1, floor=0.0
    )
    assert "lower bound     0.1000        estimated" in repr(estimate)
    assert "proved" not in repr(estimate) + estimate._repr_html_()


def test_one_line_where_it_fits_and_cut_where_it_does_not():
    class Few(Shown):
        def _facts(self):
            return [Fact("a", 1), Fact("b", 0.5, "proved")]

    class Many(Shown):
        def _facts(self):
            return [Fact("label", "x" * 100, "observed"), Fact("b", "two\nlines")] * 9

    assert repr(Few()) == "Few(a 1; b 0.5 proved)"
    lines = repr(Many()).splitlines()
    assert lines[0] == "Many"
    assert lines[1] == f"  label  {'x' * (LONGEST - 3)}...  observed"
    assert lines[2] == "  b      two lines"
    assert "x" * 100 in Many()._repr_html_()


def test_a_dataclass_without_words_of_its_own_shows_its_fields_in_brief():
    @dataclasses.dataclass(repr=False)
    class Raw(Shown):
        a_tensor: object
        many: object
        module: object
        scalar: object
        hidden: object = dataclasses.field(default=None, repr=False)

    shown = Raw(
        torch.zeros(3, 4),
        {"a": torch.zeros(9)},
        nn.Linear(2, 2),
        torch.tensor(0.5, requires_grad=True).detach(),
    )
    assert repr(shown) == "Raw(a tensor float32 of shape (3, 4); many 1 in a dict; module Linear; scalar 0.5)"


def test_tables_become_frames(values):
    frames = {name: value.to_frame() for name, value in values.items() if isinstance(value, Tabular)}
    assert frames["run"]["epoch"].tolist() == [1, 2]
    assert "kernel_drift" in frames["run"]
    assert frames["evaluation"]["robust"].tolist() == values["evaluation"].robust.tolist()
    assert frames["accuracy curve"]["radius"].tolist() == [0.01, 0.05]
    assert len(frames["certificate"]) == len(values["certificate"].at_radii) > 2
    assert frames["void certificate"].empty
    assert frames["capacity"]["fit"].tolist() == ["plain", "robust"]
    assert frames["diagnosis"]["name"].tolist() == [finding.name for finding in values["diagnosis"]]
    assert frames["optimal"].columns.tolist() == ["radius", "lower", "upper", "clean_loss", "accuracy"]
    assert all(len(frame.columns) >= 2 for frame in frames.values())


def test_curves_are_drawn_on_the_axes_given_or_on_new_ones(values):
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    given = Figure().add_subplot()
    assert values["run"].plot(given) is given
    for name, value in values.items():
        if isinstance(value, Drawn):
            axes = value.plot()
            assert axes is not given
            assert axes.get_xlabel(), name
            assert axes.get_ylabel(), name
            assert axes.lines or name == "void certificate", name
            labels = axes.get_legend_handles_labels()[1]
            assert all("(" in label for label in labels), labels
            axes.figure.canvas.draw()
    pyplot.close("all")


@pytest.mark.parametrize(("package", "method"), [("pandas", "to_frame"), ("matplotlib", "plot")])
def test_a_package_that_is_missing_is_named(values, monkeypatch, package, method):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"must have {package}, which is not installed; run: pip install"):
        getattr(values["run"], method)()


def test_a_run_of_which_little_is_recorded_shows_what_there_is():
    void = hf.Certificate(status="void", reason="", radius=math.nan)
    run = Run(
        folder=None, model=nn.Linear(1, 1), summary={"threat": 3}, metrics=[], certificate=void, best={}
    )
    assert "not recorded" in repr(run)
    assert "certificate" in repr(run)
    assert run.to_frame().empty
    assert run.plot().get_xlabel() == "epoch"
