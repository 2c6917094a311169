"""Contradictions: a lower bound above the loss of a network that it is about. One of them means that
something is broken.

The bound of a pass lies below ``sum_i pi_i loss(f(W, x'_i), y_i)`` at the pass's own points for every ``W``
of the ball, whatever attack found the points. Here that is held against the networks at hand.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from holdfast._tensors import applied, batches
from holdfast.certificates.frozen import BATCH, Candidate, FrozenPass
from holdfast.curvature.lower_model import Radius, per_ball
from holdfast.training.ball import ParameterBall

STEPS = 4
"""Steps of projected descent on the loss at the pass's own points."""

Weights = Mapping[str, Tensor]


def contradiction(
    passed: FrozenPass,
    found: Candidate,
    bound: float,
    radius: Radius,
    allowance: float,
    others: Sequence[Weights] = (),
) -> str:
    """The network of the ball whose loss at the pass's points is below ``bound``, in a sentence; empty
    where none was found.

    Tried are the start, the network of the pass, the ``others``, the lower model's own minimiser, and a few
    steps of projected descent from there; each brought back into the ball. An estimate is held against the
    first ones alone.

    Args:
        bound: of this pass, rounding allowance taken off.
        allowance: what rounding can have taken from a computed loss.
    """
    for name, loss in _losses(passed, found, radius, others):
        if loss + allowance < bound:
            kind = (
                "the proof or the network is not what it is taken for"
                if passed.proved
                else "the network is not close to linear"
            )
            return (
                f"the bound {bound:.6g} lies above the loss {loss:.6g} of {name} at the same points, "
                f"so {kind}, and nothing is claimed"
            )
    return ""


def _losses(
    passed: FrozenPass, found: Candidate, radius: Radius, others: Sequence[Weights]
) -> Iterator[tuple[str, float]]:
    model, names = passed.model, [name for ball in passed.ball.names for name in ball]
    parameters = {name: model.get_parameter(name) for name in names}
    here: dict[str, Tensor] = {name: w.detach().clone() for name, w in parameters.items()}
    balls = tuple(
        ParameterBall(names=(ball,), initial=passed.initial, radius=r)
        for ball, r in zip(passed.ball.names, per_ball(radius, len(passed.ball.names)), strict=True)
    )

    def put(weights: Weights) -> None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        for ball in balls:
            ball.project(model)

    try:
        near: tuple[tuple[str, Weights], ...] = (
            ("the initial network", passed.initial),
            ("the network of the pass", here),
        )
        for name, weights in near:
            put(weights)
            yield name, _loss(passed, model)
        for weights in others:
            put({name: weights[name].to(here[name]) for name in names})
            yield "another network of the run", _loss(passed, model)
        if not passed.proved:
            return
        moves = [
            block.minimiser(minimum.multiplier)
            for ball, minimum in zip(found.lower.balls, found.lower.bound(radius).minima, strict=True)
            for block in ball
        ]
        put(
            {
                name: passed.initial[name] + move.reshape(here[name].shape)
                for name, move in zip(names, moves, strict=True)
            }
        )
        yield "the network that the bound holds to be best", _loss(passed, model)
        for step in range(STEPS):
            gradients = _gradient(passed, model, list(parameters.values()))
            size = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
            if not 0 < size < float("inf"):
                return
            length = max(per_ball(radius, len(balls))) / 2 ** (step + 1) / size
            put(
                {
                    name: w.detach() - length * g
                    for (name, w), g in zip(parameters.items(), gradients, strict=True)
                }
            )
            yield "a network of the ball", _loss(passed, model)
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(here[name])


@torch.no_grad()
def _loss(passed: FrozenPass, model: nn.Module) -> float:
    total = 0.0
    for points, y, p in _parts(passed):
        total += float((p * passed.loss(applied(model, points), y)).sum())
    return total


def _gradient(passed: FrozenPass, model: nn.Module, parameters: list[nn.Parameter]) -> list[Tensor]:
    sums = [torch.zeros_like(w) for w in parameters]
    for points, y, p in _parts(passed):
        with torch.enable_grad():
            found = torch.autograd.grad((p * passed.loss(applied(model, points), y)).sum(), parameters)
        for one, more in zip(sums, found, strict=True):
            one += more
    return sums


def _parts(passed: FrozenPass) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    points = passed.points
    wide = (part.double() for part in batches(points.points, BATCH))
    return zip(wide, batches(points.y, BATCH), batches(passed.weights, BATCH), strict=True)
