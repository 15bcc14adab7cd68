"""Layer norm without weights, then scale and shift by the timestep."""

from __future__ import annotations

from torch import Tensor, addcmul
from torch.nn.functional import layer_norm

from ..fp8 import Fp8Input, Fp8Rows
from ..int8 import Int8Rows
from ..shapes import check_modulation
from .fp8_rows import fp8_rows
from .int8_rows import int8_rows

EPS = 1e-6


def layer_norm_modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-6) * (1 + scale) + shift, mean and variance over the last dimension.

    Args:
        x: (batch, tokens, hidden) in any floating dtype, which the result has too.
        scale, shift: (batch or 1, 1, hidden), of x's dtype.

    Raises:
        ValueError: scale or shift is of another shape.
    """
    check_modulation("layer_norm_modulate", x, scale=scale, shift=shift)
    return addcmul(shift, layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)


def layer_norm_modulate_int8(x: Tensor, scale: Tensor, shift: Tensor, rotation: int) -> Int8Rows:
    """`int8_rows` of `layer_norm_modulate`."""
    return int8_rows(layer_norm_modulate(x, scale, shift), rotation)


def layer_norm_modulate_fp8(x: Tensor, scale: Tensor, shift: Tensor, wanted: Fp8Input) -> Fp8Rows:
    """`fp8_rows` of `layer_norm_modulate`."""
    return fp8_rows(layer_norm_modulate(x, scale, shift), wanted)
