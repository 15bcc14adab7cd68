"""How reference images meet Klein's grid: sizing, cropping, padding, and the way back.

Sizing follows black-forest-labs/flux2 (src/flux2/sampling.py): cap the area, never upscale, Lanczos,
centre-crop to multiples of 16. Images are numpy arrays (height, width, channels), float32 in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from PIL import Image

GRID = 16
SHORTEST_SIDE = 64
LARGEST_ASPECT = 8
MEGAPIXEL = 1024**2
CAP_SINGLE = 2024**2
CAP_SEVERAL = 1024**2
EIGHT_BIT_TOLERANCE = 1e-3  # of one 8-bit level; a 16-bit image is off by at least 1/257

Box = tuple[float, float, float, float]

ASPECT_RATIOS = {
    ratio: tuple(int(side) for side in ratio.split(":"))
    for ratio in ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
}


class Fit(str, Enum):
    """How an image's sides become multiples of 16."""

    CROP = "crop"
    PAD = "pad"
    MEGAPIXEL = "megapixel"


class UnusableImage(ValueError):
    """The image cannot be a reference; the message says why and what to do."""


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def area(self) -> int:
        return self.width * self.height


@dataclass(frozen=True)
class Placement:
    """How one image was fitted: scaled from `original` to `scaled`, then cut or padded to `grid`.

    The grid's upper left corner lies at (left, top) of the scaled image; negative means padding.
    """

    original: Size
    scaled: Size
    grid: Size
    left: int
    top: int


def place_image(size: Size, fit: Fit, *, several: bool) -> Placement:
    """Plans how an image of `size` is fitted.

    Args:
        several: more than one reference is in use, which lowers the cap from 2024^2 to 1024^2 pixels.

    Raises:
        UnusableImage: a side under 64 pixels or an aspect over 8:1, BFL's own limits.
    """
    refuse_extremes(size)
    scaled = _scale_to_megapixel(size) if fit is Fit.MEGAPIXEL else _cap(size, several=several)
    grid = _ceil_to_grid(scaled) if fit is Fit.PAD else _floor_to_grid(scaled)
    left = (scaled.width - grid.width) // 2
    top = (scaled.height - grid.height) // 2
    return Placement(original=size, scaled=scaled, grid=grid, left=left, top=top)


def refuse_extremes(size: Size) -> None:
    """Holds an image to BFL's own limits.

    Raises:
        UnusableImage: a side under 64 pixels or an aspect over 8:1.
    """
    if min(size.width, size.height) < SHORTEST_SIDE:
        raise UnusableImage(
            f"The image is {size} pixels; FLUX.2 needs at least {SHORTEST_SIDE} on each side. Use a larger image."
        )
    aspect = max(size.width / size.height, size.height / size.width)
    if aspect > LARGEST_ASPECT:
        raise UnusableImage(
            f"The image is {size} pixels, an aspect of {aspect:.1f}:1; FLUX.2 takes at most "
            f"{LARGEST_ASPECT}:1. Crop it first."
        )


def enlarged(size: Size, megapixels: float) -> Size:
    """The size at an area in units of 1024^2 pixels; as it is where it has that much, for nothing is made smaller."""
    scale = math.sqrt(megapixels * MEGAPIXEL / size.area)
    return Size(round(size.width * scale), round(size.height * scale)) if scale > 1 else size


def _cap(size: Size, *, several: bool) -> Size:
    cap = CAP_SEVERAL if several else CAP_SINGLE
    if size.area <= cap:
        return size
    scale = math.sqrt(cap / size.area)
    return Size(int(size.width * scale), int(size.height * scale))


def _scale_to_megapixel(size: Size) -> Size:
    scale = math.sqrt(MEGAPIXEL / size.area)
    return Size(round(size.width * scale), round(size.height * scale))


