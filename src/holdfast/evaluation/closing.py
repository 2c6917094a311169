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

FAST = 1000
"""Examples of either part that a fast closing evaluation attacks."""
SMALL = 2_000
"""Examples in all up to which a closing evaluation attacks every one where nothing is said: it takes seconds."""
FEWEST = 200
"""Examples of either part that are attacked however short training was: fewer say little."""
SHARE = 1 / 3
"""Of training's passes that a closing evaluation may take where nothing is said."""
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


def examples_within(passes: float, train: int, test: int, threat: Threat, final: Attack) -> int | None:
    """How many examples of either part a closing evaluation attacks for so many passes at the most; ``None`` for all.

    Counted as if no example broke, which is the most it takes.

    Args:
        passes: forward and backward passes over one example.
        train, test: examples of either part.
        threat, final: of the evaluation.

    >>> import holdfast as hf
    >>> examples_within(1e6, 60_000, 10_000, hf.LpBall("inf", 0.1), hf.PGD(steps=40))
    2016
    """
    further = sum(attack.passes for attack in closing_attacks(threat))

    def cost(most: int) -> int:
        few, tested = min(most, train), min(most, test)
        return few * final.passes + tested * (final.passes + further) + min(few, tested) * further

    every = max(train, test)
    if train + test <= SMALL or cost(every) <= passes:
        return None
    low, high = FEWEST, every  # the cost rises with the number: halve the range
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= passes else (low, middle)
    return low


@dataclass(frozen=True, kw_only=True)
class Closing:
    """What the closing attacks left.

    Attributes:
        on_train: the training examples ``train_rows`` under the final attack.
        on_test: the test examples ``test_rows`` under all attacks; ``None`` where there are none.
        train_rows, test_rows: positions in either part: all, or a random sample.
        same: places in ``train_rows`` of those that met the very attacks of the test part: all, or a random
            sample of its size.
        train, test: examples of either part.
        attacks: their names.
    """

    on_train: Evaluation
    on_test: Evaluation | None
    train_rows: Tensor
    test_rows: Tensor
    same: Tensor
    train: int
    test: int
    attacks: tuple[str, ...]

    def record(self, trained_against: Tensor) -> dict[str, Any]:
        """Counts for ``summary.json``.

        Args:
            trained_against: whether each training example holds under the attack of training, (examples,).
        """
        held = self.on_train.clean & trained_against.cpu()[self.train_rows]
        return {
            "attacks": list(self.attacks),
            "train": {
                "examples": len(self.same),
                "population": self.train,
                "robust": int(self.on_train.robust[self.same].sum()),
                "under_training_attack": int(held[self.same].sum()),
            },
            "test": None
            if self.on_test is None
            else {
                "examples": len(self.on_test.y),
                "robust": int(self.on_test.robust.sum()),
                **({"population": self.test} if self.test > len(self.on_test.y) else {}),
            },
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
    verify: str | None = None,
    most: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Closing:
    """Attack both parts alike; with ``verify``, a method of `holdfast.verify`, the test part is proved too, or the
    training part where there is no other.

    With ``most``, either part is represented by a random sample of at most this many examples. Of the training part every
    example meets ``final`` to the end, since its loss is wanted and not only
    whether it breaks; a random sample as large as the test part goes on to the other attacks, which the test
    part meets too.
    """
    further = closing_attacks(threat)
    train_rows = _sample(len(train[1]), most, seed)
    test_rows = _sample(0 if test is None else len(test[1]), most, seed)
    x, y = _taken(train, train_rows)
    on_train = evaluate(
        model,
        x,
        y,
        threat,
        (final,),
        verify=verify if test is None else None,
        loss=loss,
        drop_broken=False,
        seed=seed,
        examine=False,
        progress=lambda _, done, total: progress(0.6 * done / max(1, total)),
    )
    on_test, same = None, torch.arange(len(x))
    if test is not None:
        on_test = evaluate(
            model,
            *_taken(test, test_rows),
            threat,
            (final, *further),
            verify=verify,
            seed=seed,
            examine=False,
        )
        same = _sample(len(x), len(test_rows), seed)
    progress(0.8)
    held = same[on_train.robust[same]]
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
        train_rows=train_rows,
        test_rows=test_rows,
        same=same,
        train=len(train[1]),
        test=0 if test is None else len(test[1]),
        attacks=(final.name, *(attack.name for attack in further)),
    )


def _sample(examples: int, most: int | None, seed: int) -> Tensor:
    """Positions of all examples, or of a random sample of ``most`` of them."""
    rows = None if most is None else drawn(examples, most, seed)
    return torch.arange(examples) if rows is None else rows


def _taken(part: Examples, rows: Tensor) -> Examples:
    if len(rows) == len(part[1]):
        return part
    x, y = part
    return x[rows.to(x.device)], y[rows.to(y.device)]
