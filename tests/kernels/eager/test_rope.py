"""The rotation against complex numbers, and against the kernel that the host's own blocks use."""

import pytest
import torch
from rounding import DTYPES, drawn, roundings

from klein9b.kernels.eager.rope import rope

SHAPES = [(1, 1, 1, 2), (1, 2, 7, 128), (2, 3, 5, 6)]


def angles(shape, rows=1, seed=4):
    _, _, tokens, head_dim = shape
    return 3 * drawn(rows, 1, tokens, head_dim // 2, seed=seed)


def table(angle):
    c, s = angle.cos(), angle.sin()
    return torch.stack((torch.stack((c, -s), -1), torch.stack((s, c), -1)), -2)


def by_formula(x, freqs):
    turns = torch.complex(freqs[..., 0, 0].double(), freqs[..., 1, 0].double())
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_formula(dtype, shape):
    x, freqs = drawn(*shape, dtype=dtype), table(angles(shape))
    got = rope(x, freqs)
    assert got.dtype == dtype
    assert roundings(got, by_formula(x, freqs)) < 4


def test_each_row_has_its_own_positions():
    x, freqs = drawn(2, 3, 5, 6), table(angles((2, 3, 5, 6), rows=2))
    rows = [rope(x[i : i + 1], freqs[i : i + 1]) for i in range(2)]
    assert torch.equal(rope(x, freqs), torch.cat(rows)) and not torch.equal(*rows)


def test_no_angle_is_no_change_and_a_quarter_turn_swaps():
    x, none = drawn(1, 1, 3, 4), torch.zeros(1, 1, 3, 2)
    assert torch.equal(rope(x, table(none)), x)
    turned = rope(x, table(none + torch.pi / 2))
    assert torch.allclose(turned[..., 0::2], -x[..., 1::2], atol=1e-6)
    assert torch.allclose(turned[..., 1::2], x[..., 0::2], atol=1e-6)


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_hosts_kernel_bit_for_bit(dtype, shape):
    kitchen = pytest.importorskip("comfy_kitchen")
    x, freqs = drawn(*shape, dtype=dtype), table(angles(shape))
    assert torch.equal(rope(x, freqs), kitchen.apply_rope1(x, freqs))


@pytest.mark.parametrize("shape", [(1, 1, 4, 3, 2, 2), (3, 1, 5, 3, 2, 2), (1, 2, 5, 3, 2, 2), (1, 1, 5, 6)], ids=str)
def test_another_table_is_named(shape):
    with pytest.raises(ValueError, match=r"rope: freqs must be \[2, 1, 5, 3, 2, 2\] or \[1, 1, 5, 3, 2, 2\], got"):
        rope(drawn(2, 2, 5, 6), torch.zeros(shape))
