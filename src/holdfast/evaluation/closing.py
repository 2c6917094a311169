"""How a network stands at the end of training: both parts of the data under the same attacks, so that they
can be compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.attacks import APGD, Attack, Square
from holdfast.evaluation.cascade import drawn, evaluate
from holdfast.evaluation.result import Evaluation, continued
from holdfast.losses import Loss
from holdfast.threats import Threat

Examples = tuple[Tensor, Tensor]

QUERIES = 250
"""Of Square on either part: both together cost less than the 800 of the suite ``fast`` on one."""


def closing_attacks(threat: Threat) -> tuple[Attack, ...]:
    """What follows the final attack: short targeted searches, which take several points that one led by
    the loss leaves, and queries.
    """
    return (
        APGD(steps=20, loss="margin", drop_broken=True),
        APGD(steps=30, targets=2, loss="margin", drop_broken=True),
        Square(queries=QUERIES),
    )


@dataclass(frozen=True, kw_only=True)
class Closing:
    """What the closing attacks left.

    Attributes:
        on_train: every training example under the final attack; those of ``rows`` met the others too.
        on_test: the test part under all of them; ``None`` where there is none.
        rows: the training examples that met the very attacks of the test part: all, or a random sample of its
            size.
        attacks: their names.
    """

    on_train: Evaluation
    on_test: Evaluation | None
    rows: Tensor
    attacks: tuple[str, ...]

    def record(self, trained_against: Tensor) -> dict[str, Any]:
        """Counts for ``summary.json``.

        Args:
            trained_against: whether each training example holds under the attack of training, (examples,).
        """
        held = self.on_train.clean & trained_against.cpu()
        return {
            "attacks": list(self.attacks),
            "train": {
                "examples": len(self.rows),
                "population": len(self.on_train.y),
                "robust": int(self.on_train.robust[self.rows].sum()),
                "under_training_attack": int(held[self.rows].sum()),
            },
            "test": None
            if self.on_test is None
            else {"examples": len(self.on_test.y), "robust": int(self.on_test.robust.sum())},
        }


def close(
    model: nn.Module,
    train: Examples,
    test: Examples | None,
    threat: Threat,
    final: Attack,
    *,
    loss: Loss,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Closing:
    """Attack both parts alike.

    On the training part every example meets ``final`` to the end, since its loss is wanted and not only
    whether it breaks; a random sample as large as the test part goes on to the other attacks, which the test
    part meets too.
    """
    further = closing_attacks(threat)
    x, y = train
    on_train = evaluate(
        model,
        x,
        y,
        threat,
        (final,),
        verify=None,
        loss=loss,
        drop_broken=False,
        seed=seed,
        examine=False,
        progress=lambda _, done, total: progress(0.6 * done / max(1, total)),
    )
    on_test, rows = None, None
    if test is not None:
        on_test = evaluate(model, *test, threat, (final, *further), verify=None, seed=seed, examine=False)
        rows = drawn(len(x), len(test[0]), seed)
    progress(0.8)
    rows = torch.arange(len(x)) if rows is None else rows
    held = rows[on_train.robust[rows]]
    if len(held):
        places = held.to(x.device)
        more = evaluate(
            model, x[places], y[places], threat, further, verify=None, loss=loss, seed=seed, examine=False
        )
        on_train = continued(on_train, held, more)
    progress(1.0)
    return Closing(
        on_train=on_train,
        on_test=on_test,
        rows=rows,
        attacks=(final.name, *(attack.name for attack in further)),
    )
