"""Random search with square windows: an attack that needs outputs alone, no gradient."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor, nn

from holdfast._rules import COUNT, Rule, maybe, real, several, takes
from holdfast.acceleration import incremental
from holdfast.acceleration import outputs as outputs_of
from holdfast.attacks._ball import checked_ball, not_a_ball
from holdfast.attacks._search import broken
from holdfast.attacks._windows import Draw, Grid, Images, Moves, Patterns, draws, moves
from holdfast.attacks.base import Attack, Goal
from holdfast.errors import InputError
from holdfast.losses import Labels, Outputs, PerExample, signs
from holdfast.threats.base import Points, Threat

_LEAVE = 1 / 16  # share of broken rows from which taking them out pays for the copy
_LOOK = 25  # queries between counts of the broken, where counting waits for an accelerator


def _read_image(value: Any) -> tuple[int, int, int]:
    channels, height, width = several(COUNT).read(value)
    return channels, height, width


IMAGE = Rule(what="(channels, height, width), each a whole number >= 1", read=_read_image)


@takes(queries=COUNT, share=real(above=0, most=1), restarts=COUNT, image=maybe(IMAGE))
@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random search by windows: a change is kept where it raises the loss (Andriushchenko et al. 2020, arXiv 1912.00049).

    l-inf: a window of each channel goes to one end of its range, from vertical stripes at the start. l2 and
    l1: a window takes a peaked pattern with the norm of what it and a second window held, the second is
    cleared, and norm that the box left unspent is spent (l1: Croce and Hein 2021, arXiv 2103.01208). The
    search follows the margin of the best wrong class; with a target class given to `run`, the loss at the
    target.

    Windows are squares of an image (batch, channels, height, width) or (batch, height, width). A flat example
    (batch, features) is read as a square grey image, row by row, where the number of features is a square
    number, and as a line with windows of consecutive features where it is not; ``image`` says otherwise.

    Attributes:
        queries: forward passes per restart.
        share: of the features in the first windows; halved in area on the way, at shares of the queries fixed
            by the paper.
        restarts: searches per example; one that is broken is left out of the next.
        image: (channels, height, width) of a flat example; (1, 1, features) makes it a line.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> hf.Square(queries=20).run(torch.nn.Identity(), x, y, hf.LpBall("inf", 0.25)).success
    tensor([True])
    """

    queries: int = 5000
    share: float = 0.8
    restarts: int = 1
    image: tuple[int, int, int] | None = None

    @property
    def name(self) -> str:
        return f"square-{self.queries}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    @property
    def passes(self) -> int:
        return max(1, self.queries * self.restarts // 2)  # forward only

    def refuses(self, threat: Threat) -> str:
        return not_a_ball(threat)

    def search(
        self, model: nn.Module, x: Points, y: Labels, threat: Threat, *, goal: Goal, generator: Generator
    ) -> Points:
        ball = checked_ball(threat, "Square", "RandomAttack")
        grid, shape = self._grid(x), x.shape[1:]
        found = x.clone()
        with torch.no_grad():
            left = ~goal.reached(outputs_of(model, x), y)
            for _ in range(self.restarts):
                rows = left.nonzero().squeeze(1)
                if len(rows) == 0:
                    break
                # Started for all, so that what one example meets does not depend on which others are left.
                windows = moves(x.reshape(-1, *grid), ball, shape)
                start = windows.start(generator)
                plan = draws(self.queries, self.share, ball.norm, grid, generator)
                windows.take(rows)
                for index, points, reached in _climb(
                    model, start[rows], rows, y[rows], windows, plan, goal, shape
                ):
                    found[index] = points
                    left[index] = ~reached
        return found

    def _grid(self, x: Points) -> Grid:
        """Channels, height and width of one example."""
        shape = tuple(x.shape[1:])
        features = math.prod(shape)
        if self.image is not None:
            if math.prod(self.image) != features:
                raise InputError(
                    f"image must have as many features as an example, {features}, got {self.image}; give "
                    "(channels, height, width) of the data."
                )
            return self.image
        if len(shape) == 3:
            return shape
        if len(shape) == 2:
            return (1, *shape)
        side = math.isqrt(features)
        return (1, side, side) if side * side == features else (1, 1, features)


def _climb(
    model: nn.Module,
    now: Images,
    index: Int[Tensor, " batch"],
    y: Labels,
    windows: Moves,
    plan: Iterable[Draw],
    goal: Goal,
    shape: torch.Size,
) -> Iterator[tuple[Int[Tensor, " rows"], Points, Bool[Tensor, " rows"]]]:
    """One restart. Yields rows (by ``index``), their points and whether these are broken: the broken in
    groups, at last the others.
    """
    every = 1 if now.device.type == "cpu" else _LOOK
    outputs = outputs_of(model, now.reshape(-1, *shape))
    known = incremental(model, now, shape) if windows.single else None
    best, reached = _value(outputs, y, goal), goal.reached(outputs, y)
    for query, draw in enumerate(plan):
        if query % every == 0:
            count = int(reached.sum())
            if count == len(now):
                break
            if count > _LEAVE * len(now):
                gone, kept = reached.nonzero().squeeze(1), (~reached).nonzero().squeeze(1)
                yield index[gone], now[gone].reshape(-1, *shape), reached[gone]
                now, index, y, best, reached = (rows[kept] for rows in (now, index, y, best, reached))
                windows.take(kept)
                if known is not None:
                    known.take(kept, now)
        before = windows.change(now, draw)
        outputs = outputs_of(model, now.reshape(-1, *shape)) if known is None else known.propose(draw.area)
        value, breaks = _value(outputs, y, goal), goal.reached(outputs, y)
        if isinstance(windows, Patterns) and windows.threat.coarse is not None:
            points, x = (values.reshape(-1, *shape) for values in (now, windows.x))
            breaks = broken(model, points, outputs, x, y, windows.threat, goal)
        better = torch.where(breaks == reached, value > best, breaks)
        for window, old in before:
            now[window] = torch.where(better[:, None, None, None], now[window], old)
        windows.keep(better)
        if known is not None:
            known.keep(better)
        best, reached = torch.where(better, value, best), reached | (better & breaks)
    yield index, now.reshape(-1, *shape), reached


def _value(outputs: Outputs, y: Labels, goal: Goal) -> PerExample:
    """What the search raises; lowest where it is not a number."""
    if goal.targeted:
        value = goal.value(outputs, y)
    elif outputs.shape[1] == 1:
        value = -(signs(y, outputs) * outputs).squeeze(1)
    else:
        at_label = outputs.gather(1, y[:, None]).squeeze(1)
        value = outputs.scatter(1, y[:, None], -torch.inf).amax(1) - at_label
    return value.nan_to_num(nan=-torch.inf, posinf=torch.inf)
