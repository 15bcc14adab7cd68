"""Activations made int8 by the kernel that computed them, while they are in its registers."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..int8 import Int8Rows
from ..shapes import check_rotation
from .rows import quotient, rotated, rounded, this_row, unswapped

HIGHEST = tl.constexpr(127.0)
LOWEST = tl.constexpr(-128.0)
SMALLEST_SCALE = tl.constexpr(1e-30)
# A float32 this large has no places behind the point: adding it rounds to integers, halves to even.
INTEGERS = tl.constexpr(12582912.0)


def new_int8_rows(x: Tensor, features: int, rotation: int) -> Int8Rows:
    """Unwritten rows of that many features for the tokens of x.

    Raises:
        ValueError: the features do not divide into groups of `rotation`.
    """
    if rotation:
        check_rotation(features, rotation)
    batch, tokens, _ = x.shape
    levels = torch.empty((batch, tokens, features), dtype=torch.int8, device=x.device)
    return Int8Rows(levels, torch.empty((batch, tokens, 1), dtype=torch.float32, device=x.device), rotation)


def int8_constants(x: Tensor, rotation: int) -> dict[str, Any]:
    """What `store_int8` wants to know when it is compiled."""
    stages = (rotation.bit_length() - 1) // 2 if rotation else 0
    return {"stages": stages, "tiny": torch.finfo(x.dtype).tiny, "reciprocal": x.device.type != "cpu"}


@triton.jit
def scale_of(largest: tl.tensor, reciprocal: tl.constexpr) -> tl.tensor:
    """torch divides by a number with one multiplication on CUDA, and with a division elsewhere."""
    scale = largest * (1.0 / HIGHEST) if reciprocal else tl.div_rn(largest, HIGHEST)
    return tl.maximum(scale, SMALLEST_SCALE)


@triton.jit
def store_int8(
    x: tl.tensor,
    levels: tl.tensor,
    scales: tl.tensor,
    features: tl.constexpr,
    block: tl.constexpr,
    stages: tl.constexpr,
    dtype: tl.constexpr,
    tiny: tl.constexpr,
    reciprocal: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    """eager.int8_rows of this program's row, which must be 0 outside, into contiguous levels and scales.

    Args:
        stages: rotation = 4 ** stages, 0 for none.
        tiny: what stands for a scale that dtype cannot hold.
        reciprocal: see `scale_of`.
    """
    if stages > 0:
        x = rounded(rotated(x, stages, block), dtype, exact)
    scale = scale_of(tl.max(tl.abs(x), axis=0), reciprocal)
    step = rounded(scale, dtype, exact)
    step = tl.where(step == 0.0, tiny, step)
    level = rounded(quotient(x, step, exact), dtype, exact)
    level = tl.minimum(tl.maximum((level + INTEGERS) - INTEGERS, LOWEST), HIGHEST)
    row, columns = this_row(), tl.arange(0, block)
    tl.store(levels + row * features + columns, unswapped(level.to(tl.int8), stages, block), mask=columns < features)
    tl.store(scales + row, scale)
