"""comfy_kitchen's ops against the eager ones, on the CPU through its eager backend; and one that is not as known."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from klein9b.kernels import kitchen
from klein9b.kernels.eager.heads_norm_rope import RmsNorm, heads_norm_rope
from klein9b.kernels.eager.int8_linear import int8_linear
from klein9b.kernels.eager.int8_rows import int8_rows
from klein9b.kernels.eager.layer_norm_modulate import layer_norm_modulate
from klein9b.kernels.int8 import Int8Weight
from klein9b.kernels.machine import Unfit
from klein9b.kernels.self_check import self_check
from klein9b.kernels.shapes import check_int8_linear

CPU = torch.device("cpu")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.fixture
def real():
    return pytest.importorskip("comfy_kitchen", reason="comfy_kitchen is not installed; ComfyUI brings it")


@pytest.fixture
def fake(monkeypatch):
    """A comfy_kitchen that a test can fill."""
    made, backends, cuda = (ModuleType(name) for name in ("comfy_kitchen", "backends", "cuda"))
    made.backends, backends.cuda, made.cuda = backends, cuda, cuda
    monkeypatch.setitem(sys.modules, "comfy_kitchen", made)
    monkeypatch.setitem(sys.modules, "comfy_kitchen.backends", backends)
    monkeypatch.setitem(sys.modules, "comfy_kitchen.backends.cuda", cuda)
    return made


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestRealKitchen:
    def test_adaln_rounds_the_product_too_and_is_not_exact(self, real, dtype):
        verdict = self_check(
            "layer_norm_modulate", kitchen.layer_norm_modulate(), layer_norm_modulate, CPU, dtype, mirrored=True
        )
        assert verdict.passed and not verdict.exact, verdict.words

    def test_rms_rope_is_exact_in_its_eager_backend(self, real, dtype):
        verdict = self_check("heads_norm_rope", kitchen.heads_norm_rope(), heads_norm_rope, CPU, dtype, mirrored=True)
        assert verdict.passed and verdict.exact, verdict.words


@pytest.mark.peer
def test_the_product_is_there(real):
    assert kitchen.int8_linear()


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_float8_is_rounded_where_its_torch_code_makes_it(real, dtype, monkeypatch):
    assert kitchen.fp8_is_rounded(CPU, dtype)
    monkeypatch.setattr(real.registry, "get_capable_backend", lambda name, given: "cuda")
    assert not kitchen.fp8_is_rounded(CPU, dtype)


def test_a_kitchen_that_does_not_tell_how_it_makes_float8(fake):
    assert not kitchen.fp8_is_rounded(CPU, torch.bfloat16)


@pytest.mark.peer
@pytest.mark.skipif(torch.cuda.is_available(), reason="its CUDA backend is on here")
def test_its_cuda_backend_says_why_it_is_off(real):
    assert kitchen.why_off().startswith("has its CUDA backend off: ")


@pytest.mark.peer
def test_the_eps_that_a_norm_leaves_to_torch_is_the_one_torch_takes(real):
    small = torch.full((1, 3, 3 * 2 * 128), 1e-4)
    freqs = torch.eye(2).expand(1, 1, 3, 64, 2, 2).contiguous()
    norms = (RmsNorm(torch.ones(128)), RmsNorm(torch.ones(128), 1e-3), None)
    wanted = heads_norm_rope(small, norms, freqs, 2)
    assert not torch.allclose(wanted[0], wanted[1])
    for got, one in zip(kitchen.heads_norm_rope()(small, norms, freqs, 2), wanted, strict=True):
        torch.testing.assert_close(got, one)


def registry(available, told):
    return SimpleNamespace(is_available=lambda name: available, list_backends=lambda: {"cuda": told})


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (registry(True, {}), None),
        (registry(False, {"unavailable_reason": "no libcublasLt"}), "has its CUDA backend off: no libcublasLt"),
        (
            registry(False, {"unavailable_reason": None}),
            "has its CUDA backend off: the host has disabled it",
        ),
        (SimpleNamespace(), "does not tell of its backends: AttributeError"),
    ],
    ids=["on", "unavailable", "disabled", "another registry"],
)
def test_a_backend_that_is_off_is_said(fake, made, words):
    fake.registry = made
    told = kitchen.why_off()
    assert told is None if words is None else told.startswith(words)


@pytest.mark.parametrize("probe", [kitchen.layer_norm_modulate, kitchen.heads_norm_rope, kitchen.int8_linear])
def test_an_op_that_is_not_there_is_said(fake, probe):
    with pytest.raises(Unfit, match="^has no (adaln|rms_rope1|_int4_linear_via_int8_values)$"):
        probe()


@pytest.mark.parametrize(
    "changed",
    [
        lambda x, shift, scale, eps=1e-6: x,
        lambda x, scale, shift: x,
        lambda x, scale, shift, eps, output_scale: x,
    ],
    ids=["another order", "fewer", "one more that is needed"],
)
def test_an_op_of_another_signature_is_said(fake, changed):
    fake.adaln = changed
    with pytest.raises(Unfit, match=r"^has adaln\(x, .*\), expected \(x, scale, shift, eps\)$"):
        kitchen.layer_norm_modulate()


def test_an_op_that_takes_more_if_it_is_given_serves(fake):
    fake.adaln = lambda x, scale, shift, eps=1e-6, *more, out=None, **options: (x, eps)
    x = torch.ones(1, 2, 4)
    assert kitchen.layer_norm_modulate()(x, x[:, :1], x[:, :1]) == (x, 1e-6)


class TestProduct:
    """The private function behind int8_linear, played by the eager op."""

    def weight(self, scale):
        matrix = int8_rows(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1)), 16)
        return Int8Weight(matrix.levels[0], matrix.scale[0] if scale is None else scale, 16)

    @pytest.mark.parametrize("scale", [None, torch.tensor(0.25), torch.tensor([[0.25]])], ids=["rows", "one", "1 x 1"])
    def test_rows_and_scales_arrive(self, fake, scale):
        def product(x_int8, weight_int8, x_scale, weight_scale, bias, out_dtype):
            assert bias is None and weight_scale.shape == (5,) and x_int8.shape == (6, 16)
            made = (x_int8.int() @ weight_int8.int().T) * x_scale.reshape(-1, 1) * weight_scale
            return made.to(out_dtype)

        fake.cuda._int4_linear_via_int8_values = product
        rows = int8_rows(torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)), 16)
        weight = self.weight(scale)
        got = kitchen.int8_linear()(rows, weight, torch.bfloat16)
        assert torch.equal(got, int8_linear(rows, weight, torch.bfloat16))

    @pytest.mark.parametrize("scale", [torch.ones(4, 1), torch.ones(5, 2)], ids=["too few", "two a row"])
    def test_scales_of_another_matrix_are_refused(self, scale):
        """A kernel would read behind them."""
        rows = int8_rows(torch.ones(1, 2, 16), 16)
        with pytest.raises(ValueError, match=r"int8_linear: the matrix has 5 rows and [0-9]+ scales"):
            check_int8_linear(rows, self.weight(scale))

    def test_rows_rotated_otherwise_are_refused(self, fake):
        fake.cuda._int4_linear_via_int8_values = lambda x_int8, weight_int8, x_scale, weight_scale, bias, out_dtype: (
            None
        )
        with pytest.raises(ValueError, match="rotated by 0.* by 16"):
            kitchen.int8_linear()(int8_rows(torch.ones(1, 2, 16), 0), self.weight(None), torch.float32)
