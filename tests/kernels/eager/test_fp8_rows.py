"""Float8 rows against their formula, and against comfy_kitchen bit for bit."""

import pytest
import torch
from rounding import DTYPES, drawn

from klein9b.kernels.eager.fp8_rows import HIGHEST, fp8_rows
from klein9b.kernels.fp8 import Fp8Input

SCALES = [1.0, 0.0134, 3.7]


def wanted(scale, rounded=False):
    return Fp8Input(torch.tensor(scale), rounded)


def codes(levels):
    return levels.view(torch.uint8)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shapes_and_types(dtype, rounded):
    how = wanted(0.5, rounded)
    rows = fp8_rows(drawn(2, 7, 64, dtype=dtype), how)
    assert rows.levels.shape == (2, 7, 64) and rows.levels.dtype == torch.float8_e4m3fn
    assert rows.scale is how.scale and rows.dtype == dtype


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_other_float8_number_is_nearer(dtype, scale):
    x = drawn(1, 33, 64, dtype=dtype, scale=3.0)
    levels = fp8_rows(x, wanted(scale)).levels.double()
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    true = x.double() / torch.tensor(scale).double()
    nearest = (true[..., None] - every[~every.isnan()]).abs().amin(dim=-1)
    assert torch.allclose((true - levels).abs(), nearest, rtol=1e-5, atol=1e-6 * HIGHEST)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_comfy_kitchens_torch_code_bit_for_bit(dtype, scale):
    theirs = pytest.importorskip("comfy_kitchen.backends.eager.quantization", reason="comfy_kitchen is not installed")
    x = drawn(3, 33, 512, dtype=dtype, scale=4.0)
    rows = fp8_rows(x, wanted(scale, rounded=True))
    assert torch.equal(codes(rows.levels), codes(theirs.quantize_per_tensor_fp8(x, torch.tensor(scale))))


def test_the_two_ways_differ_in_bfloat16_and_not_without_a_scale():
    x = drawn(1, 33, 512, dtype=torch.bfloat16, scale=4.0)
    for scale, same in ((0.0134, False), (1.0, True)):
        both = [fp8_rows(x, wanted(scale, rounded)).levels for rounded in (False, True)]
        assert torch.equal(*map(codes, both)) == same


@pytest.mark.parametrize("rounded", [False, True])
def test_what_is_larger_becomes_the_largest_number(rounded):
    x = torch.tensor([[[1e4, -1e4, 1.0, 0.0]]])
    assert fp8_rows(x, wanted(1.0, rounded)).levels.tolist() == [[[HIGHEST, -HIGHEST, 1.0, 0.0]]]


def test_halves_go_to_the_even_code():
    x = torch.tensor([[[17.0, 19.0, -17.0, 1.5 * 2**-9]]])
    assert fp8_rows(x, wanted(1.0)).levels.tolist() == [[[16.0, 20.0, -16.0, 2 * 2**-9]]]


def test_its_input_is_left_alone():
    x = drawn(1, 2, 8, scale=1e3)
    before = x.clone()
    fp8_rows(x, wanted(1.0))
    assert torch.equal(x, before)


def test_a_part_is_of_the_same_scale():
    rows = fp8_rows(drawn(1, 5, 8), wanted(0.5))
    part = rows.part(slice(1, 3))
    assert torch.equal(codes(part.levels), codes(rows.levels[:, 1:3]))
    assert part.scale is rows.scale and part.dtype == rows.dtype
