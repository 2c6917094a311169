"""What follows training: frozen passes, the certificate, a stronger attack, the summary."""

import torch

from holdfast._defaults import VERIFY
from holdfast.certificates import Certificate, FrozenPass, certify_trace, evaluated_pass
from holdfast.certificates.certificate import void
from holdfast.evaluation.closing import FAST, SHARE, Closing, close, examples_within
from holdfast.jobs.rows import at_radius, with_bounds
from holdfast.jobs.session import Session
from holdfast.jobs.summary import Results, summarise
from holdfast.record.plain import to_plain
from holdfast.record.run import Run
from holdfast.record.schema import Summary
from holdfast.trace import Evaluated

INTERRUPTED = "the run was interrupted before it was certified"


def save(session: Session, why: str = INTERRUPTED, *, checkpoint: bool = True) -> Run:
    """The run as it stands, its certificate void for this reason: whatever happens from here on, the
    folder can be loaded and resumed.
    """
    reason = f"{why.rstrip('.')}; resume the run to certify it"
    results = Results(certificate=void(reason, session.parameter_radius or float("nan")))
    summary = summarise(session, results)
    session.save(summary, checkpoint=checkpoint)
    return _run(session, results, summary)


def conclude(session: Session) -> Run:
    """Certify and evaluate the last weights."""
    with session.progress.stage("attacking every example once more, at frozen weights"):
        passed = session.frozen("the last weights", seed=session.seed + 1)
        session.writer.attacked(passed.points)
        others = _best_pass(session)
    certificate = _certified(session, passed, others)
    session.writer.log(_logged(certificate))
    data = session.data
    part = data.test
    test = (part.x.to(session.device), part.y.to(session.device)) if len(part) else None
    if session.closing == "none":
        session.writer.log("no closing evaluation: closing was none")
        return _written(session, Results(certificate=certificate, passed=passed, others=tuple(others)))
    with session.progress.counted("attacking the trained network harder, on both parts alike") as report:
        closing = close(
            session.model,
            (session.x, session.y),
            test,
            session.threat,
            session.final,
            loss=session.loss,
            seed=session.seed,
            verify=VERIFY if session.objective.certified else None,
            most=_most(session),
            progress=report,
        )
    _say_sampled(session, closing)
    return _written(
        session, Results(certificate=certificate, passed=passed, others=tuple(others), closing=closing)
    )


def _most(session: Session) -> int | None:
    """How many examples of either part the finished network is attacked on; ``None`` for all."""
    if session.closing != "auto":
        return FAST if session.closing == "fast" else None
    # Counted in passes and not in seconds, so that a run repeats. Beside the attack a step takes about one.
    objective = session.objective
    a_step = 1 + (session.attack.passes if objective.searches else 0)
    of_both = len(session.y) / (1 if session.extra is None else 1 - session.extra.share)
    trained = session.state.epoch * of_both * objective.replays * a_step
    return examples_within(
        SHARE * trained, len(session.y), len(session.data.test), session.threat, session.final
    )


def _say_sampled(session: Session, closing: Closing) -> None:
    """That samples were attacked, and what the whole parts would cost."""
    attacked, whole = len(closing.train_rows) + len(closing.test_rows), closing.train + closing.test
    if attacked < whole:
        said = (
            f"the closing evaluation attacked {attacked:,} of {whole:,} examples; all of them (closing standard) "
            f"take {whole / attacked:.0f} times as long"
        )
        session.writer.log(said)
        session.progress.say(said)


def _logged(certificate: Certificate) -> str:
    """The outcome in one line; without a figure where the bound says nothing."""
    said = f"gap {certificate.gap:.6g}" if certificate.informative else "nothing can be said"
    said = "no claim" if certificate.status == "void" else said
    return f"certificate: {certificate.status}, {said} at radius {certificate.radius:.6g}"


def _best_pass(session: Session) -> list[Evaluated]:
    """A frozen pass at the best weights, where they differ from the last: it competes for the surrogate
    loss.
    """
    current, best = session.current(), session.best.weights
    if best is None or all(torch.equal(best[name], tensor) for name, tensor in current.items()):
        return []
    session.model.load_state_dict(best)
    passed = session.frozen("the best weights", seed=session.seed + 2)
    session.model.load_state_dict(current)
    return [] if passed.fault else [evaluated_pass(passed, max(passed.evaluated.distance), 0.0)]


def _certified(session: Session, passed: FrozenPass, others: list[Evaluated]) -> Certificate:
    # Weights that have not moved at all are in a ball of any radius.
    moved = max(passed.evaluated.distance) * (1 + 1e-6)
    radius = session.certificate.radius or session.parameter_radius or moved or 1.0
    if radius != session.recorder.radius:
        session.state.windows = at_radius(session.state.windows, radius)
        session.rows[:] = with_bounds(session.rows, session.state.windows)
    with session.progress.counted("certifying in float64") as report:
        return certify_trace(
            session.trace(),
            passed,
            radius,
            others=others,
            evaluations=max(1, session.certificate.tighten),
            seed=session.seed,
            networks=() if session.best.weights is None else (session.best.weights,),
            progress=report,
        )


def _written(session: Session, results: Results) -> Run:
    """The run's figures, in its folder too."""
    with session.writer.together():
        summary = summarise(session, results)
        session.writer.metrics(session.rows)
        session.writer.summary(summary)
    return _run(session, results, summary)


def _run(session: Session, results: Results, summary: Summary) -> Run:
    return Run(
        folder=session.folder,
        model=session.model,
        summary=to_plain(summary),
        metrics=to_plain(session.rows),
        certificate=results.certificate,
        best=session.best.weights or session.current(),
    )
