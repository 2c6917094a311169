"""The main job: train under attack, evaluate, certify, and write the run down.

Read with `holdfast.training.loop`, which is the training itself, and `holdfast.jobs.conclude`, which follows it. What this module
adds: checks before anything is spent, checkpoints, interruption.
"""

import inspect
import math
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from holdfast._arguments import MODEL, TENSOR, Array, as_weights
from holdfast._rules import (
    COUNT,
    FLAG,
    FUNCTION,
    MAPPING,
    PATH,
    SEED,
    TEXT,
    either,
    kind,
    maybe,
    real,
    takes,
    whole,
    word,
)
from holdfast.attacks import ATTACK, PGD, Attack, as_attack
from holdfast.curvature import curvature_for
from holdfast.data import Dataset
from holdfast.data.base import DATASET
from holdfast.errors import InputError, NonFiniteLossError
from holdfast.jobs.checkpoint import Best, resume_state, stopping
from holdfast.jobs.checks import check_batches, check_compatible, check_data, check_model
from holdfast.jobs.conclude import conclude, unfinished
from holdfast.jobs.config import PRECISIONS
from holdfast.jobs.progress import Progress
from holdfast.jobs.rows import Row, kernel_row, metrics_row
from holdfast.jobs.session import Session
from holdfast.jobs.setting import save_setting
from holdfast.jobs.start import STARTS, check_start, start_from
from holdfast.jobs.validation import BEST_BY, validate
from holdfast.losses import LOSS, Loss, as_loss
from holdfast.runs import Run, RunWriter
from holdfast.runs.run import read_weights
from holdfast.theory import KernelWatch
from holdfast.threats import Threat, as_threat
from holdfast.trace import TraceRecorder, save_trace
from holdfast.trace.cost import record_every
from holdfast.trace.trace import kept
from holdfast.training import EpochRecord, ParameterBall, TrainingState, fit, summed
from holdfast.training.optimizers import OPTIMIZERS, SCHEDULES, OptimizerFactory, make_optimizer

TRACE_BYTES = 2**28
"""Lower models kept beyond the best and the last window."""
OVERTAKEN = ("certificate.json", "report.html", "trace/final_pass.safetensors")
"""What a resumed run writes anew."""
STALE = (
    *OVERTAKEN,
    "summary.json",
    "metrics.jsonl",
    "gallery.safetensors",
    "trace/trace.json",
    "checkpoints/last.pt",
)
"""What a run in a folder of another one must not leave there."""


