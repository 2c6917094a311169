"""Rigorous curvature of two-layer networks, smooth and ReLU (`docs/explanations/certificate.md`, "One
round").

Legend: i example, r hidden unit, g group of units with equal output rows, c output, u = w_r . z
preactivation, m width, tau > 0 the half-width of the kink's smoothing (ReLU).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._tensors import batches, chunks, flatten
from holdfast.curvature.base import BlockCurvature, RoundCurvature, Tangent, curvature_bounds, one_sided
from holdfast.curvature.grams import weighted_grams
from holdfast.errors import InputError
from holdfast.families.curvature import FamilyCurvature
from holdfast.networks.activations import LEAKY_RELU, RELU
from holdfast.networks.two_layer import TwoLayer

CHUNK_NUMBERS = 2**25
"""Numbers of an (examples, units) array held at once: 256 MiB in float64."""


def kink_widths(
    magnitudes: Float[Tensor, "batch units"], inputs_norm: Float[Tensor, " batch"], reach: float
) -> Float[Tensor, " batch"]:
    """A good ``tau_i`` for one group: near the minimiser of ``rho^2 / (4 tau) + sum_r max(0, tau - |u_r|)``,
    ``rho = 0.8 R ||z||``.

    Its derivative vanishes where ``rho^2 / (4 tau^2)`` equals the number of units with ``|u| < tau``. That
    number is nearly ``density * tau``, so ``tau = (rho^2 / (4 density))^(1/3)``, with the density counted
    near the kink: no sort.
    """
    rho_squared = (0.8 * reach * inputs_norm).square().clamp_min(1e-30)
    # First guess from the Gaussian law of u at the start (|u| has density 2 phi(0) / ||z|| at 0), then one
    # recount.
    density = magnitudes.shape[1] * math.sqrt(2 / math.pi) / inputs_norm.clamp_min(1e-12)
    # Inputs of norm 0 must not give tau = 0, by which the matrices are divided.
    tau = (rho_squared / (4 * density)).pow(1 / 3).clamp_min(1e-9)
    counted = (magnitudes < tau[:, None]).sum(1).clamp_min(1) / tau
    return (rho_squared / (4 * counted)).pow(1 / 3).clamp_min(1e-9)


@dataclass(frozen=True)
class TwoLayerCurvature(FamilyCurvature[TwoLayer]):
    """Curvature of a `TwoLayer` network.

    Smooth activations, ``-b_minus <= act'' <= b_plus``: ``M_g = 1 / (2 sqrt m) sum_i p_i c_gi z_i z_i'``, no
    slack. ReLU: ``M_g = 1 / (4 sqrt m) sum_i p_i (c_gi / tau_gi) z_i z_i'`` and slack
    ``m^(-1/2) sum_i p_i sum_r c_gi max(0, tau_gi - |u_ri|)``. Trained outputs (smooth only):
    ``||s_i|| Lip(act) / theta`` joins ``c_gi``, and every output weight has eigenvalue
    ``theta Lip(act) / (2 sqrt m) sum_i p_i ||s_i||``.

    Attributes:
        theta: balance between the two layers when both are trained; any positive number is valid.
        safety: factor on the curvature constants. 1 is the proof; tests set it below 1 to see the proof fail.

    >>> import holdfast as hf
    >>> hf.families.TwoLayerCurvature().parameters(hf.networks.TwoLayer(2, 2, width=8))
    (('weight',),)
    """

    network: ClassVar[type[nn.Module]] = TwoLayer
    word: ClassVar[str] = "two-layer"

    theta: float = 1.0
    safety: float = 1.0

    def __post_init__(self) -> None:
        if not self.theta > 0:
            raise InputError(f"theta must be > 0, got {self.theta}; 1.0 is the usual choice.")

    @property
    def rigorous(self) -> bool:
        return self.safety >= 1.0

    def unsuited(self, network: TwoLayer) -> str:
        act = network.activation
        if not network.weight.requires_grad:
            return "the first layer is not trained, so the two-layer bound does not apply"
        if act.kink and act.name not in (RELU.name, LEAKY_RELU.name):
            # A kink's bound knows the jump alone: between kinks the activation must be linear.
            return f"{act.name} has a kink, and of kinked activations only relu and leaky-relu are proved"
        if not act.kink and not (0 <= act.curvature_above < math.inf and 0 <= act.curvature_below < math.inf):
            return f"the second derivative of {act.name} is not bounded"
        if network.train_output and (act.kink or act.lipschitz is None):
            return f"{act.name} with trained outputs is not proved"
        return ""

    def parameters(self, model: nn.Module) -> tuple[tuple[str, ...], ...]:
        trained = ("weight", "output_weight") if self.inside(model).train_output else ("weight",)
        return (self.core(model).named(*trained),)

    def uses_reach(self, model: nn.Module) -> bool:
        return self.inside(model).activation.kink > 0

    def costs(
        self, net: TwoLayer, weighted_slopes: Float[Tensor, "batch outputs"]
    ) -> Float[Tensor, "groups batch"]:
        """``c_gi``, the largest over the units of group ``g`` (all equal while the outputs are fixed and
        signed).
        """
        bounds = curvature_bounds(net.activation)
        groups = net.output_weight.detach().to(weighted_slopes).reshape(net.groups, -1, net.outputs)
        # The rows are looked at each time: somebody may have changed them since the network was made.
        if bool((groups == groups[:, :1]).all()):
            groups = groups[:, :1]
        return self.safety * torch.stack([one_sided(a @ weighted_slopes.T, bounds).amax(0) for a in groups])

    @torch.no_grad()
    def round(
        self,
        model: nn.Module,
        points: Float[Tensor, "batch ..."],
        weighted_slopes: Float[Tensor, "batch outputs"],
        *,
        reach: float,
    ) -> RoundCurvature:
        net = self.inside(model)
        slopes = weighted_slopes.double()
        z = torch.cat(
            [in_float64(net, part) for part in batches(points, 4096)]
            or [points.new_zeros(0, net.input_size).double()]
        )
        root = math.sqrt(net.width)
        costs = self.costs(net, slopes)
        tangent, taus, slack = self._tangent(net, z, slopes, costs, reach)
        first: BlockCurvature
        if net.activation.kink:
            matrices = weighted_grams(z, costs / taus) / (4 * root)
            blocks = (BlockCurvature(matrices=matrices),)
            return RoundCurvature(balls=(blocks,), slack=slack / root, tangent=tangent)
        if not net.train_output:
            first = BlockCurvature(matrices=weighted_grams(z, costs) / (2 * root))
            return RoundCurvature(balls=((first,),), tangent=tangent)
        sizes = slopes.norm(dim=1) * (net.activation.lipschitz or math.inf) * self.safety
        first = BlockCurvature(matrices=weighted_grams(z, costs + sizes / self.theta) / (2 * root))
        second = BlockCurvature(eigenvalue=self.theta * sizes.sum() / (2 * root))
        return RoundCurvature(balls=((first, second),), tangent=tangent)

    def _tangent(
        self, net: TwoLayer, z: Tensor, slopes: Tensor, costs: Tensor, reach: float
    ) -> tuple[Tangent, Tensor, Tensor]:
        """The network at its present weights in closed form, a few rows at a time; with the kinks'
        half-widths and slack.
        """
        act, root = net.activation, math.sqrt(net.width)
        weight, rows_out = net.weight.detach().double(), net.output_weight.detach().double()
        outputs, widths, slack = [], [], z.new_zeros(())
        gradient = torch.zeros_like(weight)
        output_gradient = torch.zeros_like(rows_out)
        for part in chunks(len(z), CHUNK_NUMBERS // net.width):
            u = z[part] @ weight.T
            hidden = act.value(u)
            outputs.append(hidden @ rows_out / root)
            gradient += (act.slope(u) * (slopes[part] @ rows_out.T)).T @ z[part]
            if net.train_output:
                output_gradient += hidden.T @ slopes[part]
            if act.kink:
                tau, more = self._kinks(net, u.abs(), z[part], costs[:, part], reach)
                widths.append(tau)
                slack = slack + more
        ball = (gradient / root, output_gradient / root) if net.train_output else (gradient / root,)
        found = Tangent(
            outputs=torch.cat(outputs) if outputs else slopes.new_zeros(0, net.outputs), gradients=(ball,)
        )
        return found, torch.cat(widths, 1) if widths else torch.ones_like(costs), slack

    def _kinks(
        self, net: TwoLayer, magnitudes: Tensor, z: Tensor, costs: Tensor, reach: float
    ) -> tuple[Tensor, Tensor]:
        taus, slack = [], z.new_zeros(())
        for cost, group in zip(costs, magnitudes.chunk(net.groups, 1), strict=True):
            tau = kink_widths(group, z.norm(dim=1), reach)
            slack = slack + (cost * (tau[:, None] - group).clamp_min(0).sum(1)).sum()
            taus.append(tau)
        return torch.stack(taus), slack


def in_float64(net: TwoLayer, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch inputs"]:
    """``z``, what the first layer sees, in float64 whatever the network's own precision."""
    z = flatten(x).double()
    if net.center is not None:
        z = z - net.center.double()
    z = z * net.scale.double()
    return z if net.constant is None else torch.cat([z, torch.full_like(z[:, :1], net.constant)], 1)
