"""The finite problem by a second solver, to check the first: interior points (Clarabel) through cvxpy;
small cases, CPU.
"""

import torch

from holdfast.errors import InputError
from holdfast.losses import CrossEntropy
from holdfast.theory.optimal.finite import FiniteProblem

MOST_POINTS = 2000


def reference_loss(problem: FiniteProblem, radius: float) -> float:
    """``min 1/n sum_i max_j log-loss(f(x_j), y_i)`` over ``||f - f_0|| <= R``, as a cone program solved to
    about 1e-8.

    Only cross-entropy without smoothing, the maximum itself instead of its soft form. Needs the extra
    ``holdfast[solver]``.

    Raises:
        InputError: another loss, more than `MOST_POINTS` points, or cvxpy is not installed.
    """
    if problem.loss != CrossEntropy():
        raise InputError(
            f"the reference solver takes cross-entropy, got {problem.loss.name}; use optimal_robust_loss."
        )
    if len(problem.owner) > MOST_POINTS:
        raise InputError(
            f"the reference solver takes at most {MOST_POINTS:,} points, got {len(problem.owner):,}; "
            "take fewer examples."
        )
    try:
        import cvxpy
    except ImportError as error:
        raise InputError(
            "the reference solver needs cvxpy, which is not installed; pip install 'holdfast[solver]'."
        ) from error
    rows, columns = problem.root.shape[0], problem.columns
    theta = cvxpy.Variable((rows, columns))
    outputs = problem.start.shape[1]
    f = (
        cvxpy.reshape(problem.root.cpu().numpy() @ theta, problem.start.shape, order="C")
        + problem.start.cpu().numpy()
    )
    worst = cvxpy.Variable(problem.examples)
    limits = [cvxpy.norm(theta, "fro") <= radius]
    for point, (owner, label) in enumerate(zip(problem.owner.tolist(), problem.labels.tolist(), strict=True)):
        if outputs == 1:
            loss = cvxpy.logistic(-(2 * label - 1) * f[point, 0])
        else:
            loss = cvxpy.log_sum_exp(f[point, :]) - f[point, label]
        limits.append(loss <= worst[owner])
    program = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(worst) / problem.examples), limits)
    return float(torch.as_tensor(program.solve(solver=cvxpy.CLARABEL)))
