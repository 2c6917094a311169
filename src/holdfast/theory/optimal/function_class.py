"""Which functions compete: those of a kernel's space, or those of a finite network linear in its weights."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast import _tensors
from holdfast.errors import InputError
from holdfast.families.exact import exact_core
from holdfast.networks import Linearised
from holdfast.theory.analytic import NTK, ntk
from holdfast.theory.empirical import empirical_ntk
from holdfast.theory.spec import KernelSpec

Kernel = Callable[[Tensor, Tensor], Tensor]


class FunctionClass(ABC):
    """Functions ``f = f_0 + sum_j K(., x_j) c_j`` with the norm
    ``||f - f_0||^2 = sum_jk c_j' K(x_j, x_k) c_k``.

    A Gram matrix has ``n`` rows where all outputs share one scalar kernel, and ``n outputs`` rows otherwise,
    an example's outputs together; coefficients are always (points, outputs).

    Attributes:
        outputs: of every function; 1 for two classes with signed outputs.
        rows: of a Gram matrix, a point: 1 for a kernel that the outputs share.
        what: a few words for tables and pages.
    """

    outputs: int
    rows: int
    what: str

    @abstractmethod
    def gram(
        self, first: Float[Tensor, "n ..."], second: Float[Tensor, "m ..."]
    ) -> Float[Tensor, "rows columns"]:
        """``K(x_j, x_k)`` for all pairs; the exact diagonal where both are one tensor."""

    @abstractmethod
    def start(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n outputs"]:
        """``f_0``, the function of norm 0."""

    @abstractmethod
    def predictor(
        self, points: Float[Tensor, "m ..."], coefficients: Float[Tensor, "m outputs"]
    ) -> nn.Module:
        """``f`` as a module, differentiable in its input; ``.float()`` and ``.double()`` change its
        precision.
        """


class KernelClass(FunctionClass):
    """The space of a scalar kernel, one copy per output: infinitely wide networks, ``f_0 = 0``."""

    def __init__(self, kernel: Kernel, outputs: int) -> None:
        self.kernel, self.outputs, self.rows = kernel, outputs, 1
        spec = kernel.spec if isinstance(kernel, NTK) else None
        self.what = (
            "a kernel's space"
            if spec is None
            else f"infinitely wide {spec.act.name} networks, {spec.depth} hidden"
        )

    def gram(
        self, first: Float[Tensor, "n ..."], second: Float[Tensor, "m ..."]
    ) -> Float[Tensor, "rows columns"]:
        return self.kernel(first, second)

    def start(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n outputs"]:
        return x.new_zeros(len(x), self.outputs)

    def predictor(
        self, points: Float[Tensor, "m ..."], coefficients: Float[Tensor, "m outputs"]
    ) -> nn.Module:
        return KernelPredictor(self.kernel, points, coefficients)


class KernelPredictor(nn.Module):
    """``f(x) = sum_j K(x, x_j) c_j``."""

    points: Tensor
    coefficients: Tensor

    def __init__(
        self, kernel: Kernel, points: Float[Tensor, "m ..."], coefficients: Float[Tensor, "m outputs"]
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.register_buffer("points", points)
        self.register_buffer("coefficients", coefficients)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        return self.kernel(x, self.points) @ self.coefficients


class TangentClass(FunctionClass):
    """A finite network made linear in its weights at their present values:
    ``f(x) = f(x; W0) + <df/dW(x; W0), W - W0>``.

    Its norm is ``||W - W0||_F`` of the smallest step with that effect; its kernel the empirical one with all
    outputs apart.
    """

    def __init__(self, model: nn.Module, x: Float[Tensor, "n ..."]) -> None:
        self.model = deepcopy(model).double().eval()
        with torch.no_grad():
            self.outputs = self.rows = int(_tensors.applied(self.model, x[:1].double()).shape[1])
        self.what = f"this {type(model).__name__}, linear in its weights"

    def gram(
        self, first: Float[Tensor, "n ..."], second: Float[Tensor, "m ..."]
    ) -> Float[Tensor, "rows columns"]:
        full = empirical_ntk(self.model, first, second, outputs="full")
        return full.transpose(1, 2).reshape(len(first) * self.outputs, len(second) * self.outputs)

    def start(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n outputs"]:
        with torch.no_grad():
            result = _tensors.applied(self.model, x)
        return result

    def predictor(
        self, points: Float[Tensor, "m ..."], coefficients: Float[Tensor, "m outputs"]
    ) -> nn.Module:
        moved = Linearised(self.model)
        weights, step = dict(moved.model.named_parameters()), weight_step(self.model, points, coefficients)
        with torch.no_grad():
            for name, change in step.items():
                weights[name].add_(change)
        return moved


def weight_step(
    model: nn.Module,
    points: Float[Tensor, "m ..."],
    coefficients: Float[Tensor, "m outputs"],
    *,
    block: int = 512,
) -> dict[str, Tensor]:
    """``sum_j c_j df(x_j)/dW`` for every trained weight, by name: the step that kernel coefficients stand
    for.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in trained.items()}
    for at in range(0, len(points), block):
        outputs = _tensors.applied(model, points[at : at + block])
        found = torch.autograd.grad(
            outputs, list(trained.values()), coefficients[at : at + block], allow_unused=True
        )
        for name, part in zip(trained, found, strict=True):
            if part is not None:
                total[name] += part
    return total


def limit_of(model: nn.Module) -> NTK | nn.Module:
    """The kernel that networks like this one tend to as they widen, where it is known analytically; else
    the module, for its own tangent class.
    """
    core = exact_core(model)
    return model if core is None or core.family.kernel(core.network) is None else ntk(model)


def function_class(kernel: Any, x: Float[Tensor, "n ..."], classes: int) -> FunctionClass:
    """The class that ``kernel`` means: a class as it is, a spec or a kernel function the space, a module its
    tangent class.

    Raises:
        InputError: none of these.
    """
    if isinstance(kernel, FunctionClass):
        return kernel
    if isinstance(kernel, nn.Module):
        return TangentClass(kernel, x)
    outputs = 1 if classes == 2 else classes
    if isinstance(kernel, KernelSpec):
        return KernelClass(ntk(kernel), outputs)
    if callable(kernel):
        return KernelClass(kernel, outputs)
    raise InputError(
        "kernel must be a KernelSpec, a function (x1, x2) -> matrix such as ntk(spec), or an nn.Module for "
        f"its own tangent kernel, got {type(kernel).__name__}; see holdfast.theory."
    )
