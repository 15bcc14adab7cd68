"""A gated residual, and the norm and modulation of what comes behind it, in one pass."""

from __future__ import annotations

from torch import Tensor

from ..fp8 import Fp8Input, Fp8Rows
from ..int8 import Int8Rows
from .gated_residual import gated_residual_
from .layer_norm_modulate import layer_norm_modulate, layer_norm_modulate_fp8, layer_norm_modulate_int8


def gated_residual_norm_(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x becomes x + gate * y, as by `gated_residual_`; returns `layer_norm_modulate` of that.

    Raises:
        ValueError: as of the two.
    """
    return layer_norm_modulate(gated_residual_(x, y, gate), scale, shift)


def gated_residual_norm_int8_(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, rotation: int
) -> Int8Rows:
    """As `gated_residual_norm_`; returns `layer_norm_modulate_int8`."""
    return layer_norm_modulate_int8(gated_residual_(x, y, gate), scale, shift, rotation)


def gated_residual_norm_fp8_(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, wanted: Fp8Input
) -> Fp8Rows:
    """As `gated_residual_norm_`; returns `layer_norm_modulate_fp8`."""
    return layer_norm_modulate_fp8(gated_residual_(x, y, gate), scale, shift, wanted)
