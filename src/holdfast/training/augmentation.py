"""Augmentation of the examples of a step: drawn afresh for each batch, before they are attacked."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from holdfast._registry import AUGMENTATIONS
from holdfast._rules import FLAG, instance_name_or_function, real, takes, whole
from holdfast._tensors import generator as seeded
from holdfast.errors import InputError
from holdfast.threats import Threat

Examples = Float[Tensor, "batch ..."]
Function = Callable[[Tensor, Generator], Tensor]
"""``(x, generator) -> x``, of the same shape and dtype."""
TRIED = 8
"""Examples that an augmentation is tried on before training."""


class Augmentation(ABC):
    """Other examples of the same classes in place of those of a step.

    The threat set of the step is that around the new example.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The word for it on the command line and in run folders."""

    @abstractmethod
    def __call__(self, x: Examples, generator: Generator) -> Examples:
        """New examples, drawn with ``generator``."""


@dataclass(frozen=True)
class NoAugmentation(Augmentation):
    """The examples themselves."""

    @property
    def name(self) -> str:
        return "none"

    def __call__(self, x: Examples, generator: Generator) -> Examples:
        return x


@takes(shift=whole(), flip=FLAG, cutout=whole(), fill=real())
@dataclass(frozen=True)
class ImageAugmentation(Augmentation):
    """Random shifts and mirror images (He et al. 2016, arXiv 1512.03385), and cutout (DeVries and Taylor 2017, arXiv 1708.04552).

    Images are (batch, channels, height, width). A shift of at most 4 is the same as a random crop of an image
    padded by 4.

    Attributes:
        shift: largest shift in either direction, in pixels; 0 for none.
        flip: whether to mirror an image left to right with probability 1/2; leave it out for digits and text.
        cutout: side of a square that is blanked at a random place, in pixels; 0 for none.
        fill: value of blank pixels, in the data's units.

    >>> import torch
    >>> import holdfast as hf
    >>> images = torch.rand(8, 3, 32, 32)
    >>> hf.ImageAugmentation(shift=4)(images, torch.Generator().manual_seed(0)).shape
    torch.Size([8, 3, 32, 32])
    """

    shift: int = 4
    flip: bool = True
    cutout: int = 0
    fill: float = 0.0

    @property
    def name(self) -> str:
        return "images"

    def __call__(self, x: Examples, generator: Generator) -> Examples:
        if x.ndim != 4:
            raise InputError(
                f"augmentation of images needs examples of shape (channels, height, width), got {tuple(x.shape[1:])}; "
                "leave flatten out, or pass augmentation=None."
            )
        n, _, height, width = x.shape

        def drawn(below: int, shape: tuple[int, ...] = (n, 1)) -> Tensor:
            return torch.randint(below, shape, generator=generator, device=x.device)

        rows = torch.arange(height, device=x.device).expand(n, height)
        columns = torch.arange(width, device=x.device).expand(n, width)
        if self.flip:
            columns = torch.where(drawn(2).bool(), columns.flip(1), columns)
        if self.shift:
            rows, columns = rows + drawn(2 * self.shift + 1), columns + drawn(2 * self.shift + 1)
            x = torch.nn.functional.pad(x, (self.shift,) * 4, value=self.fill)
        if self.flip or self.shift:
            # One look-up does both: pixel (i, j) of each image comes from (rows[i], columns[j]).
            each = torch.arange(n, device=x.device)[:, None, None]
            x = x[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
        if self.cutout:
            inside = []
            for length in (height, width):
                # The square's centre is any pixel, so that at an edge less of it is seen, as in the paper.
                first = drawn(length) - self.cutout // 2
                place = torch.arange(length, device=x.device)
                inside.append((place >= first) & (place < first + self.cutout))
            blank = inside[0][:, None, :, None] & inside[1][:, None, None, :]
            x = x.masked_fill(blank, self.fill)
        return x


@dataclass(frozen=True)
class _OwnAugmentation(Augmentation):
    """A user's function as an augmentation."""

    function: Function

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, x: Examples, generator: Generator) -> Tensor:
        try:
            found: Any = self.function(x, generator)
        except Exception as error:  # a function of the user's fails in its own ways
            raise InputError(
                f"augmentation must be a function (x, generator) that runs on a batch, but {self.name} fails "
                f"({type(error).__name__}: {error}); fix it."
            ) from error
        if not isinstance(found, Tensor) or found.shape != x.shape or found.dtype != x.dtype:
            came = (
                f"{found.dtype} of shape {tuple(found.shape)}"
                if isinstance(found, Tensor)
                else type(found).__name__
            )
            raise InputError(
                f"augmentation must return a tensor like the batch it is given, {x.dtype} of shape {tuple(x.shape)}, "
                f"got {came}; return one new example for each."
            )
        return found.detach()


def check_augmentation(augmentation: Augmentation, x: Examples, threat: Threat) -> None:
    """Try the augmentation on a few examples.

    Raises:
        InputError: what it gives is not of the examples' shape and dtype, not finite, or outside the valid box.
    """
    if isinstance(augmentation, NoAugmentation):
        return
    found, again = (_tried(augmentation, x[:TRIED]) for _ in range(2))
    try:
        threat.check(found)
    except InputError as error:
        why = str(error).partition(";")[0]
        raise InputError(
            f"augmentation must return examples like those of the data, but {why}; clip them in the augmentation."
        ) from None
    if not torch.equal(found, again):
        raise InputError(
            "augmentation must draw with the generator it is given, or with torch's own, so that a run can be repeated and "
            "resumed, but gives different examples for one seed; keep no state in it, and no other random numbers."
        )


def _tried(augmentation: Augmentation, x: Examples) -> Tensor:
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        return augmentation(x.clone(), seeded(0, x.device))


AUGMENTATION = instance_name_or_function(
    Augmentation,
    AUGMENTATIONS,
    _OwnAugmentation,
    what="an augmentation such as ImageAugmentation(shift=4), the name of one such as 'images', or a function "
    "(x, generator) -> x",
)


def as_augmentation(value: Augmentation | Function | str) -> Augmentation:
    """The augmentation itself, that of this name with its own defaults, or a function as one.

    Args:
        value: an augmentation, its name, or a function ``(x, generator) -> x``.

    Raises:
        InputError: none of these.

    >>> as_augmentation("images").name
    'images'
    """
    found: Augmentation = AUGMENTATION("augmentation", value)
    return found
