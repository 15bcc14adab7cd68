"""Triton's layer norm with modulation against eager's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import DTYPES, HALF, agree, agree_fp8, agree_int8, drawn, fp8_inputs, share

from klein9b.kernels.eager import layer_norm_modulate as eager
from klein9b.kernels.triton import layer_norm_modulate as twin

SHAPES = [(1, 1, 8), (2, 7, 33), (1, 5, 256), (2, 3, 4096), (2, 0, 16), (0, 3, 16)]


def case(shape, rows=1, dtype=HALF, size=1.0):
    batch, _, hidden = shape
    x = drawn(*shape, dtype=dtype, scale=size) + size
    return x, *(drawn(rows or batch, 1, hidden, seed=seed, dtype=dtype) for seed in (1, 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, None], ids=["one row of modulation", "a row each"])
def test_it_is_eagers(dtype, shape, rows):
    given = case(shape, rows, dtype)
    wanted = eager.layer_norm_modulate(*given)
    agree(twin.layer_norm_modulate(*given), wanted, equal=0.999 if dtype == HALF else 0.0)
    agree(twin.layer_norm_modulate(*given, exact=False), wanted, roundings=6)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(0, 4), st.integers(1, 70), st.booleans())
def test_it_is_eagers_of_any_shape(batch, tokens, hidden, shared):
    given = case((batch, tokens, hidden), 1 if shared else None)
    agree(twin.layer_norm_modulate(*given), eager.layer_norm_modulate(*given))


def test_without_mirrored_roundings_it_is_nearer_to_the_truth():
    x, scale, shift = case((1, 4, 2048))
    true = eager.layer_norm_modulate(x.double(), scale.double(), shift.double())
    exact, fast = (twin.layer_norm_modulate(x, scale, shift, exact=exact) for exact in (True, False))
    assert share(exact, fast) < 0.9
    assert (fast - true).abs().mean() < 0.8 * (exact - true).abs().mean()


def test_epsilon_counts_where_there_is_hardly_any_variance():
    given = case((1, 3, 64), dtype=torch.float32, size=1e-3)
    agree(twin.layer_norm_modulate(*given), eager.layer_norm_modulate(*given), roundings=40)


def test_a_stream_and_modulation_within_longer_ones_are_as_good():
    wide, vectors = drawn(2, 9, 50, dtype=HALF), drawn(2, 1, 99, seed=1, dtype=HALF)
    given = wide[:, 4:, 5:38], vectors[..., :33], vectors[..., 33:66]
    agree(twin.layer_norm_modulate(*given), eager.layer_norm_modulate(*given), equal=0.99)
    agree_int8(twin.layer_norm_modulate_int8(*given, 0), eager.layer_norm_modulate_int8(*given, 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "rotation"),
    [((2, 3, 33), 0), ((1, 4, 12), 4), ((2, 3, 96), 16), ((1, 2, 192), 64), ((2, 3, 4096), 256), ((2, 0, 16), 4)],
    ids=str,
)
def test_int8_rows_are_eagers(dtype, shape, rotation):
    x, scale, shift = case(shape, None, dtype)
    x[..., 3] *= 20
    for exact in (True, False):
        got = twin.layer_norm_modulate_int8(x, scale, shift, rotation, exact=exact)
        wanted = eager.layer_norm_modulate_int8(x, scale, shift, rotation)
        agree_int8(got, wanted, equal=0.999 if exact else 0.9, of=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 33), (2, 3, 4096), (2, 0, 16)], ids=str)
def test_fp8_rows_are_eagers(dtype, shape):
    x, scale, shift = case(shape, None, dtype)
    for wanted in fp8_inputs():
        rows = eager.layer_norm_modulate_fp8(x, scale, shift, wanted)
        agree_fp8(twin.layer_norm_modulate_fp8(x, scale, shift, wanted), rows)


def test_beyond_float8_is_its_largest_number():
    x, scale, shift = case((1, 2, 16))
    (wanted, _) = fp8_inputs(1e-6)
    levels = twin.layer_norm_modulate_fp8(x, scale, shift, wanted).levels.float()
    assert torch.equal(levels.abs(), torch.full_like(levels, 448.0))


def test_without_mirrored_roundings_float8_is_nearer_to_the_truth():
    x, scale, shift = case((1, 4, 2048))
    (_, wanted) = fp8_inputs()
    true = eager.layer_norm_modulate(x.double(), scale.double(), shift.double()) / wanted.scale
    exact, fast = (
        twin.layer_norm_modulate_fp8(x, scale, shift, wanted, exact=exact).levels.double() for exact in (True, False)
    )
    assert (fast - true).abs().mean() < (exact - true).abs().mean()


def test_a_zero_row_has_levels_of_zero():
    x = torch.zeros(1, 2, 16, dtype=HALF, device=drawn(1).device)
    rows = twin.layer_norm_modulate_int8(x, x[:, :1], x[:, :1], 16)
    assert not rows.levels.any() and torch.equal(rows.scale, torch.full_like(rows.scale, 1e-30))


def test_what_does_not_fit_is_named():
    x, scale, shift = case((2, 5, 16), None)
    with pytest.raises(ValueError, match=r"layer_norm_modulate: scale must be \[2, 1, 16\] or \[1, 1, 16\] for x"):
        twin.layer_norm_modulate(x, scale[..., :15], shift)
    with pytest.raises(ValueError, match=r"shift must be torch.float16, as the first tensor is, got torch.float32"):
        twin.layer_norm_modulate(x, scale, shift.float())
    with pytest.raises(ValueError, match=r"takes float32, bfloat16 or float16, got torch.float64"):
        twin.layer_norm_modulate(x.double(), scale.double(), shift.double())
    with pytest.raises(ValueError, match=r"the last dimension of x must have stride 1, got 5"):
        twin.layer_norm_modulate(x.mT.contiguous().mT, scale, shift)
    with pytest.raises(ValueError, match=r"rotate: group must be a power of 4, got 8"):
        twin.layer_norm_modulate_int8(x, scale, shift, 8)
    with pytest.raises(ValueError, match=r"rotate: features must be a multiple of the group 64, got 16"):
        twin.layer_norm_modulate_int8(x, scale, shift, 64)
