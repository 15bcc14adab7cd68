"""Triton's gated residuals, alone and with the next norm, against eager's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import DEVICE, DTYPES, HALF, agree, agree_fp8, agree_int8, drawn, fp8_inputs, share

from klein9b.kernels.eager import gated_residual as eager
from klein9b.kernels.eager import gated_residual_norm as eager_norm
from klein9b.kernels.triton import gated_residual as twin
from klein9b.kernels.triton import gated_residual_norm as twin_norm

SHAPES = [(1, 1, 8), (2, 7, 33), (2, 3, 4096), (2, 0, 16)]


def case(shape, rows=1, dtype=HALF, vectors=3):
    batch, _, hidden = shape
    x, y = drawn(*shape, dtype=dtype, scale=2.0), drawn(*shape, seed=9, dtype=dtype)
    return x, y, *(drawn(rows or batch, 1, hidden, seed=seed, dtype=dtype) for seed in range(1, 1 + vectors))


def both(op, twin, x, *given):
    """What each made of a copy of x, then the copies."""
    copies = x.clone(), x.clone()
    return op(copies[0], *given), twin(copies[1], *given), *copies


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, None], ids=["one gate", "a gate each"])
def test_the_residual_is_eagers_bit_for_bit(dtype, shape, rows):
    wanted, got, _, changed = both(eager.gated_residual_, twin.gated_residual_, *case(shape, rows, dtype, vectors=1))
    assert got is changed
    agree(got, wanted, equal=1.0)


def test_without_mirrored_roundings_it_rounds_once():
    x, y, gate = case((1, 4, 2048), vectors=1)
    once = (x.double() + gate.double() * y.double()).half()
    exact = twin.gated_residual_(x.clone(), y, gate)
    fast = twin.gated_residual_(x.clone(), y, gate, exact=False)
    assert share(fast, once) > 0.999 > share(exact, once)


def test_nothing_but_the_view_is_written():
    _, y, gate, scale, shift = case((2, 3, 33))
    for op in (twin.gated_residual_, lambda *given: twin_norm.gated_residual_norm_(*given, scale, shift)):
        buffer = torch.full((2, 7, 50), float("nan"), dtype=HALF, device=DEVICE)
        view = buffer[:, 2:5, 9:42]
        view.zero_()
        op(view, y, gate)
        assert torch.equal(view, gate * y)
        view.fill_(float("nan"))
        assert buffer.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, None], ids=["one row of modulation", "a row each"])
def test_the_norm_behind_it_is_eagers(dtype, shape, rows):
    given = case(shape, rows, dtype)
    wanted, got, x, changed = both(eager_norm.gated_residual_norm_, twin_norm.gated_residual_norm_, *given)
    agree(changed, x, equal=1.0)
    agree(got, wanted, equal=0.999 if dtype == HALF else 0.0)
    agree(twin_norm.gated_residual_norm_(*given, exact=False), wanted, roundings=8)


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 3), st.integers(0, 4), st.integers(2, 70), st.booleans())
def test_it_is_eagers_of_any_shape(batch, tokens, hidden, shared):
    given = case((batch, tokens, hidden), 1 if shared else None)
    wanted, got, x, changed = both(eager_norm.gated_residual_norm_, twin_norm.gated_residual_norm_, *given)
    agree(changed, x, equal=1.0)
    agree(got, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "rotation"), [((2, 3, 33), 0), ((2, 3, 96), 16), ((2, 2, 4096), 256), ((2, 0, 16), 4)], ids=str
)
def test_int8_rows_are_eagers(dtype, shape, rotation):
    given = (*case(shape, None, dtype), rotation)
    ops = eager_norm.gated_residual_norm_int8_, twin_norm.gated_residual_norm_int8_
    wanted, got, x, changed = both(*ops, *given)
    agree(changed, x, equal=1.0)
    agree_int8(got, wanted, of=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 33), (2, 2, 4096), (2, 0, 16)], ids=str)
def test_fp8_rows_are_eagers(dtype, shape):
    ops = eager_norm.gated_residual_norm_fp8_, twin_norm.gated_residual_norm_fp8_
    for one in fp8_inputs():
        wanted, got, x, changed = both(*ops, *case(shape, None, dtype), one)
        agree(changed, x, equal=1.0)
        agree_fp8(got, wanted)


def test_a_layers_output_within_a_longer_one_is_as_good():
    x, _, *vectors = case((2, 3, 33))
    y = drawn(2, 8, 40, seed=9, dtype=HALF)[:, 5:, :33]
    wanted, got, _, _ = both(eager_norm.gated_residual_norm_, twin_norm.gated_residual_norm_, x, y, *vectors)
    agree(got, wanted, equal=0.98)


def test_what_does_not_fit_is_named():
    x, y, gate, scale, shift = case((2, 5, 16), None)
    with pytest.raises(ValueError, match=r"gated_residual_: y must have x's shape \[2, 5, 16\], got \[2, 4, 16\]"):
        twin.gated_residual_(x, y[:, 1:], gate)
    with pytest.raises(ValueError, match=r"gated_residual_: gate must be \[2, 1, 16\] or \[1, 1, 16\]"):
        twin_norm.gated_residual_norm_(x, y, gate[..., 1:], scale, shift)
    with pytest.raises(ValueError, match=r"layer_norm_modulate: shift must be \[2, 1, 16\] or \[1, 1, 16\]"):
        twin_norm.gated_residual_norm_int8_(x, y, gate, scale, shift[..., 1:], 0)
    with pytest.raises(ValueError, match=r"gated_residual_: the last dimension of x must have stride 1"):
        twin.gated_residual_(x.mT.contiguous().mT, y, gate)
