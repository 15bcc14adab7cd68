"""The fastest attention of torch that gives a log-sum-exp on a device; `eager.attend` says what is computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention

from .eager import attend as eager
from .eager.attend import Attended

Kernel = Callable[[Tensor, Tensor, Tensor], Attended]

# The widths of a head that torch pads to before it asks its kernels.
WHOLE = 8


def attend(query: Tensor, key: Tensor, value: Tensor) -> Attended:
    """As `eager.attend`; the output's memory lies as the kernel leaves it.

    On a processor its flash attention; on a GPU flash attention, else the memory-efficient one, where torch has it for
    these tensors and nobody has turned it off; the formula everywhere else.
    """
    if query.device.type == "cpu":
        return on_cpu(query, key, value)
    if query.device.type == "cuda" and query.shape[-1] % WHOLE == 0:
        params = SDPAParams(query, key, value, None, 0.0, False, False)
        if can_use_flash_attention(params):
            return natural(flash, query, key, value)
        if can_use_efficient_attention(params):
            return natural(efficient, query, key, value)
    return eager.attend(query, key, value)


def on_cpu(query: Tensor, key: Tensor, value: Tensor) -> Attended:
    """In any floating dtype."""
    return Attended(*torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value))


def flash(query: Tensor, key: Tensor, value: Tensor) -> Attended:
    """In bfloat16 and float16."""
    return Attended(*torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[:2])


def efficient(query: Tensor, key: Tensor, value: Tensor) -> Attended:
    """In bfloat16, float16 and float32; the kernel pads its log-sum-exp to whole blocks of queries."""
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)
    return Attended(output, lse[..., : query.shape[2]])


def natural(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Attended:
    """What a kernel gives, its log-sum-exp by the natural logarithm: AMD's have it to base 2 before torch 2.8.

    See https://github.com/pytorch/pytorch/issues/156012.
    """
    found = kernel(query, key, value)
    if torch.version.hip is None:
        return found
    return Attended(found.output, found.lse * _unit(kernel, query.device, query.dtype))


@cache
def _unit(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> float:
    """The natural log-sum-exp in units of the kernel's, seen where all logits are 0."""
    zeros = torch.zeros(1, 1, 64, 64, device=device, dtype=dtype)
    return math.log(zeros.shape[2]) / float(kernel(zeros, zeros, zeros).lse[0, 0, 0])
