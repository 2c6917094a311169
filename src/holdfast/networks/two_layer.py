"""The wide two-layer network of the paper: fixed signed outputs, a trained first layer, output 0 at the
start.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._arguments import TENSOR
from holdfast._memory import require_memory
from holdfast._rules import COUNT, FLAG, SEED, maybe, real, takes, whole, word
from holdfast._tensors import flatten, generator
from holdfast.errors import InputError
from holdfast.networks.activations import ACTIVATION, Activation, activation_named


@takes(
    features=COUNT,
    classes=whole(least=2),
    width=COUNT,
    activation=ACTIVATION,
    outputs=word("signed", "dense"),
    paired=FLAG,
    train_output=FLAG,
    scale=real(),
    center=maybe(TENSOR),
    constant=maybe(real()),
    seed=SEED,
)
class TwoLayer(nn.Module):
    """``f_c(W, x) = m^(-1/2) sum_r a_rc act(w_r . z)``, ``z`` a fixed affine map of ``x`` (Gao et al. 2019, two layers).

    Args:
        features: numbers in one example (inputs of any shape are flattened).
        classes: 2 classes have one signed output, more have one output per class.
        width: hidden units ``m`` in all.
        activation: a name (``softplus``, ``relu``, ``relu2``, ``erf``, ``gelu``, ...) or an `Activation`.
        outputs: ``signed`` gives unit ``r`` the output row ``+e_c`` or ``-e_c`` (``2 C`` distinct rows, hence
            ``2 C`` curvature matrices in the certificate); ``dense`` draws every entry of ``a`` as +1 or -1
            (one, looser, curvature matrix).
        paired: draws each unit twice with opposite output rows, so that ``f(W0, .) = 0``.
        train_output: whether the output weights ``a`` are trained too.
        scale, center, constant: ``z = scale * (x - center)``, with ``constant`` appended as a last coordinate
            when given. Centring the inputs makes the certificate tighter, since their mean dominates the
            largest curvature.
        seed: seed of the initial weights (standard Gaussian); the global random state is left alone.

    Shapes: input (batch, ...) with ``features`` numbers each, output (batch, outputs).

    >>> import torch
    >>> import holdfast as hf
    >>> net = hf.networks.TwoLayer(features=4, classes=3, width=12)
    >>> bool(net(torch.ones(5, 4)).abs().max() < 1e-6)  # paired units: f(W0, .) = 0
    True
    """

    scale: Tensor
    center: Tensor | None

    def __init__(
        self,
        features: int,
        classes: int,
        width: int,
        activation: str | Activation = "softplus",
        *,
        outputs: str = "signed",
        paired: bool = True,
        train_output: bool = False,
        scale: float = 1.0,
        center: Tensor | None = None,
        constant: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.outputs = 1 if classes == 2 else classes
        signed = outputs == "signed" or classes == 2
        unit = 2 * self.outputs if signed else 2 if paired else 1
        if width < unit or width % unit:
            nearest = max(unit, round(width / unit) * unit)
            raise InputError(
                f"width must be a multiple of {unit} (each output has units of both signs), got {width}; "
                f"ask for {nearest}."
            )
        if center is not None and center.numel() != features:
            raise InputError(
                f"center must have {features} numbers, one a feature, got {center.numel()}; pass data means."
            )
        self.features, self.classes, self.width = features, classes, width
        self.activation = activation if isinstance(activation, Activation) else activation_named(activation)
        self.constant = constant
        self.input_size = features + (constant is not None)
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("center", None if center is None else center.detach().clone().flatten().float())

        require_memory(
            4 * width * (self.input_size + self.outputs),
            torch.device("cpu"),
            f"a two-layer network of width {width:,}",
            "lower the width",
        )
        draw = generator(seed)
        # Units with equal output rows stand together, so that a group is a slice of the weight matrix; groups
        # are equally large.
        signs = torch.tensor([1.0, -1.0])
        if signed:
            rows = torch.cat([torch.outer(signs, row) for row in torch.eye(self.outputs)])
            self.groups = len(rows)
            a = rows.repeat_interleave(width // len(rows), 0)
            shape = (self.outputs, 1 if paired else 2, width // len(rows), self.input_size)
            weight = (
                torch.randn(shape, generator=draw)
                .expand(-1, 2, -1, -1)
                .reshape(width, self.input_size)
                .clone()
            )
        else:
            self.groups = 1
            drawn = width // 2 if paired else width
            a = signs[torch.randint(0, 2, (drawn, self.outputs), generator=draw)]
            weight = torch.randn(drawn, self.input_size, generator=draw)
            if paired:
                a, weight = torch.cat([a, -a]), torch.cat([weight, weight])
        self.weight = nn.Parameter(weight)
        if train_output:
            self.output_weight: Tensor = nn.Parameter(a)
        else:
            self.register_buffer("output_weight", a)

    @property
    def train_output(self) -> bool:
        return isinstance(self.output_weight, nn.Parameter)

    def inputs(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch inputs"]:
        """The vector ``z`` that the first layer sees."""
        z = flatten(x)
        if self.center is not None:
            z = z - self.center
        z = z * self.scale
        if self.constant is not None:
            z = torch.cat([z, torch.full_like(z[:, :1], self.constant)], 1)
        return z

    def preactivations(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch width"]:
        """``u_ir = w_r . z_i``."""
        return self.inputs(x) @ self.weight.T

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        hidden = self.activation.value(self.preactivations(x))
        return hidden @ (self.output_weight / math.sqrt(self.width))
