"""What an evaluation found: for every example whether it was broken, proved, or neither; and the brackets
that follow.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from holdfast._files import write_atomically, write_text
from holdfast._formats import count, percent
from holdfast._values import Drawn, Fact
from holdfast.diagnosis import Finding, verdict
from holdfast.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """One row of the per-class table; accuracies are fractions of the class's examples.

    Attributes:
        label: the class.
        examples: of this class.
        clean_accuracy: at the examples.
        robust_accuracy: under all attacks; an upper bound.
        verified_accuracy: proved; a lower bound.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> found = hf.evaluate(torch.nn.Identity(), x, y, "linf:0.2", attacks="fast", examine=False)
    >>> [row.robust_accuracy for row in found.per_class()]
    [0.0, 1.0]
    """

    label: int
    examples: int
    clean_accuracy: float
    robust_accuracy: float
    verified_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the cascade.

    Attributes:
        name: of the attack or the method.
        kind: ``attack`` takes away examples that it breaks, ``bound`` those that it proves.
        entered, left: examples that were still open before and after it.
        seconds: wall-clock time; of all processes together where there are several.
        note: why it was left out, or made smaller; empty where nothing is to be said.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> found = hf.evaluate(torch.nn.Identity(), x, y, "linf:0.2", attacks="fast", examine=False)
    >>> [stage.kind for stage in found.stages]
    ['attack', 'bound', 'attack', 'attack']
    """

    name: str
    kind: Literal["attack", "bound"]
    entered: int
    left: int
    seconds: float
    note: str = ""


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation(Drawn):
    """What a cascade of bounds and attacks left. Tensors are on the CPU, one row per example.

    Attributes:
        y: the labels.
        clean: whether the example itself is classified correctly.
        robust: whether it and every attacked point is; an upper bound on robustness, as attacks may miss.
        verified: whether it is proved that every point of its threat set is; a lower bound on robustness.
        x: the strongest point found, in the threat set.
        loss: the loss there; a lower bound on the robust loss, low where an example left the cascade early.
        loss_bound: a verified upper bound of the loss over the threat set; infinite where none was worked
            out.
        clean_loss: the loss at the example itself.
        broken_by: number of the stage that broke it; -1: wrong to begin with, or not broken.
        stages: the cascade, in order.
        population: examples of which these are a random sample; ``None`` where they are all.
        warnings: signs that the figures mislead, each with its remedy; ``None`` where they were not looked
            for.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([0, 1])
    >>> found = hf.evaluate(torch.nn.Identity(), x, y, "linf:0.2", attacks="fast")
    >>> found.robust, found.verdict
    (tensor([False,  True]), 'trust')
    """

    y: Int[Tensor, " examples"]
    clean: Bool[Tensor, " examples"]
    robust: Bool[Tensor, " examples"]
    verified: Bool[Tensor, " examples"]
    x: Float[Tensor, "examples ..."]
    loss: Float[Tensor, " examples"]
    loss_bound: Float[Tensor, " examples"]
    clean_loss: Float[Tensor, " examples"]
    broken_by: Int[Tensor, " examples"]
    stages: tuple[Stage, ...]
    population: int | None = None
    warnings: tuple[Finding, ...] | None = None

    def _facts(self) -> list[Fact]:
        of = "" if self.population is None else f", a sample of {count(self.population)}"
        facts = [
            Fact("examples", count(len(self.y)) + of),
            Fact("clean accuracy", percent(self.clean_accuracy), "observed"),
            Fact("robust accuracy", f"at most {percent(self.robust_accuracy)}", "observed"),
            Fact("verified accuracy", f"at least {percent(self.verified_accuracy)}", "proved"),
        ]
        return facts if self.verdict is None else [*facts, Fact("verdict", self.verdict)]

    def _columns(self) -> dict[str, list[Any]]:
        return self.table()

    def _draw(self, axes: "Axes") -> None:
        left = [("clean", self.clean_accuracy), *self.left]
        axes.plot(
            [name for name, _ in left],
            [share for _, share in left],
            marker="o",
            label="not broken (observed)",
        )
        axes.axhline(self.verified_accuracy, linestyle="--", color="gray", label="verified (proved)")
        axes.set(xlabel="after the attack", ylabel="accuracy", ylim=(0, 1))
        axes.tick_params(axis="x", labelrotation=30)

    @property
    def verdict(self) -> Literal["trust", "doubt", "void"] | None:
        """``trust``: no sign was found that the attacks failed, which is no proof; ``doubt``: `warnings` has
        the reasons; ``void``: the robust accuracy means nothing. ``None`` where signs were not looked for."""
        return None if self.warnings is None else verdict(self.warnings)

    @property
    def clean_accuracy(self) -> float:
        """Fraction of examples classified correctly."""
        return _fraction(self.clean)

    @property
    def robust_accuracy(self) -> float:
        """Fraction of examples that no attack broke: the upper end of the bracket."""
        return _fraction(self.robust)

    @property
    def verified_accuracy(self) -> float:
        """Fraction of examples proved robust: the lower end of the bracket."""
        return _fraction(self.verified)

    @property
    def robust_loss(self) -> tuple[float, float]:
        """(attacked, verified): mean losses between which the robust loss of these examples lies."""
        return float(self.loss.double().mean()), float(self.loss_bound.double().mean())

    @property
    def left(self) -> tuple[tuple[str, float], ...]:
        """For each attack in turn its name and the accuracy it left."""
        rows = []
        for number, stage in enumerate(self.stages):
            if stage.kind == "attack":
                later = (self.broken_by > number) | self.robust
                rows.append((stage.name, _fraction(later)))
        return tuple(rows)

    def interval(self, which: Literal["clean", "robust", "verified"]) -> tuple[float, float]:
        """Clopper-Pearson interval of the accuracy in the population, at 95 %; the accuracy itself where
        all were evaluated.
        """
        flags = {"clean": self.clean, "robust": self.robust, "verified": self.verified}[which]
        if self.population is None:
            return _fraction(flags), _fraction(flags)
        return clopper_pearson(int(flags.sum()), len(flags))

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
                    verified_accuracy=_fraction(self.verified[of_class]),
                )
            )
        return tuple(rows)

    def table(self) -> dict[str, list[Any]]:
        """Columns of the per-example table, in the order of the examples."""
        names = [stage.name for stage in self.stages]
        return {
            "example": list(range(len(self.y))),
            "label": self.y.tolist(),
            "clean": self.clean.tolist(),
            "robust": self.robust.tolist(),
            "verified": self.verified.tolist(),
            "broken_by": [names[k] if k >= 0 else "" for k in self.broken_by.tolist()],
            "clean_loss": self.clean_loss.tolist(),
            "loss": self.loss.tolist(),
            "loss_bound": [v if math.isfinite(v) else None for v in self.loss_bound.tolist()],
        }

    def table_text(self) -> str:
        """The per-example table, as a ``.csv`` file has it."""
        text, columns = io.StringIO(), self.table()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return text.getvalue()

    def write_table(self, path: str | Path) -> None:
        """The per-example table as ``.csv``, or as ``.parquet`` where pyarrow is installed.

        Raises:
            InputError: another ending, or no pyarrow.
        """
        path, columns = Path(path), self.table()
        if path.suffix == ".csv":
            write_text(path, self.table_text())
        elif path.suffix == ".parquet":
            _write_parquet(path, columns)
        else:
            raise InputError(
                f"a table must be a .csv or .parquet file, got {path.name!r}; give it one of these endings."
            )


