"""A step size from the theory, where none is given: the inverse of the curvature that gradient descent meets.

The mean loss of ``n`` examples has, where the network is near its linearisation, a Hessian of at most
``s lambda`` in the weights: ``s`` bounds the second derivative of the loss in the outputs, and ``lambda`` is
the largest eigenvalue of ``J^T J / n``, which is that of the tangent kernel over ``n``. Gradient descent
converges for steps below ``2 / (s lambda)``, with momentum 0.9 below ``3.8 / (s lambda)``; the step taken is
``1 / (s lambda)``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._tensors import applied, generator
from holdfast.attacks.modes import in_mode
from holdfast.families.registry import near_linear
from holdfast.losses import CrossEntropy, Loss

EXAMPLES = 256
ITERATIONS = 20
ADAM = 1e-3
"""Adam's own default, and the usual one."""
USUAL = 0.1
"""Of sgd, where the curvature cannot be measured."""
CAUTION = 0.1
"""Share of the theory's step for networks that are not close to linear in their weights, whose curvature
grows as they move.
"""


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """A learning rate and where it comes from, in words."""

    learning_rate: float
    reason: str


def chosen_step(
    model: nn.Module,
    x: Float[Tensor, "examples ..."],
    loss: Loss,
    optimizer: str,
    *,
    seed: int = 0,
) -> StepSize:
    """The learning rate for an optimiser by name. It depends on the model's weights, the examples and the
    seed alone; nothing is changed. Where the curvature cannot be measured the usual rate is taken, and the
    reason says so.
    """
    if optimizer != "sgd":
        return StepSize(learning_rate=ADAM, reason=f"the usual one of {optimizer}")
    smooth = smoothness(loss, model, x)
    try:
        top = largest_eigenvalue(model, x, seed=seed)
    except (RuntimeError, NotImplementedError) as error:
        why = " ".join(str(error).split())[:80]
        return StepSize(
            learning_rate=USUAL, reason=f"the usual one of sgd: no curvature could be measured ({why})"
        )
    if not (math.isfinite(top) and top > 0):
        return StepSize(learning_rate=USUAL, reason="the usual one of sgd: the weights have no curvature")
    near = near_linear(model)
    share = 1.0 if near else CAUTION
    rate = float(f"{share / (smooth * top):.3g}")
    words = (
        f"1 / (s lambda) with the loss's smoothness s = {smooth:g} and the tangent kernel's largest "
        f"eigenvalue over n, lambda = {top:.4g}"
    )
    return StepSize(
        learning_rate=rate,
        reason=words if near else f"{CAUTION:g} x {words}, as the curvature grows while the weights move",
    )


def smoothness(loss: Loss, model: nn.Module, x: Float[Tensor, "examples ..."]) -> float:
    """A bound on the second derivative of the loss in the outputs: 1/4 for the logistic loss, 1/2 for
    softmax, else 1, that of the squared loss.
    """
    if not isinstance(loss, CrossEntropy):
        return 1.0
    with in_mode(model, "eval"), torch.no_grad():
        return 0.25 if applied(model, x[:1]).shape[1] == 1 else 0.5


def largest_eigenvalue(
    model: nn.Module,
    x: Float[Tensor, "examples ..."],
    *,
    seed: int = 0,
    examples: int = EXAMPLES,
    iterations: int = ITERATIONS,
) -> float:
    """Of ``J^T J / n`` by power iteration, ``J`` the derivative of all outputs in the trained weights: an
    estimate from below.

    Args:
        examples: drawn from ``x`` at most.

    Two gradients through the network an iteration; derivatives along weights are gradients of gradients, so
    that any module will do that torch differentiates twice.
    """
    noise = generator(seed)
    rows = torch.randperm(len(x), generator=noise)[:examples].sort().values.to(x.device)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with in_mode(model, "eval"), torch.enable_grad():
        outputs = applied(model, x[rows])
        ends = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(_inner([outputs], [ends]), weights, create_graph=True, allow_unused=True)
        used = [(weight, pull) for weight, pull in zip(weights, pulled, strict=True) if pull is not None]
        direction = [torch.randn(weight.shape, generator=noise).to(weight) for weight, _ in used]
        top = 0.0
        for _ in range(iterations):
            length = torch.stack([part.norm() for part in direction]).norm()
            if not length > 0:
                return 0.0
            direction = [part / length for part in direction]
            along = _inner([pull for _, pull in used], direction)
            (moved,) = torch.autograd.grad(along, ends, retain_graph=True)
            reached = [weight for weight, _ in used]
            direction = list(torch.autograd.grad(_inner([outputs], [moved]), reached, retain_graph=True))
            top = float(torch.stack([part.norm() for part in direction]).norm()) / len(rows)
    return top


def _inner(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """The inner product, whose gradient is that of ``tensors`` along ``others``: given these as an
    argument, torch would import sympy.
    """
    return torch.stack([(one * other).sum() for one, other in zip(tensors, others, strict=True)]).sum()
