"""Settings of a training run that belong together: small frozen values that `holdfast.train` takes whole.

Those of the certificate and of the devices are sections of the configuration (`holdfast.config.schema`).
"""

from dataclasses import dataclass

from holdfast._rules import COUNT, maybe, takes, whole, word
from holdfast.attacks import ATTACK, Attack

BEST_BY = ("robust_loss", "robust_accuracy")


@takes(attack=maybe(ATTACK), every=COUNT, best_by=word(*BEST_BY), kernel_examples=maybe(whole(least=2)))
@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """What is measured on the validation part while training, and which weights count as the best.

    Attributes:
        attack: on the validation part, or the name of one; default PGD with 10 steps.
        every: epochs from one look to the next; the last epoch is always looked at.
        best_by: which weights are kept as the best: ``robust_loss`` (lowest) or ``robust_accuracy`` (highest).
        kernel_examples: training examples, e.g. 64, on which the tangent kernel is observed at each look:
            columns ``kernel_...`` and ``weight_drift`` of ``metrics.jsonl``
            (`holdfast.theory.KernelFigures`). A look costs about a backward pass per output for each of
            them; refused where that does not fit into memory. Default: none.

    >>> import holdfast as hf
    >>> hf.ValidationSettings(every=5).best_by
    'robust_loss'
    """

    attack: Attack | None = None
    every: int = 1
    best_by: str = "robust_loss"
    kernel_examples: int | None = None
