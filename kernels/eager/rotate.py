"""An orthogonal rotation of neighbouring features: an outlier is spread over its group before rounding (ConvRot)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import check_rotation

_ORDER = 4


def rotate(x: Tensor, group: int) -> Tensor:
    """x @ H for each group of features, H = H4 (x) H4 (x) ... / sqrt(group), with (x) the Kronecker product.

    H4 is the regular Hadamard matrix of order 4, whose rows each sum to 2. H is symmetric and its own inverse, so that
    rotating twice gives x, and rotated weights times rotated activations are the plain product. The matrix and the
    layout are those of comfy_kitchen's int8 weights with `convrot` (comfy_kitchen/tensor/int8_utils.py).

    Args:
        x: (..., features) in any floating dtype, in which it is multiplied, too.
        group: a power of 4 that divides features.

    Returns:
        As x.

    Raises:
        ValueError: group is no power of 4, or does not divide features.
    """
    features = x.shape[-1]
    check_rotation(features, group)
    groups = x.reshape(-1, features // group, group)
    return torch.matmul(groups, hadamard(group, x.dtype, x.device)).reshape(x.shape)


def hadamard(size: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """The normalised regular Hadamard matrix (size, size): 1 or -1 over sqrt(size), which is exact in any dtype."""
    base = 1 - 2 * torch.eye(_ORDER, dtype=dtype, device=device).flip(0)
    matrix = base
    while matrix.shape[0] < size:
        matrix = torch.kron(matrix, base)
    return matrix / size**0.5
