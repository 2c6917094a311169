"""FAB: its projections against scipy, exactness on linear models, and what it promises of every search."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog
from torch import Tensor, nn

from attack_cases import (
    CASES,
    FEATURES,
    NORMS,
    Case,
    check_contract,
    check_nothing_lost,
    check_towards_a_class,
    examples,
    network,
    threat_of,
)
from holdfast.attacks._hyperplane import shortest_step
from holdfast.attacks.fab import FAB
from holdfast.errors import InputError
from holdfast.threats.lp import LpBall
from holdfast.threats.sphere import SphereSlice

NUMBERS = st.floats(-3, 3, allow_subnormal=False).map(lambda number: round(number, 3))
ROOMS = st.one_of(st.just(0.0), st.just(math.inf), st.floats(0.01, 2))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    features = draw(st.integers(1, 8))
    weight, low, high = (
        draw(st.lists(kind, min_size=features, max_size=features)) for kind in (NUMBERS, ROOMS, ROOMS)
    )
    gap = draw(NUMBERS)
    tensors = (torch.tensor(values, dtype=torch.float64) for values in (weight, low, high, [gap]))
    weight_, low_, high_, gap_ = tensors
    return weight_[None], -low_[None], high_[None], gap_


def reach(weight: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> float:
    """The most that any step within the limits can bring towards the gap, in its direction."""
    towards = weight * (1.0 if float(gap) >= 0 else -1.0)
    room = torch.where(towards > 0, high, low)
    return float(torch.where(towards == 0, 0.0, towards * room).sum())


def least_norm(norm: str, weight: Tensor, gap: Tensor, low: Tensor, high: Tensor) -> float:
    """The optimum by an independent route: linear programs for l-inf and l1, bisection on the multiplier for l2."""
    w, lo, hi, c = weight[0].numpy(), low[0].numpy(), high[0].numpy(), float(gap)
    features = len(w)
    if norm == "2":
        step = lambda s: np.clip(s * w, lo, hi)  # noqa: E731
        short = lambda s: float(w @ step(s)) - c  # noqa: E731
        far = 1.0
        while short(far) < 0 or short(-far) > 0:
            far *= 2
            if far > 1e12:
                break
        return float(np.linalg.norm(step(brentq(short, -far, far, xtol=1e-14, rtol=1e-14, maxiter=500))))
    if norm == "inf":  # variables: step and its largest magnitude
        cost = np.r_[np.zeros(features), 1.0]
        above = np.c_[np.r_[np.eye(features), -np.eye(features)], -np.ones(2 * features)]
        found = linprog(
            cost,
            A_ub=above,
            b_ub=np.zeros(2 * features),
            A_eq=np.r_[w, 0.0][None],
            b_eq=[c],
            bounds=[*zip(lo, hi, strict=True), (0, None)],
        )
    else:  # variables: how far up and how far down
        found = linprog(
            np.ones(2 * features),
            A_eq=np.r_[w, -w][None],
            b_eq=[c],
            bounds=[*((0, edge) for edge in hi), *((0, -edge) for edge in lo)],
        )
    assert found.status == 0
    return float(found.fun)


@pytest.mark.parametrize("norm", NORMS)
@given(problem=problems())
def test_the_step_is_the_shortest_onto_the_hyperplane(
    norm: str, problem: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    weight, low, high, gap = problem
    step = shortest_step(weight, gap, norm, low, high)
    assert bool(((low <= step) & (step <= high)).all())
    got, most = float((weight * step).sum()), reach(weight, gap, low, high)
    if abs(float(gap)) >= most:  # out of reach, or just
        assert abs(got) == pytest.approx(most, rel=1e-9, abs=1e-12)
        return
    assert got == pytest.approx(float(gap), rel=1e-9, abs=1e-12)
    if most - abs(float(gap)) < 1e-6:
        return  # the reference solvers call these infeasible
    length = float(torch.linalg.vector_norm(step, ord=float(norm)))
    assert length == pytest.approx(least_norm(norm, weight, gap, low, high), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("norm", NORMS)
def test_without_limits_the_step_has_the_dual_distance(norm: str, rng: torch.Generator) -> None:
    weight = torch.randn(50, 300, generator=rng, dtype=torch.float64)
    gap = torch.randn(50, generator=rng, dtype=torch.float64)
    step = shortest_step(weight, gap, norm)
    dual = torch.linalg.vector_norm(weight, ord={"inf": 1, "2": 2, "1": math.inf}[norm], dim=1)
    torch.testing.assert_close((weight * step).sum(1), gap)
    torch.testing.assert_close(torch.linalg.vector_norm(step, ord=float(norm), dim=1), gap.abs() / dual)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e30])
def test_float32_agrees_with_float64_at_any_scale(norm: str, magnitude: float, rng: torch.Generator) -> None:
    """Wide rows, so that l1 needs more features than its first guess in some."""
    weight = magnitude * torch.randn(40, 500, generator=rng)
    low, high = (sign * torch.rand(40, 500, generator=rng) for sign in (-1.0, 1.0))
    room = torch.where(weight > 0, high, low)
    gap = (weight * room).sum(1) * torch.linspace(0.01, 1.2, 40)
    narrow = shortest_step(weight, gap, norm, low, high)
    wide = shortest_step(weight.double(), gap.double(), norm, low.double(), high.double())
    torch.testing.assert_close(narrow.double(), wide, rtol=2e-4, atol=2e-4)
    assert narrow.dtype == torch.float32
    reached = (weight.double() * wide).sum(1)
    torch.testing.assert_close(reached[:30], gap[:30].double())


@pytest.mark.parametrize("norm", NORMS)
def test_no_weight_is_no_step(norm: str) -> None:
    weight, gap = torch.zeros(2, 4), torch.tensor([1.0, 0.0])
    assert torch.equal(shortest_step(weight, gap, norm), torch.zeros(2, 4))
    assert torch.equal(
        shortest_step(weight, gap, norm, -torch.ones(2, 4), torch.ones(2, 4)), torch.zeros(2, 4)
    )


ATTACKS = [FAB(steps=8), FAB(steps=6, targets=9), FAB(steps=5, targets=2, restarts=2, patience=None)]


@pytest.mark.parametrize(("number", "case"), list(enumerate(CASES)), ids=str)
def test_the_contract(number: int, case: Case) -> None:
    check_contract(ATTACKS[number % len(ATTACKS)], case)


@pytest.mark.parametrize("norm", NORMS)
def test_no_misclassified_point_inside_is_lost(norm: str) -> None:
    for kind in ("box", "fixed", "own"):
        case = Case(norm=norm, kind=kind, outputs=3, dtype=torch.float32)
        assert check_nothing_lost(FAB(steps=6, targets=2), case, 1.0) > 0


def linear(outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(FEATURES, outputs).double()
    layer.weight.data = torch.randn(outputs, FEATURES, generator=generator, dtype=torch.float64)
    layer.bias.data.zero_()
    return layer


def exact_distance(model: nn.Linear, x: Tensor, y: int, norm: str) -> float:
    """Least distance from ``x`` to another class of a linear model within [0, 1], by a linear program (l2: the multiplier)."""
    weights, outputs = model.weight.detach(), model(x).detach()[0]
    if len(weights) == 1:
        sign = 2 * y - 1
        sides = [(-sign * weights[0], sign * outputs[0])]
    else:
        sides = [(weights[k] - weights[y], outputs[y] - outputs[k]) for k in range(len(weights)) if k != y]
    lengths = []
    for weight, gap in sides:
        problem = weight[None], gap[None], -x, 1 - x
        if reach(*problem) > float(gap) + 1e-9:
            lengths.append(least_norm(norm, *problem))
    return min(lengths)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("targets", [None, 2])
def test_on_a_linear_model_the_least_distance_is_found(
    norm: str, outputs: int, targets: int | None, rng: torch.Generator
) -> None:
    """The radius at which an example breaks lies within 0.1% of the least distance, and never below it."""
    model = linear(outputs, rng)
    for _ in range(2):
        x = torch.rand(1, FEATURES, generator=rng, dtype=torch.float64)
        y = (model(x)[:, 0] > 0).long() if outputs == 1 else model(x).argmax(1)
        least = exact_distance(model, x, int(y), norm)
        for factor, breaks in ((0.9999, False), (1.001, True)):
            threat = LpBall(norm, factor * least, bounds=(0.0, 1.0))
            assert bool(FAB(targets=targets).run(model, x, y, threat).success) is breaks


def test_patience_changes_no_verdict_here_and_spares_passes() -> None:
    class Counting(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.rows = model, 0

        def forward(self, x: Tensor) -> Tensor:
            self.rows += len(x)
            out: Tensor = self.model(x)
            return out

    case = Case(norm="2", kind="box", outputs=10, dtype=torch.float64)
    model, threat = network(10, torch.float64), threat_of("2", "box", 0.5)
    x, y = examples(case)
    verdicts, rows = [], []
    for patience in (10, None):
        counting = Counting(model)
        verdicts.append(FAB(targets=9, patience=patience).run(counting, x, y, threat).success)
        rows.append(counting.rows)
    assert torch.equal(*verdicts)
    assert 0 < int(verdicts[0].sum()) < len(x)
    assert rows[0] < 0.6 * rows[1]


@pytest.mark.parametrize("outputs", [1, 3, 10])
def test_towards_a_given_class(outputs: int) -> None:
    check_towards_a_class(FAB(steps=30), "2", 5.0, outputs)


def test_images_keep_their_shape(rng: torch.Generator) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4))
    x, y = torch.rand(6, 2, 4, 4, generator=rng), torch.zeros(6, dtype=torch.long)
    result = FAB(steps=3).run(model, x, y, LpBall("inf", 0.1, bounds=(0.0, 1.0)))
    assert result.x.shape == x.shape


def test_a_gradient_that_overflows_stays_in_the_set() -> None:
    class Steep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum(1), (x - 0.5).abs().sqrt().sum(1)], 1)  # infinite slope at 1/2

    x = torch.full((3, 4), 0.5)
    threat = LpBall("2", 0.1, bounds=(0.0, 1.0))
    result = FAB(steps=3).run(Steep(), x, torch.zeros(3, dtype=torch.long), threat)
    assert bool(threat.contains(result.x, x).all())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"targets": 0}, "targets"),
        ({"patience": 0}, "patience"),
        ({"overshoot": 0.9}, "overshoot"),
        ({"backward": 1.5}, "backward"),
        ({"pull": math.nan}, "pull"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], word: str) -> None:
    with pytest.raises(InputError, match=f"{word} must"):
        FAB(**options)


def test_other_threats_are_refused() -> None:
    threat = SphereSlice(0.1)
    with pytest.raises(InputError, match=r"threat must be .* SphereSlice; use PGD"):
        FAB().run(network(3, torch.float32), torch.rand(2, FEATURES), torch.tensor([0, 1]), threat)


def test_a_model_without_gradient_is_refused() -> None:
    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach()

    x = torch.eye(FEATURES)
    for attack in (FAB(), FAB(targets=1)):
        with pytest.raises(InputError, match="differentiable"):
            attack.run(Blind(), x, torch.arange(FEATURES), LpBall("inf", 0.1))


def test_names_and_passes() -> None:
    assert FAB().name == "fab-100"
    assert FAB(targets=9, restarts=2).name == "fab-100x2-targets-9"
    assert FAB(targets=9).passes == 900
