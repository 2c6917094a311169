"""Losses, one value per example, with the facts a certificate needs stated as data.

A network with one output ``f`` (binary, signed) predicts class 1 when ``f > 0``; labels are always
``0 .. classes-1`` and ``sign = 2 * label - 1``. A network with ``C >= 2`` outputs predicts the largest.

The convergence certificate rests on convexity of ``loss(f, y)`` in ``f`` alone, so a loss that is not convex
must say so.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast._registry import LOSSES as LOSSES
from holdfast._rules import TEXT, Rule, instance_or_name, real, takes
from holdfast.errors import InputError

Outputs = Float[Tensor, "batch outputs"]
Labels = Int[Tensor, " batch"]
PerExample = Float[Tensor, " batch"]


def signs(labels: Labels, like: Tensor) -> Tensor:
    """Binary labels 0, 1 as -1, +1 in the dtype of ``like``; shape (batch, 1).

    Args:
        labels: 0 or 1, (batch,).
        like: a tensor of the dtype and device wanted.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.losses.signs(torch.tensor([0, 1]), torch.zeros(1))
    tensor([[-1.],
            [ 1.]])
    """
    return (2 * labels.to(like.dtype) - 1)[:, None]


def one_hot(labels: Labels, outputs: Outputs) -> Outputs:
    """Rows of the identity, in the dtype and device of ``outputs``.

    Args:
        labels: ``0 .. classes-1``, (batch,).
        outputs: (batch, classes); their numbers are not used.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.losses.one_hot(torch.tensor([1]), torch.zeros(1, 3))
    tensor([[0., 1., 0.]])
    """
    return torch.zeros_like(outputs).scatter_(1, labels[:, None], 1.0)


Method = Callable[[Any, Outputs, Labels], Tensor]


def _on_copies(method: Method) -> Method:
    @wraps(method)
    def copied(self: Any, outputs: Outputs, labels: Labels) -> Tensor:
        return method(self, outputs.clone(), labels.clone())

    return copied


@dataclass(frozen=True)
class Loss(ABC):
    """``loss(f, y)`` for each example.

    Certificates read these attributes. Each is a claim of the class that computes the loss, and is not
    inherited by one that computes another.

    Attributes:
        convex: whether ``f -> loss(f, y)`` is convex for every label, with `slope` a subgradient.
        nonnegative: whether the loss is never below 0 (then a window that misses examples still gives a lower
            bound).
        lipschitz: a Lipschitz constant in the Euclidean norm of the outputs; ``None`` where there is none.

    >>> import holdfast as hf
    >>> loss = hf.losses.as_loss("cross-entropy")
    >>> loss.convex, loss.nonnegative
    (True, True)
    """

    convex: ClassVar[bool] = False
    nonnegative: ClassVar[bool] = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        """A claim counts where it was made, not below: a class that computes another loss does not inherit
        it.

        What a user's class computes, it computes on copies: working in place, it changes nothing that others
        read.
        """
        super().__init_subclass__(**keywords)

        def made(word: str) -> int:
            return next(
                (place for place, kind in enumerate(cls.__mro__) if word in vars(kind)), len(cls.__mro__)
            )

        computed = min(made(word) for word in ("__call__", "slope", "_target", "_raised", "floor"))
        for claim in ("convex", "nonnegative"):
            if made(claim) > computed:
                setattr(cls, claim, False)
        if not cls.__module__.startswith("holdfast."):
            for word in ("__call__", "slope"):
                if word in vars(cls):
                    setattr(cls, word, _on_copies(vars(cls)[word]))

    @property
    @abstractmethod
    def name(self) -> str:
        """The word for it on the command line and in run folders."""

    @property
    def lipschitz(self) -> float | None:
        return None

    def floor(self, outputs: int, labels: Labels) -> PerExample:
        """The largest number known to lie below ``loss(f, y)`` for every ``f`` of so many ``outputs``, one
        an example, in float64.
        """
        least = 0.0 if self.nonnegative else -math.inf
        return torch.full((len(labels),), least, dtype=torch.float64, device=labels.device)

    @abstractmethod
    def __call__(self, outputs: Outputs, labels: Labels) -> PerExample:
        """Loss of each example."""

    @abstractmethod
    def slope(self, outputs: Outputs, labels: Labels) -> Outputs:
        """A subgradient ``s_i`` of the loss in the outputs: ``loss(f) >= loss(h) + <s, f - h>``."""


@takes(label_smoothing=real(least=0, below=1))
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy; with one signed output this is the logistic loss ``log(1 + exp(-sign f))``.

    Convex, and Lipschitz with constant ``sqrt(2)`` (one output: 1), since the slope is
    ``softmax(f) - target``.

    Attributes:
        label_smoothing: ``e``: the target is ``(1 - e)`` on the label and ``e / C`` on every class.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.CrossEntropy()(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([0.6931])
    """

    label_smoothing: float = 0.0

    convex = True
    nonnegative = True

    @property
    def name(self) -> str:
        return "cross-entropy"

    @property
    def lipschitz(self) -> float | None:
        return math.sqrt(2)

    def _target(self, outputs: Outputs, labels: Labels) -> Outputs:
        e = self.label_smoothing
        if outputs.shape[1] == 1:  # probability of class 1
            return (1 - e) * labels.to(outputs.dtype)[:, None] + e / 2
        return (1 - e) * one_hot(labels, outputs) + e / outputs.shape[1]

    def floor(self, outputs: int, labels: Labels) -> PerExample:
        """The entropy of the smoothed target, which is the same for all labels; 0 without smoothing.
        Rounded down.
        """
        classes = max(2, outputs)
        spread = self.label_smoothing / classes
        target = [1 - self.label_smoothing + spread] + [spread] * (classes - 1)
        entropy = -math.fsum(t * math.log(t) for t in target if t > 0) * (1 - 1e-12)
        return torch.full((len(labels),), max(0.0, entropy), dtype=torch.float64, device=labels.device)

    def __call__(self, outputs: Outputs, labels: Labels) -> PerExample:
        if outputs.shape[1] == 1:
            if self.label_smoothing == 0.0:
                margin = signs(labels, outputs) * outputs
                return torch.logaddexp(torch.zeros_like(margin), -margin).squeeze(1)
            target = self._target(outputs, labels)
            zero = torch.zeros_like(outputs)
            return (torch.logaddexp(zero, outputs) - target * outputs).squeeze(1)
        if self.label_smoothing == 0.0:
            return torch.nn.functional.cross_entropy(outputs, labels, reduction="none")
        return torch.logsumexp(outputs, 1) - (self._target(outputs, labels) * outputs).sum(1)

    def slope(self, outputs: Outputs, labels: Labels) -> Outputs:
        probabilities = outputs.sigmoid() if outputs.shape[1] == 1 else outputs.softmax(1)
        return probabilities - self._target(outputs, labels)


