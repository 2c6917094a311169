"""Around the cascade: bounds, resuming, samples, memory, processes, tables, the file of attacked examples, the curve."""

import csv
import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from holdfast.attacks import APGD, FGSM, PGD, CarliniWagner, RandomAttack, Square
from holdfast.attacks.margins import margin
from holdfast.errors import InputError, RunFolderError
from holdfast.evaluation import Evaluation, evaluate
from holdfast.evaluation.curve import accuracy_curve
from holdfast.evaluation.memory import batch_size_for, kept_bytes
from holdfast.evaluation.parallel import evaluate_in_processes
from holdfast.evaluation.result import clopper_pearson
from holdfast.evaluation.store import load_attacked, recheck, save_attacked
from holdfast.evaluation.suites import SUITES, suite
from holdfast.evaluation.warning_signs import Subject
from holdfast.losses import CrossEntropy
from holdfast.networks import LogOutputs
from holdfast.threats import LpBall, SphereSlice

THREAT = LpBall("2", 0.25)


def line() -> nn.Module:
    """Class 1 where the first coordinate is above 0: an example is robust when farther than the radius from there."""
    model = nn.Linear(2, 1).double()
    model.weight.data = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    model.bias.data.zero_()
    return nn.Sequential(model)


def points(count: int = 41) -> tuple[Tensor, Tensor]:
    first = torch.linspace(-1, 1, count, dtype=torch.float64) + 0.003
    return torch.stack([first, torch.zeros_like(first)], 1), (first > 0).long()


def net(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, classes)).double()


def same(first: Evaluation, second: Evaluation) -> bool:
    names = ("clean", "robust", "verified", "x", "loss", "loss_bound", "clean_loss", "broken_by")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


# ---- bounds


def test_the_bracket_of_a_linear_model_closes() -> None:
    x, y = points()
    result = evaluate(line(), x, y, THREAT, [FGSM()], verify="crown")
    assert torch.equal(result.verified, result.robust)
    attacked, verified = result.robust_loss
    exact = CrossEntropy()(
        line()(THREAT.maximise((1 - 2 * y)[:, None] * torch.tensor([[1.0, 0.0]]), x)).detach(), y
    )
    assert verified == pytest.approx(float(exact.mean()), rel=1e-9)
    assert attacked <= verified
    assert [(s.name, s.kind, s.entered, s.left) for s in result.stages] == [
        ("fgsm", "attack", 41, 31),
        ("crown", "bound", 31, 0),
    ]


def test_what_is_proved_is_not_attacked_and_what_is_broken_is_not_proved() -> None:
    x, y = points()
    result = evaluate(line(), x, y, THREAT, [RandomAttack(), PGD(steps=5), PGD(steps=7)], verify="ibp")
    kinds = [stage.kind for stage in result.stages]
    assert kinds == ["attack", "bound", "attack", "attack"]
    for before, after in pairwise(result.stages):
        assert after.entered == before.left
    assert (result.verified <= result.robust).all()
    assert (result.loss <= result.loss_bound).all()


def test_no_bounds_were_asked_for() -> None:
    x, y = points()
    result = evaluate(line(), x, y, THREAT, "clean", verify=None)
    assert not result.verified.any()
    assert math.isinf(result.robust_loss[1])


# ---- suites


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("norm", ["inf", "1"])
def test_every_suite_runs_on_binary_and_three_class_nets(name: str, norm: str) -> None:
    x, y = points(4)
    shorter = {Square: {"queries": 20}, CarliniWagner: {"steps": 5}, APGD: {"steps": 10}, PGD: {"steps": 10}}
    small = [replace(attack, **shorter.get(type(attack), {})) for attack in suite(name, LpBall(norm, 0.1))]
    for model, labels in ((line(), y), (net(), torch.arange(4) % 3)):
        result = evaluate(model, x, labels, LpBall(norm, 0.1), small or "clean", verify=None)
        assert len(result.stages) == len(small)
        assert result.robust_accuracy <= result.clean_accuracy


