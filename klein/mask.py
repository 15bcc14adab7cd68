"""Masks over a photograph: read from whatever is connected, measured in Klein's cells, softened for the way back.

Masks are numpy arrays (height, width), float32 in [0, 1]; 1 is painted anew and 0 is kept.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from .framing import Size

LEVELS = 2.0**20  # of a feathered mask


class UnusableMask(ValueError):
    """The mask cannot be used; the message says why and what to do."""


def united_mask(masks: np.ndarray, size: Size) -> np.ndarray | None:
    """The one mask of an image of `size` in a batch (n, height, width): all together, None where nothing is marked.

    Values beyond [0, 1] are clipped. A mask of the image's aspect but another size is resampled.

    Raises:
        UnusableMask: another shape, NaN or infinite values, or another aspect.
    """
    _refuse_broken(masks)
    united = masks.max(axis=0).clip(0, 1).astype(np.float32, copy=False)
    if not united.any():
        return None
    height, width = united.shape
    if (width, height) == (size.width, size.height):
        return united
    _refuse_aspect(Size(width, height), size)
    resized = Image.fromarray(united).resize((size.width, size.height), Image.Resampling.BILINEAR)
    return np.asarray(resized).clip(0, 1)


def _refuse_broken(masks: np.ndarray) -> None:
    if masks.ndim != 3 or not masks.size:
        raise UnusableMask(
            f"Expected masks shaped [masks, height, width], got {list(masks.shape)}. The node before this one returned "
            "something that is not a mask."
        )
    if not np.isfinite(masks).all():
        raise UnusableMask(
            "The mask holds NaN or infinite values, so something before this node failed. Repair it there."
        )


def _refuse_aspect(mask: Size, image: Size) -> None:
    """A resize rounds both sides, each by less than a pixel."""
    if abs(mask.width * image.height - mask.height * image.width) >= image.width + image.height:
        raise UnusableMask(
            f"The mask is {mask} pixels and the image {image}, which is another shape: expected a mask of the image's "
            "size, or of its shape at another size. Draw it on this very image, or crop and scale the two alike."
        )


def coverage(mask: np.ndarray, cells: Size) -> np.ndarray:
    """How much of each cell the mask covers: its mean over exactly the cell's share of it, (cells.height, cells.width).

    A cell's share may end within a pixel, of which it then counts that part. A cell that the mask does not touch is 0.
    """
    down, across = (_shares(*pair) for pair in ((cells.height, mask.shape[0]), (cells.width, mask.shape[1])))
    return (down @ mask @ across.T).clip(0, 1).astype(np.float32)


def _shares(cells: int, pixels: int) -> np.ndarray:
    """The weight of each pixel in each cell's mean, (cells, pixels) float64."""
    edges = np.arange(cells + 1)[:, None] * pixels / cells
    covered = np.clip(edges - np.arange(pixels), 0, 1)
    return np.diff(covered, axis=0) * cells / pixels


def feathered(mask: np.ndarray, feather: int) -> np.ndarray:
    """The mask with a soft edge outside: not less than it anywhere, and 0 further than `feather` pixels from it.

    Distances are those along the rows or the columns, whichever is larger.
    """
    wide = (feather + 1) // 2
    blurs = ((feather - wide + 1) // 2, (feather - wide) // 2)
    soft = np.ceil(mask.astype(np.float64) * LEVELS)
    for axis in (0, 1):
        soft = _largest_around(soft, wide, axis)
    for radius, axis in ((blur, axis) for blur in blurs for axis in (0, 1)):
        soft = np.ceil(_mean_around(soft, radius, axis))
    return np.maximum((soft / LEVELS).astype(np.float32), mask)


def _largest_around(levels: np.ndarray, radius: int, axis: int) -> np.ndarray:
    """Of each one's neighbours up to radius, in steps that grow with what is reached; beyond the edges are zeros."""
    levels, reached = np.pad(np.moveaxis(levels, axis, 0), ((radius, radius), (0, 0))), 0
    while reached < radius:
        step = min(radius - reached, 2 * reached + 1)
        before = levels.copy()
        np.maximum(levels[step:], before[:-step], out=levels[step:])
        np.maximum(levels[:-step], before[step:], out=levels[:-step])
        reached += step
    return np.moveaxis(levels[radius : len(levels) - radius], 0, axis)


def _mean_around(levels: np.ndarray, radius: int, axis: int) -> np.ndarray:
    """Of each one's neighbours up to radius, by sums from the edge: of whole numbers, so that they are exact."""
    levels = np.moveaxis(levels, axis, 0)
    sums = np.concatenate((np.zeros_like(levels[:1]), levels.cumsum(axis=0)))
    place = np.arange(len(levels))
    start, stop = (place - radius).clip(0), (place + radius + 1).clip(max=len(levels))
    return np.moveaxis((sums[stop] - sums[start]) / (stop - start)[:, None], 0, axis)
