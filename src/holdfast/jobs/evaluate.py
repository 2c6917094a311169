"""Evaluate a run, or a model from elsewhere: bounds, attacks, warnings, and everything written down."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from holdfast import _defaults
from holdfast._files import json_writer, text_writer
from holdfast._progress import Progress
from holdfast._record import Files, locked
from holdfast._signals import stopping
from holdfast.config.build import build_data, build_threat
from holdfast.config.commands import PARTS
from holdfast.config.schema import with_entries
from holdfast.data import Dataset
from holdfast.errors import InputError
from holdfast.evaluation import Evaluation, evaluate
from holdfast.evaluation.cascade import drawn
from holdfast.evaluation.curve import RadiusPoint, accuracy_curve
from holdfast.evaluation.parallel import evaluate_in_processes
from holdfast.evaluation.store import Recheck, attacked_writer, recheck, save_attacked
from holdfast.jobs.summary import class_figures, names_of, versions
from holdfast.losses import CrossEntropy, Loss
from holdfast.record.folder import check_folder
from holdfast.record.plain import figure, to_plain
from holdfast.record.reload import load_weights, run_config, run_parts
from holdfast.record.run import RunWriter, read_summary
from holdfast.record.schema import (
    AccuracyAtRadius,
    EvaluationFigures,
    HardExample,
    Intervals,
    LossBracket,
    RecheckFigures,
    StageFigures,
    VerdictFigures,
)
from holdfast.threats import LpBall, Threat

HARDEST = 12
CURVE_ATTACKS = "fast"
"""The suite at other radii than the threat's."""
FILE, UNFINISHED = "evaluation.json", "unfinished*"
NO_OTHER: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an evaluation is to be done.

    Attributes:
        attacks: name of the suite.
        verify: method of the bounds; ``None`` for none.
        verify_seconds: for all bounds together; ``None`` for no limit.
        part: which part of the data.
        examples: as many drawn at random; ``None`` for all.
        radii: further radii for the accuracy curve.
        processes: of this machine.
    """

    attacks: str = _defaults.ATTACKS
    verify: str | None = _defaults.VERIFY
    part: str = _defaults.PART
    examples: int | None = None
    verify_seconds: float | None = _defaults.VERIFY_SECONDS
    radii: tuple[float, ...] = ()
    batch_size: int | None = None
    processes: int = _defaults.PROCESSES
    seed: int = _defaults.SEED


@stopping()
def evaluate_run(
    folder: str | Path,
    plan: Plan,
    *,
    which: str = _defaults.WEIGHTS,
    threat: Mapping[str, Any] = NO_OTHER,
    accelerator: str = _defaults.ACCELERATOR,
    trusted: bool = False,
    progress: bool = True,
) -> EvaluationFigures:
    """Evaluate a run's weights on a part of its data; the record goes to ``evaluation/`` in its folder, its
    figures to ``summary.json``.

    Args:
        which: ``last`` or ``best`` weights.
        threat: entries of `ThreatConfig` that go over those of the run, e.g. ``{"spec": "linf:0.1"}``.
        trusted: import what the run's configuration names: its data, network, threat or loss, whose code runs
            then.

    Raises:
        RunFolderError: not a finished run, or one whose data is described nowhere.
        InputError: anything `evaluate` refuses.
    """
    folder = Path(folder)
    read_summary(folder)
    with locked(folder):
        return _evaluate_run(
            folder,
            plan,
            which=which,
            threat=threat,
            accelerator=accelerator,
            trusted=trusted,
            progress=progress,
        )


def _evaluate_run(
    folder: Path,
    plan: Plan,
    *,
    which: str,
    threat: Mapping[str, Any],
    accelerator: str,
    trusted: bool,
    progress: bool,
) -> EvaluationFigures:
    summary, writer = read_summary(folder), RunWriter(folder)
    config = run_config(folder, trusted=trusted)
    data = build_data(config.data, seed=config.seed)
    model, own, loss, setting = run_parts(folder, trusted=trusted)
    load_weights(model, folder, which)
    asked = build_threat(with_entries(config.threat, threat, "threat"), data) if threat else own
    record, attacked = _evaluated(
        on_accelerator(model, accelerator),
        data,
        asked,
        plan,
        folder / "evaluation",
        loss=loss,
        weights=which,
        progress=progress,
    )
    # Figures of a sample, of other weights or of another threat do not replace the run's own.
    own_figures = asked == own and which == "last" and record.population is None
    proved = record.robust_loss.verified
    if own_figures and plan.part == "train" and setting.example_weights is None and proved is not None:
        summary = replace(summary, robust_loss_upper_bound=proved, robust_loss_upper_kind="verified")
    if own_figures and plan.part == summary.accuracy_on:
        summary = replace(
            summary,
            clean_accuracy=record.clean_accuracy,
            robust_accuracy=record.robust_accuracy,
            robust_accuracy_verified=record.robust_accuracy_verified,
            per_class=record.per_class,
        )
    with writer.together():
        _write(writer.put, record, attacked, "evaluation/")
        writer.summary(replace(summary, evaluation=record))
    return record


def on_accelerator(model: nn.Module, accelerator: str) -> nn.Module:
    """The model there, in evaluation mode.

    Raises:
        InputError: this machine has no such device.
    """
    try:
        return model.to(accelerator).eval()
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().partition("\n")[0].rstrip(".")
        raise InputError(
            f"accelerator must be a device of this machine, such as cpu or cuda, got {accelerator!r} "
            f"({why}); leave it out for the CPU."
        ) from error


@stopping()
def evaluate_model(
    model: nn.Module,
    data: Dataset,
    threat: Threat,
    plan: Plan,
    out: Path,
    *,
    loss: Loss | None = None,
    weights: str = "",
    overwrite: bool = False,
    progress: bool = True,
) -> EvaluationFigures:
    """Evaluate on a part of ``data`` and write ``evaluation.json``, ``attacked.safetensors`` and
    ``examples.csv`` into ``out``.

    A call that was killed goes on where it stopped when it is repeated. A finished evaluation in ``out`` is
    replaced only with ``overwrite``.

    Raises:
        InputError: anything `evaluate` refuses.
        RunFolderError: ``out`` is occupied, or cannot be written.
    """
    check_folder(out, FILE, what="an evaluation", overwrite=overwrite, unfinished=UNFINISHED)
    with locked(out):
        record, attacked = _evaluated(
            model, data, threat, plan, out, loss=loss, weights=weights, progress=progress
        )
        files = Files(out)
        with files.together():
            _write(files.put, record, attacked, "")
    return record


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """The evaluated examples with what attacks made of them."""

    x: Tensor
    result: Evaluation


def _write(
    put: Callable[[str, Callable[[Path], None]], None],
    record: EvaluationFigures,
    attacked: Attacked,
    under: str,
) -> None:
    put(f"{under}attacked.safetensors", attacked_writer(attacked.result, attacked.x))
    put(f"{under}examples.csv", text_writer(attacked.result.table_text()))
    put(f"{under}{FILE}", json_writer(to_plain(record)))


def _evaluated(
    model: nn.Module,
    data: Dataset,
    threat: Threat,
    plan: Plan,
    out: Path,
    *,
    loss: Loss | None,
    weights: str,
    progress: bool,
) -> tuple[EvaluationFigures, Attacked]:
    """Evaluate; the state of one that is not finished lies in ``out``."""
    seen, loss = Progress(enabled=progress), loss or CrossEntropy()
    x, y = _part(data, plan.part)
    x = x.to(next((p.dtype for p in model.parameters()), x.dtype))
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    population = None
    rows = drawn(len(x), plan.examples, plan.seed)
    if rows is not None:
        x, y, population = x[rows], y[rows], len(x)
    settings: dict[str, Any] = {
        "verify": plan.verify,
        "verify_seconds": plan.verify_seconds if plan.verify else None,
        "loss": loss,
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "resume_from": out / "unfinished.safetensors",
    }
    if plan.processes > 1:
        with seen.stage(f"evaluating on {plan.processes} processes"):
            result = evaluate_in_processes(
                model, x, y, threat, plan.attacks, processes=plan.processes, **settings
            )
    else:
        with seen.named() as report:
            result = evaluate(model, x, y, threat, plan.attacks, progress=report, notice=seen.say, **settings)
    with seen.named() as report:
        curve = _curve(model, x, y, threat, plan, result, report)
    with tempfile.TemporaryDirectory() as place:  # what is read back has been on a disk
        file = Path(place) / "attacked.safetensors"
        save_attacked(result, x, file)
        checked = recheck(file, model, threat, loss=loss)
    record = _record(
        plan,
        threat,
        result,
        population,
        checked,
        curve,
        data,
        time.perf_counter() - began,
        weights,
    )
    return record, Attacked(x=x, result=result)


def _part(data: Dataset, name: str) -> tuple[Tensor, Tensor]:
    if name not in PARTS:
        raise InputError(f"part must be one of {', '.join(PARTS)}, got {name!r}; test is the default.")
    if name == "all":
        return data.x, data.y.long()
    part = getattr(data, name)
    if len(part) == 0:
        raise InputError(f"part must hold examples, got none in {name!r}; take --part all.")
    return part.x, part.y.long()


def _curve(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, plan: Plan, result: Evaluation, report: Any
) -> tuple[RadiusPoint, ...]:
    if not plan.radii:
        return ()
    if not isinstance(threat, LpBall):
        raise InputError(
            f"radii vary a ball of some norm, got {threat.spec}; leave --radii out for other threats."
        )
    own = RadiusPoint(
        radius=threat.radius, verified=result.verified_accuracy, not_broken=result.robust_accuracy
    )
    others = [radius for radius in plan.radii if radius != threat.radius]
    found = accuracy_curve(
        model,
        x,
        y,
        threat,
        others,
        CURVE_ATTACKS,
        verify=plan.verify,
        verify_seconds=plan.verify_seconds if plan.verify else None,
        batch_size=plan.batch_size,
        seed=plan.seed,
        progress=report,
    )
    return tuple(sorted((*found, own), key=lambda point: point.radius))


def _record(
    plan: Plan,
    threat: Threat,
    result: Evaluation,
    population: int | None,
    checked: Recheck,
    curve: Sequence[RadiusPoint],
    data: Dataset,
    seconds: float,
    weights: str,
) -> EvaluationFigures:
    result = replace(result, population=population)
    low, high = result.robust_loss
    names = names_of(data)
    open_ = (result.robust & ~result.verified).nonzero().squeeze(1)
    hardest = open_[result.loss[open_].argsort(descending=True)][:HARDEST]
    return EvaluationFigures(
        data=data.name,
        part=plan.part,
        weights=weights or None,
        examples=len(result.y),
        population=population,
        threat=threat.spec,
        attacks=plan.attacks,
        verify=plan.verify,
        seed=plan.seed,
        clean_accuracy=result.clean_accuracy,
        robust_accuracy=result.robust_accuracy,
        robust_accuracy_verified=result.verified_accuracy if plan.verify else None,
        intervals=Intervals(
            clean=result.interval("clean"),
            robust=result.interval("robust"),
            verified=result.interval("verified"),
        )
        if population
        else None,
        robust_loss=LossBracket(attacked=figure(low), verified=figure(high)),
        stages=tuple(StageFigures(**asdict(stage)) for stage in result.stages),
        per_class=class_figures(result, data, bounds=bool(plan.verify)),
        # without bounds nothing was proved at any radius, which is not the same as 0 % proved
        curve=tuple(
            AccuracyAtRadius(
                radius=float(point.radius),
                verified=point.verified if plan.verify else None,
                not_broken=point.not_broken,
            )
            for point in curve
        ),
        curve_attacks=CURVE_ATTACKS,
        hardest=tuple(
            HardExample(example=int(k), label=names[int(result.y[k])], loss=figure(float(result.loss[k])))
            for k in hardest
        ),
        verdict=VerdictFigures(word=result.verdict, warnings=result.warnings or ()),
        recheck=RecheckFigures(**asdict(checked), sound=checked.sound),
        seconds=seconds,
        versions=versions(),
    )
