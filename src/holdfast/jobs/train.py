"""The main job: train under attack, evaluate, certify, and write the run down.

Read with `holdfast.training.loop`, which is the training itself, and `holdfast.jobs.conclude`, which follows
it. What this module adds: checks before anything is spent, checkpoints, interruption.
"""

import inspect
import math
from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast._arguments import MODEL, TENSOR, Array, as_weights
from holdfast._progress import Progress
from holdfast._record import destination, locked, take_over
from holdfast._rules import (
    COUNT,
    FLAG,
    LEARNING_RATE,
    MAPPING,
    PATH,
    RADIUS,
    SEED,
    TEXT,
    kind,
    maybe,
    takes,
    word,
)
from holdfast._signals import stopping
from holdfast.attacks import ATTACK, Attack, as_attack
from holdfast.config.build import build_attack, build_recipe
from holdfast.config.recipes import RECIPES
from holdfast.config.schema import CLOSINGS, CertificateSettings, DeviceSettings, RunConfig
from holdfast.data import Dataset, Extra
from holdfast.data.base import DATASET
from holdfast.data.tensors import inside
from holdfast.errors import InputError, NonFiniteLossError
from holdfast.families import curvature_for
from holdfast.jobs.checkpoint import Best, kept_config, resume_state
from holdfast.jobs.checks import (
    check_batches,
    check_compatible,
    check_data,
    check_extra,
    check_memory,
    check_model,
    check_together,
)
from holdfast.jobs.conclude import conclude, save
from holdfast.jobs.loggers import LOGGERS_RULE, Observer, check_loggers, watching
from holdfast.jobs.probe import watched
from holdfast.jobs.rows import metrics_row, with_kernel
from holdfast.jobs.session import Session
from holdfast.jobs.start import STARTS, check_start, start_from
from holdfast.jobs.validation import validate
from holdfast.losses import LOSS, Loss, as_loss
from holdfast.record.folder import RUN, check_folder, process_number, written_in
from holdfast.record.identity import FILE as IDENTITY
from holdfast.record.identity import Identity, check_same, identity_of, read_identity, to_json
from holdfast.record.run import Run, RunWriter, read_weights
from holdfast.record.schema import EpochFigures
from holdfast.record.setting import save_setting
from holdfast.theory import KernelWatch
from holdfast.threats import Threat, as_threat
from holdfast.trace import TraceRecorder
from holdfast.trace.cost import record_every
from holdfast.trace.trace import kept
from holdfast.training import EpochRecord, Hooks, ParameterBall, Training, TrainingState, fit, summed
from holdfast.training.augmentation import (
    AUGMENTATION,
    Augmentation,
    NoAugmentation,
    as_augmentation,
    check_augmentation,
)
from holdfast.training.augmentation import Function as AugmentationFunction
from holdfast.training.automatic import chosen_for, chosen_rate, chosen_words
from holdfast.training.averaging import Averaging
from holdfast.training.devices import devices_for
from holdfast.training.loop import ramped
from holdfast.training.objectives.base import OBJECTIVE, Function, Objective, as_objective
from holdfast.training.optimizers import OPTIMIZER, Auto, Choice, Named, as_optimizer, make_optimizer
from holdfast.training.perturbation import NoPerturbation, WeightPerturbation
from holdfast.training.schedules import SCHEDULE, Factor, ScheduleSettings, as_schedule
from holdfast.training.settings import ValidationSettings
from holdfast.training.step_size import ADAM, StepSize

TRACE_BYTES = 2**28
"""Lower models kept beyond the best and the last window."""
DEFAULT = RunConfig()
"""What is left out, on the command line and here."""
OVERTAKEN = ("certificate.json", "report.html", "trace/final_pass.safetensors", "gallery.safetensors")
"""What a resumed run writes anew."""


