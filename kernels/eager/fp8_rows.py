"""Activations in float8, one scale for all, for a matrix product in float8."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fp8 import Fp8Input, Fp8Rows

HIGHEST = 448


def fp8_rows(x: Tensor, wanted: Fp8Input) -> Fp8Rows:
    """clamp(x / scale, -448, 448) in float8_e4m3fn, halves to the even code.

    It is comfy_kitchen's `quantize_per_tensor_fp8`, of which there are two: its kernels divide in float32. Its torch
    code, `wanted.rounded`, multiplies by 1 / scale, and both that and the product are rounded to x's dtype.

    Args:
        x: (batch, tokens, features) in any floating dtype.
    """
    quotient = x * (1.0 / wanted.scale).to(x.dtype) if wanted.rounded else x.float() / wanted.scale
    return Fp8Rows(quotient.clamp_(-HIGHEST, HIGHEST).to(torch.float8_e4m3fn), wanted.scale, x.dtype)
