"""Attention over disjoint parts of the keys, each with a weight, put together by their log-sum-exps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attend import attend
from .attend import Attended, nothing

# Numbers of an output merged at once: what is between, in float32, stays in a card's cache.
AT_ONCE = 2**21


@dataclass(frozen=True)
class Part:
    """Keys that queries attend to with one weight.

    Attributes:
        keys: a slice, or int64 indices (n,), of the keys.
        log_weight: added to the logits of these keys: a number, or a tensor (m,), one for each of `queries`. With -inf
            the keys are not seen.
        queries: int64 indices (m,), none twice, of the queries that see these keys; None for every one.
    """

    keys: slice | Tensor
    log_weight: float | Tensor = 0.0
    queries: Tensor | None = None


def attention_parts(query: Tensor, key: Tensor, value: Tensor, parts: Sequence[Part]) -> Attended:
    """o = sum_i exp(l_i - l) o_i and l = log sum_i exp(l_i).

    o_i = softmax(q k_i^T / sqrt(head_dim)) v_i over the keys of part i and
    l_i = log sum exp(q k_i^T / sqrt(head_dim)) + log_weight_i. Every part is one call of `attend`. Merged in float32,
    in float64 for float64; rounded after each part.

    Args:
        query: (batch, heads, queries, head_dim) in any floating dtype.
        key, value: (batch, heads, keys, head_dim) of the same dtype, finite.
        parts: of keys that no other part has. Keys in no part are not seen.

    Returns:
        the output's memory lies as `attend` leaves it. A query that sees no key has output 0 and lse -inf.

    Raises:
        ValueError: a log weight is neither a number below infinity nor a tensor of one for each query of its part.
    """
    for part in parts:
        _check(part, query.shape[2])
    # A part that every query sees comes first: the others are merged into what it gave.
    seen = sorted((part for part in parts if _sees(part, key.shape[2])), key=lambda part: part.queries is not None)
    first = seen and seen[0].queries is None
    total = _attended(query, key, value, seen.pop(0)) if first else nothing(query)
    for part in seen:
        total = _merged_into(total.output, total, _attended(query, key, value, part), part.queries)
    return total


def merged(one: Attended, other: Attended) -> Attended:
    """The same queries' attention over the keys of both, which are disjoint; as in `attention_parts`."""
    return _merged_into(torch.empty_like(one.output), one, other, None)


def _check(part: Part, queries: int) -> None:
    weight = part.log_weight
    wanted = queries if part.queries is None else part.queries.shape[0]
    if isinstance(weight, Tensor):
        if tuple(weight.shape) != (wanted,):
            raise ValueError(
                f"attention_parts: log_weight must be a number or one for each query, [{wanted}], "
                f"got {list(weight.shape)}."
            )
    elif not weight < math.inf:
        raise ValueError(f"attention_parts: log_weight must be below infinity, got {weight}.")


def _sees(part: Part, keys: int) -> bool:
    """Whether any query sees any key, as far as can be told without a look at a tensor's numbers."""
    count = len(range(keys)[part.keys]) if isinstance(part.keys, slice) else part.keys.shape[0]
    weightless = not isinstance(part.log_weight, Tensor) and part.log_weight == -math.inf
    return count > 0 and not weightless and (part.queries is None or part.queries.shape[0] > 0)


def _attended(query: Tensor, key: Tensor, value: Tensor, part: Part) -> Attended:
    queries = query if part.queries is None else query.index_select(2, part.queries)
    found = attend(queries, _taken(key, part.keys), _taken(value, part.keys))
    weight = part.log_weight
    if isinstance(weight, Tensor):
        found.output.masked_fill_((weight == -math.inf)[:, None], 0.0)
        return Attended(found.output, found.lse + weight.to(found.lse.dtype))
    return found if weight == 0 else Attended(found.output, found.lse + weight)


def _taken(x: Tensor, keys: slice | Tensor) -> Tensor:
    return x[:, :, keys] if isinstance(keys, slice) else x.index_select(2, keys)


def _merged_into(target: Tensor, one: Attended, other: Attended, queries: Tensor | None) -> Attended:
    """Both, in `target`, which may be one's output; other is of the `queries` of one."""
    lse = one.lse if queries is None else one.lse.index_select(2, queries)
    mine, theirs = _share(lse, other.lse), _share(other.lse, lse)
    for span in _spans(other.output):
        both = _taken(one.output, span if queries is None else queries[span]) * mine[:, :, span, None]
        both.addcmul_(other.output[:, :, span], theirs[:, :, span, None])
        if queries is None:
            target[:, :, span] = both
        else:
            target.index_copy_(2, queries[span], both.to(target.dtype))
    total = torch.logaddexp(lse, other.lse)
    return Attended(target, total if queries is None else one.lse.index_copy(2, queries, total))


def _share(lse: Tensor, other: Tensor) -> Tensor:
    """exp(lse) / (exp(lse) + exp(other)); 0 for nothing, where both are nothing too."""
    return torch.where(lse == -math.inf, 0.0, (lse - other).sigmoid())


def _spans(output: Tensor) -> Iterator[slice]:
    batch, heads, queries, head_dim = output.shape
    rows = max(1, AT_ONCE // (batch * heads * head_dim))
    return (slice(start, start + rows) for start in range(0, queries, rows))
