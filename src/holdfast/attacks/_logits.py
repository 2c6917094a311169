"""Whether a model answers with probabilities where logits, or a signed output, are wanted."""

from collections.abc import Callable

import torch
from torch import Tensor

from holdfast import _tensors
from holdfast.errors import InputError
from holdfast.losses import Outputs

MOST = 32  # examples looked at
SPREADS = (1.0, 1e2, 1e4)
"""How far from the examples others are tried, in multiples of the largest feature."""
SAME = 1e-2  # relative difference of sums that are meant to be the same: half precision


def refuse_probabilities(answers: Callable[[Tensor], Outputs], x: Tensor, outputs: Outputs) -> None:
    """Attacks and bounds need logits: probabilities saturate, so attacks fail, and as a signed output they
    are never below 0.

    Outputs are taken for probabilities where all, on the examples and on points ever farther from them, lie
    in [0, 1], or are shares of one total. Models with other outputs on the examples, as good as all, cost
    nothing; a constant model is not refused.

    Args:
        answers: the model, in evaluation mode, without gradients.
        x, outputs: examples, and the model's outputs there.

    Raises:
        InputError: the outputs look like probabilities.
    """
    if not _alike(outputs):
        return
    draw, near = _tensors.generator(0), x[:MOST]
    size = float(near.abs().max()) or 1.0
    noise = torch.randn(near.shape, generator=draw, dtype=torch.float32).to(near)
    tried = [answers(near + spread * size * noise) for spread in SPREADS]
    found = torch.cat([outputs, *tried, answers(-near)])
    found = found[found.isfinite().all(1)]
    if not _alike(found) or not bool((found != found[:1]).any()):
        return
    if outputs.shape[1] == 1:
        raise InputError(
            "model must return logits, one column being a signed output that is above 0 for class 1 and "
            f"below 0 for class 0, got numbers from {float(found.min()):.3g} to {float(found.max()):.3g} "
            "everywhere, which look like probabilities; leave out its sigmoid, or wrap it as "
            "holdfast.networks.LogOutputs(model) (--log-outputs)."
        )
    raise InputError(
        "model must return logits, got probabilities (numbers in [0, 1], or shares of one total, "
        "everywhere); leave out its softmax or sigmoid, or take the logarithm with "
        "holdfast.networks.LogOutputs(model) or --log-outputs."
    )


def _alike(outputs: Outputs) -> bool:
    """Whether these numbers could be probabilities: in [0, 1], or with two columns or more not negative
    and of one sum.
    """
    if not bool((outputs >= 0).all()):
        return False
    if bool((outputs <= 1).all()):
        return True
    sums = outputs.sum(1)
    return outputs.shape[1] > 1 and bool(((sums - sums[0]).abs() <= SAME * sums[0].abs()).all())
