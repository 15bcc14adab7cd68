"""Activations in 8 bits, one scale a token, for a matrix product in int8."""

from __future__ import annotations

from torch import Tensor

from ..int8 import Int8Rows
from .quantize_rows import quantize_rows
from .rotate import rotate


def int8_rows(x: Tensor, rotation: int) -> Int8Rows:
    """Every token of x (batch, tokens, features), rotated in groups of `rotation` features unless that is 0.

    Raises:
        ValueError: the features do not divide into such groups.
    """
    return Int8Rows(*quantize_rows(rotate(x, rotation) if rotation else x), rotation)
