"""Activations, with the facts kernels and certificates need stated as data: slope, curvature, kinks.

The certificate rests on ``-curvature_below <= act'' <= curvature_above`` almost everywhere, so those
constants are upper bounds: exact where representable, otherwise the closed form (or a numeric maximum)
rounded up.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from holdfast._rules import TEXT, Rule, takes
from holdfast.errors import InputError

Values = Float[Tensor, "..."]

SQRT_PI = math.sqrt(math.pi)
SQRT_2PI = math.sqrt(2 * math.pi)
LEAK = 0.01

# Above 36.7 the terms of softplus(x) - x vanish in float64, so switching to x at 40 loses nothing; torch's
# own 20 loses 2e-9.
SOFTPLUS_LINEAR_FROM = 40.0

# Beyond 13 the Gaussian has a mass under 1e-37, and squared activations grow at most like x^4.
QUADRATURE_REACH = 13.0
QUADRATURE_NODES = 200


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A scalar function applied to every entry.

    Attributes:
        name: the word for it on the command line and in run folders.
        value: ``act(x)``.
        slope: ``act'(x)``; at a kink, the slope from the left.
        lipschitz: a bound of ``|act'|``; ``None`` where there is none.
        curvature_above: ``b_plus >= act''``; infinite where ``act'`` jumps upwards.
        curvature_below: ``b_minus >= -act''``.
        kink: how far ``act'`` jumps at 0 (ReLU 1, leaky ReLU 0.99); 0 for a continuous slope.

    >>> import torch
    >>> import holdfast as hf
    >>> relu = hf.networks.activation_named("relu")
    >>> relu.value(torch.tensor([-1.0, 2.0])), relu.lipschitz
    (tensor([0., 2.]), 1.0)
    """

    name: str
    value: Callable[[Values], Values]
    slope: Callable[[Values], Values]
    lipschitz: float | None
    curvature_above: float
    curvature_below: float
    kink: float = 0.0

    @property
    def smooth(self) -> bool:
        """Whether ``act'`` is continuous, so that the two curvature bounds say all there is to say."""
        return self.kink == 0.0

    @property
    def convex(self) -> bool:
        return self.curvature_below == 0.0

    def __call__(self, x: Values) -> Values:
        return self.value(x)

    @property
    def normaliser(self) -> float:
        """``c = 1 / E act(z)^2`` for standard Gaussian ``z``: ``sqrt(c / m) act`` keeps the norm of wide
        layers near 1.
        """
        return _normaliser(self)


@cache
def _normaliser(activation: Activation) -> float:
    """Gauss-Legendre on each side of 0: unlike Gauss-Hermite it is exact to rounding across a kink at 0,
    too.
    """
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    half = (nodes + 1) * (QUADRATURE_REACH / 2)
    z = np.concatenate([-half[::-1], half])
    density = np.exp(-(z**2) / 2) / SQRT_2PI
    mass = density * np.concatenate([weights[::-1], weights]) * (QUADRATURE_REACH / 2)
    values = activation(torch.from_numpy(z)).numpy()
    return float(1 / (mass @ values**2))


def _up(bound: float) -> float:
    """Rounded up past the few units in the last place by which a closed form may be evaluated too low."""
    return bound * (1 + 8 * 2.0**-52)


def _density(x: Values) -> Values:
    return torch.exp(-x.square() / 2) / SQRT_2PI


def softplus(x: Values) -> Values:
    """``log(1 + exp(x))`` to rounding for every ``x``, unlike torch's default, which is cut at 20."""
    return functional.softplus(x, threshold=SOFTPLUS_LINEAR_FROM)


def _step(x: Values) -> Values:
    return (x > 0).to(x.dtype)


def _leaky_relu(x: Values) -> Values:
    return functional.leaky_relu(x, LEAK)


def _leaky_slope(x: Values) -> Values:
    return torch.where(x > 0, torch.ones_like(x), LEAK)


def _squared_relu(x: Values) -> Values:
    return functional.relu(x).square()


def _squared_relu_slope(x: Values) -> Values:
    return 2 * functional.relu(x)


def _elu_slope(x: Values) -> Values:
    return x.clamp_max(0).exp()


def _sigmoid_slope(x: Values) -> Values:
    # the product of both tails keeps its digits where 1 - sigmoid(x) would cancel
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _tanh_slope(x: Values) -> Values:
    return 4 * _sigmoid_slope(2 * x)


def _erf_slope(x: Values) -> Values:
    return torch.exp(-x.square()) * (2 / SQRT_PI)


def _gelu_slope(x: Values) -> Values:
    below: Tensor = torch.special.ndtr(x)
    return below + x * _density(x)


def _silu_slope(x: Values) -> Values:
    return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))


def _identity(x: Values) -> Values:
    return x