@dataclass(frozen=True)
class Hinge(Loss):
    """``max(0, 1 - sign f)``; with ``C`` outputs ``max_j (1[j != y] + f_j) - f_y`` (Crammer and Singer 2001).

    >>> import torch
    >>> import holdfast as hf
    >>> hf.Hinge()(torch.tensor([[2.0], [0.5]]), torch.tensor([1, 1]))
    tensor([0.0000, 0.5000])
    """

    convex = True
    nonnegative = True

    @property
    def name(self) -> str:
        return "hinge"

    @property
    def lipschitz(self) -> float | None:
        return math.sqrt(2)

    def __call__(self, outputs: Outputs, labels: Labels) -> PerExample:
        if outputs.shape[1] == 1:
            return (1 - signs(labels, outputs) * outputs).clamp_min(0).squeeze(1)
        return self._raised(outputs, labels).amax(1)

    def slope(self, outputs: Outputs, labels: Labels) -> Outputs:
        if outputs.shape[1] == 1:
            sign = signs(labels, outputs)
            return torch.where(sign * outputs < 1, -sign, torch.zeros_like(outputs))
        return one_hot(self._raised(outputs, labels).argmax(1), outputs) - one_hot(labels, outputs)

    def _raised(self, outputs: Outputs, labels: Labels) -> Outputs:
        """``1[j != y] + f_j - f_y``: exactly 0 at the label, so that rounding makes no loss negative."""
        return outputs - outputs.gather(1, labels[:, None]) + 1 - one_hot(labels, outputs)


@dataclass(frozen=True)
class Squared(Loss):
    """``(f - sign)^2 / 2``; with ``C`` outputs half the squared distance to the one-hot label.

    Convex, not Lipschitz.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.Squared()(torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 1]))
    tensor([0., 2.])
    """

    convex = True
    nonnegative = True

    @property
    def name(self) -> str:
        return "squared"

    def _target(self, outputs: Outputs, labels: Labels) -> Outputs:
        return signs(labels, outputs) if outputs.shape[1] == 1 else one_hot(labels, outputs)

    def __call__(self, outputs: Outputs, labels: Labels) -> PerExample:
        return 0.5 * (outputs - self._target(outputs, labels)).square().sum(1)

    def slope(self, outputs: Outputs, labels: Labels) -> Outputs:
        return outputs - self._target(outputs, labels)


@takes(delta=real(above=0))
@dataclass(frozen=True)
class Huber(Squared):
    """The squared loss with its slope cut at ``delta``.

    ``delta (||r|| - delta / 2)`` beyond ``||r|| = delta``, ``r = f - target``.

    Convex, and Lipschitz with constant ``delta``.

    Attributes:
        delta: length of the residual up to which the loss is squared.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.Huber(delta=1.0)(torch.tensor([[4.0]]), torch.tensor([1]))
    tensor([2.5000])
    """

    delta: float = 1.0

    convex = True
    nonnegative = True

    @property
    def name(self) -> str:
        return "huber"

    @property
    def lipschitz(self) -> float | None:
        return self.delta

    def __call__(self, outputs: Outputs, labels: Labels) -> PerExample:
        size = (outputs - self._target(outputs, labels)).norm(dim=1)
        return torch.where(size <= self.delta, 0.5 * size**2, self.delta * (size - self.delta / 2))

    def slope(self, outputs: Outputs, labels: Labels) -> Outputs:
        residual = outputs - self._target(outputs, labels)
        beyond: Tensor = torch.linalg.vector_norm(residual, dim=1, keepdim=True) / self.delta
        return residual / beyond.clamp_min(1.0)


