"""Keys and values from elsewhere, behind a block's own; attention does not mind their order."""

from __future__ import annotations

import torch
from torch import Tensor

KeyValue = tuple[Tensor, Tensor]


def append_kv(key: Tensor, value: Tensor, appended: KeyValue) -> KeyValue:
    """[key | appended key] and [value | appended value], joined along the tokens.

    Args:
        key, value: (batch, heads, tokens, head_dim), in any dtype, which the result has too.
        appended: a key and a value of the same dtype, (batch or 1, heads, other tokens, head_dim); one row serves all.

    Raises:
        ValueError: batch, heads or head_dim differ.
    """
    batch, heads, _, head_dim = key.shape
    for tensor in appended:
        if tensor.shape[0] not in (1, batch) or tensor.shape[1::2] != key.shape[1::2]:
            raise ValueError(
                f"append_kv: expected ({batch} or 1, {heads}, tokens, {head_dim}), got {list(tensor.shape)}."
            )
    more_keys, more_values = (tensor.expand(batch, -1, -1, -1) for tensor in appended)
    return torch.cat((key, more_keys), dim=2), torch.cat((value, more_values), dim=2)
