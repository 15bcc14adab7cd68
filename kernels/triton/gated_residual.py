"""Gate and residual in one pass; comfy_kitchen has it after an RMS norm or in an fp16 or int8 product, not alone."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..shapes import check_gated
from .launch import batch_stride, block_of, check_tensors, launch, warps_for
from .rows import rounded


def gated_residual_(x: Tensor, y: Tensor, gate: Tensor, *, exact: bool = True) -> Tensor:
    """As `eager.gated_residual_`.

    Args:
        exact: round the product as the eager op does; False rounds the sum alone.

    Raises:
        ValueError: as there; or dtypes differ, or features are not neighbours in memory.
    """
    check_gated(x, y, gate)
    check_tensors("gated_residual_", x=x, y=y, gate=gate)
    block = block_of(x.shape[-1])
    strides = x.stride(0), x.stride(1), y.stride(0), y.stride(1), batch_stride(gate)
    grid = (x.shape[1], x.shape[0])
    launch(_gated, grid, x, y, gate, *strides, hidden=x.shape[-1], block=block, warps=warps_for(block), exact=exact)
    return x


@triton.jit
def add_gated(
    x: tl.tensor,
    y: tl.tensor,
    gate: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    y_batch: tl.tensor,
    y_token: tl.tensor,
    gate_batch: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    exact: tl.constexpr,
) -> tl.tensor:
    """Adds to this program's row of x, and returns the sum in float32; 0 outside."""
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < hidden
    stream = x + batch * x_batch + token * x_token + columns
    add = tl.load(y + batch * y_batch + token * y_token + columns, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(gate + batch * gate_batch + columns, mask=inside, other=0.0).to(tl.float32)
    gated = rounded(factor * add, x.dtype.element_ty, exact)
    total = tl.load(stream, mask=inside, other=0.0).to(tl.float32) + gated
    tl.store(stream, total.to(x.dtype.element_ty), mask=inside)
    return rounded(total, x.dtype.element_ty, exact)


@triton.jit
def _gated(
    x: tl.tensor,
    y: tl.tensor,
    gate: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    y_batch: tl.tensor,
    y_token: tl.tensor,
    gate_batch: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    add_gated(x, y, gate, x_batch, x_token, y_batch, y_token, gate_batch, hidden, block, exact)
