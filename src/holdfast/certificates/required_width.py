"""How wide a network must be for its certificate to close, told from the kernel limit's solution before
anything is trained.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from holdfast.errors import InputError
from holdfast.families.exact import exact_core, why_not_exact
from holdfast.theory.optimal import Solution

WIDE = 100.0
"""Below this many units a limit of infinite width says nothing of a network."""


@dataclass(frozen=True, kw_only=True)
class CurvatureTerm:
    """What curvature costs the certificate at width ``m``: ``4 R^2 max(0, lam(m) - slope / 2R) + slack(m)``;
    *estimated*.

    A solution on the sphere of radius ``R`` has gradient ``-(slope / R)`` times its own step, and every step
    ``Delta`` within the ball from there has ``<g, Delta> >= slope / (2R) ||Delta||^2``; the certificate takes
    off at most ``lam ||Delta||^2``, ``||Delta|| <= 2R`` (`docs/explanations/certificate.md`). ``lam`` is the
    largest eigenvalue of the curvature matrices at the solution's own points and slopes. It falls as
    ``m^(-1/2)`` for smooth activations and, with the slack, as ``m^(-1/6)`` for kinked ones (Gao et al.
    2019).

    Attributes:
        radius: ``R``.
        slope: ``||g||``, the slope of the curve of optimal robust loss at ``R``.
        width: ``m_0``, at which the next two were computed.
        eigenvalue: ``lam(m_0)``.
        slack: at ``m_0``; 0 for smooth activations.
        power: 1/2 or 1/6.
    """

    radius: float
    slope: float
    width: int
    eigenvalue: float
    slack: float
    power: float

    def at(self, width: float | int) -> float:
        """The term at this width."""
        shrink: float = (self.width / width) ** self.power
        excess = max(0.0, shrink * self.eigenvalue - self.slope / (2 * self.radius))
        return 4 * self.radius**2 * excess + shrink * self.slack

    def width_for(self, gap: float) -> float:
        """The width from which on the term is at most ``gap``: at least `WIDE`, perhaps beyond any machine.

        Raises:
            InputError: the gap is not above 0.
        """
        if not 0 < gap < math.inf:
            raise InputError(f"gap must be a finite number > 0, got {gap}; 0.01 is usual.")
        if self.at(WIDE) <= gap:
            return float(WIDE)
        low, high = math.log(WIDE), 400.0  # the term falls with the width, to 0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(math.exp(middle)) > gap else (low, middle)
        return math.exp(high)


def curvature_term(model: nn.Module, solution: Solution) -> CurvatureTerm:
    """The term of networks like ``model``, at any width, for a solution in their kernel's space.

    Args:
        model: a network at its start, of any width (a few hundred units do), whose family knows how its
            curvature falls with the width.
        solution: of `holdfast.theory.optimal_robust_loss` with ``ntk(model)``, radius > 0.

    Raises:
        InputError: no such network.
    """
    core = exact_core(model)
    power = why_not_exact(model) if core is None else core.family.width_power(core.network)
    if core is None or isinstance(power, str):
        raise InputError(
            f"model must be a network whose curvature is known to fall with its width, but {power}; pass "
            "a TwoLayer."
        )
    dtype = next(core.network.parameters()).dtype
    found = core.family.curvature().round(
        core.network, solution.points.to(dtype), solution.dual.to(dtype), reach=solution.radius
    )
    eigenvalue = 0.0
    for block in found.balls[0]:
        if block.matrices is not None:
            eigenvalue = max(eigenvalue, float(torch.linalg.eigvalsh(block.matrices.double()).max()))
        if block.eigenvalue is not None:
            eigenvalue = max(eigenvalue, float(block.eigenvalue))
    return CurvatureTerm(
        radius=solution.radius,
        slope=solution.slope,
        width=core.family.sizes(core.network).units,
        eigenvalue=eigenvalue,
        slack=0.0 if found.slack is None else float(found.slack),
        power=power,
    )
