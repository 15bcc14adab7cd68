"""Attention keys or values in 8 bits, with one scale per token and head."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127


def pack_kv_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each vector of the last dimension to int8 by its own largest magnitude.

    Args:
        x: (..., tokens, head_dim) in any floating dtype.

    Returns:
        int8 of x's shape, and float32 scales (..., tokens, 1); x is about their product. A zero vector has scale 0.
    """
    wide = x.float()
    scale = wide.abs().amax(dim=-1, keepdim=True) / LEVELS
    levels = torch.where(scale > 0, wide / scale, 0.0)
    return levels.round().to(torch.int8), scale


def unpack_kv_int8(levels: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What pack_kv_int8 kept, in `dtype`: the product is rounded once, from float32."""
    return (levels * scale).to(dtype)
