"""Keys and values written behind a block's own."""

import pytest
import torch
from rounding import drawn

from klein9b.kernels.eager.kv_int4 import pack_kv_int4, unpack_kv_int4, unpack_kv_int4_
from klein9b.kernels.eager.kv_int8 import pack_kv_int8, unpack_kv_int8
from klein9b.kernels.eager.write_kv import write_kv_, write_kv_int8_

HEADS, OWN, MORE, HEAD_DIM = 3, 5, 7, 32
batches = pytest.mark.parametrize(("batch", "rows"), [(1, 1), (2, 1), (2, 2)])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def joint(batch, dtype):
    """Keys and values with room behind them, all of it poisoned."""
    return [torch.full((batch, HEADS, OWN + MORE, HEAD_DIM), torch.nan, dtype=dtype) for _ in range(2)]


def more(rows, dtype):
    return tuple(drawn(rows, HEADS, MORE, HEAD_DIM, seed=seed, dtype=dtype) for seed in (1, 2))


def assert_behind(joined, wanted):
    for tensor, appended in zip(joined, wanted):
        assert torch.equal(tensor[:, :, OWN:], appended.expand(tensor.shape[0], -1, -1, -1))
        assert tensor[:, :, :OWN].isnan().all(), "the block's own are not touched"


@dtypes
@batches
def test_they_are_copied(dtype, batch, rows):
    joined, appended = joint(batch, dtype), more(rows, dtype)
    write_kv_(*(tensor[:, :, OWN:] for tensor in joined), appended)
    assert_behind(joined, appended)


@dtypes
@batches
def test_8_bits_are_multiplied_out_and_rounded_once(dtype, batch, rows):
    joined, packed = joint(batch, dtype), [part for tensor in more(rows, dtype) for part in pack_kv_int8(tensor)]
    write_kv_int8_(*(tensor[:, :, OWN:] for tensor in joined), packed)
    assert_behind(joined, (unpack_kv_int8(*packed[:2], dtype), unpack_kv_int8(*packed[2:], dtype)))


@dtypes
@batches
def test_4_bits_too(dtype, batch, rows):
    joined, packed = joint(batch, dtype), [pack_kv_int4(tensor) for tensor in more(rows, dtype)]
    for tensor, (levels, scale) in zip(joined, packed):
        unpack_kv_int4_(tensor[:, :, OWN:], levels, scale)
    assert_behind(joined, [unpack_kv_int4(*one, dtype) for one in packed])


def test_no_tokens_are_no_work():
    key, value = joint(1, torch.float32)
    write_kv_(key[:, :, :0], value[:, :, :0], (key[:, :, :0], value[:, :, :0]))
    assert key.isnan().all()


@pytest.mark.parametrize(
    "shape", [(3, HEADS, MORE, HEAD_DIM), (2, 1, MORE, HEAD_DIM), (2, HEADS, 6, HEAD_DIM)], ids=str
)
@pytest.mark.parametrize("op", [write_kv_, write_kv_int8_])
def test_another_shape_is_named(op, shape):
    key, value = (tensor[:, :, OWN:] for tensor in joint(2, torch.float32))
    wrong = torch.zeros(shape, dtype=torch.int8)
    given = (wrong, wrong) if op is write_kv_ else (wrong, wrong[..., :1], wrong, wrong[..., :1])
    words = rf"{op.__name__}: expected \[2, 3, 7, 32\] or \[1, 3, 7, 32\], got \[{shape[0]}, "
    with pytest.raises(ValueError, match=words):
        op(key, value, given)
