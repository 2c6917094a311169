"""Receptive fields: entries of one place of a convolution depend on a patch of each earlier value, not on all
of it.

Every place becomes an example of its own, of a smaller network without padding: the steps cut to the patches.
Beyond the edges of an image bounds and lines are 0 there, as padding prescribes; so
back-substitution works as for whole values, at the cost of a patch. All channels of a place share one patch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast.verification.graph import Affine, Graph, Maximum, Source, Step, Unit
from holdfast.verification.intervals import Bounds
from holdfast.verification.linear_maps import ConvolutionMap, LinearMap, ReshapeMap, ScaleMap, Shape
from holdfast.verification.pooling import PoolLines
from holdfast.verification.region import BoxRegion, Region, RegionRows
from holdfast.verification.relaxations import Lines

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PatchWindow:
    """Entries ``start + stride * place`` and on, ``size`` of them, in each of two directions, of one
    value.
    """

    value: int
    stride: Pair
    start: Pair
    size: Pair

    def before(self, value: int, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> "PatchWindow":
        """The window of an earlier value on which this one depends."""
        return PatchWindow(
            value=value,
            stride=_each(lambda own, step: own * step, self.stride, stride),
            start=_each(lambda own, step, edge: own * step - edge, self.start, stride, padding),
            size=_each(
                lambda own, step, wide, hole: (own - 1) * step + hole * (wide - 1) + 1,
                self.size,
                stride,
                kernel,
                dilation,
            ),
        )

    def of(self, values: Tensor, places: Int[Tensor, "2 places"]) -> Tensor:
        """Patches (batch, places, ..., height, width) of values (batch, ..., height, width), 0 beyond the
        edges.
        """
        grids, inside = [], []
        for side in range(2):
            extent = values.shape[values.ndim - 2 + side]
            steps = torch.arange(self.size[side], device=values.device)
            index = self.start[side] + self.stride[side] * places[side][:, None] + steps
            inside.append((index >= 0) & (index < extent))
            grids.append(index.clamp(0, extent - 1))
        cut = values[..., grids[0][:, :, None], grids[1][:, None, :]]
        cut = cut * (inside[0][:, :, None] & inside[1][:, None, :])
        return cut.movedim(-3, 1)


def _each(function: Callable[..., int], *pairs: Pair) -> Pair:
    first, second = (function(*values) for values in zip(*pairs, strict=True))
    return first, second


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The way from the image to a convolution, and the windows on it, the image's first."""

    steps: tuple[Step, ...]
    windows: tuple[PatchWindow, ...]

    @cached_property
    def graph(self) -> Graph:
        """The network cut to the patch of one place."""
        source = self.steps[0].shape
        small: list[Step] = [Source(shape=(source[0], *self.windows[0].size))]
        for step, window in zip(self.steps[1:], self.windows[1:], strict=True):
            before = small[-1].shape
            shape = (step.shape[0], *window.size)
            place = (len(small) - 1,)
            match step:
                case Unit():
                    small.append(replace(step, shape=shape, inputs=place))
                case Maximum():
                    small.append(replace(step, shape=shape, inputs=place, source=before, padding=(0, 0)))
                case Affine():
                    [(_, linear)] = step.terms
                    small_map: LinearMap = replace(linear, source=before, target=shape)
                    if isinstance(small_map, ConvolutionMap):
                        small_map = replace(small_map, padding=(0, 0))
                    if isinstance(small_map, ScaleMap):
                        small_map = replace(small_map, factor=_corner(small_map.factor))
                    # One number per channel: out of the edges rows are 0, so the offset counts for nothing
                    # there.
                    offset = None if step.offset is None else _corner(step.offset).expand(shape)
                    small.append(Affine(shape=shape, terms=((len(small) - 1, small_map),), offset=offset))
                case Source():
                    raise TypeError("an image comes first")
        return Graph(steps=tuple(small))

    @property
    def saves(self) -> float:
        """Share of a whole value's numbers that patches hold."""
        whole = sum(shape_size(step.shape) for step in self.steps)
        return sum(shape_size(step.shape) for step in self.graph.steps) / whole


def _corner(values: Tensor) -> Tensor:
    return values if values.ndim == 0 else values[:, :1, :1]


