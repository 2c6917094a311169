"""``holdfast plan``: how small the robust loss can get, how far the weights must travel, how wide the
network must be.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast import _defaults
from holdfast.cli.arguments import Parser, classes, count, numbers, positive, seed
from holdfast.config.schema import NetworkConfig
from holdfast.record.folder import next_free

EXAMPLES = """\
  holdfast plan --data digits --threat l2:0.3
  holdfast plan --data digits --classes 3,8 --threat linf:0.1 --activation relu --radii 5,20,60
  holdfast plan --data path/to/mnist --threat linf:0.1 --examples 1000 --target-loss 0.2 --target-gap 0.05
  holdfast plan --data digits --threat l2:0.3 --network dense --network.depth 3 --out runs/deep-plan

The folder gets plan.json and plan.html. Below a curve no function of that radius can come (bounded); its upper end is a function that no
attack took above it (observed). Nothing is trained."""


NETWORK, DENSE = NetworkConfig.section("two-layer"), NetworkConfig.section("dense")
"""As `holdfast train` builds them."""


def run(argv: Sequence[str]) -> int:
    """Work out, show, write."""
    given = _parser().read(argv)
    radii = numbers("--radii", given.radii)
    usual = Path("runs") / f"plan-{Path(given.data).stem}-{given.threat.replace(':', '-').replace('/', '-')}"
    out = given.out or (usual if given.overwrite else next_free(usual))

    from holdfast._imports import Trusted
    from holdfast.cli.planned import show_plan
    from holdfast.cli.terminal import console
    from holdfast.config.build import build_data, build_network, build_threat
    from holdfast.config.schema import DataConfig, ThreatConfig, with_entries
    from holdfast.jobs.plan import PROBE_WIDTH, plan

    chosen: dict[str, Any] = {"name": Trusted(given.network)}
    chosen |= {"width": PROBE_WIDTH} if given.network in (NETWORK.name, DENSE.name) else {}
    chosen |= {"depth": vars(given)["network.depth"]} if "--network.depth" in given.given else {}
    chosen |= {"activation": given.activation} if "--activation" in given.given else {}
    chosen |= {"center": vars(given)["network.center"]} if "--network.center" in given.given else {}
    network = with_entries(NETWORK, chosen, "network")
    data = build_data(
        DataConfig(name=Trusted(given.data), classes=classes(given.classes)),
        seed=given.seed,
    )
    threat = build_threat(ThreatConfig(spec=Trusted(given.threat), box=vars(given)["threat.box"]), data)
    result = plan(
        data,
        threat,
        build_network(network, data, seed=given.seed),
        radii=radii or None,
        target_loss=given.target_loss,
        target_gap=given.target_gap,
        examples=given.examples,
        seed=given.seed,
        out=out,
        overwrite=given.overwrite,
        progress=not given.quiet,
    )
    show_plan(console(), result.record(), out)
    return 0


def _parser() -> Parser:
    parser = Parser("plan", __doc__, EXAMPLES)
    parser.add_argument("--data", required=True, help="data set, as in `holdfast train`")
    parser.add_argument("--threat", required=True, help="e.g. linf:0.1, l2:0.5, l1:3")
    parser.add_argument("--classes", help="of the data, e.g. 3,8 (default: all)")
    parser.add_argument(
        "--network",
        default=NETWORK.name,
        help="two-layer, dense, or my_package.module:Net",
    )
    parser.add_argument("--activation", default=NETWORK.activation, help="of the hidden units")
    parser.add_argument(
        "--network.depth", type=count, default=DENSE.depth, help="trained layers of a dense network"
    )
    parser.add_flag("--network.center", help="subtract the mean of the inputs (two layers)")
    parser.add_argument(
        "--radii", help="parameter radii, e.g. 5,20,60 (default: doubling until --target-loss is reached)"
    )
    parser.add_argument(
        "--target-loss", type=positive, default=_defaults.TARGET_LOSS, help="robust loss to reach"
    )
    parser.add_argument(
        "--target-gap", type=positive, default=_defaults.TARGET_GAP, help="certified gap to allow"
    )
    parser.add_argument(
        "--examples", type=count, default=_defaults.PLAN_EXAMPLES, help="training examples to use at most"
    )
    parser.add_flag("--threat.box", help="keep attacked examples within the data's valid box")
    parser.add_argument("--seed", type=seed, default=_defaults.SEED, help="of data, network and searches")
    parser.add_argument(
        "--out", type=Path, help="folder, new or empty (default: runs/plan-DATA-THREAT, or the next free one)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the plan that lies in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser
