"""Layer norm with modulation against numpy in float64."""

import numpy as np
import pytest
import torch
from rounding import DTYPES, drawn, roundings

from klein9b.kernels.eager.layer_norm_modulate import layer_norm_modulate

SHAPES = [(1, 1, 8), (2, 7, 33), (1, 5, 256), (3, 2, 4096)]


def by_formula(x, scale, shift):
    x, scale, shift = (t.double().numpy() for t in (x, scale, shift))
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift


def case(shape, rows, dtype=torch.float32, size=1.0):
    batch, _, hidden = shape
    x = drawn(*shape, dtype=dtype, scale=size) + size
    return x, *(drawn(rows or batch, 1, hidden, seed=seed, dtype=dtype) for seed in (1, 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, None], ids=["one row of modulation", "a row each"])
def test_it_is_the_formula(dtype, shape, rows):
    given = case(shape, rows, dtype)
    got = layer_norm_modulate(*given)
    assert got.dtype == dtype
    assert roundings(got, by_formula(*given)) < 8


def test_epsilon_counts_where_there_is_hardly_any_variance():
    given = case((1, 3, 64), 1, size=1e-3)
    assert roundings(layer_norm_modulate(*given), by_formula(*given)) < 200, "the mean is as large as the deviations"
    without = by_formula(given[0] * 1e6, *given[1:])
    assert roundings(layer_norm_modulate(*given), without) > 1e5


def test_a_constant_token_becomes_the_shift():
    _, scale, shift = case((1, 2, 16), 1)
    assert torch.equal(layer_norm_modulate(torch.full((1, 2, 16), 3.0), scale, shift), shift.expand(1, 2, 16))


def test_its_input_is_left_alone():
    x, scale, shift = case((2, 3, 16), None)
    before = x.clone()
    layer_norm_modulate(x, scale, shift)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(2, 1, 15), (3, 1, 16), (2, 5, 16), (2, 16)], ids=str)
@pytest.mark.parametrize("name", ["scale", "shift"])
def test_another_shape_is_named(name, shape):
    x, scale, shift = case((2, 5, 16), None)
    given = {"scale": scale, "shift": shift} | {name: torch.zeros(shape)}
    words = rf"layer_norm_modulate: {name} must be \[2, 1, 16\] or \[1, 1, 16\] for x \[2, 5, 16\], got"
    with pytest.raises(ValueError, match=words):
        layer_norm_modulate(x, **given)
