"""What every launch has in common: the checks of its tensors, and options that are never left to a default."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int, exact: bool, **constants: Any) -> None:
    """kernel[grid] on the device of the first argument; nothing where the grid is empty.

    Args:
        constants: of the kernel, and Triton's options.
        exact: of the kernel; False also lets a * b + c become one rounding, for which Triton's versions differ in
            their default.
    """
    if 0 in grid:
        return
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants, exact=exact, num_warps=warps, enable_fp_fusion=not exact)


def block_of(features: int) -> int:
    """How many elements a program holds for that many features: Triton wants a power of two."""
    return int(triton.next_power_of_2(features))


def warps_for(block: int) -> int:
    """Of 16 elements a thread, for up to 16 warps."""
    return min(16, max(1, block // 512))


def check_tensors(op: str, **tensors: Tensor) -> None:
    """All must be of one dtype, of those that are computed in float32, and have features that are neighbours.

    Raises:
        ValueError: a tensor is not so.
    """
    dtype = next(iter(tensors.values())).dtype
    if dtype not in DTYPES:
        raise ValueError(f"{op}: Triton's kernel takes float32, bfloat16 or float16, got {dtype}.")
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            raise ValueError(f"{op}: {name} must be {dtype}, as the first tensor is, got {tensor.dtype}.")
    check_dense(op, **tensors)


def check_dense(op: str, **tensors: Tensor) -> None:
    """Neighbouring features of a tensor must be neighbours in memory.

    Raises:
        ValueError: they are not.
    """
    for name, tensor in tensors.items():
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(f"{op}: the last dimension of {name} must have stride 1, got {tensor.stride(-1)}.")


def batch_stride(tensor: Tensor) -> int:
    """How far the next batch row is; 0 where one row serves all."""
    return tensor.stride(0) if tensor.shape[0] > 1 else 0
