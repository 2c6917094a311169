"""A number for each example that changes with it: how a recorder knows that the data it trains on are
still the data it began with.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from holdfast._tensors import chunks, flatten

AT_ONCE = 2**18  # numbers, which stay in a processor's cache

Marks = Int[Tensor, " examples"]


def marks(x: Float[Tensor, "examples ..."]) -> Marks:
    """``sum_j (w_j b_ij mod 2^32)``, with ``b_ij`` the bits of an example in words of 32 and ``w_j`` fixed
    random odd numbers.

    A change of one word always shows; one of several is missed for about one choice of ``w`` in 2^31.

    >>> bool(marks(torch.zeros(1, 3)) == marks(torch.tensor([[0.0, 1e-38, 0.0]])))
    False
    """
    rows = flatten(x.detach())
    if rows.element_size() < 4:
        rows = rows.float()
    words = rows.shape[1] * rows.element_size() // 4
    random = torch.randint(-(2**30), 2**30, (words,), generator=torch.Generator().manual_seed(0))
    odd = (2 * random + 1).to(x.device, torch.int32)
    found = torch.zeros(len(rows), dtype=torch.int64, device=x.device)
    for part in chunks(len(rows), AT_ONCE // max(1, words)):
        found[part] = (rows[part].contiguous().view(torch.int32) * odd).sum(1)
    return found
