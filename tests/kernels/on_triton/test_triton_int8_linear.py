"""Triton's int8 product against eager's, bit for bit: sums of integers do not mind their order."""

from dataclasses import replace

import pytest
import torch
from twins import DEVICE, DTYPES

from klein9b.kernels.eager import int8_linear as eager
from klein9b.kernels.int8 import Int8Rows, Int8Weight
from klein9b.kernels.samples import CASES, Samples
from klein9b.kernels.triton import int8_linear as twin

# batch, tokens, features, out features: a tile of each size, beside what fits none.
SHAPES = [(1, 20, 64, 40), (2, 21, 128, 200), (1, 600, 72, 136), (1, 17, 200, 72)]


def levels(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator).to(DEVICE)


def scales(*shape, seed=0):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 1e-3).to(DEVICE)


def case(batch, tokens, features, out_features, rotation=0):
    rows = Int8Rows(levels(batch, tokens, features), scales(batch, tokens, 1), rotation)
    return rows, Int8Weight(levels(out_features, features, seed=1), scales(out_features, 1, seed=1), rotation)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_eagers(dtype, shape):
    rows, weight = case(*shape)
    assert torch.equal(twin.int8_linear(rows, weight, dtype), eager.int8_linear(rows, weight, dtype))


def test_one_scale_serves_a_whole_matrix():
    rows, weight = case(1, 33, 64, 40)
    for scale in (weight.scale[:1], weight.scale[0, 0]):
        one = replace(weight, scale=scale)
        assert torch.equal(twin.int8_linear(rows, one, torch.float32), eager.int8_linear(rows, one, torch.float32))


def test_the_shapes_above_are_of_every_tile():
    tiles = {twin.tile_for(batch * tokens) for batch, tokens, _, _ in SHAPES}
    assert tiles == {twin.tile_for(rows) for rows in range(1, 5000)}


def test_any_number_of_rows_will_do():
    rows, weight = case(1, 40, 64, 40)
    wanted = eager.int8_linear(rows, weight, torch.float32)
    for tokens in (0, 1, 16):
        few = Int8Rows(rows.levels[:, :tokens], rows.scale[:, :tokens], 0)
        assert torch.equal(twin.int8_linear(few, weight, torch.float32), wanted[:, :tokens])


def test_what_does_not_fit_is_named():
    rows, weight = case(1, 20, 64, 40, rotation=16)
    with pytest.raises(ValueError, match="the activations are rotated by 16 features, the matrix by 64"):
        twin.int8_linear(rows, replace(weight, rotation=64), torch.float16)
    with pytest.raises(ValueError, match="int8_linear: the matrix takes 32 features, the activations have 64"):
        twin.int8_linear(rows, replace(weight, levels=weight.levels[:, :32]), torch.float16)
    with pytest.raises(ValueError, match="int8_linear: the last dimension of weight must have stride 1"):
        twin.int8_linear(rows, replace(weight, levels=levels(64, 40).t()), torch.float16)


def test_a_self_check_tries_every_tile():
    """One that a card cannot compile must be found there, not in the middle of a picture."""
    tried = set()

    def op(rows, weight, dtype):
        tried.add(twin.tile_for(rows.levels.shape[0] * rows.levels.shape[1]))
        return eager.int8_linear(rows, weight, dtype)

    CASES["int8_linear"].run(op, Samples(torch.device("cpu"), torch.bfloat16))
    assert tried == {twin.tile_for(rows) for rows in (20, 42, 600)}
