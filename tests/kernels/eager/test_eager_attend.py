"""Attention with its log-sum-exp, a head and a span of queries at a time, against the dense formula in float64."""

import math

import pytest
import torch
from dense_parts import apart, dense
from peak_memory import PeakMemory
from rounding import DTYPES, drawn, roundings

from klein9b.kernels.eager import attend as op
from klein9b.kernels.eager.attention_parts import Part

EVERY = [Part(slice(None))]


def qkv(queries=37, keys=53, batch=2, heads=3, head_dim=6, dtype=torch.float32):
    lengths = (queries, keys, keys)
    return [drawn(batch, heads, n, head_dim, seed=seed, dtype=dtype) for seed, n in enumerate(lengths)]


@pytest.mark.parametrize("at_once", [1, 53 * 5, 2**24])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_the_dense_formula(dtype, at_once, monkeypatch):
    monkeypatch.setattr(op, "AT_ONCE", at_once)
    given = qkv(dtype=dtype)
    got, (output, lse) = op.attend(*given), dense(*given, EVERY)
    assert got.output.dtype == dtype and roundings(got.output, output) < 8
    assert got.lse.dtype == torch.float32 and apart(got.lse, lse) < 1e-6


def test_float64_stays_so():
    given = [one.double() for one in qkv()]
    got, (output, lse) = op.attend(*given), dense(*given, EVERY)
    assert got.lse.dtype == torch.float64 and apart(got.output, output) < 1e-14 and apart(got.lse, lse) < 1e-14


def test_large_logits_do_not_overflow():
    query, key, value = qkv()
    got, (output, lse) = op.attend(300 * query, key, value), dense(300 * query, key, value, EVERY)
    assert lse.max() > 500 and apart(got.output, output) < 1e-4 and apart(got.lse, lse) < 1e-6


def test_heads_lie_side_by_side():
    output = op.attend(*qkv()).output
    assert output.transpose(1, 2).flatten(2).data_ptr() == output.data_ptr()


def test_memory_has_a_bound():
    given = [torch.empty(1, 32, 12800, 128, dtype=torch.float16, device="meta") for _ in range(3)]
    with PeakMemory() as memory:
        op.attend(*given)
    output, head = 12800 * 32 * (128 * 2 + 4), 12800 * 128 * 4
    assert memory.peak <= output + 3 * 4 * op.AT_ONCE + 4 * head


def test_nothing():
    got = op.nothing(drawn(2, 3, 5, 4, dtype=torch.float16))
    assert got.output.shape == (2, 3, 5, 4) and got.output.dtype == torch.float16 and not got.output.any()
    assert torch.equal(got.lse, torch.full((2, 3, 5), -math.inf))
