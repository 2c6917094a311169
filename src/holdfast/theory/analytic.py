"""Neural tangent kernels of infinitely wide dense networks, block by block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from holdfast._memory import require_memory
from holdfast._products import product
from holdfast._rules import kind, takes
from holdfast._tensors import chunks
from holdfast.errors import InputError
from holdfast.theory.angular import polynomial, power_series
from holdfast.theory.duals import DualRows, floored, root
from holdfast.theory.spec import KernelSpec, spec_of

TILE = (1024, 128)
"""Rows and columns (no more than rows) of a block on a CPU: it and its temporaries stay in the second-level
cache, and so few columns are soon packed for the matrix product."""
WIDE_TILE = (4096, 4096)
"""The same on anything else, which must be kept busy."""
BUFFERS = 12  # tensors of a block's size alive at once, at most


@takes(spec=kind(KernelSpec, nn.Module, what="a KernelSpec, a Dense or a TwoLayer network"))
def ntk(spec: KernelSpec | nn.Module) -> "NTK":
    """The analytic kernel of a spec, or the one that a `Dense` or `TwoLayer` tends to as its width grows.

    Args:
        spec: a spec, or a `Dense` or `TwoLayer` network.

    >>> import torch
    >>> import holdfast as hf
    >>> kernel = hf.theory.ntk(hf.theory.KernelSpec(activation="relu", depth=2))
    >>> kernel(torch.eye(2)).shape
    torch.Size([2, 2])
    """
    return NTK(spec if isinstance(spec, KernelSpec) else spec_of(spec))


@takes(spec=kind(KernelSpec, what="a KernelSpec", hint="hf.theory.ntk takes networks too"))
class NTK:
    """The analytic tangent kernel ``K(x, x') = sum_h S^(h-1) prod_{h' >= h} c S'^(h')`` (Jacot et al. 2018).

    Reference: arXiv 1806.07572; layers as in `KernelSpec`.

    ``S^0 = <z, z'>``, ``S^h = c E[act(s) act(t)]`` and ``S'^h = E[act'(s) act'(t)]`` for Gaussian ``(s, t)``
    with the covariance ``S^(h-1)``. Trained output weights add ``S^H``, a trained input map
    ``S^0 prod c S'``. ReLU, leaky ReLU, the identity, squared ReLU, erf and shifted ReLU are closed forms;
    for others see `holdfast.theory.expansion`.

    Differentiable in the points. Where two points coincide or are opposite, kernels of activations with a
    kink have a cusp; their gradient there is the middle of the slopes on both sides, hence finite.

    Args:
        spec: the network whose kernel it is.

    >>> import torch
    >>> import holdfast as hf
    >>> kernel = hf.theory.NTK(hf.theory.KernelSpec(activation="relu"))
    >>> kernel(torch.eye(2)).diagonal()
    tensor([1., 1.])
    """

    def __init__(self, spec: KernelSpec) -> None:
        self.spec = spec
        self._dual, self._factor = spec.dual, spec.factor
        self._series: dict[torch.device, list[Tensor] | None] = {}

    def __call__(
        self, x1: Float[Tensor, "n ..."], x2: Float[Tensor, "m ..."] | None = None
    ) -> Float[Tensor, "n m"]:
        """The kernel matrix of two sets of points, or of one with itself: then half of it is computed, and
        the diagonal exactly.

        Raises:
            InputError: points that do not match each other or the spec, or a matrix that does not fit into
                memory.
        """
        symmetric = x2 is None or x2 is x1
        other = x1 if x2 is None else x2
        self._check(x1, other)
        size = x1.element_size()
        require_memory(
            size * (len(x1) * len(other) + BUFFERS * self._tile(x1)[0] * self._tile(x1)[1]),
            x1.device,
            f"a kernel matrix of {len(x1):,} x {len(other):,}",
            "take fewer points, float32, or product, which never stores it",
        )
        if torch.is_grad_enabled() and (x1.requires_grad or other.requires_grad):
            left = self._points(x1)
            right = left if symmetric else self._points(other)
            high = max(1, self._tile(x1)[0] * self._tile(x1)[1] // max(1, len(other)))
            parts = [
                checkpoint(self._block, left, part, right, use_reentrant=False)
                for part in chunks(len(x1), high)
            ]
            return torch.cat(parts) if parts else x1.new_zeros(0, len(other))
        with torch.no_grad():
            left = self._points(x1)
            right = left if symmetric else self._points(other)
            result = x1.new_empty(len(x1), len(other))
            for rows, columns in self._tiles(x1, len(other), lower=symmetric):
                block = self._fast_block(left, rows, right, columns)
                if symmetric and columns.start == rows.start:
                    # the lower half counts, so that the matrix equals its transpose
                    square = block[: block.shape[1]]
                    square.copy_(square.tril() + square.tril(-1).T)
                result[rows, columns] = block
                if symmetric:
                    result[columns, rows] = block.T
            if symmetric:
                result.diagonal().copy_(self._diagonal(left))
            return result

    def diagonal(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """``K(x_i, x_i)`` to rounding: no arccosine near 1 enters."""
        self._check(x, x)
        return self._diagonal(self._points(x))

    def product(
        self, x1: Float[Tensor, "n ..."], x2: Float[Tensor, "m ..."], vector: Float[Tensor, "points *columns"]
    ) -> Float[Tensor, "n *columns"]:
        """``K(x1, x2) @ vector`` without ever storing ``K``; not differentiable."""
        self._check(x1, x2)
        if len(vector) != len(x2):
            raise InputError(
                f"vector must have a row a point of x2 ({len(x2)}), got {len(vector)}; transpose it."
            )
        with torch.no_grad():
            left, right = self._points(x1), self._points(x2)
            result = vector.new_zeros(len(x1), *vector.shape[1:])
            for rows, columns in self._tiles(x1, len(x2), lower=False):
                result[rows] += self._fast_block(left, rows, right, columns) @ vector[columns]
            return result

    def _points(self, x: Tensor) -> "_Points":
        z = self.spec.inputs(x)
        deviation = torch.linalg.vector_norm(z, dim=1)
        unit = z / floored(deviation)[:, None]
        layers, variance = [], deviation.square()
        for _ in range(self.spec.depth):
            layers.append(self._dual.rows(variance))
            variance = layers[-1].value * self._factor
        last = root(variance)
        return _Points(unit=unit, layers=tuple(layers), last=last)

    def _block(self, left: "_Points", rows: slice, right: "_Points") -> Tensor:
        """Everything is divided by both points' deviations in its layer, so that correlations are all that
        remain.
        """
        u = _correlation(left.unit[rows] @ right.unit.T)
        scaled = self._scaled(u, [layer[rows] for layer in left.layers], right.layers)
        return scaled * left.last[rows, None] * right.last

    def _fast_block(self, left: "_Points", rows: slice, right: "_Points", columns: slice) -> Tensor:
        """`_block` of these rows and columns, without history."""
        u = _correlation(product(left.unit[rows], right.unit[columns]))
        series = self._angular(u)
        if series is not None:
            scaled = polynomial(series, u)
        else:
            scaled = self._scaled(
                u, [layer[rows] for layer in left.layers], [layer[columns] for layer in right.layers]
            )
        return scaled.mul_(left.last[rows, None]).mul_(right.last[columns])

    def _scaled(self, u: Tensor, left: Sequence[DualRows], right: Sequence[DualRows]) -> Tensor:
        """The kernel over both points' deviations in the last layer, from the correlations ``u`` of the
        inputs.
        """
        total = 2 * u if self.spec.trained == "all" else u
        for layer, (a, b) in enumerate(zip(left, right, strict=True), 1):
            value, slope = self._dual.pair(u, a, b)
            if layer < self.spec.depth:
                u = _correlation(value)
                total = torch.addcmul(u, total, slope)
        tangent = total * slope * self.spec.output_variance
        return tangent if self.spec.trained == "hidden" else tangent.add(_correlation(value))

    def _angular(self, like: Tensor) -> list[Tensor] | None:
        """The polynomial in the angle that this kernel is, on the device of ``like``; None where it is
        none.
        """
        if not self._dual.homogeneous or like.dtype != torch.float32:
            return None
        if like.device not in self._series:
            one = [self._dual.rows(torch.ones(1, dtype=torch.float64))] * self.spec.depth
            found = power_series(lambda u: self._scaled(u, one, one), self.spec.depth)
            self._series[like.device] = None if found is None else list(like.new_tensor(found).unbind())
        return self._series[like.device]

    def _diagonal(self, points: "_Points") -> Tensor:
        one = torch.ones_like(points.last)
        tangent = one if self.spec.trained == "all" else torch.zeros_like(one)
        for rows in points.layers:
            tangent = (tangent + one) * rows.scaled_slope
        tangent = tangent * self.spec.output_variance
        return (tangent if self.spec.trained == "hidden" else tangent + one) * points.last.square()

    def _tile(self, x: Tensor) -> tuple[int, int]:
        return TILE if x.device.type == "cpu" else WIDE_TILE

    def _tiles(self, x: Tensor, columns: int, *, lower: bool) -> Iterator[tuple[slice, slice]]:
        high, wide = self._tile(x)
        for part in chunks(columns, wide):
            first = part.start if lower else 0
            for rows in chunks(len(x) - first, high):
                yield slice(first + rows.start, first + rows.stop), part

    def _check(self, x1: Tensor, x2: Tensor) -> None:
        for name, x in (("x1", x1), ("x2", x2)):
            if x.ndim < 2 or not x.is_floating_point():
                raise InputError(
                    f"{name} must be points as rows of floating-point numbers, got {tuple(x.shape)} of "
                    f"{x.dtype}; convert it."
                )
        if x1.shape[1:].numel() != x2.shape[1:].numel() or x1.dtype != x2.dtype or x1.device != x2.device:
            raise InputError(
                f"x1 and x2 must agree in features, dtype and device, got {tuple(x1.shape)} {x1.dtype} on "
                f"{x1.device} and {tuple(x2.shape)} {x2.dtype} on {x2.device}; convert one."
            )


@dataclass(frozen=True, kw_only=True)
class _Points:
    """Unit vectors, what each layer does to each point alone, and the deviations in the last layer."""

    unit: Tensor
    layers: tuple[DualRows, ...]
    last: Tensor


def _correlation(u: Tensor) -> Tensor:
    """Into [-1, 1], and to exactly 1 where rounding alone separates it from 1: an arccosine turns 1e-16
    into 1e-8.
    """
    u = u * (1 + 4 * torch.finfo(u.dtype).eps)
    return u.clamp(-1, 1) if u.requires_grad else u.clamp_(-1, 1)
