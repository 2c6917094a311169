"""The main path: attack, gradient, record, step, project.

Read top to bottom: `fit` is the whole of training. Data order, attacks and therefore the run are fixed by the
seed, and the state that `fit` hands out after each epoch, and within one where it is asked to, is enough to
go on from there bit for bit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast._rules import LARGEST_RADIUS
from holdfast._tensors import applied, generator
from holdfast._values import Shown
from holdfast.attacks import Attack, in_mode
from holdfast.data import Extra
from holdfast.errors import InputError, NonFiniteLossError
from holdfast.losses import Loss, finite
from holdfast.threats import LpBall, Threat
from holdfast.trace import TraceRecorder, Window
from holdfast.training.augmentation import Augmentation, NoAugmentation
from holdfast.training.averaging import Average, Averaging, NoAveraging
from holdfast.training.ball import ParameterBall
from holdfast.training.batches import Mix, epoch_batches, epoch_seed
from holdfast.training.devices import Devices
from holdfast.training.objectives import Batch, Objective
from holdfast.training.perturbation import NoPerturbation, WeightPerturbation
from holdfast.training.schedules import ScheduleSettings

FEW = 4
"""Examples on which outputs are looked at after an epoch."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch did: a line of ``metrics.jsonl`` before validation is added.

    Attributes:
        epoch: its number, from 0.
        rounds: since the start of the run.
        seconds: spent on training.
        learning_rate: at the end of the epoch.
        online_loss: mean loss of its batches, each at the weights of its step.
        drift: ``||W - W0||`` of each ball.
        window: the recorded rounds; ``None`` where the epoch was not recorded.

    >>> from holdfast.training import EpochRecord
    >>> figures = {"seconds": 1.0, "learning_rate": 0.1, "online_loss": 0.5, "drift": (0.2,), "window": None}
    >>> EpochRecord(epoch=0, rounds=10, **figures).online_loss
    0.5
    """

    epoch: int
    rounds: int
    seconds: float
    learning_rate: float
    online_loss: float
    drift: tuple[float, ...]
    window: Window | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Within(Shown):
    """The place of training within an epoch.

    Attributes:
        steps: done in this epoch.
        loss: their share of the epoch's online loss.
        seconds: spent on them.
        noise, random, device_random: states of the attacks' generator, of torch's own and of the device's.

    >>> import torch
    >>> from holdfast.training import Within
    >>> states = {"noise": torch.empty(0), "random": torch.empty(0), "device_random": None}
    >>> Within(steps=3, loss=0.5, seconds=1.0, **states).steps
    3
    """

    steps: int
    loss: float
    seconds: float
    noise: Tensor
    random: Tensor
    device_random: Tensor | None


@dataclass(repr=False, kw_only=True)
class Carried(Shown):
    """What goes from one step of an objective that replays or carries to the next.

    Attributes:
        moves: ``x' - x`` for the next step, (batch, ...) by the place in the batch; ``None`` before the first.
        noise: state of the attacks' generator before a minibatch was first shown: replays draw the same again.

    >>> from holdfast.training import Carried
    >>> Carried().moves is None
    True
    """

    moves: Tensor | None = None
    noise: Tensor | None = None


@dataclass(repr=False)
class TrainingState(Shown):
    """All that changes while training; saved and loaded by checkpoints.

    Attributes:
        epoch: epochs that are finished.
        rounds: steps taken.
        seconds: spent on training.
        generator_state: of the attacks' generator.
        average: of the weights.
        windows: recorded so far.
        within: the place within an epoch; ``None`` between two epochs.
        carried: from step to step.

    >>> from holdfast.training import TrainingState
    >>> TrainingState().epoch
    0
    """

    epoch: int = 0
    rounds: int = 0
    seconds: float = 0.0
    generator_state: Tensor | None = None
    average: Average = field(default_factory=lambda: Average(weights={}))
    windows: list[Window] = field(default_factory=list)
    within: Within | None = None
    carried: Carried = field(default_factory=Carried)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How training ended.

    Attributes:
        state: the state reached.
        interrupted: whether it was stopped before its last epoch.

    >>> from holdfast.training import Fit, TrainingState
    >>> Fit(state=TrainingState(epoch=3), interrupted=False).state.epoch
    3
    """

    state: TrainingState
    interrupted: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class Training(Shown):
    """What is trained, on what and how: fixed from the first step to the last.

    Attributes:
        fabric: the devices.
        module, model: the network itself, which attacks and the trace use, and the same set up by ``fabric``.
        optimizer: of torch, set up by ``fabric``.
        x, y: the training part: inputs (examples, ...) and labels (examples,), on the device of ``fabric``.
        threat: at its full radius.
        attack, loss: those of the robust loss.
        objective: what is minimised, with attack and loss.
        augmentation: of the examples of a step, before they are attacked.
        epochs: in all.
        batch_size: examples per step, over all processes and of both kinds.
        ball: measures the drift.
        project: whether weights are projected onto the ball after each step.
        schedule: of the learning rate and the radius.
        perturbation: of the weights, at which each step's gradient is taken.
        averaging: which average of the weights is kept in the state.
        clip_norm: largest length of a step's gradient; None for any.
        seed: of the order of examples and of the attacks.
        recorder: writes the trace; ``None`` for none.
        record_every: epochs between recorded ones, counted back from the last.
        example_weights: ``pi_i`` of the robust loss; default ``1 / n``.
        extra: further examples, a share of each step, on the device of ``fabric``; ``None`` for none.

    >>> import torch
    >>> import holdfast as hf
    >>> from holdfast.training import ParameterBall, Training
    >>> from holdfast.training.devices import OneProcess
    >>> net, x, y = torch.nn.Linear(2, 1), torch.eye(2), torch.tensor([0, 1])
    >>> start = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    >>> ball = ParameterBall(names=(("weight", "bias"),), initial=start, radius=1.0)
    >>> rule = {"attack": hf.FGSM(), "loss": hf.CrossEntropy(), "objective": hf.objectives.RobustLoss()}
    >>> rows = {"x": x, "y": y, "threat": hf.LpBall("2", 0.1), "epochs": 2, "batch_size": 2, "ball": ball}
    >>> optimizer = hf.optimizers.make_optimizer(hf.optimizers.SGD(), list(net.parameters()), 0.1)
    >>> training = Training(fabric=OneProcess(), module=net, model=net, **rule, **rows, optimizer=optimizer)
    >>> training.record_every
    1
    """

    fabric: Devices
    module: nn.Module
    model: nn.Module
    optimizer: Any
    x: Float[Tensor, "examples ..."]
    y: Int[Tensor, " examples"]
    threat: Threat
    attack: Attack
    loss: Loss
    objective: Objective
    epochs: int
    batch_size: int
    ball: ParameterBall
    project: bool = False
    augmentation: Augmentation = NoAugmentation()  # noqa: RUF009 - frozen
    schedule: ScheduleSettings = ScheduleSettings()  # noqa: RUF009 - frozen
    perturbation: WeightPerturbation = NoPerturbation()  # noqa: RUF009 - frozen
    averaging: Averaging = NoAveraging()  # noqa: RUF009 - frozen
    clip_norm: float | None = None
    seed: int = 0
    recorder: TraceRecorder | None = None
    record_every: int = 1
    example_weights: Float[Tensor, " examples"] | None = None
    extra: Extra | None = None

    @property
    def mix(self) -> Mix:
        """Of what a step's examples are."""
        return mixed(self.batch_size, self.extra)

    @property
    def steps_an_epoch(self) -> int:
        """A pass over the training part, each minibatch shown as often as the objective has it."""
        return self.mix.rounds(len(self.y)) * self.objective.replays

    @property
    def steps(self) -> int:
        """In all."""
        return self.epochs * self.steps_an_epoch


