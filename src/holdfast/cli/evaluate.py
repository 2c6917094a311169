"""``holdfast evaluate``: robust accuracy between what is proved and what no attack broke, with a warning
where the attacks seem to have failed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.config.commands import WEIGHTS, EvaluateCommand
from holdfast.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from holdfast.data import Dataset
    from holdfast.jobs.evaluate import Plan
    from holdfast.record.schema import EvaluationFigures


def run(argv: Sequence[str]) -> int:
    """Evaluate, show, and update the run's page."""
    from holdfast.config.reading import read

    given, named = read(EvaluateCommand, argv)

    from holdfast.cli.evaluation import show_evaluation
    from holdfast.cli.terminal import console
    from holdfast.jobs.evaluate import Plan

    plan = Plan(
        attacks=given.attacks,
        verify=None if given.verify == "none" else given.verify,
        verify_seconds=given.verify_seconds,
        part=given.part,
        examples=given.examples,
        radii=given.radii,
        batch_size=given.batch_size,
        processes=given.processes,
        seed=given.seed,
    )
    if given.target.is_dir():
        record, folder = _of_run(given, plan, named.get("threat", {}))
    else:
        record, folder = _of_file(given, plan, named)
    show_evaluation(console(), record, folder)
    return 0


def _of_run(
    given: EvaluateCommand, plan: "Plan", threat: Mapping[str, Any]
) -> tuple["EvaluationFigures", Path]:
    from holdfast.jobs.evaluate import evaluate_run

    record = evaluate_run(
        given.target,
        plan,
        which=given.weights,
        threat=threat,
        accelerator=given.accelerator,
        trusted=given.trusted,
        progress=not given.quiet,
    )
    if (given.target / "report.html").exists():
        from holdfast.report import write_report

        write_report([given.target], given.target / "report.html")
    return record, given.target / "evaluation"


def _of_file(
    given: EvaluateCommand, plan: "Plan", named: Mapping[str, Any]
) -> tuple["EvaluationFigures", Path]:
    kind = given.chosen("target")
    for section, chief in (("data", "name"), ("threat", "spec"), ("network", "name")):
        if chief not in named.get(section, {}) and (section != "network" or kind == WEIGHTS):
            raise InputError(f"{kind} needs --{section}, got none; name it as in `holdfast train`.")
    from holdfast.config.build import build_data, build_threat
    from holdfast.jobs.evaluate import UNFINISHED, evaluate_model, on_accelerator
    from holdfast.networks import LogOutputs
    from holdfast.record.folder import next_free

    assert given.data is not None
    assert given.threat is not None  # both are named
    data = build_data(given.data, seed=given.seed)
    threat = build_threat(given.threat, data)
    model = _model(given, data)
    if given.log_outputs:
        model = LogOutputs(model)
    usual = Path("runs") / f"evaluation-{given.target.stem}"
    out = given.out or (usual if given.overwrite else next_free(usual, UNFINISHED))
    record = evaluate_model(
        on_accelerator(model, given.accelerator),
        data,
        threat,
        plan,
        out,
        overwrite=given.overwrite,
        progress=not given.quiet,
    )
    return record, out


def _model(given: EvaluateCommand, data: "Dataset") -> "nn.Module":
    """The network that the file holds, or with the weights it holds."""
    from holdfast.config.build import build_network
    from holdfast.external import load_model

    network = given.network
    if network is None:
        return load_model(given.target, trusted=given.trusted)
    if network.name in network.registry:
        return load_model(build_network(network, data, seed=given.seed), weights=given.target)
    own = network.init_args  # type: ignore[attr-defined]
    return load_model(network.name, weights=given.target, init_args=own)
