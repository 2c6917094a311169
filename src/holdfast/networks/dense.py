"""Deep wide networks in the paper's scaling: fixed first and last maps, trained Gaussian layers between
them.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._memory import require_memory
from holdfast._rules import COUNT, FLAG, SEED, takes, whole, word
from holdfast._tensors import flatten, generator
from holdfast.errors import InputError
from holdfast.networks.activations import ACTIVATION, Activation, activation_named


@takes(
    features=COUNT,
    classes=whole(least=2),
    width=COUNT,
    depth=COUNT,
    activation=ACTIVATION,
    seed=SEED,
    zero_start=FLAG,
    input_layer=FLAG,
    output=word("gaussian", "signed"),
)
class Dense(nn.Module):
    """The deep network of Gao et al. 2019, section 3, in NTK scaling; ``H = depth``, ``m = width``.

    ``x^0 = A x``, ``u^h = W^h x^(h-1)``, ``x^h = sqrt(c/m) act(u^h)`` for ``h = 1..H``, ``f = a . x^H``, with
    ``c = 1 / E act(z)^2`` so that ``||x^h||`` stays near ``||x||``. The ``W^h`` start standard Gaussian and
    are trained; ``A`` (entries of variance ``1/m``) and ``a`` (standard Gaussian, a row per class) stay fixed.

    Args:
        features: numbers in one example (inputs of any shape are flattened).
        classes: 2 classes have one signed output, more have one output per class.
        width: units ``m`` of every hidden layer.
        depth: trained layers ``H``.
        activation: a name (``softplus``, ``relu``, ...) or an `Activation`.
        seed: seed of all initial weights; the global random state is left alone.
        zero_start: subtracts a frozen copy of the initial network, so that ``f(W0, .) = 0``. Twice the work
            of a forward pass.
        output: ``gaussian`` draws ``a`` as the paper does; ``signed`` gives unit ``r`` the output row
            ``+e_c`` or ``-e_c``, units with equal rows together (``2 C`` groups): the certificate's curvature
            is smaller by far.
        input_layer: whether there is a random ``A``; without it ``x^0 = x``, and ``W^1`` has ``features``
            columns.

    Shapes: input (batch, ...) with ``features`` numbers each, output (batch, outputs). Trained: `weights`,
    ``H`` matrices.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.networks.Dense(features=4, classes=3, width=8, depth=2)(torch.ones(5, 4)).shape
    torch.Size([5, 3])
    """

    output_weight: Tensor
    input_weight: Tensor | None

    def __init__(
        self,
        features: int,
        classes: int,
        width: int,
        depth: int,
        activation: str | Activation = "softplus",
        *,
        seed: int = 0,
        zero_start: bool = True,
        input_layer: bool = True,
        output: str = "gaussian",
    ) -> None:
        super().__init__()
        self.features, self.classes, self.width, self.depth = features, classes, width, depth
        self.outputs = 1 if classes == 2 else classes
        self.activation = activation if isinstance(activation, Activation) else activation_named(activation)
        self.zero_start = zero_start

        self.output = output
        self.groups = 2 * self.outputs if output == "signed" else 1
        if width % self.groups:
            raise InputError(
                f"width must be a multiple of {self.groups} (each output has units of both signs), got "
                f"{width}; ask for "
                f"{max(self.groups, round(width / self.groups) * self.groups)}."
            )

        first = width if input_layer else features
        numbers = width * (first + (depth - 1) * width)
        require_memory(
            4 * ((1 + zero_start) * numbers + width * (self.outputs + input_layer * features)),
            torch.device("cpu"),
            f"a dense network of {depth} layers of width {width:,}",
            "lower the width",
        )
        draw = generator(seed)
        weights = [torch.randn(width, width if layer else first, generator=draw) for layer in range(depth)]
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        a = torch.randn(self.outputs, width, generator=draw)
        if output == "signed":
            rows = torch.cat([torch.outer(torch.tensor([1.0, -1.0]), row) for row in torch.eye(self.outputs)])
            a = rows.repeat_interleave(width // self.groups, 0).T.contiguous()
        self.register_buffer("output_weight", a)
        self.register_buffer(
            "input_weight",
            torch.randn(width, features, generator=draw) / math.sqrt(width) if input_layer else None,
        )
        # Buffers, not recomputed from the seed: a loaded run must subtract exactly the network it started
        # from.
        for layer, weight in enumerate(weights):
            self.register_buffer(f"initial_{layer}", weight.clone() if zero_start else None)

    @property
    def initial(self) -> list[Tensor]:
        """The frozen copies of the initial `weights`; empty without ``zero_start``."""
        return [self.get_buffer(f"initial_{layer}") for layer in range(self.depth)] if self.zero_start else []

    @property
    def layer_scale(self) -> float:
        """``k = sqrt(c / m)``, the factor on every activation."""
        return math.sqrt(self.activation.normaliser / self.width)

    def inputs(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch inputs"]:
        """``x^0 = A x``, what the first trained layer sees."""
        x = flatten(x)
        return x if self.input_weight is None else x @ self.input_weight.T

    def layers(
        self, x: Float[Tensor, "batch ..."], weights: Iterable[Tensor] | None = None
    ) -> list[Float[Tensor, "batch units"]]:
        """``[x^0, x^1, .., x^H]`` at these weights (default: the trained ones)."""
        values = [self.inputs(x)]
        for weight in self.weights if weights is None else weights:
            values.append(self.layer_scale * self.activation(values[-1] @ weight.T))
        return values

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        last = self.layers(x)[-1]
        if self.zero_start:
            last = last - self.layers(x, self.initial)[-1]
        return last @ self.output_weight.T