def broken_claim(loss: Loss, outputs: int) -> str:
    """A claim of the loss that trials at many outputs refute; empty where none does.

    Tries ``loss(f) >= loss(h) + <slope(h), f - h>`` and ``loss(f) >= floor`` in float64 at outputs of sizes
    0.1 to 100, all labels. A trial refutes, it does not prove: the claim stays its author's.

    Args:
        loss: the loss whose claims are tried.
        outputs: how many outputs its networks have.

    >>> import holdfast as hf
    >>> hf.losses.broken_claim(hf.CrossEntropy(), 3)
    ''
    """
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(max(2, outputs)).repeat_interleave(256)
    sizes = 10.0 ** torch.randint(-1, 3, (2, len(labels), 1), generator=draw).double()
    f, h = sizes * torch.randn(2, len(labels), outputs, generator=draw, dtype=torch.float64)
    h[::4] = f[::4] + 1e-2 * h[::4]  # neighbours too
    at_f, at_h, slopes = loss(f, labels), loss(h, labels), loss.slope(h, labels)
    if not all(bool(t.isfinite().all()) for t in (at_f, at_h, slopes)):
        return f"the loss {loss.name} is not finite at finite outputs"
    tangent = at_h + (slopes * (f - h)).sum(1)
    if loss.convex and bool(
        (at_f < tangent - 1e-9 * (1 + at_f.abs() + at_h.abs() + (tangent - at_h).abs())).any()
    ):
        return (
            f"the loss {loss.name} lies below its own tangent, so it is not convex or its slope is "
            "not its derivative"
        )
    if bool((at_f < loss.floor(outputs, labels) - 1e-9 * (1 + at_f.abs())).any()):
        return f"the loss {loss.name} falls below the least value that it claims"
    return ""


@takes(name=TEXT)
def loss_named(name: str) -> Loss:
    """The loss with this name; ``logistic`` is cross-entropy on one signed output.

    Args:
        name: such as ``cross-entropy``, ``hinge`` or ``dlr``.

    >>> import holdfast as hf
    >>> hf.losses.loss_named("huber")
    Huber(delta=1.0)
    """
    if name not in LOSSES:
        raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}; pick one of these.")
    loss: Loss = LOSSES[name]()
    return loss


def as_loss(value: Loss | str | None) -> Loss:
    """The loss itself, the one of that name, or cross-entropy for ``None``.

    Args:
        value: a loss, a name such as ``hinge``, or ``None``.

    Raises:
        InputError: anything else, such as a loss of torch, which has no slope to certify with.

    >>> import holdfast as hf
    >>> hf.losses.as_loss("hinge")
    Hinge()
    """
    if value is None:
        return CrossEntropy()
    converted: Loss = LOSS("loss", value)
    return converted


def _read_loss(value: Any) -> Loss:
    if isinstance(value, str) and value in LOSSES:
        value = LOSSES[value]()
    if not isinstance(value, Loss):
        raise TypeError
    return value


def _other_loss(value: Any) -> str:
    if isinstance(value, torch.nn.Module):
        return (
            "torch's own averages and has no slope to certify with; use holdfast.CrossEntropy() or "
            "another of these"
        )
    return instance_or_name(value, (Loss,), tuple(LOSSES))


LOSS = Rule(what=f"a holdfast Loss or one of {', '.join(LOSSES)}", read=_read_loss, hint=_other_loss)


def finite(outputs: Outputs) -> Tensor:
    """Whether all outputs of an example and their differences are finite numbers (bool per example).

    Args:
        outputs: logits (batch, outputs).

    >>> import torch
    >>> import holdfast as hf
    >>> hf.losses.finite(torch.tensor([[1.0, 2.0], [1.0, float("inf")]]))
    tensor([ True, False])
    """
    return (outputs.amax(1) - outputs.amin(1)).isfinite()


def predictions(outputs: Outputs) -> Labels:
    """Predicted class of each example; one output means class 1 where it is > 0.

    Args:
        outputs: logits (batch, classes), or signed outputs (batch, 1).

    >>> import torch
    >>> import holdfast as hf
    >>> hf.losses.predictions(torch.tensor([[0.2], [-0.3]]))
    tensor([1, 0])
    """
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def correct(outputs: Outputs, labels: Labels) -> Tensor:
    """Whether each example is classified correctly (bool per example).

    A tie, or outputs that are not `finite`, are not correct.

    Args:
        outputs: logits (batch, classes), or signed outputs (batch, 1).
        labels: ``0 .. classes-1``, (batch,).

    >>> import torch
    >>> import holdfast as hf
    >>> hf.losses.correct(torch.tensor([[2.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 0]))
    tensor([ True, False])
    """
    if outputs.shape[1] == 1:
        return (signs(labels, outputs) * outputs > 0).squeeze(1) & finite(outputs)
    at_label = outputs.gather(1, labels[:, None])
    return ((outputs >= at_label).sum(1) == 1) & finite(outputs)
