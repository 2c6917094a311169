"""The main job: train under attack, evaluate, certify, and write the run down.

Read with `holdfast.training.loop`, which is the training itself. What this module adds: checks before anything is spent,
validation, checkpoints, interruption, the final frozen passes and the summary.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from holdfast.attacks import PGD, Attack
from holdfast.attacks.base import checked_outputs
from holdfast.attacks.evaluate import evaluate
from holdfast.certificates import (
    FrozenPass,
    attacked_points,
    certify_trace,
    evaluated_pass,
    frozen_pass,
)
from holdfast.certificates.certificate import void
from holdfast.certificates.convergence import check_radius
from holdfast.curvature import Curvature, curvature_for
from holdfast.data import Dataset
from holdfast.errors import InputError, NonFiniteLossError
from holdfast.jobs.checks import check_compatible, check_data
from holdfast.jobs.progress import Progress
from holdfast.jobs.summary import Figures, summarise
from holdfast.losses import CrossEntropy, Loss
from holdfast.runs import Run, RunWriter, read_metrics
from holdfast.threats import Threat
from holdfast.trace import Evaluated, Trace, TraceRecorder, Window, load_trace, save_points, save_trace
from holdfast.trace.cost import record_every
from holdfast.trace.trace import kept
from holdfast.training import EpochRecord, ParameterBall, TrainingState, fit
from holdfast.training.optimizers import SCHEDULES, OptimizerFactory, make_optimizer, unknown

TRACE_BYTES = 2**28
"""Lower models kept beyond the best and the last window."""


@dataclass
class Best:
    """The weights that did best on the validation part."""

    accuracy: float = -1.0
    loss: float = float("inf")
    weights: dict[str, Tensor] | None = None
    epoch: int = 0


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
    precision: Any = "32-true",
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
        precision: lightning-fabric's words. Rounds in less than float32 are not recorded: only the final pass certifies.
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
            raise InputError(f"{what} must be a whole number >= 1, got {count}; leave it out for the default.")
    for radius in (parameter_radius, certificate_radius):
        if radius is not None:
            check_radius(radius)
    check_data(data, threat)
    seen = Progress(enabled=progress)
    started = datetime.now().astimezone()
    compatibility = check_compatible(data, threat, allow=allow_incompatible, progress=seen)

    fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)
    fabric.launch()
    x, y = data.train.x.to(fabric.device), data.train.y.to(fabric.device)
    model.to(fabric.device)
    checked_outputs(model.eval(), x[:8], y[:8])
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the model must have parameters that require gradients, got none; unfreeze those to train.")
    torch_optimizer = make_optimizer(
        optimizer, parameters, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay
    )
    curvature, reason = curvature_for(model)
    recorder = TraceRecorder(
        model, x, y, threat, loss, curvature=curvature, radius=parameter_radius or 1.0, example_weights=example_weights,
        processes=fabric.world_size, reduce=lambda values: fabric.all_reduce(values, reduce_op="sum"),
    )  # fmt: skip
    ball = ParameterBall(names=recorder.names, initial=recorder.initial, radius=parameter_radius or float("inf"))
    wrapped, torch_optimizer = fabric.setup(model, torch_optimizer)

    writer = RunWriter(Path(out) if out is not None and fabric.is_global_zero else None)
    state, best, rows = TrainingState(), Best(), []
    if resume:
        state, best, rows = _resume(writer, model, torch_optimizer, recorder, Path(out) if out is not None else None)
    else:
        writer.config(config or _described(locals()))
        writer.weights("initial", model.state_dict())
    writer.log(f"training {type(model).__name__} on {data.name} under {threat.spec} with seed {seed}")
    batch = min(batch_size or len(y), len(y))
    recorded = trace and str(fabric._precision.precision) in ("32-true", "64-true")
    every = trace_every or record_every(model, len(y), batch, getattr(attack, "passes", 1))

    def observe(record: EpochRecord, now: TrainingState) -> None:
        last = record.epoch == epochs
        row = _row(record, recorder.names)
        if len(data.validation) and (last or record.epoch % evaluate_every == 0):
            model.eval()
            row |= _validate(model, data, threat, evaluation_attack or PGD(steps=10), loss, seed, fabric.device, best, record)
            model.train()
        rows.append(row)
        now.windows = kept(now.windows, TRACE_BYTES)
        if writer.folder is not None and (last or time.perf_counter() - saved[0] > 30):
            saved[0] = time.perf_counter()
            _save(writer, model, torch_optimizer, recorder, curvature, reason, now, best, rows)
        seen.epoch(row)

    saved = [time.perf_counter()]
    model.train()
    steps = epochs * -(-len(y) // batch)
    failure: NonFiniteLossError | None = None
    interrupted = False
    with stopping() as stop, seen.training(steps, state.rounds):
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
    trace_record = Trace(
        names=recorder.names, initial=recorder.initial, windows=tuple(state.windows), rigorous=curvature.rigorous, reason=reason
    )
    if writer.folder is not None:
        save_trace(trace_record, writer.folder / "trace")

    figures = Figures(
        data=data, threat=threat, attack=attack, loss=loss, model=model, seed=seed, name=name, started=started,
        seconds=state.seconds, epochs=state.epoch, interrupted=interrupted or failure is not None, ball=ball,
        parameter_radius=parameter_radius, compatibility=compatibility, best_epoch=best.epoch,
    )  # fmt: skip
    if failure is not None or interrupted:
        word = "training stopped: " + str(failure) if failure is not None else "training was interrupted before its end"
        certificate = void(f"{word.rstrip('.')}; resume the run to certify it", parameter_radius or float("nan"))
        summary = summarise(figures, certificate, None, None, trace_record, (), writer.folder)
        writer.metrics(rows)
        writer.summary(summary)
        writer.log(str(failure) if failure is not None else "interrupted")
        if failure is not None:
            raise failure
        return Run(folder=writer.folder, model=model, summary=summary, metrics=rows, certificate=certificate, best=best.weights)

    with seen.stage("attacking every example once more, at frozen weights"):
        points = attacked_points(model, x, y, threat, attack, loss, seed=seed + 1, batch_size=_chunk(model))
    passed = frozen_pass(
        model, recorder.initial, points, threat, loss, curvature, label="the final pass", example_weights=example_weights
    )
    if writer.folder is not None:
        save_points(points, writer.folder / "trace")
    others = _best_pass(model, best, current, passed, x, y, threat, attack, loss, curvature, seed, example_weights)
    radius = certificate_radius or parameter_radius or max(passed.evaluated.distance) * (1 + 1e-6)
    with seen.counted("certifying in float64") as report:
        certificate = certify_trace(trace_record, passed, radius, others=others, evaluations=tighten, progress=report)
    # On the training part every example is attacked to the end: its loss is wanted, not only whether it broke.
    strongest = final_attack or PGD(steps=40, restarts=2, keep_best=True)
    with seen.counted("attacking the trained network harder") as report:
        train_result = evaluate(
            model, x, y, threat, attacks=(strongest,), loss=loss, drop_broken=False, seed=seed, progress=_fraction(report)
        )
        test = data.test if len(data.test) else data.train
        test_result = evaluate(
            model, test.x.to(fabric.device), test.y.to(fabric.device), threat, attacks=(strongest,), seed=seed
        )
    summary = summarise(figures, certificate, train_result, test_result, trace_record, (passed,), writer.folder)
    writer.metrics(rows)
    writer.summary(summary)
    writer.log(f"certificate: {certificate.status}, gap {certificate.gap:.6g} at radius {certificate.radius:.6g}")
    return Run(folder=writer.folder, model=model, summary=summary, metrics=rows, certificate=certificate, best=best.weights)


def _fraction(report: Callable[[float], None]) -> Callable[[str, int, int], None]:
    return lambda _, done, total: report(done / max(1, total))


def _chunk(model: nn.Module) -> int:
    """Examples attacked at once: a (rows, width) array of at most 2^24 numbers."""
    return max(16, min(1024, 2**24 // max(1, getattr(model, "width", 2**14))))


def _described(given: dict[str, Any]) -> dict[str, Any]:
    """A readable ``config.yaml`` for a run started from Python: settings as given, objects by their text."""
    plain = (str, int, float, bool, type(None))
    skip = {"data", "config", "model", "resume", "progress", "out"}
    names = list(train.__kwdefaults__ or {})
    values = {key: given[key] if isinstance(given[key], plain) else repr(given[key]) for key in names if key not in skip}
    return {"started_from": "python", "data": given["data"].name, "threat": given["threat"].spec, "model": type(given["model"]).__name__, **values}


def _row(record: EpochRecord, names: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    window: Window | None = record.window
    return {
        "epoch": record.epoch, "rounds": record.rounds, "seconds": record.seconds, "learning_rate": record.learning_rate,
        "online_loss": record.online_loss, "lower_bound": None if window is None else window.lower_bound,
        "void": "" if window is None else window.void,
        "drift": {ball_name(ball): distance for ball, distance in zip(names, record.drift, strict=True)},
        "clean_accuracy": None, "robust_accuracy": None, "robust_loss": None,
    }  # fmt: skip


def ball_name(names: tuple[str, ...]) -> str:
    """A word for the ball of these parameters: the parameter, or the layer that owns them."""
    return names[0] if len(names) == 1 else names[0].rpartition(".")[0] or " + ".join(names)


def _validate(
    model: nn.Module, data: Dataset, threat: Threat, attack: Attack, loss: Loss, seed: int, device: torch.device,
    best: Best, record: EpochRecord,
) -> dict[str, Any]:  # fmt: skip
    part = data.validation
    result = attack.run(model, part.x.to(device), part.y.to(device), threat, loss=loss, seed=seed)
    with torch.no_grad():
        outputs = model(part.x.to(device))
    from holdfast.losses import correct

    robust, robust_loss = float((~result.success).double().mean()), float(result.loss.mean())
    if (robust, -robust_loss) > (best.accuracy, -best.loss):
        best.accuracy, best.loss, best.epoch = robust, robust_loss, record.epoch
        best.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    clean = float(correct(outputs, part.y.to(device)).double().mean())
    return {"clean_accuracy": clean, "robust_accuracy": robust, "robust_loss": robust_loss}


def _best_pass(
    model: nn.Module, best: Best, current: dict[str, Tensor], final: FrozenPass, x: Tensor, y: Tensor, threat: Threat,
    attack: Attack, loss: Loss, curvature: Curvature, seed: int, example_weights: Tensor | None,
) -> list[Evaluated]:  # fmt: skip
    """A frozen pass at the best weights, where they differ from the last: it competes for the surrogate loss."""
    if best.weights is None or all(torch.equal(best.weights[name], tensor) for name, tensor in current.items()):
        return []
    model.load_state_dict(best.weights)
    points = attacked_points(model, x, y, threat, attack, loss, seed=seed + 2, batch_size=_chunk(model))
    passed = frozen_pass(
        model, final.initial, points, threat, loss, curvature, label="the best weights", example_weights=example_weights
    )
    model.load_state_dict(current)
    return [] if passed.fault else [evaluated_pass(passed, max(passed.evaluated.distance), 0.0)]


def _save(
    writer: RunWriter, model: nn.Module, optimizer: Any, recorder: TraceRecorder, curvature: Curvature, reason: str,
    state: TrainingState, best: Best, rows: list[dict[str, Any]],
) -> None:  # fmt: skip
    """All that a resumed run needs, and all that a reader of an unfinished one finds."""
    if writer.folder is None:
        return
    trace = Trace(
        names=recorder.names, initial=recorder.initial, windows=tuple(state.windows), rigorous=curvature.rigorous, reason=reason
    )
    save_trace(trace, writer.folder / "trace")
    writer.metrics(rows)
    current = model.state_dict()
    writer.weights("last", current)
    writer.weights("model", best.weights or current)
    writer.checkpoint(
        {
            "model": current, "optimizer": optimizer.state_dict(), "epoch": state.epoch, "rounds": state.rounds,
            "seconds": state.seconds, "generator": state.generator_state, "recorded_rounds": recorder.rounds,
            "best": {"accuracy": best.accuracy, "loss": best.loss, "epoch": best.epoch, "weights": best.weights},
        }
    )  # fmt: skip


def _resume(
    writer: RunWriter, model: nn.Module, optimizer: Any, recorder: TraceRecorder, out: Path | None
) -> tuple[TrainingState, Best, list[dict[str, Any]]]:
    if out is None:
        raise InputError("resume needs the run's folder, got none; pass out=.")
    saved = RunWriter(out).read_checkpoint()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    trace = load_trace(out / "trace")
    for name, start in trace.initial.items():
        recorder.initial[name].copy_(start)
    recorder.rounds = saved["recorded_rounds"]
    state = TrainingState(
        epoch=saved["epoch"], rounds=saved["rounds"], seconds=saved["seconds"], generator_state=saved["generator"],
        windows=[w for w in trace.windows if w.last <= saved["recorded_rounds"]],
    )  # fmt: skip
    rows = [row for row in read_metrics(out) if row["epoch"] <= saved["epoch"]]
    return state, Best(**saved["best"]), rows


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask training to stop after the step it is in; a second Ctrl-C stops at once."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
