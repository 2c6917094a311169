"""Deep networks at the centre of an expansion, and the bound of their remainders by norms
(`docs/explanations/deep_certificate.md`).

Legend: i example (n), h trained layer (1..H), j unit (m), G group of top units, x^h layer outputs, u^h
preactivations, D = act'(u), b^h and g^h derivatives of ``sum_i p_i <s_i, f>`` in x^h and u^h, k layer scale,
R_h radii, L and beta bounds of ``|act'|`` and ``|act''|``, S_i = ||p_i s_i||, om weights of ``du^2``.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.curvature.base import one_sided
from holdfast.curvature.spectral import norm_bound
from holdfast.networks.activations import Activation
from holdfast.networks.dense import Dense

TINY = 1e-300


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """A network at the centre ``W`` of its expansion, with the derivatives of ``sum_i p_i <s_i, f(W, x_i)>``;
    all in float64.

    Attributes:
        inputs: ``x^0 .. x^(H-1)``, what each trained layer sees.
        top: ``x^H``.
        derivatives: ``D^h = act'(u^h)``.
        backward: ``b^h``.
        sizes: ``S_i = ||p_i s_i||``.
        scale: ``k``.
        moved: ``||W^h - W0^h||_F``.
    """

    inputs: tuple[Float[Tensor, "batch _"], ...]
    top: Float[Tensor, "batch units"]
    derivatives: tuple[Float[Tensor, "batch units"], ...]
    backward: tuple[Float[Tensor, "batch units"], ...]
    sizes: Float[Tensor, " batch"]
    scale: float
    moved: tuple[float, ...]

    def pull(self, layer: int) -> Float[Tensor, "batch units"]:
        """``g^h = k D^h b^h``."""
        return self.scale * self.derivatives[layer] * self.backward[layer]

    def gradient(self, layer: int) -> Float[Tensor, "units inputs"]:
        """``d sum_i p_i <s_i, f> / d W^h = sum_i g_i^h x_i^(h-1)'``."""
        return self.pull(layer).T @ self.inputs[layer]


@torch.no_grad()
def expand(
    net: Dense,
    weights: tuple[Tensor, ...],
    initial: tuple[Tensor, ...],
    points: Float[Tensor, "batch ..."],
    weighted_slopes: Float[Tensor, "batch outputs"],
) -> Expansion:
    """One forward and one backward pass at ``weights``. ``weighted_slopes`` are ``p_i s_i``."""
    x = points.double().flatten(1)
    x = x if net.input_weight is None else x @ net.input_weight.double().T
    act, k, inputs, derivatives = net.activation, net.layer_scale, [], []
    for weight in weights:
        u = x @ weight.T
        inputs.append(x)
        derivatives.append(act.slope(u))
        x = k * act(u)
    slopes = weighted_slopes.double()
    b = slopes @ net.output_weight.detach().double()
    backward = [b]
    for h in range(len(weights) - 1, 0, -1):
        b = (k * derivatives[h] * b) @ weights[h]
        backward.append(b)
    return Expansion(
        inputs=tuple(inputs),
        top=x,
        derivatives=tuple(derivatives),
        backward=tuple(reversed(backward)),
        sizes=slopes.norm(dim=1),
        scale=k,
        moved=tuple(float((w - s).norm()) for w, s in zip(weights, initial, strict=True)),
    )


@torch.no_grad()
def outputs_at(
    net: Dense, at: Expansion, points: Float[Tensor, "batch ..."]
) -> Float[Tensor, "batch outputs"]:
    """``f(W, x_i)`` of an expansion at these points, the frozen copy subtracted."""
    top = at.top
    if net.zero_start:
        x = points.double().flatten(1)
        x = x if net.input_weight is None else x @ net.input_weight.double().T
        for weight in net.initial:
            x = net.layer_scale * net.activation(x @ weight.double().T)
        top = top - x
    return top @ net.output_weight.detach().double().T


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What the bounds know of the activation: ``-below <= act'' <= above``, ``low <= act' <= lipschitz``."""

    above: float
    below: float
    lipschitz: float
    low: float

    @property
    def curvature(self) -> float:
        """``beta >= |act''|``."""
        return max(self.above, self.below)


