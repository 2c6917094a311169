"""The optimal robust loss in a kernel's space: against a reference solver, closed forms, and its own two ends."""

import math
from dataclasses import dataclass

import cvxpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import holdfast as hf
from holdfast.errors import InputError
from holdfast.losses import CrossEntropy
from holdfast.theory import KernelSpec, into_network, ntk, optimal_robust_loss
from holdfast.theory.optimal import KernelClass, TangentClass
from holdfast.theory.optimal.finite import FiniteProblem
from holdfast.theory.optimal.function_class import weight_step
from holdfast.theory.optimal.reference import reference_loss

RELU = ntk(KernelSpec(activation="relu", normalised=False, constant=0.5))


def inner(first: Tensor, second: Tensor) -> Tensor:
    """The kernel of linear functions through 0."""
    return first.flatten(1) @ second.flatten(1).T


def clouds(examples: int, features: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(examples) % classes
    centres = torch.randn(classes, features, generator=draw, dtype=torch.float64)
    return centres[y] + 0.7 * torch.randn(examples, features, generator=draw, dtype=torch.float64), y


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("radius", [1.0, 6.0])
def test_the_finite_problem_agrees_with_an_interior_point_solver(classes: int, radius: float) -> None:
    x, y = clouds(9, 3, classes)
    owner = torch.arange(9).repeat(3)
    points = x.repeat(3, 1) + 0.2 * torch.randn(
        27, 3, generator=torch.Generator().manual_seed(1), dtype=x.dtype
    )
    gram, outputs = RELU(points), 1 if classes == 2 else classes
    problem = FiniteProblem(
        gram=gram,
        start=gram.new_zeros(27, outputs),
        owner=owner,
        labels=y[owner],
        examples=9,
        loss=hf.CrossEntropy(),
        temperature=1e-4,
    )
    theta, _ = problem.solve_in_ball(gram.new_zeros(27, outputs), radius)
    reference = reference_loss(problem, radius)
    lower = problem.line(problem.state(theta)).at(radius)
    upper = float(problem.state(theta * (radius / theta.norm())).worst.mean())
    assert lower <= reference + 1e-6
    assert upper >= reference - 1e-6
    assert upper - lower < 2e-3


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_robust_linear_functions_have_a_closed_form(norm: str) -> None:
    """``sup loss(w.x', y) = log(1 + exp(-(y w.x - r ||w||_dual)))``: a problem in ``w`` alone."""
    x, y = clouds(30, 4, 2)
    curve = optimal_robust_loss(inner, x, y, hf.LpBall(norm, 0.3), [0.5, 2.0], tolerance=2e-3)
    signs = (2 * y - 1).numpy()
    for radius, lower, upper in zip(curve.radii, curve.lower, curve.upper, strict=True):
        w = cvxpy.Variable(4)
        margins = cvxpy.multiply(signs, x.numpy() @ w) - 0.3 * cvxpy.norm(w, {"2": 2, "inf": 1}[norm])
        problem = cvxpy.Problem(
            cvxpy.Minimize(cvxpy.sum(cvxpy.logistic(-margins)) / 30), [cvxpy.norm(w, 2) <= radius]
        )
        reference = problem.solve(solver=cvxpy.CLARABEL)
        assert lower - 1e-6 <= reference <= upper + 1e-6
        assert upper - lower <= 2e-3


def test_a_line_of_grid_points_brackets_the_same_value() -> None:
    """In one dimension a fine grid of each threat set is the whole problem."""
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    y = torch.tensor([0, 0, 1, 1, 0, 1])
    curve = optimal_robust_loss(RELU, x, y, hf.LpBall("inf", 0.15), [3.0, 30.0], tolerance=1e-3)
    offsets = torch.linspace(-0.15, 0.15, 13, dtype=torch.float64)
    grid, owner = (x + offsets).reshape(-1, 1), torch.arange(6).repeat_interleave(13)
    problem = FiniteProblem(
        gram=RELU(grid),
        start=grid.new_zeros(78, 1),
        owner=owner,
        labels=y[owner],
        examples=6,
        loss=hf.CrossEntropy(),
        temperature=1e-4,
    )
    for radius, lower, upper in zip(curve.radii, curve.lower, curve.upper, strict=True):
        reference = reference_loss(problem, radius)
        assert float(lower) <= reference + 2e-4  # the root's jitter
        assert float(upper) >= reference - 2e-4
        assert float(upper - lower) <= 1e-3


@pytest.mark.parametrize(
    ("radius", "low", "high", "accuracy", "clean"),
    [
        (5.0, 0.5493, 0.5505, 0.846, 0.415),
        pytest.param(20.0, 0.3380, 0.3410, 0.894, 0.124, marks=pytest.mark.slow),
        pytest.param(60.0, 0.1496, 0.1564, 0.966, 0.022, marks=pytest.mark.slow),
        pytest.param(200.0, 0.0098, 0.0144, 1.000, 0.0001, marks=pytest.mark.slow),
    ],
)
def test_reference_figures_of_digits_three_against_eight(
    radius: float, low: float, high: float, accuracy: float, clean: float
) -> None:
    """An independent prototype's brackets (float64): ours overlap them."""
    data = hf.data.on_sphere(hf.data.digits(classes=(3, 8), validation=0.0, test=0.0))
    kernel = ntk(KernelSpec(activation="relu", normalised=False))
    threat = hf.LpBall("2", 0.1, fixed=data.fixed)
    curve = optimal_robust_loss(kernel, data.train.x, data.train.y, threat, [radius], tolerance=5e-3)
    assert float(curve.lower) <= high
    assert float(curve.upper) >= low
    assert curve.width <= 5e-3
    assert float(curve.accuracy) == pytest.approx(accuracy, abs=0.02)
    assert float(curve.clean_loss) == pytest.approx(clean, abs=0.01)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    radius=st.floats(0.3, 20.0),
    loss=st.sampled_from(("cross-entropy", "hinge", "squared")),
    classes=st.integers(2, 3),
)
def test_every_line_lies_below_every_function_of_the_ball(
    seed: int, radius: float, loss: str, classes: int
) -> None:
    """Random functions of the ball, and random duals: `FiniteProblem.line` must hold at all of them, at any radius."""
    x, y = clouds(8, 3, classes, seed)
    owner = torch.arange(8).repeat(2)
    points = torch.cat([x, x + 0.1])
    outputs = 1 if classes == 2 else classes
    gram = RELU(points)
    problem = FiniteProblem(
        gram=gram,
        start=gram.new_zeros(16, outputs),
        owner=owner,
        labels=y[owner],
        examples=8,
        loss=hf.losses.loss_named(loss),
        temperature=0.01,
    )
    draw = torch.Generator().manual_seed(seed)

    def function() -> Tensor:
        theta = torch.randn(16, outputs, generator=draw, dtype=gram.dtype)
        return theta * (radius / theta.norm())

    line = problem.line(problem.state(function() * 0.5))
    best, _ = problem.solve_in_ball(function(), radius)
    best = best * min(1.0, radius / float(best.norm()))
    for theta in (function(), best):
        assert float(problem.state(theta).worst.mean()) >= line.at(radius) - 1e-9
    assert float(problem.state(best).worst.mean()) >= problem.line(problem.state(best)).at(radius) - 1e-9


