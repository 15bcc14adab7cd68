"""A gated residual with the next norm and modulation; comfy_kitchen norms before the gate (rms_gated_residual) only."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fp8 import Fp8Input, Fp8Rows
from ..int8 import Int8Rows
from ..shapes import check_gated, check_modulation
from .gated_residual import add_gated
from .launch import batch_stride, block_of, check_tensors, launch, warps_for
from .rows import modulated, this_row
from .rows_fp8 import fp8_levels, new_fp8_rows
from .rows_int8 import int8_constants, new_int8_rows, store_int8


def gated_residual_norm_(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, *, exact: bool = True
) -> Tensor:
    """As `eager.gated_residual_norm_`.

    Args:
        exact: round to x's dtype wherever the eager op does; False rounds x and the result alone.

    Raises:
        ValueError: as there; or dtypes differ, or features are not neighbours in memory.
    """
    _check(x, y, gate, scale, shift)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid = (x.shape[1], x.shape[0])
    launch(_gated_norm, grid, *_inputs(x, y, gate, scale, shift), out, exact=exact, **_constants(x))
    return out


def gated_residual_norm_int8_(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, rotation: int, *, exact: bool = True
) -> Int8Rows:
    """As `eager.gated_residual_norm_int8_`; exact and errors as of `gated_residual_norm_`."""
    _check(x, y, gate, scale, shift)
    rows = new_int8_rows(x, x.shape[-1], rotation)
    grid, constants = (x.shape[1], x.shape[0]), _constants(x) | int8_constants(x, rotation)
    inputs = _inputs(x, y, gate, scale, shift)
    launch(_gated_norm_int8, grid, *inputs, rows.levels, rows.scale, exact=exact, **constants)
    return rows


def gated_residual_norm_fp8_(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, wanted: Fp8Input, *, exact: bool = True
) -> Fp8Rows:
    """As `eager.gated_residual_norm_fp8_`, on cards of compute capability 8.9; exact and errors as of the plain one."""
    _check(x, y, gate, scale, shift)
    rows = new_fp8_rows(x, x.shape[-1], wanted)
    grid, constants = (x.shape[1], x.shape[0]), _constants(x) | {"by_reciprocal": wanted.rounded}
    inputs = _inputs(x, y, gate, scale, shift)
    launch(_gated_norm_fp8, grid, *inputs, rows.levels, rows.scale, exact=exact, **constants)
    return rows


def _check(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor) -> None:
    check_gated(x, y, gate)
    check_modulation("layer_norm_modulate", x, scale=scale, shift=shift)
    check_tensors("gated_residual_norm_", x=x, y=y, gate=gate, scale=scale, shift=shift)


def _inputs(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor | int, ...]:
    rows = x.stride(0), x.stride(1), y.stride(0), y.stride(1)
    return x, y, gate, scale, shift, *rows, batch_stride(gate), batch_stride(scale), batch_stride(shift)


def _constants(x: Tensor) -> dict[str, Any]:
    block = block_of(x.shape[-1])
    return {"hidden": x.shape[-1], "block": block, "warps": warps_for(block)}


@triton.jit
def _gated_norm_row(
    x: tl.tensor,
    y: tl.tensor,
    gate: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    y_batch: tl.tensor,
    y_token: tl.tensor,
    gate_batch: tl.tensor,
    scale_batch: tl.tensor,
    shift_batch: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    exact: tl.constexpr,
) -> tl.tensor:
    row = add_gated(x, y, gate, x_batch, x_token, y_batch, y_token, gate_batch, hidden, block, exact)
    batch = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < hidden
    factor = tl.load(scale + batch * scale_batch + columns, mask=inside, other=0.0).to(tl.float32)
    addend = tl.load(shift + batch * shift_batch + columns, mask=inside, other=0.0).to(tl.float32)
    return modulated(row, factor, addend, inside, hidden, x.dtype.element_ty, exact)


@triton.jit
def _gated_norm(
    x: tl.tensor,
    y: tl.tensor,
    gate: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    y_batch: tl.tensor,
    y_token: tl.tensor,
    gate_batch: tl.tensor,
    scale_batch: tl.tensor,
    shift_batch: tl.tensor,
    out: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    made = _gated_norm_row(
        x, y, gate, scale, shift,
        x_batch, x_token, y_batch, y_token, gate_batch, scale_batch, shift_batch,
        hidden, block, exact,
    )  # fmt: skip
    columns = tl.arange(0, block)
    tl.store(out + this_row() * hidden + columns, made.to(out.dtype.element_ty), mask=columns < hidden)


@triton.jit
def _gated_norm_int8(
    x: tl.tensor,
    y: tl.tensor,
    gate: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    y_batch: tl.tensor,
    y_token: tl.tensor,
    gate_batch: tl.tensor,
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
    made = _gated_norm_row(
        x, y, gate, scale, shift,
        x_batch, x_token, y_batch, y_token, gate_batch, scale_batch, shift_batch,
        hidden, block, exact,
    )  # fmt: skip
    store_int8(made, levels, scales, hidden, block, stages, x.dtype.element_ty, tiny, reciprocal, exact)


@triton.jit
def _gated_norm_fp8(
    x: tl.tensor,
    y: tl.tensor,
    gate: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    x_batch: tl.tensor,
    x_token: tl.tensor,
    y_batch: tl.tensor,
    y_token: tl.tensor,
    gate_batch: tl.tensor,
    scale_batch: tl.tensor,
    shift_batch: tl.tensor,
    levels: tl.tensor,
    step: tl.tensor,
    hidden: tl.constexpr,
    block: tl.constexpr,
    by_reciprocal: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    made = _gated_norm_row(
        x, y, gate, scale, shift,
        x_batch, x_token, y_batch, y_token, gate_batch, scale_batch, shift_batch,
        hidden, block, exact,
    )  # fmt: skip
    made = fp8_levels(made, step, x.dtype.element_ty, by_reciprocal, exact)
    columns = tl.arange(0, block)
    tl.store(levels + this_row() * hidden + columns, made.to(levels.dtype.element_ty), mask=columns < hidden)
