"""Before anything is trained: how small the robust loss can get, how far the weights must travel, how wide
the network must be.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast import _defaults
from holdfast._arguments import MODEL
from holdfast._files import json_writer, without_nan
from holdfast._formats import count, duration, setting
from holdfast._progress import Progress
from holdfast._record import RECORD, RECORDED, Files, locked
from holdfast._rules import COUNT, FLAG, PATH, SEED, kind, maybe, real, several, takes, whole
from holdfast._signals import stopping
from holdfast._tensors import flatten
from holdfast._values import Drawn, Fact
from holdfast.attacks import ATTACK, PGD, Attack, as_attack
from holdfast.certificates.required_width import CurvatureTerm, curvature_term
from holdfast.config.build import build_network
from holdfast.config.schema import NetworkConfig
from holdfast.data import Dataset
from holdfast.data.base import DATASET
from holdfast.data.selection import keep_examples
from holdfast.data.separation import Separation, separation
from holdfast.errors import InputError
from holdfast.families.exact import exact_core
from holdfast.jobs.checks import check_data, check_model
from holdfast.jobs.summary import versions
from holdfast.losses import LOSS, Loss, as_loss
from holdfast.record.folder import check_folder
from holdfast.theory import RobustLossCurve, optimal_robust_loss
from holdfast.theory.optimal import limit_of
from holdfast.theory.optimal.function_class import function_class
from holdfast.theory.optimal.search import first_slope
from holdfast.threats import LpBall, Threat, as_threat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADII = 10
DONE = 0.5  # of the target loss: larger radii than that of the first such loss are not looked at unless asked for
LOSSES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
PROBE_BATCH = 64
FILE, PAGE = "plan.json", "plan.html"
BYTES_A_WEIGHT = 56
"""Weights, start, gradient, momentum, best copy and window in float32; the final pass in float64."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training a two-layer network of ``width`` takes on this machine; *estimated* from a probe of
    `_defaults.PROBE_WIDTH` units.
    """

    width: int
    seconds_an_epoch: float
    memory_bytes: float


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan(Drawn):
    """What is known before training: the optimal robust loss by radius, and what it takes to reach it.

    Attributes:
        data: its name.
        threat: its spec.
        network: what was planned for, in words.
        examples, population: training examples used, of how many.
        separation: smallest distance between labels, over the whole training part; ``None`` for threats
            without one.
        rho: ``radius / (separation / 2)``; threat sets of different labels meet from 1 on (Kim, Moon and
            Yun).
        compatible: whether they stay apart; ``None`` where no exact test is known.
        pairs_meeting: pairs of examples of different labels whose threat sets meet.
        clean, robust: optimal loss against radius without and with the threat.
        terms: the certificate's curvature term at each radius; empty where the network has none.
        loss, radius: the target for the robust loss, and the smallest radius at which a function was found
            that has it; infinite if none was.
        gap, width: the target for the gap, and the width (even) from which on the curvature term is at most
            that at ``radius``; ``None`` where ``width_reason`` says why.
        width_reason: why ``width`` is ``None``; else empty.
        cost: of training at that width.
        seed: of the draw of examples and of all searches.
        seconds: spent on planning.

    >>> import holdfast as hf
    >>> data, net = hf.data.forced(dimension=2), hf.networks.TwoLayer(2, 2, width=8, activation="relu")
    >>> plan = hf.plan(data, "l2:0.1", net, radii=[0.5], progress=False)
    >>> plan.separation, plan.rho
    (1.0, 0.2)
    """

    data: str
    threat: str
    network: str
    examples: int
    population: int
    separation: float | None
    rho: float | None
    compatible: bool | None
    pairs_meeting: int
    clean: RobustLossCurve
    robust: RobustLossCurve
    terms: tuple[CurvatureTerm, ...]
    loss: float
    radius: float
    gap: float
    width: int | None
    width_reason: str
    cost: Cost | None
    seed: int
    seconds: float

    def _facts(self) -> list[Fact]:
        apart = {True: "stay apart", False: "meet", None: "not known"}[self.compatible]
        reach = setting(self.radius) if math.isfinite(self.radius) else "none found"
        return [
            Fact("data", self.data),
            Fact("threat", self.threat),
            Fact("network", self.network),
            Fact("sets of two labels", apart),
            Fact(f"radius for loss {setting(self.loss)}", reach, "observed"),
            Fact(
                f"width for gap {setting(self.gap)}",
                self.width_reason if self.width is None else count(self.width),
                "estimated",
            ),
            *(
                []
                if self.cost is None
                else [Fact("an epoch there", duration(self.cost.seconds_an_epoch), "estimated")]
            ),
        ]

    def _columns(self) -> dict[str, list[Any]]:
        return self.robust._columns()

    def _draw(self, axes: "Axes") -> None:
        self.robust._draw(axes)

    def record(self) -> dict[str, Any]:
        """What `plan.json` holds; infinity is null."""
        values = {
            "data": self.data,
            "threat": self.threat,
            "network": self.network,
            "kernel": self.robust.what,
            "examples": self.examples,
            "population": self.population,
            "compatible": self.compatible,
            "separation": self.separation,
            "rho": self.rho,
            "pairs_meeting": self.pairs_meeting,
            "clean": _curve_record(self.clean),
            "robust": _curve_record(self.robust),
            "claims": {
                "lower": "bounded",
                "upper": "observed",
                "clean upper": "bounded",
                "width": "estimated",
                "cost": "estimated",
            },
            "target_loss": self.loss,
            "parameter_radius": self.radius,
            "radius_for_loss": [
                {
                    "loss": loss,
                    **{
                        kind: dict(zip(("above", "enough"), curve.radius_for(loss), strict=True))
                        for kind, curve in (("clean", self.clean), ("robust", self.robust))
                    },
                }
                for loss in LOSSES
            ],
            "target_gap": self.gap,
            "width": self.width,
            "width_reason": self.width_reason,
            "width_at_radii": [
                {"radius": term.radius, "width": term.width_for(self.gap)} for term in self.terms
            ],
            "cost": None if self.cost is None else vars(self.cost),
            "seed": self.seed,
            "seconds": self.seconds,
            "versions": versions(),
        }
        record: dict[str, Any] = without_nan(values)
        return record


def _curve_record(curve: RobustLossCurve) -> dict[str, Any]:
    return {
        "radii": list(curve.radii),
        "lower": curve.lower.tolist(),
        "upper": curve.upper.tolist(),
        "accuracy": curve.accuracy.tolist(),
    }


@stopping()
@takes(
    data=DATASET,
    threat=kind(Threat, str, what="a Threat or text such as linf:0.1"),
    model=maybe(MODEL),
    radii=maybe(several(real(least=0))),
    target_loss=real(above=0),
    target_gap=real(above=0),
    examples=whole(least=2),
    attack=maybe(ATTACK),
    loss=maybe(LOSS),
    batch_size=COUNT,
    seed=SEED,
    out=maybe(PATH),
    overwrite=FLAG,
    progress=FLAG,
)
def plan(
    data: Dataset,
    threat: Threat | str,
    model: nn.Module | None = None,
    *,
    radii: Sequence[float] | None = None,
    target_loss: float = _defaults.TARGET_LOSS,
    target_gap: float = _defaults.TARGET_GAP,
    examples: int = _defaults.PLAN_EXAMPLES,
    attack: Attack | str | None = None,
    loss: Loss | str | None = None,
    batch_size: int = 128,
    seed: int = _defaults.SEED,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Plan:
    """How small the robust loss can get on this data, and which radius and width that takes.

    Theory: `docs/explanations/theory.md`.

    Args:
        data: the training part is planned for.
        threat: or text such as ``linf:0.1``, which takes the data's box and fixed features.
        model: the network thought of, at its start: a `TwoLayer` or `Dense` is planned as its infinitely wide
            limit, any other module as itself, linear in its weights. Default: a `TwoLayer` softplus network
            with centred inputs, as `holdfast train` builds it.
        radii: parameter radii; default: doubling from where the loss has begun to fall to where it is half of
            ``target_loss``, ten at most.
        target_loss: robust loss that the radius and the width are worked out for.
        target_gap: what the certificate's curvature term may cost at that width.
        examples: training examples used at most, every class keeping its share. The optimum over fewer
            examples says little more than which radii matter for all of them: more examples need more radius.
        attack, batch_size: of training, for its cost.
        loss: of training, convex; default cross-entropy.
        seed: of the draw of examples and of all searches.
        out: folder for ``plan.json`` and ``plan.html``, new or empty unless ``overwrite`` is given.
        overwrite: replace the plan in ``out``.
        progress: show a progress bar on the terminal.

    Returns:
        The plan, with both curves of the optimal loss, the radius, the width and the cost.

    Raises:
        InputError: data the threat refuses, bad radii or targets, or memory that does not reach.
        RunFolderError: ``out`` is occupied, or cannot be written.

    >>> import holdfast as hf
    >>> data, net = hf.data.forced(dimension=2), hf.networks.TwoLayer(2, 2, width=8, activation="relu")
    >>> plan = hf.plan(data, "l2:0.1", net, radii=[0.5], progress=False)
    >>> plan.compatible
    True
    """
    if out is not None:
        check_folder(Path(out), FILE, what="a plan", overwrite=overwrite)
    began = time.perf_counter()
    seen = Progress(enabled=progress)
    threat, loss = as_threat(threat, bounds=data.bounds, fixed=data.fixed), as_loss(loss)
    check_data(data, threat)
    if model is None:
        model = build_network(
            NetworkConfig.section("two-layer", width=_defaults.PROBE_WIDTH), data, seed=seed
        )
    check_model(model, data)
    found = _separation(data, threat, seen)
    part = keep_examples(data, min(examples * len(data.y) // max(1, len(data.train)), len(data.y))).train
    kernel = limit_of(model)
    x, y = part.x.double(), part.y
    tried = _default_radii(kernel, x, y, data.classes, loss) if radii is None else [float(r) for r in radii]
    curves: list[RobustLossCurve] = []
    for name, against in (("robust", threat), ("clean", None)):
        with seen.counted(f"optimal {name} loss over {len(tried)} radii") as report:
            curves.append(
                optimal_robust_loss(
                    kernel,
                    x,
                    y,
                    against,
                    tried,
                    loss=loss,
                    classes=data.classes,
                    seed=seed,
                    progress=report,
                    until=None if radii is not None or against is None else DONE * target_loss,
                )
            )
        tried = list(curves[0].radii)
    robust, clean = curves
    radius = robust.radius_for(target_loss)[1]
    terms, width, reason = _width(model, robust, radius, target_gap)
    cost = None
    if width is not None:
        with seen.stage("probing the cost of training"):
            attack = PGD(steps=10) if attack is None else as_attack(attack)
            cost = _cost(model, data, threat, attack, loss, width, batch_size)
    half = None if found is None else found.distance / 2
    result = Plan(
        data=data.name,
        threat=threat.spec,
        network=_network_name(model),
        examples=len(y),
        population=len(data.train),
        separation=None if found is None else found.distance,
        rho=None
        if half is None or not isinstance(threat, LpBall)
        else math.inf
        if half == 0
        else threat.radius / half,
        compatible=None if found is None else found.count == 0,
        pairs_meeting=0 if found is None else found.count,
        clean=clean,
        robust=robust,
        terms=terms,
        loss=target_loss,
        radius=radius,
        gap=target_gap,
        width=width,
        width_reason=reason,
        cost=cost,
        seed=seed,
        seconds=time.perf_counter() - began,
    )
    if out is not None:
        write_plan(result, Path(out))
    return result


def write_plan(result: Plan, folder: Path) -> None:
    """``plan.json`` with its digest, and the page ``plan.html``, each whole or not at all."""
    from holdfast.report.plan import write_plan_page

    record = result.record()
    with locked(folder):
        Files(folder, fresh=True).put(FILE, json_writer(record | {RECORDED: RECORD}))
        write_plan_page(record, folder / PAGE)


def _separation(data: Dataset, threat: Threat, seen: Progress) -> Separation | None:
    if not isinstance(threat, LpBall):
        return None
    part = data.train
    with seen.counted("comparing threat sets of different labels") as report:
        return separation(
            part.x, part.y, norm=threat.norm, radius=float(threat.radius), fixed=threat.fixed, progress=report
        )


def _default_radii(kernel: Any, x: Tensor, y: Tensor, classes: int, loss: Loss) -> list[float]:
    """Doubling, from where the first slope of the clean curve takes a fifth off the loss at the start; two
    digits each.
    """
    start, slope = first_slope(function_class(kernel, x, classes), x, y, loss)
    if not slope > 0:
        raise InputError(
            "the kernel must tell the examples apart, got one under which the loss cannot fall; choose "
            "another activation or add a constant."
        )
    first = 0.2 * start / slope
    return [float(f"{first * 2**k:.2g}") for k in range(RADII)]


def _width(
    model: nn.Module, robust: RobustLossCurve, radius: float, gap: float
) -> tuple[tuple[CurvatureTerm, ...], int | None, str]:
    """The curvature terms at the radii, and the width at the smallest of them that reaches the target
    loss.
    """
    core = exact_core(model)
    if core is None:
        return (
            (),
            None,
            f"no formula for the width of {type(model).__name__} networks is known; a two-layer one has",
        )
    power = core.family.width_power(core.network)
    if isinstance(power, str):
        return (), None, power
    solutions = [solution for solution in robust.solutions if solution.radius > 0 and solution.slope > 0]
    terms = tuple(curvature_term(model, solution) for solution in solutions)
    if radius == 0:
        return terms, None, "the target loss is reached at the start: no radius is needed"
    enough = [term for term in terms if term.radius >= radius]
    if not enough:
        return terms, None, "the target loss was not reached at any of the radii"
    nearest = min(enough, key=lambda term: term.radius)
    unit = core.family.width_step(core.network)
    width = math.ceil(nearest.width_for(gap) / unit) * unit
    return (
        terms,
        width,
        f"for radius {nearest.radius:g}, the smallest computed that reaches the target loss",
    )


def _cost(
    model: nn.Module, data: Dataset, threat: Threat, attack: Attack, loss: Loss, width: int, batch_size: int
) -> Cost:
    """One attack and one gradient on a probe, scaled up by width and number of examples."""
    core = exact_core(model)
    assert core is not None  # only networks of families have a width
    unit = core.family.width_step(core.network)
    probe_width = -(-min(width, _defaults.PROBE_WIDTH) // unit) * unit
    probe: nn.Module = core.family.of_width(core.network, probe_width)
    trained = [parameter for parameter in probe.parameters() if parameter.requires_grad]
    rows = slice(0, min(PROBE_BATCH, batch_size, len(data.train)))
    x, y = data.train.x[rows].float(), data.train.y[rows]
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        points = attack.points(
            probe, x, y, threat, generator=torch.Generator(device=x.device).manual_seed(0), loss=loss
        )
        torch.autograd.grad(loss(probe(points), y).mean(), trained)
        spent.append(time.perf_counter() - began)
    seconds = min(spent) * len(data.train) / len(x) * width / probe_width
    numbers = flatten(data.x).numel()
    weights = width * sum(parameter.numel() for parameter in trained) // probe_width
    activations = 6 * 4 * batch_size * width
    return Cost(
        width=width,
        seconds_an_epoch=seconds,
        memory_bytes=BYTES_A_WEIGHT * weights + 28.0 * numbers + activations + 2**29,
    )


def _network_name(model: nn.Module) -> str:
    core = exact_core(model)
    return type(model).__name__ if core is None else core.family.describe(core.network)