def test_the_tangent_class_of_a_network_is_its_linearisation() -> None:
    """`TangentClass`: Gram matrix, start and predictor all agree with the network and its weight step, three outputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, _ = clouds(5, 3, 3)
    functions = TangentClass(model, x)
    coefficients = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    gram = functions.gram(x, x)
    by_gram = functions.start(x) + (gram @ coefficients.reshape(-1, 1)).reshape(5, 3)
    assert torch.allclose(functions.predictor(x, coefficients)(x), by_gram, atol=1e-10)
    step = weight_step(model, x, coefficients)
    norm = math.sqrt(sum(float(part.square().sum()) for part in step.values()))
    assert norm == pytest.approx(float((coefficients.reshape(-1) @ gram @ coefficients.reshape(-1)).sqrt()))
    with torch.no_grad():  # the network itself along a short step
        tiny = {name: p + 1e-5 * step[name] for name, p in model.named_parameters()}
        moved = torch.func.functional_call(model, tiny, (x,))
    assert torch.allclose((moved - model(x)) / 1e-5, by_gram - functions.start(x), atol=1e-3)


def test_a_finite_networks_bracket_holds_for_its_own_linear_class() -> None:
    model = hf.networks.TwoLayer(2, 2, width=64, activation="relu", constant=0.5)
    x, y = clouds(12, 2, 2, 3)
    curve = optimal_robust_loss(model, x, y, hf.LpBall("2", 0.1), [2.0, 8.0], tolerance=3e-3)
    assert float(curve.upper[1]) < float(curve.lower[0]) < math.log(2)
    assert curve.width <= 3e-3
    # the same step from the solution, in the network's own linear class, by another attack
    solution = curve.solutions[1]
    step = weight_step(TangentClass(model, x).model, solution.points, solution.coefficients)
    assert math.sqrt(sum(float(p.square().sum()) for p in step.values())) <= 8.0 * (1 + 1e-6)
    found = hf.PGD(steps=30, restarts=2).run(solution.predictor, x, y, hf.LpBall("2", 0.1))
    assert float(found.loss.mean()) <= float(curve.upper[1]) + 1e-3
    assert float(found.loss.mean()) >= float(curve.lower[1]) - 5e-3


def test_a_solution_in_finite_weights_tends_to_itself_as_width_grows() -> None:
    """Outputs, norm and robust loss, binary and three outputs; the existence proof."""
    threat = hf.LpBall("2", 0.1)
    for classes in (2, 3):
        x, y = clouds(12, 2, classes, 3)
        errors, norms, curve = [], [], None
        for width in (60, 960, 15360):
            model = hf.networks.TwoLayer(2, classes, width=width, activation="relu", constant=0.5, seed=1)
            if curve is None:  # one kernel for all widths
                curve = optimal_robust_loss(ntk(model), x, y, threat, [6.0], tolerance=5e-3)
            network = into_network(curve.solutions[0], model)
            size = float((network.weight - model.weight).detach().norm())
            found = hf.PGD(steps=20).run(network, x.float(), y, threat)
            errors.append(abs(float(found.loss.mean()) - float(curve.upper)))
            norms.append(abs(size / 6.0 - 1))
        assert errors[2] < errors[0]
        assert errors[2] < 0.03
        assert norms[2] < 0.03
        with pytest.raises(hf.InputError, match="outputs, as the solution has"):
            into_network(curve.solutions[0], hf.networks.TwoLayer(2, 5 - classes, width=60, constant=0.5))


def test_the_whole_curve() -> None:
    x, y = clouds(20, 3, 2, 5)
    threat = hf.LpBall("2", 0.2)
    curve = optimal_robust_loss(RELU, x, y, threat, [20.0, 0.0, 5.0], tolerance=2e-3)
    assert curve.upper[1] == pytest.approx(math.log(2), abs=1e-9)
    assert curve.lower[1] == pytest.approx(math.log(2), abs=1e-9)
    assert curve.upper[0] < curve.upper[2] < curve.upper[1]
    clean = optimal_robust_loss(RELU, x, y, None, [5.0, 20.0])
    assert clean.width < 1e-3
    assert clean.lower[0] <= curve.upper[2]
    middle = optimal_robust_loss(RELU, x, y, threat, [10.0], tolerance=2e-3)
    lower, upper = curve.at(10.0)
    assert lower <= middle.upper[0]
    assert upper >= middle.lower[0]
    for solution in curve.solutions:
        assert KernelClass(RELU, 1).gram(solution.points, solution.points).shape[0] == len(
            solution.coefficients
        )
        size = float((solution.coefficients * (RELU(solution.points) @ solution.coefficients)).sum().sqrt())
        assert size <= solution.radius * (1 + 1e-9)
    low, high = curve.radius_for(float(middle.upper[0]))
    assert low <= 10.0 + 1e-6
    assert high >= 10.0 - 0.5
    assert curve.radius_for(1e-12)[1] == math.inf
    assert curve.radius_for(1.0) == (0.0, 0.0)


def test_a_loss_whose_minimum_lies_inside_the_ball() -> None:
    """Squared loss, clean, plenty of radius: the least norm that interpolates is all that is used."""
    x, y = clouds(10, 3, 2, 7)
    curve = optimal_robust_loss(RELU, x, y, None, [1e4], loss=hf.Squared())
    assert float(curve.upper[0]) < 1e-3
    assert float(curve.lower[0]) <= float(curve.upper[0])


def test_the_rise_ends_where_the_loss_is_low_enough() -> None:
    x, y = clouds(10, 3, 2, 5)
    curve = optimal_robust_loss(RELU, x, y, None, [40.0, 0.5, 10.0, 0.25], until=0.5)
    assert curve.radii == (0.5, 0.25)
    assert curve.upper[1] > 0.5 >= curve.upper[0]


def test_a_bracket_that_stays_wide_ends_after_its_rounds() -> None:
    """Threat sets of different labels that meet: the optimum stays high, and a tolerance out of reach is not waited for."""
    x, y = clouds(8, 2, 2, 4)
    threat = hf.LpBall("2", 1.5)
    wide = optimal_robust_loss(RELU, x, y, threat, [5.0, 30.0], tolerance=1e-7, rounds=3)
    narrow = optimal_robust_loss(RELU, x, y, threat, [5.0], tolerance=0.02)
    assert wide.width > 1e-3
    assert float(narrow.lower[0]) > 0.3
    assert float(wide.lower[0]) <= float(narrow.upper[0])
    assert float(wide.upper[0]) >= float(narrow.lower[0])


def test_repeats_bit_for_bit() -> None:
    x, y = clouds(15, 3, 3, 9)
    first, second = (optimal_robust_loss(RELU, x, y, hf.LpBall("inf", 0.1), [4.0], seed=3) for _ in range(2))
    assert torch.equal(first.upper, second.upper)
    assert torch.equal(first.lower, second.lower)


def test_what_is_refused() -> None:
    x, y = clouds(6, 3, 2)
    for radii in ([], [-1.0], [math.nan]):
        with pytest.raises(hf.InputError, match="radii must be a sequence"):
            optimal_robust_loss(RELU, x, y, None, radii)
    with pytest.raises(hf.InputError, match="kernel must be"):
        optimal_robust_loss("relu", x, y, None, [1.0])
    with pytest.raises(hf.InputError, match="one row per example"):
        optimal_robust_loss(RELU, x, y[:3], None, [1.0])
    with pytest.raises(hf.InputError, match="bounds"):
        optimal_robust_loss(RELU, x + 5, y, hf.LpBall("inf", 0.1, bounds=(0.0, 1.0)), [1.0])
    curve = optimal_robust_loss(RELU, x, y, None, [1.0])
    with pytest.raises(hf.InputError, match="radius must be"):
        curve.at(-1.0)


def test_too_little_memory_is_refused_with_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast._memory.free_bytes", lambda device: 500)
    x, y = clouds(6, 3, 2)
    with pytest.raises(hf.InputError, match=r"working set of 6 points .* needs"):
        optimal_robust_loss(inner, x, y, None, [1.0])


def test_the_bracket_never_starts_below_the_least_value_of_the_loss() -> None:
    x, y = torch.tensor([[1.0, 0.2], [-0.9, 0.4], [0.8, -0.5]]), torch.tensor([0, 1, 0])
    loss = CrossEntropy(label_smoothing=0.3)
    curve = optimal_robust_loss(KernelSpec(activation="softplus"), x, y, None, radii=[1e3], loss=loss)
    assert float(curve.lower) >= float(loss.floor(1, y).mean())


@dataclass(frozen=True)
class Claimed(CrossEntropy):
    """Says that it is convex, and is not."""

    convex = True
    nonnegative = True

    def __call__(self, outputs, labels):
        return super().__call__(outputs, labels).sqrt()


def test_a_loss_that_does_not_keep_its_claims_is_refused() -> None:
    x, y = torch.tensor([[1.0, 0.2], [-0.9, 0.4]]), torch.tensor([0, 1])
    with pytest.raises(InputError, match="tangent"):
        optimal_robust_loss(KernelSpec(activation="softplus"), x, y, None, radii=[1.0], loss=Claimed())
