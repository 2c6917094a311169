"""``holdfast plan``: how small the robust loss can get, how far the weights must travel, how wide the
network must be.
"""

from collections.abc import Sequence
from pathlib import Path

from holdfast import _defaults
from holdfast.config.commands import PlanCommand
from holdfast.config.schema import with_entries
from holdfast.record.folder import next_free

PROBED = ("two-layer", "dense")
"""Networks whose width the plan works out."""


def run(argv: Sequence[str]) -> int:
    """Work out, show, write."""
    from holdfast.config.reading import read

    given, named = read(PlanCommand, argv)
    network = given.network
    if network.name in PROBED and "width" not in named.get("network", {}):
        network = with_entries(network, {"width": _defaults.PROBE_WIDTH}, "network")
    spec = given.threat.spec.replace(":", "-").replace("/", "-")
    usual = Path("runs") / f"plan-{Path(given.data.name).stem}-{spec}"
    out = given.out or (usual if given.overwrite else next_free(usual))

    from holdfast.cli.planned import show_plan
    from holdfast.cli.terminal import console
    from holdfast.config.build import build_data, build_network, build_threat
    from holdfast.jobs.plan import plan

    data = build_data(given.data, seed=given.seed)
    result = plan(
        data,
        build_threat(given.threat, data),
        build_network(network, data, seed=given.seed),
        radii=given.radii or None,
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
