"""The networks of the theory for a data set: inputs scaled into the paper's domain, widths that its classes divide."""

import math
from typing import Literal

import torch
from torch import Tensor

from holdfast._rules import COUNT, FLAG, SEED, maybe, real, takes, whole, word
from holdfast._tensors import flatten
from holdfast.data.base import DATASET, Dataset
from holdfast.networks.activations import ACTIVATION, Activation
from holdfast.networks.dense import Dense
from holdfast.networks.two_layer import TwoLayer

OutputRows = Literal["signed", "dense"]
DOMAIN_NORM = math.sqrt(3) / 2  # beside a constant 1/2, unit vectors: the domain of Gao et al. 2019
OUTPUT_ROWS = word("signed", "dense")


@takes(
    data=DATASET,
    width=COUNT,
    activation=ACTIVATION,
    outputs=OUTPUT_ROWS,
    paired=FLAG,
    train_output=FLAG,
    center=FLAG,
    scale=maybe(real(above=0)),
    constant=maybe(real()),
    seed=SEED,
)
def two_layer(
    data: Dataset,
    *,
    width: int = 2000,
    activation: str | Activation = "softplus",
    outputs: OutputRows = "signed",
    paired: bool = True,
    train_output: bool = False,
    center: bool = True,
    scale: float | None = None,
    constant: float | None = 0.5,
    seed: int = 0,
) -> TwoLayer:
    """A `TwoLayer` network whose inputs are ``scale * (x - center)``, with ``constant`` appended.

    Args:
        data: what it is for.
        width: hidden units in a layer (two layers: rounded up to as many of each sign for every output).
        activation: softplus, relu, leaky-relu, relu2, elu, sigmoid, tanh, erf, gelu, silu, identity, or csp1,
            csp2, ... (centred softplus of that temperature).
        outputs: output weights, one-hot rows with a sign, or dense rows (dense network, Gaussian ones).
        paired: start at output 0, each unit twice, with opposite output weights (two layers).
        train_output: train the output weights of a two-layer network too.
        center: subtract the mean of the training part (two layers), for a tighter certificate.
        scale: factor on the inputs (two layers); left out, their mean norm becomes sqrt(3)/2.
        constant: constant appended to the inputs (two layers), as a bias; null for none.
        seed: seed of the initial weights.
    """
    mean = flatten(data.train.x).mean(0, dtype=torch.float64).to(data.x.dtype) if center else None
    even = 2 * _outputs(data) if outputs == "signed" or data.classes == 2 else 2 if paired else 1
    return TwoLayer(
        data.features,
        data.classes,
        _rounded_up(width, even),
        activation,
        outputs=outputs,
        paired=paired,
        train_output=train_output,
        scale=scale or _domain_scale(data, mean),
        center=mean,
        constant=constant,
        seed=seed,
    )


@takes(
    data=DATASET,
    width=COUNT,
    depth=whole(least=1),
    input_layer=FLAG,
    activation=ACTIVATION,
    outputs=OUTPUT_ROWS,
    seed=SEED,
)
def dense(
    data: Dataset,
    *,
    width: int = 2000,
    depth: int = 2,
    input_layer: bool = True,
    activation: str | Activation = "softplus",
    outputs: OutputRows = "signed",
    seed: int = 0,
) -> Dense:
    """A `Dense` network.

    Args:
        data: what it is for.
        width: hidden units in a layer, rounded up to as many of each sign for every output.
        depth: trained layers of a dense network.
        input_layer: a fixed random map before the first trained layer of a dense network, as the paper has.
        activation: as for two layers.
        outputs: output weights, one-hot rows with a sign, or dense rows (Gaussian ones).
        seed: seed of the initial weights.
    """
    return Dense(
        data.features,
        data.classes,
        _rounded_up(width, 2 * _outputs(data) if outputs == "signed" else 1),
        depth,
        activation,
        output="signed" if outputs == "signed" else "gaussian",
        input_layer=input_layer,
        seed=seed,
    )


def _outputs(data: Dataset) -> int:
    return 1 if data.classes == 2 else data.classes


def _rounded_up(width: int, unit: int) -> int:
    """The width rounded up to what the signs of the outputs divide, so that one width serves data of any
    classes.
    """
    return -(-width // unit) * unit


def _domain_scale(data: Dataset, center: Tensor | None) -> float:
    """The factor that gives the (centred) training examples the mean norm of the paper's domain."""
    rows = flatten(data.train.x).double()
    mean = float((rows if center is None else rows - center).norm(dim=1).mean())
    return DOMAIN_NORM / mean if mean > 0 else 1.0
