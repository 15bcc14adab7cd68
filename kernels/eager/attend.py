"""Attention that also gives the logarithm of its softmax's denominator, which is what parts are put together by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Logits at once: 64 MiB of float32, and their softmax again.
AT_ONCE = 2**24


@dataclass(frozen=True)
class Attended:
    """What queries took from keys.

    Attributes:
        output: (batch, heads, queries, head_dim) in the queries' dtype.
        lse: (batch, heads, queries), the logarithm of the sum of the logits' exponentials: float32, of float64
            queries float64.
    """

    output: Tensor
    lse: Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Attended:
    """softmax(q k^T / sqrt(head_dim)) v and log sum exp(q k^T / sqrt(head_dim)), computed in float32 or wider.

    A head at a time and a span of queries at a time, so that no more than AT_ONCE logits an image are ever there.

    Args:
        query: (batch, heads, queries, head_dim) in any floating dtype.
        key, value: (batch, heads, keys, head_dim) of the same dtype, one key at least.

    Returns:
        the output's memory lies as (batch, queries, heads, head_dim).
    """
    result = nothing(query)
    scale = 1 / math.sqrt(query.shape[-1])
    rows = max(1, AT_ONCE // max(1, key.shape[2]))
    for head in range(query.shape[1]):
        keys, values = key[:, head].to(result.lse.dtype).mT, value[:, head].to(result.lse.dtype)
        for start in range(0, query.shape[2], rows):
            span = slice(start, start + rows)
            logits = (query[:, head, span].to(keys.dtype) * scale) @ keys
            result.lse[:, head, span] = logits.logsumexp(-1)
            result.output[:, head, span] = (logits.softmax(-1) @ values).to(query.dtype)
    return result


def nothing(query: Tensor) -> Attended:
    """What queries take from no key: 0, and a log-sum-exp of -inf. Memory as in `attend`."""
    batch, heads, queries, head_dim = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    output = query.new_zeros(batch, queries, heads, head_dim).transpose(1, 2)
    return Attended(output, query.new_full((batch, heads, queries), -math.inf, dtype=wide))
