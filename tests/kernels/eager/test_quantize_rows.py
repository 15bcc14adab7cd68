"""8-bit rows against their bound, and against comfy_kitchen bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import DTYPES, drawn

from klein9b.kernels.eager.quantize_rows import HIGHEST, SMALLEST_SCALE, quantize_rows
from klein9b.kernels.eager.rotate import rotate


def test_shapes_and_types():
    levels, scale = quantize_rows(drawn(2, 7, 64, dtype=torch.bfloat16))
    assert levels.shape == (2, 7, 64) and levels.dtype == torch.int8
    assert scale.shape == (2, 7, 1) and scale.dtype == torch.float32


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(1e-20, 1e20), st.sampled_from([1, 2, 64, 256]))
def test_error_is_at_most_half_a_level(seed, magnitude, features):
    x = drawn(5, features, seed=seed, scale=magnitude)
    levels, scale = quantize_rows(x)
    assert ((levels * scale - x).abs() <= scale * 0.5 + x.abs() * 1e-6).all()
    assert (levels.abs().amax(dim=-1) == HIGHEST).all()


def test_halves_go_to_the_even_level():
    levels, scale = quantize_rows(torch.tensor([[127.0, 0.5, 1.5, -0.5, -1.5, 2.5]]))
    assert scale.item() == 1
    assert levels.tolist() == [[127, 0, 2, 0, -2, 2]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_zeros_stays_zero(dtype):
    levels, scale = quantize_rows(torch.zeros(2, 8, dtype=dtype))
    assert (levels == 0).all()
    assert torch.equal(scale, torch.full((2, 1), SMALLEST_SCALE))


def test_one_loud_row_does_not_blur_the_others():
    quiet = drawn(4, 64)
    loud = torch.cat((quiet, drawn(1, 64, seed=1, scale=1e4)))
    assert torch.equal(quantize_rows(loud)[0][:4], quantize_rows(quiet)[0])


@pytest.mark.parametrize("magnitude", [0.0, 1e-7, 1.0, 1e4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_comfy_kitchens_bit_for_bit(dtype, magnitude):
    theirs = pytest.importorskip("comfy_kitchen.backends.eager.quantization", reason="comfy_kitchen is not installed")
    x = drawn(33, 512, dtype=dtype, scale=magnitude)
    for got, wanted in zip(quantize_rows(x), theirs.quantize_int8_rowwise(x), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_behind_the_rotation_it_is_comfy_kitchens_convrot(dtype):
    theirs = pytest.importorskip(
        "comfy_kitchen.tensor.int8", reason="comfy_kitchen is not installed"
    ).TensorWiseINT8Layout
    weight = drawn(48, 1024, dtype=dtype, scale=0.02)
    wanted, params = theirs.quantize(weight, per_channel=True, convrot=True)
    levels, scale = quantize_rows(rotate(weight, params.convrot_groupsize))
    assert torch.equal(levels, wanted) and torch.equal(scale, params.scale)
