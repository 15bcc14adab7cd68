"""Attention by parts in the dense way: float64, every logit at once, a bias for every query and key."""

import math

import torch


def bias_of(parts, queries, keys):
    """(queries, keys) of float64: the log weights, -inf where a query does not see a key."""
    bias = torch.full((queries, keys), -math.inf, dtype=torch.float64)
    for part in parts:
        rows = torch.arange(queries) if part.queries is None else part.queries.cpu()
        columns = torch.arange(keys)[part.keys if isinstance(part.keys, slice) else part.keys.cpu()]
        weights = torch.as_tensor(part.log_weight, dtype=torch.float64).cpu().reshape(-1, 1)
        bias[rows[:, None], columns] = weights.expand(len(rows), len(columns))
    return bias


def dense(query, key, value, parts):
    """Output and log-sum-exp; 0 and -inf of a query that sees no key."""
    query, key, value = (one.cpu().double() for one in (query, key, value))
    logits = query @ key.mT / math.sqrt(query.shape[-1]) + bias_of(parts, query.shape[2], key.shape[2])
    lse = logits.logsumexp(-1)
    weights = torch.where(lse.isinf()[..., None], 0.0, (logits - lse[..., None]).exp())
    return weights @ value, lse


def apart(got, wanted):
    """The largest difference, in parts of the largest wanted number."""
    wanted = wanted.double()
    return float((got.cpu().double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
