"""Small deep problems in float64, with remainders by automatic differentiation instead of the library's own passes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from holdfast.curvature.base import RoundCurvature
from holdfast.curvature.lower_model import Radius, largest, per_ball
from holdfast.families.dense.curvature import DeepCurvature
from holdfast.networks import Dense
from holdfast.trace import LowerModel

DOUBLE = torch.float64


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=draw)


def starts(net: Dense) -> dict[str, Tensor]:
    return {f"weights.{h}": w.detach().clone() for h, w in enumerate(net.weights)}


def problem(
    seed: int,
    depth: int,
    width: int,
    activation: str,
    *,
    output: str = "signed",
    classes: int = 2,
    input_layer: bool = False,
    radius: float = 1.0,
    centre: float = 1.0,
    count: int = 5,
) -> tuple[Dense, dict[str, Tensor], Tensor, Tensor]:
    """A network moved by ``centre * radius`` in every layer, its start, points and weighted slopes of either sign."""
    net = Dense(
        3, classes, width, depth, activation, seed=seed, output=output, input_layer=input_layer
    ).double()
    draw, initial = draws(seed), starts(net)
    points = normal(draw, count, 3)
    slopes = normal(draw, count, net.outputs) / count
    move(net, initial, centre * radius, draw)
    return net, initial, points, slopes


@torch.no_grad()
def move(net: Dense, initial: dict[str, Tensor], distance: float, draw: torch.Generator) -> None:
    for name, start in initial.items():
        step = normal(draw, *start.shape)
        net.get_parameter(name).copy_(start + step * (distance / step.norm()))


def quadratic(curvature: RoundCurvature, steps: list[Tensor]) -> Tensor:
    """``q(Delta)``, the matrices spread out over units and inputs."""
    total = torch.zeros((), dtype=DOUBLE)
    for (block,), step in zip(curvature.balls, steps, strict=True):
        if block.eigenvalue is not None:
            total = total + block.eigenvalue * step.square().sum()
        if block.rows is not None:
            of_unit = block.rows.weights.repeat_interleave(len(step) // len(block.rows.weights), 0)
            total = total + (of_unit * (step @ block.rows.rows.T).square()).sum()
        if block.matrices is not None:
            seen = step if block.basis is None else step @ block.basis
            of_unit = block.matrices.repeat_interleave(len(step) // len(block.matrices), 0)
            total = total + torch.einsum("md,mde,me->", seen, of_unit, seen)
    return total


def remainder(net: Dense, points: Tensor, slopes: Tensor) -> Callable[[list[Tensor]], Tensor]:
    """``sum_i <p_i s_i, f(W + Delta) - f(W) - Df(W) Delta>`` as a function of ``Delta``."""
    centre = [w.detach().clone().requires_grad_() for w in net.weights]

    def inner(weights: list[Tensor]) -> Tensor:
        named = {f"weights.{h}": w for h, w in enumerate(weights)}
        return (slopes * torch.func.functional_call(net, named, (points,))).sum()

    value = inner(centre)
    gradients = [
        torch.zeros_like(w) if g is None else g
        for w, g in zip(centre, torch.autograd.grad(value, centre, allow_unused=True), strict=True)
    ]

    def at(steps: list[Tensor]) -> Tensor:
        there = inner([w.detach() + d for w, d in zip(centre, steps, strict=True)])
        return there - value.detach() - sum((g * d).sum() for g, d in zip(gradients, steps, strict=True))

    return at


def into_ball(moves: list[Tensor], radius: Radius) -> None:
    with torch.no_grad():
        for u, r in zip(moves, per_ball(radius, len(moves)), strict=True):
            u.mul_(min(1.0, r / (float(u.norm()) + 1e-30)))


def climbed(
    objective: Callable[[list[Tensor]], Tensor],
    moves: list[Tensor],
    radius: Radius,
    *,
    steps: int,
    rate: float,
) -> float:
    """The largest value of ``objective(moves)`` met by Adam inside the ball."""
    moves = [u.detach().clone().requires_grad_() for u in moves]
    optimiser, best = torch.optim.Adam(moves, lr=rate), -math.inf
    for _ in range(steps):
        into_ball(moves, radius)
        value = objective(moves)
        best = max(best, float(value.detach()))
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
    return best


def worst_ratio(
    net: Dense,
    initial: dict[str, Tensor],
    points: Tensor,
    slopes: Tensor,
    radius: Radius,
    bound: Callable[[list[Tensor]], Tensor],
    *,
    seed: int,
    steps: int = 30,
) -> float:
    """The largest ``-remainder / bound`` found from far and from near, steps ending in the ball."""
    rest, draw, worst = remainder(net, points, slopes), draws(seed + 1), -math.inf
    names = list(initial)
    away = [net.get_parameter(name).detach() - initial[name] for name in names]

    def ratio(moves: list[Tensor]) -> Tensor:
        deltas = [u - d for u, d in zip(moves, away, strict=True)]
        return -rest(deltas) / (bound(deltas) + 1e-9)

    for scale, rate in ((1.0, 0.05), (0.02, 0.01)):
        moves = [normal(draw, *d.shape) for d in away]
        moves = [
            (d if scale < 1 else 0) + scale * r * u / u.norm()
            for u, d, r in zip(moves, away, per_ball(radius, len(away)), strict=True)
        ]
        worst = max(worst, climbed(ratio, moves, radius, steps=steps, rate=rate * largest(radius)))
    return worst


def bound_at(
    net: Dense,
    initial: dict[str, Tensor],
    points: Tensor,
    slopes: Tensor,
    radius: Radius,
    curvature: DeepCurvature | None = None,
    *,
    prepared: bool = False,
) -> RoundCurvature:
    """The curvature of one round at the network's weights, for the ball about its start; ``prepared`` as in training."""
    found = (curvature or DeepCurvature()).within(net, initial, radius)
    found = found.prepared(net, initial, points, lambda outputs: slopes) if prepared else found
    return found.round(net, points, slopes, reach=largest(radius))


def lower_at(lower: LowerModel, moves: list[Tensor]) -> Tensor:
    """The lower model as a differentiable function of ``W - W0``."""
    total = torch.tensor(lower.constant, dtype=DOUBLE)
    for (block,), u in zip(lower.balls, moves, strict=True):
        total = total + (u * block.linear.double()).sum() - block.eigenvalue * u.square().sum()
        if block.matrices is not None:
            seen = u if block.basis is None else u @ block.basis.double()
            of_unit = block.matrices.double().repeat_interleave(len(u) // len(block.matrices), 0)
            total = total - torch.einsum("md,mde,me->", seen, of_unit, seen)
    return total
