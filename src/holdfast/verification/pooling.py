"""Linear bounds of the largest entry of a window.

Below: the entry whose least value is greatest. Above, the lower over the middle of: the greatest value any
entry takes; and, with ``c`` the greatest least value, ``c + sum_i relu(v_i - c)`` by chords, which is exact
where one entry is always the largest.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from holdfast.verification.graph import Maximum
from holdfast.verification.region import dot
from holdfast.verification.relaxations import UNIT

Windows = Float[Tensor, "batch channels window places"]
FAR = -1e300  # the value of the padding beyond the edges, which is never the largest


@dataclass(frozen=True, kw_only=True)
class PoolLines:
    """``max_i v_i`` between ``sum_i lower_slope_i v_i`` and ``sum_i upper_slope_i v_i + upper_height``.

    Attributes:
        step: the maximum.
        lower_slope: weights of the entries of each window.
        upper_slope: likewise.
        upper_height: (batch, ...) in the shape of the result.
    """

    step: Maximum
    lower_slope: Windows
    upper_slope: Windows
    upper_height: Float[Tensor, "batch ..."]

    def substitute(
        self, rows: Float[Tensor, "#batch rows ..."], given: Float[Tensor, "batch ..."]
    ) -> tuple[Float[Tensor, "batch rows ..."], Float[Tensor, "batch rows"], Float[Tensor, "batch rows"]]:
        """As `crown.substitute`, for windows."""
        positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
        batch = len(self.lower_slope)
        channels, places = self.step.shape[0], self.step.shape[1] * self.step.shape[2]
        form = (rows.shape[0], rows.shape[1], channels, 1, places)
        spread = (
            positive.reshape(form) * self.lower_slope[:, None]
            + negative.reshape(form) * self.upper_slope[:, None]
        )
        passed = self.step.gathered(spread.flatten(0, 1)).reshape(batch, rows.shape[1], *self.step.source)
        constant = dot(negative, self.upper_height)
        sizes = self.step.windows(given, 0.0)
        shape = self.upper_height.shape
        lower = (self.lower_slope * sizes).sum(2).reshape(shape)
        upper = (self.upper_slope * sizes).sum(2).reshape(shape) + self.upper_height.abs()
        return passed, constant, dot(positive, lower) - dot(negative, upper)


def pool_lines(
    step: Maximum, lower: Float[Tensor, "batch ..."], upper: Float[Tensor, "batch ..."]
) -> PoolLines:
    """Lines around a maximum whose entries lie between ``lower`` and ``upper``."""
    low, high = step.windows(lower, FAR), step.windows(upper, FAR)
    floor, which = low.max(2, keepdim=True)
    chosen = torch.zeros_like(low).scatter_(2, which, 1.0)
    rising = high > floor
    width = torch.where(rising, high - torch.minimum(low, floor), 1.0)
    # An entry that starts at the floor (the chosen one) rises with slope 1; others by the chord of relu(v -
    # floor).
    slope = torch.where(rising & (low < floor), (high - floor) / width, rising.to(low.dtype))
    begin = torch.where(rising, low, 0.0)
    height = floor - (slope * begin).sum(2, keepdim=True)
    middle = torch.where(rising, (low + high) / 2, 0.0)
    most = high.amax(2, keepdim=True)
    flat = (slope * middle).sum(2, keepdim=True) + height >= most
    slope = torch.where(flat, 0.0, slope)
    spare = 64 * UNIT * (floor.abs() + (slope * begin.abs()).sum(2, keepdim=True) + most.abs())
    height = torch.where(flat, most, height) + spare
    return PoolLines(
        step=step,
        lower_slope=chosen,
        upper_slope=slope,
        upper_height=height.reshape(len(lower), *step.shape),
    )