@takes(
    model=MODEL,
    data=DATASET,
    threat=kind(Threat, str, what="a Threat or text such as linf:0.1"),
    attack=maybe(ATTACK),
    loss=maybe(LOSS),
    parameter_radius=maybe(real(above=0)),
    project=FLAG,
    epochs=COUNT,
    batch_size=maybe(COUNT),
    optimizer=either(word(*OPTIMIZERS), FUNCTION),
    learning_rate=real(above=0),
    momentum=real(least=0, below=1),
    weight_decay=real(least=0),
    schedule=word(*SCHEDULES),
    seed=SEED,
    out=maybe(PATH),
    name=maybe(TEXT),
    accelerator=TEXT,
    devices=COUNT,
    precision=word(*PRECISIONS),
    strategy=TEXT,
    evaluate_every=COUNT,
    kernel_examples=maybe(whole(least=2)),
    start=kind(str, nn.Module, what=f"one of {', '.join(STARTS)}, or a network"),
    evaluation_attack=maybe(ATTACK),
    final_attack=maybe(ATTACK),
    best_by=word(*BEST_BY),
    example_weights=maybe(TENSOR),
    trace=FLAG,
    trace_every=maybe(COUNT),
    tighten=whole(least=0),
    certificate_radius=maybe(real(above=0)),
    allow_incompatible=FLAG,
    resume=FLAG,
    progress=FLAG,
    config=maybe(MAPPING),
)
def train(
    model: nn.Module,
    data: Dataset,
    threat: Threat | str,
    *,
    attack: Attack | str | None = None,
    loss: Loss | str | None = None,
    parameter_radius: float | None = None,
    project: bool = True,
    epochs: int = 30,
    batch_size: int | None = None,
    optimizer: str | OptimizerFactory = "sgd",
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    seed: int = 0,
    out: str | Path | None = None,
    name: str | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    precision: str = "32-true",
    strategy: str = "auto",
    evaluate_every: int = 1,
    kernel_examples: int | None = None,
    start: nn.Module | str = "initial",
    evaluation_attack: Attack | str | None = None,
    final_attack: Attack | str | None = None,
    best_by: str = "robust_loss",
    example_weights: Array | None = None,
    trace: bool = True,
    trace_every: int | None = None,
    tighten: int = 40,
    certificate_radius: float | None = None,
    allow_incompatible: bool = False,
    resume: bool = False,
    progress: bool = True,
    config: dict[str, Any] | None = None,
) -> Run:
    """Train ``model`` (in place) against ``attack`` within ``threat``, and certify how far from the best it ended.

    Args:
        model: any module that maps (batch, ...) to (batch, classes) logits, or (batch, 1) signed outputs for two classes.
        attack: the adversary of training, default ``PGD(steps=10)``; the surrogate loss is defined with it.
        loss: default cross-entropy (logistic for one output).
        parameter_radius: radius ``R`` of the ball(s) around the initial weights; ``project`` returns the weights to it after
            every step, as the paper does. Without one, the certificate's radius is the distance that the weights moved.
        batch_size: examples a round; default all of them.
        optimizer: ``sgd``, ``adam``, ``adamw``, or a function from parameters to a torch optimiser.
        out: run folder; default: nothing is written.
        kernel_examples: training examples, e.g. 64, on which the tangent kernel is observed after each evaluated epoch: columns ``kernel_...``
            and ``weight_drift`` of ``metrics.jsonl`` (`holdfast.theory.KernelFigures`). Each look costs about a backward pass an output
            for each of them; refused where that does not fit into memory. Default: none.
        start: ``initial``: at the weights ``model`` comes with, the centre of the ball; ``kernel``: at the solution of the kernel limit at
            ``parameter_radius`` (`holdfast.theory.into_network`); or another network like ``model``, whose weights training starts from.
        final_attack: on the finished network, default PGD with 40 steps and 2 restarts; on the test part the suite ``fast`` follows.
        best_by: which weights count as the best on the validation part: ``robust_loss`` (lowest) or ``robust_accuracy`` (highest).
        example_weights: ``pi_i >= 0`` of the robust loss, one a training example, adding up to 1; default ``1 / n``.
        precision: ``32-true``, ``64-true``, ``bf16-mixed`` or ``16-mixed``. Rounds in less than float32 are not recorded: only
            the final pass certifies.
        certificate_radius: radius to certify at, default ``parameter_radius``.
        trace_every: record one epoch in so many; default: as many as cost at most a tenth of training.
        tighten: evaluations of the bound spent on raising it after training.
        allow_incompatible: train even though threat sets of different labels meet (then no robust classifier exists).
        resume: go on from the last checkpoint in ``out``.

    Returns:
        The run: figures, certificate, metrics.

    Raises:
        InputError: data, model, threat or a setting is not as allowed. Nothing has been written then.
        NonFiniteLossError: the loss stopped being finite; the folder holds the weights from before.
    """
    check_start(start, parameter_radius)
    if resume and out is None:
        raise InputError("resume needs the run's folder, got none; pass out=.")
    attack = PGD(steps=10) if attack is None else as_attack(attack)
    loss, threat = as_loss(loss), as_threat(threat, bounds=data.bounds, fixed=data.fixed)
    check_data(data, threat)
    if example_weights is not None:
        example_weights = as_weights("example_weights", example_weights, len(data.train))
    fabric = _fabric(accelerator, devices, precision, strategy)
    seen = Progress(enabled=progress and fabric.is_global_zero)
    started = datetime.now().astimezone()
    compatibility = check_compatible(data, threat, allow=allow_incompatible, progress=seen)
    check_model(model, data)
    check_batches(model, data, batch_size or len(data.train))

    fabric.launch()
    model.to(fabric.device)
    if precision == "64-true":
        model.double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    data = replace(data, x=data.x.to(parameters[0].dtype), y=data.y.long())
    x, y = data.train.x.to(fabric.device), data.train.y.to(fabric.device)
    if example_weights is not None:
        example_weights = example_weights.to(fabric.device)
    torch_optimizer = make_optimizer(
        optimizer, parameters, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay
    )
    curvature, reason = curvature_for(model)
    recorder = TraceRecorder(
        model, x, y, threat, loss, curvature=curvature, radius=certificate_radius or parameter_radius or 1.0, example_weights=example_weights,
        processes=fabric.world_size, reduce=partial(summed, fabric),
    )  # fmt: skip
    wrapped, torch_optimizer = fabric.setup(model, torch_optimizer)
    state, best, rows = TrainingState(), Best(), list[Row]()
    if resume and out is not None:
        state, best, rows = resume_state(Path(out), model, torch_optimizer, recorder)
    kernel = _kernel(
        model,
        x,
        y,
        classes=data.classes,
        examples=kernel_examples,
        seed=seed,
        resumed=Path(out) if resume and out is not None else None,
    )
    session = Session(
        name=name, seed=seed, model=model, data=data, x=x, y=y, threat=threat, loss=loss, attack=attack,
        evaluation=PGD(steps=10) if evaluation_attack is None else as_attack(evaluation_attack),
        final=PGD(steps=40, restarts=2, keep_best=True) if final_attack is None else as_attack(final_attack),
        example_weights=example_weights, parameter_radius=parameter_radius, certificate_radius=certificate_radius,
        best_by=best_by, compatibility=compatibility, fabric=fabric, optimizer=torch_optimizer, curvature=curvature,
        reason=reason, recorder=recorder,
        ball=ParameterBall(names=recorder.names, initial=recorder.initial, radius=parameter_radius or math.inf),
        kernel=kernel,
        writer=RunWriter(Path(out) if out is not None and fabric.is_global_zero else None),
        progress=seen, started=started,
        state=state, best=best, rows=rows,
    )  # fmt: skip
    _begin(session, None if resume else config or _described(locals()), start)
    batch = min(batch_size or len(y), len(y))
    failure, interrupted = _fitted(
        session, wrapped, epochs=epochs, batch_size=batch, schedule=schedule, evaluate_every=evaluate_every,
        project=project and parameter_radius is not None, recorded=trace and precision.endswith("-true"),
        every=trace_every or record_every(model, len(y), batch, attack.passes),
    )  # fmt: skip
    _keep_weights(session)
    run = unfinished(
        session,
        f"training stopped: {failure}" if failure else "the run was interrupted before it was certified",
    )
    if failure is not None:
        session.writer.log(str(failure))
        raise failure
    if interrupted:
        session.writer.log("interrupted")
        return run
    return conclude(session, tighten=tighten)


