"""What a kernel must know of a network: its activation, its depth, which layers are trained and how inputs
enter.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._arguments import MODEL, TENSOR
from holdfast._rules import COUNT, FLAG, maybe, real, takes, word
from holdfast._tensors import flatten
from holdfast._values import Shown
from holdfast.errors import InputError
from holdfast.families.exact import exact_core, why_not_exact
from holdfast.networks import Activation, activation_named
from holdfast.networks.activations import ACTIVATION, ERF, IDENTITY, LEAK, LEAKY_RELU, RELU, SQUARED_RELU
from holdfast.theory.duals import Dual, Erf, PiecewiseLinear, SquaredReLU
from holdfast.theory.expansion import HermiteDual
from holdfast.theory.shifted import ShiftedReLU

Trained = Literal["hidden", "hidden and output", "all"]


@takes(
    activation=ACTIVATION,
    depth=COUNT,
    trained=word(*get_args(Trained)),
    shift=real(),
    normalised=FLAG,
    output_variance=real(least=0),
    scale=real(),
    center=maybe(TENSOR),
    constant=maybe(real()),
)
@dataclass(frozen=True, kw_only=True, repr=False)
class KernelSpec(Shown):
    """An infinitely wide dense network, of which the kernel is taken.

    ``f = a . x^H``, ``x^h = sqrt(c / m) act(W^h x^(h-1) - shift)``, ``x^0 = A z``.

    Attributes:
        activation: a name (``relu``, ``softplus``, ...) or an `Activation`.
        depth: hidden layers ``H``.
        trained: ``hidden``: the paper's kernel, only the ``W^h`` move (Gao et al. 2019, arXiv 1906.07916);
            ``hidden and output``: ``a`` too, which is what other tools compute for ``H`` hidden layers
            without a fixed input map; ``all``: also ``A``.
        shift: subtracted before the activation.
        normalised: ``c = 1 / E act(z - shift)^2`` for standard Gaussian ``z``; otherwise ``c = 1``.
        output_variance: of the entries of ``a``.
        scale, center, constant: ``z = scale * (x - center)``, with ``constant`` appended when given. Without
            a constant the kernels of ReLU, leaky ReLU and squared ReLU miss half of the harmonics and are not
            universal.

    >>> import holdfast as hf
    >>> hf.theory.KernelSpec(activation="relu", depth=2).factor
    2.0
    """

    activation: str | Activation = "relu"
    depth: int = 1
    trained: str = "hidden"
    shift: float = 0.0
    normalised: bool = True
    output_variance: float = 1.0
    scale: float = 1.0
    center: Tensor | None = None
    constant: float | None = None

    @property
    def act(self) -> Activation:
        return (
            self.activation if isinstance(self.activation, Activation) else activation_named(self.activation)
        )

    @property
    def dual(self) -> Dual:
        """Closed form where there is one, else by expansion or quadrature."""
        if self.shift:
            return ShiftedReLU(self.shift) if self.act is RELU else HermiteDual(self.act, self.shift)
        leaks = {RELU: 0.0, LEAKY_RELU: LEAK, IDENTITY: 1.0}
        if self.act in leaks:
            return PiecewiseLinear(leaks[self.act])
        if self.act is SQUARED_RELU:
            return SquaredReLU()
        return Erf() if self.act is ERF else HermiteDual(self.act)

    @property
    def factor(self) -> float:
        """``c``."""
        if not self.normalised:
            return 1.0
        return 1 / float(self.dual.rows(torch.ones(1, dtype=torch.float64)).value)

    def inputs(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch inputs"]:
        """``z``, a row per example."""
        z = flatten(x)
        if self.center is not None:
            if self.center.numel() != z.shape[1]:
                raise InputError(
                    f"x must have {self.center.numel()} numbers per example, as center has, got "
                    f"{z.shape[1]}; flatten alike."
                )
            z = z - self.center.flatten().to(z)
        if self.scale != 1:
            z = z * self.scale
        if self.constant is not None:
            z = torch.cat([z, z.new_full((len(z), 1), self.constant)], 1)
        return z


@takes(model=MODEL)
def spec_of(model: nn.Module) -> KernelSpec:
    """The spec of the kernel that this network's own tangent kernel tends to as its width grows.

    The kernel is the mean over outputs.

    Args:
        model: a network of a family with such a kernel.

    Raises:
        InputError: the network has no family, or its family has no such kernel; use `empirical_ntk`.

    >>> import holdfast as hf
    >>> hf.theory.spec_of(hf.networks.TwoLayer(2, 2, width=8)).activation.name
    'softplus'
    """
    core = exact_core(model)
    known = None if core is None else core.family.kernel(core.network)
    if known is None:
        why = why_not_exact(model) or f"{type(model).__name__} has none"
        raise InputError(
            f"an analytic kernel is known for Dense and TwoLayer networks as they are, but {why}; use "
            "empirical_ntk or a KernelSpec."
        )
    return KernelSpec(**known)
