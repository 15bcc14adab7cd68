"""A part of a photograph painted anew: what is hidden, which part the model works on, and the way back.

The photograph may grow at its sides first. Then a window is cut around the mask and scaled to Klein's grid, both sides
separately and by less than a cell, so that it holds all its pixels. Images are numpy arrays (height, width, channels),
float32 in [0, 1], masks (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .fill import filled
from .framing import GRID, LARGEST_ASPECT, SHORTEST_SIDE, Size, enlargement, refuse_extremes, resample
from .mask import UnusableMask, coverage, feathered

ALMOST_ALL = 0.9  # of the canvas: a window this large becomes the whole


@dataclass(frozen=True)
class Sides:
    """Pixels by which a photograph grows at each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __bool__(self) -> bool:
        return any((self.left, self.top, self.right, self.bottom))


@dataclass(frozen=True)
class Window:
    """A part of the canvas in whole pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)

    @property
    def part(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class Area:
    """What the model works on: the mask's surroundings with all the tokens there are, or the whole picture.

    Attributes:
        budget: the most pixels on the grid. A window around the mask is enlarged to it, a whole picture never.
        context: how far the surroundings reach at each side, as a part of the mask's longer side; None is the whole.
    """

    budget: int
    context: float | None = None


@dataclass(frozen=True)
class Cut:
    """How a photograph came onto the grid: grown from `original` at its sides, then a window of that scaled."""

    original: Size
    sides: Sides
    window: Window
    grid: Size

    def on_cells(self, mask: np.ndarray) -> np.ndarray:
        """How much of each token's cell a mask over the photograph covers, as of `Inpainting.coverage`."""
        grown = np.pad(mask, _margins(self.sides), mode="edge") if self.sides else mask
        return coverage(grown[self.window.part], _cells(self.grid))


@dataclass(frozen=True)
class Inpainting:
    """A photograph about to be painted in.

    Attributes:
        canvas: the photograph, grown at its sides; the connected IMAGE's own memory where it has not grown.
        mask: what is painted anew, over the canvas; above 0 is hidden.
        window: the part of the canvas that the model works on.
        grid: the size the window is scaled to.
        blend: how much of the edited picture comes back, over the window; 0 beyond the feather.
    """

    canvas: np.ndarray
    mask: np.ndarray
    window: Window
    grid: Size
    blend: np.ndarray

    @property
    def picture(self) -> np.ndarray:
        """The window on the grid, (grid.height, grid.width, 3), as it is."""
        return resample(self.canvas[self.window.part], self.grid)

    @property
    def visible_picture(self) -> np.ndarray:
        """The same with nothing of what is under the mask in any of its pixels."""
        return resample(filled(self.canvas[self.window.part], self.mask[self.window.part] > 0), self.grid)

    @property
    def coverage(self) -> np.ndarray:
        """How much of each token's cell the mask covers, (grid.height / 16, grid.width / 16)."""
        return coverage(self.mask[self.window.part], _cells(self.grid))

    def cut(self, sides: Sides) -> Cut:
        """Of the photograph that has grown at these sides."""
        height, width = self.canvas.shape[:2]
        original = Size(width - sides.left - sides.right, height - sides.top - sides.bottom)
        return Cut(original, sides, self.window, self.grid)


def plan_inpainting(
    image: np.ndarray, mask: np.ndarray | None, area: Area, *, feather: int = 0, sides: Sides | None = None
) -> Inpainting:
    """Plans how an image (H, W, 3) is painted in where its mask (H, W) says, and beyond its sides.

    Args:
        feather: over how many pixels around the mask the edited picture fades into the photograph; at a side that
            grows, over how many within the photograph, which are painted too.

    Raises:
        UnusableMask: there is neither a mask nor a side to grow.
        UnusableImage: the canvas is too small or too narrow.
    """
    sides = sides or Sides()
    if mask is None and not sides:
        raise UnusableMask(
            "Nothing is marked to be painted anew: the mask is empty or not connected. Paint over something, invert "
            "the mask if it marks what to keep, or enlarge a side."
        )
    canvas = np.pad(image, (*_margins(sides), (0, 0)), mode="edge") if sides else image
    height, width = canvas.shape[:2]
    refuse_extremes(Size(width, height))
    drawn = np.zeros(image.shape[:2], np.float32) if mask is None else mask
    beyond, drawn = _beyond(drawn, sides, feather), np.pad(drawn, _margins(sides))
    whole = np.maximum(drawn, beyond)
    window = _window(whole, area, feather)
    blend = np.maximum(_feathered_within(drawn, window, feather), beyond[window.part])
    return Inpainting(canvas, whole, window, _grid(window.size, area), blend)


