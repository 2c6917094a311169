"""Where training starts: at the centre of the parameter ball, at a network given, or at the solution of
the kernel limit.
"""

from torch import nn

from holdfast.errors import InputError
from holdfast.jobs.session import Session
from holdfast.theory import into_network, optimal_robust_loss
from holdfast.theory.optimal import limit_of
from holdfast.training.intervals import interval_start

STARTS = ("initial", "kernel", "interval")
TOLERANCE = 0.02
"""Width of bracket at which the kernel's solution is good enough: finite width changes it by more."""


def start_from(session: Session, start: nn.Module | str) -> None:
    """Move the model's weights to the start; the centre of the ball stays where it was.

    ``kernel``: the solution of the kernel limit at the parameter radius, written into the weights
    (`into_network`). ``interval``: weights whose interval bounds keep their width from layer to layer
    (`holdfast.training.intervals.interval_start`).

    Raises:
        InputError: an unknown word, weights that do not fit, no radius for ``kernel``, or a problem beyond
            memory.
    """
    if start == "initial":
        return
    model = session.model
    if start == "interval":
        interval_start(model, seed=session.seed)
        if session.parameter_radius is not None:
            session.ball.project(model)
        return
    found = _kernel_solution(session) if isinstance(start, str) else start
    try:
        model.load_state_dict(found.state_dict())
    except RuntimeError as error:
        raise InputError(
            f"start must be a network like model, got {type(found).__name__} whose weights do not fit "
            f"({' '.join(str(error).split())[:160]}); build it from the same arguments."
        ) from error
    if session.parameter_radius is not None:
        session.ball.project(model)


def check_start(start: nn.Module | str, parameter_radius: float | None) -> None:
    """Refuse what cannot be a start, before anything is spent."""
    if isinstance(start, str) and start not in STARTS:
        raise InputError(
            f"start must be one of {', '.join(STARTS)}, or a network like model, got {start!r}; "
            "'initial' is the usual one."
        )
    if start == "kernel" and parameter_radius is None:
        raise InputError(
            "start 'kernel' needs a parameter_radius, got none; give one, or start at 'initial'."
        )


def _kernel_solution(session: Session) -> nn.Module:
    model, radius = session.model, session.parameter_radius
    assert radius is not None  # check_start
    with session.progress.counted("solving the kernel limit") as report:
        curve = optimal_robust_loss(
            limit_of(model),
            session.x,
            session.y,
            session.threat,
            [radius],
            loss=session.loss,
            classes=session.data.classes,
            tolerance=TOLERANCE,
            seed=session.seed,
            progress=report,
        )
    session.writer.log(
        f"the kernel limit's optimal robust loss at radius {radius:g} is {float(curve.lower):.4f} to "
        f"{float(curve.upper):.4f}; training starts there"
    )
    return into_network(curve.solutions[0], model)
