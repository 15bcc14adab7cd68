"""What the stages measure with: buckets of kernels, last places between numbers, limits of time."""

import time

import pytest
import torch

from gpu.context import Overran, limited
from gpu.stages.buckets import ATTENTION, COPIES, ELEMENTWISE, GEMM, Span, bucket_of, busy, summed
from gpu.stages.parity import compared, places, twin

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "bucket"),
    [
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize256x128x64", GEMM),
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_TNT", GEMM),
        ("void cutlass::Kernel2<cutlass_80_wmma_tensorop_s161616gemm>", GEMM),
        ("_product", GEMM),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits>", ATTENTION),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", ATTENTION),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", ATTENTION),
        ("Memcpy HtoD (Pinned -> Device)", COPIES),
        ("void at::native::CatArrayBatchedCopy_contig<OpaqueType<2u>>", COPIES),
        ("void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add>", ELEMENTWISE),
        ("_modulate", ELEMENTWISE),
        ("_write_both", ELEMENTWISE),
    ],
)
def test_kernels_have_a_bucket(name, bucket):
    assert bucket_of(name) == bucket


def test_gaps_are_when_nothing_runs():
    spans = [Span("gemm", 0, 1000), Span("flash", 500, 1500), Span("add", 3000, 4000)]
    found = summed(spans, steps=2)
    assert busy(spans) == 2500
    assert found["ms"] == {GEMM: 0.5, ATTENTION: 0.5, ELEMENTWISE: 0.5, "gaps": 0.75}
    assert found["launches"] == 1.5


def test_a_profiler_that_saw_nothing_says_so():
    with pytest.raises(RuntimeError, match="saw no kernel"):
        summed([], steps=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_last_places_between_numbers(dtype):
    one = torch.ones(3, dtype=dtype)
    above = one * (1 + torch.finfo(dtype).eps)
    assert places(one, one) == 0
    assert places(above, one) == 1
    assert places(-above, -one) == 1
    smallest = torch.tensor([torch.finfo(dtype).tiny], dtype=dtype)
    assert places(torch.tensor([0.0], dtype=dtype), torch.tensor([-0.0], dtype=dtype)) == 0
    assert places(smallest, -smallest) > 2
    assert places(torch.tensor([float("nan")], dtype=dtype), one[:1]) > 10**6


def test_an_op_is_itself():
    found = compared("gated_residual_", twin("gated_residual_"), CPU, torch.float16, tokens=5)
    assert (found["equal"], found["places"], found["error"]) == (1.0, 0, 0.0)


def test_another_op_is_not():
    def wrong(x, y, gate):
        return x.add_(gate * y).mul_(1.001)

    found = compared("gated_residual_", wrong, CPU, torch.float16, tokens=5)
    assert found["equal"] < 0.9 and found["places"] >= 1 and found["error"] > 1e-4


def test_int8_rows_are_compared_by_level():
    def wrong(*arguments):
        rows = twin("swiglu_concat_int8")(*arguments)
        rows.levels[..., 0] = (rows.levels[..., 0].int() - 2).clamp(-127).to(torch.int8)
        return rows

    assert compared("swiglu_concat_int8", wrong, CPU, torch.float32, tokens=3)["places"] == 2


def test_what_takes_too_long_is_ended():
    began = time.monotonic()
    with pytest.raises(Overran, match=r"longer than 0 s"), limited(0.2):
        while time.monotonic() < began + 5:
            pass
    assert time.monotonic() - began < 2
    with limited(5):
        pass
    time.sleep(0.01)
