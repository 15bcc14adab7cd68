"""Kept keys and values written where attention reads them, from int8 too; comfy_kitchen has no such copy."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..eager.append_kv import KeyValue
from ..eager.write_kv import PackedKeyValue
from ..shapes import check_appended
from .launch import DTYPES, batch_stride, block_of, check_dense, launch

TOKENS = 32


def write_kv_(key: Tensor, value: Tensor, appended: KeyValue, *, exact: bool = True) -> None:
    """As `eager.write_kv_`.

    Args:
        exact: makes no difference, as it rounds once.

    Raises:
        ValueError: as there; or dtypes differ, or a head's features are not neighbours in memory.
    """
    _write("write_kv_", (key, value), appended, None)


def write_kv_int8_(key: Tensor, value: Tensor, appended: PackedKeyValue, *, exact: bool = True) -> None:
    """As `eager.write_kv_int8_`; exact and errors as of `write_kv_`."""
    _write("write_kv_int8_", (key, value), appended[::2], appended[1::2])


def _write(op: str, targets: KeyValue, sources: KeyValue, scales: KeyValue | None) -> None:
    for target, source in zip(targets, sources, strict=True):
        check_appended(op, target, source)
        _check_dtypes(op, target, source, scales is not None)
        check_dense(op, target=target, appended=source)
    for source, scale in zip(sources, scales or (), strict=scales is not None):
        _check_scale(op, source, scale)
    batch, heads, tokens, head_dim = targets[0].shape
    tensors = *targets, *sources, *(scales or sources)
    strides = [stride for tensor in tensors for stride in (batch_stride(tensor), tensor.stride(1), tensor.stride(2))]
    grid = (triton.cdiv(tokens, TOKENS), heads, batch)
    sizes = {"head_dim": head_dim, "block": block_of(head_dim), "rows": TOKENS, "int8": scales is not None}
    launch(_write_both, grid, *tensors, *strides, tokens, exact=True, warps=4, **sizes)


def _check_dtypes(op: str, target: Tensor, source: Tensor, int8: bool) -> None:
    wanted = torch.int8 if int8 else target.dtype
    if target.dtype not in DTYPES or source.dtype != wanted:
        raise ValueError(f"{op}: expected {wanted} for {target.dtype} keys and values, got {source.dtype}.")


def _check_scale(op: str, levels: Tensor, scale: Tensor) -> None:
    wanted = [*levels.shape[:-1], 1]
    if list(scale.shape) != wanted or scale.dtype != torch.float32:
        raise ValueError(f"{op}: a scale must be float32 {wanted}, got {scale.dtype} {list(scale.shape)}.")


@triton.jit
def _at(
    tensor: tl.tensor, batch_stride: tl.tensor, head_stride: tl.tensor, token_stride: tl.tensor, token: tl.tensor
) -> tl.tensor:
    head, batch = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    return tensor + batch * batch_stride + head * head_stride + token[:, None] * token_stride


@triton.jit
def _write_one(
    target: tl.tensor,
    source: tl.tensor,
    scale: tl.tensor,
    columns: tl.tensor,
    few: tl.tensor,
    inside: tl.tensor,
    int8: tl.constexpr,
) -> None:
    made = tl.load(source + columns, mask=inside)
    if int8:
        made = made.to(tl.float32) * tl.load(scale, mask=few)
    tl.store(target + columns, made.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _write_both(
    key: tl.tensor,
    value: tl.tensor,
    new_key: tl.tensor,
    new_value: tl.tensor,
    key_scale: tl.tensor,
    value_scale: tl.tensor,
    key_batch: tl.tensor,
    key_head: tl.tensor,
    key_token: tl.tensor,
    value_batch: tl.tensor,
    value_head: tl.tensor,
    value_token: tl.tensor,
    new_key_batch: tl.tensor,
    new_key_head: tl.tensor,
    new_key_token: tl.tensor,
    new_value_batch: tl.tensor,
    new_value_head: tl.tensor,
    new_value_token: tl.tensor,
    key_scale_batch: tl.tensor,
    key_scale_head: tl.tensor,
    key_scale_token: tl.tensor,
    value_scale_batch: tl.tensor,
    value_scale_head: tl.tensor,
    value_scale_token: tl.tensor,
    tokens: tl.tensor,
    head_dim: tl.constexpr,
    block: tl.constexpr,
    rows: tl.constexpr,
    int8: tl.constexpr,
    exact: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    columns = tl.arange(0, block)[None, :]
    few = (token < tokens)[:, None]
    inside = few & (columns < head_dim)
    _write_one(
        _at(key, key_batch, key_head, key_token, token),
        _at(new_key, new_key_batch, new_key_head, new_key_token, token),
        _at(key_scale, key_scale_batch, key_scale_head, key_scale_token, token),
        columns, few, inside, int8,
    )  # fmt: skip
    _write_one(
        _at(value, value_batch, value_head, value_token, token),
        _at(new_value, new_value_batch, new_value_head, new_value_token, token),
        _at(value_scale, value_scale_batch, value_scale_head, value_scale_token, token),
        columns, few, inside, int8,
    )  # fmt: skip
