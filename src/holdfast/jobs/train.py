"""The main job: train under attack, evaluate, certify, and write the run down.

Read with `holdfast.training.loop`, which is the training itself. What this module adds: checks before anything is spent,
validation, checkpoints, interruption, the final frozen passes and the summary.
"""

import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from holdfast.attacks import PGD, Attack
from holdfast.attacks.evaluate import evaluate
from holdfast.certificates import (
    attacked_points,
    certify_trace,
    frozen_pass,
)
from holdfast.certificates.certificate import void
from holdfast.certificates.convergence import check_radius
from holdfast.curvature import curvature_for
from holdfast.data import Dataset
from holdfast.errors import InputError, NonFiniteLossError
from holdfast.jobs.checkpoint import Best, resume_state, save_state, stopping
from holdfast.jobs.checks import check_compatible, check_data, check_model, check_weights
from holdfast.jobs.passes import attacked_at_once, best_pass, validate
from holdfast.jobs.progress import Progress
from holdfast.jobs.rows import Row, at_radius, metrics_row, with_bounds
from holdfast.jobs.setting import save_setting
from holdfast.jobs.summary import Figures, summarise
from holdfast.losses import CrossEntropy, Loss
from holdfast.runs import Run, RunWriter
from holdfast.threats import Threat
from holdfast.trace import Trace, TraceRecorder, save_points, save_trace
from holdfast.trace.cost import record_every
from holdfast.trace.trace import kept
from holdfast.training import EpochRecord, ParameterBall, TrainingState, fit, summed
from holdfast.training.optimizers import SCHEDULES, OptimizerFactory, make_optimizer, unknown

TRACE_BYTES = 2**28
"""Lower models kept beyond the best and the last window."""
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
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