RELU = Activation(
    name="relu",
    value=functional.relu,
    slope=_step,
    lipschitz=1.0,
    curvature_above=math.inf,
    curvature_below=0.0,
    kink=1.0,
)
LEAKY_RELU = Activation(
    name="leaky-relu",
    value=_leaky_relu,
    slope=_leaky_slope,
    lipschitz=1.0,
    curvature_above=math.inf,
    curvature_below=0.0,
    kink=1.0 - LEAK,
)
SQUARED_RELU = Activation(
    name="relu2",
    value=_squared_relu,
    slope=_squared_relu_slope,
    lipschitz=None,
    curvature_above=2.0,
    curvature_below=0.0,
)
SOFTPLUS = Activation(
    name="softplus",
    value=softplus,
    slope=torch.sigmoid,
    lipschitz=1.0,
    curvature_above=0.25,
    curvature_below=0.0,
)
ELU = Activation(
    name="elu",
    value=functional.elu,
    slope=_elu_slope,
    lipschitz=1.0,
    curvature_above=1.0,
    curvature_below=0.0,
)
SIGMOID = Activation(
    name="sigmoid",
    value=torch.sigmoid,
    slope=_sigmoid_slope,
    lipschitz=0.25,
    curvature_above=_up(1 / (6 * math.sqrt(3))),
    curvature_below=_up(1 / (6 * math.sqrt(3))),
)
TANH = Activation(
    name="tanh",
    value=torch.tanh,
    slope=_tanh_slope,
    lipschitz=1.0,
    curvature_above=_up(4 / (3 * math.sqrt(3))),
    curvature_below=_up(4 / (3 * math.sqrt(3))),
)
ERF = Activation(
    name="erf",
    value=torch.erf,
    slope=_erf_slope,
    lipschitz=_up(2 / SQRT_PI),
    curvature_above=_up(math.sqrt(8 / math.e) / SQRT_PI),
    curvature_below=_up(math.sqrt(8 / math.e) / SQRT_PI),
)
GELU = Activation(  # act'' = phi(x) (2 - x^2): extremes at 0 and 2; act' is largest at sqrt(2)
    name="gelu",
    value=functional.gelu,
    slope=_gelu_slope,
    lipschitz=_up(0.5 * (1 + math.erf(1.0)) + 1 / (math.e * SQRT_PI)),
    curvature_above=_up(2 / SQRT_2PI),
    curvature_below=_up(2 * math.exp(-2) / SQRT_2PI),
)
SILU = Activation(  # act'' = sigmoid' (2 - x tanh(x / 2)); two of its extremes have no closed form: 40 digits, rounded up
    name="silu",
    value=functional.silu,
    slope=_silu_slope,
    lipschitz=1.09983932012887,
    curvature_above=0.5,
    curvature_below=0.0369143731998932,
)
IDENTITY = Activation(
    name="identity",
    value=_identity,
    slope=torch.ones_like,
    lipschitz=1.0,
    curvature_above=0.0,
    curvature_below=0.0,
)

ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        SOFTPLUS,
        RELU,
        LEAKY_RELU,
        SQUARED_RELU,
        ELU,
        SIGMOID,
        TANH,
        ERF,
        GELU,
        SILU,
        IDENTITY,
    )
}


@cache
def centred_softplus(temperature: float) -> Activation:
    """``t softplus(x / t) - E[t softplus(z / t)]`` for standard Gaussian ``z``: convex,
    ``0 <= act'' <= 1 / (4 t)``, mean 0.

    Without the mean a deep network's outputs fall faster at equal curvature. Its name is ``csp`` and ``t``,
    as in ``csp1`` or ``csp0.5``.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"temperature must be > 0 and finite, got {temperature}; 1 is the usual choice.")
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE_NODES)
    z = nodes * QUADRATURE_REACH
    mass = np.exp(-(z**2) / 2) / SQRT_2PI * weights * QUADRATURE_REACH
    mean = float(mass @ (temperature * np.logaddexp(0, z / temperature)))
    short = f"{temperature:g}"
    return Activation(
        name=f"csp{short if float(short) == temperature else repr(float(temperature))}",
        value=partial(_centred_softplus, temperature, mean),
        slope=partial(_tempered_sigmoid, temperature),
        lipschitz=1.0,
        curvature_above=_up(0.25 / temperature),
        curvature_below=0.0,
    )


def _centred_softplus(temperature: float, mean: float, x: Values) -> Values:
    return temperature * softplus(x / temperature) - mean


def _tempered_sigmoid(temperature: float, x: Values) -> Values:
    return torch.sigmoid(x / temperature)


def _temperature(name: str) -> float:
    try:
        return float(name[3:])
    except ValueError:
        raise InputError(
            f"a centred softplus is named csp and its temperature, got {name!r}; csp1 is the usual one."
        ) from None


def _read_activation(value: Any) -> Activation:
    if isinstance(value, Activation):
        return value
    if not isinstance(value, str):
        raise TypeError
    return activation_named(value)


ACTIVATION = Rule(what="the name of an activation, such as softplus, or an Activation", read=_read_activation)


@takes(name=TEXT)
def activation_named(name: str) -> Activation:
    """The activation with this name.

    Args:
        name: such as ``relu``, ``softplus`` or ``gelu``.

    Raises:
        InputError: no activation has this name.

    >>> import holdfast as hf
    >>> hf.networks.activation_named("relu").kink
    1.0
    """
    if name.startswith("csp"):
        return centred_softplus(_temperature(name))
    if name not in ACTIVATIONS:
        close = difflib.get_close_matches(name, ACTIVATIONS, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "pick one of these."
        raise InputError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}; {remedy}")
    return ACTIVATIONS[name]
