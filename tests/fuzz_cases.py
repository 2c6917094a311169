"""Random small problems, and the least robust loss that strong optimisation finds: what every lower bound is held against."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import holdfast as hf
from holdfast.families import curvature_for
from holdfast.losses import CrossEntropy, Hinge, Huber, Loss, Squared
from holdfast.networks import Dense, TwoLayer

LOSSES: tuple[Loss, ...] = (
    CrossEntropy(),
    CrossEntropy(label_smoothing=0.1),
    Hinge(),
    Squared(),
    Huber(delta=0.5),
)
TWO_LAYER = (
    "softplus",
    "relu",
    "leaky-relu",
    "relu2",
    "elu",
    "sigmoid",
    "tanh",
    "erf",
    "gelu",
    "silu",
    "identity",
)
DEEP = ("softplus", "csp1", "tanh", "gelu", "sigmoid", "silu", "identity")


class Choices:
    """Draws that a seed fixes."""

    def __init__(self, seed: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)

    def of(self, options):
        return options[int(torch.randint(len(options), (1,), generator=self.draw))]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.draw, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem; ``what`` names it in a failure."""

    x: Tensor
    y: Tensor
    classes: int
    threat: hf.LpBall
    loss: Loss
    net: nn.Module
    radius: float
    what: str


def problem(seed: int, dtype: torch.dtype = torch.float64) -> Problem:
    pick = Choices(seed)
    features, classes, count = pick.of((1, 2, 2)), pick.of((2, 2, 3)), pick.of((6, 8, 10))
    scale = pick.of((1.0, 1.0, 0.1, 5.0))
    y = torch.arange(count) % classes
    x = (0.5 + scale * 0.3 * (pick.normal(classes, features)[y] + 0.5 * pick.normal(count, features))).to(
        dtype
    )
    bounds = None
    if pick.of((True, False)):
        x, bounds = x.clamp(0, 1), (0.0, 1.0)
    fixed = torch.tensor([True, False]) if features == 2 and pick.of((True, False, False)) else None
    threat = hf.LpBall(
        pick.of(("inf", "2", "1")), scale * pick.of((0.02, 0.1, 0.3)), bounds=bounds, fixed=fixed
    )
    loss = pick.of(LOSSES)
    shape = pick.of(("signed", "dense", "paired", "train_output", "deep", "deep"))
    width = 6 * pick.of((2, 4))
    if shape == "deep":
        act, depth = pick.of(DEEP), pick.of((1, 2, 3))
        net: nn.Module = Dense(
            features,
            classes,
            width,
            depth,
            act,
            seed=seed,
            output=pick.of(("signed", "gaussian")),
            input_layer=pick.of((True, False)),
            zero_start=pick.of((True, False)),
        )
        shape = f"deep {depth}"
    else:
        smooth = [name for name in TWO_LAYER if name not in ("relu", "leaky-relu", "relu2")]
        act = pick.of(smooth if shape == "train_output" else TWO_LAYER)
        net = TwoLayer(
            features,
            classes,
            width,
            act,
            outputs="dense" if shape == "dense" else "signed",
            paired=shape == "paired",
            train_output=shape == "train_output",
            constant=pick.of((None, 1.0)),
            seed=seed,
        )
    radius = pick.of((0.1, 0.5, 1.5, 4.0))
    what = f"seed {seed}: {shape} {act} width {width}, {loss.name}, {threat.spec}, radius {radius}, {count} x {features}, {classes} classes"
    return Problem(
        x=x, y=y, classes=classes, threat=threat, loss=loss, net=net.to(dtype), radius=radius, what=what
    )


def spread(threat: hf.LpBall, x: Tensor, side: int = 17) -> Tensor:
    """(examples, points, features): a grid of each threat set with all of its corners, in float64."""
    x = x.double()
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * x.shape[1]).reshape(-1, x.shape[1])
    tips = torch.cat([torch.eye(x.shape[1]), -torch.eye(x.shape[1])]).double()
    moves = threat.radius * torch.cat([torch.zeros(1, x.shape[1]).double(), tips, grid])
    points = (x[:, None] + moves[None]).flatten(0, 1)
    inside = threat.project_inside(points, x.repeat_interleave(len(moves), 0))
    return inside.reshape(len(x), len(moves), -1)


def robust_loss(net: nn.Module, loss: Loss, points: Tensor, y: Tensor) -> Tensor:
    """The mean over examples of the largest loss among their points; differentiable. Never above the robust loss."""
    count = points.shape[1]
    each = loss(net(points.flatten(0, 1)), y.repeat_interleave(count)).reshape(len(y), count)
    return each.amax(1).mean()


def descended(
    net: nn.Module,
    initial: nn.Module,
    balls: Sequence[Sequence[str]],
    radius: float,
    loss: Loss,
    points: Tensor,
    y: Tensor,
    *,
    steps: int,
    seed: int,
) -> Iterator[tuple[float, float]]:
    """Pairs (largest distance of any ball from the start, robust loss on the points) on the way down, from several starts in the ball."""
    model, start = copy.deepcopy(net).double(), dict(copy.deepcopy(initial).double().named_parameters())
    parameters = dict(model.named_parameters())
    draw = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def into_ball(limit: float) -> float:
        largest = 0.0
        for names in balls:
            size = math.sqrt(sum(float((parameters[n] - start[n]).square().sum()) for n in names))
            if size > limit:
                for n in names:
                    parameters[n].copy_(start[n] + (parameters[n] - start[n]) * (limit / size * (1 - 1e-12)))
            largest = max(largest, min(size, limit))
        return largest

    trained = [parameters[n] for names in balls for n in names]
    for kind in ("as trained", "start", "random"):
        with torch.no_grad():
            for names in balls:
                for n in names:
                    if kind == "start":
                        parameters[n].copy_(start[n])
                    elif kind == "random":
                        step = torch.randn(start[n].shape, generator=draw, dtype=torch.float64)
                        parameters[n].copy_(start[n] + step * (radius / float(step.norm())))
        optimiser = torch.optim.Adam(trained, lr=radius / math.sqrt(len(trained[0].flatten())) / 3)
        for step_ in range(steps):
            for group in optimiser.param_groups:
                group["lr"] *= 0.94 if step_ > steps // 2 else 1.0
            distance = into_ball(radius)
            optimiser.zero_grad()
            value = robust_loss(model, loss, points, y)
            yield distance, float(value.detach())
            value.backward()
            optimiser.step()


def balls_of(net: nn.Module) -> tuple[tuple[str, ...], ...]:
    return curvature_for(net)[0].parameters(net)
