"""Least values of linear functions over threat sets: what turns linear bounds of a network into numbers.

Values are lower bounds also when the maximiser is not exact to the last digit: for balls they come from the
dual problem, for any split ``g = g1 + g2``: ``<g, z> <= radius ||g1||_dual + max over the box <g2, z>``, with
the split that the maximiser suggests.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast._tensors import chunks
from holdfast.threats import LpBall, Threat, is_ball

RegionRows = Float[Tensor, "#batch rows features"]
Points = Float[Tensor, "batch features"]

ROUNDING = 4 * 2.0**-53
BINDING = 1 - 1e-9  # a ball is taken to bind where its maximiser is this near its edge
SPARE = 1e-9  # share of the value by which a maximiser of a threat other than a ball is trusted to be off
PIECE = 2**22  # numbers for which maximisers are found at once


@dataclass(frozen=True, kw_only=True)
class Region(ABC):
    """The threat sets of a batch of flattened examples, in float64.

    Attributes:
        threat: the threat.
        shape: of one example.
        x: the examples.
        lower: least value of each feature over the set, or a little less.
        upper: greatest value, or a little more.
    """

    threat: Threat
    shape: torch.Size
    x: Points
    lower: Points
    upper: Points

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: Tensor | slice) -> "Region":
        """The sets of some of the examples."""
        return replace(self, x=self.x[rows], lower=self.lower[rows], upper=self.upper[rows])

    @abstractmethod
    def minimum(self, rows: RegionRows) -> Float[Tensor, "batch rows"]:
        """A lower bound of ``min <row, x'>`` over each set, attained up to rounding; one row may serve all
        examples.
        """

    def minimiser(self, rows: RegionRows) -> Float[Tensor, "batch rows features"]:
        """Where the least value is attained."""
        count = rows.shape[1]
        direction = (-rows).expand(len(self), -1, -1).reshape(-1, rows.shape[2])
        repeated = self.x.repeat_interleave(count, 0)
        best = self.threat.maximise(direction.reshape(-1, *self.shape), repeated.reshape(-1, *self.shape))
        return best.reshape(len(self), count, -1)


@dataclass(frozen=True, kw_only=True)
class BoxRegion(Region):
    """l-inf balls: boxes."""

    def minimum(self, rows: RegionRows) -> Float[Tensor, "batch rows"]:
        centre = (self.lower + self.upper) / 2
        half = torch.maximum(self.upper - centre, centre - self.lower)
        half = half + ROUNDING * half
        return dot(rows, centre) - dot(rows.abs(), half)


@dataclass(frozen=True, kw_only=True)
class SplitRegion(Region):
    """Any other threat: maximisers found by the threat itself."""

    def minimum(self, rows: RegionRows) -> Float[Tensor, "batch rows"]:
        step = max(1, PIECE // (len(self) * rows.shape[2]))
        return torch.cat([self._minimum(rows[:, part]) for part in chunks(rows.shape[1], step)], 1)

    def _minimum(self, rows: RegionRows) -> Float[Tensor, "batch rows"]:
        value = dot(rows, self.x)
        towards = -rows
        move = self.minimiser(rows) - self.x[:, None]
        if not is_ball(self.threat):
            gain = (towards * move).sum(2)
            missed = self.threat.maximise_error * towards.norm(dim=2)
            least: Tensor = value - gain - missed - SPARE * ((towards * move).abs().sum(2) + value.abs())
            return least
        radius = self.threat.radius
        if self.threat.norm == "2":
            binding = move.square().sum(2, keepdim=True).sqrt() >= BINDING * radius
            used = towards != 0
            factor = torch.where(used, move / torch.where(used, towards, 1.0), 0.0).amax(2, keepdim=True)
            reached = binding & (factor > 0)
            ball = torch.where(reached, move / torch.where(reached, factor, 1.0), 0.0)
            gain = radius * ball.square().sum(2).sqrt()
        else:
            binding = move.abs().sum(2, keepdim=True) >= BINDING * radius
            moved = torch.where(move != 0, towards.abs(), torch.inf).amin(2, keepdim=True)
            level = torch.where(binding & moved.isfinite(), moved, 0.0)
            ball = torch.minimum(torch.maximum(towards, -level), level)
            gain = radius * ball.abs().amax(2)
        rest = towards - ball
        low, high = (self.lower - self.x)[:, None], (self.upper - self.x)[:, None]
        gain = gain + torch.maximum(rest * low, rest * high).sum(2)
        return value - gain


def dot(
    rows: Float[Tensor, "#batch rows ..."], values: Float[Tensor, "#batch ..."]
) -> Float[Tensor, "#batch rows"]:
    """``<row, value>`` for each example; coefficients or values with one leading row serve all examples."""
    flat = rows.reshape(rows.shape[0], rows.shape[1], -1)
    columns = values.reshape(len(values), -1)
    if len(flat) == 1:
        return columns @ flat[0].T
    if len(columns) == 1:
        return flat @ columns[0]
    result: Tensor = torch.bmm(flat, columns[:, :, None]).squeeze(2)
    return result


def region_of(threat: Threat, x: Float[Tensor, "batch ..."]) -> Region:
    """The threat sets of these examples, in float64."""
    x = x.detach().double()
    rows = x.flatten(1)
    if is_ball(threat):
        box = LpBall("inf", threat.radius, bounds=threat.bounds, fixed=threat.fixed)
        upper, lower = (box.maximise(sign * torch.ones_like(x), x).flatten(1) for sign in (1.0, -1.0))
        spare = ROUNDING * (rows.abs() + threat.radius)
        kind = BoxRegion if threat.norm == "inf" else SplitRegion
        return kind(threat=threat, shape=x.shape[1:], x=rows, lower=lower - spare, upper=upper + spare)
    inner = SplitRegion(threat=threat, shape=x.shape[1:], x=rows, lower=rows, upper=rows)
    unit = torch.eye(rows.shape[1], dtype=x.dtype, device=x.device)[None]
    return replace(inner, lower=inner.minimum(unit), upper=-inner.minimum(-unit))
