"""Windows of random search, written into the points in place: where they lie, how large they are, and what
goes into them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from holdfast.attacks._ball import box_around, safe_radius
from holdfast.threats.lp import LpBall

Images = Float[Tensor, "batch channels height width"]
Content = Float[Tensor, "batch channels tall wide"]
Grid = tuple[int, int, int]
Window = tuple[slice, slice, slice, slice]

# Shares of the queries after which the windows have lost another half of their area (the paper's schedule for
# 10,000).
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_TILES = 5  # windows along each side of the first pattern in l2 and l1
_SPARE = 1 - 2.0**-20  # of the radius is spent, so that a change's own rounding stays within it
_DECAY = {2: 2, 1: 4}  # how fast a pattern falls off its peak


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One query's chances, the same for every row: two windows of one size, a sign for each channel, which
    way a pattern lies.
    """

    first: Window
    second: Window
    signs: tuple[float, ...]
    turned: bool

    @property
    def area(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of the first window, from the first to the one after the last."""
        rows, columns = self.first[2:]
        return (rows.start, rows.stop), (columns.start, columns.stop)


def draws(queries: int, share: float, norm: str, grid: Grid, generator: Generator) -> Iterator[Draw]:
    """The chances of all queries; drawn on the CPU, as slices are needed there."""
    channels, height, width = grid
    # One wait for the generator's device instead of one a query.
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    chance = torch.rand(queries, 5 + channels, generator=torch.Generator().manual_seed(seed)).tolist()
    for query, numbers in enumerate(chance):
        halvings = sum(query / queries > at for at in HALVINGS)
        tall, wide = _size(share / 2**halvings, norm, height, width)
        first, second = (
            _window(int(down * (height - tall + 1)), int(along * (width - wide + 1)), tall, wide)
            for down, along in (numbers[:2], numbers[2:4])
        )
        yield Draw(
            first=first,
            second=second,
            signs=tuple(1.0 if number < 0.5 else -1.0 for number in numbers[5:]),
            turned=numbers[4] < 0.5,
        )


def _window(top: int, left: int, tall: int, wide: int) -> Window:
    return slice(None), slice(None), slice(top, top + tall), slice(left, left + wide)


def _size(share: float, norm: str, height: int, width: int) -> tuple[int, int]:
    """Height and width of a window with this share of the features: a square, or where the image is too
    narrow a longer strip.
    """
    side, least = max(1, round(math.sqrt(share * height * width))), 1
    if norm != "inf":  # a pattern needs a middle and two sides
        side, least = max(3, side) | 1, 3
    tall, wide = min(side, height), min(side, width)
    if side > height:
        wide = min(width, max(least, round(share * width)))
    elif side > width:
        tall = min(height, max(least, round(share * height)))
    return tall, wide


class Moves(ABC):
    """What one norm writes into windows. Rows are those still searched; state follows them through `take`.

    Attributes:
        single: whether a change is one of the first window alone.
    """

    single = False

    @abstractmethod
    def start(self, generator: Generator) -> Images:
        """The first points, for every row."""

    @abstractmethod
    def change(self, now: Images, draw: Draw) -> list[tuple[Window, Content]]:
        """Write a change into ``now``; what was there before, window by window."""

    @abstractmethod
    def keep(self, better: Bool[Tensor, " batch"]) -> None:
        """Learn for which rows the change stays."""

    @abstractmethod
    def take(self, rows: Int[Tensor, " rows"]) -> None:
        """Go on with these rows alone."""


def moves(x: Images, threat: LpBall, shape: torch.Size) -> Moves:
    """The moves in the threat's norm; ``shape`` is that of one example as the threat knows it."""
    return WindowEnds(x, threat, shape) if threat.norm == "inf" else Patterns(x, threat, shape)


class WindowEnds(Moves):
    """l-inf: every feature at one end of its range; a window of each channel goes to the same end."""

    single = True

    def __init__(self, x: Images, threat: LpBall, shape: torch.Size) -> None:
        points = x.reshape(-1, *shape)
        up = torch.ones_like(points)
        self.ends = [
            threat.project_inside(threat.maximise(sign * up, points), points).reshape(x.shape)
            for sign in (-1.0, 1.0)
        ]

    def start(self, generator: Generator) -> Images:
        low, high = self.ends
        stripes = low[:, :, :1]
        upwards = torch.rand(stripes.shape, generator=generator, device=generator.device) < 0.5
        return torch.where(upwards.to(low.device), high, low)

    def change(self, now: Images, draw: Draw) -> list[tuple[Window, Content]]:
        before = now[draw.first].clone()
        for channel, sign in enumerate(draw.signs):
            part = (draw.first[0], slice(channel, channel + 1), *draw.first[2:])
            now[part] = self.ends[sign > 0][part]
        return [(draw.first, before)]

    def keep(self, better: Bool[Tensor, " batch"]) -> None:
        return

    def take(self, rows: Int[Tensor, " rows"]) -> None:
        self.ends = [end[rows] for end in self.ends]


class Patterns(Moves):
    """l2 and l1: the norm held by two windows, and what the box left unspent, goes into a peaked pattern in
    the first.

    With ``p`` the power of the norm, ``spent`` is ``sum |x' - x|^p``, counted in float64 from the points as
    they stand, so that no rounding adds up over the queries.
    """

    def __init__(self, x: Images, threat: LpBall, shape: torch.Size) -> None:
        points = x.reshape(-1, *shape)
        self.threat, self.shape, self.x = threat, shape, x
        self.power = int(threat.norm)
        self.low, self.high = (
            None if edge is None else edge.reshape(x.shape) for edge in box_around(points, threat)
        )
        free = threat._limits_for(points).free
        self.free = None if free is None else free.reshape(1, *x.shape[1:]).to(x.dtype)
        self.budget = (_SPARE * safe_radius(points, threat)) ** self.power
        self.spent = torch.zeros_like(self.budget)
        self.proposed = self.spent
        self.patterns: dict[tuple[int, int, bool], Float[Tensor, "height width"]] = {}

    def start(self, generator: Generator) -> Images:
        _, channels, height, width = self.x.shape
        tall, wide = max(1, height // _TILES), max(1, width // _TILES)
        rows, columns = height // tall, width // wide
        chance = torch.rand(
            (len(self.x), channels, rows, columns), generator=generator, device=generator.device
        )
        turned = torch.rand(1, generator=generator, device=generator.device).item() < 0.5
        signs = torch.where(chance.to(self.x.device) < 0.5, -1.0, 1.0).to(self.x.dtype)
        tiles = torch.kron(signs, self._pattern(tall, wide, turned)[None, None])
        top, left = (height - rows * tall) // 2, (width - columns * wide) // 2
        delta = torch.zeros_like(self.x)
        delta[_window(top, left, rows * tall, columns * wide)] = tiles
        if self.free is not None:
            delta *= self.free
        # In l1 the projection takes the small features off a pattern of twice the norm: sparse changes do
        # more.
        size = 2 * self.threat.radius if self.power == 1 else self.threat.radius
        norm = self._mass(delta).sum(1, keepdim=True) ** (1 / self.power)
        delta = delta * (size / norm.clamp(min=torch.finfo(torch.float32).tiny)).to(delta.dtype)
        points, x = (values.reshape(-1, *self.shape) for values in (self.x + delta, self.x))
        started = self.threat.project_inside(points, x).reshape(self.x.shape)
        self.spent = self._mass(started - self.x).sum((1, 2, 3))
        return started

    def change(self, now: Images, draw: Draw) -> list[tuple[Window, Content]]:
        first, second = draw.first, draw.second
        before = [(window, now[window].clone()) for window in (first, second)]
        x = self.x[first]
        old, cleared = now[first] - x, now[second] - self.x[second]
        now[second] = self.x[second]
        # Cleared first, so that what the windows share is counted once.
        held = self._mass(cleared) + self._mass(now[first] - x)
        # Negative where rounding overspent: the next change pays it back.
        unspent = (self.budget - self.spent)[:, None, None, None] / old.shape[1]
        signs = torch.tensor(draw.signs, dtype=old.dtype, device=old.device)[:, None, None]
        direction = self._unit(old) + signs * self._pattern(old.shape[2], old.shape[3], draw.turned)
        if self.free is not None:
            direction *= self.free[first]
        size = ((unspent + held).clamp(min=0.0) ** (1 / self.power)).to(old.dtype)
        moved = self._unit(direction).mul_(size).add_(x)
        if self.low is not None and self.high is not None:
            moved = torch.clamp(moved, self.low[first], self.high[first])
        now[first] = moved
        self.proposed = self.spent + (self._mass(moved - x) - held).sum((1, 2, 3))
        return before

    def keep(self, better: Bool[Tensor, " batch"]) -> None:
        self.spent = torch.where(better, self.proposed, self.spent)

    def take(self, rows: Int[Tensor, " rows"]) -> None:
        self.x, self.budget, self.spent = self.x[rows], self.budget[rows], self.spent[rows]
        if self.low is not None and self.high is not None:
            self.low, self.high = self.low[rows], self.high[rows]

    def _mass(self, delta: Images) -> Float[Tensor, "batch channels 1 1"]:
        """``sum |delta|^p`` of each channel, in float64."""
        wide = delta.double()
        return (wide.square_() if self.power == 2 else wide.abs_()).sum((2, 3), keepdim=True)

    def _unit(self, delta: Images) -> Images:
        """Each channel at norm 1; 0 where it is 0."""
        length = torch.linalg.vector_norm(delta, ord=self.power, dim=(2, 3), keepdim=True)
        return delta / torch.where(length > 0, length, 1.0)

    def _pattern(self, tall: int, wide: int, turned: bool) -> Float[Tensor, "height width"]:
        key = (tall, wide, turned)
        if key not in self.patterns:
            self.patterns[key] = pattern(*key, self.power).to(self.x)
        return self.patterns[key]


def pattern(tall: int, wide: int, turned: bool, power: int) -> Float[Tensor, "height width"]:
    """Two peaks of opposite sign, one above the other or, ``turned``, side by side; ``sum |.|^power = 1``,
    in float64.
    """
    turned = wide > 1 if tall == 1 else turned and wide > 1
    if turned:
        return pattern(wide, tall, False, power).T.contiguous()
    peaks = [_peak(part, wide, power) for part in (tall // 2, tall - tall // 2) if part]
    both = torch.cat([sign * peak for sign, peak in zip((1.0, -1.0), peaks, strict=False)])
    scaled: Tensor = both / torch.linalg.vector_norm(both, ord=power)
    return scaled


def _peak(tall: int, wide: int, power: int) -> Float[Tensor, "height width"]:
    """``sum 1 / (k + 1)^d`` over the nested squares ``k`` around the middle that hold a feature, at norm
    1.
    """
    rows, columns = (torch.arange(side) - side // 2 for side in (tall, wide))
    ring = torch.maximum(rows.abs()[:, None], columns.abs())
    squares = torch.arange(1, int(ring.max()) + 2, dtype=torch.float64) ** -_DECAY[power]
    height = squares.flip(0).cumsum(0).flip(0)[ring]
    scaled: Tensor = height / torch.linalg.vector_norm(height, ord=power)
    return scaled
