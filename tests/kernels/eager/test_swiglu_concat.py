"""The gated activation against numpy in float64."""

import numpy as np
import pytest
import torch
from rounding import DTYPES, drawn, roundings

from klein9b.kernels.eager.swiglu_concat import swiglu_concat

SHAPES = [(1, 1, 2, 1), (2, 7, 66, 9), (1, 3, 2048, 256)]


def by_formula(mlp):
    a, b = np.split(mlp.double().numpy(), 2, axis=-1)
    return a / (1 + np.exp(-a)) * b


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("batch", "tokens", "features", "hidden"), SHAPES)
def test_it_is_the_formula_behind_what_was_attended(dtype, batch, tokens, features, hidden):
    mlp = 2 * drawn(batch, tokens, features, dtype=dtype)
    attended = drawn(batch, tokens, hidden, seed=1, dtype=dtype)
    got = swiglu_concat(mlp, attended)
    assert got.dtype == dtype
    assert torch.equal(got[..., :hidden], attended)
    assert roundings(got[..., hidden:], by_formula(mlp)) < 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_alone_it_is_the_activation(dtype):
    mlp = drawn(2, 3, 10, dtype=dtype)
    assert torch.equal(swiglu_concat(mlp), swiglu_concat(mlp, drawn(2, 3, 4, dtype=dtype))[..., 4:])


def test_features_far_from_zero_are_finite():
    mlp = torch.tensor([[[-1e4, 1e4, 2.0, 2.0]]])
    assert torch.equal(swiglu_concat(mlp), torch.tensor([[[0.0, 2e4]]]))


def test_a_part_of_a_wider_projection_is_as_good():
    packed = drawn(2, 3, 30)
    assert torch.equal(swiglu_concat(packed[..., 10:]), swiglu_concat(packed[..., 10:].contiguous()))


def test_an_odd_number_of_features_is_named():
    with pytest.raises(ValueError, match="swiglu_concat: mlp must have two halves, got 7 features"):
        swiglu_concat(drawn(1, 2, 7))


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 2, 4)], ids=str)
def test_other_tokens_are_named(shape):
    with pytest.raises(ValueError, match=r"swiglu_concat: attended must be of mlp's \[1, 2\] tokens, got"):
        swiglu_concat(drawn(1, 2, 8), drawn(*shape))