def constants_of(act: Activation) -> Constants:
    """Constants of a smooth activation; only those known to be nondecreasing have ``low = 0``."""
    if act.lipschitz is None:
        raise TypeError(f"the slope of {act.name} is not bounded")
    rising = act.name in ("softplus", "elu", "sigmoid", "tanh", "erf", "identity") or act.name.startswith(
        "csp"
    )
    return Constants(
        above=act.curvature_above,
        below=act.curvature_below,
        lipschitz=act.lipschitz,
        low=0.0 if rising else -act.lipschitz,
    )


@dataclass(frozen=True, kw_only=True)
class Start:
    """Norms of the initial weights: what the whole ball has in common.

    Attributes:
        weights: ``W0^h`` in float64.
        columns: largest column norms of ``W0^h``.
        radii: ``R_h``.
        groups: groups of equal size into which the top layer's rows are cut.
    """

    weights: tuple[Tensor, ...]
    columns: tuple[float, ...]
    radii: tuple[float, ...]
    groups: int
    _norms: dict[tuple[int, int], float] = field(default_factory=dict, repr=False, compare=False)

    def parts(self, layer: int) -> tuple[Tensor, ...]:
        """``W0_G``: the rows of each group; one group below the top."""
        top = layer == len(self.weights) - 1
        return self.weights[layer].chunk(self.groups if top else 1)

    def norm(self, layer: int) -> float:
        """A bound of ``||W0^h||``, computed when first asked for."""
        return self._norm(layer, -1)

    def part_norms(self, layer: int) -> tuple[float, ...]:
        """Bounds of ``||W0_G||``."""
        parts = len(self.parts(layer))
        return (self.norm(layer),) if parts == 1 else tuple(self._norm(layer, g) for g in range(parts))

    def _norm(self, layer: int, part: int) -> float:
        if (layer, part) not in self._norms:
            matrix = self.weights[layer] if part < 0 else self.parts(layer)[part]
            self._norms[layer, part] = norm_bound(matrix)
        return self._norms[layer, part]


def start_of(weights: tuple[Tensor, ...], radii: tuple[float, ...], groups: int) -> Start:
    """These initial weights, with norms that are proved."""
    wide = tuple(w.detach().double() for w in weights)
    return Start(
        weights=wide,
        columns=tuple(float(w.norm(dim=0).max()) * (1 + 1e-12) for w in wide),
        radii=radii,
        groups=groups,
    )


def reaches(
    at: Expansion, start: Start, constants: Constants, *, layers: int
) -> list[Float[Tensor, "batch layers"]]:
    """Of the first so many layers ``e^h``: ``||du^h_i|| <= e^h_i . r`` for steps of norms ``r_h`` that stay
    in the ball.

    ``e^h = ||x^(h-1)|| 1_h + k L (||W0^h|| + R_h) e^(h-1)``, from ``du^h = Delta^h x^(h-1) + W'^h dx^(h-1)``
    and ``|dx| <= k L |du|``.
    """
    result: list[Tensor] = []
    for h, x in enumerate(at.inputs[:layers]):
        e = x.new_zeros(len(x), len(at.inputs))
        if h:
            e = at.scale * constants.lipschitz * (start.norm(h) + start.radii[h]) * result[-1]
        e[:, h] += x.norm(dim=1)
        result.append(e)
    return result


def norms_bound(at: Expansion, start: Start, constants: Constants) -> Float[Tensor, "layers layers"]:
    """Bound 1: the matrix ``C`` of ``-remainder <= r' C r``, ``r_h = ||Delta_h||_F``; norms only.

    ``C = sum_i [k/2 sum_h B_ih e_i^h e_i^h' + k L sum_{h>=2} ||g_i^h|| sym(1_h e_i^(h-1)')]`` with ``B_ih``
    the largest over units of ``above max(0, -b) + below max(0, b)``.
    """
    e = reaches(at, start, constants, layers=len(at.inputs))
    k, total = at.scale, e[0].new_zeros(len(e), len(e))
    for h, reach in enumerate(e):
        steepest = one_sided(at.backward[h], (constants.above, constants.below)).amax(1)
        total += k / 2 * (reach * steepest[:, None]).T @ reach
        if h:
            row = k * constants.lipschitz * (at.pull(h).norm(dim=1)[:, None] * e[h - 1]).sum(0)
            total[h] += row / 2
            total[:, h] += row / 2
    return total