def _begin(session: Session, config: dict[str, Any] | None, start: nn.Module | str) -> None:
    """The folder at the beginning: nothing of another run in it, and this one resumable at once. No ``config`` when resumed."""
    writer, model = session.writer, session.model
    writer.clear(OVERTAKEN if config is None else STALE)
    if config is not None:
        writer.config(config)
        writer.weights("initial", model.state_dict())
    if writer.folder is not None:
        save_setting(writer.folder / "trace", model, session.threat, session.loss, session.example_weights)
    writer.log(
        f"training {type(model).__name__} on {session.data.name} under {session.threat.spec} with seed {session.seed}"
    )
    if config is not None:
        start_from(session, start)
        session.save()


def _fitted(
    session: Session,
    wrapped: nn.Module,
    *,
    epochs: int,
    batch_size: int,
    schedule: str,
    evaluate_every: int,
    project: bool,
    recorded: bool,
    every: int,
) -> tuple[NonFiniteLossError | None, bool]:
    """Train; return why the loss stopped being finite, if it did, and whether the run was interrupted."""
    seen, state = session.progress, session.state

    def observe(record: EpochRecord, now: TrainingState) -> None:
        last = record.epoch == epochs
        row = metrics_row(record, session.recorder.names)
        if last or record.epoch % evaluate_every == 0:
            row |= validate(session, record) if len(session.data.validation) else {}
            row |= {} if session.kernel is None else kernel_row(session.kernel.look(session.model))
        session.rows.append(row)
        now.windows = kept(now.windows, TRACE_BYTES)
        if last:
            session.save()
        else:
            session.save_now_and_then()
        seen.epoch(row)

    session.model.train()
    steps = epochs * -(-len(session.y) // batch_size)
    devices = [session.device] if session.device.type == "cuda" else []
    with torch.random.fork_rng(devices), stopping() as stop, seen.training(steps, state.rounds):
        try:
            done = fit(
                session.fabric, session.model, wrapped, session.optimizer, session.x, session.y, session.threat,
                session.attack, session.loss, epochs=epochs, batch_size=batch_size, schedule=schedule,
                seed=session.seed, ball=session.ball, project=project, recorder=session.recorder if recorded else None,
                record_every=every, state=state, observe=observe, on_step=seen.step, stop=stop,
                example_weights=session.example_weights,
            )  # fmt: skip
        except NonFiniteLossError as error:
            return error, False
    return None, done.interrupted


def _kernel(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    classes: int,
    examples: int | None,
    seed: int,
    resumed: Path | None,
) -> KernelWatch | None:
    """The tangent kernel at the weights that training began with; None where it is not to be watched."""
    if examples is None:
        return None
    if resumed is not None:
        model = deepcopy(model)
        model.load_state_dict(read_weights(resumed / "initial.safetensors"))
    return KernelWatch(model, x, y, classes=classes, examples=examples, seed=seed)


def _keep_weights(session: Session) -> None:
    """Last and best weights and the trace, as training left them."""
    session.model.eval()
    current = session.current()
    if session.best.weights is None:
        session.best.weights, session.best.epoch = current, session.state.epoch
    session.writer.weights("last", current)
    session.writer.weights("model", session.best.weights)
    if session.folder is not None:
        save_trace(session.trace(), session.folder / "trace")


def _fabric(accelerator: str, devices: int, precision: str, strategy: str) -> Fabric:
    """Where training runs. 64-true is the model's own affair: fabric would cast its outputs back to float32."""
    words: Any = "32-true" if precision == "64-true" else precision
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=words, strategy=strategy)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise InputError(
            f"accelerator, devices, precision and strategy must be available on this machine, got {accelerator!r}, {devices!r}, "
            f"{precision!r} and {strategy!r} ({' '.join(str(error).split())}); leave them out for the default."
        ) from error


def _said(value: object) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)


def _described(given: dict[str, Any]) -> dict[str, Any]:
    """A readable ``config.yaml`` for a run started from Python: settings as given, objects by their text."""
    plain = (str, int, float, bool, type(None))
    skip = {"data", "config", "model", "resume", "progress", "out"}
    names = [p.name for p in inspect.signature(train).parameters.values() if p.kind is p.KEYWORD_ONLY]
    values = {
        key: given[key] if isinstance(given[key], plain) else _said(given[key])
        for key in names
        if key not in skip
    }
    return {
        "started_from": "python",
        "data": given["data"].name,
        "threat": given["threat"].spec,
        "model": type(given["model"]).__name__,
        **values,
    }
