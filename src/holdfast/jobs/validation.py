"""After an epoch: how the network does on the validation part, and whether its weights are the best so far."""

import math
from typing import Any

from holdfast.evaluation import evaluate
from holdfast.jobs.session import Session, attacked_at_once
from holdfast.training import EpochRecord

BEST_BY = ("robust_loss", "robust_accuracy")


def validate(session: Session, record: EpochRecord) -> dict[str, Any]:
    """Figures of the validation part under ``session.evaluation``; keeps the weights where they are the best so far.

    Best by ``robust_loss`` (what the certificate is about) or by ``robust_accuracy``, the other one deciding between equals.
    """
    part, model = session.data.validation, session.model
    model.eval()
    # Every example is attacked to the end, since its loss is wanted, in pieces that memory can hold.
    result = evaluate(
        model, part.x.to(session.device), part.y.to(session.device), session.threat, (session.evaluation,),
        loss=session.loss, verify=None, drop_broken=False, seed=session.seed, batch_size=attacked_at_once(model),
        examine=False,
    )  # fmt: skip
    model.train()
    best, robust, loss = session.best, result.robust_accuracy, float(result.loss.mean())

    def rank(accuracy: float, loss: float) -> tuple[float, float]:
        return (accuracy, -loss) if session.best_by == "robust_accuracy" else (-loss, accuracy)

    if math.isfinite(loss) and rank(robust, loss) > rank(best.accuracy, best.loss):
        best.accuracy, best.loss, best.epoch, best.weights = robust, loss, record.epoch, session.current()
    return {"clean_accuracy": result.clean_accuracy, "robust_accuracy": robust, "robust_loss": loss}