def train(
    model: nn.Module,
    data: Dataset,
    threat: Threat,
    *,
    attack: Attack | None = None,
    loss: Loss | None = None,
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
    evaluation_attack: Attack | None = None,
    final_attack: Attack | None = None,
    example_weights: Tensor | None = None,
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
    attack = PGD(steps=10) if attack is None else attack
    loss = CrossEntropy() if loss is None else loss
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    for what, count in (("epochs", epochs), ("batch_size", batch_size), ("evaluate_every", evaluate_every)):
        if count is not None and count < 1:
            raise InputError(
                f"{what} must be a whole number >= 1, got {count}; leave it out for the default."
            )
    for radius in (parameter_radius, certificate_radius):
        if radius is not None:
            check_radius(radius)
    if resume and out is None:
        raise InputError("resume needs the run's folder, got none; pass out=.")
    check_data(data, threat)
    check_weights(example_weights, len(data.train))
    fabric = _fabric(accelerator, devices, precision, strategy)
    seen = Progress(enabled=progress and fabric.is_global_zero)
    started = datetime.now().astimezone()
    compatibility = check_compatible(data, threat, allow=allow_incompatible, progress=seen)
    check_model(model, data)

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
    ball = ParameterBall(
        names=recorder.names, initial=recorder.initial, radius=parameter_radius or float("inf")
    )
    wrapped, torch_optimizer = fabric.setup(model, torch_optimizer)

    state, best = TrainingState(), Best()
    rows: list[Row] = []
    if resume and out is not None:
        state, best, rows = resume_state(Path(out), model, torch_optimizer, recorder)
    writer = RunWriter(Path(out) if out is not None and fabric.is_global_zero else None)
    writer.clear(OVERTAKEN if resume else STALE)
    if not resume:
        writer.config(config or _described(locals()))
        writer.weights("initial", model.state_dict())
    if writer.folder is not None:
        save_setting(writer.folder / "trace", model, threat, loss, example_weights)
    writer.log(f"training {type(model).__name__} on {data.name} under {threat.spec} with seed {seed}")
    batch = min(batch_size or len(y), len(y))
    recorded = trace and precision.endswith("-true")
    every = trace_every or record_every(model, len(y), batch, attack.passes)

    def recorded_trace() -> Trace:
        return Trace(
            names=recorder.names,
            initial=recorder.initial,
            windows=tuple(state.windows),
            rigorous=curvature.rigorous,
            reason=reason,
        )

    def save() -> None:
        saved[0] = time.perf_counter()
        save_state(writer, model, torch_optimizer, recorder, recorded_trace(), state, best, rows)

    def observe(record: EpochRecord, now: TrainingState) -> None:
        last = record.epoch == epochs
        row = metrics_row(record, recorder.names)
        if len(data.validation) and (last or record.epoch % evaluate_every == 0):
            model.eval()
            row |= validate(
                model,
                data,
                threat,
                evaluation_attack or PGD(steps=10),
                loss,
                seed,
                fabric.device,
                best,
                record,
            )
            model.train()
        rows.append(row)
        now.windows = kept(now.windows, TRACE_BYTES)
        if last or time.perf_counter() - saved[0] > 30:
            save()
        seen.epoch(row)

    saved = [time.perf_counter()]
    if not resume:
        save()  # so that a run stopped before its first checkpoint can be resumed too
    model.train()
    steps = epochs * -(-len(y) // batch)
    failure: NonFiniteLossError | None = None
    interrupted = False
    devices_used = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices_used), stopping() as stop, seen.training(steps, state.rounds):
        try:
            interrupted = fit(
                fabric, model, wrapped, torch_optimizer, x, y, threat, attack, loss,
                epochs=epochs, batch_size=batch, schedule=schedule, seed=seed, ball=ball,
                project=project and parameter_radius is not None, recorder=recorder if recorded else None,
                record_every=every, state=state, observe=observe, on_step=seen.step, stop=stop,
                example_weights=example_weights,
            ).interrupted  # fmt: skip
        except NonFiniteLossError as error:
            failure = error
    model.eval()
    current = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if best.weights is None:
        best.weights, best.epoch = current, state.epoch
    writer.weights("last", current)
    writer.weights("model", best.weights)
    trace_record = recorded_trace()
    if writer.folder is not None:
        save_trace(trace_record, writer.folder / "trace")

    best_weights = best.weights

    def finished() -> Run:
        return Run(
            folder=writer.folder,
            model=model,
            summary=summary,
            metrics=rows,
            certificate=certificate,
            best=best_weights,
        )

    figures = Figures(
        data=data, threat=threat, attack=attack, loss=loss, model=model, seed=seed, name=name, started=started,
        seconds=state.seconds, epochs=state.epoch, interrupted=True, ball=ball,
        parameter_radius=parameter_radius, compatibility=compatibility, best_epoch=best.epoch,
    )  # fmt: skip
    word = "the run was interrupted before it was certified"
    word = f"training stopped: {failure}" if failure is not None else word
    certificate = void(f"{word.rstrip('.')}; resume the run to certify it", parameter_radius or float("nan"))
    # Written in any case: whatever happens from here on, the folder can be loaded.
    summary = summarise(figures, certificate, None, None, trace_record, (), writer.folder)
    writer.metrics(rows)
    writer.summary(summary)
    if failure is not None:
        writer.log(str(failure))
        raise failure
    if interrupted:
        writer.log("interrupted")
        return finished()

    with seen.stage("attacking every example once more, at frozen weights"):
        points = attacked_points(
            model, x, y, threat, attack, loss, seed=seed + 1, batch_size=attacked_at_once(model)
        )
    passed = frozen_pass(
        model,
        recorder.initial,
        points,
        threat,
        loss,
        curvature,
        label="the final pass",
        example_weights=example_weights,
    )
    if writer.folder is not None:
        save_points(points, writer.folder / "trace")
    others = best_pass(
        model, best, current, passed, x, y, threat, attack, loss, curvature, seed, example_weights
    )
    # Weights that have not moved at all are in a ball of any radius.
    radius = certificate_radius or parameter_radius or max(passed.evaluated.distance) * (1 + 1e-6) or 1.0
    if radius != recorder.radius:
        trace_record = replace(trace_record, windows=tuple(at_radius(trace_record.windows, radius)))
        rows[:] = with_bounds(rows, trace_record.windows)
    with seen.counted("certifying in float64") as report:
        certificate = certify_trace(
            trace_record, passed, radius, others=others, evaluations=max(1, tighten), progress=report
        )
    # On the training part every example is attacked to the end: its loss is wanted, not only whether it broke.
    strongest = final_attack or PGD(steps=40, restarts=2, keep_best=True)
    with seen.counted("attacking the trained network harder") as report:
        train_result = evaluate(
            model,
            x,
            y,
            threat,
            attacks=(strongest,),
            loss=loss,
            drop_broken=False,
            seed=seed,
            progress=_fraction(report),
        )
        test = data.test if len(data.test) else data.train
        test_result = evaluate(
            model, test.x.to(fabric.device), test.y.to(fabric.device), threat, attacks=(strongest,), seed=seed
        )
    figures = replace(figures, interrupted=False)
    summary = summarise(
        figures, certificate, train_result, test_result, trace_record, (passed,), writer.folder, others
    )
    writer.metrics(rows)
    writer.summary(summary)
    writer.log(
        f"certificate: {certificate.status}, gap {certificate.gap:.6g} at radius {certificate.radius:.6g}"
    )
    return finished()


def _fabric(accelerator: str, devices: int, precision: str, strategy: str) -> Fabric:
    """Where training runs. 64-true is the model's own affair: fabric would cast its outputs back to float32."""
    if precision not in PRECISIONS:
        raise unknown("precision", str(precision), PRECISIONS)
    words: Any = "32-true" if precision == "64-true" else precision
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=words, strategy=strategy)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise InputError(
            f"accelerator, devices, precision and strategy must be available on this machine, got {accelerator!r}, {devices!r}, "
            f"{precision!r} and {strategy!r} ({' '.join(str(error).split())}); leave them out for the default."
        ) from error


def _described(given: dict[str, Any]) -> dict[str, Any]:
    """A readable ``config.yaml`` for a run started from Python: settings as given, objects by their text."""
    plain = (str, int, float, bool, type(None))
    skip = {"data", "config", "model", "resume", "progress", "out"}
    names = [p.name for p in inspect.signature(train).parameters.values() if p.kind is p.KEYWORD_ONLY]
    values = {
        key: given[key] if isinstance(given[key], plain) else repr(given[key])
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


def _fraction(report: Callable[[float], None]) -> Callable[[str, int, int], None]:
    return lambda _, done, total: report(done / max(1, total))
