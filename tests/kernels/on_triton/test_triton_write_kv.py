"""Triton's copy of kept keys and values against eager's, bit for bit."""

import pytest
import torch
from twins import DEVICE, DTYPES, HALF, drawn

from klein9b.kernels.eager import write_kv as eager
from klein9b.kernels.eager.kv_int8 import pack_kv_int8
from klein9b.kernels.triton import write_kv as twin

# batch, rows that are kept, heads, tokens, head_dim; the third is of several programs a head.
SHAPES = [(1, 1, 1, 1, 2), (2, 1, 3, 5, 12), (2, 2, 2, 75, 128), (2, 1, 2, 0, 8)]


def rooms(batch, heads, tokens, head_dim, dtype):
    """Key and value full of a number that is not there, and views into their middle."""
    made = [torch.full((batch, heads, tokens + 9, head_dim), float("nan"), dtype=dtype, device=DEVICE) for _ in "kv"]
    return made, [room[:, :, 4 : 4 + tokens] for room in made]


def kept(rows, heads, tokens, head_dim, dtype):
    """As (batch, tokens, heads, head_dim) has them, transposed."""
    return tuple(drawn(rows, tokens, heads, head_dim, seed=seed, dtype=dtype).transpose(1, 2) for seed in (0, 1))


def same(one, other):
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("batch", "rows", "heads", "tokens", "head_dim"), SHAPES)
@pytest.mark.parametrize("int8", [False, True], ids=["as they are", "int8"])
def test_it_writes_what_eager_writes_and_nothing_else(dtype, batch, rows, heads, tokens, head_dim, int8):
    appended = kept(rows, heads, tokens, head_dim, dtype)
    name = "write_kv_int8_" if int8 else "write_kv_"
    if int8:
        appended = (*pack_kv_int8(appended[0]), *pack_kv_int8(appended[1]))
    filled = []
    for module in (eager, twin):
        buffers, views = rooms(batch, heads, tokens, head_dim, dtype)
        getattr(module, name)(*views, appended)
        filled.append(buffers)
    assert same(*filled)
    assert not any(buffer[:, :, 4 : 4 + tokens].isnan().any() for buffer in filled[1])


def test_what_does_not_fit_is_named():
    _, views = rooms(2, 3, 5, 8, HALF)
    key, value = kept(1, 3, 5, 8, HALF)
    with pytest.raises(ValueError, match=r"write_kv_: expected \[2, 3, 5, 8\] or \[1, 3, 5, 8\], got \[1, 3, 4, 8\]"):
        twin.write_kv_(*views, (key[:, :, 1:], value))
    with pytest.raises(ValueError, match="write_kv_: expected torch.float16 for torch.float16 keys and values, got"):
        twin.write_kv_(*views, (key, value.float()))
    levels, scale = pack_kv_int8(key)
    with pytest.raises(ValueError, match="write_kv_int8_: expected torch.int8 for torch.float16 keys and values"):
        twin.write_kv_int8_(*views, (key, scale, levels, scale))
    with pytest.raises(ValueError, match=r"write_kv_int8_: a scale must be float32 \[1, 3, 5, 1\], got"):
        twin.write_kv_int8_(*views, (levels, scale, levels, scale[:, :, 1:]))
    with pytest.raises(ValueError, match="write_kv_: the last dimension of appended must have stride 1"):
        twin.write_kv_(*views, (key.mT.contiguous().mT, value))
