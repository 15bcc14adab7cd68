"""Which attention runs where, and that each gives the formula's output and log-sum-exp."""

import math
from unittest import mock

import pytest
import torch

from klein9b.kernels import attend as chosen
from klein9b.kernels.eager import attend as eager
from klein9b.kernels.eager.attention_parts import Attended, Part, attention_parts

# Largest differences from float32 or wider; of a half type the output's own rounding, and the probabilities'.
OUTPUT = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
# A half type's products are exact, and summed in float32; a card's exponentials are approximate.
SUMS = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-5, torch.float16: 2e-5}
HALF = (torch.bfloat16, torch.float16)

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention needs a CUDA device, there is none")


def qkv(dtype, device="cpu", queries=77, keys=131, head_dim=64, heads=3):
    """As the blocks have them, the keys a slice of longer ones."""
    torch.manual_seed(0)
    lengths = (queries, keys + 9, keys + 9)
    query, key, value = (torch.randn(2, n, heads, head_dim).to(device, dtype).transpose(1, 2) for n in lengths)
    return query, key[:, :, 4:-5], value[:, :, 4:-5]


def compare(got, given):
    dtype = given[0].dtype
    wanted = eager.attend(*(one.cpu().double() for one in given))
    assert (got.output.dtype, got.lse.dtype) == (dtype, torch.promote_types(dtype, torch.float32))
    assert got.output.shape == given[0].shape and got.lse.shape == given[0].shape[:3]
    assert (got.output.cpu().double() - wanted.output).abs().max() < OUTPUT[dtype]
    assert (got.lse.cpu().double() - wanted.lse).abs().max() < SUMS[dtype] * wanted.lse.abs().max()


@pytest.mark.parametrize("head_dim", [1, 7, 64, 300])
@pytest.mark.parametrize("dtype", SUMS, ids=str)
def test_on_a_processor(dtype, head_dim):
    given = qkv(dtype, head_dim=head_dim)
    with mock.patch.object(eager, "attend", side_effect=AssertionError):
        got = chosen.attend(*given)
    compare(got, given)


def test_another_device_computes_the_formula():
    with mock.patch.object(eager, "attend", return_value="the formula's"):
        assert chosen.attend(*(one.to("meta") for one in qkv(torch.float16))) == "the formula's"


@pytest.mark.parametrize("kernel", [chosen.flash, chosen.efficient])
def test_padding_of_the_sums_is_cut_off(kernel):
    """By the shapes that torch knows of its kernels without a card."""
    given = [one.to("meta") for one in qkv(torch.float16)]
    got = kernel(*given)
    assert got.output.shape == given[0].shape and got.lse.shape == (2, 3, 77) and got.lse.dtype == torch.float32


@pytest.mark.parametrize("base", [2, math.e])
def test_amds_sums_become_natural(base, monkeypatch):
    def kernel(query, key, value):
        found = eager.attend(query, key, value)
        return Attended(found.output, found.lse / math.log(base))

    monkeypatch.setattr(torch.version, "hip", "6.2")
    compare(chosen.natural(kernel, *qkv(torch.float32)), qkv(torch.float32))


@pytest.mark.gpu
@on_gpu
class TestOnAGpu:
    @pytest.mark.parametrize("queries", [1, 77, 1024])
    @pytest.mark.parametrize("dtype", HALF, ids=str)
    def test_flash(self, dtype, queries):
        if torch.cuda.get_device_capability() < (8, 0):
            pytest.skip("flash attention needs sm_80, this card is older")
        given = qkv(dtype, "cuda", queries)
        compare(chosen.flash(*given), given)
        with mock.patch.object(chosen, "flash", return_value="flash"):
            assert chosen.attend(*given) == "flash"

    @pytest.mark.parametrize("queries", [1, 77, 1024])
    @pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
    def test_memory_efficient(self, dtype, queries):
        given = qkv(dtype, "cuda", queries)
        compare(chosen.efficient(*given), given)
        off = mock.patch.object(chosen, "can_use_flash_attention", return_value=False)
        with off, mock.patch.object(chosen, "efficient", return_value="memory-efficient"):
            assert chosen.attend(*given) == "memory-efficient"

    @pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float64, 64), (torch.float16, 60), (torch.float32, 5)])
    def test_what_no_kernel_takes(self, dtype, head_dim):
        given = qkv(dtype, "cuda", head_dim=head_dim)
        compare(chosen.attend(*given), given)

    @pytest.mark.parametrize("dtype", [*HALF, torch.float32], ids=str)
    def test_parts_are_the_whole(self, dtype):
        query, key, value = qkv(dtype, "cuda")
        some = torch.arange(0, 131, 2, device="cuda")
        parts = [Part(some), Part(some[:-1] + 1, torch.zeros(77, device="cuda"))]
        compare(attention_parts(query, key, value, parts), (query, key, value))
