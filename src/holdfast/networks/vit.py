"""A small vision transformer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from holdfast._rules import SEED, takes
from holdfast._tensors import generator
from holdfast.errors import InputError
from holdfast.networks._images import CHANNELS, CLASSES, DEPTH, SIZE, as_images, draw_weights


class _Attention(nn.Module):
    """Multi-head self-attention, ``softmax(Q K^T / sqrt(dim / heads)) V`` in each head.

    Written out: the fused operations of torch lack the second derivatives that step sizes are found by.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        batch, tokens, dim = x.shape
        each = dim // self.heads
        split = self.qkv(x).reshape(batch, tokens, 3, self.heads, each)
        q, k, v = (
            split[:, :, part].transpose(1, 2) for part in range(3)
        )  # the batch stays in front, as in files
        seen = (q @ k.transpose(-2, -1) * each**-0.5).softmax(-1) @ v
        mixed: Tensor = self.out(seen.transpose(1, 2).reshape(batch, tokens, dim))
        return mixed


class _Block(nn.Module):
    """``x + attention(norm(x))``, then the same with two layers of ``4 dim`` GELU units."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = _Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.attention(self.norm1(x))
        changed: Tensor = self.mlp(self.norm2(x))
        return x + changed


@takes(
    classes=CLASSES,
    channels=CHANNELS,
    size=SIZE,
    patch=SIZE,
    dim=CHANNELS,
    depth=DEPTH,
    heads=CHANNELS,
    seed=SEED,
)
class ViT(nn.Module):
    """Vision transformer with normalisation before each part (Dosovitskiy et al. 2021, arXiv 2010.11929).

    The mean of the tokens is classified, without a class token (Beyer et al. 2022, arXiv 2205.01580).

    Args:
        classes: 2 classes have one signed output, more have one output a class.
        channels: channels of one image.
        size: height and width of one image; a multiple of ``patch``.
        patch: height and width of the patches that are the tokens.
        dim: numbers in a token; a multiple of ``heads``.
        depth: transformer blocks.
        heads: of attention in every block.
        seed: seed of the initial weights; the global random state is left alone.

    Shapes: input (batch, channels, size, size), or flattened; output (batch, outputs).

    Raises:
        InputError: ``size`` is no multiple of ``patch``, or ``dim`` none of ``heads``.

    >>> ViT(10, dim=16, depth=1, heads=2)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        size: int = 32,
        patch: int = 4,
        dim: int = 192,
        depth: int = 6,
        heads: int = 3,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if size % patch:
            raise InputError(
                f"patch must divide the images' height and width {size}, got {patch}; ask for a divisor."
            )
        if dim % heads:
            raise InputError(
                f"dim must be a multiple of heads = {heads}, got {dim}; "
                f"ask for {max(1, round(dim / heads)) * heads}."
            )
        self.classes, self.channels, self.size, self.patch = classes, channels, size, patch
        self.dim, self.depth, self.heads = dim, depth, heads
        self.outputs = 1 if classes == 2 else classes
        with torch.device("meta"):
            self.embedding = nn.Conv2d(channels, dim, patch, patch)
            self.position = nn.Parameter(torch.empty((size // patch) ** 2, dim))
            self.blocks = nn.Sequential(*(_Block(dim, heads) for _ in range(depth)))
            self.norm = nn.LayerNorm(dim)
            self.head = nn.Linear(dim, self.outputs)
        draw_weights(self, seed)
        nn.init.normal_(self.position, std=0.02, generator=generator(seed))

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        patches = self.embedding(as_images("ViT", x, self.channels, self.size))
        tokens = self.blocks(patches.flatten(2).transpose(1, 2) + self.position)
        logits: Tensor = self.head(self.norm(tokens).mean(1))
        return logits
