"""Layer norm, scale and shift in one pass; comfy_kitchen's adaln takes no strided rows and writes no 8-bit ones."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fp8 import Fp8Input, Fp8Rows
from ..int8 import Int8Rows
from ..shapes import check_modulation
from .launch import batch_stride, block_of, check_tensors, launch, warps_for
from .rows import modulated, this_row
from .rows_fp8 import fp8_levels, new_fp8_rows
from .rows_int8 import int8_constants, new_int8_rows, store_int8


def layer_norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, *, exact: bool = True) -> Tensor:
    """As `eager.layer_norm_modulate`.

    Args:
        exact: round to x's dtype wherever the eager op does; False rounds the result alone.

    Raises:
        ValueError: as there; or dtypes differ, or features are not neighbours in memory.
    """
    check_modulation("layer_norm_modulate", x, scale=scale, shift=shift)
    check_tensors("layer_norm_modulate", x=x, scale=scale, shift=shift)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid = (x.shape[1], x.shape[0])
    launch(_modulate, grid, *_inputs(x, scale, shift), out, exact=exact, **_constants(x))
    return out


def layer_norm_modulate_int8(x: Tensor, scale: Tensor, shift: Tensor, rotation: int, *, exact: bool = True) -> Int8Rows:
    """As `eager.layer_norm_modulate_int8`; exact and errors as of `layer_norm_modulate`."""
    check_modulation("layer_norm_modulate", x, scale=scale, shift=shift)
    check_tensors("layer_norm_modulate", x=x, scale=scale, shift=shift)
    rows = new_int8_rows(x, x.shape[-1], rotation)
    grid, constants = (x.shape[1], x.shape[0]), _constants(x) | int8_constants(x, rotation)
    launch(_modulate_int8, grid, *_inputs(x, scale, shift), rows.levels, rows.scale, exact=exact, **constants)
    return rows


def layer_norm_modulate_fp8(
    x: Tensor, scale: Tensor, shift: Tensor, wanted: Fp8Input, *, exact: bool = True
) -> Fp8Rows:
    """As `eager.layer_norm_modulate_fp8`, on cards of compute capability 8.9; exact and errors as of the plain one."""
    check_modulation("layer_norm_modulate", x, scale=scale, shift=shift)
    check_tensors("layer_norm_modulate", x=x, scale=scale, shift=shift)
    rows = new_fp8_rows(x, x.shape[-1], wanted)
    grid, constants = (x.shape[1], x.shape[0]), _constants(x) | {"by_reciprocal": wanted.rounded}
    launch(_modulate_fp8, grid, *_inputs(x, scale, shift), rows.levels, rows.scale, exact=exact, **constants)
    return rows


def _inputs(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor | int, ...]:
    return x, scale, shift, x.stride(0), x.stride(1), batch_stride(scale), batch_stride(shift)


def _constants(x: Tensor) -> dict[str, Any]:
    block = block_of(x.shape[-1])
    return {"hidden": x.shape[-1], "block": block, "warps": warps_for(block)}


@triton.jit
def _modulated_row(
    x: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    scale_batch: tl.tensor,
    shift_batch: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    exact: tl.constexpr,
) -> tl.tensor:
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < hidden
    row = tl.load(x + batch * x_batch + token * x_token + columns, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(scale + batch * scale_batch + columns, mask=inside, other=0.0).to(tl.float32)
    addend = tl.load(shift + batch * shift_batch + columns, mask=inside, other=0.0).to(tl.float32)
    return modulated(row, factor, addend, inside, hidden, x.dtype.element_ty, exact)


@triton.jit
def _modulate(
    x: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    scale_batch: tl.tensor,
    shift_batch: tl.tensor,
    out: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    made = _modulated_row(x, scale, shift, x_batch, x_token, scale_batch, shift_batch, hidden, block, exact)
    columns = tl.arange(0, block)
    tl.store(out + this_row() * hidden + columns, made.to(out.dtype.element_ty), mask=columns < hidden)


@triton.jit
def _modulate_int8(
    x: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    scale_batch: tl.tensor,
    shift_batch: tl.tensor,
    levels: tl.tensor,
    scales: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    stages: tl.constexpr,
    tiny: tl.constexpr,
    reciprocal: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    made = _modulated_row(x, scale, shift, x_batch, x_token, scale_batch, shift_batch, hidden, block, exact)
    store_int8(made, levels, scales, hidden, block, stages, x.dtype.element_ty, tiny, reciprocal, exact)


@triton.jit
def _modulate_fp8(
    x: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    scale_batch: tl.tensor,
    shift_batch: tl.tensor,
    levels: tl.tensor,
    step: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    by_reciprocal: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    made = _modulated_row(x, scale, shift, x_batch, x_token, scale_batch, shift_batch, hidden, block, exact)
    made = fp8_levels(made, step, x.dtype.element_ty, by_reciprocal, exact)
    columns = tl.arange(0, block)
    tl.store(levels + this_row() * hidden + columns, made.to(levels.dtype.element_ty), mask=columns < hidden)
