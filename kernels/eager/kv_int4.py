"""Attention keys or values in 4 bits, with one scale for each group of 16 features of a token and head."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

GROUP = 16
LOWEST, HIGHEST = -8, 7
_BITS, _MASK = 4, 15


def group_size(head_dim: int) -> int:
    """How many features share a scale: 16, or what 16 and head_dim have in common."""
    return gcd(head_dim, GROUP)


def pack_kv_int4(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each group of the last dimension to -8 .. 7 by its member of largest magnitude, which becomes -8.

    scale = largest / -8, level = clamp(round(x / scale), -8, 7). No element is off by more than one scale, and by more
    than half of one only where it is nearly as large as the largest and of the other sign.

    Args:
        x: (..., tokens, head_dim) in any floating dtype. head_dim is even, as rotary embedding has it.

    Returns:
        uint8 (..., tokens, head_dim / 2), features i and i + head_dim / 2 in the low and high half of byte i, each 8
        above its level; and bfloat16 scales (..., tokens, groups), negative where the largest member is positive. x is
        about level times scale. A zero group has scale 0.

    Raises:
        ValueError: head_dim is odd.
    """
    head_dim = x.shape[-1]
    if head_dim % 2:
        raise ValueError(f"Expected an even head_dim, two features to a byte, got {head_dim}.")
    groups = x.float().unflatten(-1, (-1, group_size(head_dim)))
    largest = groups.gather(-1, groups.abs().argmax(dim=-1, keepdim=True))
    scale = (largest / LOWEST).to(torch.bfloat16)
    levels = torch.where(scale != 0, groups / scale.float(), 0.0).round().clamp(LOWEST, HIGHEST)
    low, high = (levels - LOWEST).to(torch.uint8).flatten(-2).chunk(2, dim=-1)
    return low | (high << _BITS), scale.squeeze(-1)


def unpack_kv_int4(packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What pack_kv_int4 kept, in `dtype`: the product is rounded once, from float32."""
    unpacked = packed.new_empty(*packed.shape[:-1], 2 * packed.shape[-1], dtype=dtype)
    unpack_kv_int4_(unpacked, packed, scale)
    return unpacked


def unpack_kv_int4_(target: Tensor, packed: Tensor, scale: Tensor) -> None:
    """As `unpack_kv_int4`, into a target (..., tokens, head_dim), which may be a view."""
    levels = torch.cat((packed & _MASK, packed >> _BITS), dim=-1).view(torch.int8).sub_(-LOWEST)
    groups = scale.shape[-1], -1
    grouped = levels.expand_as(target).unflatten(-1, groups)
    torch.mul(grouped, scale.float()[..., None], out=target.unflatten(-1, groups))
