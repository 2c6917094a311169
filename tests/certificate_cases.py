"""Small two-layer problems in float64 for the tests of traces and certificates, with networks written out a second time."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from holdfast.families.two_layer.curvature import TwoLayerCurvature
from holdfast.losses import CrossEntropy, Hinge, Huber, Loss, Squared
from holdfast.networks import TwoLayer
from holdfast.threats import LpBall, Threat
from holdfast.trace import LowerModel, TraceRecorder, Window

DOUBLE = torch.float64
LOSSES: dict[str, Loss] = {
    "cross-entropy": CrossEntropy(),
    "smoothed": CrossEntropy(label_smoothing=0.2),
    "hinge": Hinge(),
    "squared": Squared(),
    "huber": Huber(delta=0.5),
}
SHAPES = {"binary": (2, "signed"), "signed": (3, "signed"), "dense": (3, "dense")}
SMOOTH = ("softplus", "relu2", "elu", "sigmoid", "tanh", "erf", "gelu", "silu", "identity")
KINKED = ("relu", "leaky-relu")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=draw)


def network(
    activation: str,
    shape: str = "binary",
    *,
    width: int = 12,
    features: int = 3,
    seed: int = 0,
    train_output: bool = False,
    paired: bool = True,
    constant: float | None = 0.5,
) -> TwoLayer:
    classes, outputs = SHAPES[shape]
    return TwoLayer(
        features,
        classes,
        width,
        activation,
        outputs=outputs,
        paired=paired,
        train_output=train_output,
        constant=constant,
        seed=seed,
    ).double()


def examples(shape: str, *, count: int = 7, features: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = draws(seed + 100)
    y = torch.arange(count) % SHAPES[shape][0]
    centres = normal(draw, SHAPES[shape][0], features)
    return centres[y] + 0.5 * normal(draw, count, features), y


@torch.no_grad()
def move(net: TwoLayer, initial: dict[str, Tensor], distance: float, draw: torch.Generator) -> None:
    """Put the network at a random point of that distance from its start."""
    steps = {name: normal(draw, *start.shape) for name, start in initial.items()}
    size = math.sqrt(sum(float(step.square().sum()) for step in steps.values()))
    for name, step in steps.items():
        net.get_parameter(name).copy_(initial[name] + step * (distance / size))


def record_round(recorder: TraceRecorder, rows: Tensor, points: Tensor) -> Tensor:
    """One honest round: gradients of the (weighted) mean loss, then its record. Returns the batch loss."""
    net, y, n = recorder.model, recorder.y[rows], len(recorder.y)
    share = torch.full((len(rows),), 1 / len(rows), dtype=points.dtype)
    if recorder.example_weights is not None:
        share = recorder.example_weights[rows] * (n / len(rows))
    net.zero_grad(set_to_none=True)
    outputs = net(points)
    value = (share * recorder.loss(outputs, y)).sum()
    value.backward()
    recorder.record(rows, points, outputs.detach(), round_size=len(rows))
    return value.detach()


def one_round(
    net: TwoLayer,
    x: Tensor,
    y: Tensor,
    points: Tensor,
    loss: Loss,
    *,
    threat: Threat | None = None,
    distance: float = 0.0,
    radius: float = 2.0,
    seed: int = 0,
    curvature: TwoLayerCurvature | None = None,
) -> tuple[Window, dict[str, Tensor]]:
    """A window of one full round at a random point of that distance from the start, and the initial weights."""
    recorder = TraceRecorder(
        net,
        x,
        y,
        threat or LpBall("2", 10.0),
        loss,
        curvature=curvature or TwoLayerCurvature(),
        radius=radius,
    )
    move(net, recorder.initial, distance, draws(seed + 7))
    recorder.open()
    record_round(recorder, torch.arange(len(y)), points)
    window = recorder.close()
    assert not window.void, window.void
    return window, recorder.initial


class Copies:
    """Many networks at once, by their own arithmetic: ``f_c = m^(-1/2) sum_r a_rc act(w_r . z)``."""

    def __init__(
        self,
        net: TwoLayer,
        initial: dict[str, Tensor],
        points: Tensor,
        y: Tensor,
        loss: Loss,
        weights: Tensor | None = None,
    ) -> None:
        self.net, self.loss, self.y = net, loss, y
        self.names = list(initial)
        self.start = [initial[name] for name in self.names]
        x = points.reshape(len(points), -1)
        if net.center is not None:
            x = x - net.center
        z = x * net.scale
        if net.constant is not None:
            z = torch.cat([z, torch.full((len(z), 1), net.constant, dtype=z.dtype)], 1)
        self.z = z
        self.weights = torch.full((len(y),), 1 / len(y), dtype=DOUBLE) if weights is None else weights

    def outputs(self, moves: list[Tensor]) -> Tensor:
        """(copies, examples, outputs) at ``W0 + moves``."""
        hidden = self.net.activation.value(torch.einsum("nd,smd->snm", self.z, self.start[0] + moves[0]))
        a = self.net.output_weight.detach() if len(moves) == 1 else self.start[1] + moves[1]
        return hidden @ a / math.sqrt(self.net.width)

    def loss_at(self, moves: list[Tensor]) -> Tensor:
        """``phi(W)`` of every copy."""
        f = self.outputs(moves)
        each = self.loss(f.reshape(-1, f.shape[2]), self.y.repeat(len(f))).reshape(len(f), -1)
        return each @ self.weights


def lower_at(lower: LowerModel, moves: list[Tensor]) -> Tensor:
    """The lower model of many moves, unit by unit."""
    (ball,) = lower.balls
    total = torch.full((len(moves[0]),), lower.constant, dtype=DOUBLE)
    for block, u in zip(ball, moves, strict=True):
        total = total + (u * block.linear.double()).sum((1, 2)) - block.eigenvalue * u.square().sum((1, 2))
        if block.matrices is not None:
            of_unit = block.matrices.double().repeat_interleave(u.shape[1] // len(block.matrices), 0)
            total = total - torch.einsum("smd,mde,sme->s", u, of_unit, u)
    return total


def random_moves(
    start: list[Tensor], count: int, draw: torch.Generator, *, low: float = 1e-2, high: float = 1e2
) -> list[Tensor]:
    """Moves of log-uniform length; every third moves few units far, every third the whole matrix along one direction."""
    moves = [normal(draw, count, *s.shape) for s in start]
    first = moves[0]
    few = torch.rand(first.shape[:2], generator=draw, dtype=DOUBLE) < 0.2
    first[0::3] = first[0::3] * few[0::3, :, None]
    first[1::3] = normal(draw, len(first[1::3]), 1, first.shape[2]) * first[1::3, :, :1].sign()
    size = torch.stack([m.square().sum((1, 2)) for m in moves]).sum(0).sqrt().clamp_min(1e-12)
    length = low * (high / low) ** torch.rand(count, generator=draw, dtype=DOUBLE)
    return [m * (length / size)[:, None, None] for m in moves]


def descended_moves(
    copies: Copies, lower: LowerModel, count: int, draw: torch.Generator, *, steps: int = 40
) -> Iterator[list[Tensor]]:
    """Moves chosen to break ``phi(W) >= lower(W)``: Adam on the difference, a rate for every copy."""
    moves = [m.requires_grad_() for m in random_moves(copies.start, count, draw, low=0.1, high=20.0)]
    rates = 0.003 * 100 ** torch.rand(count, generator=draw, dtype=DOUBLE)
    mean, square = [torch.zeros_like(m) for m in moves], [torch.zeros_like(m) for m in moves]
    for t in range(1, steps + 1):
        difference = copies.loss_at(moves) - lower_at(lower, moves)
        gradients = torch.autograd.grad(difference.sum(), moves)
        with torch.no_grad():
            for m, g, a, b in zip(moves, gradients, mean, square, strict=True):
                a.mul_(0.9).add_(0.1 * g)
                b.mul_(0.99).add_(0.01 * g.square())
                step = (a / (1 - 0.9**t)) / ((b / (1 - 0.99**t)).sqrt() + 1e-12)
                m.sub_(step * rates[:, None, None])
        if t % 10 == 0:
            yield [m.detach().clone() for m in moves]


@torch.no_grad()
def worst_slack(copies: Copies, lower: LowerModel, moves: list[Tensor]) -> float:
    """Smallest ``phi(W) - lower(W)``, relative to the numbers it is the difference of."""
    phi, below = copies.loss_at(moves), lower_at(lower, moves)
    return float(((phi - below) / (1 + phi.abs() + below.abs())).min())


def hunted_slack(
    copies: Copies, lower: LowerModel, seed: int, *, random: int = 60, climbing: int = 8, steps: int = 20
) -> float:
    """Smallest relative slack over random and over chosen moves."""
    draw = draws(seed)
    worst = worst_slack(copies, lower, random_moves(copies.start, random, draw))
    for moves in descended_moves(copies, lower, climbing, draw, steps=steps):
        worst = min(worst, worst_slack(copies, lower, moves))
    return worst
