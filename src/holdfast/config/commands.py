"""The commands: what each does, its arguments and its options. Sections of a run mean the same in all of them."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from holdfast import _defaults
from holdfast._rules import LARGEST_RADIUS, LARGEST_SEED
from holdfast.config.schema import (
    Checked,
    DataConfig,
    NetworkConfig,
    RunConfig,
    ThreatConfig,
    option,
    section,
)
from holdfast.errors import InputError

# ruff: noqa: RUF009 - `option` and `section` make fields, they are no shared defaults

RUN, WEIGHTS, PROGRAM, OTHER = (
    "a run folder",
    "a file of weights (with --network)",
    "a program (.pt, .pt2)",
    "an ONNX file",
)
"""What `holdfast evaluate` may be given."""
FILES = (WEIGHTS, PROGRAM, OTHER)
SUITES = ("standard", "fast", "strong", "pgd", "clean")
BOUNDS = ("auto", "ibp", "crown-ibp", "crown", "alpha", "second-order", "branch")
PARTS = ("test", "validation", "train", "all")
MOST_CELLS = 100_000
"""Of one sweep: each is checked before any is run, and has a folder of its own."""
OF_TRAINING = ("allow_incompatible",)


def _switch(help: str, **where: Any) -> Any:
    return option(False, help, switch=True, **where)


def _seed(help: str) -> Any:
    return option(_defaults.SEED, help, least=0, most=LARGEST_SEED)


def _trusted(what: str, **where: Any) -> Any:
    return _switch(f"run the code that {what}: only from a source you trust", **where)


def _quiet() -> Any:
    return _switch("no progress")


@dataclass(frozen=True, kw_only=True)
class TrainCommand(RunConfig):
    """Train under attack, certify the gap, write the report.

    Options go over the file, the file over the defaults.

    Examples:
      holdfast train --data digits
      holdfast train --data digits --classes 3,8 --threat l2:0.3 --width 8000 --out runs/wide
      holdfast train --data path/to/mnist --batch-size 500 --optimizer adam --learning-rate 0.001
      holdfast train --data digits --network my_package.module:Net --network.init-args.hidden 64
      holdfast train --print-config > mine.yaml; holdfast train mine.yaml --seed 1
      holdfast train runs/wide/config.yaml            the same run again, in the next free folder
      holdfast train runs/wide/config.yaml --resume   go on where it was interrupted

    The folder: --out must be new or empty (or see --resume, --overwrite); without --out the next free one is taken.
    In a file a section may be one word (data: digits), and your own classes may be written as class_path and init_args.
    """

    config: Path | None = option(None, "file of settings, as --print-config writes it", place="CONFIG.yaml")
    resume: bool = _switch("go on with an interrupted run")
    overwrite: bool = _switch("replace the run that lies in --out, once the new one is finished")
    trusted: bool = _trusted("the configuration file names by import path")
    quiet: bool = _quiet()
    print_config: bool = _switch("print the complete configuration as YAML and stop")

    @property
    def run(self) -> RunConfig:
        """The run itself."""
        return RunConfig(**{entry.name: getattr(self, entry.name) for entry in fields(RunConfig)})


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(Checked):
    """Robust accuracy between what is proved and what no attack broke.

    A warning says where the attacks seem to have failed. Options of the threat go over the run's own threat.

    Examples:
      holdfast evaluate runs/wide
      holdfast evaluate runs/wide --attacks fast --examples 500
      holdfast evaluate runs/wide --radii 0.1,0.2,0.4 --part train
      holdfast evaluate net.onnx --data path/to/mnist --threat linf:0.1
      holdfast evaluate weights.safetensors --network my_package.nets:Net --data cifar.npz --threat linf:8/255

    A run's record goes to RUN/evaluation, its figures to its summary; repeated after a kill, the command goes on where it
    stopped.
    """

    command: ClassVar[str] = "evaluate"
    target: Path = option(
        ...,
        "folder that `holdfast train` wrote; or a model's file: .onnx, .pt2, .pt, .safetensors",
        place="RUN|WEIGHTS",
    )
    data: DataConfig | None = section(
        DataConfig(), "data of a model's file", optional=True, of={"target": FILES}
    )
    threat: ThreatConfig | None = section(
        ThreatConfig(), "threat; of a run, in place of its own", optional=True, without=OF_TRAINING
    )
    network: NetworkConfig | None = section(
        NetworkConfig.section("two-layer"),
        "network that a file of weights belongs to",
        optional=True,
        of={"target": (WEIGHTS,)},
    )
    attacks: str = option(
        _defaults.ATTACKS, f"suite: {', '.join(SUITES)}", names=SUITES, own=False, what="attacks"
    )
    verify: str = option(
        _defaults.VERIFY, f"bounds: {', '.join(BOUNDS)}, or none", names=(*BOUNDS, "none"), own=False
    )
    verify_seconds: float = option(
        _defaults.VERIFY_SECONDS, "for all bounds together", above=0, of={"verify": BOUNDS}
    )
    part: str = option(
        _defaults.PART,
        f"part of the data: {', '.join(PARTS)}",
        names=PARTS,
        own=False,
    )
    examples: int | None = option(
        None, "evaluate this many examples drawn at random, with intervals; left out, all", least=1
    )
    radii: tuple[float, ...] = option(
        (), "further radii for the curve of accuracy, e.g. 0.1,0.2", above=0, most=LARGEST_RADIUS
    )
    weights: str = option(
        _defaults.WEIGHTS, "of a run: last or best", names=("last", "best"), own=False, of={"target": (RUN,)}
    )
    log_outputs: bool = _switch(
        "the model's file returns probabilities: take their logarithm", of={"target": FILES}
    )
    trusted: bool = _trusted(
        "a run's configuration names, or a model's file (TorchScript, torch.export)",
        of={"target": (RUN, PROGRAM)},
    )
    batch_size: int | None = option(None, "examples at once; left out, as many as fit", least=1)
    processes: int = option(_defaults.PROCESSES, "of this machine", least=1)
    accelerator: str = option(_defaults.ACCELERATOR, "cpu, cuda, mps")
    seed: int = _seed("of the data's split, the searches and the examples drawn")
    out: Path | None = option(
        None,
        "folder for a model's file, new or empty; left out, runs/evaluation-NAME, or the next free one",
        of={"target": FILES},
    )
    overwrite: bool = _switch("replace the evaluation that lies in --out", of={"target": FILES})
    quiet: bool = _quiet()

    def __post_init__(self) -> None:
        if isinstance(self.target, Path) and not self.target.exists():
            raise InputError(
                f"a run folder or a file of weights is needed, got {self.target}, which does not exist; "
                "check the path."
            )
        super().__post_init__()

    def chosen(self, tag: str) -> Any:
        if tag != "target":
            return super().chosen(tag)
        if self.target.is_dir():
            return RUN
        if self.network is not None or self.target.suffix == ".safetensors":
            return WEIGHTS
        return OTHER if self.target.name.endswith((".onnx", ".onnx.gz")) else PROGRAM


@dataclass(frozen=True, kw_only=True)
class VerifyCommand(Checked):
    """Does an input meet a VNN-LIB property of a network: sat, unsat (proved) or unknown.

    Examples:
      holdfast verify prop.vnnlib --model net.onnx
      holdfast verify prop.vnnlib --model net.onnx --seconds 300 --counterexample found.txt

    The answer is the first line: sat, unsat or unknown. Exit status: 0 unsat (nothing meets the property: proved), 1 sat (the
    counterexample was run again in float64), 3 unknown, 2 wrong input.
    """

    command: ClassVar[str] = "verify"
    property: Path = option(..., "a .vnnlib file, also gzipped", place="PROPERTY")
    model: Path = option(..., "the network: an .onnx file")
    seconds: float = option(_defaults.PROPERTY_SECONDS, "for the answer, reading included", above=0)
    counterexample: Path | None = option(None, "file to write a counterexample to, as VNN-COMP has it")
    overwrite: bool = _switch("replace the file of --counterexample")
    seed: int = _seed("of the search")
    quiet: bool = _quiet()


@dataclass(frozen=True, kw_only=True)
class CertifyCommand(Checked):
    """The convergence certificate of a run again, in float64, at any parameter radius.

    Examples:
      holdfast certify runs/wide
      holdfast certify runs/wide --radius 100
      holdfast certify runs/wide --radius 100 --tighten 100
    """

    command: ClassVar[str] = "certify"
    run: Path = option(..., "folder that `holdfast train` wrote", place="RUN")
    radius: float | None = option(
        None, "parameter radius; left out, that of the run", above=0, most=LARGEST_RADIUS
    )
    tighten: int = option(_defaults.TIGHTEN, "evaluations spent on raising the bound", least=0)
    per_unit: bool = _switch("a curvature matrix per hidden unit: tighter, slower")
    trusted: bool = _trusted("the run's configuration names")
    quiet: bool = _quiet()


@dataclass(frozen=True, kw_only=True)
class PlanCommand(Checked):
    """Before training: the best robust loss to be had, the radius and the width it takes.

    Examples:
      holdfast plan --data digits --threat l2:0.3
      holdfast plan --data digits --classes 3,8 --threat linf:0.1 --activation relu --radii 5,20,60
      holdfast plan --data path/to/mnist --threat linf:0.1 --examples 1000 --target-loss 0.2 --target-gap 0.05
      holdfast plan --data digits --threat l2:0.3 --network dense --network.depth 3 --out runs/deep-plan

    The folder gets plan.json and plan.html. Below a curve no function of that radius can come (bounded); its upper end is a
    function that no attack took above it (observed). Nothing is trained.
    """

    command: ClassVar[str] = "plan"
    data: DataConfig = section(DataConfig(), "data", needed=True)
    threat: ThreatConfig = section(ThreatConfig(), "threat", needed=True, without=OF_TRAINING)
    network: NetworkConfig = section(
        NetworkConfig.section("two-layer", width=_defaults.PROBE_WIDTH), "network"
    )
    radii: tuple[float, ...] = option(
        (),
        "parameter radii, e.g. 5,20,60; left out, doubling until --target-loss is reached",
        above=0,
        most=LARGEST_RADIUS,
    )
    target_loss: float = option(_defaults.TARGET_LOSS, "robust loss to reach", above=0)
    target_gap: float = option(_defaults.TARGET_GAP, "certified gap to allow", above=0)
    examples: int = option(_defaults.PLAN_EXAMPLES, "training examples to use at most", least=1)
    seed: int = _seed("of data, network and searches")
    out: Path | None = option(
        None, "folder, new or empty; left out, runs/plan-DATA-THREAT, or the next free one"
    )
    overwrite: bool = _switch("replace the plan that lies in --out")
    quiet: bool = _quiet()


@dataclass(frozen=True, kw_only=True)
class ReproduceCommand(Checked):
    """The claims of the theory put to the test: figure, table, pass or fail.

    Examples:
      holdfast reproduce --list
      holdfast reproduce width
      holdfast reproduce convergence drift --seeds 5 --out runs/claims
      holdfast reproduce all --quick

    The folder gets reproduce.json and reproduce.html; a finished experiment found there with the same settings is not run again.
    Exit status: 0 every claim asked for shows, 1 one does not, 2 wrong input.
    """

    command: ClassVar[str] = "reproduce"
    names: tuple[str, ...] = option((), "experiments, see --list; `all` or none: all of them", place="NAME")
    list: bool = _switch("name the experiments with their claims")
    quick: bool = _switch("small runs, a few minutes for all; the figures to quote take longer")
    seeds: int | None = option(
        None, "random seeds of each measurement; left out, 3, or 2 with --quick", least=1
    )
    out: Path | None = option(None, "folder; left out, runs/reproduce, or runs/reproduce-quick with --quick")
    overwrite: bool = _switch("replace experiments that lie in --out with other settings")
    quiet: bool = _quiet()


@dataclass(frozen=True, kw_only=True)
class SweepCommand(RunConfig):
    """Train over widths, sizes and radii, or search the smallest width: phase diagrams.

    Every combination of the values is a cell: a training run with a folder of its own, or with --capacity a search for the least
    width that fits plainly and robustly, every fit proved. The page draws two swept settings against each figure.

    Examples:
      holdfast sweep --data digits --threat l2:0.3 --width 256,1024,4096 --examples 100,200 --seeds 3 --out runs/sweep
      holdfast sweep --data digits --classes 3,8 --threat l2:0.1,l2:0.3,l2:0.5 --width 500 --processes 2
      holdfast sweep --capacity --data forced --threat l2 --dimension 4,8 --rho 0.3,0.6,0.9 --seeds 3 --out runs/capacity
      holdfast sweep wide.yaml --rho 0.2,0.5,0.8 --backend ray

    Interrupted or extended by further values, the same command goes on: cells that are done are not repeated, failed ones are.
    Values stand between commas; a list is one value in brackets: --classes [3,8],[1,7].
    """

    command: ClassVar[str] = "sweep"
    config: Path | None = option(None, "file of settings, as for `holdfast train`", place="CONFIG.yaml")
    seeds: int | None = option(
        None, "how many seeds (0, 1, ..): every cell is run from each", least=1, most=MOST_CELLS
    )
    rho: str | None = option(
        None, "radius in units of half the smallest distance between labels, in place of the threat's own"
    )
    dimension: str | None = option(None, "features of made-up data")
    capacity: bool = _switch(
        "search the smallest width that fits instead of training: --width lists the widths tried"
    )
    hidden_layers: int = option(
        _defaults.HIDDEN_LAYERS, "of the networks: 1 or 2", least=1, most=2, of={"capacity": (True,)}
    )
    processes: int = option(
        _defaults.PROCESSES, "cells at once on this machine", least=1, of={"backend": ("joblib",)}
    )
    threads: int | None = option(
        None, "threads of each cell; left out, the processors shared out, or 1 with ray", least=1
    )
    backend: str = option(
        _defaults.BACKEND,
        "joblib: processes of this machine; ray: a cluster",
        names=("joblib", "ray"),
        own=False,
    )
    address: str | None = option(
        None,
        "of the Ray cluster; left out, a running one or a new one on this machine",
        of={"backend": ("ray",)},
    )
    trusted: bool = _trusted("the configuration file names by import path")
    quiet: bool = _quiet()


@dataclass(frozen=True, kw_only=True)
class ReportCommand(Checked):
    """One self-contained page about one or several runs; the page of a plan, sweep or reproduction again.

    Examples:
      holdfast report runs/wide
      holdfast report runs/narrow runs/wide --out widths.html
      holdfast report runs/sweep
    """

    command: ClassVar[str] = "report"
    runs: tuple[Path, ...] = option(
        ..., "folders that `holdfast train` wrote; or one of a plan, sweep or reproduction", place="RUN"
    )
    out: Path | None = option(
        None,
        "page to write; left out, in RUN, such as RUN/report.html; of several runs, comparison.html here",
    )


@dataclass(frozen=True, kw_only=True)
class ExportCommand(Checked):
    """A run's network as ONNX, as a program of torch.export or as weights, with a model card.

    The file is read again and compared with the network; the card lies beside it (net.onnx.md).

    Examples:
      holdfast export runs/wide --to net.onnx
      holdfast export runs/wide --to net.safetensors --weights best
    """

    command: ClassVar[str] = "export"
    run: Path = option(..., "folder that `holdfast train` wrote", place="RUN")
    to: Path = option(..., "file to write: .onnx, .pt2 or .safetensors, which is its format")
    weights: str = option(_defaults.WEIGHTS, "last or best", names=("last", "best"), own=False)
    overwrite: bool = _switch("replace the file and its card")
    trusted: bool = _trusted("the run's configuration names")


@dataclass(frozen=True, kw_only=True)
class DoctorCommand(Checked):
    """Why is it stuck? One remedy for each finding.

    With RUN: what held this run back, read off its folder. Without: the installation and the machine, and with a
    configuration, data or a threat, whether any classifier can be robust on them.

    Examples:
      holdfast doctor
      holdfast doctor runs/wide
      holdfast doctor --data digits --threat linf:0.3

    Exit status: 0, or 1 where something is bad.
    """

    command: ClassVar[str] = "doctor"
    config: Path | None = option(
        None, "folder that `holdfast train` wrote, or file of settings", place="RUN|CONFIG.yaml"
    )
    data: DataConfig = section(DataConfig(), "data")
    threat: ThreatConfig = section(ThreatConfig(), "threat", without=OF_TRAINING)
    seed: int = _seed("of the data's split")
    trusted: bool = _trusted("the configuration file names by import path")


COMMANDS: dict[str, Any] = {
    kind.command: kind
    for kind in (
        TrainCommand,
        EvaluateCommand,
        VerifyCommand,
        CertifyCommand,
        PlanCommand,
        ReproduceCommand,
        SweepCommand,
        ReportCommand,
        ExportCommand,
        DoctorCommand,
    )
}
"""The commands' settings by name."""
