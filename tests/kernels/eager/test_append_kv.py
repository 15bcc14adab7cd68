"""Appended keys and values: nothing is computed, so every bit is given."""

import pytest
import torch
from rounding import DTYPES, drawn, roundings

from klein9b.kernels.eager.append_kv import append_kv


def pair(batch, tokens, seed=0, dtype=torch.float32, heads=2, head_dim=5):
    return tuple(drawn(batch, heads, tokens, head_dim, seed=s, dtype=dtype) for s in (seed, seed + 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("batch", "tokens", "more", "rows"), [(1, 1, 1, 1), (2, 7, 3, 1), (2, 3, 7, 2), (3, 5, 0, 1)])
def test_own_tokens_come_first_and_one_row_serves_all(dtype, batch, tokens, more, rows):
    own, appended = pair(batch, tokens, dtype=dtype), pair(rows, more, seed=5, dtype=dtype)
    for got, mine, theirs in zip(append_kv(*own, appended), own, appended, strict=True):
        assert got.shape == (batch, 2, tokens + more, 5) and got.dtype == dtype
        for row in range(batch):
            assert torch.equal(got[row, :, :tokens], mine[row])
            assert torch.equal(got[row, :, tokens:], theirs[row % rows])


def test_attention_does_not_mind_the_order():
    own, appended, query = pair(1, 3), pair(1, 4, seed=5), drawn(1, 2, 2, 5, seed=9)
    behind, before = append_kv(*own, appended), append_kv(*appended, own)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert roundings(attend(query, *behind), attend(query.double(), *(t.double() for t in before))) < 8


def test_what_was_given_is_left_alone():
    own, appended = pair(1, 3), pair(1, 4, seed=5)
    key, _ = append_kv(*own, appended)
    key.zero_()
    assert all(map(torch.equal, (*own, *appended), (*pair(1, 3), *pair(1, 4, seed=5))))


@pytest.mark.parametrize("other", [{"batch": 3}, {"heads": 1}, {"head_dim": 4}], ids=str)
@pytest.mark.parametrize("which", [0, 1], ids=["key", "value"])
def test_another_shape_is_named(other, which):
    appended = list(pair(2, 4))
    appended[which] = pair(**({"batch": 2, "tokens": 4} | other))[which]
    with pytest.raises(ValueError, match=r"append_kv: expected \(2 or 1, 2, tokens, 5\), got \["):
        append_kv(*pair(2, 3), tuple(appended))
