"""What is watched from epoch to epoch: whether robustness holds while the training loss falls."""

from dataclasses import replace

import torch

from holdfast.attacks import PGD
from holdfast.diagnosis.rules import collapse
from holdfast.evaluation import evaluate
from holdfast.evaluation.cascade import drawn
from holdfast.jobs.session import Session, attacked_at_once
from holdfast.record.known import robust_by_epoch
from holdfast.record.schema import EpochFigures

PROBED = 256
"""Training examples that a probe attacks: their accuracy is off by about three points by chance."""


def watched(session: Session, row: EpochFigures) -> EpochFigures:
    """The row with the probe where training needs one, and with what it shows: catastrophic overfitting in this epoch."""
    row = probed(session, row) if _needs_probe(session, row) else row
    found = collapse(robust_by_epoch([*session.rows, row]))
    if found is None or found.epoch != row.epoch:
        return row
    return replace(row, event=found.sentence)


def _needs_probe(session: Session, row: EpochFigures) -> bool:
    """Only training against a single step overfits to it within an epoch, and the validation part shows it too."""
    objective = session.objective
    single = objective.carries or (objective.searches and session.attack.passes == 1)
    return row.robust_accuracy is None and single


def probed(session: Session, row: EpochFigures) -> EpochFigures:
    """The row with the accuracy of some training examples under PGD of ten steps, the same ones in each epoch."""
    rows = drawn(len(session.x), PROBED, session.seed)
    rows = torch.arange(len(session.x)) if rows is None else rows
    rows = rows.to(session.x.device)
    with session.averaged():
        session.model.eval()
        found = evaluate(
            session.model,
            session.x[rows],
            session.y[rows],
            session.threat,
            (PGD(steps=10),),
            loss=session.loss,
            verify=None,
            seed=session.seed,
            batch_size=attacked_at_once(session.model),
            examine=False,
        )
        session.model.train()
    return replace(row, probe_accuracy=found.robust_accuracy)
