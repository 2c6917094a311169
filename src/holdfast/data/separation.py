"""Differently labelled examples whose threat sets meet, and the smallest distance between labels: exact,
blockwise.

Two balls of one radius meet when their centres are at most twice the radius apart, in the same norm, over the
features an adversary may change; examples that differ in a fixed feature never meet. All opposite-label pairs
are screened by a matrix product that can only err on the side of keeping a pair (see
`holdfast.data.screens`); the few kept are measured in float64.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast._arguments import EXAMPLES, LABELS, MASK, Array, as_tensor
from holdfast._rules import COUNT, FUNCTION, Rule, maybe, real, takes
from holdfast._tensors import chunks, flatten, generator, largest_size
from holdfast._values import Shown
from holdfast.data.screens import SCREENS, DataRows, Members, Others, Screen
from holdfast.errors import InputError

Pairs = Int[Tensor, "pairs 2"]
Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True, repr=False)
class Separation(Shown):
    """How far apart differently labelled examples are, in one norm.

    Attributes:
        norm: ``"1"``, ``"2"`` or ``"inf"``.
        radius: the radius asked about, in input units.
        distance: smallest distance between two examples of different labels, evaluated in float64; infinite
            if no such pair agrees on the fixed features.
        closest: row numbers of one pair that attains it.
        count: pairs of different labels at most ``2 radius`` apart: their threat sets meet.
        complete: whether all such pairs were counted; if not, ``count`` is a lower bound (``distance`` is
            exact always).
        pairs: row numbers of the nearest such pairs among those counted, nearest first.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 1, 1])
    >>> hf.data.separation(x, y, norm="2").closest
    (0, 1)
    """

    norm: str
    radius: float
    distance: float
    closest: tuple[int, int] | None
    count: int
    complete: bool
    pairs: Pairs

    @property
    def largest_compatible_radius(self) -> float:
        """Half the distance: threat sets of different labels are disjoint at every radius below it."""
        return self.distance / 2

    def compatible(self, radius: float | None = None) -> bool:
        """Whether no two threat sets of different labels meet at this radius (by default the one asked
        about).
        """
        return self.distance > 2 * (self.radius if radius is None else radius)


LARGEST = 1e150  # of a number in the data: the squares of larger ones overflow


def paired_distances(a: DataRows, b: DataRows, norm: str) -> Float[Tensor, " rows"]:
    """Distance of each row of ``a`` from the same row of ``b``, in float64; norm ``"1"``, ``"2"`` or
    ``"inf"``.
    """
    gap = (a.double() - b.double()).abs_()
    if norm == "inf" and gap.shape[1]:  # the largest of nothing is no number; its sum is 0
        return gap.amax(1)
    return gap.sum(1) if norm != "2" else gap.square_().sum(1).sqrt_()


def _read_norm(value: Any) -> str:
    kind: str = value.lower().removeprefix("l")
    if kind not in SCREENS:
        raise ValueError
    return kind


NORM = Rule(
    what=f"one of {', '.join(SCREENS)}",
    read=lambda value: _read_norm(value) if isinstance(value, str) else _read_norm(f"{float(value):g}"),
    hint=lambda value: "'inf' bounds every feature alike",
)


@takes(
    x=EXAMPLES,
    y=LABELS,
    norm=NORM,
    radius=real(least=0),
    fixed=maybe(MASK),
    listed=COUNT,
    counted=COUNT,
    block=COUNT,
    progress=maybe(FUNCTION),
)
def separation(
    x: Array,
    y: Array,
    *,
    norm: str,
    radius: float = 0.0,
    fixed: Array | None = None,
    listed: int = 100,
    counted: int = 1_000_000,
    block: int = 4096,
    progress: Progress | None = None,
) -> Separation:
    """Exact smallest opposite-label distance, and the pairs whose balls of this radius meet.

    Time is that of one matrix product of all opposite-label pairs, memory that of a ``block x block`` matrix
    beside the data. Data whose distances concentrate (noise in hundreds of dimensions) make the l1 and l-inf
    screens weak; the answer stays exact and takes as long as measuring every pair.

    Args:
        x: examples (examples, ...).
        y: labels ``0 .. classes-1``, (examples,).
        norm: ``"1"``, ``"2"`` or ``"inf"``; a leading ``l`` is allowed.
        radius: in input units; 0 finds equal examples with different labels.
        fixed: true where an adversary may not change a feature; shape of one example.
        listed: how many meeting pairs to name.
        counted: stop counting meeting pairs beyond this many (a hopeless radius has hundreds of millions).
        block: rows and columns handled at once.
        progress: called with the fraction of pairs done.

    Raises:
        InputError: an unknown norm, a negative or infinite radius, a mask of another shape than one example,
            or numbers whose distances overflow.

    >>> import torch
    >>> import holdfast as hf
    >>> x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 1, 1])
    >>> found = hf.data.separation(x, y, norm="2", radius=0.6)
    >>> found.distance, found.count
    (1.0, 1)
    """
    x, y = as_tensor("x", x), as_tensor("y", y)
    fixed = None if fixed is None else as_tensor("fixed", fixed)
    if len(x) != len(y):
        raise InputError(
            f"x and y must have one row and one label per example, got {len(x)} and {len(y)}; pair them up."
        )
    if fixed is not None and fixed.shape != x.shape[1:]:
        raise InputError(
            f"fixed must have the shape of one example, {tuple(x.shape[1:])}, got {tuple(fixed.shape)}; "
            "give one true or false for each feature."
        )
    if not largest_size(x) <= LARGEST:
        raise InputError(
            f"x must be numbers of at most {LARGEST:g} in size, whose distances do not overflow, got "
            f"{largest_size(x):g}; scale the data down."
        )
    search = _PairSearch(flatten(x), y, norm, 2 * radius, listed, counted, block)
    groups = _groups(flatten(x), y, None if fixed is None else fixed.reshape(-1))
    search.run(list(groups), None if fixed is None else ~fixed.reshape(-1), progress)
    return Separation(
        norm=norm,
        radius=radius,
        distance=search.best,
        closest=search.closest,
        count=search.count,
        complete=search.complete,
        pairs=search.pairs,
    )


def _groups(x: DataRows, y: Tensor, fixed: Tensor | None) -> Iterator[Tensor]:
    """Row numbers that agree on all fixed features, sorted by label; only groups of two labels or more."""
    if fixed is None or not bool(fixed.any()):
        if len(y) and bool((y != y[0]).any()):
            yield y.argsort(stable=True)
        return
    _, group = torch.unique(x[:, fixed] + 0.0, dim=0, return_inverse=True)  # + 0.0: -0 equals 0
    order = (group * (y.max() + 1) + y).argsort(stable=True)
    for rows in order.split(torch.bincount(group).tolist()):
        if len(rows) > 1 and bool(y[rows[0]] != y[rows[-1]]):
            yield rows


class _PairSearch:
    """The best pair so far and the meeting pairs, while blocks of pairs go by."""

    def __init__(
        self, x: DataRows, y: Tensor, norm: str, reach: float, listed: int, counted: int, block: int
    ) -> None:
        self.x, self.y, self.norm, self.reach = x, y, norm, reach
        self.listed, self.counted = listed, counted
        self.block = min(block, max(256, (1 << 22) // max(1, x.shape[1])))
        self.best, self.count, self.complete = math.inf, 0, True
        self.closest: tuple[int, int] | None = None
        self.pairs = torch.empty(0, 2, dtype=torch.long, device=x.device)
        self.lengths = torch.empty(0, dtype=torch.float64, device=x.device)

    @property
    def cut(self) -> float:
        """Pairs at this distance or farther change nothing any more."""
        return max(self.best, math.nextafter(self.reach, math.inf)) if self.complete else self.best

    def run(self, groups: list[Tensor], free: Tensor | None, progress: Progress | None) -> None:
        """All opposite-label pairs of every group: each class's rows against those of the classes above
        it.
        """
        panels = [list(_panels(self.y[rows], self.block)) for rows in groups]
        total = sum(_area(rows, cols) for blocks in panels for rows, cols in blocks)
        done = 0
        for members, blocks in zip(groups, panels, strict=True):
            block = _Block(self, Members(self.x, members, free), members)
            if len(members) > self.block // 16:
                block.sample(self.y[members])
            for rows, cols in blocks:
                block.visit(rows, cols)
                done += _area(rows, cols)
                if progress is not None:
                    progress(done / total)

    def take(self, lengths: Float[Tensor, " pairs"], pairs: Pairs, *, count: bool = True) -> None:
        """Enter measured pairs; ``count`` is false where they will come by again."""
        if not len(lengths):
            return
        least = int(lengths.argmin())
        if float(lengths[least]) < self.best or self.closest is None:
            self.best = float(lengths[least])
            first, second = pairs[least].tolist()
            self.closest = (min(first, second), max(first, second))
        if not (count and self.complete):
            return
        meet = lengths <= self.reach
        found = int(meet.sum())
        if found:
            self.count += found
            self.complete = self.count <= self.counted
            self.lengths, order = torch.cat([self.lengths, lengths[meet]]).sort(stable=True)
            self.lengths = self.lengths[: self.listed]
            self.pairs = torch.cat([self.pairs, pairs[meet].sort(1).values])[order[: self.listed]]


class _Block:
    """The rows of one group with the screen fitted to them."""

    def __init__(self, search: _PairSearch, x: Members, members: Tensor) -> None:
        self.search, self.x, self.members = search, x, members
        self.budget = 16 * search.block
        self.screen: Screen | None = None

    def measure(self, i: Tensor, j: Tensor, *, count: bool = True) -> None:
        """Enter the pairs of rows ``i`` and ``j``, in portions that stay in the processor's cache."""
        for part in chunks(len(i), max(1, (1 << 18) // max(1, self.x.features))):
            lengths = paired_distances(self.x[i[part]], self.x[j[part]], self.search.norm)
            pairs = torch.stack([self.members[i[part]], self.members[j[part]]], 1)
            self.search.take(lengths, pairs, count=count)

    def sample(self, y: Tensor) -> None:
        """Measure some random opposite-label pairs: a finite ``best`` makes the screen sharp from the
        first block on.
        """
        i, j = torch.randint(len(y), (2, 2 * self.search.block), generator=generator(0)).to(y.device)
        apart = y[i] != y[j]
        self.measure(i[apart], j[apart], count=False)
        self.measure(
            torch.tensor([0], device=y.device), torch.tensor([len(y) - 1], device=y.device), count=False
        )

    def visit(self, rows: slice, cols: slice) -> None:
        """All pairs of ``rows`` with ``cols``; halved while the screen keeps too many, since ``cut`` falls
        meanwhile.
        """
        search = self.search
        if search.cut == 0:
            return
        if len(self.x) <= search.block // 16:
            i, j = torch.meshgrid(
                torch.arange(rows.start, rows.stop, device=self.members.device),
                torch.arange(cols.start, cols.stop, device=self.members.device),
                indexing="ij",
            )
            return self.measure(i.reshape(-1), j.reshape(-1))
        if self.screen is None:
            self.screen = SCREENS[search.norm](self.x)
        near = self.screen.near(self.x[rows], self.x[cols], search.cut)
        if len(near) > self.budget and _area(rows, cols) > self.budget:
            if rows.stop - rows.start >= cols.stop - cols.start:
                parts = [(half, cols) for half in _halves(rows)]
            else:
                parts = [(rows, half) for half in _halves(cols)]
            for part in parts:
                self.visit(*part)
            return None
        # where the screen tells little, measuring all pairs is cheaper than gathering those kept
        if 8 * len(near) > _area(rows, cols):
            near = _near_dense(self.x[rows], self.x[cols], search.norm, search.cut)
        self.measure(near[:, 0] + rows.start, near[:, 1] + cols.start)


def _near_dense(a: DataRows, b: Others, norm: str, cut: float) -> Pairs:
    """Pairs nearer than ``cut``, give or take rounding in float64."""
    mode = "donot_use_mm_for_euclid_dist"
    lengths = torch.cdist(a.double(), b.double(), p=float(norm), compute_mode=mode)
    return (lengths <= cut * (1 + 1e-9)).nonzero()


def _halves(part: slice) -> tuple[slice, slice]:
    middle = (part.start + part.stop) // 2
    return slice(part.start, middle), slice(middle, part.stop)


def _area(rows: slice, cols: slice) -> int:
    return int(rows.stop - rows.start) * int(cols.stop - cols.start)


def _panels(y: Int[Tensor, " rows"], block: int) -> Iterator[tuple[slice, slice]]:
    """Blocks covering each opposite-label pair of rows sorted by label once."""
    start = 0
    for size in torch.unique_consecutive(y, return_counts=True)[1].tolist():
        stop = start + size
        for rows in chunks(size, block):
            for cols in chunks(len(y) - stop, block):
                yield slice(start + rows.start, start + rows.stop), slice(stop + cols.start, stop + cols.stop)
        start = stop
