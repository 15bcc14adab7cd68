"""4-bit keys and values, against the same rounding in float64 and one number at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.kernels.eager.kv_int4 import group_size, pack_kv_int4, unpack_kv_int4
from klein9b.kernels.eager.kv_int8 import pack_kv_int8, unpack_kv_int8

HEAD_DIMS = [2, 6, 16, 18, 48, 128]


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def restored(x, dtype=torch.float32):
    return unpack_kv_int4(*pack_kv_int4(x), dtype)


def by_hand(x, scale):
    """Levels times scale in float64, from the formula and the stored scales."""
    out = torch.empty(x.shape, dtype=torch.float64)
    size = x.shape[-1] // scale.shape[-1]
    for place in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        *token, feature = place
        step = float(scale[(*token, feature // size)])
        level = 0 if step == 0 else min(7, max(-8, round(float(x[tuple(place)]) / step)))
        out[tuple(place)] = level * step
    return out


def test_shapes_and_types():
    packed, scale = pack_kv_int4(normal(1, 2, 7, 128).to(torch.bfloat16))
    assert packed.shape == (1, 2, 7, 64) and packed.dtype == torch.uint8
    assert scale.shape == (1, 2, 7, 8) and scale.dtype == torch.bfloat16
    assert unpack_kv_int4(packed, scale, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_formula(head_dim, dtype):
    x = normal(1, 2, 3, head_dim, seed=head_dim).to(dtype)
    wanted = by_hand(x, pack_kv_int4(x)[1])
    assert torch.equal(restored(x, torch.float64), wanted)
    assert torch.equal(restored(x, torch.bfloat16), wanted.to(torch.bfloat16)), "rounded once"


def test_the_formula_is_not_met_by_another_layout():
    x = normal(1, 1, 1, 128)
    packed, scale = pack_kv_int4(x)
    swapped = (packed >> 4) | (packed << 4)
    assert not torch.equal(unpack_kv_int4(swapped, scale, torch.float64), by_hand(x, scale))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(1e-20, 1e20), st.sampled_from(HEAD_DIMS))
def test_error_is_at_most_one_level_and_mostly_half(seed, scale, head_dim):
    x = normal(1, 2, 3, head_dim, seed=seed, scale=scale)
    _, step = pack_kv_int4(x)
    step = step.float().repeat_interleave(group_size(head_dim), dim=-1)
    error, levels = (restored(x) - x).abs(), x / step
    bound = torch.where(levels > 7.5, 1.0, 0.5) * step.abs()
    # The scale's own rounding to bfloat16, half of its eps of 2**-7, moves the largest by up to 8 * 2**-8 of a level.
    assert (error <= bound * (1 + 1e-5) + step.abs() * 8 * torch.finfo(torch.bfloat16).eps / 2).all()


def test_zero_groups_stay_zero():
    x = normal(1, 1, 2, 128)
    x[0, 0, 1, 16:32] = 0
    assert pack_kv_int4(x)[1][0, 0, 1, 1] == 0
    assert restored(x)[0, 0, 1, 16:32].abs().max() == 0


def test_one_loud_feature_blurs_its_group_alone():
    quiet = normal(1, 1, 4, 128)
    loud = quiet.clone()
    loud[..., 20] = 1e4
    same = torch.arange(128) // 16 != 20 // 16
    assert torch.equal(restored(loud)[..., same], restored(quiet)[..., same])
    assert not torch.equal(restored(loud)[..., ~same], restored(quiet)[..., ~same])


def test_beside_int8_it_is_about_twelve_times_as_far_off():
    """Of normal numbers, as keys behind their norm nearly are: 7.6 % of their length against 0.65 %."""
    x = normal(1, 8, 64, 128).double()
    both = restored(x), unpack_kv_int8(*pack_kv_int8(x), torch.float32)
    four, eight = ((got.double() - x).norm() / x.norm() for got in both)
    assert 0.06 < four < 0.09 and 0.005 < eight < 0.008


def test_an_odd_head_is_refused():
    with pytest.raises(ValueError, match="even head_dim.*got 15"):
        pack_kv_int4(normal(1, 1, 1, 15))
