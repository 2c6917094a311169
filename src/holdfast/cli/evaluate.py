"""``holdfast evaluate``: robust accuracy between what is proved and what no attack broke, with a warning
where the attacks seem to have failed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast import _defaults
from holdfast.cli.arguments import Parser, classes, count, numbers, positive, refuse_others, seed
from holdfast.errors import InputError

if TYPE_CHECKING:
    from holdfast.record.schema import EvaluationFigures

EXAMPLES = """\
  holdfast evaluate runs/wide
  holdfast evaluate runs/wide --attacks fast --examples 500
  holdfast evaluate runs/wide --radii 0.1,0.2,0.4 --part train
  holdfast evaluate net.onnx --data path/to/mnist --threat linf:0.1
  holdfast evaluate weights.safetensors --network my_package.nets:Net --data cifar.npz --threat linf:8/255

A run's record goes to RUN/evaluation, its figures to its summary; repeated after a kill, the command goes on where it stopped."""


RUN, WEIGHTS, PROGRAM, OTHER = (
    "a run folder",
    "a file of weights (with --network)",
    "a model's file that is a program",
    "another model's file",
)
FILE_OPTIONS = ("--data", "--classes", "--log-outputs", "--out", "--overwrite")
OF = {
    RUN: ("--weights", "--trusted"),
    WEIGHTS: (*FILE_OPTIONS, "--network"),
    PROGRAM: (*FILE_OPTIONS, "--trusted"),
    OTHER: FILE_OPTIONS,
}
"""Which options go with which kind of target; the others go with all."""
BOUNDS_OPTIONS = {"bounds (--verify)": ("--verify-seconds",), "no bounds (--verify none)": ()}


def run(argv: Sequence[str]) -> int:
    """Evaluate, show, and update the run's page."""
    given = _parser().read(argv)
    if not given.target.exists():
        raise InputError(
            f"a run folder or a file of weights is needed, got {given.target}, which does not exist; "
            "check the path."
        )
    refuse_others(given.given, OF, (_kind(given),))
    refuse_others(given.given, BOUNDS_OPTIONS, tuple(BOUNDS_OPTIONS)[given.verify == "none" :][:1])
    radii = numbers("--radii", given.radii)

    from holdfast.cli.evaluation import show_evaluation
    from holdfast.cli.terminal import console
    from holdfast.jobs.evaluate import Plan

    plan = Plan(
        attacks=given.attacks,
        verify=None if given.verify == "none" else given.verify,
        verify_seconds=given.verify_seconds,
        part=given.part,
        sample=given.examples,
        radii=radii,
        batch_size=given.batch_size,
        processes=given.processes,
        seed=given.seed,
    )
    if given.target.is_dir():
        record, folder = _of_run(given, plan)
    else:
        record, folder = _of_file(given, plan)
    show_evaluation(console(), record, folder)
    return 0


def _kind(given: Any) -> str:
    """Which of the alternatives the target is."""
    if given.target.is_dir():
        return RUN
    if given.network or given.target.suffix == ".safetensors":
        return WEIGHTS
    return OTHER if given.target.name.endswith((".onnx", ".onnx.gz")) else PROGRAM


def _parser() -> Parser:
    parser = Parser("evaluate", __doc__, EXAMPLES)
    parser.add_argument(
        "target",
        metavar="RUN|WEIGHTS",
        type=Path,
        help="folder that `holdfast train` wrote; or a model's file: .onnx, .pt2, .pt, .safetensors",
    )
    parser.add_argument(
        "--attacks", default=_defaults.ATTACKS, help="suite: standard, fast, strong, pgd, clean"
    )
    parser.add_argument(
        "--verify", default=_defaults.VERIFY, help="bounds: auto, ibp, crown-ibp, crown, alpha, or none"
    )
    parser.add_argument(
        "--verify-seconds",
        type=positive,
        default=_defaults.VERIFY_SECONDS,
        help="for all bounds together",
    )
    parser.add_argument("--threat", help="e.g. linf:0.1 (default: that of the run)")
    parser.add_argument("--part", default=_defaults.PART, help="test, validation, train or all")
    parser.add_argument(
        "--examples", type=count, help="evaluate this many examples drawn at random, with intervals"
    )
    parser.add_argument("--radii", help="further radii for the curve of accuracy, e.g. 0.1,0.2")
    parser.add_argument("--weights", default=_defaults.WEIGHTS, choices=("last", "best"), help="of a run")
    parser.add_argument("--data", help="data set, as in `holdfast train`; for a model's file")
    parser.add_argument("--classes", help="of the data, as in `holdfast train`, e.g. 3,8")
    parser.add_argument("--network", help="import path of the network that a file of weights belongs to")
    parser.add_argument(
        "--log-outputs",
        action="store_true",
        help="the model's file returns probabilities: take their logarithm",
    )
    parser.add_argument(
        "--trusted",
        action="store_true",
        help="run the code that a run's configuration names, or a model's file (TorchScript, "
        "torch.export): only from a source you trust",
    )
    parser.add_flag("--threat.box", help="keep attacked examples within the data's valid box")
    parser.add_argument("--batch-size", type=count, help="examples at once (default: as many as fit)")
    parser.add_argument("--processes", type=count, default=_defaults.PROCESSES, help="of this machine")
    parser.add_argument("--accelerator", default=_defaults.ACCELERATOR, help="cpu, cuda, mps")
    parser.add_argument("--seed", type=seed, default=_defaults.SEED, help="of the searches and the sample")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for a model's file, new or empty (default: runs/evaluation-NAME, or the next free one)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the evaluation that lies in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _of_run(given: Any, plan: Any) -> tuple["EvaluationFigures", Path]:
    from holdfast.jobs.evaluate import evaluate_run

    record = evaluate_run(
        given.target,
        plan,
        which=given.weights,
        threat=given.threat,
        box=vars(given)["threat.box"],
        accelerator=given.accelerator,
        trusted=given.trusted,
        progress=not given.quiet,
    )
    if (given.target / "report.html").exists():
        from holdfast.report import write_report

        write_report([given.target], given.target / "report.html")
    return record, given.target / "evaluation"


def _of_file(given: Any, plan: Any) -> tuple["EvaluationFigures", Path]:
    for name in ("data", "threat"):
        if getattr(given, name) is None:
            raise InputError(f"a model's file needs --{name}, got none; name it as in `holdfast train`.")
    from holdfast._imports import Trusted
    from holdfast.config.build import build_data, build_threat
    from holdfast.config.schema import DataConfig, ThreatConfig
    from holdfast.external import load_model
    from holdfast.jobs.evaluate import UNFINISHED, evaluate_model, on_accelerator
    from holdfast.networks import LogOutputs
    from holdfast.record.folder import next_free

    data = build_data(DataConfig(name=Trusted(given.data), classes=classes(given.classes)), seed=given.seed)
    threat = build_threat(ThreatConfig(spec=Trusted(given.threat), box=vars(given)["threat.box"]), data)
    model = (
        load_model(given.network, weights=given.target)
        if given.network
        else load_model(given.target, trusted=given.trusted)
    )
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
