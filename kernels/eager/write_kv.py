"""Keys and values from elsewhere, written where a block's own keys and values leave room for them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import check_appended
from .append_kv import KeyValue

PackedKeyValue = tuple[Tensor, Tensor, Tensor, Tensor]


def write_kv_(key: Tensor, value: Tensor, appended: KeyValue) -> None:
    """key and value become the appended ones.

    Args:
        key, value: views (batch, heads, tokens, head_dim) into longer tensors, in any dtype.
        appended: of the same dtype, (batch or 1, heads, tokens, head_dim); one row serves all.

    Raises:
        ValueError: batch, heads, tokens or head_dim differ.
    """
    for target, source in zip((key, value), appended, strict=True):
        check_appended("write_kv_", target, source)
        target.copy_(source)


def write_kv_int8_(key: Tensor, value: Tensor, appended: PackedKeyValue) -> None:
    """As `write_kv_`, of what `pack_kv_int8` made of key and value: levels, scale, levels, scale.

    Raises:
        ValueError: batch, heads, tokens or head_dim differ.
    """
    for target, levels, scale in ((key, *appended[:2]), (value, *appended[2:])):
        check_appended("write_kv_int8_", target, levels)
        torch.mul(levels.expand_as(target), scale, out=target)