@stopping()
@takes(
    model=MODEL,
    data=DATASET,
    threat=kind(Threat, str, what="a Threat or text such as linf:0.1"),
    attack=maybe(ATTACK),
    loss=maybe(LOSS),
    parameter_radius=maybe(RADIUS),
    project=FLAG,
    epochs=COUNT,
    batch_size=maybe(COUNT),
    optimizer=maybe(OPTIMIZER),
    learning_rate=maybe(LEARNING_RATE),
    schedule=maybe(SCHEDULE),
    objective=maybe(OBJECTIVE),
    augmentation=maybe(AUGMENTATION),
    weight_perturbation=maybe(kind(WeightPerturbation, what="a WeightPerturbation such as AWP(0.005)")),
    averaging=maybe(kind(Averaging, what="an Averaging such as EMA(0.999)")),
    recipe=maybe(word(*RECIPES)),
    start=maybe(kind(str, nn.Module, what=f"one of {', '.join(STARTS)}, or a network")),
    example_weights=maybe(TENSOR),
    extra=maybe(kind(Extra, what="extra examples such as holdfast.data.Extra(x, y, share=0.5)")),
    allow_incompatible=FLAG,
    validation=kind(ValidationSettings, what="ValidationSettings such as ValidationSettings(every=5)"),
    final_attack=maybe(ATTACK),
    closing=word(*CLOSINGS),
    certificate=kind(
        CertificateSettings, what="CertificateSettings such as CertificateSettings(tighten=100)"
    ),
    device=kind(DeviceSettings, what="DeviceSettings such as DeviceSettings(accelerator='cuda')"),
    seed=SEED,
    out=maybe(PATH),
    name=maybe(TEXT),
    loggers=LOGGERS_RULE,
    resume=FLAG,
    overwrite=FLAG,
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
    parameter_radius: float | None = DEFAULT.training.parameter_radius,
    project: bool = DEFAULT.training.project,
    epochs: int = DEFAULT.training.epochs,
    batch_size: int | None = DEFAULT.training.batch_size,
    optimizer: str | Auto | Choice | None = None,
    learning_rate: float | None = DEFAULT.training.learning_rate,
    schedule: ScheduleSettings | Factor | str | None = None,
    objective: Objective | Function | str | None = None,
    augmentation: Augmentation | AugmentationFunction | str | None = None,
    weight_perturbation: WeightPerturbation | None = None,
    averaging: Averaging | None = None,
    recipe: str | None = None,
    start: nn.Module | str | None = None,
    example_weights: Array | None = None,
    extra: Extra | None = None,
    allow_incompatible: bool = DEFAULT.threat.allow_incompatible,
    validation: ValidationSettings = ValidationSettings(),  # noqa: B008 - frozen
    final_attack: Attack | str | None = None,
    closing: str = DEFAULT.training.closing,
    certificate: CertificateSettings = DEFAULT.certificate,
    device: DeviceSettings = DEFAULT.device,
    seed: int = DEFAULT.seed,
    out: str | Path | None = None,
    name: str | None = None,
    loggers: Sequence[Any] = DEFAULT.loggers,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    config: dict[str, Any] | None = None,
) -> Run:
    """Train ``model`` in place against ``attack`` within ``threat``, and certify how far from the best it ended.

    Args:
        model: any module that maps (batch, ...) to (batch, classes) logits, or (batch, 1) signed outputs for
            two classes.
        data: the training part is trained on, the validation part selects the best weights.
        threat: or text such as ``linf:0.1``, which takes the data's box and fixed features.
        attack: the adversary of training, default ``PGD(steps=10)``; the surrogate loss is defined with it.
        loss: default cross-entropy (logistic for one output). An attack and a loss may be given by name.
        parameter_radius: radius ``R`` of the ball(s) around the initial weights; ``project`` returns the
            weights to it after every step, as the paper does. By default there is none, since no number fits
            every network and data: the certificate's radius is then the distance that the weights moved.
        project: return the weights to the ball(s) of ``parameter_radius`` after every step.
        epochs: passes over the training part.
        batch_size: examples per round, extra ones among them; default all of them, or 64 where ``auto`` is adam.
        optimizer: ``sgd``, ``adam``, ``adamw``, one with settings such as
            ``holdfast.optimizers.SGD(momentum=0.5)``, or a function from parameters to a torch optimiser,
            which has its own. ``auto`` (default) is sgd for two layers, for networks linear in their weights and where
            a learning rate is given, else adam.
        learning_rate: default for sgd the inverse of the curvature at the start
            (`holdfast.training.step_size`), for adam by ``auto`` the best of a short search
            (`holdfast.training.automatic`), else its usual 0.001. The log and the summary say what was
            chosen, and why.
        schedule: how the learning rate changes: ``constant`` (default), ``cosine``, ``linear``, ``steps``,
            ``one-cycle``, a function from the share of training done to a share of the peak, or
            `ScheduleSettings` with warm-up and a ramp of the threat's radius.
        objective: what is minimised: default the robust loss; another of ``holdfast.objectives``, such as
            ``TRADES(beta=6)``, its name, or a function ``(model, clean, attacked, y) -> per-example loss``.
            Steps of another objective than the robust loss are not recorded: only the final pass certifies.
        augmentation: of the examples of each step, before they are attacked, such as ``ImageAugmentation(shift=4)``,
            its name, or a function ``(x, generator) -> x``; default none. Steps on augmented examples are not
            recorded: only the final pass, over the examples themselves, certifies.
        weight_perturbation: weights at which each step's gradient is taken, such as `AWP`; default the present
            ones.
        averaging: an average of the weights, such as `EMA` or `SWA`, that is validated, kept and returned in
            place of the last iterate; statistics of batch norm are worked out afresh for it. Default: none.
        recipe: a published recipe by name (`holdfast.config.recipes`): its settings replace those of
            ``attack``, ``objective``, ``augmentation``, ``weight_perturbation``, ``averaging``, ``schedule``, ``start`` and
            ``optimizer`` that are left out.
        start: ``initial`` (default): at the present weights of ``model``, the centre of the ball; ``kernel``: at the
            solution of the kernel limit at ``parameter_radius`` (`holdfast.theory.into_network`); or another
            network like ``model``, whose weights training starts from.
        example_weights: ``pi_i >= 0`` of the robust loss, one per training example, adding up to 1; default
            ``1 / n``.
        extra: further examples, pseudo-labelled or generated, for training alone: a fixed share of each batch, such as
            ``holdfast.data.Extra(x, y, share=0.5)``. An epoch is still one pass over the training part. Steps with them are
            not recorded: only the final pass, over the training part, certifies.
        allow_incompatible: train even though threat sets of different labels meet (then no robust classifier
            exists).
        validation: what is measured while training, and which weights are the best.
        final_attack: on the finished network, default PGD with 40 steps and 2 restarts; short margin searches
            and queries follow, on both parts alike.
        closing: on how much of the data these are run: ``standard``: the test part, every training example, and
            as many of these as there are test examples with all attacks; ``fast``: samples of 1,000 of either
            part; ``none``: nothing is attacked, and no accuracy reported. ``auto`` is standard for data of up to 2,000
            examples and where it takes at most a third of training's passes through the network, else samples that
            take a third, of at least 200 examples.
        certificate: which rounds are recorded for it, at which radius it is, and how long its bound is
            tightened.
        device: where training runs, on how many devices, and in which precision. Rounds in less than float32
            are not recorded: only the final pass certifies.
        seed: of the order of examples and of the attacks.
        out: run folder, new or empty unless ``resume`` or ``overwrite`` is given; default: nothing is
            written.
        name: of the run, in its page; default that of its folder.
        loggers: where the figures of each epoch go besides ``metrics.jsonl``: ``tensorboard`` and ``csv``, which
            write into ``out``, ``wandb``, or objects with ``log_metrics(metrics, step)``, such as the loggers of
            lightning-fabric.
        resume: go on from the last checkpoint in ``out``, bit for bit; everything must be as it was but what
            `docs/explanations/runs.md` names.
        overwrite: replace the run in ``out``, once this one is finished; until then the old one stays as it
            is.
        progress: show a progress bar and the log on the terminal.
        config: the configuration that the run was built from, to be stored in its folder; set by the command
            line.

    Returns:
        The run, with its figures, its certificate and its metrics.

    Raises:
        KeyboardInterrupt, SystemExit: SIGINT, or SIGTERM (status 143) or SIGHUP (129), came; the folder holds
            the state reached.
        InputError: data, model, threat or a setting is not as allowed. Nothing has been written then.
        RunFolderError: ``out`` is occupied, holds nothing to resume, or cannot be written.
        NonFiniteLossError: training diverged: the loss stopped being finite, or the weights went beyond any radius.
            The folder holds the last weights.

    >>> import holdfast as hf
    >>> data = hf.data.spheres(20, dimension=3, clusters=1)
    >>> net = hf.networks.TwoLayer(3, 2, width=8)
    >>> run = hf.train(net, data, "l2:0.1", attack="fgsm", epochs=1, progress=False)
    >>> run.certificate.status
    'certified'
    """
    usual = build_recipe(recipe)
    start = usual.start if start is None else start
    optimizer = usual.optimizer if optimizer is None else as_optimizer(optimizer)
    check_start(start, parameter_radius)
    check_together(optimizer, learning_rate)
    if (resume or overwrite) and out is None:
        raise InputError(
            f"{'resume' if resume else 'overwrite'} needs the run's folder, got none; pass out=."
        )
    target = None if out is None else destination(Path(out))
    if target is not None and process_number() == 0:
        check_folder(target, RUN, resume=resume, overwrite=overwrite)
    check_loggers(loggers, target)
    attack = usual.attack if attack is None else as_attack(attack)
    objective = usual.objective if objective is None else as_objective(objective)
    augmentation = usual.augmentation if augmentation is None else as_augmentation(augmentation)
    weight_perturbation = weight_perturbation or usual.perturbation
    averaging = averaging or usual.averaging
    schedule = usual.schedule if schedule is None else as_schedule(schedule)
    loss, threat = as_loss(loss), as_threat(threat, bounds=data.bounds, fixed=data.fixed)
    ramped(threat, schedule, 0.0)  # which refuses a ramp of a threat without a radius
    check_data(data, threat)
    if example_weights is not None:
        example_weights = as_weights("example_weights", example_weights, len(data.split.train))
    fabric = devices_for(device.accelerator, device.devices, device.precision, device.strategy)
    seen = Progress(enabled=progress and fabric.is_global_zero)
    started = datetime.now().astimezone()
    compatibility = check_compatible(data, threat, allow=allow_incompatible, progress=seen)
    check_model(model, data)
    most = len(data.split.train) if extra is None else extra.batch_with(len(data.split.train))
    choice = chosen_for(
        model,
        most,
        optimizer=optimizer,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    batch = choice.batch_size
    if extra is not None:
        check_extra(extra, data, threat, batch)
        check_augmentation(augmentation, extra.x, threat)
    check_batches(model, data, batch, extra)
    check_memory(model, data, math.ceil(batch / device.devices))
    check_augmentation(augmentation, data.train.x, threat)
    if target is not None:
        seen.say(f"{data.name}, {threat.spec}, into {target}")

    fabric.launch()
    model.to(fabric.device)
    if device.precision == "64-true":
        model.double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    data = replace(data, x=data.x.to(parameters[0].dtype), y=data.y.long())
    if extra is not None:
        fits = extra.x if extra.x.dtype == data.x.dtype else inside(extra.x, data.bounds, data.x.dtype)
        extra = replace(extra, x=fits, y=extra.y.long())
    if validation.attack is None:
        validation = replace(validation, attack=build_attack(DEFAULT.evaluation))
    identity = identity_of(
        model=model,
        data=data,
        threat=threat,
        loss=loss,
        attack=attack,
        validation=validation,
        example_weights=example_weights,
        epochs=epochs,
        batch_size=batch,
        optimizer=choice.optimizer,
        learning_rate=learning_rate,
        schedule=schedule,
        objective=objective,
        augmentation=augmentation,
        weight_perturbation=weight_perturbation,
        averaging=averaging,
        seed=seed,
        parameter_radius=parameter_radius,
        project=project,
        precision=device.precision,
        start=start,
        trace=certificate.trace,
        **({} if extra is None else {"extra": extra}),
    )
    folder = None if target is None else written_in(target, resume=resume, overwrite=overwrite)
    if resume and folder is not None:
        identity = check_same(read_identity(folder), identity)
    part = data.train  # a copy, where its rows are no one stretch of the data
    x, y = part.x.to(fabric.device), part.y.to(fabric.device)
    if example_weights is not None:
        example_weights = example_weights.to(fabric.device)
    if extra is not None:
        extra = replace(extra, x=extra.x.to(fabric.device), y=extra.y.to(fabric.device))
    step = None
    if learning_rate is None and isinstance(choice.optimizer, Named):
        if resume:  # the checkpoint has it
            step = StepSize(learning_rate=ADAM, reason="the one that the run began with")
        else:
            with seen.stage("choosing a step size"):
                step = chosen_rate(model, x, y, threat, loss, choice, seed=seed)
            # one rate for all processes, whose devices may differ in the last bit
            step = replace(step, learning_rate=fabric.broadcast(step.learning_rate))
        learning_rate = step.learning_rate
    chosen = chosen_words(choice, None if resume else step, most)
    for line in chosen:
        seen.say(line)
    torch_optimizer = make_optimizer(choice.optimizer, parameters, learning_rate)
    curvature, reason = curvature_for(model)
    recorder = TraceRecorder(
        model,
        x,
        y,
        threat,
        loss,
        curvature=curvature,
        radius=certificate.radius or parameter_radius or 1.0,
        example_weights=example_weights,
        processes=fabric.world_size,
        reduce=partial(summed, fabric),
    )
    wrapped, torch_optimizer = fabric.setup(model, torch_optimizer)
    with ExitStack() as held:
        if folder is not None and target is not None and fabric.is_global_zero:
            for place in {target, folder}:
                held.enter_context(locked(place))
        state, best, rows = TrainingState(), Best(), list[EpochFigures]()
        if resume and folder is not None:
            state, best, rows = resume_state(folder, model, torch_optimizer, recorder)
            if step is not None:
                group = torch_optimizer.param_groups[0]
                step = replace(step, learning_rate=group.get("initial_lr", group["lr"]))
                learning_rate = step.learning_rate
        kernel = _kernel(
            model,
            x,
            y,
            classes=data.classes,
            examples=validation.kernel_examples,
            seed=seed,
            resumed=folder if resume else None,
        )
        session = Session(
            name=name,
            seed=seed,
            model=model,
            data=data,
            x=x,
            y=y,
            extra=extra,
            threat=threat,
            loss=loss,
            attack=attack,
            objective=objective,
            augmentation=augmentation,
            weight_perturbation=weight_perturbation,
            averaging=averaging,
            validation=validation,
            final=build_attack(DEFAULT.final) if final_attack is None else as_attack(final_attack),
            closing=closing,
            example_weights=example_weights,
            parameter_radius=parameter_radius,
            certificate=certificate,
            compatibility=compatibility,
            fabric=fabric,
            optimizer=torch_optimizer,
            curvature=curvature,
            reason=reason,
            recorder=recorder,
            ball=ParameterBall(
                names=recorder.names, initial=recorder.initial, radius=parameter_radius or math.inf
            ),
            kernel=kernel,
            chosen=choice,
            step=step,
            learning_rate=learning_rate,
            writer=RunWriter(folder if fabric.is_global_zero else None, fresh=not resume),
            progress=seen,
            started=started,
            state=state,
            best=best,
            rows=rows,
        )
        if resume and folder is not None:
            _go_on(session, identity, config or kept_config(folder, _described(locals()), epochs))
        else:
            _begin(session, identity, config or _described(locals()), start, chosen)
        unrecorded = _unrecorded(session, device.precision)
        recorded = certificate.trace and not unrecorded
        if certificate.trace and unrecorded:
            session.writer.log(f"no round is recorded: {unrecorded}; the pass after training certifies")
        training = Training(
            fabric=fabric,
            module=model,
            model=wrapped,
            optimizer=torch_optimizer,
            x=x,
            y=y,
            threat=threat,
            attack=attack,
            loss=loss,
            objective=objective,
            augmentation=augmentation,
            perturbation=weight_perturbation,
            averaging=averaging,
            clip_norm=getattr(choice.optimizer, "clip_norm", None),
            epochs=epochs,
            batch_size=batch,
            schedule=schedule,
            seed=seed,
            ball=session.ball,
            project=project and parameter_radius is not None,
            recorder=recorder if recorded else None,
            record_every=certificate.trace_every or record_every(model, len(y), batch, attack.passes),
            example_weights=example_weights,
            extra=extra,
        )
        with watching(loggers, session) as watch:
            run = _fitted(session, training, watch)
        if run is None:
            run = conclude(session)
            if session.folder is not None:
                run = replace(run, folder=take_over(session.folder))
        return run


def _begin(
    session: Session,
    identity: Identity,
    config: dict[str, Any],
    start: nn.Module | str,
    chosen: Sequence[str],
) -> None:
    """The folder at the beginning: this run whole and resumable, and nothing of another one, from one
    moment to the next.
    """
    writer, model = session.writer, session.model
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from(session, start)
    with writer.together():
        writer.config(config)
        writer.json(IDENTITY, to_json(identity))
        writer.weights("initial", initial)
        save_setting(writer, model, session.threat, session.loss, session.example_weights)
        save(session)
    writer.log(
        f"training {type(model).__name__} on {session.data.name} under {session.threat.spec} with seed "
        f"{session.seed}"
    )
    for line in chosen:
        writer.log(line)


def _go_on(session: Session, identity: Identity, config: dict[str, Any]) -> None:
    """The folder when a run is resumed: only what was of its earlier end is gone, once the new state is on
    disk.
    """
    said = f"going on {session.position()}"
    if session.state.within is not None and not session.recorder.is_open:
        said += "; the part of the trace recorded in this epoch was not saved, so the epoch has no bound of its own"
    session.writer.log(said)
    session.progress.say(said)
    writer = session.writer
    with writer.together():
        writer.config(config)
        writer.json(IDENTITY, to_json(identity))
        writer.drop(*OVERTAKEN)
        writer.drop_evaluation()
        save(session)


def _fitted(session: Session, training: Training, watch: Observer) -> Run | None:
    """Train, and save where training ended. Nothing is returned unless it ended early and its caller is to
    go on.
    """
    seen, state = session.progress, session.state

    def observe(record: EpochRecord, now: TrainingState) -> None:
        row = metrics_row(record, session.recorder.names)
        if record.epoch == training.epochs or record.epoch % session.validation.every == 0:
            row = validate(session, row) if len(session.data.validation) else row
            row = row if session.kernel is None else with_kernel(row, session.kernel.look(session.model))
        row = watched(session, row)
        session.rows.append(row)
        if row.event:
            session.writer.log(row.event)
            seen.say(row.event)
        watch(row)
        now.windows = kept(now.windows, TRACE_BYTES)
        if record.epoch < training.epochs and session.due():
            save(session)
        seen.epoch(record.epoch, record.online_loss, row.robust_accuracy)

    session.model.train()
    devices = [session.device] if session.device.type == "cuda" else []
    try:
        with stopping(at_safe_points=True) as stop:
            hooks = Hooks(
                observe=observe,
                on_step=seen.step,
                stop=stop,
                due=session.due,
                checkpoint=partial(save, session),
            )
            with torch.random.fork_rng(devices), seen.training(training.steps, state.rounds):
                done = fit(training, state, hooks)
            session.model.eval()
            if session.best.weights is None:
                session.best.weights, session.best.epoch = session.current(), state.epoch
            run = save(session)
            session.take_average()
            if done.interrupted:
                session.writer.log(f"interrupted {session.position()}")
    except NonFiniteLossError as error:
        session.model.eval()
        save(session, f"training stopped: {error}", checkpoint=False)
        session.writer.log(str(error))
        raise
    except (KeyboardInterrupt, SystemExit) as error:
        if session.folder is not None:
            beside = (
                ""
                if destination(session.folder) == session.folder
                else ", and the folder above it the one to be replaced"
            )
            error.add_note(
                f"{session.folder} holds the run {session.position()}{beside}; go on with resume=True."
            )
        raise
    if done.interrupted and not stop():  # another process of the run got the signal
        raise KeyboardInterrupt
    return run if done.interrupted else None


def _unrecorded(session: Session, precision: str) -> str:
    """Why rounds are not recorded for the certificate, in words; empty where they are."""
    if not precision.endswith("-true"):
        return f"training in {precision} is not what the proof is about"
    if session.objective.carries:
        return f"points of {session.objective.name} were found at earlier weights"
    if not session.objective.robust:
        return f"a step of {session.objective.name} is not one of the robust loss"
    if session.extra is not None:
        return "extra examples are not those of the training part"
    if not isinstance(session.augmentation, NoAugmentation):
        return "augmented examples are not those of the training part"
    if not isinstance(session.weight_perturbation, NoPerturbation):
        return f"with {session.weight_perturbation.name} a step's gradient is taken at other weights"
    if session.attack.leaves:
        return f"points of {session.attack.name} may lie outside the threat set"
    return ""


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


def _said(value: object) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)


def _described(given: dict[str, Any]) -> dict[str, Any]:
    """A readable ``config.yaml`` for a run started from Python: settings as given, objects by their text."""
    plain = (str, int, float, bool, type(None))
    skip = {"data", "config", "model", "resume", "overwrite", "progress", "out", "loggers"}
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
