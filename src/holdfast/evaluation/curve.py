"""Robust accuracy against the radius, between what is proved and what is not broken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from holdfast import _defaults
from holdfast._formats import percent, setting
from holdfast._values import Drawn, Fact
from holdfast.attacks import Attack
from holdfast.errors import InputError
from holdfast.evaluation.cascade import evaluate
from holdfast.threats import LpBall
from holdfast.verification import verify as verified_bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class RadiusPoint:
    """Accuracy at one radius: proved from below, observed from above; fractions of all examples."""

    radius: float
    verified: float
    not_broken: float


class AccuracyCurve(Drawn, tuple[RadiusPoint, ...]):
    """The points of `accuracy_curve` by increasing radius: a tuple that can also be shown, tabulated and
    drawn.
    """

    __slots__ = ()

    def _facts(self) -> list[Fact]:
        return [
            Fact(
                f"radius {setting(p.radius)}",
                f"{percent(p.verified)} to {percent(p.not_broken)}",
                "proved to observed",
            )
            for p in self
        ]

    def _columns(self) -> dict[str, list[Any]]:
        return {
            name: [getattr(point, name) for point in self] for name in ("radius", "verified", "not_broken")
        }

    def _draw(self, axes: "Axes") -> None:
        table = self._columns()
        axes.plot(table["radius"], table["not_broken"], marker="o", label="not broken (observed)")
        axes.plot(table["radius"], table["verified"], marker="o", linestyle="--", label="verified (proved)")
        axes.set(xlabel="radius", ylabel="accuracy", ylim=(0, 1))


def accuracy_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: LpBall,
    radii: Sequence[float],
    attacks: str | Sequence[Attack] = "fast",
    *,
    verify: str | None = _defaults.VERIFY,
    verify_seconds: float | None = _defaults.VERIFY_SECONDS,
    batch_size: int | None = None,
    seed: int = _defaults.SEED,
    progress: Callable[[str, int, int], None] | None = None,
) -> AccuracyCurve:
    """Both sides of the bracket at each radius, in increasing order.

    An example broken at one radius is broken at every larger one, and one proved at a radius is proved at
    every smaller one, so attacks go upwards and bounds downwards, each on what is still open.

    ``verify_seconds`` is for all bounds together, shared out evenly to the radii.

    Raises:
        InputError: no radii, or one that is not >= 0.
    """
    if not radii or not all(radius >= 0 for radius in radii):
        raise InputError(
            f"radii must be numbers >= 0, at least one, got {list(radii)}; give for example 0.05 0.1."
        )
    ordered = sorted({float(radius) for radius in radii})
    x, y = x.detach().cpu(), y.cpu()
    broken = ~evaluate(model, x, y, threat, "clean", verify=None, batch_size=batch_size, examine=False).robust
    clean = ~broken
    standing = []
    for radius in ordered:
        rows = (~broken).nonzero().squeeze(1)
        if len(rows):
            found = evaluate(
                model,
                x[rows],
                y[rows],
                threat.with_radius(radius),
                attacks,
                verify=None,
                batch_size=batch_size,
                seed=seed,
                progress=progress,
                examine=False,
            )
            broken[rows] = ~found.robust
        standing.append(~broken)
    proved = torch.zeros_like(broken)
    seconds = None if verify_seconds is None else verify_seconds / len(ordered)
    verified = []
    for radius, open_ in zip(reversed(ordered), reversed(standing), strict=True):
        rows = (clean & open_ & ~proved).nonzero().squeeze(1)
        if verify is not None and len(rows):
            ball = threat.with_radius(radius)
            try:
                proof = verified_bounds(
                    model, x[rows], y[rows], ball, method=verify, seconds=seconds, progress=progress
                )
            except InputError:
                if verify != "auto":
                    raise
                verify = None  # no bounds are known for this model, as `evaluate` says
            else:
                proved[rows] = proof.verified.cpu()
        verified.append(proved.clone())
    return AccuracyCurve(
        RadiusPoint(
            radius=radius, verified=float(low.double().mean()), not_broken=float(high.double().mean())
        )
        for radius, low, high in zip(ordered, reversed(verified), standing, strict=True)
    )
