"""A picture larger than the model paints: tiles of it, evaluated one by one in each step and merged.

In each step D = sum w_t D_t / sum w_t, as in MultiDiffusion (Bar-Tal et al., 2023). A tile lies on the grid of latent
cells, 16 pixels each, and is to the model a picture of its own, with its positions counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from .framing import GRID, Size

Span = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A part of a latent, in its cells."""

    top: int
    left: int
    height: int
    width: int

    def of(self, tensor: Tensor) -> Tensor:
        """A view (..., height, width) of a tensor over the whole picture."""
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Tiling:
    """How large tiles may be and how far neighbours overlap, in cells.

    Raises:
        ValueError: the overlap is not from 1 to half a tile.
    """

    largest: int
    overlap: int

    def __post_init__(self) -> None:
        if not 1 <= self.overlap <= self.largest // 2:
            raise ValueError(
                f"The overlap of the tiles is {self.overlap * GRID} pixels, but with tiles of at most "
                f"{self.largest * GRID} it must be from {GRID} to {self.largest // 2 * GRID}: make the overlap smaller "
                "or the tiles larger."
            )

    def tiles(self, height: int, width: int) -> Tiles:
        """Those of a latent of so many cells, the same object again for every step of a run."""
        return _tiles(self, height, width)

    def tiles_if_several(self, height: int, width: int) -> Tiles | None:
        """None where one is the picture, which then needs no tiles."""
        tiles = self.tiles(height, width)
        return tiles if len(tiles.windows) > 1 else None

    def spans(self, length: int) -> Sequence[Span]:
        """As few as cover it, all of one size and evenly spread, so that one schedule and one graph serve them all."""
        count = math.ceil((max(length, self.largest) - self.overlap) / (self.largest - self.overlap))
        size = math.ceil((length + (count - 1) * self.overlap) / count)
        starts = [round(i * (length - size) / max(1, count - 1)) for i in range(count)]
        return [(start, start + size) for start in starts]


@dataclass(frozen=True)
class Tiles:
    """Those of one picture.

    Attributes:
        rows: from and to of each row of tiles, from the top.
        columns: the same from the left.
        overlap: over so many cells a tile fades in where it has a neighbour.
    """

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    overlap: int

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """Row by row."""
        return tuple(
            Window(top, left, bottom - top, right - left) for top, bottom in self.rows for left, right in self.columns
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every tile."""
        return self.windows[0].height, self.windows[0].width

    @property
    def picture(self) -> tuple[int, int]:
        return self.rows[-1][1], self.columns[-1][1]

    @property
    def tokens(self) -> int:
        """Of every tile."""
        height, width = self.size
        return height * width

    @cached_property
    def weights(self) -> list[Tensor]:
        """Of each window, (height, width) float32 above 0; over each cell of the picture they sum to 1."""
        down, across = (_shares(spans, self.overlap) for spans in (self.rows, self.columns))
        return [(one[:, None] * other[None]).float() for one in down for other in across]

    def merged(self, parts: Sequence[Tensor]) -> Tensor:
        """The weighted mean of the tiles' (..., height, width) as one float32 tensor of the picture's size."""
        whole = torch.zeros(*parts[0].shape[:-2], *self.picture, device=parts[0].device)
        for window, weight, part in zip(self.windows, self.weights, parts):
            window.of(whole).add_(part.float() * weight.to(whole.device))
        return whole


def pixels(cells: tuple[int, int]) -> Size:
    """Of a height and width in cells."""
    height, width = cells
    return Size(width * GRID, height * GRID)


@lru_cache(maxsize=4)
def _tiles(tiling: Tiling, height: int, width: int) -> Tiles:
    return Tiles(tuple(tiling.spans(height)), tuple(tiling.spans(width)), tiling.overlap)


def _shares(spans: Sequence[Span], overlap: int) -> list[Tensor]:
    """Of each span, its share in each of its cells, float64."""
    total = torch.zeros(spans[-1][1], dtype=torch.float64)
    ramps = [_ramp(span, spans, overlap) for span in spans]
    for (start, stop), ramp in zip(spans, ramps):
        total[start:stop] += ramp
    return [ramp / total[start:stop] for (start, stop), ramp in zip(spans, ramps)]


def _ramp(span: Span, spans: Sequence[Span], overlap: int) -> Tensor:
    """1, and smoothly towards 0 at the ends that are not the picture's."""
    cells = torch.arange(span[1] - span[0], dtype=torch.float64) + 0.5
    faded = torch.ones_like(cells)
    if span != spans[0]:
        faded = faded * _smooth(cells / overlap)
    if span != spans[-1]:
        faded = faded * _smooth(cells.flip(0) / overlap)
    return faded


def _smooth(x: Tensor) -> Tensor:
    """3x^2 - 2x^3 up to 1: level at both ends, so that no edge shows where a tile begins."""
    x = x.clamp(max=1)
    return x * x * (3 - 2 * x)
