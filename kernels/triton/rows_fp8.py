"""Activations made float8 by the kernel that computed them, while they are in its registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fp8 import Fp8Input, Fp8Rows
from .rows import quotient, rounded

HIGHEST = tl.constexpr(448.0)


def new_fp8_rows(x: Tensor, features: int, wanted: Fp8Input) -> Fp8Rows:
    """Unwritten rows of that many features for the tokens of x."""
    batch, tokens, _ = x.shape
    levels = torch.empty((batch, tokens, features), dtype=torch.float8_e4m3fn, device=x.device)
    return Fp8Rows(levels, wanted.scale, x.dtype)


@triton.jit
def fp8_levels(
    x: tl.tensor, scale: tl.tensor, dtype: tl.constexpr, by_reciprocal: tl.constexpr, exact: tl.constexpr
) -> tl.tensor:
    """eager.fp8_rows of x before it is rounded to float8, in float32.

    Args:
        scale: points at it.
        by_reciprocal: of `Fp8Input.rounded`, which only counts where every rounding is mirrored.
    """
    step = tl.load(scale)
    if by_reciprocal and exact:
        x = rounded(x * rounded(tl.div_rn(1.0, step), dtype, exact), dtype, exact)
    else:
        x = quotient(x, step, exact)
    return tl.minimum(tl.maximum(x, -HIGHEST), HIGHEST)