def together(parts: Sequence[Evaluation], rows: Int[Tensor, " examples"]) -> Evaluation:
    """Evaluations of disjoint examples as one; ``rows`` says where the examples of the parts, in turn,
    belong.
    """
    order = rows.argsort()
    names = ("y", "clean", "robust", "verified", "x", "loss", "loss_bound", "clean_loss", "broken_by")
    joined: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])[order] for name in names
    }
    return Evaluation(
        **joined, stages=tuple(_sum(same) for same in zip(*(part.stages for part in parts), strict=True))
    )


def continued(first: Evaluation, rows: Int[Tensor, " some"], further: Evaluation) -> Evaluation:
    """``first`` after further attacks on these rows of it, all of them still robust: their stages follow,
    losses are the larger.
    """
    robust, broken_by, x, loss = (
        tensor.clone() for tensor in (first.robust, first.broken_by, first.x, first.loss)
    )
    by = further.broken_by
    robust[rows] = further.robust
    broken_by[rows] = torch.where(by >= 0, by + len(first.stages), by)
    stronger = ~further.robust | (further.loss > loss[rows])
    x[rows[stronger]] = further.x[stronger]
    loss[rows[stronger]] = further.loss[stronger].to(loss)
    return replace(
        first, robust=robust, broken_by=broken_by, x=x, loss=loss, stages=(*first.stages, *further.stages)
    )


def _sum(stages: tuple[Stage, ...]) -> Stage:
    return replace(
        stages[0],
        entered=sum(stage.entered for stage in stages),
        left=sum(stage.left for stage in stages),
        seconds=sum(stage.seconds for stage in stages),
    )


def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact two-sided interval of a proportion (Clopper and Pearson 1934): it covers with at least this
    probability.

    >>> tuple(round(end, 4) for end in clopper_pearson(0, 10))
    (0.0, 0.3085)
    """
    from scipy.special import betaincinv  # when first needed: scipy takes its time to import

    tail = (1 - confidence) / 2
    low = float(betaincinv(successes, trials - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, trials - successes, 1 - tail)) if successes < trials else 1.0
    return low, high


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"a .parquet table needs pyarrow, which is not installed, got {path.name!r}; pip install "
            "pyarrow, or write a .csv."
        ) from error
    write_atomically(path, lambda part: pyarrow.parquet.write_table(pyarrow.table(columns), part))


def _fraction(true: Tensor) -> float:
    return float(true.double().mean())
