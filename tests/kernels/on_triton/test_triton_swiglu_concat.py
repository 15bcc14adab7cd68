"""Triton's swiglu beside attention's output against eager's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import DTYPES, HALF, agree, agree_fp8, agree_int8, drawn, fp8_inputs, share

from klein9b.kernels.eager import swiglu_concat as eager
from klein9b.kernels.triton import swiglu_concat as twin

# batch, tokens, hidden of attention, width of the activation; the last two are of several programs a row.
SHAPES = [(1, 1, 4, 8), (2, 5, 33, 70), (2, 3, 0, 96), (2, 0, 16, 48), (1, 2, 100, 3000), (1, 2, 2048, 2100)]


def case(batch, tokens, hidden, width, dtype=HALF):
    """Views of one projection and of a longer attention."""
    packed, attended = drawn(batch, tokens, 7 + 2 * width, dtype=dtype, scale=3.0), None
    if hidden:
        attended = drawn(batch, tokens + 3, hidden + 5, seed=1, dtype=dtype)[:, 3:, :hidden]
    return packed[..., 7:], attended


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_eagers(dtype, shape):
    mlp, attended = case(*shape, dtype=dtype)
    wanted, got = eager.swiglu_concat(mlp, attended), twin.swiglu_concat(mlp, attended)
    agree(got, wanted, equal=0.99 if dtype == HALF else 0.6)
    assert attended is None or torch.equal(got[..., : shape[2]], attended)
    agree(twin.swiglu_concat(mlp, attended, exact=False), wanted, roundings=3)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 2), st.integers(0, 3), st.integers(0, 40), st.integers(1, 70))
def test_it_is_eagers_of_any_shape(batch, tokens, hidden, width):
    given = case(batch, tokens, hidden, width)
    agree(twin.swiglu_concat(*given), eager.swiglu_concat(*given))


def test_large_gates_neither_overflow_nor_vanish():
    gates = torch.tensor([[[-6e4, -100.0, -20.0, 0.0, 20.0, 6e4]]])
    mlp = torch.cat((gates, torch.ones_like(gates)), dim=-1).to(drawn(1).device, torch.float32)
    agree(twin.swiglu_concat(mlp), eager.swiglu_concat(mlp))


def test_without_mirrored_roundings_it_rounds_once():
    mlp, attended = case(1, 4, 0, 2000)
    gate, value = mlp.double().chunk(2, dim=-1)
    once = (torch.nn.functional.silu(gate) * value).half()
    exact, fast = (twin.swiglu_concat(mlp, attended, exact=exact) for exact in (True, False))
    assert share(fast, once) > 0.99 > share(exact, once)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "rotation"),
    [((2, 3, 5, 28), 0), ((2, 3, 16, 48), 16), ((2, 2, 0, 80), 4), ((1, 2, 1024, 3072), 256), ((2, 0, 16, 48), 64)],
    ids=str,
)
def test_int8_rows_are_eagers(dtype, shape, rotation):
    given = (*case(*shape, dtype=dtype), rotation)
    agree_int8(twin.swiglu_concat_int8(*given), eager.swiglu_concat_int8(*given), of=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp8_rows_are_eagers(dtype, shape):
    given = case(*shape, dtype=dtype)
    for wanted in fp8_inputs():
        agree_fp8(twin.swiglu_concat_fp8(*given, wanted), eager.swiglu_concat_fp8(*given, wanted))


def test_what_does_not_fit_is_named():
    mlp, attended = case(2, 3, 8, 16)
    with pytest.raises(ValueError, match="swiglu_concat: mlp must have two halves, got 31 features"):
        twin.swiglu_concat(mlp[..., 1:], attended)
    with pytest.raises(ValueError, match=r"swiglu_concat: attended must be of mlp's \[2, 3\] tokens, got \[2, 2\]"):
        twin.swiglu_concat_int8(mlp, attended[:, 1:], 0)
    with pytest.raises(ValueError, match="swiglu_concat: attended must be torch.float16"):
        twin.swiglu_concat(mlp, attended.float())