def test_attacks_that_do_not_take_the_threat_are_left_out_and_named() -> None:
    x = nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    x = torch.cat([x * math.sqrt(3) / 2, torch.full((6, 1), 0.5, dtype=torch.float64)], 1)
    model = nn.Linear(5, 2).double()
    result = evaluate(
        model, x, torch.arange(6) % 2, SphereSlice(0.1), [PGD(steps=2), Square(queries=10)], verify=None
    )
    assert result.stages[0].note == ""
    assert "it searches balls" in result.stages[1].note
    assert result.stages[1].entered == result.stages[1].left


# ---- resuming


class Killed(RandomAttack):
    """Raises as Ctrl-C does, in its n-th batch."""

    def __init__(self, at: int) -> None:
        super().__init__(samples=3)
        object.__setattr__(self, "at", at)

    def __repr__(self) -> str:
        return "the attack"

    def search(self, *args, **kwargs):
        object.__setattr__(self, "at", self.at - 1)
        if self.at == 0:
            raise KeyboardInterrupt
        return super().search(*args, **kwargs)


@pytest.mark.parametrize("at", [1, 2])
def test_an_evaluation_that_was_killed_goes_on_to_the_same_result(tmp_path, monkeypatch, at: int) -> None:
    monkeypatch.setattr("holdfast.evaluation.progress_file.EVERY", 0.0)
    x, _ = points()
    y, path = torch.arange(41) % 3, tmp_path / "state.safetensors"
    settings = {"batch_size": 5, "verify": "ibp", "seed": 3}
    whole = evaluate(net(), x, y, THREAT, [PGD(steps=2), Killed(-1)], **settings)
    with pytest.raises(KeyboardInterrupt):
        evaluate(net(), x, y, THREAT, [PGD(steps=2), Killed(at)], resume_from=path, **settings)
    assert path.exists()
    calls = []
    again = evaluate(
        net(),
        x,
        y,
        THREAT,
        [PGD(steps=2), Killed(-1)],
        resume_from=path,
        progress=lambda *c: calls.append(c),
        **settings,
    )
    assert same(whole, again)
    assert "clean" not in {name for name, _, _ in calls}  # it went on, it did not begin again
    assert [s.entered for s in again.stages] == [s.entered for s in whole.stages]
    assert not path.exists()