def _nothing(*_: object) -> None:
    """Where nobody listens."""


def _no() -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Who is told what happens while training, and who is asked.

    Attributes:
        observe: called after each epoch.
        on_step: called after each step with (steps done in all, loss).
        stop: asked in each step, which is finished all the same.
        due, checkpoint: asked after a step within an epoch whether the state there is to be saved; called
            then. What goes on from there records the rest of the epoch where the recorder has been given the
            window that was open (`TraceRecorder.reopen`).

    >>> from holdfast.training import Hooks
    >>> Hooks().stop()
    False
    """

    observe: Callable[[EpochRecord, TrainingState], None] = _nothing
    on_step: Callable[[int, float], None] = _nothing
    stop: Callable[[], bool] = _no
    due: Callable[[], bool] = _no
    checkpoint: Callable[[], object] = _nothing


def fit(training: Training, state: TrainingState, hooks: Hooks) -> Fit:
    """Train ``training.model`` in place on its objective, from ``state`` on.

    By default the objective is the robust loss ``sum_i pi_i loss(f(W, A(W, x_i)), y_i)``.

    Args:
        training: what is trained, on what and how.
        state: where to start: a new `TrainingState`, or one from a checkpoint.
        hooks: called while training.

    Returns:
        The state reached, and whether training was interrupted.

    Raises:
        NonFiniteLossError: the loss of a batch is not finite, and the weights are those before that batch; or
            an epoch has led them where nothing more can be done with them.

    >>> import torch
    >>> import holdfast as hf
    >>> from holdfast.training import Hooks, ParameterBall, Training, TrainingState, fit
    >>> from holdfast.training.devices import OneProcess
    >>> net, x, y = torch.nn.Linear(2, 1), torch.eye(2), torch.tensor([0, 1])
    >>> start = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    >>> ball = ParameterBall(names=(("weight", "bias"),), initial=start, radius=1.0)
    >>> rule = {"attack": hf.FGSM(), "loss": hf.CrossEntropy(), "objective": hf.objectives.RobustLoss()}
    >>> rows = {"x": x, "y": y, "threat": hf.LpBall("2", 0.1), "epochs": 2, "batch_size": 2, "ball": ball}
    >>> optimizer = hf.optimizers.make_optimizer(hf.optimizers.SGD(), list(net.parameters()), 0.1)
    >>> training = Training(fabric=OneProcess(), module=net, model=net, **rule, **rows, optimizer=optimizer)
    >>> fit(training, TrainingState(), Hooks()).state.epoch
    2
    """
    run, fabric, module, x, y = training, training.fabric, training.module, training.x, training.y
    optimizer, recorder, ball, weights = run.optimizer, run.recorder, run.ball, run.example_weights
    n = len(y)
    noise = generator(run.seed, x.device)
    if state.generator_state is not None:
        noise.set_state(state.generator_state)
    replays, carried, steps_an_epoch = run.objective.replays, state.carried, run.steps_an_epoch
    # Kept in the optimiser's own state, since a resumed one comes with the rates of its last step.
    base_rates = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    parameters = [p for p in module.parameters() if p.requires_grad]
    for epoch in range(state.epoch, run.epochs):
        torch.manual_seed(
            (epoch_seed(run.seed, epoch) + fabric.global_rank) % 2**63
        )  # what dropout in the model draws from
        began, recording = (
            time.perf_counter(),
            recorder is not None and _due(epoch, run.epochs, run.record_every),
        )
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        within, state.within = state.within, None
        if within is not None:  # an earlier process did the first steps
            recording = recorder is not None and recorder.is_open
            total += within.loss
            began -= within.seconds
            noise.set_state(within.noise)
            _set_random(within, x.device)
        if recorder is not None and recording and not recorder.is_open:
            recorder.open()
        rate, asked, done = 0.0, 0.0, 0 if within is None else within.steps
        batches = epoch_batches(
            n,
            run.mix,
            seed=run.seed,
            epoch=epoch,
            rank=fabric.global_rank,
            processes=fabric.world_size,
        )
        shown = (batch for batch in batches for _ in range(replays))
        for step, batch in enumerate(islice(shown, done, None), start=done + 1):
            progress = state.rounds / run.steps
            factor, threat = run.schedule.rate_factor(progress), ramped(run.threat, run.schedule, progress)
            for group, peak in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate = peak * factor
            rows = batch.rows.to(x.device)
            clean, labels = x[rows], y[rows]
            if run.extra is not None:
                others = batch.extra.to(x.device)
                clean, labels = (
                    torch.cat([clean, run.extra.x[others]]),
                    torch.cat([labels, run.extra.y[others]]),
                )
            if carried.noise is not None and (step - 1) % replays:
                noise.set_state(carried.noise)  # the same examples, however they are augmented
            elif replays > 1:
                carried.noise = noise.get_state()
            if len(clean):  # a process may have no share of a short last round
                clean = run.augmentation(clean, noise)
            points = clean
            if len(clean):
                with fabric.autocast():
                    points = run.objective.attacked(
                        module,
                        clean,
                        labels,
                        threat,
                        run.attack,
                        loss=run.loss,
                        generator=noise,
                    )
            if run.objective.carries and len(clean):
                points = threat.project_inside(clean + _placed(carried.moves, clean), clean)
                points.requires_grad_(True)
            # The mean over the whole round; processes average their gradients, hence the factor.
            share = torch.full((len(clean),), 1 / batch.total, dtype=torch.float64, device=x.device)
            if weights is not None:
                share[: len(rows)] = weights[rows] * (n / batch.total)
            taken = partial(
                Batch,
                clean=clean,
                attacked=points,
                y=labels,
                threat=threat,
                loss=run.loss,
                generator=noise,
                ramp=run.schedule.radius_factor(progress),
            )
            value_at = partial(_value, run.objective, taken, share)
            optimizer.zero_grad(set_to_none=True)
            with run.perturbation.moved(module, lambda: value_at(module)[0], partial(summed, fabric)):  # noqa: B023
                value, attacked = value_at(run.model)
                fabric.backward(value * fabric.world_size)
            if points.grad is not None:
                moved = run.objective.moved(points.detach(), points.grad, clean, threat)
                carried.moves = _kept(carried.moves, moved - clean)
            # One look at the loss per round (not within the attack): a step is never taken with a loss that is
            # not finite, and
            # all processes end in the same round.
            both = torch.stack(
                [value.detach().double(), torch.full_like(value, hooks.stop(), dtype=torch.float64)]
            )
            seen, asked = summed(fabric, both).tolist()
            if not abs(seen) < float("inf"):
                raise NonFiniteLossError(
                    f"the training loss must stay finite, got {seen} in round {state.rounds + 1} (epoch "
                    f"{epoch + 1}); "
                    f"lower the learning rate (now {rate:.3g})."
                )
            if recorder is not None:
                if recording:
                    recorder.record(rows, points, attacked.outputs.detach(), round_size=batch.round_size)
                else:
                    recorder.skip()
            if run.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, run.clip_norm)
            optimizer.step()
            if run.project:
                ball.project(module)
            state.rounds += 1
            done_now = state.rounds / run.steps
            run.averaging.update(state.average, module, done_now, epoch_ends=step == steps_an_epoch)
            total += value.detach() * (batch.round_size / (n * replays))
            hooks.on_step(state.rounds, seen)
            if step < steps_an_epoch and (asked or hooks.due()):
                seconds = time.perf_counter() - began
                state.within = _within(step, float(total), seconds, noise, x.device)
                if asked:
                    optimizer.zero_grad(set_to_none=True)
                    return Fit(state=state, interrupted=True)
                hooks.checkpoint()
                state.within = None
        window = recorder.close(epoch=epoch + 1) if recorder is not None and recording else None
        if window is not None:
            state.windows.append(window)
        _share_buffers(fabric, module)
        state.epoch, state.generator_state = epoch + 1, noise.get_state()
        state.seconds += time.perf_counter() - began
        drift = tuple(float(distance) for distance in ball.distances(module))
        if lost := _lost(module, x[:FEW], drift):
            raise NonFiniteLossError(
                f"{lost} after epoch {epoch + 1}; lower the learning rate (now {rate:.3g})."
            )
        for parameter in parameters:
            parameter.grad = None
        hooks.observe(
            EpochRecord(
                epoch=epoch + 1,
                rounds=state.rounds,
                seconds=state.seconds,
                learning_rate=rate,
                online_loss=float(summed(fabric, total)),
                drift=drift,
                window=window,
            ),
            state,
        )
        if asked:
            return Fit(state=state, interrupted=True)
    return Fit(state=state, interrupted=False)


def _value(
    objective: Objective, taken: Callable[..., Batch], share: Tensor, model: nn.Module
) -> tuple[Tensor, Batch]:
    """The objective over this process's share of a round, at the model's weights of this moment."""
    batch = taken(model=model)
    losses = objective.losses(batch)
    return (share.to(losses.dtype) * losses).sum(), batch


def _placed(moves: Tensor | None, clean: Tensor) -> Tensor:
    """The moves of a batch like ``clean``; 0 in places that had none."""
    found = torch.zeros_like(clean)
    if moves is not None:
        known = min(len(moves), len(clean))
        found[:known] = moves[:known].to(clean)
    return found


def _kept(moves: Tensor | None, now: Tensor) -> Tensor:
    """The moves after a step; a short batch leaves those of the places it lacks."""
    return now if moves is None else torch.cat([now, moves[len(now) :].to(now)])


def mixed(batch_size: int, extra: Extra | None) -> Mix:
    """Of what a batch of this size is made."""
    if extra is None:
        return Mix(own=batch_size)
    beside = extra.of_batch(batch_size)
    return Mix(own=batch_size - beside, extra=beside, examples=len(extra))


def ramped(threat: Threat, schedule: ScheduleSettings, progress: float) -> Threat:
    """The threat at its radius of this moment.

    Raises:
        InputError: a ramp for a threat that has no radius.
    """
    factor = schedule.radius_factor(progress)
    if factor == 1.0:
        return threat
    if not isinstance(threat, LpBall):
        raise InputError(
            f"radius_ramp needs a threat with a radius, an LpBall, got {type(threat).__name__}; leave it out."
        )
    return threat.with_radius(factor * threat.radius)


def _lost(module: nn.Module, x: Float[Tensor, "batch ..."], drift: tuple[float, ...]) -> str:
    """Why neither validation nor a certificate can do anything with these weights; empty where they can."""
    if not all(distance <= LARGEST_RADIUS for distance in drift):
        return f"the weights must stay within {LARGEST_RADIUS:g} of their start, got {max(drift):.3g}"
    with in_mode(module, "eval"), torch.no_grad():
        sound = bool(finite(applied(module, x)).all())
    return "" if sound else "the network's outputs must stay finite, got NaN or infinity"


def _within(steps: int, loss: float, seconds: float, noise: torch.Generator, device: torch.device) -> Within:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return Within(
        steps=steps,
        loss=loss,
        seconds=seconds,
        noise=noise.get_state(),
        random=torch.get_rng_state(),
        device_random=on_device,
    )


def _set_random(within: Within, device: torch.device) -> None:
    torch.set_rng_state(within.random)
    if within.device_random is not None and device.type == "cuda":
        torch.cuda.set_rng_state(within.device_random, device)


def _share_buffers(fabric: Devices, module: nn.Module) -> None:
    """Batch statistics, which each process took of its own share, are those of the first process in all."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            buffer.copy_(fabric.broadcast(buffer))


def summed(fabric: Devices, values: Tensor) -> Tensor:
    """The sum over all processes, in each of them.

    Args:
        fabric: the devices.
        values: this process's.

    >>> import torch
    >>> from holdfast.training import summed
    >>> from holdfast.training.devices import OneProcess
    >>> summed(OneProcess(), torch.ones(2))
    tensor([1., 1.])
    """
    return cast(Tensor, fabric.all_reduce(values, reduce_op="sum"))


def _due(epoch: int, epochs: int, every: int) -> bool:
    """Recorded epochs: every ``every``-th, counted back from the last; none where one alone would cost
    more than its share.
    """
    return every <= epochs and (epochs - 1 - epoch) % every == 0
