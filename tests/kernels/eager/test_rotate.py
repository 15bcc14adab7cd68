"""The rotation against its formula in float64, and against comfy_kitchen bit for bit."""

import pytest
import torch
from rounding import DTYPES, drawn, roundings

from klein9b.kernels.eager.rotate import hadamard, rotate

H4 = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64)


def by_formula(x, group):
    matrix = H4
    while len(matrix) < group:
        matrix = torch.kron(matrix, H4)
    return torch.einsum("...gk,kn->...gn", x.double().unflatten(-1, (-1, group)), matrix / group**0.5).flatten(-2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "group"), [((3, 4), 4), ((2, 5, 96), 16), ((7, 768), 256), ((1024,), 1024)], ids=str)
def test_it_is_the_formula(dtype, shape, group):
    x = drawn(*shape, dtype=dtype)
    got = rotate(x, group)
    assert got.dtype == dtype
    # One at each of the group's sums, as a random walk adds them up.
    assert roundings(got, by_formula(x, group)) < group**0.5


@pytest.mark.parametrize("group", [4, 64, 256])
def test_the_matrix_is_regular_symmetric_and_its_own_inverse(group):
    matrix = hadamard(group, torch.float64)
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix @ matrix, torch.eye(group, dtype=torch.float64))
    assert torch.equal(matrix.sum(dim=0), torch.ones(group, dtype=torch.float64))


def test_rotated_weights_and_activations_make_the_plain_product():
    x, weight = drawn(5, 512, dtype=torch.float64), drawn(3, 512, seed=1, dtype=torch.float64)
    assert torch.allclose(rotate(x, 256) @ rotate(weight, 256).T, x @ weight.T, rtol=0, atol=1e-12)


def test_an_outlier_is_spread_over_its_group_alone():
    x = torch.zeros(1, 512)
    x[0, 300] = 16.0
    got = rotate(x, 256)
    assert (got[0, :256] == 0).all()
    assert (got[0, 256:].abs() == 1).all()


@pytest.mark.parametrize("group", [0, 1, 2, 8, 128, 255, 512])
def test_a_group_that_is_no_power_of_4_is_named(group):
    with pytest.raises(ValueError, match=f"rotate: group must be a power of 4, got {group}"):
        rotate(drawn(1, 1024), group)


def test_features_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="rotate: features must be a multiple of the group 256, got 128"):
        rotate(drawn(1, 128), 256)


@pytest.fixture
def theirs():
    return pytest.importorskip("comfy_kitchen.tensor.int8_utils", reason="comfy_kitchen is not installed")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", [16, 256])
def test_it_is_comfy_kitchens_bit_for_bit(theirs, dtype, group):
    x = drawn(33, 1024, dtype=dtype)
    matrix = theirs._build_hadamard(group, dtype=dtype)
    assert torch.equal(hadamard(group, dtype), matrix)
    assert torch.equal(rotate(x, group), theirs._rotate_activation(x, matrix, group))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_rotates_weights_as_comfy_kitchen_does(theirs, dtype):
    """In float16 theirs multiplies by a transposed view, which sums in another order."""
    weight = drawn(33, 1024, dtype=dtype)
    assert torch.equal(rotate(weight, 256), theirs._rotate_weight(weight, theirs._build_hadamard(256), 256))
