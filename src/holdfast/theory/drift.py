"""How the tangent kernel of a network moves while it is trained: observed on a few fixed examples, never a
bound.

With ``K_t`` the kernel matrix of the same examples after ``t`` rounds (summed over the outputs): in the
kernel limit nothing here changes; at finite width drift falls like ``1 / sqrt(width)``, and what it reaches
says how far training is from that limit.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from holdfast._arguments import EXAMPLES, LABELS, MODEL, Array, as_examples, as_labels, as_tensor
from holdfast._formats import number
from holdfast._rules import FLAG, SEED, Rule, takes, whole
from holdfast._tensors import generator
from holdfast._values import Fact, Shown
from holdfast.errors import InputError
from holdfast.theory.empirical import empirical_ntk

Kernel = Float[Tensor, "n n"]


def _read_kernel(value: Any) -> Tensor:
    kernel = as_examples("a kernel matrix", value)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise TypeError
    return kernel


KERNEL = Rule(what="a square kernel matrix of finite numbers", read=_read_kernel)


@dataclass(frozen=True, kw_only=True, repr=False)
class KernelFigures(Shown):
    """One look at the kernel; all of it observed.

    Attributes:
        drift: `kernel_drift` since the start.
        alignment, centred_alignment: `kernel_alignment` with the labels.
        eigenvalue_max, eigenvalue_min: the extreme eigenvalues; rounding can take the least just below 0.
        weight_drift: ``||W_t - W_0|| / ||W_0||`` over all trainable weights.

    >>> import torch
    >>> import holdfast as hf
    >>> net, x, y = torch.nn.Linear(2, 1), torch.eye(2), torch.tensor([0, 1])
    >>> watch = hf.theory.KernelWatch(net, x, y, classes=2, examples=2)
    >>> watch.look(net).drift
    0.0
    """

    drift: float
    alignment: float
    centred_alignment: float
    eigenvalue_max: float
    eigenvalue_min: float
    weight_drift: float

    def _facts(self) -> list[Fact]:
        return [
            Fact(field.name.replace("_", " "), number(getattr(self, field.name)), "observed")
            for field in fields(self)
        ]

    @property
    def condition(self) -> float:
        """The largest eigenvalue over the smallest; infinite for a kernel that is singular to rounding."""
        return self.eigenvalue_max / self.eigenvalue_min if self.eigenvalue_min > 0 else float("inf")


@takes(now=KERNEL, start=KERNEL)
def kernel_drift(now: Array, start: Array) -> float:
    """``||K_t - K_0||_F / ||K_0||_F``: how far a kernel has moved from its start.

    Args:
        now: ``K_t``, (n, n).
        start: ``K_0``, (n, n), of the same examples.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.theory.kernel_drift(1.5 * torch.eye(2), torch.eye(2))
    0.5
    """
    now, start = as_tensor("now", now).double(), as_tensor("start", start).double()
    if now.shape != start.shape or not bool((start != 0).any()):
        raise InputError(
            "now and start must be kernels of the same examples, the start's not 0, got shapes "
            f"{tuple(now.shape)} and {tuple(start.shape)}; evaluate both on the same examples."
        )
    return float((now - start).norm() / start.norm())


@takes(kernel=KERNEL, y=LABELS, classes=whole(least=2), centred=FLAG)
def kernel_alignment(kernel: Array, y: Array, classes: int, *, centred: bool = False) -> float:
    """``<K, T>_F / (||K||_F ||T||_F)`` with the target kernel ``T`` of the labels (Cristianini et al. 2001).

    It is 1 where K is a multiple of T.

    Two classes: ``T = s s'`` with signs ``s``; more: ``T_ij = 1`` for equal labels, else 0. ``centred`` takes
    the means off first, ``H K H`` and ``H T H`` with ``H = I - 11'/n`` (Cortes et al. 2012, arXiv 1203.0550),
    which suits data where one label dominates; 0 where one of them is then 0.

    Args:
        kernel: ``K``, (n, n).
        y: labels (n,).
        classes: number of classes.
        centred: whether means are taken off first.

    >>> import torch
    >>> import holdfast as hf
    >>> hf.theory.kernel_alignment(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.tensor([0, 1]), 2)
    1.0
    """
    kernel, y = as_tensor("kernel", kernel).double(), as_labels("y", y)
    if len(kernel) != len(y):
        raise InputError(
            f"kernel and y must be of the same examples, got {len(kernel)} rows and {len(y)} labels; "
            "pair them up."
        )
    if classes == 2:
        signs = torch.where(y > 0, 1.0, -1.0).to(kernel)
        target = signs[:, None] * signs
    else:
        target = (y[:, None] == y).to(kernel)
    if centred:
        kernel, target = (_centred(part) for part in (kernel, target))
    norms = kernel.norm() * target.norm()
    return float((kernel * target).sum() / norms) if norms > 0 else 0.0


def extreme_eigenvalues(kernel: Kernel) -> tuple[float, float]:
    """The largest and the smallest eigenvalue, in float64; NaN for a kernel that is not finite."""
    if not bool(torch.isfinite(kernel).all()):  # of weights that training has lost
        return float("nan"), float("nan")
    values = torch.linalg.eigvalsh(kernel.double())
    return float(values[-1]), float(values[0])


@takes(model=MODEL, x=EXAMPLES, y=LABELS, classes=whole(least=2), examples=whole(least=2), seed=SEED)
class KernelWatch:
    """The tangent kernel of ``model`` on a fixed sample, and the weights: what later looks compare with.

    Args:
        model: the network at the start.
        x: examples (all, ...).
        y: labels (all,).
        classes: of the labels ``y``.
        examples: how many are drawn from ``x`` (all, where there are fewer); the draw depends on ``seed``
            alone.
        seed: of the draw.

    A look costs about one backward pass per output for each of these examples, their products, and their
    eigenvalues.

    Raises:
        InputError: fewer than two examples, or too little memory (with the figure); see `empirical_ntk`.

    >>> import torch
    >>> import holdfast as hf
    >>> net, x, y = torch.nn.Linear(2, 1), torch.eye(2), torch.tensor([0, 1])
    >>> watch = hf.theory.KernelWatch(net, x, y, classes=2, examples=2)
    >>> watch.look(net).weight_drift
    0.0
    """

    def __init__(
        self,
        model: nn.Module,
        x: Float[Tensor, "all ..."],
        y: Int[Tensor, " all"],
        *,
        classes: int,
        examples: int,
        seed: int = 0,
    ) -> None:
        rows = torch.randperm(len(x), generator=generator(seed))[:examples].sort().values.to(x.device)
        self.x, self.y, self.classes = x[rows], y[rows], classes
        self.start = empirical_ntk(model, self.x)
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def look(self, model: nn.Module) -> KernelFigures:
        """The kernel and the weights of ``model`` against the start."""
        now = empirical_ntk(model, self.x)
        largest, smallest = extreme_eigenvalues(now)
        return KernelFigures(
            drift=kernel_drift(now, self.start),
            alignment=kernel_alignment(now, self.y, self.classes),
            centred_alignment=kernel_alignment(now, self.y, self.classes, centred=True),
            eigenvalue_max=largest,
            eigenvalue_min=smallest,
            weight_drift=self._moved(model),
        )

    @torch.no_grad()
    def _moved(self, model: nn.Module) -> float:
        parameters = dict(model.named_parameters())
        moved = sum(
            float((parameters[name] - start).double().square().sum()) for name, start in self.weights.items()
        )
        size = sum(float(start.double().square().sum()) for start in self.weights.values())
        return float((moved / size) ** 0.5) if size else float("inf")


def _centred(kernel: Kernel) -> Kernel:
    kernel = kernel - kernel.mean(0)
    return kernel - kernel.mean(1, keepdim=True)