def test_the_state_of_another_evaluation_does_not_count(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("holdfast.evaluation.progress_file.EVERY", 0.0)
    x, _ = points()
    y, path = torch.arange(41) % 3, tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        evaluate(net(), x, y, THREAT, [Killed(2)], batch_size=8, resume_from=path, verify=None)
    fresh = evaluate(net(), x, y, THREAT, [Killed(-1)], batch_size=8, seed=1, verify=None)
    assert same(
        fresh,
        evaluate(net(), x, y, THREAT, [Killed(-1)], batch_size=8, seed=1, resume_from=path, verify=None),
    )
    path.write_bytes(b"cut short")
    assert same(
        fresh,
        evaluate(net(), x, y, THREAT, [Killed(-1)], batch_size=8, seed=1, resume_from=path, verify=None),
    )


# ---- radii of their own


def test_every_example_may_have_a_radius_of_its_own() -> None:
    x, y = points()
    radii = torch.tensor([0.1, 0.3, 0.0, 0.5]).repeat(11)[:41]
    found = FGSM().run(line(), x, y, LpBall("2", 9.0), radii=radii)
    assert torch.equal(found.success, x[:, 0].abs() <= radii)
    assert ((found.x - x).norm(dim=1) <= radii.double()).all()
    result = evaluate(line(), x, y, LpBall("2", 9.0), [FGSM()], verify="crown", radii=radii)
    assert torch.equal(result.robust, x[:, 0].abs() > radii)
    assert torch.equal(result.verified, result.robust)
    with pytest.raises(InputError, match="radii must be 41 numbers"):
        evaluate(line(), x, y, THREAT, [FGSM()], radii=radii[:5], verify=None)
    with pytest.raises(InputError, match="radius must be"):
        evaluate(line(), x, y, THREAT, [FGSM()], radii=radii - 1, verify=None)


# ---- samples and intervals


def test_a_sample_has_intervals_and_all_examples_have_none() -> None:
    x, y = points()
    part = evaluate(line(), x, y, THREAT, [FGSM()], examples=20, verify=None)
    assert len(part.y) == 20
    assert part.population == 41
    low, high = part.interval("robust")
    assert low < part.robust_accuracy < high
    every = evaluate(line(), x, y, THREAT, [FGSM()], verify=None)
    assert every.interval("robust") == (every.robust_accuracy, every.robust_accuracy)
    assert evaluate(line(), x, y, THREAT, [FGSM()], examples=100, verify=None).population is None


@pytest.mark.parametrize(("successes", "trials"), [(0, 12), (3, 12), (12, 12), (450, 500)])
def test_clopper_pearson_ends_are_where_the_binomial_tails_are(successes: int, trials: int) -> None:
    low, high = clopper_pearson(successes, trials)
    if successes > 0:
        assert binom.sf(successes - 1, trials, low) == pytest.approx(0.025)
    if successes < trials:
        assert binom.cdf(successes, trials, high) == pytest.approx(0.025)


# ---- memory


class Narrow(nn.Module):
    """Runs out of memory above eight examples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = line()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return self.inner(x)


def test_running_out_of_memory_halves_the_batch_and_says_so() -> None:
    x, y = points()
    said = []
    result = evaluate(
        Narrow(), x, y, THREAT, [FGSM()], batch_size=32, notice=said.append, examine=False, verify=None
    )
    assert torch.equal(result.robust, evaluate(line(), x, y, THREAT, [FGSM()], verify=None).robust)
    assert said == [f"out of memory: going on with {size} examples at once" for size in (16, 8)]


def test_signs_are_looked_for_in_batches_that_fit() -> None:
    """Every indicator, also where the attacks fitted and the sample does not."""
    x, y = points()
    assert len(x) > 8
    whole = evaluate(line(), x, y, THREAT, [FGSM()], verify=None)
    said = []
    narrow = evaluate(
        Narrow().train(), x, y, THREAT, [FGSM()], verify=None, batch_size=32, notice=said.append
    )
    assert [sign.name for sign in narrow.warnings] == [sign.name for sign in whole.warnings]
    assert said[-1] == "out of memory: going on with 8 examples at once"
    radii = torch.full((len(x),), THREAT.radius)
    own = evaluate(
        Narrow(), x, y, THREAT, [FGSM()], verify=None, radii=radii, batch_size=8, notice=said.append
    )
    assert [sign.name for sign in own.warnings] == [sign.name for sign in whole.warnings]


def test_bounds_that_do_not_fit_into_memory_are_left_out_and_said() -> None:
    x, y = points()
    result = evaluate(Narrow(), x, y, THREAT, [FGSM()], batch_size=8)
    (bounds,) = [stage for stage in result.stages if stage.kind == "bound"]
    assert bounds.note == "nothing proved: memory ran out; take fewer examples"
    assert result.verified_accuracy == 0.0


def test_what_indicators_measure_does_not_hang_on_the_batch() -> None:
    x, y = points()
    result = evaluate(line(), x, y, THREAT, [FGSM()], examine=False)
    whole, parts = (
        Subject(line(), x, y, THREAT, result, training=False, seed=0, size=size) for size in (128, 5)
    )
    torch.testing.assert_close(parts.outputs(x), whole.outputs(x))
    of_margin = [one.gradient(x, y, lambda outputs, y: -margin(outputs, y)) for one in (parts, whole)]
    torch.testing.assert_close(*of_margin)
    assert torch.equal(parts.attacked(FGSM(), x, y).success, whole.attacked(FGSM(), x, y).success)
    assert len(parts.outputs(x[:0])) == 0


def test_other_errors_are_not_taken_for_memory() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("something else")

    x, y = points()
    with pytest.raises(InputError, match="something else"):
        evaluate(Broken(), x, y, THREAT, [FGSM()], batch_size=4, verify=None)


def test_memory_is_counted_from_what_autograd_keeps() -> None:
    model = nn.Sequential(nn.Linear(10, 1000), nn.Tanh(), nn.Linear(1000, 3))
    # tanh keeps its output; the linear layers keep parameters only, which are not counted
    assert kept_bytes(model, torch.zeros(4, 10)) == pytest.approx(4 * 1000 * 4, rel=0.05)
    assert 1 <= batch_size_for(model, torch.zeros(4, 10)) <= 256


# ---- processes


def test_several_processes_give_the_result_of_one() -> None:
    x, y = points()
    one = evaluate(line(), x, y, THREAT, [FGSM(), PGD(steps=3, start="example")], verify="ibp")
    two = evaluate_in_processes(
        line(), x, y, THREAT, [FGSM(), PGD(steps=3, start="example")], verify="ibp", processes=2
    )
    for name in ("clean", "robust", "verified", "broken_by"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    for name in ("x", "loss", "loss_bound"):  # up to the rounding of batches of another size
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-12, atol=1e-12)
    assert [(s.name, s.entered, s.left) for s in one.stages] == [
        (s.name, s.entered, s.left) for s in two.stages
    ]


def test_processes_must_fit_and_be_reachable() -> None:
    x, y = points(4)
    with pytest.raises(InputError, match="processes must be between 1 and the number of examples"):
        evaluate_in_processes(line(), x, y, THREAT, [FGSM()], processes=5, verify=None)

    class Local(nn.Linear):
        pass

    with pytest.raises(InputError, match="use processes=1"):
        evaluate_in_processes(Local(2, 1).double(), x, y, THREAT, [FGSM()], processes=2, verify=None)


# ---- what is written


def test_the_table_has_a_row_an_example(tmp_path) -> None:
    x, y = points()
    result = evaluate(line(), x, y, THREAT, [RandomAttack(), FGSM()], verify="ibp")
    result.write_table(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["robust"] == "True" for row in rows] == result.robust.tolist()
    assert {row["broken_by"] for row in rows} == {"", "random-10", "fgsm"}
    assert all(
        (row["broken_by"] != "") == (row["clean"] == "True" and row["robust"] == "False") for row in rows
    )
    with pytest.raises(InputError, match=r"must be a .csv or .parquet"):
        result.write_table(tmp_path / "t.txt")


def test_stored_points_bear_out_the_figures_or_are_found_out(tmp_path) -> None:
    (x, y), path = points(), tmp_path / "attacked.safetensors"
    result = evaluate(line(), x, y, THREAT, [FGSM()], verify="ibp")
    save_attacked(result, x, path)
    loaded, examples = load_attacked(path)
    assert same(result, loaded)
    assert loaded.stages == result.stages
    assert torch.equal(examples, x)
    assert recheck(path, line(), THREAT).sound
    assert recheck(path, line(), LpBall("2", 0.2)).outside > 0
    flat = nn.Linear(2, 1).double()
    assert recheck(path, flat, THREAT).wrong_losses > 0
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunFolderError, match="must be a whole file of attacked examples"):
        load_attacked(path)


# ---- the curve


def test_the_curve_of_a_linear_model_is_exact_on_both_sides() -> None:
    x, y = points()
    radii = [0.6, 0.1, 0.3]
    curve = accuracy_curve(line(), x, y, THREAT, radii, [FGSM()], verify="crown")
    assert [point.radius for point in curve] == sorted(radii)
    for point in curve:
        exact = float((x[:, 0].abs() > point.radius).double().mean())
        assert point.verified == pytest.approx(exact)
        assert point.not_broken == pytest.approx(exact)


def test_both_sides_of_the_curve_fall_with_the_radius() -> None:
    x, _ = points()
    model = net()
    y = model(x).argmax(1)
    curve = accuracy_curve(model, x, y, THREAT, [0.05, 0.1, 0.2, 0.4], [PGD(steps=5)], verify="crown")
    for before, after in pairwise(curve):
        assert before.verified >= after.verified
        assert before.not_broken >= after.not_broken
    assert all(point.verified <= point.not_broken for point in curve)
    with pytest.raises(InputError, match="radii must be numbers"):
        accuracy_curve(model, x, y, THREAT, [])


# ---- probabilities


def test_probabilities_are_refused_and_their_logarithm_is_offered() -> None:
    x, _ = points()
    model = nn.Sequential(net(), nn.Softmax(1))
    y = model(x).argmax(1)
    with pytest.raises(InputError, match="must return logits, got probabilities"):
        evaluate(model, x, y, THREAT, [FGSM()], verify=None)
    wrapped = evaluate(LogOutputs(model), x, y, THREAT, [PGD(steps=5, start="example")], verify=None)
    plain = evaluate(net(), x, y, THREAT, [PGD(steps=5, start="example")], verify=None)
    assert torch.equal(wrapped.robust, plain.robust)
    torch.testing.assert_close(wrapped.loss, plain.loss)
    assert json.dumps(wrapped.table())
