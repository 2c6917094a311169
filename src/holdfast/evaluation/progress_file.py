"""Where an evaluation stands, and the file from which one that was killed goes on."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from holdfast._files import write_tensors
from holdfast._identity import content_digest
from holdfast.attacks import Attack
from holdfast.attacks.base import AttackResult
from holdfast.evaluation.result import Evaluation, Stage
from holdfast.losses import Loss
from holdfast.threats.base import Threat

EVERY = 5.0
"""Seconds between two writings."""


@dataclass(kw_only=True)
class Position:
    """All that changes during an evaluation.

    Attributes:
        x, loss, broken: the strongest point of each example so far, its loss, whether it is misclassified.
        verified, loss_bound: what bounds proved.
        broken_by: number of the stage that broke an example, else -1.
        stage: steps of the cascade that are finished.
        rows, done: the examples of the attack under way and how many of them are done.
    """

    x: Tensor
    loss: Tensor
    clean_loss: Tensor
    broken: Tensor
    clean: Tensor
    verified: Tensor
    loss_bound: Tensor
    broken_by: Tensor
    stages: list[Stage] = field(default_factory=list)
    stage: int = 0
    rows: Tensor | None = None
    done: int = 0
    seconds: float = 0.0
    note: str = ""

    @classmethod
    def begin(cls, x: Tensor, loss: Tensor, wrong: Tensor) -> "Position":
        """Before anything was tried: the examples themselves, and which of them are misclassified."""
        count = len(x)
        return cls(
            x=x.clone(),
            loss=loss,
            clean_loss=loss.clone(),
            broken=wrong,
            clean=~wrong,
            verified=torch.zeros(count, dtype=torch.bool),
            loss_bound=torch.full((count,), torch.inf, dtype=torch.float64),
            broken_by=torch.full((count,), -1),
        )

    def take(self, rows: Tensor, found: AttackResult, number: int) -> None:
        """Keep what is stronger: a point that is misclassified, else the higher loss."""
        same = found.success == self.broken[rows]
        higher = torch.where(same, found.loss > self.loss[rows], found.success)
        taken = rows[higher]
        self.broken_by[taken[found.success[higher] & ~self.broken[taken]]] = number
        self.x[taken], self.loss[taken] = found.x[higher], found.loss[higher]
        self.broken[taken] = found.success[higher]

    def evaluation(self, y: Tensor, population: int | None) -> Evaluation:
        """The result, once all is done."""
        return Evaluation(
            y=y,
            clean=self.clean,
            robust=~self.broken,
            verified=self.verified,
            x=self.x,
            loss=self.loss,
            loss_bound=self.loss_bound,
            clean_loss=self.clean_loss,
            broken_by=self.broken_by,
            stages=tuple(self.stages),
            population=population,
        )


class ProgressFile:
    """A safetensors file with the position; it counts only for the evaluation it was written by."""

    TENSORS = ("x", "loss", "clean_loss", "broken", "verified", "loss_bound", "broken_by", "clean")

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key, self.written = path, key, 0.0

    def save(self, position: Position, *, now: bool = False) -> None:
        """Write, where the last writing is some time ago, or ``now``."""
        if not now and time.perf_counter() - self.written < EVERY:
            return
        tensors = {name: getattr(position, name) for name in self.TENSORS}
        tensors["rows"] = torch.zeros(0, dtype=torch.long) if position.rows is None else position.rows
        facts = {
            "key": self.key,
            "stages": [asdict(stage) for stage in position.stages],
            "stage": position.stage,
            "done": position.done,
            "seconds": position.seconds,
            "note": position.note,
            "within": position.rows is not None,
        }
        text = json.dumps(facts)
        write_tensors(self.path, tensors, {"position": text, "digest": content_digest(text, tensors)})
        self.written = time.perf_counter()

    def load(self) -> Position | None:
        """The position; nothing where there is none of this evaluation."""
        try:
            with safe_open(self.path, framework="pt") as file:
                held = file.metadata()
                facts: dict[str, Any] = json.loads(held["position"])
                if facts["key"] != self.key:
                    return None
                tensors = {name: file.get_tensor(name) for name in (*self.TENSORS, "rows")}
            if content_digest(held["position"], tensors) != held["digest"]:
                return None
        except Exception:  # cut short, damaged, or no file at all: start over
            return None
        rows = tensors.pop("rows")
        return Position(
            **tensors,
            stages=[Stage(**stage) for stage in facts["stages"]],
            stage=facts["stage"],
            rows=rows if facts["within"] else None,
            done=facts["done"],
            seconds=facts["seconds"],
            note=facts["note"],
        )

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def fingerprint(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attacks: Sequence[Attack],
    verify: str | None,
    loss: Loss,
    *settings: object,
) -> str:
    """A digest of all that the result depends on, by content: the text of a large tensor leaves out its
    middle.
    """
    return content_digest(model, x, y, threat, list(attacks), verify, loss, settings)
