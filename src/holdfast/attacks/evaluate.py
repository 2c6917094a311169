"""Clean and robust accuracy under a cascade of attacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from holdfast import _tensors
from holdfast.attacks.base import Attack, AttackResult
from holdfast.attacks.pgd import PGD
from holdfast.attacks.simple import CleanAttack
from holdfast.errors import InputError
from holdfast.losses import Loss
from holdfast.threats.base import Threat

Progress = Callable[[str, int, int], None]

CASCADES: dict[str, tuple[Attack, ...]] = {
    "clean": (),
    "pgd": (PGD(steps=40, restarts=5, keep_best=True, drop_broken=True),),
}


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """One row of the per-class table; accuracies are fractions of the class's ``examples``."""

    label: int
    examples: int
    clean_accuracy: float
    robust_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a cascade of attacks left standing. Tensors are on the CPU, one row an example.

    Attributes:
        y: the labels.
        clean: whether the example itself is classified correctly.
        robust: whether it and every attacked point is; an upper bound on robustness, as attacks may miss.
        x: the strongest point found, in the threat set.
        loss: the loss there; a lower bound on the robust loss, low where an example left the cascade early.
        clean_loss: the loss at the example itself.
        left: for each attack in turn its name and the accuracy it left.
    """

    y: Int[Tensor, " examples"]
    clean: Bool[Tensor, " examples"]
    robust: Bool[Tensor, " examples"]
    x: Float[Tensor, "examples ..."]
    loss: Float[Tensor, " examples"]
    clean_loss: Float[Tensor, " examples"]
    left: tuple[tuple[str, float], ...]

    @property
    def clean_accuracy(self) -> float:
        """Fraction of examples classified correctly."""
        return _fraction(self.clean)

    @property
    def robust_accuracy(self) -> float:
        """Fraction of examples that no attack broke."""
        return _fraction(self.robust)

    def per_class(self) -> tuple[ClassAccuracy, ...]:
        """A row for each label that occurs, in order."""
        rows = []
        for label in sorted(set(self.y.tolist())):
            of_class = self.y == label
            rows.append(
                ClassAccuracy(
                    label=label,
                    examples=int(of_class.sum()),
                    clean_accuracy=_fraction(self.clean[of_class]),
                    robust_accuracy=_fraction(self.robust[of_class]),
                )
            )
        return tuple(rows)


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attacks: str | Sequence[Attack] = "pgd",
    *,
    loss: Loss | None = None,
    batch_size: int = 256,
    drop_broken: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Attack ``model``, in evaluation mode, with each attack in turn.

    Args:
        model: maps (batch, ...) to (batch, classes) logits, or (batch, 1) signed outputs; batches go to its device.
        x: examples (examples, ...), on any device.
        y: labels ``0 .. classes-1``, (examples,).
        attacks: attacks in order, cheap ones first, or the name of a cascade: ``clean`` (none), or ``pgd``: 40 steps, 5 random
            restarts, strongest iterate.
        loss: scores the points, and leads attacks without a loss of their own; default cross-entropy.
        batch_size: examples attacked at once; the memory needed grows with it.
        drop_broken: examples that are misclassified, or broken by one attack, are spared the next, as only success
            matters. False: every example meets every attack, for the highest loss; attacks that drop broken examples
            themselves (`PGD.drop_broken`, as in ``pgd``) still do so.
        seed: the same seed, batch size and attacks give the same result.
        progress: called with (name of the attack, examples done, examples to do) after each batch.

    Raises:
        InputError: an unknown cascade, or anything `Attack.run` refuses.
    """
    cascade = _cascade(attacks)
    if batch_size < 1:
        raise InputError(f"batch_size must be >= 1, got {batch_size}; 256 is the default.")
    if len(x) != len(y) or len(x) == 0:
        raise InputError(
            f"x and y must have the same number of rows, at least one, got {len(x)} and {len(y)}; pair them up."
        )
    device = next((parameter.device for parameter in model.parameters()), x.device)
    generator = _tensors.generator(seed, device)
    x, y = x.detach().cpu(), y.cpu()

    def attacked(attack: Attack, rows: Tensor) -> AttackResult:
        parts = []
        for part in _tensors.chunks(len(rows), batch_size):
            chosen = rows[part]
            batch_x, batch_y = x[chosen].to(device), y[chosen].to(device)
            parts.append(attack.run(model, batch_x, batch_y, threat, loss=loss, generator=generator))
            if progress is not None:
                progress(attack.name, part.stop, len(rows))
        return AttackResult(
            x=torch.cat([part.x.cpu() for part in parts]),
            loss=torch.cat([part.loss.cpu() for part in parts]),
            success=torch.cat([part.success.cpu() for part in parts]),
        )

    clean = attacked(CleanAttack(), torch.arange(len(x)))
    points, losses, broken = clean.x.clone(), clean.loss.clone(), clean.success.clone()
    left = []
    for attack in cascade:
        rows = (~broken).nonzero().squeeze(1) if drop_broken else torch.arange(len(x))
        if len(rows):
            found = attacked(attack, rows)
            higher = torch.where(found.success == broken[rows], found.loss > losses[rows], found.success)
            taken = rows[higher]
            points[taken], losses[taken] = found.x[higher], found.loss[higher]
            broken[taken] = found.success[higher]
        left.append((attack.name, _fraction(~broken)))
    return Evaluation(
        y=y,
        clean=~clean.success,
        robust=~broken,
        x=points,
        loss=losses,
        clean_loss=clean.loss,
        left=tuple(left),
    )


def _cascade(attacks: str | Sequence[Attack]) -> tuple[Attack, ...]:
    if not isinstance(attacks, str):
        return tuple(attacks)
    if attacks not in CASCADES:
        raise InputError(
            f"attacks must be one of {', '.join(CASCADES)}, or a sequence of attacks, got {attacks!r}; pick one of these."
        )
    return CASCADES[attacks]


def _fraction(true: Tensor) -> float:
    return float(true.double().mean())
