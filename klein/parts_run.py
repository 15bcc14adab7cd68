"""Attention of a plan's groups, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..kernels.eager.attention_parts import Attended, Part, attention_parts, merged
from .attention_plan import Group
from .guidance import guided

Plain = Callable[[Tensor, Tensor, Tensor], Tensor]


def attended_by_parts(
    groups: Sequence[Group], query: Tensor, key: Tensor, value: Tensor, plain: Plain, strength: float = 1.0
) -> Tensor:
    """(batch, queries, hidden) of query, key, value (batch, heads, tokens, head_dim).

    Args:
        groups: of all queries, in order.
        plain: attention as it is without parts -> (batch, queries, hidden).
        strength: of the guidance, in groups that have one.
    """
    made = [_of_group(group, query[:, :, slice(*group.queries)], key, value, plain, strength) for group in groups]
    return made[0] if len(made) == 1 else torch.cat(made, dim=1)


def _of_group(group: Group, query: Tensor, key: Tensor, value: Tensor, plain: Plain, strength: float) -> Tensor:
    if group.instead:
        return _guided(group, query, key, value, strength)
    (first, *others) = group.parts
    if not others and _is_plain(first):
        keys = first.keys
        return plain(query, key[:, :, keys], value[:, :, keys])
    return _flat(attention_parts(query, key, value, group.parts))


def _guided(group: Group, query: Tensor, key: Tensor, value: Tensor, strength: float) -> Tensor:
    """What both attentions see is attended to once."""
    own, common = group.parts[: group.replaced], group.parts[group.replaced :]
    shared = attention_parts(query, key, value, common)
    positive, negative = (
        _flat(merged(attention_parts(query, key, value, parts), shared)) for parts in (own, group.instead)
    )
    return guided(positive, negative, strength)


def _is_plain(part: Part) -> bool:
    weightless = not isinstance(part.log_weight, Tensor) and part.log_weight == 0.0
    return weightless and part.queries is None and isinstance(part.keys, slice)


def _flat(attended: Attended) -> Tensor:
    return attended.output.transpose(1, 2).flatten(2)
