"""Full-batch training of a stack of small networks against attacked points that are carried along from
step to step.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from holdfast._tensors import flatten
from holdfast.lab.capacity.nets import Nets
from holdfast.threats import LpBall

COPIES = 4  # attacked points per example, each followed by ascent; one of them starts anew every RENEW steps
RENEW = 20
ASCENTS = 2  # steps of ascent for one step of the weights
STRIDE = 0.5  # of the radius, each
HARD = 20  # steps of ascent before a look
LOOKS = 50  # training steps between looks at whether some restart fits
RATE = 0.03


@dataclass(frozen=True, kw_only=True)
class Look:
    """The stack in the middle of training: least margin of each network over the points it was last attacked
    at, over its mean margin; minus infinity while the radius still grows."""

    step: int
    margins: Float[Tensor, " nets"]
    last: bool


def margins_of(
    outputs: Float[Tensor, "nets rows outputs"], y: Int[Tensor, " rows"]
) -> Float[Tensor, "nets rows rivals"]:
    """``sign f`` for one output; else the label's output less each other one, infinite for itself."""
    if outputs.shape[2] == 1:
        return outputs * (2 * y - 1)[:, None]
    own = outputs.gather(2, y.expand(len(outputs), -1)[..., None])
    mine = torch.zeros(outputs.shape[1:], dtype=torch.bool).scatter_(1, y[:, None], True)
    return (own - outputs).masked_fill(mine, torch.inf)


def logistic(margins: Float[Tensor, "nets rows rivals"]) -> Float[Tensor, "nets rows"]:
    """``log(1 + sum_k exp(-margin_k))``: cross-entropy."""
    padded = torch.nn.functional.pad(-margins, (1, 0))
    return padded.logsumexp(2)


def relaxed_margins(
    nets: Nets, x: Float[Tensor, "rows features"], y: Int[Tensor, " rows"], ball: LpBall
) -> Float[Tensor, "nets rows rivals"]:
    """Lower bounds of the margins over balls without a box, one hidden layer: each unit that changes sign
    between a line through 0 and its chord.

    As in `holdfast.lab.capacity.exact` with no branch and ``t`` the chord's slope; differentiable, rounding
    left alone. Training on it gives networks that are easy to prove, at the price of some width.
    """
    (w, a), (b, c) = nets.weights, nets.biases
    moved = w if ball.fixed is None else w * ~ball.fixed.reshape(-1)
    dual = {"2": 2.0, "1": math.inf, "inf": 1.0}[ball.norm]
    z = x @ w.mT + b
    reach = ball.radius * torch.linalg.vector_norm(moved, ord=dual, dim=2)[:, None]
    low, high = z - reach, z + reach
    crosses = (low < 0) & (high > 0)
    slope = torch.where(crosses, high / torch.where(crosses, high - low, 1.0), (low >= 0).to(z.dtype))
    if a.shape[1] == 1:
        rows = a[:, None] * (2 * y - 1)[:, None, None]
        height = c * (2 * y - 1)[:, None]
    else:
        rows = a[:, y][:, :, None] - a[:, None]
        height = c[:, 0, y][..., None] - c
    weight = rows * slope[:, :, None]
    lifted = torch.where(crosses, -slope * low, 0.0)[:, :, None] * rows.clamp(max=0.0)
    length = torch.linalg.vector_norm(weight @ moved[:, None], ord=dual, dim=3)
    margins: Tensor = (weight * z[:, :, None] + lifted).sum(3) - ball.radius * length + height
    if a.shape[1] > 1:
        margins = margins.scatter(2, y.expand(len(a), -1)[..., None], torch.inf)
    return margins


def trained(
    nets: Nets,
    x: Float[Tensor, "examples ..."],
    y: Int[Tensor, " examples"],
    threat: LpBall | None,
    *,
    steps: int,
    random: Sequence[Generator],
) -> Iterator[Look]:
    """Train ``nets`` in place, and pause now and then to be looked at; stop asking when content.

    The loss of a network is the mean over classes of the mean logistic (cross-entropy) loss of each example
    at the worst of its attacked points: a class of one example weighs as much as one of many. The radius
    grows to the threat's over the first half of the steps. From then on half of the networks are trained on
    the worst that a relaxation allows, where there is one (`relaxed_margins`).
    """
    count, n = len(nets.weights[0]), len(x)
    copies = 1 if threat is None else COPIES
    weight = (1 / torch.bincount(y).to(x.dtype))[y] / len(torch.unique(y))
    labels = y.repeat(copies)
    example = x.repeat(count * copies, *[1] * (x.ndim - 1))
    points = flatten(example).reshape(count, copies * n, -1)
    optimizer = torch.optim.Adam(nets.parameters, lr=RATE)
    relaxes = threat is not None and threat.bounds is None and len(nets.weights) == 2
    relaxed = torch.arange(count) // 4 % 2 == 0  # `drawn` has its kinds of start in turns of 4
    share = example[: len(example) // len(random)]
    ball = LpBall("2", 0.0) if threat is None else threat
    radius = ball.radius
    for step in range(steps):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        if threat is not None:
            radius = threat.radius * min(1.0, 0.5 + (step - step % LOOKS) / steps)
            ball = threat.with_radius(radius)
            if step % RENEW == 0:
                points = _fresh(points, n, share, ball, random)
            points = attacked(nets, points, labels, example, ball)
        margins = margins_of(nets(points), labels)
        worst = logistic(margins)
        worst = worst.reshape(count, copies, n).amax(1)
        if threat is not None and relaxes and radius == threat.radius:
            bound = logistic(relaxed_margins(nets, flatten(x), y, threat))
            worst = torch.where(relaxed[:, None], bound, worst)
        optimizer.zero_grad()
        (worst * weight).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (step + 1) % LOOKS and step + 1 < steps:
            continue
        full = threat is None or radius == threat.radius
        known = margins.detach().amin(2)
        if threat is not None and full:
            points = attacked(nets, _fresh(points, n, share, ball, random), labels, example, ball, HARD)
            known = torch.minimum(known, margins_of(nets(points), labels).detach().amin(2))
        least = known.amin(1) / known.mean(1).abs().clamp(min=1e-30)
        yield Look(
            step=step + 1,
            margins=least if full else torch.full_like(least, -torch.inf),
            last=step + 1 == steps,
        )


def _fresh(
    points: Float[Tensor, "nets rows features"],
    n: int,
    share: Float[Tensor, "part ..."],
    ball: LpBall,
    random: Sequence[Generator],
) -> Float[Tensor, "nets rows features"]:
    """The points with the last ``n`` of each network drawn anew."""
    drawn = torch.cat([flatten(ball.sample(share, generator=one)) for one in random])
    return torch.cat([points[:, :-n], drawn.reshape(points.shape)[:, -n:]], 1)


def attacked(
    nets: Nets,
    points: Float[Tensor, "nets rows features"],
    labels: Int[Tensor, " rows"],
    example: Float[Tensor, "all ..."],
    ball: LpBall,
    ascents: int = ASCENTS,
) -> Float[Tensor, "nets rows features"]:
    """The points after some steps of ascent on minus the margin, each projected back into its set."""
    project = ball.projector(example)
    for _ in range(ascents):
        at = points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(-margins_of(nets(at), labels).amin(2).sum(), at)
        moved = points + ball.step(gradient.reshape(example.shape), STRIDE * ball.radius).reshape(
            points.shape
        )
        points = project(moved.reshape(example.shape)).reshape(points.shape).detach()
    return points
