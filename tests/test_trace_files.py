"""The trace on disk: whole or refused, never another run's numbers, nothing executed."""

import dataclasses
import json
import math
from itertools import chain
from pathlib import Path

import pytest
import torch

from certificate_cases import draws, examples, network, normal, one_round, record_round
from holdfast.errors import RunFolderError
from holdfast.families import TwoLayerCurvature
from holdfast.families.exact import fingerprints
from holdfast.losses import CrossEntropy
from holdfast.threats import LpBall
from holdfast.trace import (
    Block,
    FrozenPoints,
    LowerModel,
    Rounding,
    Trace,
    TraceRecorder,
    Window,
    load_points,
    load_trace,
    save_points,
    save_trace,
)
from holdfast.trace.trace import kept


def trace_of(
    *, train_output: bool = False, seed: int = 0, windows: int = 3, dtype: torch.dtype = torch.float64
) -> Trace:
    net = network("tanh", "signed", train_output=train_output, seed=seed).to(dtype)
    x, y = examples("signed", seed=seed)
    x = x.to(dtype)
    recorder = TraceRecorder(
        net, x, y, LpBall("2", 0.0), CrossEntropy(), curvature=TwoLayerCurvature(), radius=2.0
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    recorded = []
    for k in range(windows):
        recorder.open()
        record_round(recorder, torch.arange(len(y)), x)
        recorded.append(recorder.close(epoch=k + 1))
        optimizer.step()
    return Trace(
        names=recorder.names,
        initial=recorder.initial,
        windows=tuple(recorded),
        rigorous=True,
        reason="a proof",
        fixed=fingerprints(recorder.fixed),
    )


def same_window(first: Window, second: Window) -> bool:
    plain = {f.name for f in dataclasses.fields(Window)} - {"lower"}
    if any(repr(getattr(first, name)) != repr(getattr(second, name)) for name in plain):
        return False
    if first.lower is None or second.lower is None:
        return first.lower is second.lower
    pairs = zip(chain(*first.lower.balls), chain(*second.lower.balls), strict=True)
    return first.lower.constant == second.lower.constant and all(
        torch.equal(a.linear, b.linear)
        and a.eigenvalue == b.eigenvalue
        and (
            a.matrices is b.matrices
            if a.matrices is None or b.matrices is None
            else torch.equal(a.matrices, b.matrices)
        )
        for a, b in pairs
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("train_output", [False, True])
def test_round_trip_is_exact(tmp_path: Path, train_output: bool, dtype: torch.dtype) -> None:
    trace = trace_of(train_output=train_output, dtype=dtype)
    save_trace(trace, tmp_path / "trace")
    loaded = load_trace(tmp_path / "trace")
    assert (loaded.names, loaded.rigorous, loaded.reason) == (trace.names, trace.rigorous, trace.reason)
    assert loaded.initial.keys() == trace.initial.keys()
    assert all(torch.equal(loaded.initial[name], start) for name, start in trace.initial.items())
    assert len(loaded.windows) == 3
    assert all(same_window(a, b) for a, b in zip(loaded.windows, trace.windows, strict=True))
    for before, after in zip(trace.windows, loaded.windows, strict=True):
        assert after.bound_at(1.3) == before.bound_at(1.3)


def test_void_windows_and_missing_figures_survive(tmp_path: Path) -> None:
    trace = trace_of()
    bad = Window(
        first=9,
        last=9,
        epoch=4,
        rounding=Rounding(unit=0.0, width=0, slope=0.0, input_norm=0.0, distance=0.0),
        online_loss=math.nan,
        drift=(math.nan,),
        lower=None,
        lower_bound=math.nan,
        void="dropout",
    )
    save_trace(dataclasses.replace(trace, windows=(*trace.windows, bad)), tmp_path)
    loaded = load_trace(tmp_path)
    assert same_window(loaded.windows[-1], bad)
    assert loaded.void == "rounds 9 to 9: dropout"
    assert trace.void == ""


def test_saving_again_drops_what_is_no_longer_kept(tmp_path: Path) -> None:
    trace = trace_of()
    save_trace(trace, tmp_path)
    assert len(list(tmp_path.glob("window-*"))) == 3
    fewer = dataclasses.replace(
        trace, windows=(dataclasses.replace(trace.windows[0], lower=None), *trace.windows[1:])
    )
    save_trace(fewer, tmp_path)
    assert len(list(tmp_path.glob("window-*"))) == 2
    loaded = load_trace(tmp_path)
    assert loaded.windows[0].lower is None
    assert loaded.windows[0].lower_bound == trace.windows[0].lower_bound
    with pytest.raises(ValueError, match="lower model"):
        loaded.windows[0].bound_at(1.0)


def test_another_runs_files_are_never_taken_for_this_runs(tmp_path: Path) -> None:
    """Same folder, same round numbers, other numbers: each file on disk must be the one the record means."""
    first, second = trace_of(seed=1), trace_of(seed=2)
    save_trace(first, tmp_path)
    save_trace(second, tmp_path)
    loaded = load_trace(tmp_path)
    assert torch.equal(loaded.initial["weight"], second.initial["weight"])
    assert all(same_window(a, b) for a, b in zip(loaded.windows, second.windows, strict=True))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("which", ["trace.json", "initial.safetensors", "window-*.safetensors"])
def test_files_cut_short_are_refused(tmp_path: Path, which: str, share: float) -> None:
    save_trace(trace_of(), tmp_path)
    path = next(iter(sorted(tmp_path.glob(which))))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RunFolderError, match="cut short"):
        load_trace(tmp_path)


@pytest.mark.parametrize("which", ["trace.json", "initial.safetensors", "window-*.safetensors"])
def test_missing_files_are_named(tmp_path: Path, which: str) -> None:
    save_trace(trace_of(), tmp_path)
    path = next(iter(tmp_path.glob(which)))
    path.unlink()
    with pytest.raises(RunFolderError):
        load_trace(tmp_path)


def test_trace_is_plain_json(tmp_path: Path) -> None:
    save_trace(trace_of(), tmp_path)
    record = json.loads((tmp_path / "trace.json").read_text())
    assert [row["last"] for row in record["windows"]] == [1, 2, 3]


def test_points_round_trip_and_refusal(tmp_path: Path) -> None:
    x, y = examples("signed")
    points = FrozenPoints(x=x, points=x + 0.1 * normal(draws(0), *x.shape), y=y)
    save_points(points, tmp_path)
    loaded = load_points(tmp_path)
    assert torch.equal(loaded.x, points.x)
    assert torch.equal(loaded.points, points.points)
    assert torch.equal(loaded.y, points.y)
    path = tmp_path / "final_pass.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RunFolderError, match="attacked points"):
        load_points(tmp_path)
    path.unlink()
    with pytest.raises(RunFolderError, match="attacked points"):
        load_points(tmp_path)


# Retention.


def windows_with(bounds: list[float]) -> list[Window]:
    """Windows of 80 bytes of lower model each."""
    block = Block(linear=torch.zeros(5, 2, dtype=torch.float64))
    rounding = Rounding(unit=0.0, width=0, slope=0.0, input_norm=0.0, distance=0.0)
    return [
        Window(
            first=k + 1,
            last=k + 1,
            epoch=k + 1,
            rounding=rounding,
            online_loss=1.0,
            drift=(0.0,),
            lower=LowerModel(constant=bound, balls=((block,),)),
            lower_bound=bound,
        )
        for k, bound in enumerate(bounds)
    ]


def retained(bounds: list[float], budget: int) -> list[int]:
    return [k for k, window in enumerate(kept(windows_with(bounds), budget)) if window.lower is not None]


def test_retention_keeps_the_best_and_the_last() -> None:
    assert retained([0.1, 0.5, 0.3, 0.2], 10**6) == [0, 1, 2, 3]
    assert retained([0.1, 0.5, 0.3, 0.2], 240) == [1, 2, 3]
    assert retained([0.1, 0.5, 0.3, 0.2], 160) == [1, 3]
    assert retained([0.1, 0.5, 0.3, 0.2], 0) == [1, 3]
    assert retained([0.4], 0) == [0]
    assert kept([], 0) == []


def test_retention_keeps_every_figure() -> None:
    windows = windows_with([0.1, 0.5, 0.3, 0.2])
    after = kept(windows, 0)
    assert [w.lower_bound for w in after] == [w.lower_bound for w in windows]
    assert all(w.lower is not None for w in windows)


def test_retention_counts_matrices() -> None:
    net = network("softplus")
    x, y = examples("binary")
    window, _ = one_round(net, x, y, x, CrossEntropy())
    assert window.lower is not None
    (block,) = window.lower.balls[0]
    assert block.matrices is not None
    size = block.linear.nbytes + block.matrices.nbytes
    windows = [dataclasses.replace(window, lower_bound=bound) for bound in (0.3, 0.2, 0.1)]
    assert [w.lower is not None for w in kept(windows, 3 * size)] == [True, True, True]
    assert [w.lower is not None for w in kept(windows, 3 * size - 1)] == [True, False, True]


def test_trace_of_another_format_is_named_as_such(tmp_path: Path) -> None:
    save_trace(trace_of(windows=1), tmp_path)
    record = json.loads((tmp_path / "trace.json").read_text())
    record["format"] = 0
    (tmp_path / "trace.json").write_text(json.dumps(record))
    with pytest.raises(RunFolderError, match="of format 0, this version reads"):
        load_trace(tmp_path)