def chain_to(graph: Graph, value: int) -> Chain | None:
    """The way to a convolution's output through two-dimensional steps that treat all places alike;
    ``None`` where there is none.
    """
    if len(graph.steps[value].shape) != 3:
        return None
    window = PatchWindow(value=value, stride=(1, 1), start=(0, 0), size=(1, 1))
    windows, steps = [window], [graph.steps[value]]
    convolutions = 0
    while not _is_image(graph, window.value):
        step = graph.steps[window.value]
        if len(step.inputs) != 1 or len(step.shape) != 3:
            return None
        source = step.inputs[0]
        match step:
            case Maximum():
                window = window.before(source, step.kernel, step.stride, step.padding, step.dilation)
            case Affine():
                linear = step.terms[0][1]
                if step.offset is not None and not _same_everywhere(step.offset):
                    return None
                if isinstance(linear, ConvolutionMap):
                    # Padding is 0 where lines end in 0; an affine step would put its offset there.
                    if any(linear.padding) and not (
                        isinstance(graph.steps[source], Unit | Maximum) or _is_image(graph, source)
                    ):
                        return None
                    kernel = cast(Pair, tuple(linear.weight.shape[2:]))
                    stride, padding = cast(Pair, linear.stride), cast(Pair, linear.padding)
                    window = window.before(source, kernel, stride, padding, cast(Pair, linear.dilation))
                    convolutions += 1
                elif (isinstance(linear, ScaleMap) and _same_everywhere(linear.factor)) or (
                    isinstance(linear, ReshapeMap) and linear.source == linear.target
                ):
                    window = replace(window, value=source)
                else:
                    return None
            case _:
                window = replace(window, value=source)
        windows.append(window)
        steps.append(graph.steps[source])
    if not convolutions:
        return None
    return Chain(steps=tuple(reversed(steps)), windows=tuple(reversed(windows)))


def _same_everywhere(values: Tensor) -> bool:
    return values.ndim == 0 or (values.ndim == 3 and bool((values == _corner(values)).all()))


def _is_image(graph: Graph, value: int) -> bool:
    """Whether a value is the input, up to its shape."""
    step = graph.steps[value]
    if len(step.shape) != 3:
        return False
    while not isinstance(step, Source):
        reshaping = isinstance(step, Affine) and step.offset is None and len(step.terms) == 1
        if not reshaping or not isinstance(step, Affine) or not isinstance(step.terms[0][1], ReshapeMap):
            return False
        step = graph.steps[step.inputs[0]]
    return True


@dataclass(frozen=True, kw_only=True)
class PatchRegion(Region):
    """One set that is no box, seen through patches: rows are put back into whole images before their least
    value is found.

    Attributes:
        whole: the set.
        index: for each entry of each patch, 1 more than its place in the image; 0 beyond the edges.
    """

    whole: Region
    index: Int[Tensor, "places entries"]

    def minimum(self, rows: RegionRows) -> Float[Tensor, "places rows"]:
        places, count = len(self.index), rows.shape[1]
        wide = rows.new_zeros((places, count, self.whole.x.shape[1] + 1))
        wide.scatter_(2, self.index[:, None].expand(-1, count, -1), rows.expand(places, -1, -1))
        flat = wide[..., 1:].reshape(1, places * count, -1)
        return self.whole.minimum(flat).reshape(places, count)


def cut(
    chain: Chain,
    region: Region,
    bounds: list[Bounds],
    lines: dict[int, Lines | PoolLines],
    example: int,
    places: Int[Tensor, "2 places"],
) -> tuple[Region, list[Bounds], dict[int, Lines | PoolLines]]:
    """Sets, bounds and lines of the network of `Chain.graph` for one example, one row a place."""
    graph, first = chain.graph, chain.windows[0]
    image = chain.steps[0].shape

    def patch(window: PatchWindow, values: Tensor) -> Tensor:
        return window.of(values[example : example + 1], places)[0]

    lower, upper = (
        patch(first, edge.reshape(-1, *image)).flatten(1) for edge in (region.lower, region.upper)
    )
    shape = torch.Size(graph.steps[0].shape)
    small: Region = BoxRegion(threat=region.threat, shape=shape, x=lower, lower=lower, upper=upper)
    if not isinstance(region, BoxRegion):
        numbers = torch.arange(1, shape_size(image) + 1, device=lower.device).reshape(1, *image)
        small = PatchRegion(
            **vars(small),
            whole=region.part(slice(example, example + 1)),
            index=first.of(numbers, places)[0].flatten(1),
        )
    known: list[Bounds] = []
    around: dict[int, Lines | PoolLines] = {}
    for number, (window, step) in enumerate(zip(chain.windows, graph.steps, strict=True)):
        size = patch(window, bounds[window.value].size.reshape(-1, *chain.steps[number].shape))
        known.append(Bounds(lower=-size, upper=size, size=size))
        given = lines.get(window.value)
        if isinstance(given, Lines):
            around[number] = Lines(**{name: patch(window, edge) for name, edge in vars(given).items()})
        elif isinstance(given, PoolLines) and isinstance(step, Maximum):
            form = (*given.lower_slope.shape[:3], *given.step.shape[1:])
            below, above = (
                patch(window, slope.reshape(form)).flatten(3)
                for slope in (given.lower_slope, given.upper_slope)
            )
            height = patch(window, given.upper_height)
            around[number] = PoolLines(step=step, lower_slope=below, upper_slope=above, upper_height=height)
    return small, known, around


def shape_size(shape: Shape) -> int:
    """Numbers in a value."""
    return torch.Size(shape).numel()
