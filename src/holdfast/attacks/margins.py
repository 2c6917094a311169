"""How far outputs are from another prediction: the margin, and the same made independent of the outputs'
scale (DLR).

All are written for outputs that grow with the loss, as attacks climb. Outputs may have any number of columns;
one column is the signed output of a binary network.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from holdfast.losses import Labels, Loss, Outputs, PerExample, one_hot, signs


def rivals(outputs: Outputs, y: Labels) -> Labels:
    """The most likely class other than ``y`` of each row."""
    if outputs.shape[1] == 1:
        return 1 - y
    return outputs.detach().scatter(1, y[:, None], -torch.inf).argmax(1)


def wrong_classes(outputs: Outputs, y: Labels) -> Int[Tensor, "batch wrong"]:
    """Every class but ``y``, the likeliest first."""
    if outputs.shape[1] == 1:
        return (1 - y)[:, None]
    ranked: Tensor = (
        outputs.detach().scatter(1, y[:, None], -torch.inf).sort(dim=1, descending=True, stable=True)[1]
    )
    return ranked[:, :-1]


def margin(outputs: Outputs, y: Labels) -> PerExample:
    """``z_y - max_{j != y} z_j``, for one output ``sign f``: positive exactly where the prediction is
    ``y``.
    """
    return difference(outputs, rivals(outputs, y), y)


def difference(outputs: Outputs, y: Labels, target: Labels) -> PerExample:
    """``z_target - z_y``; for one output ``f`` or ``-f`` (``y`` and ``target`` being the two classes)."""
    return (towards(outputs, y, target) * outputs).sum(1)


def dlr(outputs: Outputs, y: Labels) -> PerExample:
    """``-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))``, ``z_(k)`` the k-th largest output (Croce and Hein
    2020, arXiv 2003.01690, eq. 6).

    Unchanged when the outputs are shifted or scaled by a positive number, at most 1, and positive exactly
    where the prediction is wrong. With one or two outputs nothing is left to divide by (the quotient would be
    a sign, without slope), so it is ``-margin``: attacks that normalise gradients and compare losses do not
    see its scale. Also where the divisor is 0.
    """
    return _quotient(outputs, towards(outputs, y, rivals(outputs, y)), _spread(outputs))


def targeted_dlr(outputs: Outputs, y: Labels, target: Labels) -> PerExample:
    """``-(z_y - z_target) / (z_(1) - (z_(3) + z_(4)) / 2)`` (arXiv 2003.01690, eq. 7).

    With three outputs the divisor is ``z_(1) - (z_(2) + z_(3)) / 2``: any other pair would leave no slope for
    the target that comes last. With one or two outputs it is `difference`, as in `dlr`.
    """
    return _quotient(outputs, towards(outputs, y, target), _wide_spread(outputs))


@dataclass(frozen=True)
class Margin(Loss):
    """``max_{j != y} z_j - z_y``: positive where the example is misclassified.

    Convex, Lipschitz with constant ``sqrt(2)``, of either sign.

    >>> import torch
    >>> import holdfast as hf
    >>> outputs = torch.tensor([[3.0, 1.0, 0.0]])
    >>> hf.attacks.Margin()(outputs, torch.tensor([0]))
    tensor([-2.])
    """

    nonnegative = False

    @property
    def name(self) -> str:
        return "margin"

    @property
    def lipschitz(self) -> float | None:
        return 2**0.5

    def __call__(self, outputs: Outputs, labels: Labels) -> PerExample:
        return -margin(outputs, labels)

    def slope(self, outputs: Outputs, labels: Labels) -> Outputs:
        return towards(outputs, labels, rivals(outputs, labels))


@dataclass(frozen=True)
class DLR(Loss):
    """The difference of logits ratio, `dlr`, as a loss that is made high at the label.

    For a class to be reached use `TargetedDLR`: this one has no slope there while the class comes third.

    >>> import torch
    >>> import holdfast as hf
    >>> outputs = torch.tensor([[3.0, 1.0, 0.0]])
    >>> hf.attacks.DLR()(outputs, torch.tensor([0]))
    tensor([-0.6667])
    """

    convex = False
    nonnegative = False

    @property
    def name(self) -> str:
        return "dlr"

    def __call__(self, outputs: Outputs, labels: Labels) -> PerExample:
        return dlr(outputs, labels)

    def slope(self, outputs: Outputs, labels: Labels) -> Outputs:
        up = towards(outputs, labels, rivals(outputs, labels))
        return _quotient_slope(outputs, up, _spread(outputs))


@dataclass(frozen=True)
class TargetedDLR(Loss):
    """`targeted_dlr` from a class to its strongest rival: what a targeted attack makes low at its target.

    >>> import torch
    >>> import holdfast as hf
    >>> outputs = torch.tensor([[3.0, 1.0, 0.0, -1.0]])
    >>> hf.attacks.TargetedDLR()(outputs, torch.tensor([1]))
    tensor([0.5714])
    """

    convex = False
    nonnegative = False

    @property
    def name(self) -> str:
        return "targeted-dlr"

    def __call__(self, outputs: Outputs, labels: Labels) -> PerExample:
        return targeted_dlr(outputs, labels, rivals(outputs, labels))

    def slope(self, outputs: Outputs, labels: Labels) -> Outputs:
        up = towards(outputs, labels, rivals(outputs, labels))
        return _quotient_slope(outputs, up, _wide_spread(outputs))


def towards(outputs: Outputs, y: Labels, target: Labels) -> Outputs:
    """The weights of `difference`: 1 at the target, -1 at ``y``; for one output the sign of the target."""
    if outputs.shape[1] == 1:
        return signs(target, outputs)
    return one_hot(target, outputs) - one_hot(y, outputs)


def _spread(outputs: Outputs) -> Outputs | None:
    """The weights of ``z_(1) - z_(3)``; ``None`` where there are fewer outputs."""
    if outputs.shape[1] < 3:
        return None
    top = outputs.detach().topk(3, dim=1).indices
    return one_hot(top[:, 0], outputs) - one_hot(top[:, 2], outputs)


def _wide_spread(outputs: Outputs) -> Outputs | None:
    """The weights of ``z_(1) - (z_(3) + z_(4)) / 2``, of three outputs the last two."""
    if outputs.shape[1] < 3:
        return None
    top = outputs.detach().topk(min(4, outputs.shape[1]), dim=1).indices
    low = one_hot(top[:, -1], outputs) + one_hot(top[:, -2], outputs)
    return one_hot(top[:, 0], outputs) - 0.5 * low


def _quotient(outputs: Outputs, up: Outputs, spread: Outputs | None) -> PerExample:
    rise = (up * outputs).sum(1)
    if spread is None:
        return rise
    width = (spread * outputs).sum(1)
    return rise / torch.where(width > 0, width, 1.0)


def _quotient_slope(outputs: Outputs, up: Outputs, spread: Outputs | None) -> Outputs:
    """``(u - q s) / <s, z>`` for the quotient ``q = <u, z> / <s, z>``."""
    if spread is None:
        return up
    width = (spread * outputs).sum(1, keepdim=True)
    quotient = (up * outputs).sum(1, keepdim=True) / torch.where(width > 0, width, 1.0)
    return torch.where(width > 0, (up - quotient * spread) / torch.where(width > 0, width, 1.0), up)
