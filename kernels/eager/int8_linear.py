"""A linear layer on activations that are int8 already."""

from __future__ import annotations

import torch
from torch import Tensor

from ..int8 import Int8Rows, Int8Weight
from ..shapes import check_int8_linear


def int8_linear(rows: Int8Rows, weight: Int8Weight, dtype: torch.dtype) -> Tensor:
    """(levels @ weight levels transposed) * (scale * weight scale), in float32, rounded once to the dtype.

    The rotations cancel out: of activations x R and a matrix W R the product is x W transposed.

    Args:
        dtype: of the result, (batch, tokens, out features).

    Raises:
        ValueError: activations and matrix were rotated differently, or have other features.
    """
    check_int8_linear(rows, weight)
    batch, tokens, features = rows.levels.shape
    product = torch._int_mm(rows.levels.reshape(-1, features), weight.levels.t())
    scaled = product * (rows.scale.reshape(-1, 1) * weight.scale.reshape(1, -1))
    return scaled.to(dtype).reshape(batch, tokens, -1)
