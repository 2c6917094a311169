"""After an epoch: how the network does on the validation part, and whether its weights are the best so
far.
"""

import math
from dataclasses import replace

from holdfast.evaluation import evaluate
from holdfast.jobs.session import Session, attacked_at_once
from holdfast.record.plain import figure
from holdfast.record.schema import EpochFigures


def validate(session: Session, row: EpochFigures) -> EpochFigures:
    """The row with the figures of the validation part under its attack; keeps the weights where
    they are the best so far.

    Best by ``robust_loss`` (what the certificate is about) or by ``robust_accuracy``, the other one deciding
    between equals.
    """
    with session.averaged():
        return _validated(session, row)


def _validated(session: Session, row: EpochFigures) -> EpochFigures:
    part, model, attack = session.data.validation, session.model, session.validation.attack
    assert attack is not None  # the run has its default
    model.eval()
    # Every example is attacked to the end, since its loss is wanted, in pieces that memory can hold.
    result = evaluate(
        model,
        part.x.to(session.device),
        part.y.to(session.device),
        session.threat,
        (attack,),
        loss=session.loss,
        verify=None,
        drop_broken=False,
        seed=session.seed,
        batch_size=attacked_at_once(model),
        examine=False,
    )
    model.train()
    best, robust, loss = session.best, result.robust_accuracy, float(result.loss.mean())

    def rank(accuracy: float, loss: float) -> tuple[float, float]:
        return (accuracy, -loss) if session.validation.best_by == "robust_accuracy" else (-loss, accuracy)

    if math.isfinite(loss) and rank(robust, loss) > rank(best.accuracy, best.loss):
        best.accuracy, best.loss, best.epoch, best.weights = robust, loss, row.epoch or 0, session.current()
    return replace(
        row, clean_accuracy=result.clean_accuracy, robust_accuracy=robust, robust_loss=figure(loss)
    )
