"""The gated residual against numpy in float64, and where it writes."""

import pytest
import torch
from rounding import DTYPES, drawn, roundings

from klein9b.kernels.eager.gated_residual import gated_residual_


def case(shape, rows=1, dtype=torch.float32):
    return drawn(*shape, dtype=dtype), drawn(*shape, seed=1, dtype=dtype), drawn(rows, 1, shape[2], seed=2, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "rows"), [((1, 1, 1), 1), ((2, 7, 33), 1), ((2, 7, 33), 2), ((1, 5, 4096), 1)])
def test_it_is_the_formula(dtype, shape, rows):
    x, y, gate = case(shape, rows, dtype)
    wanted = x.double().numpy() + gate.double().numpy() * y.double().numpy()
    assert roundings(gated_residual_(x, y, gate), wanted) < 3


def test_it_writes_into_its_first_argument_only():
    x, y, gate = case((2, 3, 8))
    before, (y_before, gate_before) = x.clone(), (y.clone(), gate.clone())
    assert gated_residual_(x, y, gate) is x
    assert not torch.equal(x, before) and torch.equal(y, y_before) and torch.equal(gate, gate_before)


def test_a_view_of_later_tokens_leaves_the_earlier_ones():
    x, y, gate = case((2, 5, 8), rows=2)
    before = x.clone()
    gated_residual_(x[:, 3:], y[:, 3:], gate)
    assert torch.equal(x[:, :3], before[:, :3])
    assert torch.equal(x[:, 3:], gated_residual_(before[:, 3:].clone(), y[:, 3:], gate))


def test_another_shape_of_the_output_is_named():
    x, y, gate = case((2, 5, 8))
    with pytest.raises(ValueError, match=r"gated_residual_: y must have x's shape \[2, 5, 8\], got \[1, 5, 8\]"):
        gated_residual_(x, y[:1], gate)


@pytest.mark.parametrize("shape", [(3, 1, 8), (1, 1, 7), (2, 5, 8)], ids=str)
def test_another_shape_of_the_gate_is_named(shape):
    x, y, _ = case((2, 5, 8))
    with pytest.raises(ValueError, match=r"gated_residual_: gate must be \[2, 1, 8\] or \[1, 1, 8\]"):
        gated_residual_(x, y, torch.ones(shape))
