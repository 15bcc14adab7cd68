"""SwiGLU behind the attention's output in one pass; comfy_kitchen has it in its int8 product, without the concat."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fp8 import Fp8Input, Fp8Rows
from ..int8 import Int8Rows
from ..shapes import check_swiglu
from .launch import block_of, check_tensors, launch, warps_for
from .rows import quotient, rounded, this_row
from .rows_fp8 import fp8_levels, new_fp8_rows
from .rows_int8 import int8_constants, new_int8_rows, store_int8

# Without a scale for each token nothing needs the whole row: small programs hide each other's waiting better.
CHUNK = 2048


def swiglu_concat(mlp: Tensor, attended: Tensor | None = None, *, exact: bool = True) -> Tensor:
    """As `eager.swiglu_concat`.

    Args:
        exact: round silu(a) as the eager op does; False rounds the product alone.

    Raises:
        ValueError: as there; or dtypes differ, or features are not neighbours in memory.
    """
    _check(mlp, attended)
    batch, tokens, _ = mlp.shape
    out = torch.empty((batch, tokens, _features(mlp, attended)), dtype=mlp.dtype, device=mlp.device)
    grid, block = _chunks(out)
    launch(_swiglu, grid, *_inputs(mlp, attended), out, exact=exact, **_constants(mlp, attended, block))
    return out


def swiglu_concat_int8(mlp: Tensor, attended: Tensor | None, rotation: int, *, exact: bool = True) -> Int8Rows:
    """As `eager.swiglu_concat_int8`; exact and errors as of `swiglu_concat`."""
    _check(mlp, attended)
    rows = new_int8_rows(mlp, _features(mlp, attended), rotation)
    block = block_of(rows.levels.shape[-1])
    grid, constants = (mlp.shape[1], mlp.shape[0]), _constants(mlp, attended, block) | int8_constants(mlp, rotation)
    launch(_swiglu_int8, grid, *_inputs(mlp, attended), rows.levels, rows.scale, exact=exact, **constants)
    return rows


def swiglu_concat_fp8(mlp: Tensor, attended: Tensor | None, wanted: Fp8Input, *, exact: bool = True) -> Fp8Rows:
    """As `eager.swiglu_concat_fp8`, on cards of compute capability 8.9; exact and errors as of `swiglu_concat`."""
    _check(mlp, attended)
    rows = new_fp8_rows(mlp, _features(mlp, attended), wanted)
    grid, block = _chunks(rows.levels)
    constants = _constants(mlp, attended, block) | {"by_reciprocal": wanted.rounded}
    launch(_swiglu_fp8, grid, *_inputs(mlp, attended), rows.levels, rows.scale, exact=exact, **constants)
    return rows


def _chunks(out: Tensor) -> tuple[tuple[int, int, int], int]:
    """The grid of programs that each write a part of a token, and how large a part."""
    batch, tokens, features = out.shape
    block = min(CHUNK, block_of(features))
    return (tokens, batch, triton.cdiv(features, block)), block


def _check(mlp: Tensor, attended: Tensor | None) -> None:
    check_swiglu(mlp, attended)
    check_tensors("swiglu_concat", mlp=mlp, **({} if attended is None else {"attended": attended}))


def _hidden(attended: Tensor | None) -> int:
    return 0 if attended is None else attended.shape[-1]


def _features(mlp: Tensor, attended: Tensor | None) -> int:
    return _hidden(attended) + mlp.shape[-1] // 2


def _inputs(mlp: Tensor, attended: Tensor | None) -> tuple[Tensor | int, ...]:
    beside = mlp if attended is None else attended
    return mlp, beside, mlp.stride(0), mlp.stride(1), beside.stride(0), beside.stride(1)


def _constants(mlp: Tensor, attended: Tensor | None, block: int) -> dict[str, Any]:
    return {"hidden": _hidden(attended), "width": mlp.shape[-1] // 2, "block": block, "warps": warps_for(block)}


@triton.jit
def _swiglu_row(
    columns: tl.tensor,
    mlp: tl.tensor,
    attended: tl.tensor,
    mlp_batch: tl.tensor,
    mlp_token: tl.tensor,
    attended_batch: tl.tensor,
    attended_token: tl.tensor,
    hidden: tl.constexpr,
    width: tl.constexpr,
    exact: tl.constexpr,
) -> tl.tensor:
    token, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    of_mlp = (columns >= hidden) & (columns < hidden + width)
    gates = mlp + batch * mlp_batch + token * mlp_token + columns - hidden
    gate = tl.load(gates, mask=of_mlp, other=0.0).to(tl.float32)
    value = tl.load(gates + width, mask=of_mlp, other=0.0).to(tl.float32)
    activated = rounded(quotient(gate, 1.0 + tl.exp(-gate), exact), mlp.dtype.element_ty, exact) * value
    row = rounded(activated, mlp.dtype.element_ty, exact)
    if hidden > 0:
        beside = attended + batch * attended_batch + token * attended_token + columns
        row = tl.where(columns < hidden, tl.load(beside, mask=columns < hidden, other=0.0).to(tl.float32), row)
    return row


@triton.jit
def _swiglu(
    mlp: tl.tensor,
    attended: tl.tensor,
    mlp_batch: tl.tensor,
    mlp_token: tl.tensor,
    attended_batch: tl.tensor,
    attended_token: tl.tensor,
    out: tl.tensor,
    hidden: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    columns = tl.program_id(2) * block + tl.arange(0, block)
    made = _swiglu_row(
        columns, mlp, attended, mlp_batch, mlp_token, attended_batch, attended_token, hidden, width, exact
    )
    row = out + this_row() * (hidden + width)
    tl.store(row + columns, made.to(out.dtype.element_ty), mask=columns < hidden + width)


@triton.jit
def _swiglu_int8(
    mlp: tl.tensor,
    attended: tl.tensor,
    mlp_batch: tl.tensor,
    mlp_token: tl.tensor,
    attended_batch: tl.tensor,
    attended_token: tl.tensor,
    levels: tl.tensor,
    scales: tl.tensor,
    hidden: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
    stages: tl.constexpr,
    tiny: tl.constexpr,
    reciprocal: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    columns = tl.arange(0, block)
    made = _swiglu_row(
        columns, mlp, attended, mlp_batch, mlp_token, attended_batch, attended_token, hidden, width, exact
    )
    features: tl.constexpr = hidden + width
    store_int8(made, levels, scales, features, block, stages, mlp.dtype.element_ty, tiny, reciprocal, exact)


@triton.jit
def _swiglu_fp8(
    mlp: tl.tensor,
    attended: tl.tensor,
    mlp_batch: tl.tensor,
    mlp_token: tl.tensor,
    attended_batch: tl.tensor,
    attended_token: tl.tensor,
    levels: tl.tensor,
    step: tl.tensor,
    hidden: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
    by_reciprocal: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    columns = tl.program_id(2) * block + tl.arange(0, block)
    made = _swiglu_row(
        columns, mlp, attended, mlp_batch, mlp_token, attended_batch, attended_token, hidden, width, exact
    )
    made = fp8_levels(made, step, mlp.dtype.element_ty, by_reciprocal, exact)
    row = levels + this_row() * (hidden + width)
    tl.store(row + columns, made.to(levels.dtype.element_ty), mask=columns < hidden + width)
