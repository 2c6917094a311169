"""Rigorous curvature of two-layer networks, smooth and ReLU (`docs/certificate.md`, "One round").

Legend: i example, r hidden unit, g group of units with equal output rows, c output, u = w_r . z preactivation, m width,
tau > 0 the half-width of the kink's smoothing (ReLU).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast.curvature.base import BlockCurvature, Curvature, RoundCurvature
from holdfast.curvature.grams import weighted_grams
from holdfast.errors import InputError
from holdfast.networks.activations import Activation
from holdfast.networks.two_layer import TwoLayer


def curvature_bounds(activation: Activation) -> tuple[float, float]:
    """``(b_plus, b_minus)`` with ``-b_minus <= act'' <= b_plus``; for a kinked activation its jump of slope, and 0."""
    if activation.kink:
        return activation.kink, 0.0
    return activation.curvature_above, activation.curvature_below


def one_sided(inner: Tensor, bounds: tuple[float, float]) -> Tensor:
    """``c = b_plus max(0, -<s, a>) + b_minus max(0, <s, a>)``: how fast ``<s, a> act(u)`` can fall below its tangent."""
    above, below = bounds
    costs = above * (-inner).clamp_min(0)
    return costs + below * inner.clamp_min(0) if below else costs


def kink_widths(
    magnitudes: Float[Tensor, "batch units"], inputs_norm: Float[Tensor, " batch"], reach: float
) -> Float[Tensor, " batch"]:
    """A good ``tau_i`` for one group: near the minimiser of ``rho^2 / (4 tau) + sum_r max(0, tau - |u_r|)``, ``rho = 0.8 R ||z||``.

    Its derivative vanishes where ``rho^2 / (4 tau^2)`` equals the number of units with ``|u| < tau``. That number is nearly
    ``density * tau``, so ``tau = (rho^2 / (4 density))^(1/3)``, with the density counted near the kink: no sort.
    """
    rho_squared = (0.8 * reach * inputs_norm).square().clamp_min(1e-30)
    # First guess from the Gaussian law of u at the start (|u| has density 2 phi(0) / ||z|| at 0), then one recount.
    density = magnitudes.shape[1] * math.sqrt(2 / math.pi) / inputs_norm.clamp_min(1e-12)
    # Inputs of norm 0 must not give tau = 0, by which the matrices are divided.
    tau = (rho_squared / (4 * density)).pow(1 / 3).clamp_min(1e-9)
    counted = (magnitudes < tau[:, None]).sum(1).clamp_min(1) / tau
    return (rho_squared / (4 * counted)).pow(1 / 3).clamp_min(1e-9)


@dataclass(frozen=True)
class TwoLayerCurvature(Curvature):
    """Curvature of a `TwoLayer` network.

    Smooth activations, ``-b_minus <= act'' <= b_plus``: ``M_g = 1 / (2 sqrt m) sum_i p_i c_gi z_i z_i'``, no slack.
    ReLU: ``M_g = 1 / (4 sqrt m) sum_i p_i (c_gi / tau_gi) z_i z_i'`` and slack ``m^(-1/2) sum_i p_i sum_r c_gi max(0, tau_gi - |u_ri|)``.
    Trained outputs (smooth only): ``||s_i|| Lip(act) / theta`` joins ``c_gi``, and every output weight has eigenvalue
    ``theta Lip(act) / (2 sqrt m) sum_i p_i ||s_i||``.

    Attributes:
        theta: balance between the two layers when both are trained; any positive number is valid.
        safety: factor on the curvature constants. 1 is the proof; tests set it below 1 to see the proof fail.
    """

    theta: float = 1.0
    safety: float = 1.0

    def __post_init__(self) -> None:
        if not self.theta > 0:
            raise InputError(f"theta must be > 0, got {self.theta}; 1.0 is the usual choice.")

    @property
    def rigorous(self) -> bool:
        return self.safety >= 1.0

    def parameters(self, model: nn.Module) -> tuple[tuple[str, ...], ...]:
        return (("weight", "output_weight"),) if two_layer(model).train_output else (("weight",),)

    def uses_reach(self, model: nn.Module) -> bool:
        return two_layer(model).activation.kink > 0

    def costs(
        self, net: TwoLayer, weighted_slopes: Float[Tensor, "batch outputs"]
    ) -> Float[Tensor, "groups batch"]:
        """``c_gi``, the largest over the units of group ``g`` (all equal while the outputs are fixed and signed)."""
        bounds = curvature_bounds(net.activation)
        rows = net.output_weight.detach()
        if net.group_rows is not None:
            return self.safety * one_sided(net.group_rows @ weighted_slopes.T, bounds)
        groups = rows.chunk(net.groups)
        return self.safety * torch.stack([one_sided(a @ weighted_slopes.T, bounds).amax(0) for a in groups])

    def round(
        self,
        model: nn.Module,
        points: Float[Tensor, "batch ..."],
        weighted_slopes: Float[Tensor, "batch outputs"],
        *,
        reach: float,
    ) -> RoundCurvature:
        net = two_layer(model)
        z, root = net.inputs(points), math.sqrt(net.width)
        costs = self.costs(net, weighted_slopes)
        if net.activation.kink:
            taus, slack = self._kinks(net, z, costs, reach)
            matrices = weighted_grams(z, costs / taus) / (4 * root)
            return RoundCurvature(balls=((BlockCurvature(matrices=matrices),),), slack=slack / root)
        if not net.train_output:
            matrices = weighted_grams(z, costs) / (2 * root)
            return RoundCurvature(balls=((BlockCurvature(matrices=matrices),),))
        sizes = weighted_slopes.norm(dim=1) * net.activation.lipschitz * self.safety
        matrices = weighted_grams(z, costs + sizes / self.theta) / (2 * root)
        first = BlockCurvature(matrices=matrices)
        return RoundCurvature(
            balls=((first, BlockCurvature(eigenvalue=self.theta * sizes.sum() / (2 * root))),)
        )

    def _kinks(self, net: TwoLayer, z: Tensor, costs: Tensor, reach: float) -> tuple[Tensor, Tensor]:
        magnitudes = (z @ net.weight.detach().T).abs()
        taus, slack = [], z.new_zeros(())
        for cost, group in zip(costs, magnitudes.chunk(net.groups, 1), strict=True):
            tau = kink_widths(group, z.norm(dim=1), reach)
            slack = slack + (cost * (tau[:, None] - group).clamp_min(0).sum(1)).sum()
            taus.append(tau)
        return torch.stack(taus), slack


def two_layer(model: nn.Module) -> TwoLayer:
    """The model as a `TwoLayer` network; `curvature_for` gives this curvature to no other."""
    if not isinstance(model, TwoLayer):
        raise TypeError(f"this curvature is proved for TwoLayer networks, not {type(model).__name__}")
    return model
