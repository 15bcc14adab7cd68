"""The reference tokens' keys and values, as FLUX.2 [klein] 9B KV was trained to see them.

Reference tokens attend only to reference tokens, at timestep 0, so their keys and values depend on nothing but the
reference latents, their positions and the weights. Same numbers as `Flux2KVAttnProcessor` in diffusers'
transformer_flux2.py and docs/flux2_klein_kv_cache.md in black-forest-labs/flux2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..kernels.eager.append_kv import KeyValue
from .transformer import BlockFunctions, Stream, double_block, finite_, single_block, single_block_keys_values

TIME_CHANNELS = 256


def reference_keys_values(model: Any, tokens: Tensor, ids: Tensor, functions: BlockFunctions) -> Iterator[KeyValue]:
    """Keys (after rotation) and values of all references, one pair a block: first the double blocks, then the single.

    Args:
        model: the diffusion model, with Klein's module names.
        tokens: (1, tokens, channels), every reference's patches in order.
        ids: (1, tokens, axes), their positions.

    Yields:
        contiguous (1, heads, tokens, head_dim) pairs; the next block runs when the next pair is asked for.
    """
    x = model.img_in(tokens)
    vec = model.time_in(_embedding_of_timestep_zero(x))
    pe = model.pe_embedder(ids)
    stream = Stream("img", x, model.double_stream_modulation_img(vec))
    kept: list[KeyValue] = []
    for block in model.double_blocks:
        double_block(block, (stream,), pe, functions, keep=kept.append)
        yield _contiguous(kept.pop())
    finite_(x)
    modulation, _ = model.single_stream_modulation(vec)
    *blocks, last = model.single_blocks
    for block in blocks:
        single_block(block, x, modulation, pe, functions, keep=kept.append)
        yield _contiguous(kept.pop())
    yield _contiguous(single_block_keys_values(last, x, modulation, pe, functions))


def _embedding_of_timestep_zero(like: Tensor) -> Tensor:
    """The sinusoidal embedding of t = 0, (1, 256): cosines of 0, then sines of 0."""
    half = torch.ones(1, TIME_CHANNELS // 2, dtype=like.dtype, device=like.device)
    return torch.cat((half, torch.zeros_like(half)), dim=1)


def _contiguous(pair: KeyValue) -> KeyValue:
    """Values are a view of a whole projection, which must not be kept for their sake."""
    key, value = pair
    return key.contiguous(), value.contiguous()
