"""Weights or activations in 8 bits, with one scale for each row."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST, HIGHEST = -128, 127
SMALLEST_SCALE = 1e-30


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each row to int8 by its own largest magnitude: level = clamp(round(x / scale), -128, 127).

    scale = largest / 127, at least 1e-30; halves go to the even level. It is comfy_kitchen's `quantize_int8_rowwise`:
    the quotient is taken in x's dtype, with the scale rounded to it, so bfloat16 rounds twice and float32 once.

    Args:
        x: (..., features) in any floating dtype, finite.

    Returns:
        int8 of x's shape, and float32 scales (..., 1); x is about their product.
    """
    scale = (x.abs().amax(dim=-1, keepdim=True).float() / HIGHEST).clamp(min=SMALLEST_SCALE)
    step = scale.to(x.dtype)
    step = torch.where(step == 0, torch.finfo(x.dtype).tiny, step)  # float16 has no 1e-30
    return (x / step).round_().clamp_(LOWEST, HIGHEST).to(torch.int8), scale
