"""An int8 product of rows that are int8 already, scaled as it is written; comfy_kitchen's makes its own rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..int8 import Int8Rows, Int8Weight
from ..shapes import check_int8_linear
from .launch import check_dense, launch

# Tiles that are computed at about the same time share their rows and columns in the card's cache.
TOGETHER = 8


class Tile(NamedTuple):
    """What one program computes: rows x columns of the product, depth features at a time, stages of them on the way."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def tile_for(rows: int) -> Tile:
    """Chosen by arithmetic, not by a search that would keep a user waiting: enough tiles to fill a card, few loads."""
    if rows <= 32:
        return Tile(32, 64, 128, 4, 4)
    if rows <= 512:
        return Tile(64, 128, 64, 4, 4)
    return Tile(128, 128, 64, 8, 4)


def int8_linear(rows: Int8Rows, weight: Int8Weight, dtype: torch.dtype, *, exact: bool = True) -> Tensor:
    """As `eager.int8_linear`; needs a card of compute capability 8.0, as Triton has no int8 product for older ones.

    Args:
        exact: makes no difference, as it rounds once.

    Raises:
        ValueError: as there; or the matrix is not contiguous.
    """
    check_int8_linear(rows, weight)
    check_dense("int8_linear", weight=weight.levels)
    batch, tokens, features = rows.levels.shape
    levels, wide = rows.levels.reshape(-1, features), weight.levels.shape[0]
    out = torch.empty((batch, tokens, wide), dtype=dtype, device=levels.device)
    tile = tile_for(levels.shape[0])
    launch(
        _product,
        (triton.cdiv(levels.shape[0], tile.rows) * triton.cdiv(wide, tile.columns),),
        *(levels, weight.levels, rows.scale.reshape(-1), weight.scale.reshape(-1), out),
        *(levels.shape[0], wide, features, weight.levels.stride(0)),
        one_scale=weight.scale.numel() == 1,
        even=features % tile.depth == 0,
        together=TOGETHER,
        block_rows=tile.rows,
        block_columns=tile.columns,
        block_depth=tile.depth,
        warps=tile.warps,
        num_stages=tile.stages,
        exact=True,
    )
    return out


@triton.jit
def _tile_of(
    rows: tl.tensor, wide: tl.tensor, block_rows: tl.constexpr, block_columns: tl.constexpr, together: tl.constexpr
) -> tl.tensor:
    """(row, column) of this program's tile: down `together` rows of tiles, then to the next column."""
    high, across = tl.cdiv(rows, block_rows), tl.cdiv(wide, block_columns)
    group, place = tl.program_id(0) // (together * across), tl.program_id(0) % (together * across)
    height = tl.minimum(high - group * together, together)
    return group * together + place % height, place // height


@triton.jit
def _product(
    levels: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    weight_scale: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    wide: tl.tensor,
    features: tl.tensor,
    weight_row: tl.tensor,
    one_scale: tl.constexpr,
    even: tl.constexpr,
    together: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    tile_row, tile_column = _tile_of(rows, wide, block_rows, block_columns, together)
    # Only a tile's place needs 64 bits: what is added to it for an element fits 32.
    first_row, first_column = tile_row.to(tl.int64) * block_rows, tile_column.to(tl.int64) * block_columns
    row, column, depth = tl.arange(0, block_rows), tl.arange(0, block_columns), tl.arange(0, block_depth)
    rows_here, columns_here = (rows - first_row).to(tl.int32), (wide - first_column).to(tl.int32)
    # What is outside reads the last row or column again, and is not stored.
    left = levels + first_row * features + tl.minimum(row, rows_here - 1)[:, None] * features + depth[None, :]
    right = weight + first_column * weight_row
    right += tl.minimum(column, columns_here - 1)[None, :] * weight_row + depth[:, None]
    total = tl.zeros((block_rows, block_columns), dtype=tl.int32)
    for start in range(0, features, block_depth):
        if even:
            a, b = tl.load(left), tl.load(right)
        else:
            a = tl.load(left, mask=(depth < features - start)[None, :], other=0)
            b = tl.load(right, mask=(depth < features - start)[:, None], other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
        left += block_depth
        right += block_depth
    by_row = tl.load(scale + first_row + row, mask=row < rows_here, other=0.0)[:, None]
    if one_scale:
        by_column = tl.load(weight_scale)
    else:
        by_column = tl.load(weight_scale + first_column + column, mask=column < columns_here, other=0.0)[None, :]
    scaled = total.to(tl.float32) * (by_row * by_column)
    inside = (row < rows_here)[:, None] & (column < columns_here)[None, :]
    target = out + first_row * wide + first_column
    tl.store(target + row[:, None] * wide + column[None, :], scaled.to(out.dtype.element_ty), mask=inside)
