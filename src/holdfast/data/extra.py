"""Further examples that only training sees: pseudo-labelled or generated ones, mixed into each batch."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from holdfast._arguments import EXAMPLES, LABELS
from holdfast._formats import count
from holdfast._rules import real, takes
from holdfast._values import Fact, Shown
from holdfast.errors import InputError


@takes(x=EXAMPLES, y=LABELS, share=real(least=0.001, most=0.999))
@dataclass(frozen=True, repr=False)
class Extra(Shown):
    """Further examples for training alone, a fixed share of each batch.

    Pseudo-labelled (Carmon et al. 2019, arXiv 1905.13736) or generated ones (Gowal et al. 2021, arXiv 2110.09468). They
    are drawn without replacement, and shuffled anew when all have been used. Nothing is selected, tested or certified by
    them.

    Attributes:
        x: examples (examples, ...), in the units, the shape and the box of the data they go with.
        y: their labels (examples,), numbered as those of the data; for unlabelled examples, those that a network gives.
        share: of the examples of each batch, from 0.001 to 0.999; 0.5 in Carmon et al.

    Raises:
        InputError: examples, labels or share are not as stated.

    >>> import torch
    >>> import holdfast as hf
    >>> extra = hf.data.Extra(torch.rand(100, 3), torch.arange(100) % 2, share=0.7)
    >>> extra.of_batch(10)
    7
    """

    x: Float[Tensor, "examples ..."]
    y: Int[Tensor, " examples"]
    share: float = 0.5

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise InputError(
                f"x and y of extra examples must have one row and one label per example, got {len(self.x)} rows and "
                f"{len(self.y)} labels; cut the longer one."
            )

    def __len__(self) -> int:
        return len(self.y)

    def _facts(self) -> list[Fact]:
        return [
            Fact("examples", count(len(self))),
            Fact("shape", tuple(self.x.shape[1:])),
            Fact("share", self.share),
        ]

    def of_batch(self, size: int) -> int:
        """How many of a batch of this size are extra examples.

        Args:
            size: examples of the batch, of both kinds.
        """
        return round(self.share * size)

    def batch_with(self, own: int) -> int:
        """The size of the batch in which there are so many examples of the training part.

        Args:
            own: examples of the training part.
        """
        return own + round(own * self.share / (1 - self.share))
