"""One run under way: what is fixed from its beginning, what changes, and how both are written down."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast._progress import Progress
from holdfast.attacks import Attack
from holdfast.certificates import FrozenPass, attacked_points, frozen_pass
from holdfast.config.schema import CertificateSettings
from holdfast.curvature import Curvature
from holdfast.data import Dataset, Extra
from holdfast.families.exact import fingerprints
from holdfast.jobs.checkpoint import Best, save_state
from holdfast.jobs.checks import Compatibility
from holdfast.losses import Loss
from holdfast.record.run import RunWriter
from holdfast.record.schema import EpochFigures, Summary
from holdfast.theory import KernelWatch
from holdfast.threats import Threat
from holdfast.trace import Trace, TraceRecorder
from holdfast.training import ParameterBall, TrainingState
from holdfast.training.augmentation import Augmentation
from holdfast.training.automatic import Chosen
from holdfast.training.averaging import Averaging, refresh_statistics
from holdfast.training.devices import Devices
from holdfast.training.objectives import Objective
from holdfast.training.perturbation import WeightPerturbation
from holdfast.training.settings import ValidationSettings
from holdfast.training.step_size import StepSize

SAVE_EVERY = 30.0
"""Seconds between checkpoints."""

Weights = dict[str, Tensor]


@dataclass(kw_only=True)
class Session:
    """A training run between its checks and its summary.

    Attributes:
        x, y: the training part, on the run's device; ``extra`` the examples that training has beside it.
        attack: the adversary of training; ``final`` that of the finished network;
            ``closing`` says how much of the data it and others are run on.
        kernel: what the tangent kernel was at the start; None where it is not watched.
        chosen: the optimiser and the examples per round, and why where they were chosen.
        step: the learning rate and its reason, where none was given; ``learning_rate`` is what training began
            with, None of an optimiser with its own.
        radius: at which windows are bounded while training; the certificate may be asked for another.
        state, best, rows: all that changes, besides the weights.
    """

    name: str | None
    seed: int
    model: nn.Module
    data: Dataset
    x: Tensor
    y: Tensor
    extra: Extra | None
    threat: Threat
    loss: Loss
    attack: Attack
    objective: Objective
    augmentation: Augmentation
    weight_perturbation: WeightPerturbation
    averaging: Averaging
    final: Attack
    closing: str
    example_weights: Tensor | None
    parameter_radius: float | None
    validation: ValidationSettings
    certificate: CertificateSettings
    compatibility: Compatibility
    fabric: Devices
    optimizer: Any
    curvature: Curvature
    reason: str
    recorder: TraceRecorder
    ball: ParameterBall
    kernel: KernelWatch | None
    chosen: Chosen
    step: StepSize | None
    learning_rate: float | None
    writer: RunWriter
    progress: Progress
    started: datetime
    state: TrainingState
    best: Best
    rows: list[EpochFigures]
    saved: float = field(default_factory=time.perf_counter)

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def folder(self) -> Path | None:
        return self.writer.folder

    def trace(self) -> Trace:
        """What has been recorded so far."""
        return Trace(
            names=self.recorder.names,
            initial=self.recorder.initial,
            windows=tuple(self.state.windows),
            rigorous=self.curvature.rigorous,
            reason=self.reason,
            fixed=fingerprints(self.recorder.fixed),
        )

    def save(self, summary: Summary, *, checkpoint: bool = True) -> None:
        """All that a reader of an unfinished run finds, and what a resumed one needs, in one step."""
        writer = self.writer
        with self.averaged():
            current = self.current()
        with writer.together():
            writer.trace(self.trace())
            writer.metrics(self.rows)
            writer.weights("last", current)
            writer.weights("model", self.best.weights or current)
            writer.summary(summary)
            if checkpoint:
                save_state(writer, self.model, self.optimizer, self.recorder, self.state, self.best)
        self.saved = time.perf_counter()

    def due(self) -> bool:
        """Whether the last checkpoint is some time ago."""
        return self.folder is not None and time.perf_counter() - self.saved > SAVE_EVERY

    def position(self) -> str:
        """How far training has come, in words."""
        within = self.state.within
        steps = "" if within is None else f" and {within.steps} steps of epoch {self.state.epoch + 1}"
        return f"after {self.state.epoch} epochs{steps} (round {self.state.rounds})"

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While open, the model has the average of the weights where there is one, with statistics of batch norm of
        its own; afterwards its own weights again.
        """
        held = None if not self.state.average.weights else self.current()
        if held is not None:
            self.take_average()
        try:
            yield
        finally:
            if held is not None:
                self.model.load_state_dict(held)

    def take_average(self) -> None:
        """Give the model the average of the weights, where there is one."""
        average = self.state.average.weights
        if not average:
            return
        self.model.load_state_dict(average, strict=False)
        if self.parameter_radius is not None:
            self.ball.project(self.model)
        refresh_statistics(self.model, self.x, self.chosen.batch_size)

    def current(self) -> Weights:
        """A copy of the weights as they are."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def frozen(self, weights_name: str, *, seed: int) -> FrozenPass:
        """Every training example attacked once at the present weights, re-evaluated in float64."""
        points = attacked_points(
            self.model,
            self.x,
            self.y,
            self.threat,
            self.attack,
            self.loss,
            seed=seed,
            batch_size=attacked_at_once(self.model),
        )
        return frozen_pass(
            self.model,
            self.recorder.initial,
            points,
            self.threat,
            self.loss,
            self.curvature,
            weights_name=weights_name,
            example_weights=self.example_weights,
        )


def attacked_at_once(model: nn.Module) -> int:
    """Examples attacked at once: a (rows, width) array of at most 2^24 numbers."""
    return max(16, min(1024, 2**24 // max(1, getattr(model, "width", 2**14))))