def _floor_to_grid(size: Size) -> Size:
    return Size(size.width // GRID * GRID, size.height // GRID * GRID)


def _ceil_to_grid(size: Size) -> Size:
    return Size(math.ceil(size.width / GRID) * GRID, math.ceil(size.height / GRID) * GRID)


def output_size(aspect_ratio: str, megapixels: float) -> Size:
    """The size on the grid nearest to an aspect ratio ("16:9") and an area in units of 1024^2 pixels."""
    across, down = ASPECT_RATIOS[aspect_ratio]
    height = math.sqrt(megapixels * MEGAPIXEL * down / across)
    return snap(height * across / down, height)


def snap(width: float, height: float) -> Size:
    """The nearest size with both sides multiples of 16 and at least 64."""
    return Size(*(max(SHORTEST_SIDE, round(side / GRID) * GRID) for side in (width, height)))


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Any 1 to 4 channel image as finite RGB in [0, 1]; transparency is laid over white. RGB in range is not copied.

    Raises:
        UnusableImage: no pixels, NaN or infinite ones, or a channel count that is not an image's.
    """
    if not image.size:
        raise UnusableImage(f"The image has no pixels: its shape is {list(image.shape)}.")
    if not np.isfinite(image).all():
        raise UnusableImage(
            "The image holds NaN or infinite pixels, so something before this node failed "
            "(often a VAE in half precision). Repair it there."
        )
    if image.min() < 0 or image.max() > 1:
        image = image.clip(0, 1)
    channels = image.shape[-1]
    if channels == 3:
        return image
    if channels == 1:
        return np.repeat(image, 3, axis=-1)
    if channels == 4:
        alpha = image[..., 3:]
        return image[..., :3] * alpha + (1 - alpha)
    raise UnusableImage(f"The image has {channels} channels; expected 1 (grey), 3 (RGB) or 4 (RGBA).")


def fit_image(image: np.ndarray, placement: Placement) -> np.ndarray:
    """The RGB image (H, W, 3) scaled and cut or padded to the placement's grid."""
    scaled = resample(image, placement.scaled)
    if placement.left >= 0 and placement.top >= 0:
        return scaled[_span(placement.top, placement.grid.height), _span(placement.left, placement.grid.width)]
    return np.pad(scaled, (*_margins(placement), (0, 0)), mode="edge")


def fit_mask(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """A mask (H, W) in [0, 1] over the image, as `fit_image` fits that; antialiased by area."""
    size = (placement.scaled.width, placement.scaled.height)
    plane = Image.fromarray(np.ascontiguousarray(mask, dtype=np.float32))
    scaled = np.asarray(plane.resize(size, Image.Resampling.BOX))
    if placement.left >= 0 and placement.top >= 0:
        return scaled[_span(placement.top, placement.grid.height), _span(placement.left, placement.grid.width)].copy()
    return np.pad(scaled, _margins(placement), mode="edge")


def _span(start: int, length: int) -> slice:
    return slice(start, start + length)


def _margins(placement: Placement) -> tuple[tuple[int, int], tuple[int, int]]:
    below = placement.grid.height - placement.scaled.height + placement.top
    right = placement.grid.width - placement.scaled.width + placement.left
    return (-placement.top, below), (-placement.left, right)


def resample(image: np.ndarray, size: Size, box: Box | None = None) -> np.ndarray:
    """Pillow's Lanczos. 8-bit images take its 8-bit path, as in BFL's code; finer ones stay in float."""
    height, width = image.shape[:2]
    if box is None and (width, height) == (size.width, size.height):
        return image
    levels = image * np.float32(255)
    rounded = levels.round()
    if np.abs(levels - rounded).max() < EIGHT_BIT_TOLERANCE:
        return _resample_8bit(rounded.astype(np.uint8), size, box)
    return _resample_float(image, size, box)


def _resample_8bit(levels: np.ndarray, size: Size, box: Box | None) -> np.ndarray:
    picture = Image.fromarray(levels).resize((size.width, size.height), Image.Resampling.LANCZOS, box)
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _resample_float(image: np.ndarray, size: Size, box: Box | None) -> np.ndarray:
    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0))
    target = (size.width, size.height)
    resized = [np.asarray(plane.resize(target, Image.Resampling.LANCZOS, box)) for plane in planes]
    return np.stack(resized, axis=-1).clip(0, 1)


def restore_image(edited: np.ndarray, original: np.ndarray, placement: Placement) -> np.ndarray:
    """The edited picture laid back over the original at its own pixel size and framing.

    Padding is removed; where fitting had cropped, the original's pixels stand. The edited picture may
    have been enlarged since, as long as its aspect is still the grid's but for rounding to whole pixels.

    Args:
        edited: (H, W, 3) float32. original: (placement.original.height, placement.original.width, 3) float32.

    Raises:
        UnusableImage: the picture's aspect is not the grid's, so no placement is right.
    """
    grid, scaled, whole = placement.grid, placement.scaled, placement.original
    what_to_do = "Set aspect_ratio to match_input_image or enlarge_input_image on Klein 9B References."
    wider, taller = enlargement(edited, grid, what_to_do)
    columns = _covered(placement.left, grid.width, scaled.width, whole.width)
    rows = _covered(placement.top, grid.height, scaled.height, whole.height)
    across, down = scaled.width / whole.width, scaled.height / whole.height
    box = (
        (columns.start * across - placement.left) * wider,
        (rows.start * down - placement.top) * taller,
        (columns.stop * across - placement.left) * wider,
        (rows.stop * down - placement.top) * taller,
    )
    restored = original.copy()
    size = Size(columns.stop - columns.start, rows.stop - rows.start)
    restored[rows, columns] = resample(edited, size, box)
    return restored


def enlargement(edited: np.ndarray, grid: Size, advice: str) -> tuple[float, float]:
    """How many times wider and taller than the grid. A resize rounds both sides, each by less than a pixel.

    Raises:
        UnusableImage: another aspect; the message ends with the advice.
    """
    height, width = edited.shape[:2]
    wider, taller = width / grid.width, height / grid.height
    if abs(wider - taller) * min(grid.width, grid.height) >= 1:
        raise UnusableImage(
            f"The picture is {width}x{height} but image 1 was fitted to {grid}, so it cannot be laid "
            f"back over image 1. {advice}"
        )
    return wider, taller


def _covered(offset: int, grid: int, scaled: int, original: int) -> slice:
    """The original's pixels, along one axis, that lie wholly inside the grid."""
    first = max(0, math.ceil(offset * original / scaled))
    last = min(original, math.floor((offset + grid) * original / scaled))
    return slice(first, last)
