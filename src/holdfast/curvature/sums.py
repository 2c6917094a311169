"""What a window under way adds up."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast._tensors import as_matrix
from holdfast.curvature.base import RoundCurvature
from holdfast.curvature.grams import RowSums
from holdfast.curvature.lower_model import Block, curved

Gradients = Sequence[Sequence[Tensor]]
"""A matrix per parameter, one group per ball."""


@dataclass
class BlockSums:
    """``sum_t w_t (g_t + 2 M_t D_t)`` and ``sum_t w_t M_t`` of one weight matrix."""

    linear: Tensor
    matrices: Tensor | None = None
    eigenvalue: Tensor | None = None
    basis: Tensor | None = None
    rows: RowSums = field(default_factory=RowSums)

    def block(self, reduce: Callable[[Tensor], Tensor], epochs: int, *, spread: bool) -> Block:
        """The sums over processes, for one epoch. Spread over several, their rows have no basis in common."""
        matrices, basis = (self.matrices, self.basis)
        if matrices is None:
            matrices, basis = self.rows.reduced(whole=spread)
        return Block(
            linear=reduce(self.linear) / epochs,
            matrices=None if matrices is None else reduce(matrices) / epochs,
            eigenvalue=0.0 if self.eigenvalue is None else float(reduce(self.eigenvalue)) / epochs,
            basis=basis,
        )


@dataclass
class Sums:
    """A lower model under way: the sums of its blocks, and ``- sum_t w_t (<g_t, D_t> + q_t(D_t))``."""

    balls: list[list[BlockSums]]
    constant: Tensor

    @classmethod
    def start(cls, parameters: Iterable[Iterable[Tensor]]) -> "Sums":
        """Nothing yet, for weights of these shapes, one group per ball."""
        balls = [[BlockSums(linear=torch.zeros_like(as_matrix(w))) for w in ball] for ball in parameters]
        return cls(balls=balls, constant=balls[0][0].linear.new_zeros((), dtype=torch.float64))

    def reduced(
        self,
        reduce: Callable[[Tensor], Tensor] = lambda values: values,
        epochs: int = 1,
        *,
        spread: bool = False,
    ) -> tuple[tuple[Block, ...], ...]:
        """The blocks, added up over processes."""
        return tuple(
            tuple(block.block(reduce, epochs, spread=spread) for block in ball) for ball in self.balls
        )

    def add(
        self,
        gradients: Gradients,
        curvature: RoundCurvature,
        moves: Gradients,
        share: float,
    ) -> None:
        """``V += w (g + 2 M D)``, ``M += w M``, ``constant -= w (<g, D> + q(D))``; ``g`` of this process's
        examples alone.
        """
        for ball, ball_gradients, ball_moves, ball_curvature in zip(
            self.balls, gradients, moves, curvature.balls, strict=True
        ):
            for block, gradient, move, part in zip(
                ball, ball_gradients, ball_moves, ball_curvature, strict=True
            ):
                block.linear = block.linear.to(gradient.dtype)
                block.linear.add_(gradient, alpha=share)
                self.constant -= share * torch.linalg.vecdot(gradient.flatten(), move.flatten())
                if part.rows is not None:
                    bent = part.rows.times(move)
                    block.linear.add_(bent, alpha=2 * share)
                    self.constant -= share * torch.linalg.vecdot(bent.flatten(), move.flatten())
                    block.rows.add(part.rows, share)
                if part.matrices is not None:
                    block.basis = part.basis
                    bent = curved(move, part.matrices, part.basis)
                    block.linear.add_(bent, alpha=2 * share)
                    self.constant -= share * torch.linalg.vecdot(bent.flatten(), move.flatten())
                    if block.matrices is None:
                        block.matrices = share * part.matrices
                    else:
                        block.matrices.add_(part.matrices, alpha=share)
                if part.eigenvalue is not None:
                    block.linear.add_(move * (2 * share * part.eigenvalue))
                    self.constant -= share * part.eigenvalue * move.square().sum()
                    weighted = share * part.eigenvalue
                    block.eigenvalue = weighted if block.eigenvalue is None else block.eigenvalue + weighted
