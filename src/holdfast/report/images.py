"""The gallery: examples, perturbations and attacked examples as pictures inside the page.

Images become PNG data URIs, pixel for pixel; anything that is no image becomes a bar for each feature.
"""

import base64
import struct
import zlib
from dataclasses import dataclass
from math import isqrt

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from holdfast._formats import setting
from holdfast.report.collect import Gallery, RunPage
from holdfast.report.svg import Svg

MOST_ITEMS = 24
MOST_PIXELS = 224
MOST_BARS = 128
SMALLEST_SIDE = (
    8  # 64 features and more are taken for an image where they form a square; fewer are a table's columns
)
# Blue over near-white to vermillion: apart in lightness and hue for every common colour vision.
NEGATIVE, ZERO, POSITIVE = (0x1B, 0x5F, 0xAA), (0xF7, 0xF6, 0xF4), (0xC4, 0x4E, 0x0C)

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One example of the gallery, drawn."""

    clean: Markup
    perturbation: Markup
    attacked: Markup
    label: str
    predicted_clean: str | None
    predicted_attacked: str | None
    fooled: bool
    size: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The gallery of one run; ``reach`` is the end of the symmetric colour scale."""

    items: tuple[Item, ...]
    left_out: int
    reach: str
    as_images: bool
    bars: str


def png(pixels: Pixels) -> bytes:
    """An 8-bit RGB image (height, width, 3) as a PNG file."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # filter 0
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", header)
        + part(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + part(b"IEND", b"")
    )


def as_images(x: Values, also: Values | None = None) -> Values | None:
    """Examples as (examples, channels, height, width), or ``None`` where they are no images.

    Square vectors become images; a last coordinate that is the same everywhere (the constant of the theory's
    unit sphere) is dropped first. ``also`` gives further examples of which the same must hold.
    """
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return x
    if x.ndim == 3:
        return x[:, None] if x.shape[1] >= SMALLEST_SIDE and x.shape[2] >= SMALLEST_SIDE else None
    if x.ndim != 2:
        return None
    last = x[:, -1] if also is None else np.concatenate([x[:, -1], also[:, -1]])
    constant = bool(np.ptp(last) <= 1e-6 * max(1.0, float(np.abs(last).max()))) and len(last) > 1
    for features in (x.shape[1], x.shape[1] - 1) if constant else (x.shape[1],):
        for channels in (1, 3):
            side = isqrt(features // channels)
            if side >= SMALLEST_SIDE and channels * side * side == features:
                return x[:, :features].reshape(len(x), channels, side, side)
    return None


def greys(image: Values, low: float, high: float) -> Pixels:
    """(1 or 3, height, width) onto black to white, ``low`` to ``high``."""
    share = (image - low) / (high - low) if high > low else np.zeros_like(image)
    shades = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
    return np.repeat(shades, 3, axis=0).transpose(1, 2, 0) if len(shades) == 1 else shades.transpose(1, 2, 0)


def diverging(change: Values, reach: float) -> Pixels:
    """A change (channels, height, width) in colour, symmetric about 0; of several channels the largest
    change is shown.
    """
    strongest = np.take_along_axis(change, np.abs(change).argmax(0)[None], 0)[0]
    share = (strongest / reach).clip(-1, 1)[..., None] if reach > 0 else np.zeros((*strongest.shape, 1))
    ends = np.where(share < 0, np.array(NEGATIVE, float), np.array(POSITIVE, float))
    mixed: Pixels = np.rint(np.array(ZERO, float) + np.abs(share) * (ends - np.array(ZERO, float))).astype(
        np.uint8
    )
    return mixed


def _picture(pixels: Pixels, words: str) -> Markup:
    stride = -(-max(pixels.shape[:2]) // MOST_PIXELS)  # large photographs are thinned: the page stays small
    data = base64.b64encode(png(pixels[::stride, ::stride])).decode("ascii")
    return Markup('<img class="pixels" src="data:image/png;base64,{}" alt="{}">').format(data, words)


def _bars(values: Values, reach: float, words: str, style: str) -> Markup:
    svg = Svg(120, 80)
    width = 120 / len(values)
    for i, share in enumerate((values / reach).clip(-1, 1) if reach > 0 else values * 0):
        height = 38 * abs(share)
        side = ("positive" if share > 0 else "negative") if style == "change" else "plain"
        svg.rect(i * width, 40 - height if share > 0 else 40, max(width - 0.6, 0.4), height, f"bar {side}")
    svg.line(0, 40, 120, 40, "axis")
    return svg.render(words, "bars")


def draw(run: RunPage, gallery: Gallery | None) -> Picture | None:
    """A gallery with one grey scale and one colour scale for all its examples; the run names the classes."""
    if gallery is None or not len(gallery.x) or not gallery.x[0].size:
        return None
    keep = slice(0, MOST_ITEMS)
    x, attacked = gallery.x[keep], gallery.attacked[keep]
    clean, moved = as_images(x, attacked), as_images(attacked, x)
    images = clean is not None and moved is not None
    if clean is None or moved is None:
        clean, moved = x.reshape(len(x), -1)[:, :MOST_BARS], attacked.reshape(len(x), -1)[:, :MOST_BARS]
    change = moved - clean
    low, high = float(min(clean.min(), moved.min())), float(max(clean.max(), moved.max()))
    reach, height = float(np.abs(change).max()), max(abs(low), abs(high))
    features = x[0].size
    items = []
    for i in range(len(x)):
        label, before, after = _names(run, gallery, i)
        words = (
            f"Example of class {label}",
            f"Change made by the attack, up to {setting(float(np.abs(change[i]).max()))}",
            f"The same example attacked{'' if after is None else f', predicted {after}'}",
        )
        if images:
            drawn = (
                _picture(greys(clean[i], low, high), words[0]),
                _picture(diverging(change[i], reach), words[1]),
                _picture(greys(moved[i], low, high), words[2]),
            )
        else:
            drawn = (
                _bars(clean[i], height, words[0], "plain"),
                _bars(change[i], reach, words[1], "change"),
                _bars(moved[i], height, words[2], "plain"),
            )
        items.append(
            Item(
                clean=drawn[0],
                perturbation=drawn[1],
                attacked=drawn[2],
                label=label,
                predicted_clean=before,
                predicted_attacked=after,
                fooled=after is not None and after != label,
                size=setting(float(f"{np.abs(attacked[i] - x[i]).max():.4g}")),
            )
        )
    return Picture(
        items=tuple(items),
        left_out=len(gallery.x) - len(items),
        reach=setting(float(f"{reach:.4g}")),
        as_images=images,
        bars=f"first {MOST_BARS} of {features:,} features"
        if features > MOST_BARS
        else f"{features} features",
    )


def _names(run: RunPage, gallery: Gallery, i: int) -> tuple[str, str | None, str | None]:
    """Names of the label, the clean prediction and the prediction under attack."""
    before, after = gallery.predicted_clean, gallery.predicted_attacked
    return (
        run.class_name(int(gallery.label[i])),
        None if before is None else run.class_name(int(before[i])),
        None if after is None else run.class_name(int(after[i])),
    )