def restore_inpainting(edited: np.ndarray, inpainting: Inpainting) -> np.ndarray:
    """The canvas with the edited picture in it. Every pixel where the blend is 0 is the canvas' own, bit for bit.

    Args:
        edited: (H, W, 3) float32, as large as the grid or enlarged since, as long as its aspect is still the grid's
            but for rounding to whole pixels.

    Raises:
        UnusableImage: the picture's aspect is not the grid's.
    """
    window = inpainting.window
    enlargement(edited, inpainting.grid, "Sample the latent of Klein 9B Inpaint, and crop nothing off.")
    restored = inpainting.canvas.copy()
    blend = inpainting.blend[..., None]
    restored[window.part] = restored[window.part] * (1 - blend) + resample(edited, window.size) * blend
    return restored


def _cells(grid: Size) -> Size:
    return Size(grid.width // GRID, grid.height // GRID)


def _margins(sides: Sides) -> tuple[tuple[int, int], tuple[int, int]]:
    return (sides.top, sides.bottom), (sides.left, sides.right)


def _beyond(drawn: np.ndarray, sides: Sides, feather: int) -> np.ndarray:
    """1 outside the photograph, falling to 0 over the feather inside it, at the sides that grow."""
    height, width = drawn.shape
    down = _ramp(height, sides.top, sides.bottom, feather)
    across = _ramp(width, sides.left, sides.right, feather)
    return np.maximum(down[:, None], across[None])


def _ramp(length: int, before: int, after: int, feather: int) -> np.ndarray:
    position = np.arange(-before, length + after)
    at_start = 1 - (position + 1) / (feather + 1) if before else np.zeros(position.size)
    at_end = 1 - (length - position) / (feather + 1) if after else np.zeros(position.size)
    return np.maximum(at_start, at_end).clip(0, 1).astype(np.float32)


def _window(mask: np.ndarray, area: Area, feather: int) -> Window:
    height, width = mask.shape
    if area.context is None:
        return Window(0, 0, width, height)
    (top, bottom), (left, right) = _extent(mask, 0), _extent(mask, 1)
    margin = max(SHORTEST_SIDE, feather, math.ceil(area.context * max(bottom - top, right - left)))
    rows, columns = _grown(top, bottom, margin, height), _grown(left, right, margin, width)
    rows, columns = _not_too_narrow(rows, columns, height), _not_too_narrow(columns, rows, width)
    window = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
    return window if window.size.area < ALMOST_ALL * mask.size else Window(0, 0, width, height)


def _extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """From and to where anything is marked, along an axis."""
    first, last = np.flatnonzero(mask.any(axis=1 - axis))[[0, -1]]
    return int(first), int(last) + 1


def _grown(start: int, stop: int, margin: int, limit: int) -> tuple[int, int]:
    return max(0, start - margin), min(limit, stop + margin)


def _not_too_narrow(span: tuple[int, int], other: tuple[int, int], limit: int) -> tuple[int, int]:
    """The span widened, towards both sides while there is room, to what FLUX.2 takes beside the other."""
    least = min(limit, max(SHORTEST_SIDE, math.ceil((other[1] - other[0]) / LARGEST_ASPECT)))
    missing = max(0, least - (span[1] - span[0]))
    start = min(max(0, span[0] - missing // 2), limit - (span[1] - span[0]) - missing)
    return start, start + span[1] - span[0] + missing


def _grid(window: Size, area: Area) -> Size:
    """The size on the grid with the window's shape, or as near to it as the grid has, and not above the budget."""
    scale = math.sqrt(area.budget / window.area)
    if area.context is None:
        scale = min(1, scale)
    sizes = [Size(width, height) for width in _near(window.width * scale) for height in _near(window.height * scale)]
    allowed = [size for size in sizes if size.area <= area.budget]
    return min(allowed, key=lambda size: (_distortion(size, window), -size.area))


def _near(side: float) -> Iterator[int]:
    yield from {math.floor(side / GRID) * GRID, math.ceil(side / GRID) * GRID}


def _distortion(size: Size, window: Size) -> float:
    return abs(math.log(size.width * window.height / (size.height * window.width)))


def _feathered_within(mask: np.ndarray, window: Window, feather: int) -> np.ndarray:
    """The feathered mask over the window, reckoned where it is not 0 only."""
    drawn = mask[window.part]
    soft = np.zeros_like(drawn)
    if not drawn.any():
        return soft
    rows, columns = (
        slice(*_grown(*_extent(drawn, axis), 2 * feather, limit))
        for axis, limit in ((0, window.height), (1, window.width))
    )
    soft[rows, columns] = feathered(drawn[rows, columns], feather)
    return soft
