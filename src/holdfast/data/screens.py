"""Lower bounds on all distances between two sets of rows by one matrix product: what cannot be near is left
out.

A screen may keep a pair in vain and never drops one nearer than ``cut``, rounding of the product included.
Each writes a bound as ``left(a) . right(b) <= limit``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast._tensors import AT_ONCE, chunks

DataRows = Float[Tensor, "rows features"]
Others = Float[Tensor, "others features"]


class Members:
    """Some rows of the data, in an order of their own and at the features that vary, gathered when they are asked for:
    a copy of all of them would be one of the data.
    """

    def __init__(self, x: Tensor, rows: Tensor, free: Tensor | None = None) -> None:
        self.x, self.rows, self.free = x, rows, free
        self.features = x.shape[1] if free is None else int(free.sum())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        found = self.x[self.rows[index]]
        return found if self.free is None else found[:, self.free]

    def portions(self) -> Iterator[Tensor]:
        """All of them, some at a time."""
        return (self[part] for part in chunks(len(self), AT_ONCE // max(1, self.features)))

    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value of each feature."""
        lows, highs = zip(*((part.amin(0), part.amax(0)) for part in self.portions()), strict=True)
        return torch.stack(lows).amin(0), torch.stack(highs).amax(0)


class Screen(ABC):
    """Finds a superset of the pairs of rows nearer than ``cut``."""

    @abstractmethod
    def near(self, a: DataRows, b: Others, cut: float) -> Int[Tensor, "pairs 2"]:
        """Positions ``(i, j)`` of a superset of the pairs with ``||a_i - b_j|| < cut``, the distance
        evaluated in float64.
        """


def product_dtype() -> torch.dtype:
    """float32 where its matrix products are really evaluated in float32, and float64 otherwise."""
    return torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64


def gram_near(a: DataRows, b: Others, limit: float) -> Int[Tensor, "pairs 2"]:
    """Superset of the pairs with ``||a_i - b_j||^2 <= limit``, for rows of norm at most about 1 in the
    product's dtype.

    Entries off by a few unit roundoffs ``u`` and the accumulation of ``k`` products move ``||a - b||^2`` by
    at most ``(k + 16) u (||a|| + ||b||)^2 <= 2 (k + 16) u (||a||^2 + ||b||^2)``, which is taken off
    beforehand.
    """
    shrink = 1 - (a.shape[1] + 16) * torch.finfo(a.dtype).eps
    squares_a, squares_b = (
        v.square().sum(1, keepdim=True, dtype=torch.float64).mul(shrink).to(v.dtype) for v in (a, b)
    )
    left = torch.cat([a.mul(-2), squares_a, torch.ones_like(squares_a)], 1)
    right = torch.cat([b, torch.ones_like(squares_b), squares_b], 1)
    # 1e-6 exceeds the rounding of distances in float64, 1e-30 what underflow can lose
    return (left @ right.T <= limit * (1 + 1e-6) + 1e-30).nonzero()


class Euclidean(Screen):
    """``||a - b||^2 = ||a||^2 + ||b||^2 - 2 <a, b>``, after centring."""

    def __init__(self, x: Members) -> None:
        self.centre = torch.stack([part.double().sum(0) for part in x.portions()]).sum(0) / len(x)
        low, high = x.ends()
        spread = float((high.double() - low.double()).norm())
        self.scale = 1 / spread if spread > 0 else 1.0

    def _centred(self, v: Tensor) -> Tensor:
        return (v.double() - self.centre).mul_(self.scale).to(product_dtype())

    def near(self, a: DataRows, b: Others, cut: float) -> Int[Tensor, "pairs 2"]:
        return gram_near(self._centred(a), self._centred(b), (self.scale * cut) ** 2)


class Thermometer(Screen):
    """l1 through squares: ``|d| >= d^2 / w`` for ``|d| <= w``.

    Each feature's range is cut into ``q`` segments of width ``w``, and a value becomes the filled length of
    each. Those lengths differ by ``d_j`` with ``sum_j |d_j| = |a - b|`` and ``|d_j| <= w``, so
    ``||a - b||_1 >= sum d_j^2 / w``: the squared Euclidean distance of the lengths over ``sqrt(w)``. More
    segments, sharper and dearer: ``q = 1`` is near exact for images of ink, and ``q`` doubles while too many
    pairs are kept.
    """

    most_segments = 16

    def __init__(self, x: Members) -> None:
        low, high = (end.double() for end in x.ends())
        self.varies = high > low
        self.low, self.range = low[self.varies], (high - low)[self.varies]
        self.scale = 1 / float(self.range.sum()) if len(self.range) else 1.0
        self.segments = 1

    def _filled(self, v: Tensor) -> Tensor:
        # in units of the range and with a power of two segments, subtracting a segment's lower end is exact
        unit = ((v.double()[:, self.varies] - self.low) / self.range).to(product_dtype())
        weight = (self.scale * self.segments * self.range).sqrt().to(unit.dtype)
        width = 1 / self.segments
        return torch.cat([(unit - j * width).clamp_(0, width).mul_(weight) for j in range(self.segments)], 1)

    def near(self, a: DataRows, b: Others, cut: float) -> Int[Tensor, "pairs 2"]:
        while True:
            dust = (
                2.0**-22
            )  # each value in units of its range is off by 2^-24 at most; ranges add up to 1 / scale
            kept = gram_near(self._filled(a), self._filled(b), self.scale * cut + dust)
            if 20 * len(kept) <= len(a) * len(b) or self.segments == self.most_segments:
                return kept
            self.segments *= 2


class Conflict(Screen):
    """l-inf through thresholds: with one row at ``c_k`` or above and the other at ``c_k - cut`` or below,
    they are ``cut`` apart.

    The number of such features is a sum of products of zeros and ones, exact in floating point; each
    feature's threshold is the one that parts most pairs of a sample.
    """

    def __init__(self, x: Members) -> None:
        self.sample = x[:: max(1, len(x) // 512)]
        self.cut = -1.0
        self.high = self.low = torch.empty(0)

    def _goal(self, cut: float) -> None:
        ranks = torch.linspace(0, len(self.sample) - 1, 17, device=self.sample.device).long()
        levels = self.sample.sort(0).values[ranks].double()
        below = levels - cut
        # subtraction rounds monotonically: with this, a >= high and b <= low give a - b >= cut as evaluated
        below = torch.where(levels - below >= cut, below, below.nextafter(torch.full_like(below, -torch.inf)))
        parted = torch.stack(
            [
                (self.sample >= level).double().mean(0) * (self.sample <= under).double().mean(0)
                for level, under in zip(levels, below, strict=True)
            ]
        )
        pick = parted.argmax(0, keepdim=True)
        self.high, self.low, self.cut = levels.gather(0, pick)[0], below.gather(0, pick)[0], cut

    def near(self, a: DataRows, b: Others, cut: float) -> Int[Tensor, "pairs 2"]:
        if cut != self.cut:
            self._goal(cut)
        left = torch.cat([a >= self.high, a <= self.low], 1).float()
        right = torch.cat([b <= self.low, b >= self.high], 1).float()
        return (left @ right.T < 0.5).nonzero()


SCREENS: dict[str, Callable[[Members], Screen]] = {"1": Thermometer, "2": Euclidean, "inf": Conflict}
