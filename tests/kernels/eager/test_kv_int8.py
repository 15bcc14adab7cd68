"""8-bit keys and values."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.kernels.eager.kv_int8 import LEVELS, pack_kv_int8, unpack_kv_int8


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def test_shapes_and_types():
    levels, scale = pack_kv_int8(normal(1, 2, 7, 128).to(torch.bfloat16))
    assert levels.shape == (1, 2, 7, 128) and levels.dtype == torch.int8
    assert scale.shape == (1, 2, 7, 1) and scale.dtype == torch.float32
    assert unpack_kv_int8(levels, scale, torch.bfloat16).dtype == torch.bfloat16


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(1e-20, 1e20), st.sampled_from([1, 2, 64, 128]))
def test_error_is_at_most_half_a_level(seed, scale, head_dim):
    x = normal(1, 2, 3, head_dim, seed=seed, scale=scale)
    levels, step = pack_kv_int8(x)
    error = (unpack_kv_int8(levels, step, torch.float32) - x).abs()
    # Half a level, and float32's own rounding of quotient and product.
    assert (error <= step * 0.5 + x.abs() * 1e-6).all()
    assert levels.abs().max() == LEVELS


def test_zero_vectors_stay_zero():
    x = normal(1, 1, 2, 128)
    x[0, 0, 1] = 0
    levels, scale = pack_kv_int8(x)
    assert scale[0, 0, 1] == 0
    assert unpack_kv_int8(levels, scale, torch.float32)[0, 0, 1].abs().max() == 0


def test_one_loud_token_does_not_blur_the_others():
    quiet = normal(1, 1, 4, 128)
    loud = torch.cat((quiet, 1e4 * normal(1, 1, 1, 128, seed=1)), dim=2)
    assert torch.equal(pack_kv_int8(loud)[0][:, :, :4], pack_kv_int8(quiet)[0])
